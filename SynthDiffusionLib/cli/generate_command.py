"""`synthdiffusion generate`: synthetic volumes from a segmentation."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.cli.paths import path_arg
from SynthDiffusionLib.jobs.request import GenerateRequest

EXAMPLES = """examples:
  synthdiffusion generate nodule.seg.nrrd --model lung-nodule-ct --out results
  synthdiffusion generate nodule.seg.nrrd --model lung-nodule-ct --out results --samples 5 --seed 1
  synthdiffusion generate drawn.seg.nrrd --model lung-nodule-ct --out results --mode inpaint --image chest.nrrd
  synthdiffusion generate --model limb-tumour-ct --out results --size 96x96x48
  synthdiffusion generate --model JOINT_MODEL --out results --mode joint --tumour volume_mm3=20000,sphericity=0.6
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
        nargs="?",
        metavar="SEGMENTATION",
        help="label map (.nii.gz, .nrrd, .mha), .seg.nrrd, or DICOM SEG; without it, a model that can do so makes a "
        "volume without a drawing, or together with its segmentation",
    )
    add("--model", required=True, metavar="ID", help="ID or folder of a model; see: synthdiffusion models list")
    add("--out", type=path_arg, required=True, metavar="DIR", help="folder for the results; made if missing")
    add(
        "--image",
        type=path_arg,
        metavar="VOLUME",
        help="real volume to inpaint into: file, or folder with a DICOM series",
    )
    add("--samples", type=int, default=1, metavar="N", help="number of different volumes (default 1)")
    add("--seed", type=int, metavar="N", help="seed of the first volume, the next have N+1, ... (default: random)")
    add("--case", metavar="NAME", help="what the names of the files begin with (default: the segmentation's name)")
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how a volume is made, in the form that `request_of` takes them."""
    add = parser.add_argument
    add(
        "--mode",
        metavar="MODE",
        help="whole: every voxel is synthetic (default); inpaint: only what is drawn, into --image; unconditional: "
        "without a drawing (default without SEGMENTATION); joint: image and segmentation together (default without "
        "SEGMENTATION for models that can only do that, and with --tumour alone)",
    )
    add(
        "--tumour",
        metavar="NAME=VALUE,...",
        help="for joint: what the tumour is to be like; what is left out is drawn as in the training data. Names: "
        "volume_mm3, surface_mm2, sphericity (0 to 1), center and box, both RxAxS in mm, the center from the middle of "
        "the volume; as volume_mm3=20000,sphericity=0.6,center=0x10x-5,box=40x30x50",
    )
    add(
        "--labels",
        type=_labels_arg,
        metavar="MAP.json",
        help='which segment is which class, as {"Left lung": "lung", "3": "nodule", "heart": null}; a file or text',
    )
    add("--classes", metavar="A,B", help="use only these classes of the segmentation, such as nodule")
    add("--crop", action="store_true", help="cut a segmentation that is too large to a box around the drawing")
    add(
        "--size",
        type=_size_arg,
        metavar="XxYxZ",
        help="voxels of the volume, for models that make several sizes; nearest: the one nearest to the segmentation's",
    )
    add("--spacing", type=_spacing_arg, metavar="MM", help="their size, as 1.5 or 0.8x0.8x2.5, for such models")
    add("--format", default="nii.gz", metavar="FORMAT", help="nii.gz (default) or nrrd")
    add("--scene", action="store_true", help="also write a 3D Slicer scene (.mrb); needs the extra 'slicer'")
    add("--adherence", action="store_true", help="measure how well each volume follows the drawing, if the model can")
    add("--json", action="store_true", help="print one JSON object on the last line")
    more = parser.add_argument_group("advanced")
    add = more.add_argument
    add(
        "--sampler",
        metavar="NAME",
        help="ddpm, ddim, dpmpp-2m or unipc; for rectified flow euler, heun, dpmpp-2m, unipc or maisi-rflow "
        "(default: the model's)",
    )
    add("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    add(
        "--guidance",
        type=float,
        metavar="X",
        help="how strongly to follow the drawing; 1 is off, other values double the time (default: the model's)",
    )
    add(
        "--condition-scale",
        type=float,
        metavar="X",
        help="strength of the drawing's own network, for models that have one: 1 is as trained, 0 ignores the drawing",
    )
    add(
        "--region",
        type=_region_arg,
        metavar="TOP,BOTTOM",
        help="body regions at the two ends of the volume, such as chest,abdomen (default: from the drawing)",
    )
    add("--modality", metavar="NAME", help="kind of image, for models that make several (default: the model's first)")
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
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or cuda:N")
    add("--precision", default="auto", metavar="NAME", help="auto (default), fp32, bf16 or fp16")
    add(
        "--vram-limit",
        metavar="SIZE",
        help="refuse what would take more GPU memory, or on the CPU a larger process, such as 8GiB "
        "(default: what is free, on a GPU at most 24GiB)",
    )
    add(
        "--strategy",
        type=_strategy_arg,
        metavar="STAGE=WAY,..",
        help="how stages are computed, such as decode=stream or denoise=offload,decode=stream-host: whole (default), "
        "offload, stream, stream-recompute, stream-host or chunk; slices=16 or windows=4 at once for models that "
        "have such; all give the same volume",
    )


def _labels_arg(text: str) -> str:
    """A path as `path_arg` takes it, or a label map itself."""
    path_arg(text)
    return text


def _size_arg(text: str) -> tuple[int, int, int] | str:
    """ "256x256x128" or "nearest"."""
    if re.fullmatch(r"\d{1,5}(x\d{1,5}){2}", text):
        return tuple(int(n) for n in text.split("x"))
    if text == "nearest":
        return text
    raise argparse.ArgumentTypeError(f"'{text}' is no size: give it as 256x256x128, or nearest")


def _spacing_arg(text: str) -> tuple[float, float, float]:
    """ "1.5" or "0.8x0.8x2.5"."""
    number = r"\d{1,4}(\.\d{1,20})?"  # as many digits as Python writes
    if not re.fullmatch(rf"{number}(x{number}x{number})?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no spacing: give it as 1.5, or as 0.8x0.8x2.5 (mm)")
    parts = [float(n) for n in text.split("x")]
    return tuple(parts * 3 if len(parts) == 1 else parts)


def _region_arg(text: str) -> tuple[str, str]:
    """ "chest,abdomen", or "chest" for both ends."""
    parts = [part.strip().lower() for part in text.split(",")]
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no region: give it as chest,abdomen")
    return (parts[0], parts[-1])


def _strategy_arg(text: str) -> dict[str, str | bool | int]:
    """ "decode=stream,slices=16" as `Execution.from_json` takes it."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(name and way for name, _, way in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no strategy: give it as decode=stream")
    if len({name for name, _, _ in parts}) < len(parts):
        raise argparse.ArgumentTypeError(f"'{text}' names a stage twice")
    values = {"true": True, "false": False}
    return {name: int(way) if re.fullmatch(r"\d{1,9}", way) else values.get(way, way) for name, _, way in parts}


