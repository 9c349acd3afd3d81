"""The packages that ship: complete, small, by patient, and with a card that says what they may be used for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from SynthDiffusionLib import cli
from SynthDiffusionLib.models import load_package

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "Resources" / "Models"
SHIPPED = {
    "hippocampus-mr": ("med_lsdm", "CC-BY-SA-4.0"),
    "limb-tumour-ct": ("medlord", "CC-BY-4.0"),
    "limb-tumour-mr": ("slice_ldm", "CC-BY-4.0"),
    "lung-nodule-ct": ("patch_ddpm", "CC-BY-4.0"),
}
LARGEST_BYTES, LARGEST_TEXT_BYTES = 8_000_000, 100_000  # CONTRIBUTING.md
each_model = pytest.mark.parametrize("model", SHIPPED)


def test_there_is_one_model_of_each_method():
    assert {path.name for path in MODELS.iterdir()} == set(SHIPPED)
    assert len({method for method, _ in SHIPPED.values()}) == len(SHIPPED)


@each_model
def test_a_package_is_whole_and_small(model):
    """`load_package` compares every file with its checksum."""
    spec = load_package(model).spec
    assert (spec.backend, spec.license.spdx) == SHIPPED[model]
    listed = {entry["path"] for entry in spec.raw["files"]} | {"model.json"}
    assert {path.name for path in (MODELS / model).iterdir()} == listed
    sizes = {path.name: path.stat().st_size for path in (MODELS / model).iterdir()}
    text = sizes.pop("MODEL_CARD.md") + sizes.pop("model.json")
    assert sum(sizes.values()) <= LARGEST_BYTES and text <= LARGEST_TEXT_BYTES
    assert {entry["role"] for entry in spec.raw["files"]} >= {"denoiser", "segmenter", "card", "figure"}


@each_model
def test_no_patient_is_in_two_parts(model):
    split = load_package(model, verify=False).spec.training.split
    names = [name for part in ("train", "validation", "test") for name in split[part]]
    assert min(len(split[part]) for part in ("train", "validation", "test")) >= 5
    assert len(set(names)) == len(names)


def test_no_person_of_the_hippocampus_data_is_in_two_parts():
    """Files 2k - 1 and 2k are of one person (`Testing/Benchmarks/hippocampus_persons.py`)."""
    split = load_package("hippocampus-mr", verify=False).spec.training.split
    people = {part: {(int(name[-3:]) + 1) // 2 for name in names} for part, names in split.items()}
    assert {part: len(found) for part, found in people.items()} == {"train": 115, "validation": 15, "test": 23}
    assert not people["train"] & people["validation"] and not people["test"] & (people["train"] | people["validation"])


@each_model
def test_the_card_has_licence_figures_and_weaknesses(model):
    spec = load_package(model, verify=False).spec
    card = (MODELS / model / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"licence {spec.license.spdx}" in card and "For research only" in card
    assert spec.license.attribution in card and spec.training.license in card
    for row in ("ball, blind to the image", "class means plus noise", "copies of training cases (control)"):
        assert f"| {row}" in card
    assert "## Known weaknesses" in card and "Seen by eye: " in card
    quality = spec.raw["measured"]["quality"]
    assert 0 < quality["test_patients"] <= len(spec.training.split["test"])
    assert spec.raw["measured"]["performance"]["seconds"] > 0


def test_what_is_made_with_the_hippocampus_model_says_its_licence():
    """CC BY-SA of the training images binds the weights: package, card and the text for people."""
    spec = json.loads((MODELS / "hippocampus-mr" / "model.json").read_text(encoding="utf-8"))
    assert spec["license"]["spdx"] == spec["training"]["license"] == "CC-BY-SA-4.0"
    card = (MODELS / "hippocampus-mr" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "passes the weights on, changed or not, does so under CC BY-SA 4.0 " in card


@each_model
def test_show_says_what_can_be_asked_and_how_well_it_is_followed(model, capsys):
    assert cli.main(["models", "show", model]) == 0
    said = capsys.readouterr().out
    arm = "joint" if model == "limb-tumour-mr" else "anatomy"
    assert f"adherence, {arm}, ratio: " in said
    assert ("volume_mm3: 34,500 to 2,061,220 in training" in said) == (model == "limb-tumour-mr")
    assert ("control, volume mm3, slope: " in said) == (model == "limb-tumour-mr")
