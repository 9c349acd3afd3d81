"""The design of a reader study: a JSON file with a shipped schema, read, completed with defaults, and checked.

`load_design` reads one; `design_from_folders` makes one for the common case, a folder of real and one of synthetic
volumes. What can be found wrong without reading voxels is found here, before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.reader_study.design_cases import (
    Arm,
    StudyCase,
    check_sources,
    collect_cases,
    resolved,
    with_phases,
)
from SynthDiffusionLib.reader_study.design_checks import (
    check_layout,
    check_primary,
    check_sessions,
    check_tasks,
    completed_primary,
)
from SynthDiffusionLib.reader_study.forms import Form, load_form, shipped_forms
from SynthDiffusionLib.reader_study.study import safe_name

FORMAT = "synthdiffusion-study-design-1"
OUTPUT_SUFFIX = "_*_seed*"  # of what `synthdiffusion generate` writes: <case>_<model>_seed<N>
_MAIN_ITEM = {
    "volume-appearance-3d": "realistic_appearance",
    "image-quality": "acceptability",
    "mask-adherence": "location",
}
VIEWING: dict[str, Any] = {
    "layout": "three_planes",
    "windows": [],
    "window_locked": False,
    "start_slice": "middle",
    "back": "none",
    "idle_cap_s": 60,
    "min_view_s": 0,
    "show_position": True,
}
BLINDING: dict[str, Any] = {
    "spacing_mm": "common",
    "size": "common",
    "intensity": "common",
    "step": 1,
    "dtype": "int16",
}


@dataclass(frozen=True)
class TaskDesign:
    """A way of reading.

    Args:
        id: unique in the study.
        kind: "single" or "forced_choice".
        form: what is asked.
        show_mask: whether the mask is drawn over the volume.
        arms: only volumes of these arms; in a forced choice, of the synthetic volume. Empty: of all.
    """

    id: str
    kind: str
    form: Form
    show_mask: bool = False
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Design:
    """A design, complete and checked.

    Args:
        title, description: readers see both.
        seed: of the study.
        readers: [{"id", "experience"?}].
        arms, cases, tasks: see there.
        sessions, randomisation, blinding, viewing, primary: as in the schema, with all defaults filled in.
        notes: sentences for the coordinator: what was left out, and why.
        raw: as given, with absolute paths.
    """

    title: str
    description: str
    seed: int
    readers: tuple[dict[str, Any], ...]
    arms: tuple[Arm, ...]
    cases: tuple[StudyCase, ...]
    tasks: tuple[TaskDesign, ...]
    sessions: tuple[dict[str, Any], ...]
    randomisation: Mapping[str, Any]
    blinding: Mapping[str, Any]
    viewing: Mapping[str, Any]
    primary: Mapping[str, Any]
    notes: tuple[str, ...]
    raw: Mapping[str, Any]

    def arm(self, arm_id: str) -> Arm:
        return next(a for a in self.arms if a.id == arm_id)

    def task_cases(self, task: TaskDesign) -> list[StudyCase]:
        """Cases that a single task shows."""
        return [c for c in self.cases if not task.arms or c.arm in task.arms]

    def task_pairs(self, task: TaskDesign) -> list[tuple[StudyCase, StudyCase]]:
        """(real, synthetic) volumes that a forced choice sets side by side: those of one pair and phase."""
        real: dict[tuple[str, str], StudyCase] = {}
        for case in self.cases:
            if case.truth == 0:
                real.setdefault((case.pair, case.phase), case)
        return [
            (real[c.pair, c.phase], c)
            for c in self.cases
            if c.truth == 1 and (not task.arms or c.arm in task.arms) and (c.pair, c.phase) in real
        ]


def load_design(path: str | Path) -> Design:
    """Reads a design.

    Args:
        path: JSON file; the paths in it are relative to its folder.

    Raises:
        BadInput: unreadable, not as the schema says, or a study that cannot be.
    """
    from SynthDiffusionLib.schemas import read_json

    path = resolved(Path.cwd(), str(path))
    try:
        data = read_json(path)
    except OSError as error:
        raise BadInput(
            f"The design '{shortened(path)}' cannot be read ({error.strerror})", "Check the path."
        ) from error
    except ValueError as error:
        raise BadInput(f"The design '{shortened(path)}' is damaged: {error}", "Mend the file.") from error
    return design_from_json(data, path.resolve().parent)


def design_from_json(data: Any, base: Path) -> Design:
    """As `load_design`, of parsed JSON.

    Args:
        data: the content of a design file.
        base: folder that its paths are relative to.

    Raises:
        BadInput: as `load_design`.
    """
    from SynthDiffusionLib.schemas import first_problem, unusable

    problem = unusable(data) or first_problem(data, "study-design")
    if problem is not None:
        raise BadInput(f"The design: {problem}", "Docs/READER_STUDIES.md shows one.")
    data = _absolute(data, base)
    arms = tuple(_arm(entry) for entry in data["arms"])
    _unique([a.id for a in arms], "arms")
    readers = tuple({"id": r} if isinstance(r, str) else dict(r) for r in data["readers"])
    _unique([r["id"] for r in readers], "readers")
    tasks = tuple(_task(entry, base) for entry in data["tasks"])
    _unique([t.id for t in tasks], "tasks")
    sessions = data.get("sessions") or [{"id": "s1", "tasks": [t.id for t in tasks]}]
    _unique([s["id"] for s in sessions], "sessions")
    patients = Path(data["patients"]) if "patients" in data else None
    cases, notes = collect_cases(arms, data.get("cases", []), patients, base)
    check_sources(cases)
    kept, left_out = with_phases(cases, data.get("training_cases", 0), data["seed"])
    notes += left_out
    from SynthDiffusionLib.reader_study.order import DEFAULTS

    primary = completed_primary(data["primary"], tasks, arms)
    design = Design(
        data["title"],
        data.get("description", ""),
        data["seed"],
        readers,
        arms,
        tuple(kept),
        tasks,
        tuple({"min_days_after_previous": 0, **s} for s in sessions),
        {**DEFAULTS, "repeat_min_distance": _distance(kept, tasks), **data.get("randomisation", {})},
        {**BLINDING, **data.get("blinding", {})},
        {**VIEWING, **data.get("viewing", {})},
        primary,
        (),
        data,
    )
    check_primary(primary, tasks, arms)
    notes += check_tasks(design)
    notes += check_layout(design)
    notes += check_sessions(design)
    return Design(**{**vars(design), "notes": tuple(notes)})


def design_from_folders(
    real: str | Path,
    synthetic: str | Path | Mapping[str, str | Path],
    *,
    title: str = "Real or synthetic?",
    readers: Sequence[str] = ("R1",),
    form: str = "turing",
    seed: int = 1,
    training_cases: int = 0,
    repeats: float = 0.0,
    patients: str | Path | None = None,
    masks: str | Path | None = None,
    suffix: str | None = OUTPUT_SUFFIX,
    equivalence_margin: float | None = None,
    viewing: Mapping[str, Any] | None = None,
    blinding: Mapping[str, Any] | None = None,
) -> Design:
    """The common study: a folder of real and one or more of synthetic volumes, one task.

    Args:
        real: folder.
        synthetic: folder, or folders by the id of their arm.
        title: readers see it.
        readers: their ids.
        form: name of a shipped form, or a file; one that asks which of two is synthetic shows pairs, "mask-adherence"
            the masks.
        seed: of the study.
        training_cases: of each arm.
        repeats: fraction that is read twice.
        patients: CSV with the columns file and patient.
        masks: folder of segmentations that all arms share.
        suffix: glob that is taken off synthetic files' stems to find their pair.
        equivalence_margin: test equivalence with chance, or of ratings, within this margin, instead of a difference. Of
            a form that asks for confidence it is then the area under the ROC curve that is tested, not the accuracy.
        viewing, blinding: as in a design file.

    Returns:
        the design; `raw` is what a design file of it would hold.

    Raises:
        BadInput: as `load_design`.
    """
    folders = synthetic if isinstance(synthetic, Mapping) else {"synthetic": synthetic}
    shared = {} if masks is None else {"masks": str(masks)}
    arms: list[dict[str, Any]] = [{"id": "real", "truth": "real", "images": str(real), **shared}]
    for arm, folder in folders.items():
        entry = {"id": arm, "truth": "synthetic", "images": str(folder), **shared}
        arms.append({**entry, "suffix": suffix} if suffix else entry)
    shipped = shipped_forms()
    types = {i.type for i in load_form(shipped.get(form, Path(form))).items if i.required and i.show_if is None}
    kind = "forced_choice" if "forced_choice" in types else "single"
    first = next(iter(folders))
    measure = "likert_difference"
    if kind == "forced_choice":
        measure = "forced_choice"
    elif "confidence" in types:
        measure = "accuracy"
    primary: dict[str, Any] = {"measure": measure, "task": "reading", "arm": first}
    if measure == "likert_difference":
        primary["arm2"] = "real"
        if form in _MAIN_ITEM:
            primary["item"] = _MAIN_ITEM[form]
    if equivalence_margin is not None:
        if measure == "accuracy":  # which hangs on how often volumes are called real
            primary["measure"] = "auc"
        primary |= {"test": "equivalence", "margin": equivalence_margin}
    data: dict[str, Any] = {
        "format": FORMAT,
        "title": title,
        "seed": seed,
        "readers": list(readers),
        "arms": arms,
        "training_cases": training_cases,
        "tasks": [{"id": "reading", "kind": kind, "form": form, "show_mask": form == "mask-adherence"}],
        "randomisation": {"repeats": repeats},
        "primary": primary,
    }
    if patients is not None:
        data["patients"] = str(patients)
    if viewing is not None:
        data["viewing"] = dict(viewing)
    if blinding is not None:
        data["blinding"] = dict(blinding)
    return design_from_json(data, Path.cwd())


def _distance(cases: Sequence[StudyCase], tasks: Sequence[TaskDesign]) -> int:
    """Presentations between a case and its repeat where the design does not say: 10, or fewer in a small study."""
    main = [c for c in cases if c.phase == "main"]
    fewest = min(
        sum(not t.arms or c.arm in t.arms for c in main) // (2 if t.kind == "forced_choice" else 1) for t in tasks
    )
    return max(1, min(10, fewest // 3))


def _absolute(data: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The design with absolute paths, so that it can be kept elsewhere."""
    data = dict(data)
    arms = []
    for entry in data["arms"]:
        entry = dict(entry)
        for key in ("images", "masks"):
            if key in entry:
                entry[key] = str(resolved(base, entry[key]))
        if "generate" in entry:
            segmentations = str(resolved(base, entry["generate"]["segmentations"]))
            entry["generate"] = {**entry["generate"], "segmentations": segmentations}
        arms.append(entry)
    data["arms"] = arms
    if "patients" in data:
        data["patients"] = str(resolved(base, data["patients"]))
    if "cases" in data:
        data["cases"] = [
            {k: str(resolved(base, v)) if k in ("image", "mask") else v for k, v in case.items()}
            for case in data["cases"]
        ]
    tasks = []
    for entry in data["tasks"]:
        form = entry["form"]
        if isinstance(form, str) and form not in shipped_forms():
            entry = {**entry, "form": str(resolved(base, form))}
        tasks.append(entry)
    data["tasks"] = tasks
    return data


