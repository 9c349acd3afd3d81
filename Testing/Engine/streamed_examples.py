"""Small autoencoders of every kind that can be streamed, and ways to stream them, for the tests."""

from __future__ import annotations

import torch
from torch import nn

from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.maisi_decoder import replace_layers
from SynthDiffusionLib.networks.streaming import Streaming

MAISI = {
    "class": "AutoencoderKlMaisi",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": [8, 8, 16],
    "num_res_blocks": [1, 1, 1],
    "norm_num_groups": 4,
    "attention_levels": [False, False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "num_splits": 1,
    "dim_split": 1,
    "norm_float16": False,
    "save_mem": False,
}
ATTENTIVE = {
    "attention_levels": [False, False, True],
    "with_encoder_nonlocal_attn": True,
    "with_decoder_nonlocal_attn": True,
}
VQVAE = {
    "class": "VQVAE",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [8, 16],
    "num_res_layers": 2,
    "num_res_channels": [8, 16],
    "downsample_parameters": [[2, 4, 1, 1], [2, 4, 1, 1]],
    "upsample_parameters": [[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]],
    "num_embeddings": 64,
    "embedding_dim": 8,
}
ODD_VQVAE = VQVAE | {
    "downsample_parameters": [[2, 3, 1, 1], [3, 5, 2, 4]],
    "upsample_parameters": [[3, 5, 1, 1, 0], [2, 3, 1, 1, 1]],
    "num_res_layers": 1,
}
VQ_GAN = {"class": "VqGan", "hidden": 8, "norm_groups": 4, "num_embeddings": 64}

NETWORKS: dict[str, dict] = {
    "maisi": MAISI,
    "maisi, wide at the end": MAISI | {"num_channels": [16, 8, 4]},
    "maisi, two blocks": MAISI | {"num_res_blocks": [2, 1, 2], "num_channels": [4, 8, 16]},
    "maisi, transposed": MAISI | {"use_convtranspose": True},
    "maisi, attentive": MAISI | ATTENTIVE,
    "maisi, our layers": MAISI,
    "vqvae": VQVAE,
    "vqvae, odd kernels": ODD_VQVAE,
    "vq-gan": VQ_GAN,
    "vq-gan, no levels": VQ_GAN | {"downsampling": 1},
    "vq-gan, spade": VQ_GAN | {"condition_channels": 3, "spade_hidden": 5},
}

# The same volume by each: whatever is kept, recomputed, put elsewhere or cut, in slabs of one row and of all.
WAYS: dict[str, Streaming] = {
    "one slab": Streaming(),
    "rows": Streaming(slab_bytes=1),
    "slabs": Streaming(slab_bytes=30_000),
    "inner anew": Streaming(slab_bytes=20_000, keep_inner=0),
    "small ones kept": Streaming(slab_bytes=20_000, keep_inner=4_000, keep_blocks=8_000),
    "all anew": Streaming(slab_bytes=20_000, keep_inner=0, keep_blocks=0),
    "host": Streaming(slab_bytes=20_000, device_bytes=3_000),
    "host, inner anew": Streaming(slab_bytes=20_000, keep_inner=0, device_bytes=0),
    "small calls": Streaming(slab_bytes=100_000, largest_call=20_000),
}


def build(name: str) -> nn.Module:
    """One of `NETWORKS`, its weights fixed by a seed, none of them nought or one."""
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    network = build_network(NetworkSpec.from_json(NETWORKS[name])).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    torch.random.set_rng_state(state)
    if name == "maisi, our layers":
        replace_layers(network.decoder)
    return network.requires_grad_(False)


def factor(name: str) -> int:
    """Image voxels per latent voxel."""
    return {"vq-gan, no levels": 1, "vqvae, odd kernels": 6}.get(name, 4)


def latents(name: str, sides: tuple[int, int, int], generator: torch.Generator, batch: int = 1) -> torch.Tensor:
    """Noise about a mean: normalisations have something to take off."""
    channels = 4 if name.startswith("maisi") else 8
    return torch.randn((batch, channels, *sides), generator=generator) + 0.7


def masks(name: str, sides: tuple[int, int, int], generator: torch.Generator, batch: int = 1) -> torch.Tensor | None:
    """A label map for the decoder that takes one."""
    if name != "vq-gan, spade":
        return None
    return torch.rand((batch, 3, *(4 * n for n in sides)), generator=generator)


def decoded(network: nn.Module, z: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
    """The network's own decode."""
    return network.decode(z) if drawn is None else network.decode(z, drawn)


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, in parts of the range."""
    assert found.shape == expected.shape
    span = float(expected.max() - expected.min()) or 1.0
    return float((found.float() - expected.float()).abs().max()) / span
