"""Stage 2: the refiner, this project's own mend of slices that do not fit together and of blur.

The paper has none. The autoencoder stays as it is. Latents of real volumes, with noise of a random strength as a
denoiser leaves it, go through the refiner's first part, the decoder, and its second part, and must come out as the
real volume; what neighbouring slices differ by must come out, too.

A piece of a volume goes through the networks with as many more slices on either side as they reach, and only the piece
is scored: it comes out as it does in the whole volume, which is what sampling sees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.loop import Ema, Stage, adamw, learning_rate_at, make_fabric, plain, run_stage
from SynthDiffusionLib.training.slice_ldm.autoencoder import build_trained, check_sizes, psnr, rows_of
from SynthDiffusionLib.training.slice_ldm.config import SliceLDMConfig
from SynthDiffusionLib.training.slice_ldm.earlier import Autoencoder, read_stage
from SynthDiffusionLib.training.slice_ldm.losses import PairLoss, hard_dice, neighbour_loss, to_slices
from SynthDiffusionLib.training.slice_ldm.volumes import PARTS, draw_variation, load_pairs, varied
from SynthDiffusionLib.training.stages import HINT

PICTURE_CASES = 2
MEASURED_CASES = 8  # whose latents' standard deviation is measured


class Piece(NamedTuple):
    """Neighbouring slices of a volume, and those around them that they depend on.

    Args:
        scored: the slices themselves.
        decoded: those that the refiner's second part must see for them.
        encoded: those whose latents the first part must see for these.
    """

    scored: slice
    decoded: slice
    encoded: slice

    @staticmethod
    def of(start: int, count: int, depth: int, reach: int) -> Piece:
        """The piece of `count` slices from `start` on of a volume of `depth`.

        Args:
            reach: slices on either side that each of the refiner's parts sees.
        """

        def wider(inner: slice) -> slice:
            return slice(max(0, inner.start - reach), min(depth, inner.stop + reach))

        scored = slice(start, start + count)
        return Piece(scored, wider(scored), wider(wider(scored)))


def within(inner: slice, outer: slice) -> slice:
    """Where slices lie among others that begin earlier or with them."""
    return slice(inner.start - outer.start, inner.stop - outer.start)


class Mended(torch.nn.Module):
    """The refiner's two parts with the frozen decoder between them as one way, so that DDP sees every weight."""

    def __init__(self, refiner: torch.nn.Module, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.refiner = refiner
        self.frozen = (decoder,)  # in a tuple: no part of this module

    def forward(self, latents: torch.Tensor, places: torch.Tensor, piece: Piece) -> torch.Tensor:
        """Image and mask of a piece, (1, 2, I, J, n).

        Args:
            latents: (1, C, i, j, m) of the slices `piece.encoded`.
            places: (K,) positions of all slices of the volume.
        """
        mended = self.refiner.aggregate(latents)[..., within(piece.decoded, piece.encoded)]
        slices = self.frozen[0].decode(to_slices(mended), places[piece.decoded])
        return self.refiner.refine(slices.movedim(0, -1)[None])[..., within(piece.scored, piece.decoded)]


class RefinerStage(Stage):
    """See the module."""

    name = "refiner"
    columns = ("step", "loss", "learning_rate", "validation_loss", "seconds", "image", "ssim", "mask", "dice",
               "neighbours", "validation_neighbours", "validation_psnr", "validation_dice", "unrefined_loss",
               "unrefined_neighbours", "unrefined_psnr", "unrefined_dice")  # fmt: skip

    def __init__(
        self, config: SliceLDMConfig, fabric: Fabric, autoencoder: Autoencoder, network: torch.nn.Module
    ) -> None:
        self.config, self.fabric, self.autoencoder = config, fabric, autoencoder
        optimiser, scheme, span = config.optimiser, load_scheme(config.label_scheme), autoencoder.intensity_range
        pairs = {part: load_pairs(config.data, part, scheme, config.volumes, span) for part in PARTS}
        check_sizes(autoencoder.network, pairs["train"][0].size, pairs["validation"][0].size, config)
        self.train = [pair.pair.to(fabric.device) for pair in pairs["train"]]
        self.validation = [pair.pair.to(fabric.device) for pair in pairs["validation"]]
        depth = self.train[0].shape[-1]
        self.reach = network.reach[2]
        self.slices = config.refining.slices or depth
        if self.slices + 2 * self.reach >= depth:  # nothing is saved then
            self.slices = depth
        self.places = autoencoder.network.positions(depth).to(fabric.device)
        latents = [autoencoder.encode(pair[None]) for pair in self.train[:MEASURED_CASES]]
        self.spread = float(torch.cat(latents).std())
        self.epoch_steps = -(-len(self.train) // fabric.world_size)
        self.ema = Ema(network, optimiser.ema) if optimiser.ema else None
        self.trained, self.optimiser = fabric.setup(
            Mended(network, autoencoder.network), adamw(config, fabric, network.parameters(), optimiser.learning_rate)
        )
        self.parts = {"network": plain(self.trained).refiner, "optimiser": self.optimiser}
        if self.ema is not None:
            self.ema.module.to(fabric.device)
            self.parts["ema_state"] = self.ema
        self.criterion = PairLoss(config.losses).to(fabric.device)
        self.unrefined: dict[str, float] | None = None

    def _noise(self, latents: torch.Tensor, strength: float, seed: int) -> torch.Tensor:
        """Latents with noise of `strength` of their standard deviations."""
        generator = torch.Generator(latents.device).manual_seed(seed)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        return latents + strength * self.spread * noise

    def _loss(self, found: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of volumes (1, 2, I, J, n)."""
        total, parts = self.criterion(to_slices(found), to_slices(real))
        parts["neighbours"] = neighbour_loss(found, real)
        return total + self.config.losses.neighbours * parts["neighbours"], parts

    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        config, rank = self.config, self.fabric.global_rank
        rate = learning_rate_at(config.optimiser, config.optimiser.learning_rate, step, share, self.epoch_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.trained.train()
        losses = []
        for member in range(config.optimiser.batch):
            rng = np.random.default_rng([config.seed, 40, step, member, rank])
            pair = varied(
                self.train[rng.integers(len(self.train))], draw_variation(config.volumes, rng), config.volumes.border
            )
            depth = pair.shape[-1]
            piece = Piece.of(int(rng.integers(depth - self.slices + 1)), self.slices, depth, self.reach)
            with torch.no_grad(), self.fabric.autocast():
                known = to_slices(pair[None, ..., piece.encoded])
                mean = self.autoencoder.network.encode(known, self.places[piece.encoded])[0].float()
            strength = rng.uniform(0.0, config.refining.noise)
            noisy = self._noise(mean.movedim(0, -1)[None], strength, int(rng.integers(2**62)))
            found = self.trained(noisy, self.places, piece).float()
            losses.append(self._loss(found, pair[None, ..., piece.scored]))
        total = torch.stack([one for one, _ in losses]).mean()
        self.descend(self.trained, self.optimiser, total)
        if self.ema is not None:
            self.ema.update(plain(self.trained).refiner)
        means = {name: torch.stack([parts[name] for _, parts in losses]).mean().detach() for name in losses[0][1]}
        return {**means, "loss": total.detach(), "learning_rate": torch.tensor(rate)}

    def averaged(self) -> torch.nn.Module:
        """The refiner that is used: the average, if one is kept."""
        return self.ema.module if self.ema is not None and self.ema.count else plain(self.trained).refiner.eval()

    def _decoded(self, index: int, refiner: torch.nn.Module | None) -> torch.Tensor:
        """A validation volume from its latents with half of the largest noise, (1, 2, I, J, K)."""
        latents = self.autoencoder.encode(self.validation[index][None])
        noisy = self._noise(latents, self.config.refining.noise / 2, self.config.seed + index)
        return self.autoencoder.decode(noisy, refiner)

    @torch.no_grad()
    def _measures(self, refiner: torch.nn.Module | None) -> dict[str, float]:
        rows = []
        for index, real in enumerate(self.validation):
            found, real = self._decoded(index, refiner), real[None]
            total, parts = self._loss(found, real)
            rows.append([float(total), float(parts["neighbours"]), psnr(found[:, 0], real[:, 0]),
                         hard_dice(found[:, 1], real[:, 1])])  # fmt: skip
        return dict(zip(("loss", "neighbours", "psnr", "dice"), np.mean(rows, axis=0).tolist()))

    def validate(self) -> dict[str, float]:
        """Of whole volumes, beside what the decoder alone makes of the same latents ("unrefined")."""
        if self.unrefined is None:
            self.unrefined = {f"unrefined_{name}": value for name, value in self._measures(None).items()}
        return {f"validation_{n}": v for n, v in self._measures(self.averaged()).items()} | self.unrefined

    def picture(self) -> np.ndarray:
        """Validation cases in three planes: real above, decoded, and refined below; image left, mask right."""
        found = []
        for index in range(min(PICTURE_CASES, len(self.validation))):
            volumes = [self.validation[index], self._decoded(index, None)[0], self._decoded(index, self.averaged())[0]]
            found.append(np.concatenate([rows_of(*(v[c] for v in volumes)) for c in range(2)], axis=1))
        return np.concatenate(found)

    def record(self) -> dict[str, Any]:
        return {
            "weights": {name: t.detach().cpu().clone() for name, t in self.averaged().state_dict().items()},
            "autoencoder_sha256": self.autoencoder.digest,
        }


def train_refiner(
    config: SliceLDMConfig, out: Path, *, resume: bool, device: str, on_event: Callable[[dict], None]
) -> Path:
    """Trains the refiner beside a frozen autoencoder; returns the checkpoint."""
    fabric = make_fabric(config, device)  # and its seed, before any weight is drawn
    network = build_trained("refiner", config.network)
    autoencoder = Autoencoder(read_stage(config.autoencoder, "autoencoder", on_event), fabric)
    if config.network.get("latent_channels") != autoencoder.channels:
        raise BadInput(
            f"[network] latent_channels is {config.network.get('latent_channels')}, but the autoencoder's latents have "
            f"{autoencoder.channels} channels",
            HINT,
        )
    stage = RefinerStage(config, fabric, autoencoder, network)
    return run_stage(stage, config, out, fabric, resume=resume, on_event=on_event)
