"""`synthdiffusion plan`: what a volume of a size is predicted to take, before anything is computed."""

from __future__ import annotations

import argparse
import json
import math
import re
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.needs import Needs
    from SynthDiffusionLib.memory.outlook import Outlook
    from SynthDiffusionLib.models.spec import ModelSpec

PREDICTED = "These are predictions, not measurements: take them as good to a factor of two."
MARGINS = (
    "The tables hold live tensors. On a GPU they are taken 2.4 times, the largest ratio of NVIDIA's reported peaks to "
    "them (1.7 to 2.4), on a CPU 1.2 times."
)
EXAMPLES = """examples:
  synthdiffusion plan --model medlord-x4 --size 512x512x256
  synthdiffusion plan --model maisi-rflow --size 512x512x128 --vram-limit 16GiB
  synthdiffusion plan --model lung-nodule-ct --device cpu
The device need not be there, and a preset needs no weights."""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `plan`; `run` carries it out."""
    parser = subparsers.add_parser(
        "plan",
        help="predict the memory that a volume of a size takes, and the largest that fits",
        description="Predicts the memory of every stage of making one volume, says whether it fits and the largest "
        "size that does. Works for installed models and for presets, without a GPU. " + PREDICTED,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="ID or folder of a model, or a preset")
    add("--size", type=_size_arg, metavar="XxYxZ", help="voxels of the volume (default: the model's largest)")
    add("--vram-limit", metavar="SIZE", help="memory that may be used, such as 16GiB (default 24GiB; cpu: free memory)")
    add("--device", default="cuda", metavar="NAME", help="cuda (default) or cpu; it need not be there")
    add("--precision", default="auto", metavar="NAME", help="auto (default: cuda bf16, cpu fp32), fp32, bf16 or fp16")
    add("--unconditional", action="store_true", help="without a segmentation")
    add("--json", action="store_true", help="print one JSON object on the last line")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed.

    Returns:
        the exit code, 0, whether or not it fits.
    """
    from SynthDiffusionLib.memory.fit import DEFAULT_LIMIT, choose_precision
    from SynthDiffusionLib.memory.outlook import look_ahead
    from SynthDiffusionLib.memory.plan import parse_bytes

    device = _device(args.device)
    if args.precision not in ("auto", "fp32", "bf16", "fp16"):
        raise BadInput(f"Unknown precision '{args.precision}'", "Choose auto, fp32, bf16 or fp16.")
    precision = choose_precision(args.precision, device, "fp32" if device == "cpu" else "bf16")
    limit = parse_bytes(args.vram_limit) if args.vram_limit else (_free_bytes() if device == "cpu" else DEFAULT_LIMIT)
    spec, parameters, needs, kind = _model(args.model)
    conditional = _conditional(spec, args.unconditional)
    outlook = look_ahead(
        spec,
        args.size or _default_size(spec),
        parameters=parameters,
        device=device,
        precision=precision,
        limit_bytes=limit,
        conditional=conditional,
        needs=needs,
    )
    settings = {"model": spec.id, "kind": kind, "device": device, "precision": precision}
    if args.json:
        print(json.dumps(_result(outlook, settings, parameters, conditional)))
    else:
        print("\n".join(_lines(outlook, settings, spec)))
    return 0


def _size_arg(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){2}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no size: give it as 512x512x256")
    return tuple(int(n) for n in text.split("x"))


def _memory(n: int) -> str:
    return f"{n / 1024**3:.1f} GiB" if n >= 1024**3 else f"{n / 1024**2:.0f} MiB"


