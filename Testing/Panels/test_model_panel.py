"""The model panel on the stand-in: the list, what a model is, settings, and installing and removing packages.

Models that others have released, and imports: `test_model_library.py`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from panel_harness import MODEL_ID, ROOT, Harness, add_segmentation, shipped_description, shipped_model, widths

LIVER = [{"name": "liver", "value": 1, "optional": True, "color": [0.5, 0.3, 0.2]}]


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    made = Harness(standin.scene, ModelPanel)
    made.ui.advancedBox.collapsed = False
    yield made
    made.close()


def liver_model(**changes):
    return shipped_model(
        **{"id": "liver-ct", "name": "Liver CT", "label_scheme": LIVER, "target_class": "liver"} | changes
    )


def damaged_model():
    from SynthDiffusionJobs.Engine import ModelInfo

    return ModelInfo("broken-ct", "user", "/nowhere/broken-ct", "denoiser.safetensors: the checksum is wrong", {})


def items(harness) -> list[tuple[str, str]]:
    box = harness.ui.modelSelector
    return [(box.itemData(n), box.itemText(n)) for n in range(box.count)]


def pick(box, data) -> None:
    """The user picks an item."""
    index = box.findData(data)
    assert index >= 0, f"no '{data}'"
    box.setCurrentIndex(index)
    box._obj.activated.emit(index)


def test_models_that_fit_come_first_and_the_others_say_why(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"liver": 10})
    harness.setModels(damaged_model(), shipped_model(), liver_model(), replace(liver_model(id="own"), origin="user"))
    assert [model for model, _text in items(harness)] == ["liver-ct", "own", MODEL_ID, "broken-ct"]
    texts = dict(items(harness))
    assert texts["liver-ct"] == "Liver CT"
    toolTip = harness.ui.modelSelector.itemData(0, 3)  # Qt::ToolTipRole
    for part in ("CT of the chest", "CC-BY-4.0", "LIDC-IDRI", "0.6 GB"):
        assert part in toolTip
    assert "yours" in texts["own"]
    assert "no segment goes to one of its classes" in texts[MODEL_ID]
    assert "damaged" in texts["broken-ct"]
    pick(harness.ui.modelSelector, "broken-ct")
    assert "checksum is wrong" in harness.ui.fitLabel.text
    assert not harness.ui.settingsWidget.enabled
    pick(harness.ui.modelSelector, "liver-ct")
    assert "liver" in harness.ui.fitLabel.text and harness.ui.settingsWidget.enabled


def test_a_choice_in_the_mapping_table_makes_a_model_fit(harness):
    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"hepar": 10, "rest": 3})
    harness.setModels(liver_model())
    assert "No segment goes" in harness.ui.fitLabel.text
    harness.parameters.classes = {node.GetSegmentation().GetNthSegmentID(0): "liver"}
    assert "liver" in harness.ui.fitLabel.text and "No segment" not in harness.ui.fitLabel.text


def test_drawing_makes_a_model_fit_a_moment_later(harness, standin):
    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"stomach": 5, "bowel": 6})
    harness.setModels(liver_model(), shipped_model())
    assert all("no segment" in text for _model, text in items(harness))
    source = add_segmentation(harness.scene, {"liver": 8}, "other")
    node.GetSegmentation().CopySegmentFromSegmentation(source.GetSegmentation(), "Segment_1")
    standin.wait(lambda: items(harness)[0][1] == "Liver CT", what="the list")


def test_the_first_model_that_fits_is_proposed_once(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 10})
    assert harness.parameters.modelId == ""
    harness.setModels(liver_model(), shipped_model())
    assert harness.parameters.modelId == MODEL_ID
    pick(harness.ui.modelSelector, "liver-ct")
    harness.setModels(liver_model(), shipped_model())
    assert harness.parameters.modelId == "liver-ct"  # the user's choice stays


def test_a_model_that_is_gone_is_replaced_and_the_panel_says_so(harness):
    harness.parameters.modelId = "gone-ct"
    harness.setModels(shipped_model())
    assert harness.parameters.modelId == MODEL_ID
    assert "'gone-ct' is not installed" in harness.ui.fitLabel.text
    pick(harness.ui.modelSelector, MODEL_ID)
    assert "gone-ct" not in harness.ui.fitLabel.text


def test_a_new_scene_gets_a_proposal_as_well(harness):
    harness.setModels(shipped_model())
    harness.closeScene()
    assert not harness.panel.widget.enabled
    harness.beginScene()
    assert harness.parameters.modelId == MODEL_ID


def test_refreshing_writes_nothing(harness):
    harness.setModels(shipped_model(), liver_model())
    harness.parameters.guidance, harness.parameters.steps, harness.parameters.customSampling = 2.5, 900, True
    writes = harness.writes
    for _ in range(3):
        harness.panel.refresh()
    assert harness.writes == writes
    # Nor does it cut off what another model cannot do: the user has not asked for that.
    few = shipped_description()["diffusion"] | {"train_steps": 100}
    harness.setModels(shipped_model(diffusion=few), liver_model())
    assert harness.parameters.steps == 900 and harness.ui.stepsBox.value == 100


def test_what_a_model_is_in_plain_words(harness):
    harness.setModels(shipped_model())
    ui, description = harness.ui, shipped_description()
    assert "CT of the chest, up to 64 x 64 x 64 mm, voxels of 1 mm." in ui.makesLabel.text
    assert "CC-BY-4.0" in ui.licenceLabel.text and description["license"]["permitted_use"] in ui.licenceLabel.text
    assert "LIDC-IDRI" in ui.trainingLabel.text and "CC-BY-3.0" in ui.trainingLabel.text
    assert "67 cases of LIDC-IDRI" in ui.trainingLabel.text and "20 other patients" in ui.trainingLabel.text
    measured = description["measured"]["performance"]
    assert f"{round(measured['seconds'])} s" in ui.performanceLabel.text
    assert f"{measured['peak_bytes'] / 2**30:.1f} GB" in ui.performanceLabel.text
    assert "CPU, 2 threads" in ui.performanceLabel.text and "Balanced" in ui.performanceLabel.text
    arms = description["measured"]["quality"]["adherence"]
    for arm in ("nodule", "anatomy", "inpainting", "moved", "ball_moved", "ball"):
        assert f"{arms[arm]['ratio']:.2f}" in ui.measuredLabel.text
    moved = f"{arms['ball_moved']['ratio']:.2f}"
    assert f"(structure at an unusual place; a ball in the middle gets {moved} there)." in ui.measuredLabel.text
    assert "structures up to 40 mm, a little less in coarse images" in ui.makesLabel.text


def test_what_was_not_measured_is_said_to_be_so(harness):
    licence = {"spdx": "NOASSERTION", "attribution": "", "permitted_use": "Not known."}
    measured = {"quality": {}, "performance": {}}
    training = {"dataset": "Not known", "license": "NOASSERTION"}
    harness.setModels(shipped_model(license=licence, measured=measured, training=training))
    ui = harness.ui
    assert ui.performanceLabel.text == "<b>Speed and memory:</b> Not measured."
    assert ui.measuredLabel.text == "<b>Quality:</b> Not measured."
    assert ui.licenceLabel.text == "<b>License:</b> not known. Not known."
    harness.setModels(shipped_model(measured={"quality": {}, "performance": {"seconds": 40, "peak_bytes": None}}))
    assert "memory not measured" in ui.performanceLabel.text


def test_markup_in_a_package_is_shown_as_text(harness):
    training = {"dataset": "<img src=x> & <b>more</b>", "license": "MIT"}
    harness.setModels(shipped_model(training=training))
    assert "&lt;img src=x&gt; &amp; &lt;b&gt;more" in harness.ui.trainingLabel.text


def test_the_quality_slider_says_what_its_stops_cost(harness):
    from SynthDiffusionLib.sampling.quality import quality_settings

    harness.setModels(shipped_model())
    description, ui = shipped_description(), harness.ui
    steps = {name: quality_settings(name, description["sampling"], 1000)[1] for name in ("fast", "balanced", "best")}
    assert f"{steps['best'] / steps['balanced']:g} times as long" in ui.bestLabel.text
    assert f"{100 * steps['fast'] // steps['balanced']}% of the time" in ui.fastLabel.text
    assert ui.qualitySlider.value == 1 and "<b>" in ui.balancedLabel.text
    ui.qualitySlider.value = 2
    assert harness.parameters.quality == "best" and "<b>" in ui.bestLabel.text and "<b>" not in ui.balancedLabel.text
    harness.parameters.quality = "fast"
    assert ui.qualitySlider.value == 0


def test_modes_that_a_model_lacks_cannot_be_chosen_and_say_why(harness):
    harness.setModels(shipped_model(), liver_model(modes=["whole"]))
    ui = harness.ui
    ui.inpaintButton.click()
    assert harness.parameters.mode == "inpaint" and not ui.cropBox.visible
    pick(ui.modelSelector, "liver-ct")
    assert harness.parameters.mode == "whole"
    assert not ui.inpaintButton.enabled and "Liver CT" in ui.inpaintButton.toolTip
    assert ui.wholeButton.checked
    pick(ui.modelSelector, MODEL_ID)
    assert ui.inpaintButton.enabled and "not anonymous" in ui.inpaintButton.toolTip


def test_every_setting_reaches_the_parameters_and_comes_back(harness):
    harness.setModels(shipped_model())
    ui, parameters = harness.ui, harness.parameters
    ui.samplesBox.value = 4
    ui.fixedSeedButton.click()
    ui.seedBox.value = 77
    ui.cropBox.click()
    ui.guidanceBox.value = 3.5
    ui.memoryBox.value = 8.0
    ui.previewsBox.click()
    pick(ui.precisionBox, "fp32")
    pick(ui.deviceBox, "cpu")
    ui.inpaintButton.click()
    ui.marginBox.value = 6.5
    assert (parameters.samples, parameters.fixedSeed, parameters.seed, parameters.crop) == (4, True, 77, True)
    assert (parameters.guidance, parameters.memoryLimitGiB, parameters.previews) == (3.5, 8.0, False)
    assert (parameters.precision, parameters.device, parameters.marginMm) == ("fp32", "cpu", 6.5)
    for name, value in (("samples", 2), ("seed", 5), ("guidance", 0.0), ("device", "cuda:0"), ("precision", "auto")):
        setattr(parameters, name, value)
    assert (ui.samplesBox.value, ui.seedBox.value, ui.guidanceBox.value) == (2, 5, 0.0)
    assert (ui.deviceBox.itemData(ui.deviceBox.currentIndex), ui.precisionBox.currentIndex) == ("cuda:0", 0)
    ui.randomSeedButton.click()
    assert not parameters.fixedSeed and not ui.seedBox.enabled


def test_own_sampler_and_steps_begin_with_those_of_the_slider(harness):
    from SynthDiffusionLib.sampling.quality import quality_settings

    harness.setModels(shipped_model())
    ui, parameters = harness.ui, harness.parameters
    harness.parameters.quality = "best"
    expected = quality_settings("best", shipped_description()["sampling"], 1000)
    assert (ui.samplerBox.currentText, ui.stepsBox.value) == expected  # shown, though not to be changed
    assert not ui.stepsBox.enabled and not ui.customLabel.visible
    ui.customBox.click()
    assert (parameters.sampler, parameters.steps, parameters.customSampling) == (*expected, True)
    assert not ui.qualitySlider.enabled
    ui.stepsBox.value = 33
    pick(ui.samplerBox, "ddim")
    assert harness.session.generation.sampling(parameters, harness.session.model) == ("ddim", 33)
    ui.customBox.click()
    assert harness.session.generation.sampling(parameters, harness.session.model) == expected
    assert ui.stepsBox.value == expected[1]


def test_another_model_does_not_keep_a_sampler_that_it_lacks(harness):
    sampling = shipped_description()["sampling"] | {"samplers": ["ddim"], "default_sampler": "ddim"}
    harness.setModels(shipped_model(), liver_model(sampling=sampling))
    harness.ui.customBox.click()
    pick(harness.ui.samplerBox, "unipc")
    pick(harness.ui.modelSelector, "liver-ct")
    assert harness.parameters.sampler == "" and harness.ui.samplerBox.currentText == "ddim"


def test_zero_means_the_models_own_value_and_says_which(harness):
    inpaint = shipped_description()["inpaint"] | {"default_guidance": 1.25}
    harness.setModels(shipped_model(inpaint=inpaint))
    ui = harness.ui
    assert ui.guidanceBox.text == "model's own (1.5)"
    ui.inpaintButton.click()
    assert ui.guidanceBox.text == "model's own (1.25)" and ui.marginBox.text == "model's own (4)"
    assert ui.memoryBox.text == "automatic"


def test_a_device_of_the_scene_that_is_not_there_is_named(harness):
    harness.setModels(shipped_model())
    harness.parameters.device = "cuda:3"
    box = harness.ui.deviceBox
    assert box.currentText == "cuda:3 (not found)" and box.itemText(0) == "automatic (NVIDIA RTX 4090)"
    assert "20 GB free" in box.itemText(box.findData("cuda:0"))


def test_card_and_folder_are_opened(harness, standin):
    harness.setModels(shipped_model())
    harness.ui.cardButton.click()
    harness.ui.folderButton.click()
    folder = ROOT / "Resources" / "Models" / MODEL_ID
    assert [Path(url.removeprefix("file://")) for url in standin.dialogs.opened_urls] == [
        folder / "MODEL_CARD.md",
        folder,
    ]
    files = [file for file in shipped_description()["files"] if file["role"] != "card"]
    harness.setModels(shipped_model(files=files))
    assert not harness.ui.cardButton.enabled


@pytest.fixture
def real_engine(harness, monkeypatch, tmp_path):
    """Child processes of this Python; models are installed in a folder of the test."""
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "models"))
    return harness


def install(harness, standin, path: Path) -> None:
    standin.dialogs.answer(str(path))
    harness.panel.library._menu.actions()[1].trigger()


def test_a_model_is_installed_chosen_and_removed(real_engine, standin, tmp_path):
    harness = real_engine
    package = tmp_path / "package"
    shutil.copytree(ROOT / "Resources" / "Models" / MODEL_ID, package)
    description = json.loads((package / "model.json").read_text(encoding="utf-8"))
    (package / "model.json").write_text(json.dumps(description | {"id": "my-ct", "name": "My CT"}), encoding="utf-8")
    install(harness, standin, package)
    assert harness.panel.library.busy and not harness.ui.installButton.enabled
    assert "Installing" in harness.ui.libraryLabel.text
    standin.wait(lambda: harness.parameters.modelId == "my-ct", 60, "the new model")
    assert harness.ui.libraryLabel.text == "Installed 'my-ct'."
    assert (tmp_path / "models" / "my-ct" / "model.json").is_file()
    harness.panel.refresh()
    assert ("my-ct", "My CT (yours)") in items(harness)
    assert harness.ui.removeButton.enabled

    standin.dialogs.answer("Cancel")
    harness.ui.removeButton.click()
    assert not harness.panel.library.busy and (tmp_path / "models" / "my-ct").is_dir()
    standin.dialogs.answer("OK")
    harness.ui.removeButton.click()
    standin.wait(lambda: harness.parameters.modelId == MODEL_ID, 60, "the model to be gone")
    assert not (tmp_path / "models" / "my-ct").exists()
    harness.panel.refresh()
    assert [model for model, _text in items(harness)] == [
        MODEL_ID,
        "hippocampus-mr",
        "limb-tumour-ct",
        "limb-tumour-mr",
    ]
    assert not harness.ui.removeButton.enabled  # what ships with the extension stays


def test_a_failed_installation_shows_what_the_engine_says(real_engine, standin, tmp_path):
    harness = real_engine
    harness.setModels(shipped_model())
    (tmp_path / "empty").mkdir()
    install(harness, standin, tmp_path / "empty")
    standin.wait(lambda: not harness.panel.library.busy, 60, "the answer")
    text = harness.ui.libraryLabel.text
    assert "model.json" in text and not text.startswith("synthdiffusion") and "error:" not in text
    assert harness.ui.installButton.enabled and harness.parameters.modelId == MODEL_ID


def test_an_installation_can_be_cancelled(real_engine, standin, tmp_path):
    harness = real_engine
    install(harness, standin, ROOT / "Resources" / "Models" / MODEL_ID)
    harness.ui.libraryCancelButton.click()
    standin.wait(lambda: not harness.panel.library.busy, 2, "the end")
    assert harness.ui.libraryLabel.text == "Canceled."
    assert not list((tmp_path / "models").glob(MODEL_ID))


def test_nothing_is_left_behind(standin):
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    before = standin.counts()
    harness = Harness(standin.scene, ModelPanel, [shipped_model()])
    harness.session.drawingChanged.emit()
    install(harness, standin, ROOT / "Resources" / "Models" / MODEL_ID)
    harness.close()
    after = standin.counts()
    assert (after["timers"], after["processes"]) == (before["timers"], before["processes"])
    assert harness.session.engine.changed.receiverCount == harness.session.parametersChanged.receiverCount == 0


def test_the_panel_fits_its_width(harness, tmp_path):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 10})
    harness.setModels(shipped_model(), liver_model(name="A liver model with quite a long name that nobody can read"))
    harness.ui.libraryBox.collapsed = False
    assert not any(widths(harness.panel, tmp_path, "model").values())
