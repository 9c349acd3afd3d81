"""`synthdiffusion export nnunet`, `decathlon` and `bids`: real and synthetic volumes as one training set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from SynthDiffusionLib.cli.evaluate_sets import seed_arg
from SynthDiffusionLib.cli.paths import path_arg

if TYPE_CHECKING:
    from SynthDiffusionLib.export.set_form import SetForm

FORMS = {
    "nnunet": "a data set of nnU-Net v2, with folds",
    "decathlon": "the form of the Medical Segmentation Decathlon, which MONAI reads",
    "bids": "laid out like BIDS",
}
_DESCRIPTION = (
    "Writes real volumes with their label maps, and volumes that generate has written with what they were made from, "
    "as one training set: {what}. Volumes of one patient, of one mask or of one image stay on one side of every split. "
    "Test and validation parts have real volumes only, if there are any."
)


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Adds `export nnunet`, `export decathlon` and `export bids`."""
    for form, what in FORMS.items():
        parser = kinds.add_parser(
            form,
            help=f"a training set of real and synthetic volumes: {what}",
            description=_DESCRIPTION.format(what=what),
        )
        parser.set_defaults(run=run)
        _add_options(parser, form)


def _add_options(parser: argparse.ArgumentParser, form: str) -> None:
    add = parser.add_argument
    add("--real", type=path_arg, metavar="DIR", help="real volumes (NIfTI, NRRD or MetaImage)")
    add("--real-labels", type=path_arg, metavar="DIR", help="their label maps, of the same names")
    add("--synthetic", type=path_arg, metavar="DIR", help="what generate has written, with the records (.json)")
    add(
        "--synthetic-labels",
        type=path_arg,
        metavar="DIR",
        help="the segmentations that they were made from (joint models: what lies beside the volumes)",
    )
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the new folder; made if missing")
    add("--name", default="SynthDiffusion", metavar="NAME", help="of the set (default SynthDiffusion)")
    if form == "nnunet":
        add("--id", type=int, default=900, metavar="N", help="number of the data set, 1 to 999 (default 900)")
        add("--folds", type=int, default=5, metavar="N", help="folds of the cross-validation (default 5)")
    else:
        add("--validation", type=float, default=0.2, metavar="X", help="share that is validated on (default 0.2)")
    if form == "bids":
        add("--suffix", metavar="NAME", help="of the images: T1w (default for MR), T2w, FLAIR, ... or ct")
    add(
        "--classes",
        metavar="NAMES",
        help="names of label values that the files have no names for: 1=liver,2=spleen, or a CSV file (value, name)",
    )
    add("--synthetic-classes", metavar="NAMES", help="the same for synthetic label maps (default: --classes)")
    add("--all-classes", action="store_true", help="keep classes of synthetic label maps that no real one has")
    add("--modality", choices=("CT", "MR"), help="default: as the records say, else told from the values")
    add("--patients", type=path_arg, metavar="CSV", help="table with the columns case and patient")
    add(
        "--patient-pattern",
        metavar="REGEX",
        help="matched from the name's first letter on, its first group is the patient (default: the whole case name)",
    )
    add(
        "--test-real",
        type=int,
        default=0,
        metavar="N",
        help="real patients for the test part, drawn among those that no generator of the set was trained on",
    )
    add("--test-patients", metavar="NAMES", help="or their names: A,B,C, or a text file with a name a line")
    add(
        "--trained-on",
        type=path_arg,
        metavar="FILE",
        help="list of all patients that the models were trained on (default: what the installed packages say); no test "
        "patient may be on it",
    )
    add("--seed", type=seed_arg, default=2026, metavar="N", help="of everything that is drawn (default 2026)")
    add("--skip-unusable", action="store_true", help="leave files out that cannot be used, instead of stopping")
    add("--json", action="store_true", help="print one JSON object on the last line")


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.evaluation.sets.lists import parse_classes
    from SynthDiffusionLib.export.training_set import SetRequest, export_training_set

    real_names = parse_classes(args.classes) if args.classes else {}
    request = SetRequest(
        _form(args),
        args.name,
        args.out,
        args.real,
        args.real_labels,
        args.synthetic,
        args.synthetic_labels,
        real_names,
        parse_classes(args.synthetic_classes) if args.synthetic_classes else real_names,
        args.modality,
        args.patients,
        args.patient_pattern,
        args.test_real,
        _names(args.test_patients) if args.test_patients else (),
        getattr(args, "validation", 0.0),
        getattr(args, "folds", 0),
        args.trained_on,
        args.seed,
        args.skip_unusable,
        args.all_classes,
    )
    line = ProgressLine()
    try:
        written = export_training_set(request, line)
    finally:
        line.close()
    for note in written.notes:
        print(f"note: {note}", file=sys.stderr)
    for part, kinds in written.counts().items():
        print(f"{part}: {', '.join(f'{number} {kind}' for kind, number in kinds.items())}")
    print(written.folder)
    if args.json:
        about = {"folder": str(written.folder), "volumes": written.counts(), "groups": written.groups}
        print(json.dumps(about | {"notes": list(written.notes)}, ensure_ascii=False))
    return 0


def _form(args: argparse.Namespace) -> SetForm:
    if args.export_kind == "nnunet":
        from SynthDiffusionLib.export.nnunet import NnUNet

        return NnUNet(args.id)
    if args.export_kind == "decathlon":
        from SynthDiffusionLib.export.decathlon import Decathlon

        return Decathlon()
    from SynthDiffusionLib.export.bids import Bids

    return Bids(args.suffix)


def _names(text: str) -> tuple[str, ...]:
    """Names of patients from "A,B", or from a file as `lists.training_list` reads it."""
    from SynthDiffusionLib.evaluation.sets.lists import training_list

    if Path(text).is_file():
        return tuple(entry.patient or entry.names[-1] for entry in training_list(Path(text)))
    return tuple(name.strip() for name in text.split(",") if name.strip())
