"""`synthdiffusion plan`: what a volume of a size is predicted to take, before anything is computed."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.devices import Budget
    from SynthDiffusionLib.memory.predict import Request
    from SynthDiffusionLib.memory.strategies import Choice
    from SynthDiffusionLib.models.spec import ModelSpec

PREDICTED = (
    "These are predictions: the networks' tensors, followed without computing them, and an allowance for what kernels "
    "and allocators take. On a CPU they were compared with measurements; on a GPU the allowance is assumed "
    "(Docs/performance.md)."
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
        description="Predicts the memory of every stage of making one volume, chooses the fastest exact way that fits "
        "the limit, and names the largest size that does. Exits with 2 where nothing fits. Works for installed models "
        "and for presets, without a GPU. " + PREDICTED,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="ID or folder of a model, or a preset")
    add("--size", type=_size_arg, metavar="XxYxZ", help="voxels of the volume (default: the model's largest)")
    add("--vram-limit", metavar="SIZE", help="memory that may be used, such as 16GiB (default 24GiB; cpu: free memory)")
    add("--device", default="cuda", metavar="NAME", help="cuda (default) or cpu; it need not be there")
    add("--precision", default="auto", metavar="NAME", help="auto (default: cuda bf16, cpu fp32), fp32, bf16 or fp16")
    add("--host-limit", metavar="SIZE", help="host memory that may be used beside a GPU (default: not limited)")
    add("--display", action="store_true", help="the GPU draws the desktop too: 1 GiB is left to it")
    add("--unconditional", action="store_true", help="without a segmentation")
    add("--json", action="store_true", help="print one JSON object on the last line")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed.

    Returns:
        the exit code, 0: it fits.

    Raises:
        BadInput: the model does not make volumes of the size; other wrong input.
        TooLarge: it does not fit; what was found is printed before.
    """
    from SynthDiffusionLib.memory.devices import DEFAULT_LIMIT, budget_for, choose_precision
    from SynthDiffusionLib.memory.figures import Figures
    from SynthDiffusionLib.memory.plan import lowest_precision, parse_bytes
    from SynthDiffusionLib.memory.predict import Request, check_choice, largest_fitting, plan_choice
    from SynthDiffusionLib.memory.working_grids import by, padded, size_problem

    device = _device(args.device)
    if args.precision not in ("auto", "fp32", "bf16", "fp16"):
        raise BadInput(f"Unknown precision '{args.precision}'", "Choose auto, fp32, bf16 or fp16.")
    best = "fp32" if device == "cpu" else "bf16"
    precision = choose_precision(args.precision, device, best)
    limit = parse_bytes(args.vram_limit) if args.vram_limit else (_free_bytes() if device == "cpu" else DEFAULT_LIMIT)
    spec, kind = _model(args.model)
    size = args.size or _default_size(spec)
    if problem := size_problem(spec, size):
        raise BadInput(f"'{spec.id}' does not make {by(size)} voxels: {problem}", "Give one of those as --size.")
    conditional = _conditional(spec, args.unconditional)
    host = parse_bytes(args.host_limit) if args.host_limit else None
    budget = budget_for(device, limit, None, host_bytes=host, drives_display=args.display)
    budget = replace(budget, host_is_limit=host is not None)
    request = Request(spec, device, precision, lowest_precision(device, best), conditional)
    figures, grid = Figures(spec, device, conditional), padded(spec, size)
    choice = plan_choice(request, grid, budget.allowed, budget.host_bytes, figures)
    largest = choice.largest_size
    if choice.fits:
        largest = largest_fitting(request, budget, figures)
    found = _Found(request, kind, size, grid, budget, choice, largest, figures.weights())
    if args.json:
        print(json.dumps(_result(found)))
    else:
        print("\n".join(_lines(found)))
    check_choice(choice, grid, budget, padded(spec, (1, 1, 1)))
    return 0


@dataclass(frozen=True)
class _Found:
    """What is printed; `weights` are bytes in fp32 by role."""

    request: Request
    kind: str
    size: tuple[int, int, int]
    grid: tuple[int, int, int]
    budget: Budget
    choice: Choice
    largest: tuple[int, int, int] | None
    weights: dict[str, int]


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


