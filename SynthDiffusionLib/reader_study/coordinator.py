"""The coordinator's log: which orders were made, when the answers were joined with the key, and what that says of later
answers.

It is a chain as the readers' records are (`records`). Its own witness is in every merge: count and hash of its last
record, which reports carry. What a merge saw of a reader's record is a receipt of that record.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.reader_study.chain import read_chain
from SynthDiffusionLib.reader_study.receipts import Receipt
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reports.sections import counted, listing

COORDINATOR = "coordinator.jsonl"


@dataclass(frozen=True)
class Journal:
    """What the log says.

    Args:
        orders: SHA-256 of the order of each reader who was planned or added.
        merges: its records of earlier merges, oldest first.
        study_sha256: of the study file that was built.
        added: when each reader was added who was not planned, and whether that was after a merge.
    """

    orders: Mapping[str, str]
    merges: tuple[Mapping[str, Any], ...]
    study_sha256: str = ""
    added: Mapping[str, tuple[str, bool]] = field(default_factory=dict)

    def receipts(self, reader: str) -> list[Receipt]:
        """What earlier merges saw of a reader's record, also where it was left out."""
        found = []
        for merge in self.merges:
            seen = merge["readers"].get(reader) or merge.get("left_out", {}).get(reader)
            if seen is not None:
                numbers = seen["records"], seen["hash"], merge["utc"], seen["answered"]
                found.append(Receipt(merge["study_sha256"], reader, *numbers))
        return found

    def after_unblinding(self, records: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> list[str]:
        """Sentences on what was answered after answers had been joined with the key for the first time.

        Args:
            records: of the readers, as they are now.
        """
        if not self.merges:
            return []
        first = self.merges[0]
        when = f"the answers of {listing(sorted(first['readers']))} were joined with the key ({first['utc']})"
        found = []
        for reader, chain in records.items():
            known = first["readers"].get(reader) or first.get("left_out", {}).get(reader)
            new = [r for r in chain[known["records"] if known else 0 :] if r is not None]
            later = [r for r in new if str(r.get("utc", "")) > first["utc"]]
            if what := _answers(later):
                found.append(
                    f"{what} of {reader} came after {when}, by the clock of the reader's computer: somebody knew the "
                    "truth by then."
                )
            if what := _answers([r for r in new if r not in later]):
                had_been = "were left out" if reader in first["excluded"] else "had not been handed in"
                found.append(
                    f"{what} of {reader} {had_been} when {when}. By the clock of the reader's computer, that was after "
                    "they were given."
                )
        return found

    def additions(self) -> list[str]:
        """Sentences on readers who were not planned."""
        return [
            f"{reader} was not planned, and was added later ({utc}"
            + (", after answers had been joined with the key)." if late else ").")
            for reader, (utc, late) in self.added.items()
        ]

    def other_merges(self, excluded: Mapping[str, str]) -> list[str]:
        """Sentences on earlier merges that left out other readers than this one."""
        found = {}
        for merge in self.merges:
            others = sorted(merge["excluded"])
            if others != sorted(excluded):
                left_out = listing(others) if others else "nobody"
                found[left_out] = f"An earlier merge ({merge['utc']}) left out {left_out}."
        return list(found.values())


def read_journal(path: Path) -> Journal:
    """Reads the log; lines that are damaged are left out (`verify.verify_record` tells of them).

    Args:
        path: coordinator.jsonl.
    """
    orders: dict[str, str] = {}
    added: dict[str, tuple[str, bool]] = {}
    merges: list[Mapping[str, Any]] = []
    study_sha256 = ""
    for record in read_chain(path.read_bytes()).records:
        kind = None if record is None else record.get("type")
        if record is None:
            continue
        if kind == "built" and isinstance(record.get("orders"), dict):
            orders |= {str(k): str(v) for k, v in record["orders"].items()}
            study_sha256 = str(record.get("study_sha256"))
        elif kind == "reader_added":
            reader = str(record.get("reader"))
            if reader not in orders:
                added[reader] = (str(record["utc"]), bool(merges))
            orders[reader] = str(record.get("order_sha256"))
        elif kind == "merged" and _is_merge(record):
            merges.append(record)
    return Journal(orders, tuple(merges), study_sha256, added)


def order_problems(study: Study, journal: Journal) -> dict[str, str]:
    """Readers whose order is not the one that was made, or is gone, and readers whom nobody has planned or added.

    Args:
        study: whose orders are looked at.
        journal: what the log says.

    Returns:
        a sentence without a full stop by reader.
    """
    problems = {}
    there = study.readers()
    for reader in there:
        sha256 = hashlib.sha256((study.folder / "orders" / f"{reader}.json").read_bytes()).hexdigest()
        if reader not in journal.orders:
            problems[reader] = f"the reader '{reader}' has an order, but the coordinator has added nobody of that name"
        elif journal.orders[reader] != sha256:
            problems[reader] = f"the order of '{reader}' is not the one that was made"
    planned = [entry["id"] if isinstance(entry, Mapping) else entry for entry in study.data.get("readers_planned", ())]
    for reader in planned:
        if reader not in journal.orders:
            problems[reader] = f"the reader '{reader}' was planned, but the coordinator's log has no order of that name"
    for reader in journal.orders:
        if reader not in there:
            problems[reader] = f"the order of '{reader}' is gone: the reader was planned, or added"
    return problems


def study_problem(study: Study, journal: Journal) -> str:
    """A sentence without a full stop where the log was begun with another study file; "" where it was not."""
    if journal.study_sha256 and journal.study_sha256 != study.sha256:
        return (
            f"the study file is not the one that was built (SHA-256 {study.sha256[:12]}..., the coordinator's log says "
            f"{journal.study_sha256[:12]}...)"
        )
    return ""


def _answers(records: Sequence[Mapping[str, Any]]) -> str:
    """ "3 answers and 1 change"; "" for none."""
    kinds = Counter(r.get("type") for r in records)
    counts = (kinds["answer"] + kinds["study_answer"], "answer"), (kinds["change"], "change")
    words = [counted(number, word) for number, word in counts if number]
    return listing(words) if words else ""


def _is_merge(record: Mapping[str, Any]) -> bool:
    readers, left_out = record.get("readers"), record.get("left_out", {})
    if not isinstance(readers, dict) or not isinstance(left_out, dict) or not isinstance(record.get("excluded"), dict):
        return False
    return isinstance(record.get("study_sha256"), str) and all(
        isinstance(r, dict)
        and type(r.get("answered")) is int
        and type(r.get("records")) is int
        and r["records"] > 0
        and isinstance(r.get("hash"), str)
        for r in (*readers.values(), *left_out.values())
    )
