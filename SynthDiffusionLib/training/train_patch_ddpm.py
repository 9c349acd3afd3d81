"""Training of the patch-wise DDPM."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel

from SynthDiffusionLib.backends.patch_ddpm import assemble_input, build_network
from SynthDiffusionLib.errors import RunFailed
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.memory.plan import resolve_device
from SynthDiffusionLib.networks.small_grids import exact_on_small_grids
from SynthDiffusionLib.sampling.denoising import sample
from SynthDiffusionLib.sampling.schedule import DiffusionSpec, diffuse
from SynthDiffusionLib.training.budget import Budget
from SynthDiffusionLib.training.checks import check_case_sizes
from SynthDiffusionLib.training.config import Phase, TrainConfig
from SynthDiffusionLib.training.dataset import Case, description_sha256, load_split
from SynthDiffusionLib.training.files import load_initial_weights, load_state, restore, save_state
from SynthDiffusionLib.training.patches import draw_patch

KNOWN_VOXEL_WEIGHT = 0.1  # the network sees these voxels: predicting them teaches it little


def phase_at(config: TrainConfig, step: int) -> Phase:
    """The phase that a step belongs to; the only one where minutes count."""
    for phase in config.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return config.phases[-1]


def learning_rate_at(config: TrainConfig, step: int, share: float = 0.0) -> float:
    """Linear warm-up, then a cosine to zero at the last step, or at the end of the minutes.

    Args:
        share: of the run that is over, where minutes count.
    """
    warm = config.optimiser.warmup_steps
    if step < warm:
        return config.optimiser.learning_rate * (step + 1) / warm
    progress = share if config.minutes else (step - warm) / max(1, config.steps - warm)
    return config.optimiser.learning_rate * 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, progress))))


def draw_batch(
    cases: list[tuple[np.ndarray, np.ndarray]], scheme: LabelScheme, phase: Phase, config: TrainConfig, seed: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (B, 1, P, P, P), conditions (B, C, ...), coordinates (B, 3, ...), known masks (B, 1, ...).

    The patches depend on `seed` alone.
    """
    rng = np.random.default_rng(seed)
    patches = []
    for _ in range(phase.batch):
        image, classes = cases[rng.integers(len(cases))]
        patches.append(draw_patch(image, classes, scheme, phase.patch, config.patches, rng))
    return tuple(
        torch.from_numpy(np.stack([getattr(p, name) for p in patches]))
        for name in ("image", "condition", "coordinates", "known")
    )


def denoising_loss(
    network: torch.nn.Module, batch: tuple[torch.Tensor, ...], diffusion: DiffusionSpec, alphas: torch.Tensor, seed: int
) -> torch.Tensor:
    """Mean squared error of the prediction, known voxels weighted down; (B,) one value per patch.

    Noise and time steps are drawn on the CPU from `seed`.
    """
    image, condition, coordinates, known = batch
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator).to(image)
    timesteps = torch.randint(0, diffusion.train_steps, (len(image),), generator=generator).to(image.device)
    noisy, target = diffuse(image, noise, alphas[timesteps.cpu()].to(image), diffusion.prediction)
    prediction = network(assemble_input(noisy, coordinates, condition, image * known, known), timesteps)
    weight = 1.0 - (1.0 - KNOWN_VOXEL_WEIGHT) * known
    return ((prediction.float() - target) ** 2 * weight).sum((1, 2, 3, 4)) / weight.sum((1, 2, 3, 4))


