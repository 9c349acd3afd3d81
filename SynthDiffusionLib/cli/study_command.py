"""`synthdiffusion study`: reader studies, from a folder of volumes to a published table."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SynthDiffusionLib.cli import study_power
from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.errors import BadInput

EXAMPLES = """examples, in this order:
  synthdiffusion study new DESIGN.json --out STUDY        or, without a design file:
  synthdiffusion study new --real CT --synthetic GENERATED --readers R1,R2,R3 --out STUDY
  (hand STUDY/reading to the readers; they read it in Slicer, module SynthDiffusion, section Reader study)
  synthdiffusion study status STUDY
  synthdiffusion study verify STUDY
  synthdiffusion study analyse STUDY --out RESULTS
STUDY/private holds the key: readers must not see it."""

Outcome = tuple[list[str], dict[str, Any], int]  # lines, what --json prints, exit code
EXPORTS = ("long", "wide", "imrmc", "mrmcaov", "fhir", "codebook", "grras")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `study` and its own subcommands; `run` carries them out."""
    parser = subparsers.add_parser(
        "study",
        help="blinded reader studies: build, verify, merge, analyse",
        description="Builds blinded reader studies of real and synthetic volumes, checks what readers have answered, "
        "and analyses it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="study_action", metavar="WHAT", required=True)

    def action(name: str, help_text: str, *, study: bool = True) -> Callable[..., Any]:
        p = actions.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        if study:
            p.add_argument("study", type=path_arg, metavar="STUDY", help="folder that study new wrote")
        p.add_argument("--json", action="store_true", help="print one JSON object on the last line")
        return p.add_argument

    text = "build a study: rewrite its volumes under opaque names and draw every reader's order"
    add = action("new", text, study=False)
    add("design", nargs="?", type=path_arg, metavar="DESIGN.json", help="the design (Docs/READER_STUDIES.md shows one)")
    add("--real", type=path_arg, metavar="DIR", help="without a design: folder of real volumes")
    text = "folder of synthetic volumes, or NAME=DIR; once for each generator"
    add("--synthetic", action="append", metavar="DIR", help=text)
    add("--patients", type=path_arg, metavar="CSV", help="columns file and patient (default: a pair is a patient)")
    add("--masks", type=path_arg, metavar="DIR", help="segmentations with the names of the pairs, for mask-adherence")
    add("--form", default="turing", metavar="FORM", help="a shipped form or a JSON file (default turing)")
    add("--readers", default="R1,R2,R3", metavar="A,B", help="names of the readers (default R1,R2,R3)")
    add("--seed", type=int, default=1, metavar="N", help="seed of cases and orders (default 1)")
    add("--training", type=int, default=0, metavar="N", help="training cases of each kind, with feedback (default 0)")
    add("--repeats", type=float, default=0.0, metavar="X", help="fraction of cases that is shown twice (default 0)")
    add(
        "--margin",
        type=float,
        metavar="X",
        help="test equivalence within this margin, not a difference: of the area under the ROC curve with 0.5, of the "
        "proportion correct in forced choice with 0.5, of ratings of synthetic and real volumes, in steps of the scale",
    )
    add("--out", type=path_arg, required=True, metavar="STUDY", help="folder to write; must not exist or be empty")
    add("--events", action="store_true", help="print progress as JSON lines before the last line")

    add = action("add-reader", "draw the order of one more reader; also after reading has begun")
    add("--reader", required=True, metavar="NAME", help="letters, digits, - and _")
    add("--experience", metavar="TEXT", help="of the reader, for the coordinator's log")

    action("status", "how far each reader is, and whether the records verify")

    add = action("verify", "check every reader's record for edits, deletions, reordering and truncation")
    add("--receipts", type=path_arg, metavar="DIR", help="more receipts that readers have handed in")
    add("--records", type=path_arg, action="append", default=[], metavar="DIR", help="copies that readers read on")

    for name, text in (
        ("merge", "join the readers' records with the key into one table; this unblinds, and is logged"),
        ("analyse", "report, tables and plots: the primary endpoint first, all else exploratory"),
        ("export", "tables and forms for other programs"),
    ):
        add = action(name, text)
        add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the results; made if missing")
        add("--records", type=path_arg, action="append", default=[], metavar="DIR", help="copies that readers read on")
        add("--receipts", type=path_arg, metavar="DIR", help="more receipts that readers have handed in")
        add("--exclude", action="append", default=[], metavar="NAME", help="leave a reader out; the report says so")
        if name == "export":
            add("--kinds", default=",".join(EXPORTS), metavar="A,B", help=f"of {', '.join(EXPORTS)} (default: all)")

    add = action("form", "check a form, or show one that comes with the project", study=False)
    add("form", metavar="FORM", nargs="?", help="a JSON file or the id of a shipped form (none: list them)")

    study_power.add_parser(actions)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    actions: dict[str, Callable[[argparse.Namespace], Outcome]] = {
        "new": _new,
        "add-reader": _add_reader,
        "status": _status,
        "verify": _verify,
        "merge": _merge,
        "analyse": _analyse,
        "export": _export,
        "form": _form,
        "power": study_power.run,
    }
    lines, outcome, code = actions[args.study_action](args)
    print("\n".join(lines))
    if args.json:
        print(json.dumps(outcome, ensure_ascii=False))
    return code


def _new(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.jobs.events import json_lines
    from SynthDiffusionLib.jobs.worker import CANCEL_FILE
    from SynthDiffusionLib.reader_study.build import build_study
    from SynthDiffusionLib.reader_study.design import design_from_folders, load_design
    from SynthDiffusionLib.reader_study.primary_text import primary_text
    from SynthDiffusionLib.reader_study.study import Study

    if args.design is not None:
        if args.real or args.synthetic:
            raise BadInput("A design file was given and folders too", "Give DESIGN.json, or --real and --synthetic.")
        design = load_design(args.design)
    elif not (args.real and args.synthetic):
        raise BadInput("There is nothing to build a study from", "Give DESIGN.json, or --real DIR and --synthetic DIR.")
    else:
        design = design_from_folders(
            args.real,
            _arms(args.synthetic),
            readers=[name.strip() for name in args.readers.split(",") if name.strip()],
            form=args.form,
            seed=args.seed,
            training_cases=args.training,
            repeats=args.repeats,
            patients=args.patients,
            masks=args.masks,
            equivalence_margin=args.margin,
        )
    line = None if args.events else ProgressLine(quiet=args.json)
    try:
        on_event = json_lines(sys.stdout) if line is None else line
        # Who reads the events asks for an end as of a job: by a file in the working folder.
        asked = Path(CANCEL_FILE).exists if args.events else lambda: False
        built = build_study(design, args.out, on_event, asked)
    finally:
        if line is not None:
            line.close()
    lines = [
        f"{built.units} units of {built.volumes} volumes for {', '.join(built.readers)}",
        f"primary endpoint: {primary_text(Study.load(built.reading))}",
        *(f"note: {note}" for note in built.notes),
        *built.leaks,
        *(f"mend before anybody reads: {warning}" for warning in built.warnings),
        f"for the readers:     {built.reading}",
        f"for the coordinator: {built.private} (holds the key; leak report: {built.private / 'leaks.html'})",
    ]
    return lines, built.to_json(), 0


def _arms(given: list[str]) -> dict[str, Path]:
    """Folders of synthetic volumes by the name of their arm, which is the folder's unless it is given."""
    arms: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator or Path(text).is_dir():  # a folder whose name has a "="
            name, folder = _arm_name(Path(text).resolve().name), text
        if not folder.strip():
            raise BadInput("A folder of synthetic volumes is empty text", "Give --synthetic NAME=DIR.")
        path = Path(folder)
        if name in arms or name == "real":
            raise BadInput(
                f"Two arms would be called '{name}'", "Rename a folder, or give --synthetic NAME=DIR with other names."
            )
        arms[name] = path
    return arms


def _arm_name(folder: str) -> str:
    """A folder's name as that of an arm: names of arms become parts of file names."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder).strip("-_")[:40] or "synthetic"


def _add_reader(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.reader_study.build import add_reader

    path = add_reader(args.study, args.reader, args.experience)
    return [str(path)], {"order": str(path)}, 0


def _status(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.reader_study.primary_text import primary_text
    from SynthDiffusionLib.reader_study.study import Study
    from SynthDiffusionLib.reader_study.verify import verify_study

    study = Study.load(args.study)
    found = verify_study(args.study)
    rows: list[dict[str, Any]] = []
    for reader in study.readers():
        try:
            to_read = len(study.order(reader)[0])
        except BadInput:  # its file is damaged, which verify tells of
            to_read = None
        result = found.readers.get(reader)
        rows.append(
            {
                "reader": reader,
                "answered": len(result.answers) if result else 0,
                "to_read": to_read,
                "sittings": result.history.sittings if result else 0,
                "verified": None if result is None else result.ok,
            }
        )
    begun = study.is_frozen or any(result.count for result in found.readers.values())
    state = {None: "not begun", True: "record verifies", False: "record is damaged: see study verify"}
    lines = [
        f"{study.title} (study {study.id}, " + ("reading has begun" if begun else "nobody has begun") + ")",
        primary_text(study),
        *(
            f"{r['reader']}: {r['answered']} of {r['to_read'] or 'an unknown number'} answered "
            f"in {r['sittings']} sitting{'' if r['sittings'] == 1 else 's'}; {state[r['verified']]}"
            for r in rows
        ),
    ]
    if not found.ok:
        lines.append("Not everything verifies: see study verify.")
    return lines, {"study": study.id, "frozen": study.is_frozen, "primary": dict(study.primary), "readers": rows}, 0


def _verify(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.reader_study.receipts import receipts_in
    from SynthDiffusionLib.reader_study.verify import LIMITS, verify_study

    problems: list[str] = []
    held = list(receipts_in(_folder(args.receipts), problems)) if args.receipts else []
    found = verify_study(args.study, receipts=held, copies=[_folder(r) for r in args.records])
    lines = list(problems)
    for reader, result in found.readers.items():
        state = "verifies" if result.ok else "IS DAMAGED"
        confirmed = f"{result.confirmed} of them confirmed by receipts held elsewhere"
        lines.append(f"{reader}: {state}; {result.count} records, {confirmed}")
        lines += [f"  {sentence}" for sentence in result.sentences()]
    lines += [f"{reader}: not begun" for reader in found.not_begun]
    if found.coordinator is not None:
        lines.append("coordinator's log: " + ("verifies" if found.coordinator.ok else "IS DAMAGED"))
        lines += [f"  {sentence}" for sentence in found.coordinator.sentences()]
    lines += [f"{f.severity}: {f.message}" for f in found.findings]
    ok = found.ok and not problems
    outcome = {
        "ok": ok,
        "readers": {
            reader: {
                "ok": r.ok,
                "records": r.count,
                "head": r.head_hash,
                "confirmed": r.confirmed,
                "findings": [vars(f) for f in r.findings],
            }
            for reader, r in found.readers.items()
        },
        "not_begun": found.not_begun,
        "findings": [vars(f) for f in found.findings],
        "limits": LIMITS,
    }
    return [*lines, "", LIMITS], outcome, 0 if ok else 1


def _merge(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.jobs.provenance import write_json
    from SynthDiffusionLib.reader_study.exports import long_csv

    merged = _merged(args)
    paths = {"ratings": args.out / "ratings.csv", "merge": args.out / "merge.json"}
    long_csv(merged, paths["ratings"])
    write_json(paths["merge"], merged.to_json())
    lines = [*merged.problems, *map(str, paths.values())]
    return lines, {k: str(p) for k, p in paths.items()} | {"problems": list(merged.problems)}, 0


def _analyse(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.reader_study.analysis import analyse
    from SynthDiffusionLib.reader_study.report import write_report

    merged = _merged(args)
    result = analyse(merged)
    paths = write_report(result, args.out)
    primary = next((s for s in result["sections"] if s["id"] == "primary"), None)
    lines = [*merged.problems, *(primary["sentences"] if primary else ()), str(paths["html"])]
    return lines, {k: str(p) for k, p in paths.items()}, 0


def _export(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.reader_study.write_exports import write_exports

    kinds = [kind.strip() for kind in args.kinds.split(",") if kind.strip()]
    unknown = [kind for kind in kinds if kind not in EXPORTS]
    if unknown or not kinds:
        raise BadInput(f"'{', '.join(unknown)}' is no kind of export", f"Choose of {', '.join(EXPORTS)}.")
    merged = _merged(args)
    paths, notes = write_exports(merged, args.out, kinds)
    return [*merged.problems, *notes, *map(str, paths)], {"files": [str(p) for p in paths], "notes": notes}, 0


def _merged(args: argparse.Namespace) -> Any:
    from SynthDiffusionLib.output_folders import check_writable
    from SynthDiffusionLib.reader_study.merge import merge
    from SynthDiffusionLib.reader_study.study import reading_folder

    receipts = [_folder(args.receipts)] if args.receipts else []
    if args.out.resolve().is_relative_to(reading_folder(args.study).resolve()):
        raise BadInput(
            f"'{args.out}' is in the readers' folder, and the results tell the truth", "Choose another --out."
        )
    check_writable(args.out)
    merged = merge(args.study, [_folder(r) for r in args.records], receipts=receipts, exclude=args.exclude)
    args.out.mkdir(parents=True, exist_ok=True)
    return merged


def _folder(path: Path) -> Path:
    if not path.exists():
        raise BadInput(f"'{path}' does not exist", "Check the path.")
    return path


def _form(args: argparse.Namespace) -> Outcome:
    from SynthDiffusionLib.reader_study.forms import load_form, shipped_forms

    shipped = shipped_forms()
    if args.form is None:
        forms = {name: load_form(path) for name, path in shipped.items()}
        lines = [f"{name:22s}{form.title}" for name, form in forms.items()]
        return lines, {"forms": list(forms)}, 0
    form = load_form(shipped.get(args.form, Path(args.form)))
    lines = [f"{form.title} ({form.id}): {len(form.items)} items", form.source]
    for item in form.items:
        condition = f", if {item.show_if['item']}" if item.show_if else ""
        needed = ", required" if item.required else ""
        lines.append(f"  {item.id} ({item.type}, per {item.per}{needed}{condition}): {item.text}")
        lines += [f"      {option.value}: {option.label}" for option in item.options]
    return [line for line in lines if line], {"form": dict(form.raw)}, 0
