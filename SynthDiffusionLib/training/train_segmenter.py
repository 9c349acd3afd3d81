"""Training of the segmenter that measures mask adherence: real training cases only, randomly shifted crops.

One sigmoid channel for each target; with several, the loss is the mean over the channels, and the validation Dice too.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.memory.plan import resolve_device
from SynthDiffusionLib.networks.segmenter import build_segmenter, segment_targets
from SynthDiffusionLib.networks.small_grids import exact_on_small_grids
from SynthDiffusionLib.training.config import SegmenterConfig, TrainConfig
from SynthDiffusionLib.training.dataset import load_split, read_description, spacing_of
from SynthDiffusionLib.training.files import damaged, load_state, restore, save_state

CHECKPOINT = "segmenter.pt"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks; 1 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def draw_crop(
    image: np.ndarray, target: np.ndarray, size: int | Sequence[int], rng: np.random.Generator, turned: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A crop that holds a voxel of a target in four of five draws, anywhere in the crop; flipped and re-scaled.

    Args:
        image: (I, J, K).
        target: (I, J, K), 0 outside all targets.
        size: side of the crop in voxels, or three of them.
        turned: exchange the axes at random, which makes sense for cubes of cubic voxels only.
    """
    image, target = (_at_least(a, size, fill) for a, fill in ((image, -1.0), (target, 0)))
    shape = np.array(image.shape)
    if rng.random() < 0.8 and target.any():
        voxels = np.argwhere(target)
        anchor = voxels[rng.integers(len(voxels))]
        start = anchor - rng.integers(0, size, 3)
    else:
        start = rng.integers(0, shape - size + 1)
    start = np.clip(start, 0, shape - size)
    inside = tuple(slice(a, a + n) for a, n in zip(start, np.broadcast_to(size, 3)))
    image, target = image[inside], target[inside]
    flips = [axis for axis in range(3) if rng.random() < 0.5]
    order = rng.permutation(3) if turned else np.arange(3)
    image, target = (np.transpose(np.flip(a, flips), order) for a in (image, target))
    image = image * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1)
    image = image + rng.uniform(0, 0.06) * rng.standard_normal(image.shape)
    return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(target)


def _at_least(array: np.ndarray, size: int | Sequence[int], fill: float) -> np.ndarray:
    """The array, padded at the far ends where a side is shorter than `size`."""
    pads = [(0, max(0, int(wanted) - n)) for n, wanted in zip(array.shape, np.broadcast_to(size, 3))]
    return np.pad(array, pads, constant_values=fill) if any(after for _, after in pads) else array


def check_earlier_segmenter(settings: SegmenterConfig, out: Path) -> dict[str, Any] | None:
    """What is wrong with the checkpoint of a segmenter in `out`, found before a stage is trained for hours.

    Returns:
        its content; None if there is none.

    Raises:
        BadInput: it is damaged, or of a segmenter with other steps or another network.
    """
    path = Path(out) / CHECKPOINT
    if not path.is_file():
        return None
    state = load_state(path, ("network", "optimiser", "schedule"), settings.steps)
    begun = state["schedule"].get("total_steps")
    if not isinstance(begun, int) or isinstance(begun, bool):
        raise damaged(path, "its schedule does not say its steps")
    if begun != settings.steps:  # the learning rate has come down, or is to come down, at another step
        raise BadInput(
            f"The segmenter in '{path}' was begun with {begun} steps, but [segmenter] has steps = {settings.steps}",
            f"Set steps = {begun}, or remove the file to train the segmenter anew.",
        )
    with torch.random.fork_rng(devices=[]):  # its weights are thrown away
        restore(path, state, {"network": build_segmenter(settings.channels, len(settings.targets or ()) or 1)})
    return state