def request_of(
    args: argparse.Namespace, segmentation: Path | None, image: Path | None, **others: Any
) -> GenerateRequest:
    """The request that the options of `add_settings` stand for.

    Args:
        args: with `model` and `out` too.
        segmentation: file of it, or None.
        image: the real volume to inpaint into, or None.
        others: fields of the request that no option of `add_settings` sets.

    Raises:
        BadInput: they do not go together.
    """
    from SynthDiffusionLib.jobs.tumour import parse_tumour
    from SynthDiffusionLib.labels.label_map import read_label_map
    from SynthDiffusionLib.memory.plan import parse_bytes

    tumour = parse_tumour(args.tumour) if args.tumour is not None else None
    return GenerateRequest(
        segmentation=segmentation,
        model=args.model,
        out=args.out,
        mode=args.mode or _default_mode(args, segmentation),
        image=image,
        labels=read_label_map(args.labels) if args.labels is not None else None,
        classes=tuple(c.strip() for c in args.classes.split(",")) if args.classes is not None else None,
        crop=args.crop,
        sampler=args.sampler,
        steps=args.steps,
        guidance=args.guidance,
        device=args.device,
        precision=args.precision,
        vram_limit=parse_bytes(args.vram_limit) if args.vram_limit is not None else None,
        format=args.format,
        scene=args.scene,
        inpaint_method=args.inpaint_method,
        margin_mm=args.margin,
        adherence=args.adherence,
        size=args.size,
        spacing_mm=args.spacing,
        condition_scale=args.condition_scale,
        region=args.region,
        modality=args.modality,
        tumour=tumour,
        strategies=args.strategy,
        **others,
    )


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed."""
    from SynthDiffusionLib.cli.progress import ProgressLine
    from SynthDiffusionLib.memory.heap import keep_heap_small

    keep_heap_small()
    request = request_of(args, args.segmentation, args.image, samples=args.samples, seed=args.seed, case=args.case)
    from SynthDiffusionLib.jobs.runner import run as run_job

    line = ProgressLine(quiet=args.json)
    try:
        result = run_job(request, line)
    finally:
        line.close()
    for output in result.outputs:
        print(output["volume"])
        if "tumour" in output:
            print(_tumour_text(output["tumour"]), file=sys.stderr)
        if request.adherence:
            print(_adherence_text(output), file=sys.stderr)
    if args.json:
        print(json.dumps(result.to_json()))
    return 0


def _default_mode(args: argparse.Namespace, segmentation: Path | None) -> str:
    """The mode where none is given."""
    if segmentation is not None:
        return "whole"
    if args.tumour is not None:
        return "joint"
    from SynthDiffusionLib.errors import ModelError
    from SynthDiffusionLib.models import load_package

    try:
        modes = load_package(args.model, verify=False).spec.modes
    except ModelError:
        return "unconditional"  # the run says what is wrong with the model, after what is wrong with the request
    return "joint" if modes == ("joint",) else "unconditional"


def _tumour_text(tumour: Mapping[str, Any]) -> str:
    """What the model was told in the joint mode, asked for or drawn, and what it made."""

    def words(values: Mapping[str, float] | None) -> str:
        if values is None:
            return "nothing"
        place = " x ".join(f"{values[f'center_{axis}_mm']:.0f}" for axis in "ras")
        ml = values["volume_mm3"] / 1000
        size = f"{ml:,.0f}" if ml >= 100 else f"{ml:.3g}"
        return f"{size} ml, sphericity {values['sphericity']:.2f}, centre {place} mm"

    return f"  told: {words(tumour['used'])}\n  made: {words(tumour['measured'])}"


def _adherence_text(output: Mapping[str, Any]) -> str:
    """What `--adherence` has measured, a line for each class, beside what no skill and real images get."""
    if output["adherence"] is None:
        return f"  adherence: not measured, {output['adherence_note']}"
    targets = output["adherence"].get("targets") or {"": output["adherence"]}
    return "\n".join(_target_text(measured) for measured in targets.values())


def _target_text(measured: Mapping[str, Any]) -> str:
    rows = (("real images", "real_dice"), ("blind ball", "ball_dice"), ("flat picture with a blob", "cartoon_dice"))
    known = ", ".join(f"{name} {measured[key]:.2f}" for name, key in rows if measured[key] is not None)
    found = f"Dice {measured['dice']:.2f}, {measured['found']} of {measured['structures']} found"
    advice = "; look at other seeds, or raise --guidance" if measured["found"] < measured["structures"] else ""
    return f"  adherence of {measured['class']}: {found}" + (f" ({known})" if known else "") + advice
