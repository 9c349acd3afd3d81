"""What a design must fulfil beyond its schema: tasks that can be shown, orders that exist, a primary endpoint that can
be calculated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.reader_study.design_cases import Arm
from SynthDiffusionLib.reader_study.study import MEASURE_TYPES

if TYPE_CHECKING:
    from SynthDiffusionLib.reader_study.design import Design, TaskDesign

PROPORTIONS = ("accuracy", "auc", "forced_choice")


def completed_primary(given: Mapping[str, Any], tasks: Sequence[TaskDesign], arms: Sequence[Arm]) -> dict[str, Any]:
    """The primary endpoint with what follows from the rest of the design filled in: the only task, question or arm."""
    primary = dict(given)
    measure = primary["measure"]
    kind = "forced_choice" if measure == "forced_choice" else "single"
    if "task" not in primary:
        fitting = [t for t in tasks if t.kind == kind and _fitting(t, measure)]
        if len(fitting) != 1:
            raise BadInput(
                f"The primary endpoint '{measure}' names no task, and {len(fitting)} tasks fit it",
                "Name it as 'task' under 'primary'.",
            )
        primary["task"] = fitting[0].id
    task = next((t for t in tasks if t.id == primary["task"]), None)
    if "item" not in primary and task is not None:
        items = _fitting(task, measure)
        preferred = [i for i in items if i.type == MEASURE_TYPES[measure][0]] or items
        if len(preferred) != 1:
            raise BadInput(
                f"The primary endpoint '{measure}' names no question, and {len(preferred)} of the task '{task.id}' "
                "fit it",
                "Name it as 'item' under 'primary'.",
            )
        primary["item"] = preferred[0].id
    synthetic = [a.id for a in arms if a.is_synthetic]
    if "arm" not in primary and len(synthetic) == 1:
        primary["arm"] = synthetic[0]
    if measure == "likert_difference" and "arm2" not in primary:
        real = [a.id for a in arms if not a.is_synthetic]
        if len(real) == 1:
            primary["arm2"] = real[0]
    defaults = {
        "test": "difference",
        "null": 0.5 if measure in PROPORTIONS else 0.0,
        "alpha": 0.05,
        "readers": "random",
        "cases": "random",
    }
    if measure in ("auc", "mrmc_auc_difference"):
        defaults["covariance"] = "delong"
    return {**defaults, **primary}


def check_primary(primary: Mapping[str, Any], tasks: Sequence[TaskDesign], arms: Sequence[Arm]) -> None:
    """Refuses a primary endpoint that cannot be calculated.

    Raises:
        BadInput: says which part of it.
    """
    measure = primary["measure"]
    task = next((t for t in tasks if t.id == primary["task"]), None)
    if task is None:
        raise _primary(f"names the task '{shortened(primary['task'])}', which the design does not have", _listed(tasks))
    wanted = "forced_choice" if measure == "forced_choice" else "single"
    if task.kind != wanted:
        raise _primary(f"'{measure}' needs a task of the kind '{wanted}', and '{task.id}' is '{task.kind}'")
    if not task.form.has(primary["item"]):
        names = ", ".join(item.id for item in task.form.items)
        raise _primary(
            f"names the question '{shortened(primary['item'])}', which the task '{task.id}' does not ask",
            f"It asks {shortened(names, 200)}.",
        )
    item = task.form.item(primary["item"])
    if item.type not in MEASURE_TYPES[measure]:
        raise _primary(
            f"'{measure}' needs a question of the type {' or '.join(MEASURE_TYPES[measure])}, and '{item.id}' is "
            f"'{item.type}'"
        )
    if not item.required or item.show_if is not None:
        raise _primary(
            f"rests on the question '{item.id}', which can be left open", "Make it required, without 'show_if'."
        )
    by_id = {a.id: a for a in arms}
    for key in ("arm", "arm2"):
        if key in primary and primary[key] not in by_id:
            raise _primary(f"names the arm '{primary[key]}', which the design does not have", ", ".join(by_id))
    if "arm" not in primary:
        raise _primary("does not say which arm it is about", "Name a synthetic one as 'arm'.")
    if not by_id[primary["arm"]].is_synthetic:
        raise _primary(f"is about the arm '{primary['arm']}', which is real", "Name a synthetic one as 'arm'.")
    if measure in ("mrmc_auc_difference", "likert_difference"):
        if "arm2" not in primary:
            raise _primary(f"'{measure}' compares two arms", "Name the other as 'arm2'.")
        if primary["arm2"] == primary["arm"]:
            raise _primary(f"compares '{primary['arm']}' with itself", "Name another arm as 'arm2'.")
        if measure == "mrmc_auc_difference" and not by_id[primary["arm2"]].is_synthetic:
            raise _primary("compares the AUC of two generators, and 'arm2' is real", "Name a synthetic arm.")
    elif "arm2" in primary:
        raise _primary(f"'{measure}' is about one arm", "Leave 'arm2' out.")
    if task.arms and primary["arm"] not in task.arms:
        raise _primary(f"is about the arm '{primary['arm']}', which the task '{task.id}' does not show")
    if measure != "likert_difference" and not any(not a.is_synthetic for a in arms):
        raise _primary(f"'{measure}' needs real volumes, and no arm is real")
    _check_test(primary, measure)
    margin, span = primary.get("margin"), _span(item)
    if measure == "likert_difference" and margin is not None and span is not None and not margin < span:
        raise _primary(
            f"has the margin {margin:g}, and answers to '{item.id}' are {span:g} apart at most: any two kinds of "
            "volumes would be equivalent",
            "Give a margin in steps of the scale, such as 0.5.",
        )


def check_tasks(design: Design) -> list[str]:
    """Refuses tasks that have nothing to show; returns notes on cases that a task leaves out.

    Raises:
        BadInput: no cases or pairs, a missing mask, a question that does not fit the kind of the task.
    """
    notes: list[str] = []
    known = {a.id for a in design.arms}
    patients = [c.patient for c in design.cases if c.phase == "main"]
    if design.primary.get("covariance") == "unbiased" and len(set(patients)) < len(patients):
        raise BadInput(
            "The primary endpoint asks for the covariance 'unbiased', which cannot take a patient's volumes together",
            'Give "covariance": "delong" or "jackknife", or one volume of each patient.',
        )
    pairs = [{c.pair for c in design.cases if c.truth == truth} for truth in (0, 1)]
    if all(pairs) and not pairs[0] & pairs[1]:
        notes.append(
            f"No real and synthetic volume have one name (such as '{min(pairs[0])}' and '{min(pairs[1])}'): each is "
            "taken for a patient of its own. If synthetic ones were made from masks of these patients, give the arm a "
            "'suffix' or a CSV of 'patients'."
        )
    for task in design.tasks:
        if unknown := [a for a in task.arms if a not in known]:
            raise BadInput(
                f"The task '{task.id}' names the arm '{unknown[0]}', which the design does not have",
                f"Arms are {', '.join(sorted(known))}.",
            )
        types = {item.type for item in task.form.items}
        if "forced_choice" in types and task.kind != "forced_choice":
            raise BadInput(
                f"The form of the task '{task.id}' asks to choose between two volumes, but it shows one",
                'Give the task the kind "forced_choice".',
            )
        if "forced_choice" not in types and task.kind == "forced_choice":
            raise BadInput(
                f"The task '{task.id}' shows two volumes, but its form does not ask to choose between them",
                'Give it a form with a question of the type "forced_choice", or the kind "single".',
            )
        cases = design.task_cases(task)
        if task.kind == "forced_choice":
            notes += _check_pairs(design, task)
            cases = [case for pair in design.task_pairs(task) for case in pair]
        elif "confidence" in types and {c.truth for c in cases} != {0, 1}:
            raise BadInput(
                f"The task '{task.id}' asks whether a volume is real, but all of its volumes are of one kind",
                "Give it a real and a synthetic arm.",
            )
        if not any(c.phase == "main" for c in cases):
            raise BadInput(f"The task '{task.id}' has no cases to show", "Name arms that have some.")
        if task.show_mask:
            without = [c for c in cases if c.mask is None]
            if without:
                raise BadInput(
                    f"The task '{task.id}' shows masks, and '{without[0].name}' in the arm '{without[0].arm}' has none"
                    + (f" ({len(without)} cases)" if len(without) > 1 else ""),
                    "Give the arm a folder of 'masks' with the names of its images, or leave show_mask out.",
                )
    if design.viewing["start_slice"] == "mask" and not all(t.show_mask for t in design.tasks):
        raise BadInput(
            "The views are to start at the mask, but not every task shows one",
            'Set "start_slice" to "middle": a slice chosen by a hidden mask gives the place of the finding away.',
        )
    return notes


def check_layout(design: Design) -> list[str]:
    """Refuses a layout that no task is shown in; returns notes on tasks that are not shown in it.

    Pairs are always shown side by side, in axial slices; single volumes in three planes, or axial if that is asked.

    Raises:
        BadInput: "side_by_side" without pairs.
    """
    layout = design.raw.get("viewing", {}).get("layout")  # only what was asked for: the default fits both kinds
    single = [t.id for t in design.tasks if t.kind == "single"]
    pairs = [t.id for t in design.tasks if t.kind == "forced_choice"]
    if layout == "side_by_side" and not pairs:
        raise BadInput(
            "The layout 'side_by_side' is for pairs, and no task shows pairs",
            'Give "layout": "three_planes" or "axial" under "viewing", or leave it out.',
        )
    if layout == "side_by_side" and single:
        return [f"The layout 'side_by_side' is for pairs: the task '{t}' is shown in three planes." for t in single]
    if layout in ("three_planes", "axial"):
        return [f"The layout '{layout}' is for single volumes: the task '{t}' is shown side by side." for t in pairs]
    return []


def check_sessions(design: Design) -> list[str]:
    """Refuses sessions that do not fit the tasks, and rules of order that cannot be kept, by making every order once.

    Raises:
        BadInput: an unknown task, one that is in no session, an order that does not exist.
    """
    from SynthDiffusionLib.reader_study.order import realise_order
    from SynthDiffusionLib.reader_study.study import Unit

    known = {t.id for t in design.tasks}
    listed = [name for session in design.sessions for name in session["tasks"]]
    for name in listed:
        if name not in known:
            raise BadInput(f"A session names the task '{name}', which the design does not have", _listed(design.tasks))
    if missing := sorted(known - set(listed)):
        raise BadInput(f"The task '{missing[0]}' is in no session", "List it under 'sessions', or remove it.")
    movable = len(listed) == len(set(listed)) and not any(s.get("repeats_only") for s in design.sessions)
    if design.randomisation["session_order"] == "latin_square" and not movable:
        raise BadInput(
            "The sessions cannot change places: a task is in two of them, or one holds repeats only",
            'Set "session_order" to "fixed".',
        )
    units, arms, synthetic = [], {}, {}
    for task in design.tasks:
        if task.kind == "forced_choice":
            shown = [(b, (f"{i}a", f"{i}b"), b.arm) for i, (_, b) in enumerate(design.task_pairs(task))]
        else:
            shown = [(c, (f"{i}",), c.arm) for i, c in enumerate(design.task_cases(task))]
        for i, (case, volumes, arm) in enumerate(shown):
            unit = Unit(f"{task.id} {i}", task.id, case.phase, volumes)
            units.append(unit)
            arms[unit.id], synthetic[unit.id] = arm, volumes[-1]
    tasks: dict[str, Any] = {t.id: t for t in design.tasks}
    for index in range(max(2, len(design.readers))):
        realise_order(units, tasks, design.sessions, design.randomisation, design.seed, index, arms, synthetic)
    return []


def _check_pairs(design: Design, task: TaskDesign) -> list[str]:
    pairs = design.task_pairs(task)
    if not any(real.phase == "main" for real, _ in pairs):
        names = {t: next((c.pair for c in design.cases if c.truth == t), "none") for t in (0, 1)}
        raise BadInput(
            f"The task '{task.id}' shows pairs, but no real and synthetic volume have one name "
            f"(such as '{names[0]}' and '{names[1]}')",
            "Give the synthetic arm a \"suffix\", the part of its file names that the real ones lack, or list 'cases'.",
        )
    shown = {id(case) for pair in pairs for case in pair}
    alone = [c for c in design.cases if id(c) not in shown and (c.truth == 0 or not task.arms or c.arm in task.arms)]
    if not alone:
        return []
    names = ", ".join(f"{c.name} ({c.arm})" for c in alone[:3]) + ("" if len(alone) <= 3 else ", ...")
    return [f"{len(alone)} cases have no partner and are not shown in the task '{task.id}': {names}."]


def _fitting(task: TaskDesign, measure: str) -> list[Any]:
    return [i for i in task.form.items if i.type in MEASURE_TYPES[measure] and i.required and i.show_if is None]


def _span(item: Any) -> float | None:
    """From the lowest to the highest answer of a scale; None where it has no ends."""
    values = [option.value for option in item.options] or [item.min, item.max]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return max(numbers) - min(numbers) if len(numbers) == len(values) else None


def _check_test(primary: Mapping[str, Any], measure: str) -> None:
    margin, null = primary.get("margin"), primary["null"]
    if measure in PROPORTIONS and not 0 < null < 1:
        raise _primary(f"compares '{measure}' with {null:g}", "Give a 'null' between 0 and 1; 0.5 is chance.")
    if primary["test"] == "difference":
        if margin is not None:
            raise _primary("has a margin, but tests for a difference", 'Set "test" to "equivalence", or leave it out.')
        return
    if margin is None:
        raise _primary(
            "tests equivalence without a margin",
            "Give as 'margin' the largest deviation that would not matter, fixed before reading.",
        )
    if measure in PROPORTIONS and not (0 < null - margin and null + margin < 1):
        raise _primary(f"has the margin {margin:g} around {null:g}, which leaves the range from 0 to 1")


def _primary(what: str, hint: str = "Change 'primary' in the design.") -> BadInput:
    return BadInput(f"The primary endpoint {what}", hint)


def _listed(tasks: Sequence[TaskDesign]) -> str:
    return f"Tasks are {', '.join(t.id for t in tasks)}."