def _model(id_or_path: str) -> tuple[ModelSpec, str]:
    """Description, and "package" or "preset"."""
    from SynthDiffusionLib.models.catalogue import catalogue_ids, load_entry
    from SynthDiffusionLib.models.folders import package_folders
    from SynthDiffusionLib.models.package import load_package
    from SynthDiffusionLib.models.presets import is_preset, load_preset, preset_ids
    from SynthDiffusionLib.schemas import closest

    if is_preset(id_or_path):
        return load_preset(id_or_path), "preset"
    if re.fullmatch(r"[a-z0-9-]+", id_or_path) and id_or_path not in package_folders():
        if id_or_path in catalogue_ids():  # not installed: its design is what can be said
            return load_preset(load_entry(id_or_path).preset), "preset"
        near = closest(id_or_path, [*package_folders(), *preset_ids()])
        raise BadInput(
            f"There is neither a model nor a preset '{id_or_path[:80]}'",
            (f"Did you mean '{near}'? " if near else "")
            + f"Presets: {', '.join(preset_ids())}; models: {', '.join(sorted(package_folders())) or 'none'}.",
        )
    return load_package(id_or_path, verify=False).spec, "package"


def _conditional(spec: ModelSpec, unconditional: bool) -> bool:
    can = set(spec.modes)
    if unconditional and "unconditional" not in can:
        raise BadInput(f"'{spec.id}' makes no volume without a segmentation", "Leave --unconditional out.")
    return not unconditional and can != {"unconditional"}


def _default_size(spec: ModelSpec) -> tuple[int, int, int]:
    return spec.grid.default_size or spec.grid.max_size


def _result(found: _Found) -> dict[str, Any]:
    choice, request = found.choice, found.request
    latent = request.spec.latent
    return {
        "model": request.spec.id,
        "kind": found.kind,
        "device": request.device,
        "precision": choice.precision,
        "conditional": request.conditional,
        "size": found.size,
        "grid": found.grid,
        "latent": latent and latent.shape(found.grid),
        "parameters": {role: size // 4 for role, size in found.weights.items()},
        "stages": [
            {
                "name": name,
                "strategy": option.way,
                "peak_bytes": option.device_bytes,
                "host_bytes": option.host_bytes,
                **dict([option.pieces] if option.pieces else []),
            }
            for name, option in choice.stages.items()
        ],
        "peak_bytes": choice.peak_bytes,
        "host_bytes": choice.host_bytes,
        "context_bytes": found.budget.context_bytes if found.budget.on_gpu else 0,
        "limit_bytes": found.budget.limit_bytes,
        "allowed_bytes": found.budget.allowed,
        "allocator_cap_bytes": found.budget.allocator_cap,
        "least_limit_bytes": None if choice.fits else choice.least_limit + found.budget.reserved,
        "least_host_bytes": None if choice.fits else choice.least_host,
        "fits": choice.fits,
        "strategy": choice.strategy,
        "exact": choice.exact,
        "reasons": choice.reasons,
        "warnings": choice.warnings,
        "largest_size": found.largest,
        "measured": False,
        "notes": [PREDICTED],
    }


def _lines(found: _Found) -> list[str]:
    from SynthDiffusionLib.memory.predict import at_least
    from SynthDiffusionLib.memory.strategies import WORDS
    from SynthDiffusionLib.memory.working_grids import by

    choice, request, budget = found.choice, found.request, found.budget
    spec, size, grid = request.spec, found.size, found.grid
    latent = spec.latent and spec.latent.shape(grid)
    rows = [
        ("Model", f"{spec.id} ({found.kind}), {spec.name}"),
        ("Computed on", f"{request.device}, {choice.precision}"),
        ("Size", by(size) + (f", padded to {by(grid)}" if grid != size else "")),
        ("Diffusion on", by(latent[1:]) + f", {latent[0]} channels" if latent else "voxels"),
    ]
    for name, option in choice.stages.items():
        host = f", {_memory(option.host_bytes)} of host memory" if option.host_bytes else ""
        at_once = f", {option.pieces[1]} {option.pieces[0]} at once" if option.pieces else ""
        rows.append((f"Stage {name}", f"{_memory(option.device_bytes)}{host}: {WORDS[option.way]}{at_once}"))
    if budget.on_gpu:
        rows.append(("Of these", f"{_memory(budget.context_bytes)} the CUDA context, assumed"))
    rows.append(("Limit", _memory(budget.limit_bytes) if budget.limit_bytes is not None else "unknown"))
    if budget.reserved:
        rows.append(("Left to desktop", _memory(budget.reserved)))
    if not choice.fits:
        rows.append(("Least limit", at_least(choice.least_limit + budget.reserved)))
        if budget.host_bytes is not None and choice.least_host > budget.host_bytes:
            rows.append(("Least host limit", at_least(choice.least_host)))
    rows += [
        ("Fits", "yes" if choice.fits else "no"),
        ("Strategy", WORDS[choice.strategy] if choice.fits else "none: it does not fit"),
        ("Largest size", by(found.largest) if found.largest else "none fits"),
    ]
    rows += [("Warning", warning) for warning in choice.warnings]
    rows += [("Reason", reason) for reason in choice.reasons]
    rows.append(("Note", PREDICTED))
    width = max(len(label) for label, _ in rows)
    return [f"{label.ljust(width)}  {text}" for label, text in rows]
