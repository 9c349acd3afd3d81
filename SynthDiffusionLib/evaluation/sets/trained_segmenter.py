"""A segmenter that `evaluate` trains on real cases of the user: a small U-Net, all classes at once.

Random crops, a class in them by turns, so that small structures are learnt as well as large ones. No flips: left and
right may be classes of their own. A fixed number of steps and the weights of the last one: nothing is chosen by looking
at the images that are measured. Training goes on from its checkpoint where it was interrupted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, check_apart
from SynthDiffusionLib.evaluation.sets.segmenters import Event
from SynthDiffusionLib.evaluation.sets.training_lists import shared_patients
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.volumes import Volume

if TYPE_CHECKING:
    import torch

STEPS = 1500
MOST_STEPS = 1_000_000
CHANNELS = (12, 24, 48, 64)
DIVISOR = 2 ** (len(CHANNELS) - 1)
LARGEST_PATCH = 48
LEARNING_RATE = 2e-3
BATCH = 4
CHECKPOINT_EVERY = 100
ON_A_CLASS = 0.8  # of the crops hold a voxel of a class that is drawn by lot
LEAST_CASES = 5
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """How the segmenter is trained.

    Args:
        steps: optimiser steps.
        seed: of weights and crops.
        patch: (3,) voxels of a crop; each a multiple of `DIVISOR`.
        batch: crops a step.
    """

    steps: int
    seed: int
    patch: tuple[int, int, int]
    batch: int = BATCH


def recipe_for(training: ImageSet, steps: int, seed: int) -> Recipe:
    """Crops of up to `LARGEST_PATCH` voxels, no larger than the median volume.

    Raises:
        BadInput: the steps are out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise BadInput(f"{steps} training steps are out of range", f"Give --segmenter-steps 1 to {MOST_STEPS}.")
    sides = np.median([c.image.shape for c in training.cases], axis=0)
    patch = tuple(int(np.clip(n // DIVISOR * DIVISOR, 2 * DIVISOR, LARGEST_PATCH)) for n in sides)
    return Recipe(steps, seed, patch)


def check_training(
    training: ImageSet, measured: Sequence[ImageSet], may_share: bool, on_event: Event = lambda event: None
) -> int:
    """Refuses training cases of patients that are measured, of whom the segmenter would know the answer.

    Args:
        training: real cases.
        measured: the other sets.
        may_share: the user said that they may share patients.
        on_event: see `check_apart`.

    Returns:
        how many patients they share.

    Raises:
        BadInput: they share patients or files; or there are too few training cases, or none with a class.
    """
    for other in measured:
        if not may_share:
            check_apart(training, other, on_event)
    if len(training.cases) < LEAST_CASES:
        raise BadInput(
            f"{len(training.cases)} training cases are too few for a segmenter", f"Give at least {LEAST_CASES}."
        )
    if not any(c.labels is not None and c.labels.any() for c in training.cases):
        raise BadInput("No training case has a class in its label map", "Give --training-labels of these images.")
    return len(shared_patients(training.patients, [p for other in measured for p in other.patients]))


class TrainedSegmenter:
    """Trains when it is made, or goes on, or takes what is in the cache.

    Args:
        training: images with labels, in the frame of the images that it will segment.
        values: label values that it is to find.
        recipe: see there.
        cache: folder of the checkpoint.
        on_event: gets progress.

    Raises:
        BadInput: no training case has one of the classes.
    """

    def __init__(
        self,
        training: ImageSet,
        values: Sequence[int],
        recipe: Recipe,
        cache: Path,
        on_event: Event = lambda event: None,
    ) -> None:
        held = {int(v) for c in training.cases if c.labels is not None for v in np.unique(c.labels)}
        learnt = tuple(v for v in values if v in held)
        if not learnt:
            raise BadInput("The training cases have none of the classes of the masks", "Give other training cases.")
        self.values: tuple[int, ...] | None = learnt
        patients = len(set(training.patients))
        self.name = f"a U-Net trained here on {len(training.cases)} real volumes of {patients} patients"
        data = hashlib.sha256()
        for case in training.cases:
            data.update(case.image.tobytes())
            data.update(case.labels.tobytes())
        frame = training.frame.to_json()
        self.identity = f"trained {VERSION} {recipe} {CHANNELS} {learnt} {frame} {data.hexdigest()}"
        self._range, self._patch = training.frame.intensity_range, recipe.patch
        key = hashlib.sha256(self.identity.encode()).hexdigest()
        self._network = _train(training, learnt, recipe, cache / f"segmenter-{key[:24]}.pt", on_event)

    def __call__(self, image: Volume, on_event: Event) -> tuple[np.ndarray, ...]:
        import torch
        from monai.inferers import sliding_window_inference

        normal = torch.from_numpy(normalise(image.array, self._range))[None, None]
        with torch.inference_mode():
            logits = sliding_window_inference(
                normal, self._patch, sw_batch_size=1, predictor=self._network, overlap=0.5, padding_mode="replicate"
            )
            best = logits[0].argmax(0).numpy()
        return (np.array([0, *self.values], np.uint16)[best],)


def _train(
    training: ImageSet, values: Sequence[int], recipe: Recipe, checkpoint: Path, on_event: Event
) -> torch.nn.Module:
    import torch
    from monai.losses import DiceCELoss

    from SynthDiffusionLib.networks.segmenter import build_segmenter
    from SynthDiffusionLib.training.files import load_state, restore, save_state

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build_segmenter(CHANNELS, len(values) + 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    total = max(recipe.steps, 2)  # of one step it makes no schedule
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total, pct_start=0.1)
    loss_function = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
    start = 0
    if checkpoint.is_file():
        state = load_state(checkpoint, tuple(parts), recipe.steps)
        restore(checkpoint, state, parts)
        start = state["step"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    images, labels = _padded(training, values, recipe.patch)
    network.train()
    began = time.monotonic()
    for step in range(start, recipe.steps):
        rng = np.random.default_rng([recipe.seed, step])
        crops = [crop(*_pick(images, labels, rng), recipe.patch, rng) for _ in range(recipe.batch)]
        image = torch.from_numpy(np.stack([c[0] for c in crops]))[:, None]
        label = torch.from_numpy(np.stack([c[1] for c in crops]).astype(np.int64))[:, None]
        loss = loss_function(network(image), label)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == recipe.steps:
            save_state(checkpoint, {"step": done, **{name: part.state_dict() for name, part in parts.items()}})
        if done % 10 == 0 or done == recipe.steps:
            left = (time.monotonic() - began) / (done - start) * (recipe.steps - done)
            progress = {"stage": "training the segmenter", "step": done, "total": recipe.steps, "eta_s": left}
            on_event({"event": "progress", **progress, "loss": float(loss.detach())})
    network.eval()
    return network


def _padded(
    training: ImageSet, values: Sequence[int], patch: Sequence[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images in [-1, 1] and class numbers 1, 2, ... in the order of `values`, no side shorter than the patch."""
    images, labels = [], []
    for case in training.cases:
        pads = [(0, max(0, n - m)) for n, m in zip(patch, case.image.shape)]
        images.append(np.pad(normalise(case.image, training.frame.intensity_range), pads, mode="edge"))
        classes = sum((case.labels == v).astype(np.uint8) * n for n, v in enumerate(values, 1))
        labels.append(np.pad(classes, pads))
    return images, labels


def _pick(
    images: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    number = int(rng.integers(len(images)))
    return images[number], labels[number]


def crop(
    image: np.ndarray, labels: np.ndarray, patch: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A crop at a random place, in most draws one that holds a voxel of a class drawn by lot; its brightness and
    contrast changed a little, with a little noise.

    Args:
        image: (I, J, K) in [-1, 1], no side shorter than the patch.
        labels: (I, J, K) class numbers.
        patch: (3,) voxels.
        rng: what is drawn from.

    Returns:
        image float32 and labels of the patch's size.
    """
    size, shape = np.array(patch), np.array(image.shape)
    start = rng.integers(0, shape - size + 1)
    if rng.random() < ON_A_CLASS and (present := np.unique(labels)[np.unique(labels) > 0]).size:
        voxels = np.argwhere(labels == rng.choice(present))
        anchor = voxels[rng.integers(len(voxels))]
        start = np.clip(anchor - rng.integers(0, size), 0, shape - size)
    inside = tuple(slice(a, a + n) for a, n in zip(start, size))
    part = image[inside] * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1)
    part = part + rng.uniform(0, 0.06) * rng.standard_normal(part.shape)
    return part.astype(np.float32), labels[inside]
