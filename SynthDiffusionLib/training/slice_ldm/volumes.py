"""Volumes with their masks on one grid, and the ways they are varied: flips, shifts, brightness.

A shift moves the array under the grid, so that the target lies elsewhere in the volume and its characteristics change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.training.dataset import load_split, read_description
from SynthDiffusionLib.training.fixed_size import cut_or_pad, window_start
from SynthDiffusionLib.training.slice_ldm.config import VolumeConfig
from SynthDiffusionLib.training.stages import HINT

AIR = -1.0
# A slice has content where a voxel is above this: a twentieth of the intensity range, over the noise in air.
CONTENT = -0.9
PARTS = ("train", "validation")


@dataclass(frozen=True)
class Pair:
    """A case: `pair` (2, I, J, K) float32, the image and the mask (-1 outside, 1 inside); `affine` of its grid."""

    name: str
    pair: torch.Tensor
    affine: np.ndarray

    @property
    def size(self) -> tuple[int, int, int]:
        return tuple(self.pair.shape[1:])


@dataclass(frozen=True)
class Variation:
    """What is done to a volume: flips first, then the shift, then the brightness.

    Args:
        flips: axes that are turned round.
        shift: voxels that the content moves by, along the three axes.
        scale: factor of the intensities, counted from their lowest value.
    """

    flips: tuple[int, ...] = ()
    shift: tuple[int, int, int] = (0, 0, 0)
    scale: float = 1.0


def load_pairs(
    data: Path, split: str, scheme: LabelScheme, config: VolumeConfig, intensity_range: tuple[float, float]
) -> list[Pair]:
    """The cases of "train" or "validation" on one grid.

    Raises:
        BadInput: no cases, a case without the target, or sizes that differ without `size` in [volumes].
    """
    target = target_of(data, scheme)
    values = scheme.containing(target)
    pairs: list[Pair] = []
    for case in load_split(data, split):
        mask = np.isin(case.classes.array, values)
        if not mask.any():
            raise BadInput(
                f"The case '{case.name}' in '{data}' has no voxel of '{target}'",
                "Leave it out of the data set: the model is told how large the target is, and where.",
            )
        image, affine = case.image.with_array(normalise(case.image.array, intensity_range)), case.classes.affine
        if config.size is not None and tuple(mask.shape) != config.size:
            start = window_start(mask, config.size)
            cut = cut_or_pad(case.classes.with_array(mask.astype(np.uint8)), start, config.size, 0)
            image, mask, affine = cut_or_pad(image, start, config.size, AIR), cut.array > 0, cut.affine
        array = np.stack([image.array, np.where(mask, 1.0, -1.0)]).astype(np.float32)
        pairs.append(Pair(case.name, torch.from_numpy(array), affine))
        if pairs[-1].size != pairs[0].size:
            raise BadInput(
                f"The cases '{pairs[0].name}' and '{case.name}' have the sizes {pairs[0].size} and {pairs[-1].size}",
                "Give size in [volumes], or prepare the data with --size.",
            )
    if not pairs:
        raise BadInput(f"The data set in '{data}' has no {split} cases", "Prepare it with another --split.")
    return pairs


def target_of(data: Path, scheme: LabelScheme) -> str:
    """The class whose mask is synthesised: the target of the data set.

    Raises:
        BadInput: it has none, or the label scheme does not know it.
    """
    target = read_description(data).get("target")
    names = [c.name for c in scheme.condition_classes]
    if target not in names:
        raise BadInput(f"The data set in '{data}' has the target {target!r}, which is none of {', '.join(names)}", HINT)
    return target


def draw_variation(config: VolumeConfig, rng: np.random.Generator) -> Variation:
    """One variation of a volume, as [volumes] says."""
    flips = tuple(axis for axis in range(3) if rng.random() < config.flip_probability[axis])
    shift = tuple(int(rng.integers(-n, n + 1)) for n in config.shift)
    return Variation(flips, shift, float(1.0 + config.intensity_scale * rng.uniform(-1, 1)))


def sources(length: int, shift: int, border: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the voxels along an axis come from when its content moves by `shift`.

    Args:
        border: "air" or "reflect" (the outermost voxel is not repeated).

    Returns:
        (length,) indices, and (length,) bool where they are of the volume at all: all are with "reflect".
    """
    index = np.arange(length) - shift
    if border == "air":
        return index.clip(0, length - 1), (index >= 0) & (index < length)
    period = max(1, 2 * (length - 1))
    index = np.abs((index + length - 1) % period - (length - 1)) if length > 1 else np.zeros(length, int)
    return index, np.ones(length, bool)


