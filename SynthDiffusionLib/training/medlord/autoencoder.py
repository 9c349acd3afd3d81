"""Stage 1: the VQ-GAN, MONAI's VQVAE with a PatchGAN, on random crops (Seyfarth et al., arXiv:2503.13211)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.small_grids import exact_on_small_grids
from SynthDiffusionLib.training.crops import AIR, draw_images, pad_to
from SynthDiffusionLib.training.dataset import load_split
from SynthDiffusionLib.training.loop import Ema, Stage, adamw, learning_rate_at, make_fabric, plain, run_stage
from SynthDiffusionLib.training.medlord.config import MedLoRDConfig
from SynthDiffusionLib.training.stages import HINT

RESTART_EVERY = 50
VALIDATION_BATCHES = 8


def build_trained(stage: str, parameters: dict[str, Any]) -> torch.nn.Module:
    """A network of a stage with fresh weights.

    Raises:
        BadInput: [network] does not describe one.
    """
    from SynthDiffusionLib.training.medlord.config import METHOD

    for name in ("num_embeddings", "embedding_dim"):  # MONAI builds a codebook without codes
        if isinstance(parameters.get(name), int) and parameters[name] < 1:
            raise BadInput(f"[network] {name} must be at least 1", HINT)
    try:
        return exact_on_small_grids(build_network(NetworkSpec(METHOD.classes[stage], parameters)))
    except ModelError as error:
        raise BadInput(f"[network] does not describe a network: {error.message}", HINT) from error


def downsampling_of(parameters: dict[str, Any]) -> int:
    """Image voxels per latent voxel along an axis, from the arguments of MONAI's VQVAE.

    Raises:
        BadInput: the strides are missing or no whole numbers.
    """
    strides = parameters.get("downsample_parameters", ((2, 4, 1, 1),) * len(parameters.get("channels", ())))
    try:
        levels = [strides] * len(parameters["channels"]) if isinstance(strides[0], int) else strides
        factor = int(np.prod([level[0] for level in levels]))
    except (TypeError, KeyError, IndexError) as error:
        raise BadInput("[network] needs channels and downsample_parameters", HINT) from error
    if factor < 1:
        raise BadInput("[network] downsample_parameters have a stride below 1", HINT)
    return factor


class Codec(torch.nn.Module):
    """The VQVAE with one way through it, so that DDP sees every weight; the codebook is looked up in fp32.

    MONAI switches autocast off there for CUDA only; in bf16 distances are too coarse to tell codes apart.
    """

    def __init__(self, vqvae: torch.nn.Module) -> None:
        super().__init__()
        self.vqvae = vqvae

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstructions (B, 1, D, H, W), quantisation loss, encodings before quantisation (B, C, d, h, w)."""
        encodings = self.vqvae.encode(images)
        with torch.autocast(images.device.type, enabled=False):
            quantised, loss = self.vqvae.quantize(encodings.float())
        return self.vqvae.decode(quantised), loss, encodings


@torch.no_grad()
def restart_codes(vqvae: torch.nn.Module, encodings: torch.Tensor, below: float, generator: torch.Generator) -> int:
    """Puts codes of the codebook that are hardly used on random encodings of the batch.

    Args:
        encodings: (B, C, d, h, w), as the encoder gives them.
        below: moving average of the number of encodings per step under which a code counts as unused.

    Returns:
        number of codes that were moved.
    """
    quantiser = vqvae.quantizer.quantizer
    flat = encodings.detach().float().movedim(1, -1).reshape(-1, encodings.shape[1])
    count = len(quantiser.embedding.weight)
    chosen = torch.randint(len(flat), (count,), generator=generator).to(flat.device)
    unused = quantiser.ema_cluster_size < below
    # As if each had just been used: else the next steps would count it as unused again.
    size = torch.where(unused, torch.full_like(quantiser.ema_cluster_size, max(1.0, below)), quantiser.ema_cluster_size)
    moved = unused[:, None]
    quantiser.embedding.weight.data.copy_(torch.where(moved, flat[chosen], quantiser.embedding.weight))
    quantiser.ema_w.copy_(torch.where(moved, flat[chosen] * size[:, None], quantiser.ema_w))
    quantiser.ema_cluster_size.copy_(size)
    return int(unused.sum())


