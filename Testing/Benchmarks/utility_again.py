"""The statistics of utility experiments once more, from every network's Dice on every case.

    python Testing/Benchmarks/utility_again.py Docs/Evaluation/utility.md \
        augmentation=Docs/Evaluation/Tables/utility-augmentation-each.csv \
        scarcity=Docs/Evaluation/Tables/utility-scarcity-each.csv --picture Docs/Images/utility-scarcity.png

Reads `utility-tables/each.csv` of `synthdiffusion evaluate utility`, trains nothing, and puts sentences and tables
between the page's marks of that name. The command that made them, and the numbers of cases that arms were trained on,
stay as they stand there. For when the statistics have changed and the networks, which take an hour or more, have not.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluation_pages import put, sections_text

from SynthDiffusionLib.evaluation.utility import augmentation, gap, report, scarcity
from SynthDiffusionLib.evaluation.utility.networks import Recipe
from SynthDiffusionLib.reports.plots import draw

ARM = re.compile(r"(.+)-n(\d+)")  # of scarcity: arm and number of patients
CASES = re.compile(r"^\| ([^|]+) \| (\d+(?: \+ \d+)*) \|", re.MULTILINE)  # first two cells of the table of arms


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown page with the marks")
    parser.add_argument("each", nargs="+", metavar="EXPERIMENT=each.csv", help="augmentation, scarcity or gap")
    parser.add_argument("--picture", type=Path, help="PNG file of the curve of scarcity")
    args = parser.parse_args(arguments)
    page = args.page.read_text(encoding="utf-8")
    for entry in args.each:
        experiment, _, path = entry.partition("=")
        old = page.partition(f"<!-- {experiment}: begin -->")[2].partition(f"<!-- {experiment}: end -->")[0]
        with open(path, newline="", encoding="utf-8") as file:
            sections = measured(experiment, list(csv.DictReader(file)), cases_of(old))
        command = next(line for line in old.splitlines() if line)
        page = put(page, experiment, [command, "", *sections_text(sections)])
        if args.picture is not None and experiment == "scarcity":
            args.picture.write_bytes(draw(sections[0]["plots"][0], "png"))
    args.page.write_text(page, encoding="utf-8")
    return 0


def cases_of(block: str) -> dict[str, list[int]]:
    """Numbers of cases of each kind that the arms of a block were trained on, by the arm's label."""
    return {label: [int(n) for n in numbers.split(" + ")] for label, numbers in CASES.findall(block)}


def label_of(experiment: str, arm: str) -> str:
    """An arm as the tables have it; those of the gap stand in none."""
    if experiment == "augmentation":
        return augmentation.ARMS[arm]
    if experiment == "scarcity":
        name, number = ARM.fullmatch(arm).groups()
        return f"{int(number)} patients: {scarcity.ARMS[name]}"
    return ""


def measured(
    experiment: str, rows: Sequence[Mapping[str, str]], cases: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """An experiment's sections as JSON.

    Args:
        rows: of each.csv.
        cases: of `cases_of`.
    """
    networks = networks_of(rows, lambda arm: cases.get(label_of(experiment, arm), ()))
    settings: Any = {"augmentation": augmentation.Settings(), "gap": gap.Settings()}.get(experiment)
    if experiment == "scarcity":
        numbers = tuple(sorted({int(ARM.fullmatch(n["arm"])[2]) for n in networks}))
        pairs = next(len(n["training"][-1]) for n in networks if n["arm"].startswith("synthetic"))
        settings = scarcity.Settings(numbers, pairs)
    found = {"networks": networks} | {key: {} for key in ("leak", "empty", "patients", "worst", "others")}
    targets = tuple(dict.fromkeys(row["target"] for row in rows))
    whole = report.report(experiment, SimpleNamespace(targets=targets), Recipe(), settings, found)
    return [section.to_json() for section in whole.sections]


def networks_of(rows: Sequence[Mapping[str, str]], cases: Callable[[str], Sequence[int]]) -> list[dict[str, Any]]:
    """The networks as `Store.network` returns them; of the training cases there is only their number.

    Args:
        cases: arm to these numbers.
    """
    networks: dict[tuple[str, ...], dict[str, Any]] = {}
    scores: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["arm"], row["fold"], row["seed"])
        network = networks.setdefault(
            key,
            {"arm": row["arm"], "fold": int(row["fold"]), "seed": int(row["seed"]), "scores": {}}
            | {"training": [range(n) for n in cases(row["arm"])]},
        )
        case = (*key, row["set"], row["case"])
        if case not in scores:
            scores[case] = {"case": row["case"], "patient": row["patient"], "dice": {}}
            network["scores"].setdefault(row["set"], []).append(scores[case])
        scores[case]["dice"][row["target"]] = float(row["dice"])
    return list(networks.values())


if __name__ == "__main__":
    raise SystemExit(main())
