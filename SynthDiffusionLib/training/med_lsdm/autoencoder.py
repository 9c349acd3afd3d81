"""Stage 1: the VQ-GAN with its two discriminators, on random windows (Tang, Seyam, Yang, arXiv:2507.00206).

Losses, their weights and the discriminators' betas are those of the authors' code, as far as it is described; their
weights can all be set, since a data set of a hundred cases bears less of a discriminator than theirs.
"""

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
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.networks.small_grids import exact_on_small_grids
from SynthDiffusionLib.training.crops import draw_images, mirror_to
from SynthDiffusionLib.training.dataset import load_split
from SynthDiffusionLib.training.loop import COLUMNS, Ema, Stage, adamw, learning_rate_at, make_fabric, plain, run_stage
from SynthDiffusionLib.training.masks import class_table, masks_of, one_hot_masks
from SynthDiffusionLib.training.med_lsdm.condition import check_names, draw_all_given
from SynthDiffusionLib.training.med_lsdm.config import METHOD, MedLSDMConfig, WindowConfig
from SynthDiffusionLib.training.stages import HINT

VALIDATION_BATCHES = 8
BETAS = (0.5, 0.9)
DECODER = ("post_vq.", "decoder_norm.", "up.", "head.")  # what VqGan.decode uses


def build_trained(stage: str, parameters: dict[str, Any]) -> torch.nn.Module:
    """A network of a stage with fresh weights.

    Raises:
        BadInput: [network] does not describe one.
    """
    for name in ("num_embeddings", "embedding_dim", "hidden"):
        if isinstance(parameters.get(name), int) and parameters[name] < 1:
            raise BadInput(f"[network] {name} must be at least 1", HINT)
    try:
        return exact_on_small_grids(build_network(NetworkSpec(METHOD.classes[stage], parameters)))
    except ModelError as error:
        raise BadInput(f"[network] does not describe a network: {error.message}", HINT) from error


def image_discriminator(config: MedLSDMConfig, dimensions: int) -> torch.nn.Module:
    """MONAI's PatchGAN discriminator, which gives its features too; 2D or 3D.

    Instance norm: batch norm would mix the statistics of real and reconstructed windows between processes.

    Raises:
        BadInput: the windows are too small for its layers.
    """
    from monai.networks.nets import PatchDiscriminator

    losses, channels = config.losses, config.network.get("out_channels", 1)
    discriminator = PatchDiscriminator(
        dimensions, losses.discriminator_channels, channels, num_layers_d=losses.discriminator_layers, norm="INSTANCE"
    )
    judged = torch.zeros(1, channels, *config.windows.size[:dimensions], device="meta")
    try:
        copy.deepcopy(discriminator).to("meta")(judged)
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"[windows] size {list(config.windows.size)} is too small for the discriminator's "
            f"{losses.discriminator_layers} layers",
            "Give larger windows or fewer discriminator_layers, or set image_gan and volume_gan to 0 in [losses].",
        ) from error
    return exact_on_small_grids(discriminator)


def slice_loss(name: str, on_event: Callable[[dict], None]) -> torch.nn.Module | None:
    """MONAI's PerceptualLoss in 2D, or None when it is off or its weights cannot be had; an event says so."""
    if name == "off":
        on_event({"event": "note", "message": "No perceptual loss: it is off in [losses] (offline setting)."})
        return None
    from monai.losses import PerceptualLoss

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PerceptualLoss(2, network_type=name).eval().requires_grad_(False)
    except ValueError as error:
        raise BadInput(f"[losses] perceptual '{name}' is none of MONAI's PerceptualLoss: {error}", HINT) from error
    except Exception as error:  # no package lpips, no network, a hub that answers otherwise: each shows differently
        why = f"No perceptual loss: the weights of '{name}' cannot be had ({type(error).__name__})."
        on_event({"event": "note", "message": why})
        return None


