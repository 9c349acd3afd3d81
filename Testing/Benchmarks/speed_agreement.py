"""Rows of `speed_table.py` on agreement: the same request to a shipped model in every way of `memory.execution`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from speed_parts import Setting, drawing, plan_of

from SynthDiffusionLib.backends import latent, load_backend, med_lsdm, medlord, stages
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.memory.execution import STRATEGIES, TOGETHER, WHOLE, Execution
from SynthDiffusionLib.models.package import load_package
from SynthDiffusionLib.networks import streaming

SEED = 3
# Small, so that the shipped models' volumes are computed in many slabs.
SLAB_BYTES, CHUNK_ELEMENTS = 2**20, 2**18
FULL_RANGE = 2.0  # of what backends return: -1 and 1 are the ends of the intensity range
SIZE = (48, 48, 48)  # of a model that has no size of its own
STAGES = {"patch_ddpm": ("denoise",), "slice_ldm": ("denoise", "decode", "refine")}
LATENT_STAGES = ("condition", "denoise", "decode")


@contextmanager
def small_slabs() -> Iterator[None]:
    """Streaming and chunking in the block work on slabs of `SLAB_BYTES` and `CHUNK_ELEMENTS`."""
    kept = streaming.SLAB_BYTES_ON_CPU, dict(streaming.SLAB_BYTES), stages.CHUNK_ELEMENTS, latent.CHUNK_ELEMENTS
    streaming.SLAB_BYTES_ON_CPU = SLAB_BYTES
    streaming.SLAB_BYTES.update(dict.fromkeys(streaming.SLAB_BYTES, SLAB_BYTES))
    stages.CHUNK_ELEMENTS = latent.CHUNK_ELEMENTS = CHUNK_ELEMENTS
    try:
        yield
    finally:
        streaming.SLAB_BYTES_ON_CPU, slabs, stages.CHUNK_ELEMENTS, latent.CHUNK_ELEMENTS = kept
        streaming.SLAB_BYTES.update(slabs)


class Decodes:
    """What a VQ model decodes while this is entered: its codes, as vectors, and the volume.

    Args:
        like: an earlier one, whose codes are decoded once more in the present way.
    """

    def __init__(self, like: Decodes | None = None) -> None:
        self.codes: torch.Tensor | None = None
        self.volume: torch.Tensor | None = None
        self.same: torch.Tensor | None = None
        self._like, self._kept = like, ()

    def __enter__(self) -> Decodes:
        self._kept = medlord.decoded, med_lsdm.decoded
        medlord.decoded, med_lsdm.decoded = (self._listening(call) for call in self._kept)
        return self

    def __exit__(self, *_: object) -> None:
        medlord.decoded, med_lsdm.decoded = self._kept

    def _listening(self, call: Any) -> Any:
        def decoded(network: Any, codes: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
            self.codes = codes.float().cpu()
            if self._like is not None:
                same = self._like.codes.to(codes.device, codes.dtype)
                self.same = call(network, same, *rest, **settings).float().cpu()
            volume = call(network, codes, *rest, **settings)
            self.volume = volume.float().cpu()
            return volume

        return decoded


def executions(backend: str) -> dict[str, Execution]:
    """Every way, in every stage of a method that has it; and the settings that the method takes."""
    made: dict[str, Execution] = {}
    for way in STRATEGIES[1:]:
        taken = {}
        for stage in STAGES.get(backend, LATENT_STAGES):
            if backend == "slice_ldm" and "stream" in way:
                continue  # slices are decoded a few at a time in every way
            try:
                taken |= Execution(**{stage: way}).to_json()
            except BadInput:
                continue
        if taken:
            made[way] = Execution(**taken)
    made["channels_last"] = Execution(channels_last=True)
    if backend == "slice_ldm":
        return made | {f"slices={n}": Execution(slices=n) for n in (1, 16)}
    return made | {"guidance=together": Execution(guidance=TOGETHER)}


def agreement(row: str, setting: Setting) -> dict[str, Any]:
    """Group i: the volumes of every way, in fp32, against `WHOLE`; and bf16 against fp32.

    Args:
        row: a shipped model.
        setting: of which `steps` are denoised.

    Returns:
        {"ways": {name: {"largest" and "mean" difference as shares of the intensity range, "codes" that differ as a
        share of all, "same_codes" the largest difference in decoding the same ones; None where a model has no codes}}}.
    """
    package = load_package(row, verify=False)
    spec, backend = package.spec, load_backend(package)
    grid = backend.working_grid(spec.grid.default_size or SIZE)
    condition = None if spec.backend == "slice_ldm" else drawing(spec, grid)
    guidance = spec.sampling.default_guidance
    settings = {"sampler": spec.sampling.default_sampler, "steps": setting.steps, "seed": SEED, "guidance": guidance}

    def made(execution: Execution, precision: str, like: Decodes | None) -> tuple[torch.Tensor, Decodes]:
        plan = plan_of(grid, setting, execution, precision)
        with small_slabs(), Decodes(like) as seen:
            if condition is None:
                middle = [quantiles[len(quantiles) // 2] for quantiles in spec.characteristics.quantiles]
                volume, _ = backend.sample_joint(middle, plan, **settings)
            else:
                volume = backend.sample(condition, plan, **settings)
        return torch.from_numpy(volume), seen

    expected, first = made(Execution(), "fp32", None)
    ways: dict[str, Any] = {}
    asked = {f"{WHOLE}, once more": (Execution(), "fp32")}
    asked |= {name: (execution, "fp32") for name, execution in executions(spec.backend).items()}
    for name, (execution, precision) in (asked | {"bf16, whole": (Execution(), "bf16")}).items():
        volume, seen = made(execution, precision, first if first.codes is not None else None)
        difference = (volume - expected).abs()
        ways[name] = {
            "largest": float(difference.max()) / FULL_RANGE,
            "mean": float(difference.mean()) / FULL_RANGE,
            "codes": None,
            "same_codes": None,
        }
        if seen.same is not None:
            low, high = spec.latent.decoded_range
            ways[name]["codes"] = float((seen.codes != first.codes).any(dim=1).float().mean())
            ways[name]["same_codes"] = float((seen.same - first.volume).abs().max()) / (high - low)
    wide = float(expected.max() - expected.min()) / FULL_RANGE
    return {"grid": list(grid), "steps": setting.steps, "guidance": guidance, "used_range": wide, "ways": ways}
