"""Networks by the plain name of their class and the arguments of their constructor, as `model.json` has them.

The classes are MONAI's, under MONAI's names for the arguments; `SlimControlNet` and `PatchUNet` are the project's own.
All attention is PyTorch's scaled dot product: the score matrix of the full-size latent U-Nets has 16,384 x 16,384
entries per head, and need never be held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from SynthDiffusionLib.errors import ModelError

# Trainable numbers: ten times those of MAISI's U-Net. A damaged model.json asks for more.
LARGEST_NETWORK = 2_000_000_000

if TYPE_CHECKING:
    from SynthDiffusionLib.labels.scheme import LabelScheme
    from SynthDiffusionLib.models.spec import NetworkSpec


def build_network(spec: NetworkSpec, scheme: LabelScheme | None = None) -> nn.Module:
    """A network with fresh weights.

    Args:
        spec: name of a class of `NETWORKS`, and its constructor's arguments.
        scheme: the label scheme, which a `PatchUNet` takes the number of its channels from; others ignore it.

    Raises:
        ModelError: an unknown class, arguments that it does not take, or more than `LARGEST_NETWORK` numbers.
    """
    check_size(spec, scheme)
    return _built(spec, scheme)


def check_size(spec: NetworkSpec, scheme: LabelScheme | None = None) -> None:
    """Refuses a network that no memory holds, before its weights take any.

    Raises:
        ModelError: as `build_network`.
    """
    if (count := count_parameters(spec, scheme)) > LARGEST_NETWORK:
        raise ModelError(
            f"The network {spec.name} would have {count / 1e9:.1f} thousand million parameters; "
            f"at most {LARGEST_NETWORK / 1e9:g} are read",
            "Get the model package again.",
        )


def _built(spec: NetworkSpec, scheme: LabelScheme | None) -> nn.Module:
    if spec.name not in NETWORKS:
        raise ModelError(f"The network '{spec.name}' is unknown", f"This version knows {', '.join(sorted(NETWORKS))}.")
    arguments = {name: _frozen(value) for name, value in spec.parameters.items()}
    if spec.name in _ATTENTIVE:
        # MONAI's MAISI U-Net refuses the argument where there is no CUDA; the blocks take it everywhere.
        arguments.pop("use_flash_attention", None)
    try:
        if spec.name == "PatchUNet" and scheme is not None:
            from SynthDiffusionLib.backends.patch_ddpm import build_network as build_patch_unet

            return build_patch_unet(arguments, scheme)
        network = NETWORKS[spec.name](arguments)
    except _ARGUMENT_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The network {spec.name} cannot be built as described: {reason}", "Get the model package again."
        ) from error
    return use_fast_attention(network)


def count_parameters(spec: NetworkSpec, scheme: LabelScheme | None = None) -> int:
    """Number of trainable numbers of a network, without holding its weights in memory.

    Buffers do not count: the running averages of a VQVAE's codebook are state of its training.

    Raises:
        ModelError: an unknown class, or arguments that it does not take.
    """
    with torch.device("meta"):
        return sum(p.numel() for p in _built(spec, scheme).parameters())


def use_fast_attention(network: nn.Module) -> nn.Module:
    """Switches every attention block of MONAI to PyTorch's scaled dot product: same weights, same results."""
    from monai.networks.blocks.selfattention import SABlock

    for module in network.modules():
        if isinstance(module, SABlock):
            module.use_flash_attention = True
    return network


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that MONAI's checks ask for."""
    return tuple(_frozen(v) for v in value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _unet(arguments: dict[str, Any]) -> nn.Module:
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    return DiffusionModelUNet(**arguments)


def _maisi_unet(arguments: dict[str, Any]) -> nn.Module:
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

    return DiffusionModelUNetMaisi(**arguments)


def _vqvae(arguments: dict[str, Any]) -> nn.Module:
    from monai.networks.nets.vqvae import VQVAE

    return VQVAE(**arguments)


def _maisi_autoencoder(arguments: dict[str, Any]) -> nn.Module:
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    return AutoencoderKlMaisi(**arguments)


def _slim_controlnet(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.slim_controlnet import SlimControlNet

    return SlimControlNet(**arguments)


def _maisi_controlnet(arguments: dict[str, Any]) -> nn.Module:
    from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi

    return ControlNetMaisi(**arguments)


def _factorised_unet(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.factorised_unet import FactorisedUNet

    return FactorisedUNet(**arguments)


def _vq_gan(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.vq_gan import VqGan

    return VqGan(**arguments)


def _slice_vae(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.slice_vae import SliceVAE

    return SliceVAE(**arguments)


def _slice_unet(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.slice_unet import SliceUNet

    return SliceUNet(**arguments)


def _slice_refiner(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.slice_refiner import SliceRefiner

    return SliceRefiner(**arguments)


def _patch_unet(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.patch_unet import PatchUNet

    return PatchUNet(**arguments)


def _segmenter(arguments: dict[str, Any]) -> nn.Module:
    from SynthDiffusionLib.networks.segmenter import build_segmenter

    return build_segmenter(**arguments)


NETWORKS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "AutoencoderKlMaisi": _maisi_autoencoder,
    "ControlNetMaisi": _maisi_controlnet,
    "DiffusionModelUNet": _unet,
    "DiffusionModelUNetMaisi": _maisi_unet,
    "FactorisedUNet": _factorised_unet,
    "PatchUNet": _patch_unet,
    "SliceRefiner": _slice_refiner,
    "SliceUNet": _slice_unet,
    "SliceVAE": _slice_vae,
    "SlimControlNet": _slim_controlnet,
    "UNet": _segmenter,
    "VQVAE": _vqvae,
    "VqGan": _vq_gan,
}
# What the constructors raise at arguments of a wrong type, number or size.
_ARGUMENT_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_ATTENTIVE = ("AutoencoderKlMaisi", "ControlNetMaisi", "DiffusionModelUNet", "DiffusionModelUNetMaisi")
