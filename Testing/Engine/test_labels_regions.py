"""Which body regions MAISI's label values tell."""

from __future__ import annotations

import numpy as np
import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.regions import DEFAULT_REGIONS, choose_regions, regions_of
from SynthDiffusionLib.labels.scheme import load_scheme


def test_regions():
    lungs, liver, brain, femur, heart, bladder, body = 28, 1, 22, 93, 115, 15, 200
    assert regions_of([lungs, body]) == ("chest", "chest")
    assert regions_of({lungs, liver}) == ("chest", "abdomen")
    assert regions_of(np.array([0, femur, brain], np.uint8)) == ("head", "pelvis")
    assert regions_of([liver, bladder, heart]) == ("abdomen", "abdomen"), "the authors' organs decide"
    assert regions_of([heart, bladder]) == ("chest", "pelvis"), "without them, others do"
    assert regions_of([0, body]) is None and regions_of([]) is None


def test_choice_of_regions_is_told():
    assert choose_regions([28], ("head", "pelvis")) == (("head", "pelvis"), "Body regions as asked for: head to pelvis")
    chosen, note = choose_regions([28, 1], None)
    assert chosen == ("chest", "abdomen") and "drawn" in note
    chosen, note = choose_regions([200], None)
    assert chosen == DEFAULT_REGIONS and "--region" in note
    with pytest.raises(BadInput, match="'legs'"):
        choose_regions([], ("chest", "legs"))
    with pytest.raises(BadInput, match="above"):
        choose_regions([], ("pelvis", "head"))


def test_the_scheme_that_ships_has_the_labels_that_tell_the_regions():
    """By the names of MAISI's own label dictionary, whatever the numbers."""
    by_value = {c.value: c.name.lower() for c in load_scheme("maisi-ct").classes}
    for region, words in {
        "head": ("brain", "skull"),
        "chest": ("lobe", "heart", "sternum", "scapula", "trachea", "airway"),
        "abdomen": ("liver", "spleen", "pancreas", "kidney", "stomach", "gallbladder"),
        "pelvis": ("femur", "hip", "bladder", "sacrum", "prostate"),
    }.items():
        for value, name in by_value.items():
            if region == "pelvis" and name == "gallbladder":
                continue
            told = regions_of([value])
            if any(name.startswith(word) or name.endswith(word) for word in words):
                assert told == (region, region), f"{name} ({value}) tells {told}"