def drawn_ahead(draw: Callable[[int], Any], start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Pairs (step, draw(step)); the next batch is drawn in a thread while the last one is being trained on."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(draw, start) if start < stop else None
        for step in range(start, stop):
            batch = ahead.result()
            if step + 1 < stop:
                ahead = pool.submit(draw, step + 1)
            yield step, batch


def _arrays(cases: list[Case], config: TrainConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(normalise(c.image.array, config.intensity_range), c.classes.array) for c in cases]


def _logged(log: Path, last: int) -> list[list[str]]:
    """Rows of an earlier log up to a step, as far as it can be read."""
    rows: list[list[str]] = []
    try:
        with log.open(newline="", encoding="utf-8", errors="replace") as stream:
            for row in csv.reader(stream):
                if len(row) == 5 and re.fullmatch("[0-9]{1,12}", row[0]) and int(row[0]) <= last:
                    rows.append(row)
    except (OSError, csv.Error):  # the weights matter, and they are not in the log
        pass
    return rows


def train_denoiser(
    config: TrainConfig,
    scheme: LabelScheme,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Trains the denoiser and writes `out/checkpoint.pt`, `out/log.csv` and `out/summary.json`.

    Step N draws the same patches, noise and time steps in an interrupted and resumed run as in an uninterrupted one.

    Args:
        config: the run.
        scheme: label scheme of the data.
        out: folder of the run.
        resume: go on from `out/checkpoint.pt` if it is there.
        device: "auto", "cpu", "cuda" or "cuda:N".
        on_event: called with progress events.

    Returns:
        Path of the checkpoint; its "ema" entry holds the averaged weights.

    Raises:
        BadInput: a case that is too small, a damaged checkpoint, or a checkpoint or initial weights that do not fit
            the configuration.
        RunFailed: the training diverged, or the disk is full.
    """
    out = Path(out)
    cases = {split: load_split(config.data, split) for split in ("train", "validation")}
    check_case_sizes([*cases["train"], *cases["validation"]], config)
    kind, _, index = resolve_device(device).partition(":")
    fabric = Fabric(accelerator=kind, devices=[int(index)] if index else 1, precision=config.precision)
    torch.manual_seed(config.seed)
    diffusion = DiffusionSpec(**config.diffusion)
    alphas = diffusion.alphas_cumprod()
    network = build_network(config.network, scheme)
    if config.initial_weights is not None:
        load_initial_weights(network, config.initial_weights)
    network = exact_on_small_grids(network).to(memory_format=torch.channels_last_3d)
    decay = config.optimiser.ema
    ema = AveragedModel(
        network, avg_fn=lambda mean, new, n: mean + (new - mean) * (1 - min(decay, (1 + int(n)) / (10 + int(n))))
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.optimiser.learning_rate, weight_decay=config.optimiser.weight_decay
    )
    network, optimiser = fabric.setup(network, optimiser)
    ema = ema.to(fabric.device)

    checkpoint, log, start = out / "checkpoint.pt", out / "log.csv", 0
    budget = Budget(config.steps, config.minutes, config.clock)
    data_sha256 = description_sha256(config.data)
    if resume and checkpoint.is_file():
        state = load_state(checkpoint, ("network", "ema", "ema_state", "optimiser"), budget.last_step, data_sha256)
        restore(checkpoint, state, {"network": network, "ema_state": ema, "optimiser": optimiser})
        start = state["step"]
        budget = Budget(config.steps, config.minutes, config.clock, float(state.get("seconds", 0.0)))
    out.mkdir(parents=True, exist_ok=True)
    # What the interrupted run logged after its last checkpoint is done, and logged, again.
    rows = _logged(log, start) if start else []
    with log.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["step", "loss", "learning_rate", "validation_loss", "seconds"], *rows])

    train, validation = (_arrays(cases[split], config) for split in ("train", "validation"))
    fixed = [draw_batch(validation, scheme, config.phases[0], config, [config.seed, 1, i]) for i in range(8)]

    def validate() -> float:
        losses = []
        with torch.no_grad(), fabric.autocast():
            for i, batch in enumerate(fixed):
                batch = tuple(t.to(fabric.device) for t in batch)
                losses.append(denoising_loss(ema, batch, diffusion, alphas, config.seed + i).mean().item())
        return float(np.mean(losses))

    def save(step: int) -> None:
        save_state(
            checkpoint,
            {
                "step": step,
                "seconds": budget.seconds(),
                "data_sha256": data_sha256,
                "network": network.state_dict(),
                "ema": {k: v.contiguous() for k, v in ema.module.state_dict().items()},
                "ema_state": ema.state_dict(),
                "optimiser": optimiser.state_dict(),
            },
        )

    board = _tensorboard(out)
    recent, share = [], budget.share(start)

    def draw(step: int) -> tuple[torch.Tensor, ...]:
        return draw_batch(train, scheme, phase_at(config, step), config, [config.seed, 0, step])

    stop = start if share >= 1.0 and start else budget.last_step
    for step, batch in drawn_ahead(draw, start, stop):
        batch = tuple(t.to(fabric.device) for t in batch)
        rate = learning_rate_at(config, step, share)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = denoising_loss(network, batch, diffusion, alphas, config.seed * 1_000_003 + step).mean()
        optimiser.zero_grad()
        fabric.backward(loss)
        try:
            fabric.clip_gradients(network, optimiser, max_norm=config.optimiser.gradient_clip)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            raise RunFailed(
                f"The training diverged: the gradient of step {step + 1} is not finite",
                "Lower learning_rate in [optimiser], and begin again with another --out.",
            ) from error
        optimiser.step()
        ema.update_parameters(network.module if hasattr(network, "module") else network)
        recent.append(loss.item())
        done = step + 1
        share = budget.share(done)
        finished = share >= 1.0
        if done % 50 == 0 or finished:
            validated = validate() if done % config.validate_every == 0 or finished else ""
            with log.open("a", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerow(
                    [done, f"{np.mean(recent):.5f}", f"{rate:.3g}", validated, f"{budget.seconds():.1f}"]
                )
            on_event(
                {
                    "event": "progress",
                    "stage": "train",
                    "step": done,
                    "total": budget.total(done, share),
                    "eta_s": budget.seconds() * (1.0 / max(share, 1e-6) - 1.0),
                    "loss": float(np.mean(recent)),
                    "validation_loss": validated or None,
                }
            )
            if board is not None:
                board.add_scalar("loss/train", float(np.mean(recent)), done)
                if validated:
                    board.add_scalar("loss/validation", validated, done)
            recent = []
        if done % config.sample_every == 0 or finished:
            picture = sample_picture(ema.module, fixed[0], diffusion, config, fabric)
            write_png(out / "samples" / f"step{done:06d}.png", picture)
            if board is not None:
                board.add_image("samples", picture, done, dataformats="HW")
        if done % config.checkpoint_every == 0 or finished:
            save(done)
        if finished:
            budget.summarise(out, fabric.device, done)
            break
    return checkpoint


def sample_picture(
    network: torch.nn.Module,
    batch: tuple[torch.Tensor, ...],
    diffusion: DiffusionSpec,
    config: TrainConfig,
    fabric: Fabric,
) -> np.ndarray:
    """Validation patches and samples for their conditions, middle slices: real above, synthetic below; uint8 (H, W)."""
    image, condition, coordinates, known = (t.to(fabric.device) for t in batch)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with fabric.autocast():
            return network(assemble_input(noisy, coordinates, condition, image * known, known), timesteps).float()

    drawn = sample(
        predict, tuple(image.shape), diffusion, sampler="dpmpp-2m", steps=20, seed=config.seed, device=fabric.device
    )
    middle = image.shape[-1] // 2
    rows = [np.concatenate([p[0, :, :, middle].T for p in t.float().cpu().numpy()], axis=1) for t in (image, drawn)]
    return ((np.clip(np.concatenate(rows), -1, 1) + 1) * 127.5).astype(np.uint8)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes a grey picture four times enlarged."""
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    height, width = picture.shape
    Image.fromarray(picture).resize((4 * width, 4 * height), Image.Resampling.NEAREST).save(path)


def _tensorboard(out: Path):
    """A writer for TensorBoard, or None where the package is not installed; the CSV log is always written."""
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tensorboard"))