def hinge(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss of its judgements, high for real ones (Lim and Ye, arXiv:1705.02894)."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def feature_distance(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """Mean over the layers, the judgement left out, of the L1 distance of features; real ones are the goal."""
    distances = [F.l1_loss(f.float(), r.detach().float()) for r, f in zip(real[:-1], fake[:-1])]
    return torch.stack(distances).mean()


def slices_at(windows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """One slice of each window: (B, C, I, J, K) and (B,) to (B, C, I, J)."""
    return windows[torch.arange(len(windows)), ..., places]


class AutoencoderStage(Stage):
    """See the module.

    With several processes, the codebook is that of the first: DDP gives its buffers to the others at every step.
    """

    name = "autoencoder"
    columns = (
        *(name for name in COLUMNS if name != "jukebox"),
        "image_gan",
        "volume_gan",
        "feature_matching",
    )

    def __init__(self, config: MedLSDMConfig, fabric: Fabric, on_event: Callable[[dict], None]) -> None:
        self.config, self.fabric = config, fabric
        losses, optimiser = config.losses, config.optimiser
        network = build_trained("autoencoder", config.network)
        self.downsampling = network.downsampling
        if any(n % self.downsampling for n in config.windows.size):
            raise BadInput(f"[windows] size must be multiples of {self.downsampling}, not {config.windows.size}", HINT)
        self.scheme = load_scheme(config.label_scheme)
        check_names(self.scheme, config)
        classes = len(self.scheme.condition_classes)
        if network.condition_channels not in (0, classes + 1):
            raise BadInput(
                f"[network] condition_channels is {network.condition_channels}, but the label scheme has {classes} "
                f"classes and a background",
                f"Give 0, or {classes + 1} for a decoder that the drawing steers.",
            )
        self.steered = network.condition_channels > 0
        self.table = class_table(self.scheme)
        self.train, self.validation = (self._volumes(split) for split in ("train", "validation"))
        self.epoch_steps = -(-len(self.train) // (optimiser.batch * fabric.world_size))
        self.ema = Ema(network, optimiser.ema) if optimiser.ema else None
        self.network, self.generator_optimiser = fabric.setup(
            network, adamw(config, fabric, network.parameters(), optimiser.learning_rate, BETAS)
        )
        self.parts = {"network": plain(self.network), "optimiser": self.generator_optimiser}
        if self.ema is not None:
            self.ema.module.to(fabric.device)
            self.parts["ema_state"] = self.ema
        # By the name of the loss: the discriminator, its optimiser and its weight.
        self.judges: dict[str, tuple[torch.nn.Module, Any, float]] = {}
        for name, dimensions, weight in (("image_gan", 2, losses.image_gan), ("volume_gan", 3, losses.volume_gan)):
            if weight:
                judge = image_discriminator(config, dimensions)
                rate = optimiser.discriminator_rate
                judge, of_judge = fabric.setup(judge, adamw(config, fabric, judge.parameters(), rate, BETAS))
                self.judges[name] = (judge, of_judge, weight)
                self.parts |= {name: plain(judge), f"{name}_optimiser": of_judge}
        self.perceptual = slice_loss(losses.perceptual, on_event) if losses.perceptual_weight else None
        if self.perceptual is not None:
            self.perceptual.to(fabric.device)
        rng = np.random.default_rng([config.seed, 11])
        still = WindowConfig(config.windows.size, (0.0, 0.0, 0.0), 0.0, 0.0)
        self.fixed = [draw_images(self.validation, optimiser.batch, still, rng) for _ in range(VALIDATION_BATCHES)]

    def _volumes(self, split: str) -> list[torch.Tensor]:
        """(1, I, J, K) in [-1, 1] each, with the masks (C, I, J, K) after it for a decoder that takes them."""
        volumes = []
        for case in load_split(self.config.data, split):
            size = self.config.windows.size
            image = mirror_to(normalise(case.image.array, self.config.intensity_range), size)
            channels = torch.from_numpy(image)[None]
            if self.steered:
                classes = torch.from_numpy(mirror_to(case.classes.array.astype(np.uint8), size))[None]
                masks = masks_of(classes, self.table, torch.ones(1, self.table.shape[1]))[0]
                channels = torch.cat([channels, masks])
            volumes.append(channels.to(self.fabric.device))
        return volumes

    def _split(self, drawn: torch.Tensor, rng: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images and label map of what was drawn; classes are withheld at random with `rng`, and none without it."""
        if not self.steered:
            return drawn, None
        masks = (drawn[:, 1:] > 0.5).float()  # turned crops are interpolated
        given = torch.ones(masks.shape[:2])
        if rng is not None:
            given = draw_all_given(self.scheme, self.config.condition, len(drawn), rng)
        return drawn[:, :1], one_hot_masks(masks, given.to(masks.device))

    def discriminator_weight(self, share: float) -> float:
        """What the discriminators' weights are multiplied by when a share of the run is over, 0 to 1."""
        losses = self.config.losses
        if not self.judges or share < losses.discriminator_start:
            return 0.0
        if not losses.discriminator_ramp:
            return 1.0
        return min(1.0, (share - losses.discriminator_start) / losses.discriminator_ramp)

    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        config, fabric, losses = self.config, self.fabric, self.config.losses
        rng = np.random.default_rng([config.seed, 10, step, fabric.global_rank])
        torch.manual_seed((config.seed * 1_000_003 + step) * 1009 + fabric.global_rank)  # restarts of the codebook
        images, masks = self._split(draw_images(self.train, config.optimiser.batch, config.windows, rng), rng)
        places = torch.from_numpy(rng.integers(0, images.shape[-1], len(images))).to(images.device)
        rates = [(self.generator_optimiser, config.optimiser.learning_rate)]
        rates += [(of_judge, config.optimiser.discriminator_rate) for _, of_judge, _ in self.judges.values()]
        for optimiser, peak in rates:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate_at(config.optimiser, peak, step, share, self.epoch_steps)

        self.network.train()
        weight = self.discriminator_weight(share)
        reconstruction, commitment, perplexity = self.network(images, masks)
        reconstruction = reconstruction.float()
        parts = {"loss": F.l1_loss(reconstruction, images), "quantisation": commitment}
        total = losses.l1 * parts["loss"] + losses.quantisation * commitment
        if self.perceptual is not None:
            with fabric.autocast():
                pair = slices_at(reconstruction, places), slices_at(images, places)
                parts["perceptual"] = self.perceptual(*pair).float()
            total = total + losses.perceptual_weight * parts["perceptual"]
        zero = torch.zeros((), device=fabric.device)
        if self.judges:  # so that a row of the log always has them
            parts |= {"adversarial": zero, "discriminator": zero, "feature_matching": zero}
            parts |= {name: zero for name in self.judges}
        if weight:
            total = total + weight * self._judged(images, reconstruction, places, parts)
        self.descend(self.network, self.generator_optimiser, total)
        if self.ema is not None:
            self.ema.update(plain(self.network))
        if weight:
            self._teach(images, reconstruction.detach(), places, parts)
        parts["perplexity"] = perplexity
        parts["learning_rate"] = torch.tensor(self.generator_optimiser.param_groups[0]["lr"])
        return {name: value.detach() for name, value in parts.items()}

    def _views(self, windows: torch.Tensor, places: torch.Tensor) -> dict[str, torch.Tensor]:
        """What each discriminator looks at."""
        return {"image_gan": slices_at(windows, places), "volume_gan": windows}

    def _judged(
        self, images: torch.Tensor, made: torch.Tensor, places: torch.Tensor, parts: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The discriminators' part of the autoencoder's loss; its terms go to `parts`."""
        real, fake, total = self._views(images, places), self._views(made, places), torch.zeros_like(parts["loss"])
        for name, (judge, _, weight) in self.judges.items():
            judge.requires_grad_(False)
            with torch.no_grad():
                goal = judge(real[name])
            features = judge(fake[name])
            parts[name] = -features[-1].float().mean()
            distance = feature_distance(goal, features)
            parts["adversarial"] = parts["adversarial"] + weight * parts[name]
            parts["feature_matching"] = parts["feature_matching"] + distance
            total = total + weight * parts[name] + self.config.losses.feature_matching * distance
        return total

    def _teach(
        self, images: torch.Tensor, made: torch.Tensor, places: torch.Tensor, parts: dict[str, torch.Tensor]
    ) -> None:
        """A step of each discriminator; the mean of their losses goes to `parts`."""
        real, fake = self._views(images, places), self._views(made, places)
        for name, (judge, optimiser, _) in self.judges.items():
            judge.requires_grad_(True)
            judged = judge(torch.cat([real[name], fake[name]]))[-1]
            loss = hinge(*judged.chunk(2))
            self.descend(judge, optimiser, loss)
            parts["discriminator"] = parts["discriminator"] + loss.detach() / len(self.judges)

    def weights(self) -> dict[str, torch.Tensor]:
        """The network's tensors with the averaged decoder, if one is kept."""
        state = dict(plain(self.network).state_dict())
        if self.ema is not None and self.ema.count:
            state |= {n: t for n, t in self.ema.module.state_dict().items() if n.startswith(DECODER)}
        return state

    @torch.no_grad()
    def _reconstruct(self, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of what was drawn, and their reconstructions with the weights that are used later."""
        images, masks = self._split(drawn, None)
        network = plain(self.network).eval()
        decoder = self.ema.module if self.ema is not None and self.ema.count else network
        with self.fabric.autocast():
            quantised, _ = network.quantise(network.encode(images))
            return images, decoder.decode(quantised, masks).float()

    def validate(self) -> dict[str, float]:
        errors, squares = [], []
        for drawn in self.fixed:
            images, made = self._reconstruct(drawn)
            errors.append((made - images).abs().mean())
            squares.append(((made - images) ** 2).mean())
        mse = float(torch.stack(squares).mean())
        # Peak signal-to-noise ratio over the whole range, which is 2 wide here.
        psnr = 10.0 * float(np.log10(4.0 / max(mse, 1e-12)))
        return {"validation_loss": float(torch.stack(errors).mean()), "validation_psnr": psnr}

    def picture(self) -> np.ndarray:
        """Middle slices of validation windows, real above, reconstructed below."""
        rows = []
        for part in self._reconstruct(torch.cat(self.fixed)[:6]):
            middle = part.shape[-1] // 2
            rows.append(np.concatenate([p[0, :, :, middle].T for p in part.float().cpu().numpy()], axis=1))
        return ((np.clip(np.concatenate(rows), -1, 1) + 1) * 127.5).astype(np.uint8)

    def record(self) -> dict[str, Any]:
        return {
            "weights": {name: tensor.detach().cpu().clone() for name, tensor in self.weights().items()},
            "intensity_range": list(self.config.intensity_range),
            "downsampling": self.downsampling,
        }


def train_autoencoder(
    config: MedLSDMConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Trains the VQ-GAN; returns the checkpoint, whose "weights" the next stage takes."""
    fabric = make_fabric(config, device)
    stage = AutoencoderStage(config, fabric, on_event)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)
