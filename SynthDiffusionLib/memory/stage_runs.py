"""The stages of every method as computations that `memory.trace` follows: what the backends do, without values.

A stage holds what its backend holds meanwhile: the sampler's copies of the latents, the drawing's features, networks
that stay on the device. Where a backend changes, its stage here must follow; Testing/Engine/test_memory_stages.py
compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from SynthDiffusionLib.memory.at_once import usual
from SynthDiffusionLib.memory.execution import SLICES, WINDOWS
from SynthDiffusionLib.memory.trace import HALF, Tracer
from SynthDiffusionLib.models.presets import networks as networks_of
from SynthDiffusionLib.networks.build import build_network

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec
    from SynthDiffusionLib.networks.streaming import Streaming

Shape = tuple[int, int, int]
Run = Callable[[Tracer], object]

# Copies of the latents in fp32 that sampling holds while the network is evaluated: the noisy one, the last prediction
# and the clean estimate of it, what a solver of second order remembers (three, UniPC), and the first of guidance's two
# predictions, which are made one after the other.
SAMPLER_COPIES = 7


@dataclass(frozen=True)
class How:
    """How the stages are computed.

    Args:
        all_resident: networks of other stages stay on the device.
        streaming: of the autoencoder; None: whole.
        precision: of streaming, as it is given to `trace`.
        step_by_step: streaming is followed through all its slabs, which takes minutes for a large volume; else its own
            account stands for it (`networks.streaming.outlook`), which is never below that
            (Testing/Engine/test_memory_trace.py).
        chunk_elements: convolutions work on slabs of about so many elements, the drawing's embedding on slabs of the
            volume; None: whole.
        batch: volumes at once.
        guided: with guidance, whose two evaluations come one after the other.
        at_once: slices or windows that are computed together (`memory.at_once`); None: as usual.
    """

    all_resident: bool = True
    streaming: Streaming | None = None
    precision: str = "fp32"
    step_by_step: bool = False
    chunk_elements: int | None = None
    batch: int = 1
    guided: bool = False
    at_once: int | None = None


def stage_runs(
    spec: ModelSpec,
    grid: Shape,
    how: How = How(),
    *,
    conditional: bool = True,
    networks: dict[str, nn.Module] | None = None,
) -> dict[str, Run]:
    """The stages of making a volume, in their order.

    Args:
        spec: of a package or a preset.
        grid: (I, J, K) that the networks work on, padded.
        how: they are computed.
        conditional: with a drawing.
        networks: of `built_networks`, for the same way of computing convolutions; built when None.

    Returns:
        by their names: "condition" (the drawing's features), "denoise" (one evaluation), "decode",
        "refine".

    Raises:
        ModelError: a network cannot be built as described.
    """
    return _METHODS[spec.backend](_Method(spec, grid, how, conditional, networks))


def encode_run(spec: ModelSpec, grid: Shape, how: How = How()) -> Run:
    """Encoding one volume, as training does to its latents, with the autoencoder alone on the device.

    Raises:
        ValueError: the model has no autoencoder.
    """
    if spec.autoencoder is None:
        raise ValueError(f"'{spec.id}' has no autoencoder")
    built = built_networks(spec, how)["autoencoder"]

    def run(t: Tracer) -> None:
        network = t.network(built)
        channels = spec.autoencoder.parameters.get("in_channels", 1)
        images = t.tensor(how.batch, channels, *grid)
        with t.autocast():
            if how.streaming is not None:
                from SynthDiffusionLib.networks.streaming import encode

                encode(network, images, how.streaming)
            elif spec.backend == "slice_ldm":
                network.encode_volume(images, 8)
            else:
                network.encode(images)

    return run


class _Method:
    """What the stages of all methods share."""

    def __init__(
        self,
        spec: ModelSpec,
        grid: Shape,
        how: How,
        conditional: bool,
        networks: dict[str, nn.Module] | None = None,
    ) -> None:
        self.spec, self.grid, self.how = spec, grid, how
        self.latent = spec.latent.shape(grid) if spec.latent is not None else None
        self.controlled = conditional and spec.controlnet is not None
        self.networks = dict(networks or built_networks(spec, how))
        if not self.controlled:
            self.networks.pop("controlnet", None)

    def place(self, t: Tracer, *used: str) -> list[nn.Module]:
        """The networks of a stage, with those of the others where they are to stay."""
        roles = dict.fromkeys([*used, *(self.networks if self.how.all_resident else ())])
        placed = {role: t.network(self.networks[role]) for role in roles}
        return [placed[role] for role in used]

    def latents(self, t: Tracer, copies: int = 1) -> list[torch.Tensor]:
        return [t.tensor(self.how.batch, *self.latent) for _ in range(copies)]

    def decode(self, network: nn.Module, codes: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        if self.how.streaming is None:
            return network.decode(codes) if masks is None else network.decode(codes, masks)
        if self.how.step_by_step:
            from SynthDiffusionLib.networks.streaming import decode

            return decode(network, codes, self.how.streaming, masks)
        account, dtype = self._account, HALF.get(self.how.precision, torch.float32)
        sides = (n * factor for n, factor in zip(codes.shape[2:], self.spec.latent.factors))
        channels, device = self.spec.autoencoder.parameters.get("out_channels", 1), codes.device
        result = torch.empty((len(codes), channels, *sides), dtype=dtype, device=device)
        on_host = torch.empty(account.host_bytes, dtype=torch.uint8)
        buffers = torch.empty(account.device_bytes, dtype=torch.uint8, device=device)
        # The account leaves out the weights' copies in 16 bits.
        copies = [p.to(dtype) for p in network.parameters()] if dtype != torch.float32 else []
        del on_host, buffers, copies
        return result

    def account(self, slices: int | None = None) -> None:
        """Asks streaming what decoding takes, before anything is traced.

        Args:
            slices: of the latent, where not all of it is decoded at once.
        """
        if self.how.streaming is None or self.how.step_by_step:
            return
        from SynthDiffusionLib.networks.streaming import outlook

        shape = (1, *self.latent[:3], slices or self.latent[3])
        dtype = HALF.get(self.how.precision, torch.float32)
        self._account = outlook(self.networks["autoencoder"], shape, "decode", self.how.streaming, dtype)

    def evaluations(self) -> range:
        return range(2 if self.how.guided else 1)


def _medlord(m: _Method) -> dict[str, Run]:
    from SynthDiffusionLib.networks.codebook import embed_codes, nearest_codes

    m.account()

    def features(t: Tracer, width: int) -> torch.Tensor | None:
        if not m.controlled:
            return None
        return t.tensor(m.how.batch, width, *m.latent[1:], dtype=t.dtype or torch.float32)

    def condition(t: Tracer) -> None:
        (control,) = m.place(t, "controlnet")
        masks = t.tensor(m.how.batch, m.spec.controlnet.parameters["condition_channels"], *m.grid)
        with t.autocast():
            _embed(m, control.embedding, masks, m.spec.controlnet.parameters.get("downsampling", 4))

    def denoise(t: Tracer) -> None:
        network, *control = m.place(t, "denoiser", *(["controlnet"] if m.controlled else []))
        noisy, *held = m.latents(t, SAMPLER_COPIES)
        embedded, time = features(t, control[0].channels[0] if control else 0), t.tensor(m.how.batch)
        for _ in m.evaluations():
            down, mid = None, None
            with t.autocast():
                if m.controlled:
                    down, mid = control[0](noisy, time, embedded=embedded)
                prediction = network(
                    noisy, time, down_block_additional_residuals=down, mid_block_additional_residual=mid
                ).float()
            held.append(prediction)

    def decode(t: Tracer) -> None:
        (network,) = m.place(t, "autoencoder")
        # Estimates are decoded while the sampler and the denoiser hold theirs.
        latents, *held = m.latents(t, SAMPLER_COPIES)
        held.append(features(t, m.networks["controlnet"].channels[0] if m.controlled else 0))
        codebook = network.quantizer.quantizer.embedding.weight
        codes = embed_codes(codebook, nearest_codes(codebook, latents / m.spec.latent.scale_factor))
        with t.autocast():
            volume = m.decode(network, codes)
        _finished(m.spec, volume)
        del held

    return ({"condition": condition} if m.controlled else {}) | {"denoise": denoise, "decode": decode}


def _maisi(m: _Method) -> dict[str, Run]:
    m.account()

    def features(t: Tracer) -> torch.Tensor | None:
        if not m.controlled:
            return None
        width = m.spec.controlnet.parameters["num_channels"][0]
        return t.tensor(m.how.batch, width, *m.latent[1:], dtype=t.dtype or torch.float32)

    def condition(t: Tracer) -> None:
        (control,) = m.place(t, "controlnet")
        digits = m.spec.controlnet.parameters["conditioning_embedding_in_channels"]
        code = t.tensor(m.how.batch, digits, *m.grid, dtype=torch.uint8)
        with t.autocast():
            _embed(m, control.controlnet_cond_embedding, code, 4, t.dtype or torch.float32)

    def denoise(t: Tracer) -> None:
        network, *control = m.place(t, "denoiser", *(["controlnet"] if m.controlled else []))
        embedded, (noisy, *held), time = features(t), m.latents(t, SAMPLER_COPIES), t.tensor(m.how.batch)
        inputs, p = {}, m.spec.network.parameters
        if p.get("include_spacing_input"):
            inputs["spacing_tensor"] = t.tensor(m.how.batch, 3)
        if p.get("include_top_region_index_input"):
            inputs |= {f"{end}_region_index_tensor": t.tensor(m.how.batch, 4) for end in ("top", "bottom")}
        classes = {}
        if p.get("num_class_embeds") is not None:
            classes = {"class_labels": t.tensor(m.how.batch, dtype=torch.int64)}
        for _ in m.evaluations():
            down, mid = None, None
            with t.autocast():
                if m.controlled:
                    with _without_embedding(control[0]):
                        down, mid = control[0](noisy, time, embedded, conditioning_scale=1.0, **classes)
                prediction = network(
                    noisy,
                    time,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                    **inputs,
                    **classes,
                ).float()
            held.append(prediction)

    def decode(t: Tracer) -> None:
        from SynthDiffusionLib.networks.maisi_decoder import safe_splits, set_splits

        (network,) = m.place(t, "autoencoder")
        held, (latents, *copies) = features(t), m.latents(t, SAMPLER_COPIES)  # estimates are decoded beside them
        p = m.spec.autoencoder.parameters
        set_splits(network.decoder, safe_splits(m.latent[1:], m.spec.latent.downsampling, p["num_channels"], t.device))
        with t.autocast():
            volume = m.decode(network, latents / m.spec.latent.scale_factor)
        _finished(m.spec, volume)
        del held, copies

    return ({"condition": condition} if m.controlled else {}) | {"denoise": denoise, "decode": decode}


def _med_lsdm(m: _Method) -> dict[str, Run]:
    from SynthDiffusionLib.backends.med_lsdm import window_slices

    spec, factor = m.spec, m.spec.latent.factors[2]
    depth, pieces = m.latent[3], [slice(0, m.latent[3])]
    if spec.windows is not None:
        pieces = window_slices(depth, spec.windows.depth // factor, spec.windows.stride // factor)
    joined = len(pieces) == 1 or spec.windows.join == "steps"
    window = pieces[0].stop
    m.account(None if joined else window)
    at_once = min(m.how.at_once or usual(WINDOWS), len(pieces)) if joined else 1
    held_pieces = (len(pieces) if joined else 1) + (1 if m.how.guided else 0)
    masks = spec.network.parameters["condition_channels"]

    def modulations(t: Tracer, network: nn.Module) -> list[torch.Tensor]:
        drawing = t.tensor(m.how.batch, masks, *m.grid[:2], window * factor)
        with t.autocast():
            return network.modulate(network.embed(drawing))

    def condition(t: Tracer) -> list[list[torch.Tensor]]:
        (network,) = m.place(t, "denoiser")
        return [modulations(t, network) for _ in range(held_pieces)]

    def denoise(t: Tracer) -> None:
        (network,) = m.place(t, "denoiser")
        held = _alike(t, modulations(t, network), held_pieces)
        (noisy, *copies), time = m.latents(t, SAMPLER_COPIES), t.tensor(m.how.batch * at_once)
        copies.append(torch.zeros_like(noisy))
        windows = torch.cat([noisy[..., :window]] * at_once)
        told = [torch.cat(tensors) for tensors in zip(*held[:at_once])] if at_once > 1 else held[0]
        with t.autocast():
            for index in m.evaluations():
                copies.append(network(windows, time, modulations=held[-1] if index else told).float())

    def decode(t: Tracer) -> None:
        network, denoiser = m.place(t, "autoencoder", "denoiser")
        held = _alike(t, modulations(t, denoiser), held_pieces)  # while estimates are decoded
        slices = depth if joined else window
        latents, *copies = m.latents(t, SAMPLER_COPIES)
        codes, _ = network.quantise(latents[..., :slices] / spec.latent.scale_factor)
        drawing = None
        if count := spec.autoencoder.parameters.get("condition_channels"):
            drawing = t.tensor(m.how.batch, count, *m.grid[:2], slices * factor)
        with t.autocast():
            volume = m.decode(network, codes, drawing)
        _finished(spec, volume)
        del held, copies

    return {"condition": condition, "denoise": denoise, "decode": decode}


def _slice_ldm(m: _Method) -> dict[str, Run]:
    slices = m.how.at_once or usual(SLICES)

    def denoise(t: Tracer) -> None:
        (network,) = m.place(t, "denoiser")
        network.unet.class_embedding = getattr(network.unet.class_embedding, "mlp", network.unet.class_embedding)
        (noisy, *held), time = m.latents(t, SAMPLER_COPIES), t.tensor(m.how.batch)
        values = t.tensor(m.how.batch, network.characteristics)
        for _ in m.evaluations():
            with t.autocast():
                held.append(network.unet(noisy, time, class_labels=values).float())

    def decoded(t: Tracer) -> torch.Tensor:
        network, *refiner = m.place(t, "autoencoder", *(["refiner"] if m.spec.refiner else []))
        latents, *copies = m.latents(t, SAMPLER_COPIES)
        with t.autocast():
            z = refiner[0].aggregate(latents) if refiner else latents
            volume = network.decode_volume(z, slices)
        del copies
        return volume

    def refine(t: Tracer) -> None:
        m.place(t, "autoencoder")
        (refiner,) = m.place(t, "refiner")
        held = m.latents(t, SAMPLER_COPIES)
        pair = t.tensor(m.how.batch, 2, *m.grid, dtype=t.dtype or torch.float32)
        with t.autocast():
            refiner.refine(pair.float())
        del held

    stages: dict[str, Run] = {"denoise": denoise, "decode": decoded}
    return stages | ({"refine": refine} if m.spec.refiner is not None else {})


def _patch_ddpm(m: _Method) -> dict[str, Run]:
    from SynthDiffusionLib.backends.patch_ddpm import assemble_input

    def denoise(t: Tracer) -> None:
        (network,) = m.place(t, "denoiser")
        classes = t.tensor(m.how.batch, len(m.spec.label_scheme.condition_classes), *m.grid)
        coordinates, nothing = t.tensor(m.how.batch, 3, *m.grid), t.tensor(m.how.batch, 1, *m.grid)
        noisy, *held = [t.tensor(m.how.batch, 1, *m.grid) for _ in range(SAMPLER_COPIES)]
        for _ in m.evaluations():
            with t.autocast():
                held.append(
                    network(
                        assemble_input(noisy, coordinates, classes, nothing, nothing), t.tensor(m.how.batch)
                    ).float()
                )

    return {"denoise": denoise}


_METHODS: dict[str, Callable[[_Method], dict[str, Run]]] = {
    "maisi": _maisi,
    "med_lsdm": _med_lsdm,
    "medlord": _medlord,
    "patch_ddpm": _patch_ddpm,
    "slice_ldm": _slice_ldm,
}


def _embed(
    m: _Method, layers: nn.Module, drawing: torch.Tensor, factor: int, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The drawing's features, whole or slab by slab."""

    def layer(part: torch.Tensor) -> torch.Tensor:
        return layers(part if dtype is None else part.to(dtype))

    if m.how.chunk_elements is None:
        return layer(drawing)
    from SynthDiffusionLib.networks.chunked_convolution import embed_by_slabs, slabs_for

    widest = max(p.shape[0] for p in layers.parameters())
    return embed_by_slabs(layer, drawing, factor, slabs_for(widest * math.prod(m.grid), m.how.chunk_elements))


@contextmanager
def _without_embedding(control: nn.Module) -> Iterator[None]:
    """As `backends.maisi` has MAISI's ControlNet: given the drawing's features, not the drawing."""
    embedding = control.controlnet_cond_embedding
    control.controlnet_cond_embedding, control.use_checkpointing = nn.Identity(), False
    try:
        yield
    finally:
        control.controlnet_cond_embedding = embedding


def _alike(t: Tracer, tensors: list[torch.Tensor], copies: int) -> list[list[torch.Tensor]]:
    """Lists of tensors of the same shapes, the given ones among them."""
    return [tensors, *([torch.empty_like(x) for x in tensors] for _ in range(copies - 1))]


def _finished(spec: ModelSpec, volume: torch.Tensor) -> None:
    """What `backends.latent` does to a decoded volume: its range in fp32, a look for values that are not finite, and
    the clipped copy that goes to the host."""
    low, high = spec.latent.decoded_range
    ranged = (volume.float() - low) * (2.0 / (high - low)) - 1.0
    torch.isfinite(ranged).all()
    ranged[0, 0].float().clamp(-1.0, 1.0)


def built_networks(spec: ModelSpec, how: How) -> dict[str, nn.Module]:
    """The networks by their role, on the meta device, with the layers that their backends put in.

    Raises:
        ModelError: a network cannot be built as described.
    """
    from SynthDiffusionLib.networks.chunked_convolution import chunk_convolutions

    made = {}
    for role, network in networks_of(spec):
        if role == "segmenter":
            continue
        with torch.device("meta"):
            made[role] = build_network(network, spec.label_scheme)
        if network.name == "AutoencoderKlMaisi":
            from SynthDiffusionLib.networks.maisi_decoder import replace_layers

            replace_layers(made[role].decoder)
        elif how.chunk_elements is not None:  # the layers of MAISI's decoder have slabs of their own
            chunk_convolutions(made[role], how.chunk_elements)
    return made
