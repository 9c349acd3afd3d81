"""Live tensors of the networks of Med-LSDM and of the slice-based model, counted from the sizes of their layers.

Each figure is the number of values that the largest layer of a stage holds at once: what it reads, what it makes, and
what waits for later layers. Testing/Engine/test_memory_counted.py follows the real networks tensor by tensor (without
computing them) and holds the counts to a fifth of that. No GPU was measured; on a CPU, whole processes
of a Med-LSDM at 128 x 128 x 64 voxels took 0.8 to 1.03 times what was predicted. Nothing here loads torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec

Shape = tuple[int, int, int]

STAGES = {
    "med_lsdm": {"condition": ("denoiser",), "denoise": ("denoiser",), "decode": ("autoencoder",)},
    "slice_ldm": {"denoise": ("denoiser",), "decode": ("autoencoder",), "refine": ("refiner",)},
}
SLICES_AT_A_TIME = 8  # that a slice-based model decodes, as in `backends.slice_ldm`
CODE_ROWS = 8192  # of the distances to a codebook (networks.codebook), three matrices of which exist at once
# Bytes of a value in 16 bits by autocast, which normalises and takes softmax in 32: as the networks were followed.
HALF = {"FactorisedUNet": 4.0, "VqGan": 3.0, "SliceUNet": 4.0, "SliceVAE": 2.2, "SliceRefiner": 2.2}


def counted_bytes(spec: ModelSpec, stage: str, grid: Shape, half: bool) -> float:
    """Bytes of live tensors of a stage, without weights and without a margin.

    Args:
        spec: of a model whose backend is in `STAGES`.
        stage: a key of `STAGES` of its backend.
        grid: (I, J, K) that the networks work on, padded.
        half: in 16 bits by autocast.
    """
    network = {"decode": spec.autoencoder, "refine": spec.refiner}.get(stage, spec.network)
    size = HALF[network.name] if half else 4.0
    if spec.backend == "med_lsdm":
        return _med_lsdm(spec, stage, grid, size)
    return _slice_ldm(spec, stage, grid, size)


def _med_lsdm(spec: ModelSpec, stage: str, grid: Shape, size: float) -> float:
    """Denoised window by window; decoded whole, or window by window where finished windows are joined."""
    depth, windows = grid[2], 1
    if spec.windows is not None and grid[2] > spec.windows.depth:
        depth = spec.windows.depth
        windows += math.ceil((grid[2] - depth) / spec.windows.stride)
    in_turn = windows > 1 and spec.windows.join == "samples"
    if stage == "decode":
        return _decoded_by_vq_gan(spec, (*grid[:2], depth if in_turn else grid[2]), size)
    p = spec.network.parameters
    widths = p["channels"]
    voxels = math.prod(spec.latent.shape((*grid[:2], depth))[1:])
    # Scale and offset of every SPADE layer: the first of a decoder block gets the skip connection too.
    blocks = p.get("blocks_per_level", 2)
    modulation = sum((2 + 4 * blocks) * n / 4**level for level, n in enumerate(widths))
    modulation += 8 * widths[-1] / 4 ** (len(widths) - 1)
    held = modulation * voxels * ((1 if in_turn else windows) + spec.controls.guidance)
    if stage == "condition":
        mask, hidden = p.get("mask_channels", 32), p.get("spade_hidden", 128)
        encoder = (p["condition_channels"] + 2 * mask) * math.prod((*grid[:2], depth))
        return (max(encoder, (mask + hidden) * voxels) + held) * size
    # Depth attention at full resolution: queries, keys and values; queries and keys turned, with copies for it and for
    # the products; the scores before and after softmax; the stream that all is added to.
    heads = p.get("heads", 8)
    values = 13 * heads * p.get("head_channels", 32) + 2 * heads * depth // spec.latent.factors[2] + 2 * widths[0]
    return (values * voxels + held) * size


def _decoded_by_vq_gan(spec: ModelSpec, grid: Shape, size: float) -> float:
    p = spec.autoencoder.parameters
    width = p.get("hidden", 16) * (2 if p.get("downsampling", 4) > 1 else 1)  # of the last level, at full resolution
    values = 5.0 * width
    if masks := p.get("condition_channels"):
        values = masks + max(7.0 * width, 3.0 * width + 2 * p.get("spade_hidden", 32))
    codes = 3 * 4 * min(math.prod(spec.latent.shape(grid)[1:]), CODE_ROWS) * p.get("num_embeddings", 16384)
    return max(values * math.prod(grid) * size, codes)


def _slice_ldm(spec: ModelSpec, stage: str, grid: Shape, size: float) -> float:
    """Denoised as a whole stack of latents, decoded a few slices at a time, refined as a whole volume."""
    image, both = math.prod(grid), 2  # the image and its mask
    if stage == "denoise":
        p = spec.network.parameters
        widths, blocks = p["channels"], p.get("num_res_blocks", 1)
        first, second = widths[0], widths[min(1, len(widths) - 1)]
        blocks = blocks if isinstance(blocks, int) else blocks[0]
        # The first block on the way up at full resolution: its input and what is joined to it, three times that for
        # norm and activation, and the skip connections.
        values = second + (blocks + 1) * first + 3 * (first + second)
        return values * math.prod(spec.latent.shape(grid)[1:]) * size
    if stage == "refine":
        widths = spec.refiner.parameters.get("channels", (64, 24))
        latents = (3 * widths[0] + spec.latent.channels) * math.prod(spec.latent.shape(grid)[1:])
        return max(latents, (3 * widths[1] + both) * image) * size
    widths = spec.autoencoder.parameters["channels"]
    slices = grid[0] * grid[1] * min(grid[2], SLICES_AT_A_TIME)
    # Three feature maps of the first width, or eight of the last in attention, at the latent's resolution; the slices
    # that are done wait, and are put together at the end.
    values = max(3 * widths[0], 8 * widths[-1] / math.prod(spec.autoencoder.parameters["strides"]) ** 2)
    return max(values * slices * size + 4 * both * image, 3 * 4 * both * image)
