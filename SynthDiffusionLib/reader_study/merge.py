"""From the readers' records and the key to one long table. This unblinds: it is logged in the coordinator's record.

Every record is verified first (`verify`), against its head file and the receipts that the coordinator holds. A damaged
one is refused, unless the reader is excluded by name, which the report then says. Nothing is filled in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import AnyClock, read_chain
from SynthDiffusionLib.reader_study.coordinator import COORDINATOR, Journal, order_problems, read_journal, study_problem
from SynthDiffusionLib.reader_study.history import Finding, Given, History
from SynthDiffusionLib.reader_study.merge_sources import Source, find_sources
from SynthDiffusionLib.reader_study.receipts import Receipt, receipts_in
from SynthDiffusionLib.reader_study.records import RecordFile
from SynthDiffusionLib.reader_study.study import KEY_FORMAT, PRIVATE, Presentation, Study
from SynthDiffusionLib.reader_study.study_checks import check_key
from SynthDiffusionLib.reader_study.tables import Rating
from SynthDiffusionLib.reader_study.verify import verify_record
from SynthDiffusionLib.reports.sections import counted, listing

MOST_NOTES = 3  # of one kind are told of


@dataclass(frozen=True)
class MergedReader:
    """What a reader's record held.

    Args:
        reader, experience: as in the study file.
        source: path of the file that was taken.
        records, head: their number, and hash of the last.
        sittings: number of log-ins.
        expected, answered: positions of the order, and those with an answer.
        changes: answers changed afterwards.
        first_utc, last_utc: of the records.
        software: what was read with.
        notes: what verification noted, as sentences.
    """

    reader: str
    experience: str
    source: str
    records: int
    head: str
    sittings: int
    expected: int
    answered: int
    changes: int
    first_utc: str
    last_utc: str
    software: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "software": list(self.software), "notes": list(self.notes)}


@dataclass(frozen=True)
class Merged:
    """A merged study.

    Args:
        study: the study file.
        ratings: all answers, by reader and position; a study's own questions last.
        problems: what is to be known, as plain sentences.
        readers: those whose records are in.
        missing: unanswered presentations: {"reader", "position", "session", "task", "presentation", "phase"}. Neither
            volume nor arm, since who has not finished may still read them.
        arms: of the key: {"id", "truth", "model"?}.
        excluded: readers left out on request, with the reason.
        absent: readers of the study of whom there is no record, with the number of their readings.
        key_sha256: of the key.
        log: number and hash of the last record of the coordinator's log, this merge included.
        departures: those of `problems` that belong beside the primary result: what was answered when answers had been
            joined with the key, readers who were added, other selections of readers.
        added: readers who were not planned.
    """

    study: Study
    ratings: tuple[Rating, ...]
    problems: tuple[str, ...] = ()
    readers: tuple[MergedReader, ...] = ()
    missing: tuple[Mapping[str, Any], ...] = ()
    arms: tuple[Mapping[str, Any], ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    key_sha256: str = ""
    log: Mapping[str, Any] = field(default_factory=dict)
    departures: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All but the answers, which are in the long table."""
        return {
            "answers": len(self.ratings),
            "problems": list(self.problems),
            "readers": [reader.to_json() for reader in self.readers],
            "missing": [dict(m) for m in self.missing],
            "arms": [dict(arm) for arm in self.arms],
            "excluded": dict(self.excluded),
            "absent": dict(self.absent),
            "key_sha256": self.key_sha256,
            "log": dict(self.log),
            "departures": list(self.departures),
            "added": list(self.added),
        }


