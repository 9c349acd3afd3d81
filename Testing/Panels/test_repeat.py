"""The settings of a volume that was made, put back: the next request is the same, and what is missing is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from job_fakes import add_results, provenance
from panel_harness import MODEL_ID, Harness, add_segmentation, add_volume, shipped_model
from test_generation import DRAWN, NoPanel, saved_request

VERSION = "0.0.0"


@pytest.fixture
def harness(standin):
    made = Harness(standin.scene, NoPanel, [shipped_model(version=VERSION)])
    yield made
    made.close()


@pytest.fixture
def drawing(harness):
    return add_segmentation(harness.scene, DRAWN)


def made(harness, tmp_path, drawing, real=None, **changes):
    """A volume of a run with `job_fakes.provenance`, in which the stomach was not recognised."""
    record = provenance(7, "inpaint" if real else "whole", version=VERSION) | changes
    return add_results(harness, tmp_path, drawing, record, real=real)[0]


def apply(harness, volume) -> list[str]:
    from SynthDiffusionJobs.Repeat import applySettings

    return applySettings(harness.parameters, volume, harness.session.engine)


def request(harness):
    """What would be run now."""
    generation, parameters = harness.session.generation, harness.parameters
    folder, names, image = generation._inputs.folderFor(parameters)
    return generation.request(parameters, folder, names, image, parameters.seed)


def spoil(harness) -> None:
    """Settings that have nothing to do with the volume."""
    for name, value in {
        "mode": "inpaint",
        "classes": {"Segment_1": "bone", "Segment_3": "bone"},
        "quality": "best",
        "samples": 4,
        "guidance": 9.0,
        "marginMm": 1.0,
        "crop": False,
        "precision": "bf16",
        "device": "cuda:0",
        "seed": 1,
        "caseName": "another",
    }.items():
        setattr(harness.parameters, name, value)


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_the_next_request_is_the_one_that_made_the_volume(harness, drawing, tmp_path, mode):
    real = add_volume(harness.scene, shape=(40, 40, 40)) if mode == "inpaint" else None
    volume = made(harness, tmp_path, drawing, real)
    spoil(harness)
    assert apply(harness, volume) == []
    settings, now = provenance(7, mode)["settings"], request(harness)
    for name in ("mode", "sampler", "steps", "seed", "guidance", "margin_mm", "crop"):
        assert getattr(now, name) == settings[name], name
    assert (now.device, now.precision, now.samples, now.model) == ("cpu", "fp32", 1, MODEL_ID)
    assert now.labels == {"lung": "lung", "tumour": "nodule", "stomach": None}
    assert now.case == "drawing" and harness.parameters.caseName == ""  # no name that would stay for other drawings
    assert harness.parameters.segmentation is drawing and harness.parameters.realVolume is real
    assert harness.parameters.fixedSeed and now.adherence


def test_only_what_the_user_had_chosen_is_chosen_again(harness, drawing, tmp_path):
    """What the model gives a segment anyway is not "chosen by you" in the table; the request says it all the same."""
    spoil(harness)
    apply(harness, made(harness, tmp_path, drawing))
    assert dict(harness.parameters.classes) == {}
    assert "chosen" not in {row.how for row in harness.session.generation.mapping(harness.parameters)}
    segments = provenance()["mapping"]["segments"]
    segments[2] |= {"class": "bone", "how": "explicit"}
    apply(harness, made(harness, tmp_path / "b", drawing, mapping={"segments": segments}))
    assert dict(harness.parameters.classes) == {"Segment_3": "bone"}
    assert request(harness).labels == {"lung": "lung", "tumour": "nodule", "stomach": "bone"}


def test_a_quality_is_put_back_as_such_and_other_steps_as_ones_own(harness, drawing, tmp_path):
    from SynthDiffusionLib.sampling.quality import quality_settings

    sampling = harness.session.engine.models[0].description["sampling"]
    sampler, steps = quality_settings("fast", sampling, 1000)
    settings = provenance()["settings"] | {"sampler": sampler, "steps": steps}
    apply(harness, made(harness, tmp_path, drawing, settings=settings))
    assert (harness.parameters.quality, harness.parameters.customSampling) == ("fast", False)
    apply(harness, made(harness, tmp_path / "b", drawing))
    assert harness.parameters.customSampling
    assert (harness.parameters.sampler, harness.parameters.steps) == ("dpmpp-2m", 33)


def test_a_name_that_was_given_is_given_again(harness, drawing, tmp_path):
    apply(harness, made(harness, tmp_path, drawing, case="knot 1"))
    assert harness.parameters.caseName == "knot 1"


def test_a_volume_of_a_gpu_is_made_on_the_first_one(harness, drawing, tmp_path):
    apply(harness, made(harness, tmp_path, drawing, plan={"device": "cuda:3", "precision": "bf16"}))
    assert (harness.parameters.device, harness.parameters.precision) == ("cuda:0", "bf16")


def test_classes_that_the_command_line_left_out_stay_left_out(harness, drawing, tmp_path):
    mapping = {
        "segments": [
            {"name": "lung", "class": "lung", "how": "name", "voxels": 8000},
            {"name": "tumour", "class": None, "unused": "nodule", "how": "name", "voxels": 64},
        ]
    }
    assert apply(harness, made(harness, tmp_path, drawing, mapping=mapping, given_classes=["lung"])) == []
    assert request(harness).labels["tumour"] is None


def sources_gone(harness, volume, drawing, real):
    harness.scene.RemoveNode(drawing)
    harness.scene.RemoveNode(real)
    return ["segmentation that it was made from", "real volume that it was drawn into"]


def model_gone(harness, volume, drawing, real):
    harness.session.engine.models = ()
    return [f"'{MODEL_ID}' is not installed"]


def model_damaged(harness, volume, drawing, real):
    harness.session.engine.models = (replace(shipped_model(), problem="the checksum is wrong"),)
    return [f"'{MODEL_ID}' is not installed"]


def model_newer(harness, volume, drawing, real):
    harness.session.engine.models = (shipped_model(version="9.0.0"),)
    return ["version 0.0.0 of the model; version 9.0.0"]


def device_gone(harness, volume, drawing, real):
    status = harness.session.engine.status
    harness.session.engine.status = replace(status, devices=status.devices[:1])
    return ["computed on 'cpu'"]


def renamed(harness, volume, drawing, real):
    drawing.GetSegmentation().GetNthSegment(1).SetName("knot")
    return ["have another name: tumour"]


@pytest.mark.parametrize("change", [sources_gone, model_gone, model_damaged, model_newer, device_gone, renamed])
def test_what_is_missing_is_said(harness, drawing, tmp_path, change):
    real = add_volume(harness.scene, shape=(40, 40, 40))
    volume = made(harness, tmp_path, drawing, real)
    expected = change(harness, volume, drawing, real)
    missing = apply(harness, volume)
    assert len(missing) == len(expected)
    for sentence, part in zip(missing, expected):
        assert part in sentence
    assert harness.parameters.seed == 7  # the rest is put back all the same
    if change is device_gone:
        assert (harness.parameters.device, harness.parameters.precision) == ("auto", "auto")


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_sources_that_were_changed_since_are_said(harness, drawing, tmp_path, mode):
    import slicer.util

    from SynthDiffusionScene.digests import DRAWING_DIGEST, REAL_VOLUME_DIGEST, segmentationDigest, volumeDigest

    reference = add_volume(harness.scene, shape=(40, 40, 40))
    real = reference if mode == "inpaint" else None
    volume = made(harness, tmp_path, drawing, real)
    volume.SetAttribute(DRAWING_DIGEST, segmentationDigest(drawing))
    if real:
        volume.SetAttribute(REAL_VOLUME_DIGEST, volumeDigest(real))
    assert apply(harness, volume) == []
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[6:10, 5:9, 5:9] = 1  # as many voxels as before, one voxel further
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, drawing, "Segment_2", reference)
    assert apply(harness, volume) == ["The drawing was changed since: the next volume follows it as it is now."]
    slicer.util.arrayFromVolume(reference)[1, 2, 3] += 1
    said = apply(harness, volume)
    assert len(said) == (2 if real else 1) and ("The real volume was changed since" in said[-1]) == bool(real)


@pytest.mark.parametrize(
    ("entry", "value", "part"),
    [
        ("guidance", 0.0, "0 for 'guidance'"),
        ("inpaint_method", "replacement", "'replacement'"),
        ("margin_mm", 0.0, "0 for 'margin'"),
        ("seed", 2**31 - 3, "too large"),
        ("guidance", 30.0, "Not all settings can be put back"),
        ("mode", "sideways", "Not all settings can be put back"),
        ("seed", -1, "Not all settings can be put back"),
    ],
)
def test_what_only_the_command_line_can_do_is_said(harness, drawing, tmp_path, entry, value, part):
    real = add_volume(harness.scene, shape=(40, 40, 40))
    settings = provenance(7, "inpaint")["settings"] | {entry: value}
    missing = apply(harness, made(harness, tmp_path, drawing, real, settings=settings))
    assert len(missing) == 1 and part in missing[0]


@pytest.mark.parametrize("change", [{"settings": {"mode": "whole"}}, {"settings": None}, {"model": None}])
def test_an_incomplete_record_changes_nothing(harness, drawing, tmp_path, change):
    from SynthDiffusionScene.errors import SceneError

    volume = made(harness, tmp_path, drawing, **change)
    spoil(harness)
    with pytest.raises(SceneError, match="incomplete"):
        apply(harness, volume)
    assert harness.parameters.guidance == 9.0 and harness.parameters.mode == "inpaint"


def test_a_volume_that_is_not_ours(harness):
    from SynthDiffusionScene.errors import SceneError

    with pytest.raises(SceneError, match="does not say how it was made"):
        apply(harness, add_volume(harness.scene))


def test_all_is_one_change(harness, drawing, tmp_path):
    volume = made(harness, tmp_path, drawing)
    spoil(harness)
    writes = harness.writes
    apply(harness, volume)
    assert harness.writes == writes + 1


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_a_volume_of_the_real_engine_is_asked_for_again_in_the_same_words(quick_answers, opened, mode):
    """A run of the tiny model; other settings; the settings of its volume; the request of the next run."""
    opened.add_chest()
    opened.set(modelId="tiny-ct", mode=mode, quality="fast", seed=11, fixedSeed=True, guidance=2.0, device="cpu")
    first = opened.generate()
    opened.wait_run(first)
    (volume,) = opened.volumes(first)
    requests = [saved_request(first.folder)]
    opened.set(
        mode="whole", quality="best", seed=3, guidance=1.0, samples=2, crop=True, precision="fp32", device="auto"
    )
    opened.parameters.segmentation = None
    opened.panel.resultsPanel.select(volume)
    opened.panel.resultsPanel.ui.sameButton.click()
    assert "are set" in opened.panel.resultsPanel.ui.messageLabel.text
    folder = opened.session.generation.prepareQuestion(opened.parameters)
    requests.append(saved_request(folder))
    for request, base in zip(requests, (first.folder, folder)):
        # What was resolved is pinned, and the files lie elsewhere.
        for name in ("precision", "margin_mm"):
            del request[name]
        for name in ("segmentation", "image", "out"):
            request[name] = request[name] and Path(request[name]).relative_to(base)
    assert requests[0] == requests[1]
