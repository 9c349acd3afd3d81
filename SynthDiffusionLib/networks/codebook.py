"""Looking up the codebook of a VQ-VAE, for sampling and for training alike."""

from __future__ import annotations

import torch

# Of the matrix of distances, in fp32 and three times at once: for all voxels of 512x512x256 it would take 64 GiB.
DISTANCES_AT_A_TIME = 2**24


def nearest_codes(codebook: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Index of the nearest entry for every latent voxel, in fp32.

    The same as MONAI's `EMAQuantizer.quantize`, a block of voxels at a time.

    Args:
        codebook: (N, C) entries.
        z: (B, C, D, H, W).

    Returns:
        (B, D, H, W) int64.
    """
    entries = codebook.float()
    lengths = (entries.t() ** 2).sum(dim=0, keepdim=True)
    with torch.autocast(z.device.type, enabled=False):
        flat = z.float().movedim(1, -1).reshape(-1, z.shape[1])
        nearest = [
            ((rows**2).sum(dim=1, keepdim=True) + lengths - 2 * torch.mm(rows, entries.t())).argmin(dim=1)
            for rows in flat.split(max(1, DISTANCES_AT_A_TIME // len(entries)))
        ]
    return torch.cat(nearest).reshape(z.shape[0], *z.shape[2:])


def embed_codes(codebook: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The entries of indices.

    Args:
        codebook: (N, C).
        codes: (B, D, H, W), whole numbers.

    Returns:
        (B, C, D, H, W), of the codebook's type.
    """
    return torch.nn.functional.embedding(codes.long(), codebook).movedim(-1, 1).contiguous()
