"""The analysis of a merged study: the primary endpoint first, all else exploratory.

    from SynthDiffusionLib.reader_study.merge import merge
    from SynthDiffusionLib.reader_study.analysis import analyse

    result = analyse(merge(Path("my-study")))

The result is plain JSON: sections with sentences, tables and data of plots; `report` draws it. The same data give the
same result: what is drawn at random (permutations, bootstrap) has a fixed seed, and no time of the analysis is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.reader_study.merge import Merged
from SynthDiffusionLib.reader_study.selection import Data, cases_text, refused
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reports.sections import Section, Table, columns, counted, listing, plain

FORMAT = "synthdiffusion-study-analysis-1"
NEEDED = ("numpy", "scipy", "statsmodels", "matplotlib")


def analyse(merged: Merged, study: Study | None = None) -> dict[str, Any]:
    """Everything that the study's data can say.

    Args:
        merged: of `merge.merge`.
        study: default: that of `merged`.

    Returns:
        {"format", "study", "software", "merge", "sections": [`Section.to_json`]}. What could not be calculated is there
        as a sentence with the reason.

    Raises:
        MissingExtra: scipy or statsmodels is not installed.
        BadInput: there is no answer at all.
    """
    from SynthDiffusionLib.reader_study.analysis_agreement import agreement_section, repeatability_section
    from SynthDiffusionLib.reader_study.analysis_course import (
        comments_section,
        course_section,
        marks_section,
        times_section,
    )
    from SynthDiffusionLib.reader_study.analysis_generators import generators_section
    from SynthDiffusionLib.reader_study.analysis_likert import likert_section
    from SynthDiffusionLib.reader_study.analysis_primary import primary_section
    from SynthDiffusionLib.reader_study.analysis_turing import forced_choice_section, turing_section

    software = versions()
    study = study or merged.study
    data = Data(study, tuple(merged.ratings), tuple(merged.problems))
    if not data.first:
        raise BadInput(
            "There is no answer outside of training to analyse", "Let the readers read, then run study merge again."
        )
    primary = primary_section(data)
    statement, *answer = primary.sentences
    primary = replace(primary, sentences=(statement, *departures(merged), *answer))
    sections = [primary, data_section(data, merged)]
    makers: tuple[tuple[str, Callable[[Data], Section | None]], ...] = (
        ("turing", turing_section),
        ("forced_choice", forced_choice_section),
        ("generators", generators_section),
        ("likert", likert_section),
        ("agreement", agreement_section),
        ("repeatability", repeatability_section),
        ("times", times_section),
        ("course", course_section),
        ("marks", marks_section),
        ("comments", comments_section),
    )
    for name, make in makers:
        try:
            section = make(data)
        except BadInput as error:  # one question that cannot be answered does not take the others with it
            section = Section(name, name.replace("_", " ").capitalize(), "exploratory", (refused(error),))
        except (ArithmeticError, ValueError) as error:  # nor the primary endpoint
            text = f"This part could not be calculated: {error}. Please report it as a fault of SynthDiffusion."
            section = Section(name, name.replace("_", " ").capitalize(), "exploratory", (text,))
        if section is not None:
            sections.append(section)
    return {
        "format": FORMAT,
        "study": {
            "id": study.id,
            "title": study.title,
            "description": study.data.get("description", ""),
            "sha256": study.sha256,
            "created_utc": study.data.get("created_utc", ""),
            "primary": plain(study.primary),
        },
        "software": software,
        "merge": merged.to_json(),
        "sections": [section.to_json() for section in sections],
    }


def departures(merged: Merged) -> list[str]:
    """What of the planned readers and readings is not in the analysis: it belongs beside the primary result."""
    sentences = []
    analysed = len(merged.readers)
    everybody = analysed + len(merged.excluded) + len(merged.absent)
    if everybody > analysed:
        planned = everybody - len(merged.added)
        added = f", {len(merged.added)} added later" if merged.added else ""
        text = f"Departure from the study: {counted(planned, 'reader')} were planned{added}, {analysed} analysed."
        if merged.excluded:
            left_out = listing(f"{reader} ({why})" for reader, why in sorted(merged.excluded.items()))
            text += f" Left out when the answers were joined with the key: {left_out}; report the result with them too."
        if merged.absent:
            text += f" Without a record: {listing(sorted(merged.absent))}."
        sentences.append(text)
    if merged.missing:
        whole = sum(r.expected for r in merged.readers) + sum(merged.absent.values())
        sentences.append(
            f"This is an interim analysis: {len(merged.missing)} of {counted(whole, 'planned reading')} (training and "
            f"repeats included) {'is' if len(merged.missing) == 1 else 'are'} missing. Whoever "
            "looks at interim results and goes on or stops by them has a larger chance of a false positive than alpha."
        )
    return [*sentences, *merged.departures]


def versions() -> dict[str, str]:
    """What calculates, with versions.

    Raises:
        MissingExtra: something is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    from SynthDiffusionLib import __version__

    try:
        return {"SynthDiffusion": __version__, **{name: version(name) for name in NEEDED}}
    except PackageNotFoundError as error:
        raise MissingExtra(f"The analysis of a reader study ('{error.name}')", "study") from error