def shifted(array: torch.Tensor, shift: Sequence[int], border: str) -> torch.Tensor:
    """An array whose last axes are moved, as many as `shift` has.

    Args:
        array: (..., I, J, K) or, with two shifts, (..., I, J).
    """
    for axis, step in enumerate(shift, start=array.ndim - len(shift)):
        if step:
            index, known = sources(array.shape[axis], step, border)
            array = array.index_select(axis, torch.from_numpy(index).to(array.device))
            if not known.all():
                empty = torch.from_numpy(np.flatnonzero(~known)).to(array.device)
                array = array.index_fill(axis, empty, AIR)
    return array


def brightened(image: torch.Tensor, scale: float) -> torch.Tensor:
    """An image in [-1, 1] with its distance from -1 multiplied."""
    return image if scale == 1.0 else ((image + 1.0) * scale - 1.0).clamp(-1.0, 1.0)


def varied(pair: torch.Tensor, variation: Variation, border: str) -> torch.Tensor:
    """(2, I, J, K), flipped, shifted and brightened; where the shift would leave nothing of the target, not shifted."""
    turned = pair.flip([1 + axis for axis in variation.flips]) if variation.flips else pair
    moved = shifted(turned, variation.shift, border)
    if not bool((moved[1] > 0).any()):
        moved = turned
    return torch.stack([brightened(moved[0], variation.scale), moved[1]])


def has_content(pair: torch.Tensor) -> np.ndarray:
    """(K,) bool: slices of (2, I, J, K) with anything in the image, or of the target."""
    return ((pair[0] > CONTENT) | (pair[1] > 0)).flatten(0, 1).any(0).cpu().numpy()


@dataclass(frozen=True)
class SliceSource:
    """Volumes that slices are drawn from, and which of their slices have content.

    Args:
        pairs: (2, I, J, K) each, all of one size and on one device.
        empty_share: how often a slice without content is taken that comes up.
    """

    pairs: Sequence[torch.Tensor]
    content: Sequence[np.ndarray]
    empty_share: float

    @staticmethod
    def of(pairs: Sequence[torch.Tensor], empty_share: float) -> SliceSource:
        """Looks the slices through.

        Raises:
            BadInput: all are empty.
        """
        content = [has_content(pair) for pair in pairs]
        if not any(c.any() for c in content):
            raise BadInput("No slice of the training cases has any content", "Mend intensity_range in [run].")
        return SliceSource(pairs, content, empty_share)

    def draw(self, batch: int, config: VolumeConfig, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Random slices of randomly varied volumes.

        Returns:
            (B, 2, I, J), and (B,) int64, their place in the varied volume
        """
        slices, places = [], []
        while len(slices) < batch:
            case = int(rng.integers(len(self.pairs)))
            pair, variation = self.pairs[case], draw_variation(config, rng)
            depth = pair.shape[-1]
            place = int(rng.integers(depth))
            index, known = (a[place] for a in sources(depth, variation.shift[2], config.border))
            index = depth - 1 - int(index) if 2 in variation.flips else int(index)
            if not (known and self.content[case][index]) and rng.random() >= self.empty_share:
                continue
            if not known:  # a slice of nothing but air, which the shift has brought in
                slices.append(torch.full_like(pair[..., 0], AIR))
                places.append(place)
                continue
            flips = [1 + axis for axis in variation.flips if axis < 2]
            drawn = pair[..., index]
            drawn = shifted(drawn.flip(flips) if flips else drawn, variation.shift[:2], config.border)
            slices.append(torch.stack([brightened(drawn[0], variation.scale), drawn[1]]))
            places.append(place)
        return torch.stack(slices), torch.tensor(places)