def train_segmenter(
    config: TrainConfig,
    scheme: LabelScheme,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Trains the segmenter and writes `out/segmenter.pt`: the weights of the last step.

    The validation cases are only looked at, never chosen by; the test cases are not read.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        Path of the checkpoint; its "network" entry holds the weights.

    Raises:
        BadInput: a checkpoint that is damaged or does not fit the configuration.
        RunFailed: the disk is full.
    """
    settings = config.segmenter
    device = resolve_device(device)
    kind = device.partition(":")[0]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    names = settings.targets or (config.patches.target,)
    classes = {c.name: c.value for c in scheme.condition_classes}
    unknown = [name for name in names if name not in classes]
    if unknown or len(set(names)) < len(names):
        raise BadInput(
            f"[segmenter] targets = {list(names)} must be different classes of '{config.label_scheme}'",
            f"Choose from: {', '.join(classes)}.",
        )
    values = [classes[name] for name in names]
    network = exact_on_small_grids(build_segmenter(settings.channels, len(names))).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps, pct_start=0.1)
    loss_function = DiceCELoss(sigmoid=True)

    checkpoint, start = out / CHECKPOINT, 0
    state = check_earlier_segmenter(settings, out) if resume else None
    if state is not None:
        restore(checkpoint, state, {"network": network, "optimiser": optimiser, "schedule": schedule})
        start = state["step"]

    def arrays(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
        # Of the class map, what is a target: 1 for the first, and so on.
        return [
            (
                normalise(c.image.array, settings.intensity_range or config.intensity_range),
                sum((c.classes.array == value).astype(np.uint8) * n for n, value in enumerate(values, 1)),
            )
            for c in load_split(config.data, split)
        ]

    def channels(target: np.ndarray) -> np.ndarray:
        return np.stack([target == n for n in range(1, len(names) + 1)])

    train, validation = arrays("train"), arrays("validation")
    cubic = len(set(spacing_of(read_description(config.data)))) == 1
    began = time.monotonic()
    log = out / "segmenter.csv"
    with log.open("a" if start else "w", newline="", encoding="utf-8") as stream:
        if not start:
            csv.writer(stream).writerow(["step", "loss", "validation_dice"])
    recent: list[float] = []
    for step in range(start, settings.steps):
        rng = np.random.default_rng([config.seed, 2, step])
        cases = [train[rng.integers(len(train))] for _ in range(settings.batch)]
        drawn = [draw_crop(*case, settings.patch, rng, cubic) for case in cases]
        images = torch.from_numpy(np.stack([d[0] for d in drawn]))[:, None].to(device)
        targets = torch.from_numpy(np.stack([channels(d[1]) for d in drawn])).to(device).float()
        network.train()
        with torch.autocast(kind, torch.bfloat16, enabled=config.precision.startswith("bf16")):
            logits = network(images)
        # Channel by channel: given several at once, the loss would take them for exclusive classes.
        one = [loss_function(logits[:, c : c + 1].float(), targets[:, c : c + 1]) for c in range(len(names))]
        loss = one[0] if len(one) == 1 else torch.stack(one).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        done = step + 1
        if done % config.checkpoint_every == 0 or done == settings.steps:
            network.eval()
            found = [
                segment_targets(network, torch.from_numpy(image).to(device)).cpu().numpy() for image, _ in validation
            ]
            scores = [
                dice(mask, truth)
                for masks, (_, target) in zip(found, validation)
                for mask, truth in zip(masks, channels(target))
            ]
            save_state(
                checkpoint,
                {
                    "step": done,
                    "network": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                },
            )
            with log.open("a", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerow([done, f"{np.mean(recent):.4f}", f"{np.mean(scores):.4f}"])
            eta = (time.monotonic() - began) / (done - start) * (settings.steps - done)
            on_event(
                {
                    "event": "progress",
                    "stage": "train segmenter",
                    "step": done,
                    "total": settings.steps,
                    "eta_s": eta,
                    "loss": float(np.mean(recent)),
                    "validation_dice": float(np.mean(scores)),
                }
            )
            recent = []
    return checkpoint