def merge(
    out: Path,
    extra_records: Sequence[Path] = (),
    *,
    receipts: Sequence[Path] = (),
    exclude: Sequence[str] = (),
    clock: AnyClock | None = None,
) -> Merged:
    """Joins the readers' answers with the key.

    Args:
        out: the folder that `study new` wrote, with its parts `reading` and `private`.
        extra_records: folders (or files) of readers who read on copies of their own.
        receipts: folders with receipts, besides private/receipts.
        exclude: readers to leave out, whatever their records are like; the report names them.
        clock: stamps the coordinator's record.

    Raises:
        BadInput: no key, another key than the study was built with, a damaged or contradictory record, no record.
        RunFailed: the coordinator's record cannot be written.
    """
    study = Study.load(out)
    private = study.folder.parent / PRIVATE
    key, key_sha256 = load_key(private / "key.json", study)
    journal = _checked_journal(private / COORDINATOR)
    _check_excluded({*study.readers(), *journal.orders}, exclude)
    if text := study_problem(study, journal):
        raise BadInput(text[0].upper() + text[1:], "Put back the study.json that was built.")
    wrong = order_problems(study, journal)
    if sentences := [text for reader, text in wrong.items() if reader not in exclude]:
        raise BadInput(
            f"The study's orders were changed: {'; '.join(sentences)}",
            "Put the original files back into 'orders' (study add-reader writes one again that was lost), or leave the "
            "reader out with --exclude, which is reported.",
        )
    sources = find_sources(study, extra_records)
    problems, excluded = list(sources.problems), {r: wrong[r] for r in exclude if r in wrong}
    held = [r for place in (private / "receipts", *map(Path, receipts)) for r in receipts_in(place, problems)]
    histories: dict[str, tuple[Source, History, list[str]]] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for reader, source in sources.chosen.items():
        if reader in excluded:
            continue
        if not source.raw and not _traces(study, reader, held, journal):
            problems.append(f"{reader}: '{source.path.name}' is empty: nothing was stored.")
            continue
        damage, notes, history = _verified(study, source, held, journal)
        if not source.whole:
            damage = [*damage, "it holds no whole record"]
        if reader in sources.forked:
            damage = [sources.forked[reader], *damage]
        if reader in exclude:
            excluded[reader] = damage[0] if damage else "left out on request; its record is sound"
            if not damage:
                left_out[reader] = _seen(read_chain(source.whole).records, len(history.given))
        elif damage:
            raise BadInput(
                f"The record of {reader} ('{source.path}') cannot be used: {damage[0]}",
                f"Run study verify; give the copy that was read on with --records, put back a sound one, or leave the "
                f"reader out with --exclude {reader}, which is reported.",
            )
        else:
            histories[reader] = (source, history, notes)
    for reader in exclude:
        if reader not in excluded:
            traces = _traces(study, reader, held, journal)
            excluded[reader] = "left out on request; " + (
                f"its record is not here, though {traces}" if traces else "there is no record"
            )
    absent = [reader for reader in study.readers() if reader not in histories and reader not in excluded]
    for reader in absent:
        if traces := _traces(study, reader, held, journal):
            raise BadInput(
                f"The record of {reader} is not here, but {traces}",
                f"Give the copy that was read on with --records, or leave the reader out with --exclude {reader}, "
                "which is reported.",
            )
    if not histories:
        hint = "Leave out fewer." if excluded else "Let the readers read first."
        raise BadInput(f"There is no reader's record in '{study.folder / 'records'}' that counts", hint)
    problems += [f"{r} is left out of everything ({why})." for r, why in sorted(excluded.items())]
    problems += [f"{r} has no record: nothing was read, or the file was not handed in." for r in absent]
    beside = journal.after_unblinding({r: read_chain(s.whole).records for r, (s, _, _) in histories.items()})
    beside += [f"{r} was unblinded while reading." for r, (_, history, _) in histories.items() if history.unblinded]
    beside += [*journal.additions(), *journal.other_merges(excluded)]
    merged = _joined(study, key, key_sha256, histories, excluded, absent, [*problems, *beside])
    merged = replace(merged, departures=tuple(beside), added=tuple(journal.added))
    return replace(merged, log=_log(private / COORDINATOR, merged, left_out, clock))


def load_key(path: Path, study: Study) -> tuple[dict[str, Any], str]:
    """The key, held against the hash that the study file has.

    Returns:
        the key, and the SHA-256 of its bytes.

    Raises:
        BadInput: missing, damaged, or not the key that the study was built with.
    """
    from SynthDiffusionLib.schemas import parse_json

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"The key '{path}' cannot be read ({error.strerror})", "Merging needs the folder 'private' of the study."
        ) from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if sha256 != study.data.get("key_sha256"):
        raise BadInput(
            f"'{path}' is not the key that the study was built with (SHA-256 {sha256[:12]}..., the study file says "
            f"{str(study.data.get('key_sha256'))[:12]}...)",
            "Put back the original key.",
        )
    try:
        key = parse_json(raw)
    except ValueError as error:
        raise BadInput(f"The key '{path}' is damaged: {error}", "Put back the original key.") from error
    check_key(key)
    if not isinstance(key, dict) or key.get("format") != KEY_FORMAT or key.get("study_id") != study.id:
        raise BadInput(f"'{path}' is no key of this study", "Put back the original key.")
    lacking = [u for u in study.units if u not in key.get("units", {})]
    lacking += [v for v in study.volumes if v not in key.get("volumes", {})]
    if lacking:
        raise BadInput(f"The key '{path}' lacks '{lacking[0]}'", "Put back the original key.")
    return key, sha256


