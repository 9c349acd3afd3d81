"""What was done to a record after it was written, as far as anything can show it.

Three witnesses, each weaker where it lies closer to the record: the chain inside the file, the head file beside it, and
receipts held elsewhere. `LIMITS` says what none of them shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import Chain, Head, read_chain, read_head
from SynthDiffusionLib.reader_study.coordinator import COORDINATOR, Journal, order_problems, read_journal, study_problem
from SynthDiffusionLib.reader_study.history import Finding, Given, History, replay
from SynthDiffusionLib.reader_study.merge_sources import find_sources
from SynthDiffusionLib.reader_study.receipts import Receipt, receipts_in
from SynthDiffusionLib.reader_study.study import PRIVATE, Presentation, Study

LIMITS = (
    "What verification cannot detect. Somebody who rewrites the records and also the head file, with all hashes "
    "computed anew, is found only by a receipt that is held elsewhere, and only for the records up to that "
    "receipt: whatever was rewritten, added or cut off after the last receipt stays unseen. Every merge is such a"
    " receipt, in the log of the coordinator. One record added behind the last one looks like a kill between "
    "record and head, and is reported as a note. A record that is deleted together with its head file and every "
    "receipt, before any merge, looks as if reading had not begun. Without the head file and without receipts, "
    "records cut off at the end of a line, and a rewriting that computes the hashes anew, stay unseen. Times are "
    "those of the reader's computer: a clock that was wrong all along is not noticed. The chain says what was "
    "stored, not who sat there. Of a coordinator, who has the key, it shows less: answers that are joined with "
    "the key in a copy of the study leave no trace in it, nor does a log that is put back from an older copy, or "
    "written anew with all hashes. Against that, give the hash of study.json to somebody else before reading "
    "begins, and keep reports, which hold count and hash of the log. A report that was edited is found by "
    "analysing again."
)


@dataclass
class Verification:
    """What was found in a record.

    Args:
        findings: all of them, damage first, then by line.
        count: whole lines in the file.
        head_hash: `hash` of the last of them.
        confirmed: records confirmed by a receipt held elsewhere; 0: by none.
        history: the record, replayed.
        records: of the chain; None for a line that is none.
    """

    findings: list[Finding] = field(default_factory=list)
    count: int = 0
    head_hash: str = ""
    confirmed: int = 0
    history: History = field(default_factory=History)
    records: list[Mapping[str, Any] | None] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing but notes."""
        return not self.damage

    @property
    def damage(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "damage"]

    @property
    def notes(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "note"]

    @property
    def answers(self) -> dict[int, Given]:
        """What was answered, by position."""
        return self.history.given

    def sentences(self) -> list[str]:
        """The findings as sentences."""
        return [
            f"{f.severity}: {'' if f.line is None else f'record {f.line + 1}: '}{f.message[0].upper()}{f.message[1:]}."
            for f in self.findings
        ]


