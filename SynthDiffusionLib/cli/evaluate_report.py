"""`synthdiffusion evaluate report`: one page of all measures of folders."""

from __future__ import annotations

import argparse
import json

from SynthDiffusionLib.cli.paths import path_arg

HELP = "one page of the results of fidelity, adherence, volumes, memorisation and utility, answers first"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the report."""
    parser.add_argument(
        "results",
        nargs="+",
        type=path_arg,
        metavar="RESULTS",
        help="folders of --out of those measures (or single KIND.json files), made with --real and --synthetic",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page")


def run_report(args: argparse.Namespace) -> int:
    """Reads the results, writes JSON, CSV and HTML into `--out`, prints the answers."""
    from SynthDiffusionLib.evaluation.sets import overview as overviews
    from SynthDiffusionLib.output_folders import check_writable

    found = overviews.find_results(args.results)
    check_writable(args.out)
    overview, page = overviews.drawn(overviews.combine(found, args.title))
    paths = {key: str(path) for key, path in overviews.write_overview(overview, args.out, page).items()}
    print("\n".join([*overviews.overview_lines(overview), "", paths["html"], paths["json"]]))
    if args.json:
        print(json.dumps(paths, ensure_ascii=False))
    return 0
