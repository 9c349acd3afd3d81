"""What verification finds of a thousand random edits of a reader's record, and what it does not.

    python Testing/Benchmarks/reader_study_tampering.py [--edits 1000] [--seed 0] [--out FILE.md]

A study is read to its end in two sittings through `Reading`, with changes, pauses and a receipt after each sitting.
Then copies of the record are edited and verified three times: with its head file intact, by the chain alone, and by the
chain with the receipt of the first sitting. "Informed" edits compute all numbers and hashes anew behind the edit, as
somebody would who has read the source, and spare answers that a later change names.

The exit code is 1 if an edit was missed while the head file was intact.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Engine"))

from reader_study_examples import FakeClock, make_reading_folder, right_answers  # noqa: E402

from SynthDiffusionLib.reader_study.chain import (  # noqa: E402
    NO_PREVIOUS,
    Head,
    canonical,
    head_bytes,
    read_chain,
    record_hash,
)
from SynthDiffusionLib.reader_study.reading import Reading  # noqa: E402
from SynthDiffusionLib.reader_study.receipts import Receipt  # noqa: E402
from SynthDiffusionLib.reader_study.study import Study  # noqa: E402
from SynthDiffusionLib.reader_study.verify import verify_record  # noqa: E402

Lines = list[bytes]
DAMAGE, TORN, UNSEEN = "damage", "torn tail", "not found"


@dataclass(frozen=True)
class Witnesses:
    """How a copy is verified."""

    name: str
    head: bool
    receipt: bool


HEAD = Witnesses("head file intact", True, False)
CHAIN = Witnesses("chain alone", False, False)
OLD_RECEIPT = Witnesses("chain and an old receipt", False, True)
FORGED_HEAD = Witnesses("head file forged too, old receipt", True, True)


def read_example(folder: Path, seed: int, cases: int = 24) -> tuple[Path, Receipt]:
    """Reads a study with one reader in two sittings; gives the record and the receipt of the first sitting."""
    reading_folder = make_reading_folder(
        folder, single=cases, pairs=4, repeats=4, training=2, study_items=True, seed=seed
    )
    rng, clock = random.Random(seed), FakeClock()
    receipts = []
    for sitting in range(2):
        clock.boot = f"boot{sitting}"
        reading = Reading.open(reading_folder, "R1", clock=clock)
        while reading.current is not None and not (sitting == 0 and reading.progress[0] >= cases // 2):
            reading.show({"window": "Lung", "slice": [rng.randrange(40) for _ in range(3)]})
            clock.pass_s(rng.uniform(1, 20))
            reading.touch()
            if rng.random() < 0.1:
                reading.pause()
                clock.pass_s(100)
                reading.resume()
            clock.pass_s(rng.uniform(1, 20))
            reading.commit(right_answers(reading.task.id, rng), {"window": "Lung"})
            if rng.random() < 0.15 and reading.can_go_back:
                reading.back()
                reading.show()
                clock.pass_s(4)
                new = right_answers(reading.task.id, rng)
                if new != reading.previous_answers:
                    reading.change(new, "looked again")
                reading.forward()
        if reading.current_study_task:
            reading.commit_study(reading.current_study_task, {"overall": "None."})
        receipts.append(reading.close())
        clock.pass_s(3600)
    return reading_folder / "records" / "R1.jsonl", receipts[0]


# Each edit takes the lines of the file (without newlines) and gives the bytes of the edited file.


def _joined(lines: Lines) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _rehash(lines: Lines, first: int) -> Lines:
    """Numbers, `previous` and hashes computed anew from a line on."""
    lines = list(lines)
    for n in range(first, len(lines)):
        record = json.loads(lines[n])
        record["n"] = n
        record["previous"] = hashlib.sha256(lines[n - 1]).hexdigest() if n else NO_PREVIOUS
        record["hash"] = record_hash(record)
        lines[n] = canonical(record)
    return lines


def _other_answer(
    lines: Lines, rng: random.Random, last_only: bool = False, spared: frozenset[int] = frozenset()
) -> tuple[Lines, int]:
    """Another score in an answer that nothing later names, without anything recomputed; the number of its line."""
    lines = list(lines)
    if last_only:
        n = len(lines) - 1
        record = json.loads(lines[n])
        record["utc"] = record["utc"].replace("Z", "").rsplit(".", 1)[0] + f".{rng.randrange(1000):03d}Z"
        record["answered"] = record.get("answered", 0) + rng.choice([-1, 1])
    else:
        records = [json.loads(line) for line in lines]
        changed = {r["position"] for r in records if r["type"] == "change"} | spared
        answered = [(i, r) for i, r in enumerate(records) if r["type"] == "answer" and "score" in r["answers"]]
        scored = [i for i, r in answered if r["position"] not in changed]
        n = rng.choice(scored)
        record = json.loads(lines[n])
        old = record["answers"]["score"]
        new = rng.choice([v for v in (-3, -2, -1, 1, 2, 3) if v != old])
        record["answers"] = {"score": new}
    lines[n] = canonical(record)
    return lines, n


def flip(lines: Lines, rng: random.Random) -> bytes:
    raw = bytearray(_joined(lines))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def flip_last(lines: Lines, rng: random.Random) -> bytes:
    raw = bytearray(_joined(lines))
    raw[len(raw) - 1 - rng.randrange(len(lines[-1]) + 1)] ^= 1 << rng.randrange(8)
    return bytes(raw)


def blank(lines: Lines, rng: random.Random) -> bytes:
    lines = list(lines)
    n = rng.randrange(len(lines))
    places = [i + 1 for i, byte in enumerate(lines[n]) if byte in b",{:"]
    at = rng.choice(places)
    lines[n] = lines[n][:at] + rng.choice([b" ", b"\t", b"\r"]) + lines[n][at:]
    return _joined(lines)


def delete(lines: Lines, rng: random.Random) -> bytes:
    first = rng.randrange(len(lines) - 1)
    last = min(first + rng.choice([1, 1, 1, 2, 5]), len(lines) - 1)
    return _joined(lines[:first] + lines[last:])


def swap(lines: Lines, rng: random.Random) -> bytes:
    a, b = rng.sample(range(len(lines)), 2)
    lines = list(lines)
    lines[a], lines[b] = lines[b], lines[a]
    return _joined(lines)


def duplicate(lines: Lines, rng: random.Random) -> bytes:
    n = rng.randrange(len(lines))
    return _joined([*lines[: n + 1], lines[n], *lines[n + 1 :]])


def insert_copy(lines: Lines, rng: random.Random) -> bytes:
    n = rng.randrange(len(lines) + 1)
    return _joined([*lines[:n], rng.choice(lines), *lines[n:]])


def truncate_line(lines: Lines, rng: random.Random) -> bytes:
    return _joined(lines[: rng.randrange(len(lines))])


def truncate_inside(lines: Lines, rng: random.Random) -> bytes:
    raw = _joined(lines)
    while True:
        size = rng.randrange(1, len(raw))
        if raw[size - 1 : size] != b"\n":
            return raw[:size]


def edit(lines: Lines, rng: random.Random) -> bytes:
    return _joined(_other_answer(lines, rng)[0])


def edit_last(lines: Lines, rng: random.Random) -> bytes:
    return _joined(_other_answer(lines, rng, last_only=True)[0])


def informed_edit(lines: Lines, rng: random.Random) -> bytes:
    edited, n = _other_answer(lines, rng)
    return _joined(_rehash(edited, n))


def informed_edit_last(lines: Lines, rng: random.Random) -> bytes:
    edited, n = _other_answer(lines, rng, last_only=True)
    return _joined(_rehash(edited, n))


def informed_delete(lines: Lines, rng: random.Random) -> bytes:
    n = rng.randrange(1, len(lines) - 1)
    return _joined(_rehash(lines[:n] + lines[n + 1 :], n))


KINDS: dict[str, tuple[str, Callable[[Lines, random.Random], bytes]]] = {
    "flip": ("one bit anywhere", flip),
    "flip_last": ("one bit of the last record", flip_last),
    "blank": ("a blank put between two tokens", blank),
    "delete": ("records deleted, not the last", delete),
    "swap": ("two records swapped", swap),
    "duplicate": ("a record doubled", duplicate),
    "insert_copy": ("a copied record put in", insert_copy),
    "truncate_line": ("cut off at the end of a line", truncate_line),
    "truncate_inside": ("cut off inside a line", truncate_inside),
    "edit": ("an answer edited", edit),
    "edit_last": ("the last record edited", edit_last),
    "informed_edit": ("an answer edited, hashes computed anew", informed_edit),
    "informed_edit_last": ("the last record edited, hashes computed anew", informed_edit_last),
    "informed_delete": ("a record deleted, hashes computed anew", informed_delete),
}


def outcome(path: Path, raw: bytes, head: Head, how: Witnesses, receipt: Receipt, study: Study | None) -> str:
    """Verifies edited bytes."""
    path.write_bytes(raw)
    path.with_suffix(".head").write_bytes(head_bytes(head))
    found = verify_record(path, study=study, reader="R1", use_head=how.head, receipts=[receipt] if how.receipt else [])
    if not found.ok:
        return DAMAGE
    return TORN if any(f.kind == "torn" for f in found.notes) else UNSEEN


def tamper(edits: int, seed: int, folder: Path) -> tuple[dict[tuple[str, str], dict[str, int]], int]:
    """Makes the edits, and verifies each with all witnesses.

    Returns:
        Counts by (kind, name of the witnesses) and outcome, and the number of records in the file.
    """
    record, receipt = read_example(folder / "study", seed)
    raw = record.read_bytes()
    lines, head, study = raw.split(b"\n")[:-1], read_chain(raw).head, Study.load(folder / "study")
    clean = verify_record(record, study=study, receipts=[receipt])
    if clean.findings:
        raise SystemExit(f"the untouched record has findings: {clean.sentences()}")
    copy = folder / "R1.jsonl"
    rng = random.Random(seed)
    counts: dict[tuple[str, str], dict[str, int]] = {}

    def count(kind: str, how: Witnesses, result: str) -> None:
        row = counts.setdefault((kind, how.name), {DAMAGE: 0, TORN: 0, UNSEEN: 0})
        row[result] += 1

    names = list(KINDS)
    for i in range(edits):
        kind = names[i % len(names)]
        edited = raw
        while edited == raw:  # two equal lines swapped, an edit that changes nothing
            edited = KINDS[kind][1](lines, rng)
        for how in (HEAD, CHAIN, OLD_RECEIPT):
            count(kind, how, outcome(copy, edited, head, how, receipt, study))
    # Somebody who rewrites the head file too, before or after the last receipt that is held elsewhere.
    early, late = lines[: receipt.count], lines[receipt.count :]
    named_late = frozenset(r["position"] for r in map(json.loads, late) if r["type"] == "change")
    for _ in range(max(edits // 20, 5)):
        part, n = _other_answer(early, rng, spared=named_late)
        forged = _rehash(part + late, n)
        count("forged_early", FORGED_HEAD, _forged(copy, forged, receipt, study))
        part, n = _other_answer(late, rng)
        forged = _rehash(early + part, receipt.count + n)
        count("forged_late", FORGED_HEAD, _forged(copy, forged, receipt, study))
        shortened = lines[: rng.randrange(receipt.count, len(lines))]
        count("forged_cut", FORGED_HEAD, _forged(copy, shortened, receipt, study))
    return counts, len(lines)


def _forged(copy: Path, lines: Lines, receipt: Receipt, study: Study) -> str:
    raw = _joined(lines)
    return outcome(copy, raw, read_chain(raw).head, FORGED_HEAD, receipt, study)


FORGED = {
    "forged_early": "an answer before the receipt edited, hashes and head file computed anew",
    "forged_late": "an answer after the receipt edited, hashes and head file computed anew",
    "forged_cut": "cut off after the receipt, head file computed anew",
}


def table(counts: dict[tuple[str, str], dict[str, int]], records: int, seed: int) -> str:
    """The counts as Markdown."""
    total = sum(sum(row.values()) for (_, how), row in counts.items() if how == HEAD.name)
    missed = sum(row[UNSEEN] + row[TORN] for (_, how), row in counts.items() if how == HEAD.name)
    text = [
        f"{total} random edits of a record of {records} lines (seed {seed}). With the head file intact "
        f"{total - missed} of {total} were found. Cells: found / edits; *torn* counts edits that were reported, but as "
        "the torn tail of a power cut, which they cannot be told from. Without head file, a deletion with all hashes "
        "computed anew is still found where positions, sittings or the count in a closing record no longer fit.",
        "",
        f"| edit | {HEAD.name} | {CHAIN.name} | {OLD_RECEIPT.name} |",
        "|---|---|---|---|",
    ]
    for kind, (title, _) in KINDS.items():
        cells = [_cell(counts[kind, how.name]) for how in (HEAD, CHAIN, OLD_RECEIPT) if (kind, how.name) in counts]
        if cells:
            text.append(f"| {title} | {' | '.join(cells)} |")
    text += ["", f"| the head file is rewritten too | {FORGED_HEAD.name} |", "|---|---|"]
    text += [f"| {title} | {_cell(counts[kind, FORGED_HEAD.name])} |" for kind, title in FORGED.items()]
    return "\n".join(text) + "\n"


def _cell(row: dict[str, int]) -> str:
    torn = f", torn {row[TORN]}" if row[TORN] else ""
    return f"{row[DAMAGE]} / {sum(row.values())}{torn}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args(argv)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts, records = tamper(args.edits, args.seed, Path(folder))
    text = table(counts, records, args.seed)
    print(text)
    print(f"{time.monotonic() - started:.1f} s")
    if args.out:
        args.out.write_text(text, encoding="utf-8", newline="\n")
    return int(any(row[UNSEEN] + row[TORN] for (_, how), row in counts.items() if how == HEAD.name))


if __name__ == "__main__":
    raise SystemExit(main())