def _check_excluded(readers: Collection[str], exclude: Sequence[str]) -> None:
    for reader in exclude:
        if reader not in readers:
            raise BadInput(f"'{reader}' is no reader of this study", f"Readers are {listing(sorted(readers))}.")


def _checked_journal(path: Path) -> Journal:
    """The coordinator's log.

    Raises:
        BadInput: it is missing, or damaged.
    """
    if not path.is_file():
        raise BadInput(
            f"The coordinator's log '{path}' is missing: it says which readers and orders there are, and when the "
            "truth was known",
            "Put it back from a copy of the folder 'private'.",
        )
    if damage := verify_record(path, is_reading=False).damage:
        raise BadInput(
            f"The coordinator's log '{path}' was changed: {damage[0].message}", "Put it back from a copy of 'private'."
        )
    return read_journal(path)


def _traces(study: Study, reader: str, held: Sequence[Receipt], journal: Journal) -> str:
    """What speaks of a record that is not there, or is empty; "" if nothing does."""
    records = study.folder / "records"
    if seen := journal.receipts(reader):
        return f"the merge of {seen[-1].utc} had {counted(seen[-1].answered, 'answer')} of it"
    mine = [r for r in [*held, *receipts_in(records / "receipts", [])] if r.reader == reader]
    if mine:
        return f"a receipt speaks of {counted(max(r.answered for r in mine), 'answer')}"
    head = records / f"{reader}.head"
    return f"its head file '{head.name}' is" if head.exists() else ""


def _seen(records: Sequence[Mapping[str, Any] | None], answered: int) -> dict[str, Any]:
    """What the log keeps of a record."""
    return {"records": len(records), "hash": str((records[-1] or {}).get("hash")), "answered": answered}


def _verified(
    study: Study, source: Source, held: Sequence[Receipt], journal: Journal
) -> tuple[list[str], list[str], History]:
    """Damage and notes of a record, as sentences without a full stop, and what it tells."""
    beside: list[str] = []
    own = [r for r in receipts_in(source.path.parent / "receipts", beside) if r not in held]
    mine = [r for r in [*held, *own] if r.reader == source.reader]
    merges = journal.receipts(source.reader)
    found = verify_record(source.path, receipts=mine, merges=merges, study=study, reader=source.reader)

    def said(finding: Finding) -> str:
        return finding.message if finding.line is None else f"record {finding.line + 1}: {finding.message}"

    notes: dict[str, list[str]] = {}
    for finding in found.notes:
        notes.setdefault(finding.kind, []).append(said(finding))
    sentences = []
    for texts in notes.values():
        sentences += [f"{text}." for text in texts[:MOST_NOTES]]
        if len(texts) > MOST_NOTES:
            sentences.append(f"({len(texts) - MOST_NOTES} more of this kind.)")
    return [said(finding) for finding in found.damage], sentences, found.history


def _joined(
    study: Study,
    key: Mapping[str, Any],
    key_sha256: str,
    histories: Mapping[str, tuple[Source, History, list[str]]],
    excluded: Mapping[str, str],
    absent: Sequence[str],
    problems: list[str],
) -> Merged:
    ratings: list[Rating] = []
    readers: list[MergedReader] = []
    missing: list[dict[str, Any]] = []
    experience = _experience(study)
    for reader, (source, history, notes) in histories.items():
        order, _ = study.order(reader)
        records = [r for r in read_chain(source.whole).records if r is not None]
        reasons = _reasons(records)
        unanswered = []
        for place in order:
            given = history.given.get(place.position)
            if given is None:
                unanswered.append(_unanswered(reader, place))
            else:
                ratings += _ratings(study, key, reader, place, given, reasons.get(place.position, ""))
        missing += unanswered
        ratings += _study_ratings(study, reader, history, records)
        if unanswered:
            problems.append(
                f"{reader} has not finished: {len(unanswered)} of {counted(len(order), 'reading')} are missing, and "
                "the answers "
                "were joined with the key before."
            )
        problems += [f"{reader}: {note}" for note in notes]
        if history.is_open:
            problems.append(f"{reader}: the last sitting was not closed, so that no receipt vouches for its end.")
        readers.append(
            MergedReader(
                reader,
                experience.get(reader, ""),
                source.path.name,
                len(records),
                str(records[-1]["hash"]),
                history.sittings,
                len(order),
                len(history.given),
                sum(given.changes for given in history.given.values()),
                str(records[0]["utc"]),
                str(records[-1]["utc"]),
                _software(records),
                tuple(notes),
            )
        )
    unread = {reader: study.order(reader)[0] for reader in absent}
    missing += [_unanswered(reader, place) for reader, order in unread.items() for place in order]
    return Merged(
        study, tuple(ratings), tuple(dict.fromkeys(problems)), tuple(readers), tuple(missing), tuple(key["arms"]),
        dict(excluded), {reader: len(order) for reader, order in unread.items()}, key_sha256,
    )  # fmt: skip