def _device(name: str) -> str:
    """ "cpu" or "cuda"; a prediction does not depend on which GPU."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise BadInput(f"Unknown device '{name}'", "Choose cuda or cpu.")
    return name.split(":")[0]


def _free_bytes() -> int:
    import psutil

    return psutil.virtual_memory().available


def _model(id_or_path: str) -> tuple[ModelSpec, dict[str, int], Needs | None, str]:
    """Description, trainable numbers by role, needs (of a package in voxel space), and "package" or "preset"."""
    from SynthDiffusionLib.models.catalogue import catalogue_ids, load_entry
    from SynthDiffusionLib.models.folders import package_folders
    from SynthDiffusionLib.models.package import load_package, tensor_shapes
    from SynthDiffusionLib.models.presets import is_preset, load_preset, parameter_counts, preset_ids
    from SynthDiffusionLib.schemas import closest

    if is_preset(id_or_path):
        spec = load_preset(id_or_path)
        return spec, parameter_counts(spec), None, "preset"
    if re.fullmatch(r"[a-z0-9-]+", id_or_path) and id_or_path not in package_folders():
        if id_or_path in catalogue_ids():  # not installed: its design is what can be said
            spec = load_preset(load_entry(id_or_path).preset)
            return spec, parameter_counts(spec), None, "preset"
        near = closest(id_or_path, [*package_folders(), *preset_ids()])
        raise BadInput(
            f"There is neither a model nor a preset '{id_or_path[:80]}'",
            (f"Did you mean '{near}'? " if near else "")
            + f"Presets: {', '.join(preset_ids())}; models: {', '.join(sorted(package_folders())) or 'none'}.",
        )
    package = load_package(id_or_path, verify=False)
    parameters = {
        role: sum(math.prod(shape) for shape in tensor_shapes(package.file(role)).values())
        for role in ("denoiser", "autoencoder", "controlnet", "refiner")
        if package.has(role)
    }
    if package.spec.latent is not None:
        return package.spec, parameters, None, "package"
    from SynthDiffusionLib.memory.needs import needs_of

    return package.spec, parameters, needs_of(package), "package"


def _conditional(spec: ModelSpec, unconditional: bool) -> bool:
    can = set(spec.modes)
    if unconditional and "unconditional" not in can:
        raise BadInput(f"'{spec.id}' makes no volume without a segmentation", "Leave --unconditional out.")
    return not unconditional and can != {"unconditional"}


def _default_size(spec: ModelSpec) -> tuple[int, int, int]:
    return spec.grid.default_size or spec.grid.max_size


def _result(
    outlook: Outlook, settings: dict[str, str], parameters: dict[str, int], conditional: bool
) -> dict[str, Any]:
    return {
        **settings,
        "conditional": conditional,
        "size": outlook.size,
        "grid": outlook.grid,
        "latent": outlook.latent,
        "parameters": parameters,
        "stages": [
            {
                "name": stage.name,
                "peak_bytes": stage.peak_bytes,
                "working_bytes": stage.working_bytes,
                "weight_bytes": stage.weight_bytes,
                "resident_bytes": stage.resident_bytes,
                "source": stage.source,
            }
            for stage in outlook.stages
        ],
        "peak_bytes": max(stage.peak_bytes for stage in outlook.stages),
        "limit_bytes": outlook.limit_bytes,
        "fits": outlook.fits,
        "strategy": outlook.strategy,
        "largest_size": outlook.largest,
        "measured": False,
        "notes": _notes(outlook),
    }


def _lines(outlook: Outlook, settings: dict[str, str], spec: ModelSpec) -> list[str]:
    from SynthDiffusionLib.memory.fit import GIB

    rows = [
        ("Model", f"{settings['model']} ({settings['kind']}), {spec.name}"),
        ("Computed on", f"{settings['device']}, {settings['precision']}"),
        ("Size", _by(outlook.size) + (f", padded to {_by(outlook.grid)}" if outlook.grid != outlook.size else "")),
        ("Diffusion on", _by(outlook.latent[1:]) + f", {outlook.latent[0]} channels" if outlook.latent else "voxels"),
    ]
    for stage in outlook.stages:
        rows.append(
            (
                f"Stage {stage.name}",
                f"{_memory(stage.peak_bytes)}, {_memory(stage.weight_bytes)} of it its weights ({stage.source})",
            )
        )
    limit = "unknown" if outlook.limit_bytes is None else f"{outlook.limit_bytes / GIB:.1f} GiB"
    rows += [
        ("Limit", limit),
        ("Fits", "yes" if outlook.fits else "no"),
        ("Strategy", outlook.strategy),
        ("Largest size", _by(outlook.largest) if outlook.largest else "none fits"),
    ]
    rows += [("Note", note) for note in _notes(outlook)]
    width = max(len(label) for label, _ in rows)
    return [f"{label.ljust(width)}  {text}" for label, text in rows]


def _notes(outlook: Outlook) -> list[str]:
    return [*outlook.notes, PREDICTED, *([MARGINS] if outlook.latent else [])]


def _by(values: tuple[int, ...]) -> str:
    return " x ".join(map(str, values))
