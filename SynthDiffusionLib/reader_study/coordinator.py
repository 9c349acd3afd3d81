"""The coordinator's log: which orders were made, when the answers were joined with the key, and what that says of later
answers.

It is a chain as the readers' records are (`records`). Its own witness is in every merge: count and hash of its last
record, which reports carry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.reader_study.chain import read_chain
from SynthDiffusionLib.reader_study.sections import counted, listing
from SynthDiffusionLib.reader_study.study import Study

COORDINATOR = "coordinator.jsonl"


@dataclass(frozen=True)
class Journal:
    """What the log says.

    Args:
        orders: SHA-256 of the order of each reader who was planned or added.
        merges: its records of earlier merges, oldest first.
    """

    orders: Mapping[str, str]
    merges: tuple[Mapping[str, Any], ...]

    def after_unblinding(self, answered: Mapping[str, int]) -> list[str]:
        """Sentences on answers that were given after the answers so far had been joined with the key.

        Args:
            answered: number of answers by reader, as they are now.
        """
        found = []
        for reader, number in answered.items():
            known = [m for m in self.merges if reader in m["readers"]]
            first = known[0] if known else (self.merges[0] if self.merges else None)
            if first is None:
                continue
            then = known[0]["readers"][reader]["answered"] if known else 0
            if number > then:
                found.append(
                    f"{counted(number - then, 'answer')} of {reader} came after the answers of "
                    f"{listing(sorted(first['readers']))} were joined with the key ({first['utc']}): somebody knew the "
                    "truth by then."
                )
        return found

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
    merges = []
    for record in read_chain(path.read_bytes()).records:
        kind = None if record is None else record.get("type")
        if record is None:
            continue
        if kind == "built" and isinstance(record.get("orders"), dict):
            orders |= {str(k): str(v) for k, v in record["orders"].items()}
        elif kind == "reader_added":
            orders[str(record.get("reader"))] = str(record.get("order_sha256"))
        elif kind == "merged" and _is_merge(record):
            merges.append(record)
    return Journal(orders, tuple(merges))


def order_problems(study: Study, journal: Journal) -> dict[str, str]:
    """Readers whose order is not the one that was made, or is gone, and readers whom nobody has added.

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
    for reader in journal.orders:
        if reader not in there:
            problems[reader] = f"the order of '{reader}' is gone: the reader was planned, or added"
    return problems


def _is_merge(record: Mapping[str, Any]) -> bool:
    readers = record.get("readers")
    return (
        isinstance(readers, dict)
        and isinstance(record.get("excluded"), dict)
        and all(isinstance(r, dict) and type(r.get("answered")) is int for r in readers.values())
    )
