"""The loop that the stages of a training share: budget, learning rate, averaged weights, log, checkpoints, progress."""

from __future__ import annotations

import copy
import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.memory.plan import resolve_device
from SynthDiffusionLib.training.budget import Budget
from SynthDiffusionLib.training.dataset import description_sha256
from SynthDiffusionLib.training.files import load_state, restore, save_state
from SynthDiffusionLib.training.stages import Optimiser, StageConfig
from SynthDiffusionLib.training.train_patch_ddpm import write_png

MOST_SKIPPED = 20

COLUMNS = ("step", "loss", "learning_rate", "validation_loss", "seconds", "perplexity", "adversarial", "discriminator",
           "jukebox", "perceptual", "quantisation", "validation_psnr")  # fmt: skip


class Ema:
    """Exponential moving average of a module's weights; early on it follows faster, as in `train_patch_ddpm`.

    After the first update the average is the weights; then mean_n = d_n mean + (1 - d_n) weights with
    d_n = min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.count = 0

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Takes in the module's weights of now."""
        mean, new = list(self.module.parameters()), [p.detach() for p in module.parameters()]
        keep = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        torch._foreach_lerp_(mean, new, 1.0 - keep)  # one launch for all tensors: hundreds would cost more than the sum
        for kept, buffer in zip(self.module.buffers(), module.buffers()):
            kept.copy_(buffer)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.count = int(state["count"])


def learning_rate_at(optimiser: Optimiser, peak: float, step: int, share: float, epoch_steps: int) -> float:
    """The learning rate of a step.

    Args:
        peak: after the warm-up.
        share: of the run that is over, 0 to 1.
        epoch_steps: steps that see as many crops as there are training cases.
    """
    if step < optimiser.warmup_steps:
        peak *= (step + 1) / optimiser.warmup_steps
    if optimiser.decay == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
    if optimiser.decay == "gamma":
        return peak * optimiser.gamma ** (step // max(1, epoch_steps))
    return peak


def make_fabric(config: StageConfig, device: str) -> Fabric:
    """Fabric on the device of the command line, or as [fabric] says where that is "auto".

    Raises:
        BadInput: an unknown device, or a precision that it cannot compute with.
    """
    wanted = config.fabric
    if device != "auto" or wanted.accelerator == "auto":
        kind, _, index = resolve_device(device).partition(":")
        devices: Any = [int(index)] if index else wanted.devices
        if kind == "cpu" and wanted.strategy == "auto":
            devices = 1
    else:
        kind, devices = wanted.accelerator, wanted.devices
    if kind == "cpu" and config.precision == "16-mixed":
        raise BadInput("The CPU cannot train with the precision 16-mixed", "Set bf16-mixed or 32-true in [run].")
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            strategy=wanted.strategy,
            num_nodes=wanted.num_nodes,
            precision=config.precision,
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"[fabric] cannot be set up: {error}", "See Docs/TRAINING.md for every setting.") from error
    if fabric.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(config.seed)
    return fabric


