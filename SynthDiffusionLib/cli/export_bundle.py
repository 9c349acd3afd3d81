"""`synthdiffusion export bundle`: an installed model as a MONAI bundle."""

from __future__ import annotations

import argparse
import json
import sys

from SynthDiffusionLib.cli.paths import path_arg


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Adds `export bundle`."""
    parser = kinds.add_parser(
        "bundle",
        help="an installed model as a MONAI bundle",
        description="Writes an installed model as a MONAI bundle DIR/ID, which monai.bundle verifies and runs: "
        "metadata, configuration, weights as state dicts, model card and licence.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL_ID", help="ID of an installed model, or a package folder")
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the bundle; made if missing")
    add("--json", action="store_true", help="print one JSON object on the last line")


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.bundles.write import export_bundle

    written = export_bundle(args.model, args.out)
    for note in written.notes:
        print(f"note: {note}", file=sys.stderr)
    print(written.folder)
    if args.json:
        weights = {role: str(path) for role, path in written.weights.items()}
        print(json.dumps({"folder": str(written.folder), "weights": weights, "notes": list(written.notes)}))
    return 0