def _unanswered(reader: str, place: Presentation) -> dict[str, Any]:
    names = ("position", "session", "task", "presentation", "phase")
    return {"reader": reader, **{name: getattr(place, name) for name in names}}


def _ratings(
    study: Study, key: Mapping[str, Any], reader: str, place: Presentation, given: Given, reason: str
) -> list[Rating]:
    task, unit = study.tasks[place.task], key["units"][place.unit]
    if task.kind == "forced_choice":
        truth = key["volumes"][place.volumes[1]]["truth"]
    else:
        truth = key["volumes"][place.volumes[0]]["truth"]
    rows = []
    visible = {item.id for item in task.form.visible(given.answers)}
    for item in task.form.items:
        if item.id in given.answers:
            value = given.answers[item.id]
        elif item.type == "multiple_choice" and item.id in visible:
            value = []  # shown, and nothing ticked: an answer too
        else:
            continue
        old = given.first_answers.get(item.id, [] if item.type == "multiple_choice" else None)
        rows.append(
            Rating(
                reader=reader,
                session=place.session,
                sitting=given.sitting,
                position=place.position,
                task=task.id,
                kind=task.kind,
                unit=place.unit,
                presentation=place.presentation,
                phase=place.phase,
                arm=unit["arm"],
                truth=int(truth),
                pair=unit.get("pair", ""),
                patient=unit.get("patient", ""),
                volume_left=place.volumes[0],
                volume_right=place.volumes[1] if len(place.volumes) > 1 else "",
                item=item.id,
                item_type=item.type,
                value=value,
                answered_utc=given.utc,
                active_s=given.active_s,
                changed=given.changes if old != value or isinstance(old, bool) != isinstance(value, bool) else 0,
                old_value=old if old != value else None,
                reason=reason if old != value else "",
                first_touch_s=given.record.get("first_touch_s"),
                committed_s=given.record.get("committed_s"),
            )
        )
    return rows


def _study_ratings(study: Study, reader: str, history: History, records: Sequence[Mapping[str, Any]]) -> list[Rating]:
    """Answers to questions that are asked once in a study."""
    when = {r["task"]: r["utc"] for r in records if r["type"] == "study_answer"}
    rows = []
    for task_id, answers in history.study_answers.items():
        task = study.tasks[task_id]
        for item in task.form.items:
            if item.id in answers:
                rows.append(
                    Rating(
                        reader, "", 0, -1, task.id, task.kind, "", 1, "main", "", None, "", "", "", "", item.id,
                        item.type, answers[item.id], str(when[task_id]),
                    )
                )  # fmt: skip
    return rows


def _reasons(records: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    found: dict[int, list[str]] = {}
    for record in records:
        if record["type"] == "change":
            found.setdefault(record["position"], []).append(str(record["reason"]))
    return {position: "; ".join(texts) for position, texts in found.items()}


def _software(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = {}
    for record in records:
        software = record.get("software")
        if isinstance(software, Mapping):
            found[", ".join(f"{k} {v}" for k, v in software.items())] = True
        elif isinstance(software, str):
            found[software] = True
    return tuple(found)


def _experience(study: Study) -> dict[str, str]:
    entries = [r for r in study.data.get("readers_planned", ()) if isinstance(r, Mapping)]
    return {str(r["id"]): ", ".join(str(r[k]) for k in ("experience", "role") if r.get(k)) for r in entries}


def _log(path: Path, merged: Merged, left_out: Mapping[str, Any], clock: AnyClock | None) -> dict[str, Any]:
    """Says in the coordinator's log what was joined; count and hash of its last record, as its receipt.

    Args:
        path: of the log.
        merged: what was joined.
        left_out: what there was of sound records that were left out.
        clock: stamps it.
    """
    with RecordFile.open(path, clock=clock) as file:
        file.append("unblinded", reason="merge: the answers were joined with the key")
        file.append(
            "merged",
            study_sha256=merged.study.sha256,
            readers={r.reader: {"records": r.records, "hash": r.head, "answered": r.answered} for r in merged.readers},
            missing=len(merged.missing),
            excluded=dict(merged.excluded),
            left_out=dict(left_out),
            problems=list(merged.problems),
        )
        return {"records": file.head.count, "hash": file.head.hash}