def plain(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside the wrappers of Fabric and DDP."""
    while hasattr(module, "module") and isinstance(module.module, torch.nn.Module):
        module = module.module
    return module


def adamw(
    config: StageConfig, fabric: Fabric, parameters: Any, rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.AdamW:
    """AdamW, in one launch per step where that works."""
    fused = fabric.device.type == "cuda" and config.precision != "16-mixed"  # the gradient scaler cannot clip for it
    decay = config.optimiser.weight_decay
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=fused or None)


def zero_if_not_finite(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sets what is not finite in the gradients to zero, without making the CPU wait for the device.

    Clipping by a norm that is not finite leaves nothing but NaN and 0, so that the whole gradient is zero then.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num_(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0)


class Stage(ABC):
    """What differs between the stages.

    Attributes:
        name: for events.
        columns: of the log, in their order; a stage need not use them all.
        parts: by the name of the checkpoint's entry, what has `state_dict` and `load_state_dict`; "network" is one.
        epoch_steps: see `learning_rate_at`.
    """

    name: str
    columns: tuple[str, ...] = COLUMNS
    config: StageConfig
    fabric: Fabric
    parts: dict[str, Any]
    epoch_steps: int = 1

    def descend(self, module: torch.nn.Module, optimiser: Any, loss: torch.Tensor) -> None:
        """Backward, clipping, and a step of the optimiser.

        A step does nothing when its gradient is not finite. The spectral loss has none where an amplitude is zero, as
        in a crop of nothing but air, and bf16 on the CPU knows other ways (`small_grids`). On a GPU, where looking at
        the norm would make the CPU wait, such a gradient is set to zero instead.
        """
        optimiser.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            module, optimiser, max_norm=self.config.optimiser.gradient_clip, error_if_nonfinite=False
        )
        if norm is not None and norm.device.type == "cpu":
            # One count for each optimiser: the discriminator may do well while the autoencoder does not.
            counts = self.__dict__.setdefault("_skipped", {})
            counts[id(optimiser)] = 0 if torch.isfinite(norm) else counts.get(id(optimiser), 0) + 1
            if counts[id(optimiser)] >= MOST_SKIPPED:
                raise RunFailed(
                    f"The training diverged: the gradients of {MOST_SKIPPED} steps in a row are not finite",
                    "Lower learning_rate in [optimiser], and begin again with another --out.",
                )
            if counts[id(optimiser)]:
                return
        else:
            zero_if_not_finite(module.parameters())
        optimiser.step()

    @abstractmethod
    def train_step(self, step: int, share: float) -> dict[str, torch.Tensor]:
        """One optimiser step; losses by column of the log, as tensors without gradient."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Columns of the log, among them "validation_loss"."""

    @abstractmethod
    def picture(self) -> np.ndarray:
        """Samples or reconstructions as (H, W) uint8."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What later stages and the package need, for the checkpoint: plain values and the table "weights"."""


def _rows_until(log: Path, columns: tuple[str, ...], last: int) -> list[list[str]]:
    """Rows of an earlier log up to a step, as far as it can be read."""
    rows: list[list[str]] = []
    try:
        with log.open(newline="", encoding="utf-8", errors="replace") as stream:
            for row in csv.reader(stream):
                if len(row) == len(columns) and row[0].isdigit() and int(row[0][:12]) <= last:
                    rows.append(row)
    except (OSError, csv.Error):  # the weights matter, and they are not in the log
        pass
    return rows


def run_stage(
    stage: Stage,
    config: StageConfig,
    out: Path,
    fabric: Fabric,
    *,
    resume: bool,
    on_event: Callable[[dict], None],
) -> Path:
    """Trains a stage and writes `out/checkpoint.pt`, `out/log.csv` and `out/samples`.

    With `steps`, step N of an interrupted and resumed run computes what it would have computed without the
    interruption. With `minutes`, the time that the earlier part took counts.

    Returns:
        Path of the checkpoint.

    Raises:
        BadInput: a checkpoint that is damaged or does not fit.
        RunFailed: the training diverged, or the disk is full.
    """
    checkpoint, log = out / "checkpoint.pt", out / "log.csv"
    step, budget = 0, Budget(config.steps, config.minutes, config.clock)
    data_sha256 = description_sha256(config.data)
    if resume and checkpoint.is_file():
        state = load_state(checkpoint, list(stage.parts), budget.last_step, data_sha256)
        if state.get("stage") != config.stage:
            raise BadInput(f"'{checkpoint}' is of the stage {state.get('stage')!r}", "Give another --out.")
        restore(checkpoint, state, stage.parts)
        step = state["step"]
        budget = Budget(config.steps, config.minutes, config.clock, float(state.get("seconds", 0.0)))
    if fabric.is_global_zero:
        rows = _rows_until(log, stage.columns, step) if step else []
        with log.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([stage.columns, *rows])
    first = step
    recent: list[dict[str, torch.Tensor]] = []

    def share_of(done: int) -> float:
        share = budget.share(done)
        return fabric.broadcast(share) if fabric.world_size > 1 else share

    share = share_of(step)
    finished = share >= 1.0 and step > 0
    while not finished:
        recent.append(stage.train_step(step, share))
        step += 1
        share = share_of(step)
        finished = share >= 1.0
        if step % config.log_every == 0 or finished:
            means = {k: float(torch.stack([r[k].float() for r in recent]).mean()) for k in recent[0]}
            if not all(map(math.isfinite, means.values())):
                raise RunFailed(
                    f"The training diverged: a loss is not finite within the last {len(recent)} steps before {step}",
                    "Lower learning_rate in [optimiser], and begin again with another --out.",
                )
            recent = []
            if step % config.validate_every == 0 or finished:
                means |= stage.validate()
            seconds = budget.seconds()
            if fabric.is_global_zero:
                _write_row(log, stage.columns, step, means, seconds)
                left = seconds * (1 / max(share, 1e-6) - 1)
                on_event(_event(stage, step, budget.total(step, share), left, means, first))
        if (step % config.sample_every == 0 or finished) and fabric.is_global_zero:
            write_png(out / "samples" / f"step{step:06d}.png", stage.picture())
        if (step % config.checkpoint_every == 0 or finished) and fabric.is_global_zero:
            state = _state(stage, config, step, budget.seconds(), finished)
            save_state(checkpoint, state | {"data_sha256": data_sha256})
        if step % config.checkpoint_every == 0 or finished:
            fabric.barrier()
    if fabric.is_global_zero and step > first:
        budget.summarise(out, fabric.device, step)
    return checkpoint


def _state(stage: Stage, config: StageConfig, step: int, seconds: float, finished: bool) -> dict[str, Any]:
    parts = {name: part.state_dict() for name, part in stage.parts.items()}
    return {
        "step": step,
        "seconds": seconds,
        "finished": finished,
        "stage": config.stage,
        "label_scheme": config.label_scheme,
        "network_json": config.network,
        **parts,
        **stage.record(),
    }


def _write_row(log: Path, columns: tuple[str, ...], step: int, means: dict[str, float], seconds: float) -> None:
    values = {**means, "step": step, "seconds": round(seconds, 1)}
    with log.open("a", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerow([_text(values.get(name)) for name in columns])


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5g}"


def _event(stage: Stage, step: int, total: int, left: float, means: dict[str, float], first: int) -> dict[str, Any]:
    return {
        "event": "progress",
        "stage": f"train {stage.name}",
        "step": step,
        "total": total,
        "eta_s": left if total > first else 0.0,
        **means,
        "validation_loss": means.get("validation_loss"),
    }