def _arm(entry: Mapping[str, Any]) -> Arm:
    generate = entry.get("generate")
    if generate is not None and "images" in entry:
        raise BadInput(f"The arm '{entry['id']}' has 'images' and 'generate'", "Give one of them.")
    if generate is not None and entry["truth"] == "real":
        raise BadInput(f"The arm '{entry['id']}' is generated, but called real", 'Its truth is "synthetic".')
    return Arm(
        entry["id"],
        entry["truth"],
        Path(entry["images"]) if "images" in entry else None,
        Path(entry["masks"]) if "masks" in entry else None,
        entry.get("suffix"),
        entry.get("model") or (generate or {}).get("model"),
        generate,
    )


def _task(entry: Mapping[str, Any], base: Path) -> TaskDesign:
    return TaskDesign(
        entry["id"],
        entry["kind"],
        _form(entry["form"], base),
        entry.get("show_mask", False),
        tuple(entry.get("arms", ())),
    )


def _form(given: str | Mapping[str, Any], base: Path) -> Form:
    if isinstance(given, Mapping):
        return Form.from_json(given)
    shipped = shipped_forms()
    if given in shipped:
        return load_form(shipped[given])
    path = resolved(base, given)
    if not path.is_file():
        from SynthDiffusionLib.schemas import closest

        near = closest(Path(given).name, shipped)
        hint = f"Did you mean '{near}'? " if near else ""
        raise BadInput(
            f"The form '{shortened(given)}' does not exist",
            f"{hint}Give the path of one, or one of {', '.join(shipped)}.",
        )
    return load_form(path)


def _unique(names: Sequence[str], what: str) -> None:
    for name in names:
        if not safe_name(name):
            raise BadInput(
                f"'{shortened(name)}' cannot be a name among the {what}",
                "Use up to 40 letters without accents, digits, - and _: names become parts of file names.",
            )
    folded = [name.casefold() for name in names]
    for name, plain in zip(names, folded):
        if folded.count(plain) > 1:
            raise BadInput(f"'{name}' is there twice among the {what}", "Give each a name of its own.")
