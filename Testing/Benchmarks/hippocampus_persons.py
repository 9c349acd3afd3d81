"""Finds out which files of the hippocampus data are of one person, and leaves out what would leak.

    python Testing/Benchmarks/hippocampus_persons.py runs/hippocampus-prepared

The data set does not say whose crop a file is. As published it has 394 crops of 195 people. The scanner's intensities,
which differ from scan to scan, tell: those of the files numbered 2k - 1 and 2k are nearly the same, those of other
neighbours are not. This script prints both, makes each such pair one patient in `dataset.json`, and takes out of the
split what has another crop of its person in an earlier part: of the validation part where that is the training part,
of the test part where it is one of the two (as they were prepared). The training part stays as it is. Called again, it
changes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("train", "validation", "test")


def number_of(name: str) -> int:
    """177 of "hippocampus_177"."""
    return int(re.search(r"(\d+)$", name)[1])


def person_of(name: str) -> str:
    """The person whose crop a file is: "person_089" of "hippocampus_177" and of "hippocampus_178"."""
    return f"person_{(number_of(name) + 1) // 2:03d}"


def apart(cases: Mapping[str, Mapping[str, Any]], first_is_odd: bool) -> tuple[int, float, np.ndarray]:
    """Of neighbouring numbers, the first odd or even: how many pairs there are, and the median and quartiles of the
    absolute difference of the logarithms of their brightest raw intensities."""
    brightest = {number_of(name): case["intensity"][1] for name, case in cases.items()}
    pairs = [(n, n + 1) for n in brightest if n % 2 == int(first_is_odd) and n + 1 in brightest]
    found = [abs(np.log(brightest[b] / brightest[a])) for a, b in pairs]
    return len(pairs), float(np.median(found)), np.percentile(found, (25, 75))


def without_leaks(split: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The split without the crops whose person has another one in an earlier part."""
    earlier: set[str] = set()
    kept = {}
    for part in PARTS:
        kept[part] = [name for name in split[part] if person_of(name) not in earlier]
        earlier |= {person_of(name) for name in split[part]}
    return kept


def main(arguments: list[str] | None = None) -> int:
    """Command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `synthdiffusion prepare` wrote")
    path = parser.parse_args(arguments).data / "dataset.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    cases, before = description["cases"], description["split"]
    for title, first_is_odd in (("2k - 1 and 2k", True), ("2k and 2k + 1", False)):
        number, median, (low, high) = apart(cases, first_is_odd)
        print(f"files {title}: {number} pairs, intensities apart by {median:.3f} (quartiles {low:.3f} to {high:.3f})")
    for name, case in cases.items():
        case["patient"] = person_of(name)
    description["split"] = without_leaks(before)
    for part, names in description["split"].items():
        left_out, people = len(before[part]) - len(names), len({person_of(name) for name in names})
        print(f"{part}: {len(names)} crops of {people} people, {left_out} left out now")
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
