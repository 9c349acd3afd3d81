"""The statistics of the data-scarce experiment once more, from every network's Dice on every case.

    python Testing/Benchmarks/scarcity_again.py Docs/Evaluation/Tables/utility-scarcity-each.csv --page \
        Docs/Evaluation/utility.md --picture Docs/Images/utility-scarcity.png

Reads `utility-tables/each.csv` of `synthdiffusion evaluate utility scarcity`, trains nothing, and puts sentences and
tables between the page's marks `scarcity`, and the curve into a picture. For when the statistics have changed and the
networks, which take an hour or more, have not.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluation_pages import put, sections_text

from SynthDiffusionLib.evaluation.utility import report, scarcity
from SynthDiffusionLib.evaluation.utility.networks import Recipe
from SynthDiffusionLib.reports.plots import draw

NAME = re.compile(r"(.+)-n(\d+)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("each", type=Path, help="each.csv")
    parser.add_argument("--pairs", type=int, default=scarcity.Settings().pairs, help="of the experiment (default 50)")
    parser.add_argument("--page", type=Path, help="Markdown page with the marks")
    parser.add_argument("--picture", type=Path, help="PNG file of the curve")
    args = parser.parse_args(arguments)
    sections = measured(args.each, args.pairs)
    lines = sections_text(sections)
    if args.page is None:
        print("\n".join(lines))
    else:
        old = args.page.read_text(encoding="utf-8")
        command = next(line for line in old.partition("<!-- scarcity: begin -->")[2].splitlines() if line)
        args.page.write_text(put(old, "scarcity", [command, "", *lines]), encoding="utf-8")
    if args.picture is not None:
        args.picture.write_bytes(draw(sections[0]["plots"][0], "png"))
    return 0


def measured(each: Path, pairs: int) -> list[dict[str, Any]]:
    """The experiment's sections as JSON."""
    with open(each, newline="", encoding="utf-8") as file:
        networks = networks_of(list(csv.DictReader(file)), pairs)
    patients = tuple(sorted({int(NAME.fullmatch(n["arm"])[2]) for n in networks}))
    settings = scarcity.Settings(patients, pairs, seeds=len({n["seed"] for n in networks}))
    found = {"networks": networks, "leak": {}, "empty": {}, "patients": {}}
    targets = tuple(networks[0]["scores"]["test"][0]["dice"])
    whole = report.report("scarcity", SimpleNamespace(targets=targets), Recipe(), settings, found)
    return [section.to_json() for section in whole.sections]


def networks_of(rows: Sequence[dict[str, str]], pairs: int) -> list[dict[str, Any]]:
    """The networks as `Store.network` returns them; of the training cases there is only their number."""
    networks: dict[tuple[str, ...], dict[str, Any]] = {}
    scores: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["arm"], row["fold"], row["seed"])
        arm, number = NAME.fullmatch(row["arm"]).groups()
        sizes = {scarcity.REAL: [int(number)], "synthetic": [pairs]}.get(arm, [int(number), pairs])
        network = networks.setdefault(
            key,
            {"arm": row["arm"], "fold": int(row["fold"]), "seed": int(row["seed"]), "scores": {"test": []}}
            | {"training": [range(n) for n in sizes]},
        )
        case = (*key, row["case"])
        if case not in scores:
            scores[case] = {"case": row["case"], "patient": row["patient"], "dice": {}}
            network["scores"]["test"].append(scores[case])
        scores[case]["dice"][row["target"]] = float(row["dice"])
    return list(networks.values())


if __name__ == "__main__":
    raise SystemExit(main())
