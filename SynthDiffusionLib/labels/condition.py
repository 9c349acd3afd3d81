"""The condition that a denoiser is given: a class map and which of its classes the user has drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.labels.class_maps import mask_of
from SynthDiffusionLib.labels.scheme import LabelScheme


@dataclass(frozen=True)
class Condition:
    """A class map on a model's grid.

    Args:
        class_map: (I, J, K) uint8, values of `scheme`; 0 is "none of the given classes".
        affine: (4, 4) voxel indices to RAS+ millimetres.
        scheme: the model's label scheme.
        given: names of the classes that the user has drawn. A class that is not given is unknown to the model, which is
            not the same as a class that is given and absent.
    """

    class_map: np.ndarray
    affine: np.ndarray
    scheme: LabelScheme
    given: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.class_map.shape)

    def channels(self) -> np.ndarray:
        """See `encode_classes`."""
        return encode_classes(self.class_map, self.scheme, self.given)


def encode_classes(class_map: np.ndarray, scheme: LabelScheme, given: tuple[str, ...]) -> np.ndarray:
    """One channel per condition class: 1 inside, -1 outside, 0 everywhere when the class is not given.

    Classes nest (`LabelClass.within`), so that taking one away leaves no hole in the shape of it in another: the lung
    channel covers the nodules in it, the body channel covers everything in it.

    Args:
        class_map: (I, J, K) label values.
        scheme: its meaning.
        given: names of the classes that are given.

    Returns:
        (C, I, J, K) int8, C the number of condition classes of `scheme`.
    """
    channels = np.zeros((len(scheme.condition_classes), *class_map.shape), np.int8)
    for channel, label in zip(channels, scheme.condition_classes):
        if label.name in given:
            channel[...] = np.where(mask_of(class_map, scheme.containing(label.name)), 1, -1)
    return channels