@dataclass
class StudyVerification:
    """What was found in a study.

    Args:
        readers: by reader; only those with a record.
        not_begun: readers without one.
        coordinator: of the coordinator's own record; None without the private folder.
        findings: of the study as a whole.
    """

    readers: dict[str, Verification] = field(default_factory=dict)
    not_begun: list[str] = field(default_factory=list)
    coordinator: Verification | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing but notes, anywhere."""
        parts = [*self.readers.values(), *([self.coordinator] if self.coordinator else [])]
        return all(p.ok for p in parts) and all(f.severity == "note" for f in self.findings)


def verify_record(
    path: Path,
    *,
    head: Path | None = None,
    receipts: Iterable[Receipt] = (),
    merges: Iterable[Receipt] = (),
    study: Study | None = None,
    reader: str | None = None,
    use_head: bool = True,
    is_reading: bool = True,
) -> Verification:
    """Checks a record file.

    Args:
        path: `<reader>.jsonl`.
        head: the head file; default: the one beside it.
        receipts: held elsewhere; those of other readers are findings.
        merges: what earlier merges saw of the record (`coordinator.Journal.receipts`).
        study: to hold answers against forms, the washout and the reader's order.
        reader: whose record; default: the file's name.
        use_head: False: as if there were no head file.
        is_reading: False: a chain of other records, as the coordinator's; only the chain is checked.

    Raises:
        BadInput: the file, or the order of the reader, cannot be read.
    """
    path = Path(path)
    reader = reader or path.stem
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"The record '{path}' cannot be read ({error.strerror})", "Check the path.") from error
    chain = read_chain(raw)
    result = Verification(count=len(chain.records), head_hash=chain.head.hash, records=chain.records)
    result.findings = [Finding(f.kind, f.line, f.message, "damage") for f in chain.faults]
    known = None
    if use_head:
        try:
            known = read_head(head or path.with_suffix(".head"))
            _against_head(result, chain, known, is_reading)
        except BadInput as error:
            result.findings.append(Finding("head", None, error.message, "damage"))
    _tail(result, chain, known)
    for what, held in (("receipt", receipts), ("merge", merges)):
        for receipt in held:
            _against_receipt(result, chain, receipt, reader, study, f"the {what} of {receipt.utc}")
    if is_reading:
        order: list[Presentation] | None = None
        sha256 = None
        if study is not None:
            order, sha256 = study.order(reader)
        result.history = replay(chain.records, study, order, sha256, reader if study else None)
        result.findings += result.history.findings
    result.findings.sort(key=lambda f: (f.severity != "damage", -1 if f.line is None else f.line))
    return result


def verify_study(
    folder: Path,
    private: Path | None = None,
    *,
    receipts: Iterable[Receipt] = (),
    records: Path | None = None,
    copies: Sequence[Path] = (),
) -> StudyVerification:
    """Checks all records of a study.

    Args:
        folder: the reading folder, or the one that holds it and `private`.
        private: the coordinator's folder, with receipts and the coordinator's own record; default: beside.
        receipts: further ones held elsewhere.
        records: folder of the record files; default: the study's own.
        copies: folders (or files) of readers who read on copies of their own, as `merge.merge` takes them.

    Raises:
        BadInput: the study cannot be read, or was changed after reading began; a copy is missing.
    """
    study = Study.load(folder)
    private = private or study.folder.parent / PRIVATE
    records = Path(records) if records else study.folder / "records"
    result = StudyVerification()
    problems: list[str] = []
    held = [*receipts, *receipts_in(private / "receipts", problems)]
    log = read_journal(private / COORDINATOR) if (private / COORDINATOR).is_file() else None
    readers = study.readers()
    paths = {path.stem: path for path in sorted(records.glob("*.jsonl"))}
    if copies:
        sources = find_sources(study, copies)
        paths |= {reader: source.path for reader, source in sources.chosen.items()}
        result.findings += [Finding("copies", None, text, "damage") for text in sources.forked.values()]
        result.findings += [Finding("copies", None, text.rstrip("."), "note") for text in sources.problems]
    # Those beside the records are no better a witness than the head file, but one that may have been forgotten.
    places = dict.fromkeys([records, *(path.parent for path in paths.values())])
    beside = [receipt for place in places for receipt in receipts_in(place / "receipts", problems)]
    result.findings += [Finding("receipt", None, problem.rstrip("."), "damage") for problem in problems]
    for path in paths.values():
        if path.stem not in readers:
            result.findings.append(
                Finding("foreign", None, f"'{path.name}' belongs to no reader of this study", "damage")
            )
            continue
        mine = [r for r in [*held, *beside] if r.reader == path.stem]
        if not path.is_file():
            result.findings.append(Finding("missing", None, f"'{path.name}' is no file", "damage"))
            continue
        seen = log.receipts(path.stem) if log else []
        try:
            found = verify_record(path, receipts=mine, merges=seen, study=study)
        except BadInput as error:  # the order's file is damaged or foreign; the chain can still be checked
            result.findings.append(Finding("order_file", None, error.message, "damage"))
            try:
                found = verify_record(path, receipts=mine, merges=seen)
            except BadInput:  # it cannot be read at all, as the finding says; the other readers are still checked
                continue
        found.confirmed = max((r.count for r in held if r.reader == path.stem and _agrees(found, r)), default=0)
        result.readers[path.stem] = found
    for reader in readers:
        if reader in result.readers:
            continue
        result.not_begun.append(reader)
        gone = (records / f"{reader}.head").exists() or any(r.reader == reader for r in [*held, *beside])
        if log and (seen := log.receipts(reader)):
            text = f"the record of '{reader}' is not here, though the merge of {seen[-1].utc} had it: give it with "
            text += "--records if it was read on a copy"
            result.findings.append(Finding("missing", None, text, "damage"))
        elif gone and not any(f.message.startswith(f"'{reader}.jsonl'") for f in result.findings):
            text = f"the record of '{reader}' is not here, though a receipt or head file is: was it read on a copy?"
            result.findings.append(Finding("missing", None, text, "damage"))
    for other in sorted({r.reader for r in [*held, *beside]} - set(readers)):
        result.findings.append(
            Finding("foreign", None, f"there is a receipt of '{other}', who is no reader of this study", "damage")
        )
    if any(found.count for found in result.readers.values()) and not copies and not study.is_frozen:
        text = "'frozen.json', which fixed the study when reading began, is gone"
        result.findings.append(Finding("frozen", None, text, "note"))
    _private(result, study, private, log)
    return result


def _private(result: StudyVerification, study: Study, private: Path, log: Journal | None) -> None:
    journal, key = private / COORDINATOR, private / "key.json"

    def add(kind: str, text: str, severity: str) -> None:
        result.findings.append(Finding(kind, None, text.rstrip("."), severity))

    if log is not None:
        result.coordinator = verify_record(journal, is_reading=False)
        for text in order_problems(study, log).values():
            add("order_file", text, "damage")
        if text := study_problem(study, log):
            add("study", text, "damage")
        for text in log.after_unblinding({reader: found.records for reader, found in result.readers.items()}):
            add("unblinded", text, "note")
        for text in log.additions():
            add("added", text, "note")
    elif key.exists():
        add("coordinator", "the coordinator's log is gone", "damage")
    elif not private.is_dir():
        add("coordinator", f"'{private}' is not here: the key and the coordinator's log were not checked", "note")
    if key.exists() and hashlib.sha256(key.read_bytes()).hexdigest() != study.data.get("key_sha256"):
        result.findings.append(
            Finding("key", None, "'key.json' is not the key that the study was built with", "damage")
        )


def _agrees(found: Verification, receipt: Receipt) -> bool:
    """Whether nothing was found that speaks against the records up to a receipt."""
    return not any(f.line is None or f.line < receipt.count for f in found.damage)


def _against_head(result: Verification, chain: Chain, head: Head | None, is_reading: bool) -> None:
    count = len(chain.records)

    def add(kind: str, line: int | None, message: str, severity: str) -> None:
        result.findings.append(Finding(kind, line, message, severity))

    if head is None:
        if count > 1 or (count and not is_reading):  # `study new` gives the coordinator's log its name with the head
            add("head", None, "the head file is missing: nothing shows whether the end was cut off", "damage")
        elif count == 1:
            add("head_behind", 0, "the head file is missing, as after a kill right after the first record", "note")
        return
    if head.count > count:
        what = f"the file has {count} whole records, its head file knows of {head.count}"
        add("cut_off", None, f"it was cut off: {what}", "damage")
        return
    if head.count < count - 1:
        what = f"the head file knows of {head.count} records, the file has {count}"
        add("head_stale", head.count, f"{what}: more than a kill explains", "damage")
    elif head.count == count - 1:
        add(
            "head_behind",
            head.count,
            "the head file does not know of this last record: a kill between the two, or somebody added it",
            "note",
        )
    if head.count and (chain.records[head.count - 1] or {}).get("hash") != head.hash:
        add("head_hash", head.count - 1, "it is not the record that the head file knows", "damage")


def _tail(result: Verification, chain: Chain, head: Head | None) -> None:
    if not chain.tail:
        return
    line, size = len(chain.records), len(chain.tail)
    if head is not None and head.count > line:
        # `cut_off` tells of it; say that it is not a power cut, which leaves the head behind the file.
        message = f"it ends in {size} bytes of an incomplete line, which was whole when the head file was written"
        result.findings.append(Finding("cut_inside", line, message, "damage"))
        return
    what = "a whole record without its newline" if chain.tail_is_record else f"{size} bytes of an incomplete line"
    certain = "" if head is not None else "; without the head file a cut made by hand looks the same"
    message = f"it ends in {what}, as a kill or power cut during a write leaves it{certain}"
    result.findings.append(Finding("torn", line, message, "note"))


def _against_receipt(
    result: Verification, chain: Chain, receipt: Receipt, reader: str, study: Study | None, when: str
) -> None:
    def add(line: int | None, message: str) -> None:
        result.findings.append(Finding("receipt", line, message, "damage"))

    if receipt.reader != reader:
        add(None, f"{when} is one of the reader '{receipt.reader}'")
    elif study is not None and receipt.study_sha256 != study.sha256:
        add(None, f"{when} is of another study file; keep the receipts of each study in a folder of their own")
    elif receipt.count > len(chain.records):
        copy = "; if it was read on with a copy, give that with --records" if when.startswith("the merge") else ""
        add(None, f"it was cut off: {when} knows of {receipt.count} records, the file has {len(chain.records)}{copy}")
    elif (chain.records[receipt.count - 1] or {}).get("hash") != receipt.hash:
        add(receipt.count - 1, f"it is not the record that {when} knows: it or one before it was changed")
