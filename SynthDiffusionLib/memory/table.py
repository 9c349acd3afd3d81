"""Memory that the full-size latent models are predicted to take, looked up and not measured. Nothing here loads torch.

The figures are bytes of live tensors of one forward pass in fp16, followed through MONAI's networks without computing
them, with attention that never holds its score matrix. Weights, and what the device's allocator and convolution
workspaces take beside them, come on top. For MAISI's decoder, NVIDIA reports peaks of a real GPU (an A100 with its own
program): 1.7 to 2.4 times the live tensors. On a CPU, two such figures were measured at 1.1 and 1.2 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from SynthDiffusionLib.memory import counted
from SynthDiffusionLib.memory.fit import GIB, LOWER_PRECISION, PROCESS_BYTES

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec, NetworkSpec

Shape = tuple[int, int, int]

# Peak over live tensors: the largest ratio that was seen.
MARGIN = {"cuda": 2.4, "cpu": 1.2}

# Voxels of the latent, and GiB of live tensors of the 64/128/256/512 U-Net for one volume; guidance evaluates it twice,
# one after the other.
_LATENT_VOXELS = (64**3, 128 * 128 * 32, 128 * 128 * 64, 128**3, 128 * 128 * 192)
_DENOISER_GIB = (0.48, 0.95, 1.88, 3.73, 5.58)
# Of MAISI's control network: its peak is the embedding of the labels at full resolution in 8 channels.
_CONTROL_GIB = (1.03, 2.06, 4.13, 8.25, 12.4)

# Per voxel of the image in fp16. The VQ-VAE of 128/256 channels takes 6.0 GiB for 512 x 512 x 256, which is three
# feature maps of 128 channels at half the resolution; the autoencoder of MAISI 12.3 to 12.8 GiB for 256 x 256 x 256.
_VQ_DECODE_BYTES = 6.0 * GIB / (512 * 512 * 256)
_KL_DECODE_BYTES = 12.55 * GIB / 256**3
# Of the distances to the codebook: three matrices in fp32 of this many rows (networks.codebook) for all codes.
_CODE_ROWS = counted.CODE_ROWS

# NVIDIA's docs/performance.md: size, peak in GiB, tile of the latent (None: whole) and number of tiles.
REPORTED = (
    ((256, 256, 128), 15.0, None, 1),
    ((256, 256, 256), 15.4, (48, 48, 64), 4),
    ((256, 256, 256), 22.7, None, 1),
    ((512, 512, 128), 15.7, (64, 64, 32), 9),
    ((512, 512, 128), 21.0, (80, 80, 32), 4),
    ((512, 512, 512), 22.8, (64, 64, 48), 36),
    ((512, 512, 512), 28.4, (80, 80, 48), 16),
    ((512, 512, 512), 45.3, (80, 80, 80), 8),
    ((512, 512, 768), 49.7, (80, 80, 96), 12),
)

SIMULATED = "table of simulated live tensors, fp16; not measured"
COUNTED = "counted from the sizes of the layers; not measured"
MEASURED = "bytes per voxel that the package has measured"
ASSUMED = "bytes per voxel of a network of this kind; not measured for this one"
REPORTED_BY_NVIDIA = "peak that NVIDIA reports for its own program on an A100, decoding whole; not measured here"


@dataclass(frozen=True)
class Stage:
    """One stage of making a volume.

    Args:
        name: "condition" (the drawing's features, once), "denoise", "decode", or "refine" (of a slice-based model).
        working_bytes: predicted beside the weights, with the margin for what the device takes on top.
        weight_bytes: of the networks that this stage computes with.
        resident_bytes: of all weights on the device meanwhile.
        source: where the number comes from.
    """

    name: str
    working_bytes: int
    weight_bytes: int
    resident_bytes: int
    source: str

    @property
    def peak_bytes(self) -> int:
        return self.working_bytes + self.resident_bytes


def stages(
    spec: ModelSpec,
    grid: Shape,
    precision: str,
    *,
    device: str = "cuda",
    conditional: bool = True,
    parameters: Mapping[str, int] | None = None,
    margin: float | None = None,
) -> tuple[Stage, ...]:
    """What the stages of a latent model take.

    MAISI keeps on a GPU the networks of the stage; the others keep all of theirs on the device.

    Args:
        spec: of a model with a latent.
        grid: (I, J, K) that the networks work on, padded.
        precision: "fp32", or "bf16" or "fp16" by autocast, which keeps the weights in fp32 beside a copy in 16 bits.
        device: "cpu" or "cuda"; on the CPU the whole process counts.
        conditional: with a drawing; without one, a control network stays away.
        parameters: trainable numbers by role (`models.presets.parameter_counts`); without them weights count as 0.
        margin: peak over live tensors; that of `MARGIN` when None, 1 for what cannot possibly fit.

    Raises:
        ValueError: the model works on voxels.
    """
    if spec.latent is None:
        raise ValueError(f"'{spec.id}' has no latent: see SynthDiffusionLib.memory.needs")
    on_cpu, half = device == "cpu", precision != "fp32"
    margin = margin or MARGIN["cpu" if on_cpu else "cuda"]
    roles, conditional = _roles(spec, conditional)
    weights = {role: (6 if half else 4) * n for role, n in (parameters or {}).items()}
    if not conditional:
        weights.pop("controlnet", None)
    everything = sum(weights.get(role, 0) for role in ("denoiser", "autoencoder", "controlnet", "refiner"))
    measured = spec.performance.get("bytes_per_voxel_fp32")
    found = []
    for name, of in roles.items():
        used = sum(weights.get(role, 0) for role in of)
        resident = used if one_stage_at_a_time(spec, device) else everything
        own = measured.get(name) if isinstance(measured, Mapping) else measured
        if own is not None:
            working, source = own * math.prod(grid) * (LOWER_PRECISION if half else 1.0), MEASURED
        elif not on_cpu and half and name == "decode" and (peak := _reported_whole(spec, grid)):
            # The reported peak is of the whole program: its weights are in it.
            working, source = peak - resident, REPORTED_BY_NVIDIA
        else:
            live, source = _live(spec, name, grid, half, conditional)
            working = live * margin
        found.append(Stage(name, int(working), used, resident + (PROCESS_BYTES if on_cpu else 0), source))
    return tuple(found)


def _roles(spec: ModelSpec, conditional: bool) -> tuple[dict[str, tuple[str, ...]], bool]:
    """The roles of the networks of every stage, and whether a control network takes part."""
    if spec.backend in counted.STAGES:
        # Med-LSDM's null condition, an all-zero map, takes as much as a drawing.
        roles = dict(counted.STAGES[spec.backend])
        if spec.refiner is None:
            roles.pop("refine", None)
        return roles, False
    if conditional and spec.controlnet is not None:
        return {"condition": ("controlnet",), "denoise": ("denoiser", "controlnet"), "decode": ("autoencoder",)}, True
    return {"denoise": ("denoiser",), "decode": ("autoencoder",)}, False


def one_stage_at_a_time(spec: ModelSpec, device: str) -> bool:
    """Whether only the networks of one stage are on the device at a time (`backends.maisi` does that on a GPU)."""
    return spec.backend == "maisi" and device != "cpu"


def stage_peaks(spec: ModelSpec, grid: Shape, precision: str, **settings) -> dict[str, int]:
    """Predicted peak of every stage in bytes by its name; the settings are those of `stages`."""
    return {stage.name: stage.peak_bytes for stage in stages(spec, grid, precision, **settings)}


def _reported_whole(spec: ModelSpec, grid: Shape) -> int | None:
    return next((peak for peak, tile, _ in reported_decodes(spec, grid) if tile is None), None)


def reported_decodes(spec: ModelSpec, grid: Shape) -> list[tuple[int, Shape | None, int]]:
    """NVIDIA's peaks for a size of MAISI's full-size autoencoder: bytes, tile of the latent (None: whole), tiles."""
    if spec.autoencoder is None or spec.autoencoder.name != "AutoencoderKlMaisi":
        return []
    if list(spec.autoencoder.parameters.get("num_channels", ())) != [64, 128, 256]:
        return []
    return [(int(peak * GIB), tile, tiles) for size, peak, tile, tiles in REPORTED if size == tuple(grid)]


def allowed_sizes(spec: ModelSpec) -> Iterator[Shape]:
    """Sizes to try for the largest that fits: all that the model's rules have, or its largest, shrunk step by step."""
    rules, largest = spec.grid.rules, spec.grid.max_size
    if rules and "sizes" in rules:
        yield from (tuple(size) for size in rules["sizes"])
        return
    if rules and "in_plane" in rules:
        yield from ((n, n, k) for n in rules["in_plane"] for k in rules["through_plane"])
        return
    step = spec.grid.divisor
    if spec.backend in counted.STAGES:  # the third axis need not be a multiple, and may have one size only
        for n in range(max(step, spec.grid.min_size[0]), largest[0] + 1, step):
            shrunk = (max(low, int(m * n / largest[0]) // step * step) for low, m in zip(spec.grid.min_size, largest))
            yield tuple(min(m, side) for m, side in zip(largest, shrunk))
        return
    for n in range(step, largest[0] + 1, step):
        yield tuple(max(step, int(m * n / largest[0]) // step * step) for m in largest)


def size_problem(spec: ModelSpec, size: Shape) -> str | None:
    """Why a model does not make volumes of a size, with the sizes that it makes, or None."""
    rules, largest = spec.grid.rules, spec.grid.max_size
    if any(n > m for n, m in zip(size, largest)):
        return f"at most {_by(largest)} voxels are possible"
    if rules and size not in set(allowed_sizes(spec)):
        if "sizes" in rules:
            return "it makes " + ", ".join(map(_by, rules["sizes"]))
        planes, depths = (" or ".join(map(str, rules[key])) for key in ("in_plane", "through_plane"))
        return f"the first two sides must be equal, {planes}, and the third {depths}"
    return None


def _live(spec: ModelSpec, name: str, grid: Shape, half: bool, conditional: bool) -> tuple[float, str]:
    """Bytes of live tensors of a stage at a precision, without a margin, and their source."""
    if spec.backend in counted.STAGES:
        return counted.counted_bytes(spec, name, grid, half), COUNTED
    image, latent = math.prod(grid), math.prod(spec.latent.shape(grid)[1:])
    size = 2 if half else 4
    if name == "condition":
        return _condition_bytes(spec.controlnet, image, latent, size)
    if name == "denoise":
        widths = _widths(spec.network)
        live = _between(latent, _DENOISER_GIB) * widths[0] / 64 * size / 2
        if conditional:
            live += _residual_values(widths, _blocks(spec.network)) * latent * size
        return live, SIMULATED
    first = _widths(spec.autoencoder)[0]
    if spec.autoencoder.name == "VQVAE":
        codes = 3 * 4 * min(latent, _CODE_ROWS) * int(spec.autoencoder.parameters.get("num_embeddings", 32))
        return max(_VQ_DECODE_BYTES * first / 128 * image * size / 2, codes), SIMULATED
    return _KL_DECODE_BYTES * first / 64 * image * size / 2, SIMULATED


def _condition_bytes(network: NetworkSpec, image: int, latent: int, size: int) -> tuple[float, str]:
    """Of the features of the drawing, which are computed once."""
    p = network.parameters
    if network.name != "SlimControlNet":
        first = p.get("conditioning_embedding_num_channels", (16,))[0]
        return _between(latent, _CONTROL_GIB) * first / 8 * size / 2, SIMULATED
    # The masks in fp32, their copy in 16 bits, and the stem's output before and after its activation.
    masks = p["condition_channels"] * (4 + (size if size < 4 else 0))
    stem = 2 * p.get("embedding_channels", (32,))[0] * size / p.get("stem_stride", 2) ** 3
    return (masks + stem) * image, COUNTED


def _between(voxels: int, gib: Sequence[float]) -> float:
    """Bytes, interpolated linearly in the voxels of the latent; in proportion beyond the ends of the table."""
    xs = _LATENT_VOXELS
    if voxels <= xs[0]:
        return gib[0] * GIB * voxels / xs[0]
    for x0, x1, y0, y1 in zip(xs, xs[1:], gib, gib[1:]):
        if voxels <= x1:
            return GIB * (y0 + (y1 - y0) * (voxels - x0) / (x1 - x0))
    return gib[-1] * GIB * voxels / xs[-1]


def _residual_values(widths: Sequence[int], blocks: Sequence[int]) -> float:
    """Values per voxel of the latent that a control network adds to the U-Net's skip connections and middle."""
    levels = len(widths)
    values = float(widths[0])
    for level, (width, n) in enumerate(zip(widths, blocks)):
        values += n * width / 8**level
        if level < levels - 1:
            values += width / 8 ** (level + 1)
    return values + widths[-1] / 8 ** (levels - 1)


def _widths(network: NetworkSpec) -> tuple[int, ...]:
    """Channels of a network by level; MONAI's MAISI networks call them num_channels."""
    return tuple(network.parameters.get("channels") or network.parameters["num_channels"])


def _blocks(network: NetworkSpec) -> tuple[int, ...]:
    blocks = network.parameters.get("num_res_blocks", 2)
    return (blocks,) * len(_widths(network)) if isinstance(blocks, int) else tuple(blocks)


def _by(values: Sequence[int]) -> str:
    return " x ".join(map(str, values))
