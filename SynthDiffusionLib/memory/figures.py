"""Traced peaks of the stages: looked up for the presets, traced where they are not in the table.

    python -m SynthDiffusionLib.memory.figures [--only ID,...]

writes Resources/Memory/traced.json anew, which takes some minutes and needs no GPU. With it, presets and shipped models
are planned without torch. What is stored is what `memory.trace` gives; `memory.allowance` and weights of other stages
come on top later.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.memory.at_once import numbers, pieces_of, usual
from SynthDiffusionLib.memory.execution import CHUNK, CHUNK_ELEMENTS, OFFLOAD, STREAM, STREAM_AGAIN, STREAM_HOST
from SynthDiffusionLib.memory.working_grids import padded
from SynthDiffusionLib.resources import resource_path

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.stage_runs import How
    from SynthDiffusionLib.models.spec import ModelSpec

Shape = tuple[int, int, int]

FORMAT = "synthdiffusion-traced-memory-2"
PRECISIONS = ("bf16", "fp32")
LARGEST_CALL = 2**31  # elements, from which on PyTorch leaves cuDNN (pytorch issue 95024)
# The networks that a stage computes with, or holds, by its backend.
USED = {
    "maisi": {"condition": ("controlnet",), "denoise": ("denoiser", "controlnet"), "decode": ("autoencoder",)},
    "medlord": {"condition": ("controlnet",), "denoise": ("denoiser", "controlnet"), "decode": ("autoencoder",)},
    "med_lsdm": {"condition": ("denoiser",), "denoise": ("denoiser",), "decode": ("autoencoder", "denoiser")},
    "slice_ldm": {
        "denoise": ("denoiser",),
        "decode": ("autoencoder", "refiner"),
        "refine": ("autoencoder", "refiner"),
    },
    "patch_ddpm": {"denoise": ("denoiser",)},
}
# What `python -m` traces for a GPU: sizes by method.
SIZES: dict[str, tuple[Shape, ...]] = {
    "maisi": (
        (128, 128, 128),
        (256, 256, 128),
        (256, 256, 256),
        (384, 384, 256),
        (512, 512, 128),
        (512, 512, 256),
        (512, 512, 512),
        (512, 512, 768),
    ),
    "medlord": (
        (32, 32, 32),
        (64, 64, 64),
        (64, 64, 128),
        (128, 128, 128),
        (256, 256, 128),
        (256, 256, 256),
        (512, 512, 128),
        (512, 512, 256),
    ),
    "med_lsdm": ((64, 64, 32), (128, 128, 32), (256, 256, 32), (256, 256, 64), (256, 256, 128), (256, 256, 256)),
    "slice_ldm": ((192, 192, 96),),
    "patch_ddpm": ((64, 64, 64), (128, 128, 128), (192, 192, 192), (256, 256, 256)),
}
# Shares of the voxels of its largest size at which a package is traced, where it makes many sizes.
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.0)
MOST_SIZES = 64  # of a model with windows that all are traced


@dataclass(frozen=True)
class Figure:
    """What a stage takes, as it was traced.

    Args:
        device_bytes: on the device, with the networks of the stage only, without the allowance.
        host_bytes: of maps in host memory.
        largest_call: elements of the largest input or result of a convolution.
    """

    device_bytes: int
    host_bytes: int
    largest_call: int


class Figures:
    """The traced peaks of a model's stages.

    Args:
        spec: of a package or a preset.
        device: "cpu", "cuda" or "cuda:N".
        conditional: with a drawing.
        stored: the table is looked up; else everything is traced.
    """

    def __init__(self, spec: ModelSpec, device: str, conditional: bool, *, stored: bool = True) -> None:
        self.spec, self.device = spec, device.split(":")[0]
        self.conditional = conditional and (spec.controlnet is not None or spec.backend in ("med_lsdm", "patch_ddpm"))
        row = _table().get(fingerprint(spec, self.conditional)) if stored else None
        self._networks = row and row["networks"]
        self._sizes = {
            _shape(name): found for name, found in (row["sizes"].get(self.device, {}) if row else {}).items()
        }
        self._traced: dict[tuple[Any, ...], Figure] = {}
        self._built: dict[bool, dict[str, Any]] = {}

    def stored_sizes(self) -> tuple[Shape, ...]:
        """Grids of which everything is in the table."""
        return tuple(self._sizes)

    @property
    def stages(self) -> tuple[str, ...]:
        """Their names, in order."""
        names = list(USED[self.spec.backend])
        if "controlnet" in USED[self.spec.backend].get("condition", ()) and not self._controlled:
            names.remove("condition")
        if self.spec.refiner is None and "refine" in names:
            names.remove("refine")
        return tuple(names)

    def kinds(self, stage: str) -> tuple[str, ...]:
        """The ways in which a stage can be computed on a GPU; `OFFLOAD` is that of the whole volume."""
        if self.spec.backend == "slice_ldm":
            return (OFFLOAD,)
        if stage != "decode":
            return (OFFLOAD, CHUNK)
        again = () if self.spec.autoencoder.name == "VQVAE" else (STREAM_AGAIN,)  # no norms: it keeps few maps
        return (OFFLOAD, STREAM, *again, STREAM_HOST)

    def weights(self) -> dict[str, int]:
        """Bytes of the networks by their role, in fp32."""
        if self._networks is None:
            self._networks = _weights(self.spec, self._controlled)
        return dict(self._networks)

    def other_weights(self, stage: str) -> int:
        """Bytes of the networks that a stage does not need."""
        used = USED[self.spec.backend][stage]
        return sum(size for role, size in self.weights().items() if role not in used)

    def figure(self, grid: Shape, stage: str, kind: str, precision: str, at_once: int | None = None) -> Figure:
        """What a stage takes with its own networks only on the device.

        Args:
            grid: (I, J, K), padded.
            stage: one of `stages`.
            kind: one of `kinds`.
            precision: "fp32", "bf16" or "fp16".
            at_once: pieces of `memory.at_once` that are computed together; None: as usual.

        Raises:
            ImportError: it is not in the table, and torch is not installed.
        """
        precision = "bf16" if precision == "fp16" else precision
        field = pieces_of(self.spec, stage)
        if at_once is not None and field is not None and at_once != usual(field):
            kind = f"{kind}@{at_once}"
        found = self._stored(grid, stage, kind, precision)
        if found is None and kind.startswith(OFFLOAD) and self.spec.windows is None:
            found = self._between(grid, stage, kind, precision)
        if found is not None:
            return found
        try:
            return self._trace(grid, stage, kind, precision)
        except ImportError:
            larger = [size for size in self._sizes if all(a >= b for a, b in zip(size, grid))]
            for size in sorted(larger, key=math.prod):
                if (found := self._stored(size, stage, kind, precision)) is not None:
                    return found
            raise

    @property
    def _controlled(self) -> bool:
        return self.conditional and self.spec.controlnet is not None

    def _stored(self, grid: Shape, stage: str, kind: str, precision: str) -> Figure | None:
        found = self._sizes.get(tuple(grid), {}).get(precision, {}).get(stage, {}).get(kind)
        return None if found is None else Figure(*found)

    def _between(self, grid: Shape, stage: str, kind: str, precision: str) -> Figure | None:
        """The line between two sizes of the table.

        What lives at once while a layer is computed is a constant and a multiple of the voxels. The peak is the
        largest of these, a convex function of the voxels: no point of it lies above the line between two others. Not
        so of a number of slices, which grows with the volume up to all that are computed at once: for that, the larger
        size stands.
        """
        voxels = math.prod(grid)
        known = sorted((math.prod(size), size) for size in self._sizes)
        below = [entry for entry in known if entry[0] <= voxels]
        above = [entry for entry in known if entry[0] >= voxels]
        if not below or not above:
            return None
        ends = [self._stored(size, stage, kind, precision) for _, size in (below[-1], above[0])]
        if None in ends:
            return None
        low, high = below[-1][0], above[0][0]
        share = (voxels - low) / (high - low) if high > low else 0.0
        if kind != OFFLOAD:
            share = 1.0
        values = ((getattr(end, name) for end in ends) for name in ("device_bytes", "host_bytes", "largest_call"))
        return Figure(*(math.ceil(a + share * (b - a)) for a, b in values))

    def _trace(self, grid: Shape, stage: str, kind: str, precision: str) -> Figure:
        from SynthDiffusionLib.memory.allowance import workspace_of
        from SynthDiffusionLib.memory.stage_runs import built_networks, stage_runs
        from SynthDiffusionLib.memory.trace import trace

        key = (tuple(grid), kind, precision, stage)
        if key not in self._traced:
            kind, _, at_once = kind.partition("@")
            how, chunked = _how(self.spec, self.device, kind, precision, int(at_once or 0)), kind == CHUNK
            if chunked not in self._built:
                self._built[chunked] = built_networks(self.spec, how)
            runs = stage_runs(self.spec, grid, how, conditional=self.conditional, networks=self._built[chunked])
            device = "cpu" if self.device == "cpu" else "cuda:0"
            peak = trace(runs[stage], device=device, precision=precision, workspace=workspace_of(device))
            self._traced[key] = Figure(peak.device_bytes, peak.host_bytes, peak.largest_call)
        return self._traced[key]


def fingerprint(spec: ModelSpec, conditional: bool) -> str:
    """What two models have in common that take the same memory.

    Args:
        spec: of a package or a preset.
        conditional: with a drawing.
    """
    networks = {
        role: [network.name, network.parameters]
        for role, network in (
            ("denoiser", spec.network),
            ("autoencoder", spec.autoencoder),
            ("controlnet", spec.controlnet if conditional else None),
            ("refiner", spec.refiner),
        )
        if network is not None
    }
    latent = spec.latent and [spec.latent.channels, spec.latent.factors]
    windows = spec.windows and [spec.windows.depth, spec.windows.stride, spec.windows.join]
    classes = len(spec.label_scheme.condition_classes) if spec.backend == "patch_ddpm" else 0
    text = json.dumps([spec.backend, networks, latent, windows, classes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def traced_row(spec: ModelSpec, conditional: bool, *, package: bool) -> dict[str, Any]:
    """A model's part of the table.

    Args:
        spec: of a package or a preset.
        conditional: with a drawing.
        package: traced for a CPU too.
    """
    sizes: dict[str, Any] = {}
    for device in ("cpu", "cuda") if package else ("cuda",):
        figures = Figures(spec, device, conditional, stored=False)
        sizes[device] = {
            _name(grid): {
                precision: {
                    stage: {
                        kind: list(dataclasses.astuple(figures.figure(grid, stage, kind, precision)))
                        for kind in (OFFLOAD, *figures.kinds(stage)[1:])
                        if kind == OFFLOAD or not package
                    }
                    | {
                        f"{OFFLOAD}@{n}": list(dataclasses.astuple(figures.figure(grid, stage, OFFLOAD, precision, n)))
                        for n in numbers(spec, stage, grid, device)
                        if n != usual(pieces_of(spec, stage))
                    }
                    for stage in figures.stages
                }
                for precision in PRECISIONS
            }
            for grid in sizes_of(spec, package=package)
        }
    return {"model": spec.id, "conditional": conditional, "networks": figures.weights(), "sizes": sizes}


def sizes_of(spec: ModelSpec, *, package: bool) -> tuple[Shape, ...]:
    """The grids of a model in the table: of a package some between its smallest and its largest, or all."""
    if not package:
        return tuple(dict.fromkeys(padded(spec, size) for size in SIZES[spec.backend]))
    low, high = padded(spec, (1, 1, 1)), padded(spec, spec.grid.max_size)
    steps = [padded(spec, (n + 1,) * 3)[axis] - n for axis, n in enumerate(low)]
    every = list(itertools.product(*(range(a, b + 1, step) for a, b, step in zip(low, high, steps))))
    if spec.windows is not None and len(every) <= MOST_SIZES:  # nothing is known between them
        return tuple(every)
    every.sort(key=math.prod)
    wanted = (max(math.prod(low), share * math.prod(high)) for share in SHARES)
    return tuple(dict.fromkeys(min(every, key=lambda size: abs(math.prod(size) - n)) for n in wanted))


def _how(spec: ModelSpec, device: str, kind: str, precision: str, at_once: int = 0) -> How:
    from SynthDiffusionLib.memory.stage_runs import How
    from SynthDiffusionLib.networks.streaming import streaming_for

    return How(
        all_resident=False,
        streaming=streaming_for(kind, device),
        chunk_elements=CHUNK_ELEMENTS if kind == CHUNK else None,
        precision=precision,
        guided=spec.backend == "med_lsdm",  # it holds what the null condition does to the network
        at_once=at_once or None,
    )


def _weights(spec: ModelSpec, controlled: bool) -> dict[str, int]:
    import torch

    from SynthDiffusionLib.models.presets import networks
    from SynthDiffusionLib.networks.build import build_network

    found = {}
    for role, network in networks(spec):
        if role == "segmenter" or (role == "controlnet" and not controlled):
            continue
        with torch.device("meta"):
            built = build_network(network, spec.label_scheme)
        found[role] = sum(t.numel() * t.element_size() for t in (*built.parameters(), *built.buffers()))
    return found


def _name(grid: Shape) -> str:
    return "x".join(map(str, grid))


def _shape(name: str) -> Shape:
    return tuple(int(n) for n in name.split("x"))


@functools.lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    path = resource_path("Memory", "traced.json")
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["rows"] if stored.get("format") == FORMAT else {}


def _models() -> Iterator[tuple[ModelSpec, bool]]:
    """Shipped packages and presets, and whether it is a package."""
    from SynthDiffusionLib.models.package import load_package
    from SynthDiffusionLib.models.presets import load_preset, preset_ids

    for folder in sorted(resource_path("Models").iterdir()):
        if (folder / "model.json").is_file():
            yield load_package(str(folder), verify=False).spec, True
    for preset in preset_ids():
        yield load_preset(preset), False


def main(arguments: list[str]) -> int:
    """Writes the table.

    Args:
        arguments: of the command line.
    """
    import argparse

    import monai
    import torch

    parser = argparse.ArgumentParser(prog="python -m SynthDiffusionLib.memory.figures")
    parser.add_argument("--only", default="", metavar="ID,...", help="models to trace; the others stay as they are")
    only = {name for name in parser.parse_args(arguments).only.split(",") if name}
    rows, done = dict(_table()) if only else {}, set()
    for spec, package in _models():
        for conditional in (True, False) if package else (set(spec.modes) != {"unconditional"},):
            key = fingerprint(spec, Figures(spec, "cuda", conditional).conditional)
            if key in done or (only and spec.id not in only):
                continue
            done.add(key)
            rows[key] = traced_row(spec, conditional, package=package)
            print(spec.id, "with a drawing" if conditional else "without a drawing", flush=True)
            table = {"format": FORMAT, "torch": torch.__version__, "monai": monai.__version__, "rows": rows}
            path = resource_path("Memory", "traced.json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(table, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
