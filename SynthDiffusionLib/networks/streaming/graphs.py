"""The project's autoencoders as graphs of maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.networks.streaming.calls import NO_PADS, Layer
from SynthDiffusionLib.networks.streaming.nodes import (
    Activation,
    Added,
    Convolved,
    Doubled,
    Modulated,
    Node,
    Source,
    Thinned,
    Whole,
    silu_,
)


def encoder_graph(network: nn.Module, images: torch.Tensor) -> Node:
    """What `network.encode` computes up to the latent: for a KL autoencoder, up to mean and variance.

    Args:
        network: `AutoencoderKlMaisi`, MONAI's `VQVAE`, or `VqGan`.
        images: (1, C, I, J, K); only its size is looked at until the graph is computed.

    Raises:
        ModelError: another network, or a layer that is not known.
    """
    source = _source(images)
    name = type(network).__name__
    if name == "VqGan":
        return _vq_gan_encoder(network, source)
    if name in ("AutoencoderKlMaisi", "VQVAE"):
        return _chain(source, network.encoder.blocks)
    raise _unknown(name)


def decoder_graph(network: nn.Module, latents: torch.Tensor, masks: torch.Tensor | None = None) -> Node:
    """What `network.decode` computes.

    Args:
        network: as for `encoder_graph`.
        latents: (1, C, i, j, k).
        masks: (1, condition_channels, I, J, K), for a `VqGan` whose decoder takes them.

    Raises:
        ModelError: another network, or a layer that is not known.
        ValueError: masks are needed and there are none, or their sides are not those of the image.
    """
    source = _source(latents)
    name = type(network).__name__
    if name == "VqGan":
        return _vq_gan_decoder(network, source, masks)
    if name == "AutoencoderKlMaisi":
        return _chain(_convolved(source, network.post_quant_conv), network.decoder.blocks)
    if name == "VQVAE":
        return _chain(source, network.decoder.blocks)
    raise _unknown(name)


def _unknown(name: str) -> ModelError:
    return ModelError(f"'{name}' cannot be streamed", "Compute it whole.")


def _source(tensor: torch.Tensor) -> Source:
    return Source(tensor.shape[1], tuple(tensor.shape[2:]), tensor=tensor)


def _chain(node: Node, blocks: Iterable[nn.Module]) -> Node:
    """Layers one after the other, as MONAI lists them; a normalisation belongs to the convolution behind it."""
    pending: nn.GroupNorm | None = None
    blocks = list(blocks)
    for block in blocks:
        if isinstance(block, nn.GroupNorm):
            pending = block
            continue
        last = block is blocks[-1]
        if pending is not None:
            node, pending = _convolved(node, block, norm=pending), None
        elif hasattr(block, "norm1") and hasattr(block, "nin_shortcut"):
            node = _residual(node, block)
        elif type(block).__name__ == "VQVAEResidualUnit":
            inner = _convolved(node, block.conv1, after=_activation(block.conv1))
            node = Added(node.channels, node.size, (node, _convolved(inner, block.conv2)), after=torch.relu_)
        elif _doubles(block):
            doubled = Doubled(node.channels, tuple(2 * n for n in node.size), (node,))
            node = _convolved(doubled, block.conv, role="inner")
        elif type(block).__name__ == "MaisiDownsample":
            low_high = tuple(zip(block.pad[::2], block.pad[1::2]))[::-1]  # as F.pad has them: the last axis first
            node = _convolved(node, block.conv, pads=low_high, role="block")
        elif type(block).__name__ == "SpatialAttentionBlock":
            node = Whole(node.channels, node.size, (node,), "block", module=block)
        elif isinstance(block, nn.ReLU):
            raise ModelError("An activation at the end of a VQVAE cannot be streamed", "Compute it whole.")
        else:
            normless = type(block).__name__ == "Convolution"
            node = _convolved(node, block, after=_activation(block), role="through" if normless or last else "block")
    return node


def _doubles(block: nn.Module) -> bool:
    """Whether a layer is a convolution of what has been doubled; by a transposed convolution, it is one itself."""
    return type(block).__name__ in ("MaisiUpsample", "SlabUpsample") and not getattr(block, "use_convtranspose", False)


def _activation(block: nn.Module) -> Activation | None:
    """The activation behind the convolution of a MONAI block; none if there is only the convolution."""
    kinds = [m for m in block.modules() if not list(m.children()) and not isinstance(m, (*_CONVOLUTIONS, nn.Dropout))]
    kinds = [m for m in kinds if not isinstance(m, nn.Identity)]
    if not kinds:
        return None
    if len(kinds) == 1 and isinstance(kinds[0], nn.ReLU):
        return torch.relu_
    if len(kinds) == 1 and isinstance(kinds[0], (nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.ELU)):
        return kinds[0]
    raise ModelError(f"The layer {type(kinds[0]).__name__} cannot be streamed", "Compute the network whole.")


_CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)


def _convolved(
    node: Node,
    block: nn.Module,
    *,
    norm: nn.GroupNorm | None = None,
    before: Activation | None = None,
    after: Activation | None = None,
    pads: Sequence[tuple[int, int]] = NO_PADS,
    role: str = "through",
) -> Convolved:
    """The one convolution in a module, behind `node`."""
    found = [m for m in block.modules() if isinstance(m, _CONVOLUTIONS)]
    if len(found) != 1:
        raise ModelError(f"The layer {type(block).__name__} cannot be streamed", "Compute the network whole.")
    try:
        layer = Layer.of(found[0], tuple(pads))
    except ValueError as error:
        name = type(block).__name__
        raise ModelError(f"The layer {name} cannot be streamed: {error}", "Compute the network whole.") from error
    return Convolved(
        found[0].out_channels, layer.size(node.size), (node,), role, layer=layer, norm=norm, before=before, after=after
    )


def _residual(node: Node, block: nn.Module) -> Node:
    """Norm, SiLU, convolution, twice, and the input added, by a 1x1x1 convolution where the width changes."""
    first = _convolved(node, block.conv1, norm=block.norm1, before=silu_, role="inner")
    beside = node
    if not isinstance(block.nin_shortcut, nn.Identity):
        beside = _convolved(node, block.nin_shortcut)
        if first.channels < node.channels:
            first.together = (beside,)  # both take less room than what they are made from
    second = _convolved(first, block.conv2, norm=block.norm2, before=silu_)
    return Added(second.channels, second.size, (beside, second), "block")


def _vq_gan_encoder(network: nn.Module, node: Node) -> Node:
    node = _convolved(node, network.stem)
    for conv, block in network.down:
        node = _vq_gan_block(_convolved(node, conv, role="block"), block, None)
    return _convolved(node, network.pre_vq, norm=network.encoder_norm, before=silu_)


def _vq_gan_decoder(network: nn.Module, node: Node, masks: torch.Tensor | None) -> Node:
    drawn = None
    if network.condition_channels:
        sides = tuple(n * network.downsampling for n in node.size)
        if masks is None or tuple(masks.shape[2:]) != sides:
            raise ValueError(f"the decoder needs a label map of {sides}")
        drawn = _source(masks)
    node = _convolved(node, network.post_vq, role="block")
    before: nn.GroupNorm | None = network.decoder_norm
    for level in network.up:
        if before is not None:
            node = _normalised(node, before, drawn, level["conv"], ((1, 1),) * 3, "replicate")
            before = None
        else:
            node = _with_edges(node, level["conv"])
        for block in level["blocks"]:
            node = _vq_gan_block(node, block, drawn)
    if before is not None:  # no level at all
        return _normalised(node, before, drawn, network.head)
    return _convolved(node, network.head)


def _vq_gan_block(node: Node, block: nn.Module, drawn: Source | None) -> Node:
    inner = _normalised(node, block.norm_in, drawn, block.conv_in, role="inner")
    second = _normalised(inner, block.norm_out, drawn, block.conv_out)
    return Added(second.channels, second.size, (node, second), "block")


def _with_edges(
    node: Node,
    conv: nn.Module,
    pads: Sequence[tuple[int, int]] = ((1, 1),) * 3,
    mode: str = "replicate",
    norm: nn.GroupNorm | None = None,
    before: Activation | None = None,
    role: str = "block",
) -> Convolved:
    """A convolution whose input has something put round it by the network itself."""
    layer = Layer(conv, tuple(pads), mode)
    return Convolved(conv.out_channels, layer.size(node.size), (node,), role, layer=layer, norm=norm, before=before)


def _normalised(
    node: Node,
    norm: nn.Module,
    drawn: Source | None,
    conv: nn.Module,
    pads: Sequence[tuple[int, int]] = NO_PADS,
    mode: str = "constant",
    role: str = "",
) -> Node:
    """Norm, SiLU, convolution; with a label map, the norm is SPADE's."""
    before: Activation | None = silu_
    plain: nn.GroupNorm | None = norm if isinstance(norm, nn.GroupNorm) else None
    if plain is None:
        factor = drawn.size[0] // node.size[0]
        at = drawn if factor == 1 else Thinned(drawn.channels, node.size, (drawn,), factor=factor)
        modulation = _convolved(_convolved(at, norm.hidden, after=torch.relu_), norm.scale_and_offset)
        node = Modulated(node.channels, node.size, (node, modulation), norm=norm.norm, after=silu_)
        before = None
    if mode == "replicate":
        return _with_edges(node, conv, pads, mode, plain, before, role or "block")
    return _convolved(node, conv, norm=plain, before=before, role=role or "through")