def _check_crop(vqvae: torch.nn.Module, config: MedLoRDConfig) -> None:
    """Whether the decoder gives back crops of the size that the encoder took; only shapes are computed.

    Raises:
        BadInput: it does not.
    """
    images = torch.zeros(1, 1, *config.crops.size, device="meta")
    network = copy.deepcopy(vqvae).to("meta")
    try:
        found = list(network.decode(network.encode(images)).shape)
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"[network] cannot take crops of {list(config.crops.size)}: {error}", HINT) from error
    if found != list(images.shape):
        raise BadInput(f"[network] makes {found} of a crop of {list(images.shape)}", HINT)


def _check_judged(discriminator: torch.nn.Module, config: MedLoRDConfig) -> None:
    """Whether crops are large enough for the discriminator's layers, each of which halves them.

    Raises:
        BadInput: they are not.
    """
    judged = torch.zeros(1, config.network.get("out_channels", 1), *config.crops.size, device="meta")
    try:
        copy.deepcopy(discriminator).to("meta")(judged)
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"[crops] size {list(config.crops.size)} is too small for the discriminator's "
            f"{config.losses.discriminator_layers} layers",
            "Give larger crops or fewer discriminator_layers, or set adversarial to 0 in [losses].",
        ) from error


def perceptual_loss(name: str, on_event: Callable[[dict], None]) -> torch.nn.Module | None:
    """MONAI's PerceptualLoss, or None when it is off or its weights cannot be had; an event says so."""
    if name == "off":
        on_event({"event": "note", "message": "No perceptual loss: it is off in [losses] (offline setting)."})
        return None
    from monai.losses import PerceptualLoss

    options = {"is_fake_3d": False, "channel_wise": True} if name.startswith("medicalnet") else {"is_fake_3d": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PerceptualLoss(3, network_type=name, **options).eval().requires_grad_(False)
    except ValueError as error:
        raise BadInput(f"[losses] perceptual '{name}' is none of MONAI's PerceptualLoss: {error}", HINT) from error
    except Exception as error:  # no package lpips, no network, a hub that answers otherwise: each shows differently
        on_event(
            {
                "event": "note",
                "message": f"No perceptual loss: the weights of '{name}' cannot be had ({type(error).__name__}).",
            }
        )
        return None


class AutoencoderStage(Stage):
    """See the module."""

    name = "autoencoder"

    def __init__(self, config: MedLoRDConfig, fabric: Fabric, on_event: Callable[[dict], None]) -> None:
        from monai.losses import PatchAdversarialLoss
        from monai.losses.spectral_loss import JukeboxLoss
        from monai.networks.nets import PatchDiscriminator

        self.config, self.fabric = config, fabric
        losses, optimiser = config.losses, config.optimiser
        vqvae = build_trained("autoencoder", config.network)
        self.downsampling = downsampling_of(config.network)
        if any(n % self.downsampling for n in config.crops.size):
            raise BadInput(f"[crops] size must be multiples of {self.downsampling}, not {config.crops.size}", HINT)
        _check_crop(vqvae, config)
        self.train, self.validation = (self._volumes(split) for split in ("train", "validation"))
        self.epoch_steps = -(-len(self.train) // (optimiser.batch * fabric.world_size))
        self.ema = Ema(vqvae.decoder, optimiser.ema) if optimiser.ema else None
        self.codec, self.generator_optimiser = fabric.setup(
            Codec(vqvae), adamw(config, fabric, vqvae.parameters(), optimiser.learning_rate)
        )
        self.parts = {"network": plain(self.codec).vqvae, "optimiser": self.generator_optimiser}
        if self.ema is not None:
            self.ema.module.to(fabric.device)
            self.parts["ema_state"] = self.ema
        self.discriminator = None
        if losses.adversarial:
            # Instance norm: batch norm would mix the statistics of real and synthetic crops between processes.
            discriminator = PatchDiscriminator(
                3,
                losses.discriminator_channels,
                config.network.get("out_channels", 1),
                num_layers_d=losses.discriminator_layers,
                norm="INSTANCE",
            )
            _check_judged(discriminator, config)
            exact_on_small_grids(discriminator)
            rate = optimiser.discriminator_rate
            self.discriminator, self.discriminator_optimiser = fabric.setup(
                discriminator, adamw(config, fabric, discriminator.parameters(), rate)
            )
            self.parts["discriminator"] = plain(self.discriminator)
            self.parts["discriminator_optimiser"] = self.discriminator_optimiser
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.jukebox = JukeboxLoss(spatial_dims=3)
        self.perceptual = perceptual_loss(losses.perceptual, on_event) if losses.perceptual_weight else None
        if self.perceptual is not None:
            self.perceptual.to(fabric.device)
        rng = np.random.default_rng([config.seed, 11])
        still = type(config.crops)(config.crops.size, 0.0, 0.0, 0.0)
        self.fixed = [draw_images(self.validation, optimiser.batch, still, rng) for _ in range(VALIDATION_BATCHES)]

    def _volumes(self, split: str) -> list[torch.Tensor]:
        return [
            pad_to(
                torch.from_numpy(normalise(case.image.array, self.config.intensity_range)), self.config.crops.size, AIR
            ).to(self.fabric.device)
            for case in load_split(self.config.data, split)
        ]

    def adversarial_weight(self, share: float) -> float:
        """Weight of the adversarial loss when a share of the run is over: 0, then rising, then that of [losses]."""
        losses = self.config.losses
        if self.discriminator is None or share < losses.adversarial_start:
            return 0.0
        if not losses.adversarial_ramp:
            return losses.adversarial
        return losses.adversarial * min(1.0, (share - losses.adversarial_start) / losses.adversarial_ramp)

    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        config, fabric, losses = self.config, self.fabric, self.config.losses
        rng = np.random.default_rng([config.seed, 10, step, fabric.global_rank])
        images = draw_images(self.train, config.optimiser.batch, config.crops, rng)
        for optimiser, peak in self._optimisers():
            for group in optimiser.param_groups:
                group["lr"] = learning_rate_at(config.optimiser, peak, step, share, self.epoch_steps)

        self.codec.train()
        if losses.restart_below and share < 0.5 and step % RESTART_EVERY == 0:
            self._restart(images, step)
        weight = self.adversarial_weight(share)
        reconstruction, quantisation, _ = self.codec(images)
        reconstruction = reconstruction.float()
        parts = {"loss": F.l1_loss(reconstruction, images), "quantisation": quantisation}
        total = losses.l1 * parts["loss"] + losses.quantisation * quantisation
        if losses.jukebox:
            parts["jukebox"] = self.jukebox(reconstruction, images)
            total = total + losses.jukebox * parts["jukebox"]
        if self.perceptual is not None:
            with fabric.autocast():
                parts["perceptual"] = self.perceptual(reconstruction, images)
            total = total + losses.perceptual_weight * parts["perceptual"]
        if weight:
            self.discriminator.requires_grad_(False)
            judged = self.discriminator(reconstruction)[-1].float()
            parts["adversarial"] = self.adversarial(judged, target_is_real=True, for_discriminator=False)
            total = total + weight * parts["adversarial"]
        self.descend(self.codec, self.generator_optimiser, total)
        if self.ema is not None:
            self.ema.update(plain(self.codec).vqvae.decoder)

        if weight:
            self.discriminator.requires_grad_(True)
            judged = self.discriminator(torch.cat([reconstruction.detach(), images]))[-1].float()
            fake, real = judged.chunk(2)
            parts["discriminator"] = 0.5 * (
                self.adversarial(fake, target_is_real=False, for_discriminator=True)
                + self.adversarial(real, target_is_real=True, for_discriminator=True)
            )
            self.descend(self.discriminator, self.discriminator_optimiser, parts["discriminator"])
        zero = torch.zeros((), device=fabric.device)
        if self.discriminator is not None:  # so that a row of the log always has them
            parts = {"adversarial": zero, "discriminator": zero, **parts}
        parts["perplexity"] = plain(self.codec).vqvae.quantizer.perplexity
        parts["learning_rate"] = torch.tensor(self.generator_optimiser.param_groups[0]["lr"])
        return {name: value.detach() for name, value in parts.items()}

    def _optimisers(self) -> list[tuple[Any, float]]:
        rates = [(self.generator_optimiser, self.config.optimiser.learning_rate)]
        if self.discriminator is not None:
            rates.append((self.discriminator_optimiser, self.config.optimiser.discriminator_rate))
        return rates

    @torch.no_grad()
    def _restart(self, images: torch.Tensor, step: int) -> None:
        vqvae = plain(self.codec).vqvae
        with self.fabric.autocast():
            encodings = vqvae.encode(images)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        restart_codes(vqvae, encodings, self.config.losses.restart_below, generator)
        if self.fabric.world_size > 1:  # each process has other images, and one codebook must come out
            quantiser = vqvae.quantizer.quantizer
            for tensor in (quantiser.embedding.weight, quantiser.ema_w, quantiser.ema_cluster_size):
                tensor.data.copy_(self.fabric.broadcast(tensor.data))

    def weights(self) -> dict[str, torch.Tensor]:
        """The VQVAE's tensors with the averaged decoder, if one is kept."""
        state = dict(plain(self.codec).vqvae.state_dict())
        if self.ema is not None and self.ema.count:
            state |= {f"decoder.{name}": tensor for name, tensor in self.ema.module.state_dict().items()}
        return state

    @torch.no_grad()
    def _reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        vqvae = plain(self.codec).vqvae.eval()
        decoder = self.ema.module if self.ema is not None and self.ema.count else vqvae.decoder
        with self.fabric.autocast():
            encodings = vqvae.encode(images)
        with torch.autocast(images.device.type, enabled=False):
            quantised, _ = vqvae.quantize(encodings.float())
        with self.fabric.autocast():
            return decoder(quantised).float()

    def validate(self) -> dict[str, float]:
        errors, squares = [], []
        for images in self.fixed:
            difference = self._reconstruct(images) - images
            errors.append(difference.abs().mean())
            squares.append((difference**2).mean())
        mse = float(torch.stack(squares).mean())
        # Peak signal-to-noise ratio over the whole range, which is 2 wide here.
        psnr = 10.0 * float(np.log10(4.0 / max(mse, 1e-12)))
        return {"validation_loss": float(torch.stack(errors).mean()), "validation_psnr": psnr}

    def picture(self) -> np.ndarray:
        """Middle slices of validation crops, real above, reconstructed below."""
        images = torch.cat(self.fixed)[:6]
        middle = images.shape[-1] // 2
        rows = [
            np.concatenate([p[0, :, :, middle].T for p in part.float().cpu().numpy()], axis=1)
            for part in (images, self._reconstruct(images))
        ]
        return ((np.clip(np.concatenate(rows), -1, 1) + 1) * 127.5).astype(np.uint8)

    def record(self) -> dict[str, Any]:
        return {
            "weights": {name: tensor.detach().cpu() for name, tensor in self.weights().items()},
            "intensity_range": list(self.config.intensity_range),
            "downsampling": self.downsampling,
        }


def train_autoencoder(
    config: MedLoRDConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Trains the VQ-GAN; returns the checkpoint, whose "weights" later stages take."""
    fabric = make_fabric(config, device)
    stage = AutoencoderStage(config, fabric, on_event)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)
