"""Class maps asked for values and masks, against numpy's own functions."""

from __future__ import annotations

import numpy as np
import pytest

from SynthDiffusionLib.contact_sheet import _center
from SynthDiffusionLib.labels import class_maps
from SynthDiffusionLib.models.presets import load_preset


@pytest.fixture(params=["C", "F", "flipped"])
def class_map(request) -> np.ndarray:
    """Values 0, 3, 9 and 255 in rows of different length, laid out as readers and reorienting lay them out."""
    array = np.random.default_rng(4).choice(np.array([0, 3, 9, 255], np.uint8), (13, 8, 21), p=[0.9, 0.05, 0.04, 0.01])
    return array[::-1, :, ::-1] if request.param == "flipped" else np.array(array, order=request.param)


def test_values_are_those_that_occur_whatever_the_layout_and_the_chunks(class_map, monkeypatch):
    monkeypatch.setattr(class_maps, "_CHUNK", 100)
    assert class_maps.values_of(class_map) == {0, 3, 9, 255} == set(np.unique(class_map))
    assert class_maps.values_of(class_map[:0]) == frozenset()


@pytest.mark.parametrize("values", [(), (0,), (9, 255), (3, 77)])
def test_a_mask_is_numpys(class_map, values):
    found = class_maps.mask_of(class_map, values)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.isin(class_map, values))


def test_the_middle_of_a_contact_sheet_is_the_mean_of_the_voxels(class_map):
    scheme = load_preset("medlord-x4").label_scheme
    expected = np.rint(np.argwhere(class_map > 0).mean(0)).astype(int)
    np.testing.assert_array_equal(_center(class_map, scheme, None), expected)
    np.testing.assert_array_equal(_center(np.zeros((4, 5, 6), np.uint8), scheme, None), (2, 2, 3))
