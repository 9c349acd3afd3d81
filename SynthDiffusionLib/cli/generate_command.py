"""`synthdiffusion generate`: synthetic volumes from a segmentation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.jobs.request import GenerateRequest

EXAMPLES = """examples:
  synthdiffusion generate nodule.seg.nrrd --model lung-nodule-ct --out results
  synthdiffusion generate nodule.seg.nrrd --model lung-nodule-ct --out results --samples 5 --seed 1
  synthdiffusion generate drawn.seg.nrrd --model lung-nodule-ct --out results --mode inpaint --image chest.nrrd
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `generate`; `run` carries it out."""
    parser = subparsers.add_parser(
        "generate",
        help="make synthetic volumes from a segmentation",
        description="Makes synthetic volumes from a segmentation, whole or drawn into a real volume. Beside each "
        "volume lie its provenance (.json) and a contact sheet (.png).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "segmentation",
        type=path_arg,
        metavar="SEGMENTATION",
        help="label map (.nii.gz, .nrrd, .mha), .seg.nrrd, or DICOM SEG",
    )
    add("--model", required=True, metavar="ID", help="ID or folder of a model; see: synthdiffusion models list")
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the results; made if missing")
    add(
        "--mode",
        default="whole",
        metavar="MODE",
        help="whole: every voxel is synthetic (default); inpaint: only what is drawn, into --image",
    )
    add(
        "--image",
        type=path_arg,
        metavar="VOLUME",
        help="real volume to inpaint into: file, or folder with a DICOM series",
    )
    add(
        "--labels",
        type=_labels_arg,
        metavar="MAP.json",
        help='which segment is which class, as {"Left lung": "lung", "3": "nodule", "heart": null}; a file or text',
    )
    add("--classes", metavar="A,B", help="use only these classes of the segmentation, such as nodule")
    add("--crop", action="store_true", help="cut a segmentation that is too large to a box around the drawing")
    add("--samples", type=int, default=1, metavar="N", help="number of different volumes (default 1)")
    add("--seed", type=int, metavar="N", help="seed of the first volume, the next have N+1, ... (default: random)")
    add("--format", default="nii.gz", metavar="FORMAT", help="nii.gz (default) or nrrd")
    add("--scene", action="store_true", help="also write a 3D Slicer scene (.mrb); needs the extra 'slicer'")
    add("--adherence", action="store_true", help="measure how well each volume follows the drawing, if the model can")
    add("--json", action="store_true", help="print one JSON object on the last line")
    more = parser.add_argument_group("advanced")
    add = more.add_argument
    add("--sampler", metavar="NAME", help="ddpm, ddim, dpmpp-2m or unipc (default: the model's)")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    add(
        "--guidance",
        type=float,
        metavar="X",
        help="how strongly to follow the drawing; 1 is off, other values double the time (default: the model's)",
    )
    add(
        "--margin",
        type=float,
        metavar="MM",
        help="width of the rim that is synthesised around a drawn region, at least 1.5 voxels (default: the model's)",
    )
    add(
        "--inpaint-method",
        default="conditioned",
        metavar="NAME",
        help="conditioned (default), or replacement for comparison",
    )
    add("--case", metavar="NAME", help="what the names of the files begin with (default: the segmentation's name)")
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or cuda:N")
    add("--precision", default="auto", metavar="NAME", help="auto (default), fp32, bf16 or fp16")
    add(
        "--vram-limit",
        metavar="SIZE",
        help="refuse what would take more GPU memory, or on the CPU a larger process, such as 8GiB "
        "(default: what is free, on a GPU at most 24GiB)",
    )
    parser.set_defaults(run=run)
    return parser


def _labels_arg(text: str) -> str:
    """A path as `path_arg` takes it, or a label map itself."""
    path_arg(text)
    return text


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.labels.label_map import read_label_map
    from SynthDiffusionLib.memory.plan import parse_bytes

    request = GenerateRequest(
        segmentation=args.segmentation,
        model=args.model,
        out=args.out,
        mode=args.mode,
        image=args.image,
        labels=read_label_map(args.labels) if args.labels is not None else None,
        classes=tuple(c.strip() for c in args.classes.split(",")) if args.classes is not None else None,
        crop=args.crop,
        sampler=args.sampler,
        steps=args.steps,
        seed=args.seed,
        samples=args.samples,
        guidance=args.guidance,
        device=args.device,
        precision=args.precision,
        vram_limit=parse_bytes(args.vram_limit) if args.vram_limit is not None else None,
        format=args.format,
        scene=args.scene,
        inpaint_method=args.inpaint_method,
        margin_mm=args.margin,
        case=args.case,
        adherence=args.adherence,
    )
    from SynthDiffusionLib.jobs.runner import run as run_job

    line = ProgressLine(quiet=args.json)
    try:
        result = run_job(request, line)
    finally:
        line.close()
    for output in result.outputs:
        print(output["volume"])
        if request.adherence:
            print(_adherence_text(output), file=sys.stderr)
    if args.json:
        print(json.dumps(result.to_json()))
    return 0


def _adherence_text(output: Mapping[str, Any]) -> str:
    """What `--adherence` has measured, beside what no skill and real images get."""
    measured = output["adherence"]
    if measured is None:
        return f"  adherence: not measured, {output['adherence_note']}"
    rows = (("real images", "real_dice"), ("blind ball", "ball_dice"), ("flat picture with a blob", "cartoon_dice"))
    known = ", ".join(f"{name} {measured[key]:.2f}" for name, key in rows if measured[key] is not None)
    found = f"Dice {measured['dice']:.2f}, {measured['found']} of {measured['structures']} found"
    return f"  adherence of {measured['class']}: {found}" + (f" ({known})" if known else "")