def data_section(data: Data, merged: Merged) -> Section:
    """What there is: readers, cases, missing answers, and everything that merging said."""
    first = data.first
    units = {(r.task, r.unit): r.arm for r in first}
    sentences = [
        f"{counted(len(data.readers), 'reader')} gave "
        f"{counted(len({(r.reader, r.position) for r in first}), 'first reading')} "
        f"of {cases_text(data)} outside of training."
    ]
    training = {(r.reader, r.position) for r in data.ratings if r.phase == "training"}
    repeats = {(r.reader, r.position) for r in data.ratings if r.phase == "main" and r.presentation == 2}
    sentences.append(
        f"{counted(len(training), 'training reading')} and {counted(len(repeats), 'hidden repeat')} are left out of "
        "all "
        "analyses but repeatability, which takes the repeats."
    )
    changed = {(r.reader, r.position) for r in data.ratings if r.changed}
    if changed:
        sentences.append(
            f"{counted(len(changed), 'reading')} had an answer changed afterwards; the last answer counts, the first "
            "is kept "
            "in the long table."
        )
    missing = [m for m in merged.missing if m["phase"] == "main"]
    if missing:
        sentences.append(
            f"{counted(len(missing), 'reading')} of the orders of all readers {'is' if len(missing) == 1 else 'are'} "
            "missing. "
            "Nothing is "
            "filled in: analyses over several readers leave out a case that not every reader answered (or are "
            "refused if "
            "half of the cases would go), analyses of one reader take what there is."
        )
    else:
        sentences.append("No reading of the analysed readers is missing.")
    sentences += merged.problems
    reader_columns = columns(
        "reader|Reader", "state|State", "experience|Experience", "answered|Answered|int", "expected|Planned|int",
        "changes|Changes|int",
        "sittings|Sittings|int", "first_utc|First record (UTC)", "last_utc|Last record (UTC)", "records|Records|int",
        "software|Read with",
    )  # fmt: skip
    readers: list[dict[str, Any]] = [
        {**r.to_json(), "state": "analysed", "software": listing(r.software)} for r in merged.readers
    ]
    readers += [{"reader": r, "state": f"left out: {why}"} for r, why in merged.excluded.items()]
    readers += [{"reader": r, "state": "no record", "answered": 0, "expected": n} for r, n in merged.absent.items()]
    arms: list[dict[str, Any]] = []
    for task, arm in sorted({(task, arm) for (task, _), arm in units.items()}):
        row = {"task": task, "arm": arm, "units": sum(t == task and a == arm for (t, _), a in units.items())}
        arms.append({**row, "kind": "real" if arm in data.reals else "synthetic"})
    items = []
    for task in data.study.tasks.values():
        readings = {(r.reader, r.position) for r in first if r.task == task.id}
        for item in task.form.items:
            answers = [r for r in first if r.task == task.id and r.item == item.id]
            if item.type != "info" and item.per != "study" and readings:
                row = {"task": task.id, "item": item.id, "text": item.text, "type": item.type}
                row |= {"required": item.required, "answers": len(answers), "readings": len(readings)}
                items.append({**row, "without": len(readings) - len(answers)})
    tables = (
        Table("readers", "Readers", reader_columns, tuple(readers)),
        Table("arms", "Cases", columns("task|Task", "arm|Arm", "kind|Kind", "units|Cases|int"), tuple(arms)),
        Table("items", "Answers to each question", columns(
            "task|Task", "item|Question", "text|Text", "type|Type", "required|Required|yes", "answers|Answers|int",
            "readings|Readings|int", "without|Readings without|int"), tuple(items),
            "First readings. A question that was not shown (its condition did not hold) has no answer either."),
        Table("missing", "Missing readings", columns(
            "reader|Reader", "position|Position|int", "session|Session", "task|Task",
            "presentation|Presentation|int", "phase|Phase"), tuple(merged.missing),
            "Which volumes these are is not told: who has not finished may still read them."),
    )  # fmt: skip
    return Section("data", "Data", "data", tuple(sentences), tuple(t for t in tables if t.rows))
