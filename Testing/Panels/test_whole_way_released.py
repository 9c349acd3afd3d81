"""A model in the layout of MAISI's released files, imported and run by real workers from the module: tiny networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from test_generation import saved_request
from whole_way import ROOT, Slicer

IMPORT = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path[:0] = sys.argv[2:]
from tiny_released import maisi_files, tiny_preset
from SynthDiffusionLib.cli import main
files, _networks = maisi_files(folder, "maisi-ddpm")
like = tiny_preset(folder / "like.json", "maisi-ddpm")
sys.exit(main(["models", "import", *map(str, files), "--as", "tiny-maisi", "--like", str(like)]))
"""


@pytest.fixture(scope="module")
def released_folder(tmp_path_factory):
    """A model folder with the imported model; made in a child process, so that this one has no torch."""
    folder = tmp_path_factory.mktemp("released")
    models = folder / "models"
    environment = os.environ | {"SYNTHDIFFUSION_MODELS": str(models)}
    paths = [str(ROOT), str(ROOT / "Testing" / "Engine")]
    subprocess.run([sys.executable, "-c", IMPORT, str(folder), *paths], check=True, env=environment)
    return models


@pytest.fixture
def opened(quick_answers, standin, released_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHDIFFUSION_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(released_folder))
    made = Slicer(standin)
    made.set(device="cpu", quality="fast", fixedSeed=True, seed=5)
    made.set(customSampling=True, sampler="ddim", steps=2)
    return made


def again(slicer, volume) -> dict:
    """The request that "Same settings" leads to."""
    slicer.panel.resultsPanel.select(volume)
    slicer.panel.resultsPanel.ui.sameButton.click()
    assert "are set" in slicer.panel.resultsPanel.ui.messageLabel.text
    return saved_request(slicer.session.generation.prepareQuestion(slicer.parameters))


def test_an_image_without_a_drawing_and_the_same_again(opened):
    opened.set(modelId="tiny-maisi", mode="unconditional", size="64x64x64", acrossMm=1.5, regionTop="head")
    opened.set(regionBottom="chest")
    assert opened.parameters.segmentation is None
    run = opened.generate()
    opened.wait_run(run)
    (volume,) = opened.volumes(run)
    assert volume.GetImageData().GetDimensions() == (64, 64, 64)
    assert tuple(round(s, 3) for s in volume.GetSpacing()) == (1.5, 1.5, 2.98)
    assert volume.GetNodeReference("SynthDiffusion.Segmentation") is None
    first = saved_request(run.folder)
    opened.set(size="", acrossMm=0.0, regionTop="", regionBottom="", seed=1)
    second = again(opened, volume)
    for name in ("mode", "size", "region", "seed", "sampler", "steps", "case", "segmentation", "condition_scale"):
        assert first[name] == second[name], name
    assert second["spacing_mm"][0] == 1.5


def test_a_drawing_is_followed_at_a_strength_of_ones_own(opened):
    opened.add_chest()
    segmentation = opened.parameters.segmentation.GetSegmentation()
    for name, number in (("lung_upper_lobe_left", 0), ("liver", 1)):  # as TotalSegmentator calls them
        segmentation.GetNthSegment(number).SetName(name)
    opened.set(modelId="tiny-maisi", mode="whole", conditionScale=0.5)
    rows = opened.session.generation.mapping(opened.parameters)
    assert all(row.target for row in rows), rows
    run = opened.generate()
    opened.wait_run(run)
    (volume,) = opened.volumes(run)
    assert volume.GetNodeReference("SynthDiffusion.Segmentation") is opened.parameters.segmentation
    record = json.loads(volume.GetAttribute("SynthDiffusion.Provenance"))
    assert record["settings"]["condition_scale"] == 0.5
    opened.set(conditionScale=1.0)
    assert again(opened, volume)["condition_scale"] == 0.5
