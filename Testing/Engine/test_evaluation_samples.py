"""`evaluate samples`: every volume comes through a job, a leak is refused, and a folder of samples is what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_evaluation import phantom_case
from tiny_package import make_working_package

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import cases
from SynthDiffusionLib.evaluation.arms import BORDER_VOXELS, arms_of
from SynthDiffusionLib.evaluation.samples import Settings, load_samples, make_samples
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

CLASSES = {"body": 1, "lung": 2, "bone": 3, "nodule": 4}


def write_prepared(
    folder: Path, sizes=(6, 5, 5), make=phantom_case, classes=CLASSES, target="nodule", spacing=1.0
) -> Path:
    """A prepared data set of phantoms, as files; `make` gives the case of a number."""
    for part in ("images", "classes"):
        (folder / part).mkdir(parents=True)
    split, entries, number = {}, {}, 0
    for part, size in zip(("train", "validation", "test"), sizes):
        split[part] = []
        for _ in range(size):
            case = make(number)
            write_volume(case.image, folder / "images" / f"{case.name}.nii.gz")
            write_volume(case.classes, folder / "classes" / f"{case.name}.nii.gz")
            split[part].append(case.name)
            entries[case.name] = {"patient": case.patient, "image_sha256": f"{number:064x}"}
            number += 1
    description = {
        "format": "synthdiffusion-dataset-1",
        "unit": "HU",
        "spacing_mm": spacing,
        "classes": classes,
        "target": target,
        "split_seed": 1,
        "split": split,
        "cases": entries,
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("evaluation") / "prepared")


def training_with(prepared: Path, **split) -> dict:
    description = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    return {"dataset": "phantoms", "license": "CC0-1.0", "split": description["split"] | split}


@pytest.fixture(scope="module")
def package(prepared, tmp_path_factory):
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct", training=training_with(prepared))


@pytest.fixture(scope="module")
def data(package, prepared):
    return cases.load_evaluation_data(prepared, package.spec)


class Job:
    """Stands for `jobs.run`: writes the mask's values as an image, and notes what it was asked for."""

    def __init__(self) -> None:
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        mask = read_volume(request.segmentation, unit="label")
        path = request.out / f"{request.case}_tiny-ct_seed{request.seed}.nii.gz"
        write_volume(Volume(mask.array.astype(np.int16) * 100 - 900, mask.affine, "HU"), path)
        return SimpleNamespace(outputs=[{"volume": path, "seed": request.seed}])


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_every_arm_asks_for_what_it_is_named_after(package, data, tmp_path):
    job = Job()
    make_samples(package, data, tmp_path, Settings(seeds=2, steps=3), run=job)
    assert len(job.requests) == 4 * 5 * 2
    by_arm = {arm: [r for r in job.requests if r.out.name == arm] for arm in arms_of(package.spec)}
    assert all(r.classes == ("nodule",) and r.mode == "whole" for r in by_arm["nodule"] + by_arm["moved"])
    assert all(r.classes is None and r.mode == "whole" and r.image is None for r in by_arm["anatomy"])
    assert all(r.mode == "inpaint" and r.image.parent.name == "images" for r in by_arm["inpainting"])
    assert all(r.steps == 3 and r.samples == 1 for r in job.requests)
    assert all(
        len({r.seed for r in requests}) == 10 for requests in by_arm.values()
    )  # no noise is used twice in an arm
    rows, index = load_samples(tmp_path, package, data)
    assert {arm: len(row.items) for arm, row in rows.items()} == dict.fromkeys(arms_of(package.spec), 10)
    assert len(set(rows["nodule"].patients)) == 5 and index["leak_check"]["shared_patients"] == 0


def test_moved_masks_keep_their_shape_and_leave_the_middle(package, data, tmp_path):
    make_samples(package, data, tmp_path, Settings(arms=("moved",)), run=Job())
    rows, index = load_samples(tmp_path, package, data)
    shifts = [e["shift_voxels"] for e in index["samples"]]
    assert len({tuple(s) for s in shifts}) == 5
    for item, case in zip(rows["moved"].items, data.evaluated):
        before, after = (np.argwhere(c == 4) for c in (case.classes.array, item.classes))
        assert np.array_equal(np.ptp(before, axis=0), np.ptp(after, axis=0)) and len(before) == len(after)
        assert after.min() >= BORDER_VOXELS and after.max() <= 23 - BORDER_VOXELS
        written = read_volume(tmp_path / "moved_masks" / f"{case.name}.nii.gz", unit="label").array
        assert np.array_equal(written, item.classes)


def test_an_interrupted_run_goes_on_and_changed_files_are_made_again(package, data, tmp_path):
    job = Job()

    def stops_after_two(request):
        if len(job.requests) == 2:
            raise KeyboardInterrupt
        return job(request)

    settings = Settings(arms=("nodule",))
    with pytest.raises(KeyboardInterrupt):
        make_samples(package, data, tmp_path, settings, run=stops_after_two)
    assert len(json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))["samples"]) == 2
    go_on = Job()
    make_samples(package, data, tmp_path, settings, run=go_on)
    assert len(go_on.requests) == 3
    damaged = next((tmp_path / "nodule").glob("*.nii.gz"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    with pytest.raises(BadInput, match="missing or has been changed"):
        load_samples(tmp_path, package, data)
    again = Job()
    make_samples(package, data, tmp_path, settings, run=again)
    assert len(again.requests) == 1
    assert len(load_samples(tmp_path, package, data)[0]["nodule"].items) == 5


def test_a_region_too_large_to_inpaint_is_left_out_and_named(package, data, tmp_path):
    spec = replace(package.spec, inpaint=replace(package.spec.inpaint, max_region_mm=6.0))
    small = replace(package, spec=spec)
    job = Job()
    make_samples(small, data, tmp_path, Settings(arms=("inpainting",)), run=job)
    skipped = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))["skipped"]
    assert len(job.requests) + len(skipped) == 5 and skipped
    assert all("larger than the 6 mm" in e["reason"] for e in skipped)
    with pytest.raises(BadInput, match="at least 5"):
        load_samples(tmp_path, small, data)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda c: c.update(format="other"), "unknown format"),
        (lambda c: c.update(samples="none"), "damaged"),
        (lambda c: c["samples"][0].update(sha256="0"), "damaged"),
        (lambda c: c["samples"][0].update(file="../../elsewhere.nii.gz"), "outside its folder"),
        (lambda c: c["samples"][0].update(patient="p1"), "no case of"),
        (lambda c: c["model"].update(id="other"), "made by the model 'other'"),
        (lambda c: c["model"]["files"].update({"denoiser.safetensors": "0" * 64}), "other weights"),
        (lambda c: c["data"].update(split="validation"), "another data set or split"),
        (lambda c: c["samples"].clear(), "lists no samples"),
    ],
)
def test_samples_that_are_not_what_they_should_be_are_refused(package, data, tmp_path, change, says):
    make_samples(package, data, tmp_path, Settings(arms=("nodule",)), run=Job())
    edit(tmp_path / "samples.json", change)
    with pytest.raises(BadInput, match=says):
        load_samples(tmp_path, package, data)


def test_a_new_segmenter_leaves_the_samples_valid(package, data, tmp_path):
    make_samples(package, data, tmp_path, Settings(arms=("nodule",)), run=Job())
    edit(tmp_path / "samples.json", lambda c: c["model"]["files"].update({"segmenter.safetensors": "0" * 64}))
    assert load_samples(tmp_path, package, data)[0]


def test_steps_are_the_models_default_and_the_index_has_their_number(package, data, tmp_path):
    sampling = replace(package.spec.sampling, default_sampler="ddim", default_steps=50)
    slow = replace(package, spec=replace(package.spec, sampling=sampling))
    job = Job()
    index = make_samples(slow, data, tmp_path / "default", Settings(arms=("nodule",)), run=job)
    assert {r.steps for r in job.requests} == {50}
    assert json.loads(index.read_text(encoding="utf-8"))["settings"]["steps"] == 50
    # A folder of 20 steps is gone on with when 20 are asked for, and not mixed with others.
    make_samples(slow, data, tmp_path / "older", Settings(arms=("nodule",), steps=20), run=job)
    with pytest.raises(BadInput, match="their settings") as error:
        make_samples(slow, data, tmp_path / "older", Settings(arms=("nodule",)), run=job)
    assert "--steps 20" in error.value.hint
    made = len(job.requests)
    make_samples(slow, data, tmp_path / "older", Settings(arms=("nodule",), steps=20), run=job)
    assert len(job.requests) == made == 10


def test_samples_of_another_kind_are_not_mixed(package, data, tmp_path):
    make_samples(package, data, tmp_path, Settings(arms=("nodule",), steps=20), run=Job())
    with pytest.raises(BadInput, match="another kind: their settings"):
        make_samples(package, data, tmp_path, Settings(arms=("nodule",), steps=5), run=Job())
    make_samples(package, data, tmp_path, Settings(arms=("anatomy",), steps=20), run=Job())  # another arm is welcome
    assert set(load_samples(tmp_path, package, data)[0]) == {"nodule", "anatomy"}


@pytest.mark.parametrize(
    "settings, says",
    [
        (Settings(arms=("nodul",)), "'nodul' is no arm"),
        (Settings(seeds=0), "0 seeds"),
        (Settings(sampler="ddin"), "Unknown sampler 'ddin'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(package, data, tmp_path, settings, says):
    with pytest.raises(BadInput, match=says):
        make_samples(package, data, tmp_path / "out", settings, run=Job())
    assert not (tmp_path / "out").exists()


def test_a_model_that_has_seen_a_patient_is_refused(package, prepared):
    test = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]["test"]
    for entry in (test[0], test[0].split("_")[0]):  # a case's name, or the patient's
        training = replace(package.spec.training, split={"train": ("p0_a", entry)})
        with pytest.raises(BadInput, match="used to train the model"):
            cases.load_evaluation_data(prepared, replace(package.spec, training=training))
    silent = replace(package.spec, training=replace(package.spec.training, split={}))
    with pytest.raises(BadInput, match="does not say which cases"):
        cases.load_evaluation_data(prepared, silent)


@pytest.mark.parametrize("what", ["patient", "image_sha256"])
def test_a_data_set_with_one_patient_or_image_in_two_parts_is_refused(package, prepared, what):
    description = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    train, test = (description["split"][part][0] for part in ("train", "test"))
    description["cases"][test][what] = description["cases"][train][what]
    with pytest.raises(BadInput, match="The data set leaks"):
        cases.check_leak(description, {"train": ("x",)}, "test")


def test_data_that_cannot_be_evaluated_is_refused(package, prepared, tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        cases.load_evaluation_data(tmp_path / "none", package.spec)
    with pytest.raises(BadInput, match="not a prepared data set"):
        cases.load_evaluation_data(tmp_path, package.spec)
    with pytest.raises(BadInput, match="no part"):
        cases.load_evaluation_data(prepared, package.spec, "tests")
    with pytest.raises(BadInput, match="used to make models"):
        cases.load_evaluation_data(prepared, package.spec, "validation")
    few = write_prepared(tmp_path / "few", (6, 5, 4))
    with pytest.raises(BadInput, match="has 4 cases"):
        cases.load_evaluation_data(few, package.spec)
    few_to_compare = write_prepared(tmp_path / "few to compare", (6, 4, 5))
    trained_on_one = replace(package.spec, training=replace(package.spec.training, split={"train": ("p0_a",)}))
    with pytest.raises(BadInput, match="'validation' has fewer than 5"):
        cases.load_evaluation_data(few_to_compare, trained_on_one)


def test_facts_of_the_training_images_are_measured(data):
    facts = data.summary()["training_facts"]
    assert facts["outside_fraction"] == 0.0 and facts["most_targets"] == 1 and facts["shape"] == [24, 24, 24]
    low, middle, high = facts["center_offset_mm"]
    assert 0 <= low <= middle <= high < 4
    assert facts["minimum"] == min(c.image.array.min() for c in data.training)


def test_the_offset_of_a_target_is_that_of_its_box(data):
    """A box of 3 x 5 x 3 voxels of 1 x 1 x 2 mm, with its middle 3 voxels, 0 and 2 voxels from the volume's: 5 mm."""
    classes = np.zeros((21, 21, 21), np.uint8)
    classes[12:15, 8:13, 11:14] = 4
    case = replace(data.training[0], classes=Volume(classes, np.diag([1.0, 1.0, 2.0, 1.0])))
    assert cases.center_offset_mm(case, 4) == pytest.approx(5.0)


def test_real_jobs_fit_the_requests(package, data, tmp_path, monkeypatch):
    """One volume of each arm through the real `jobs.run`, with the tiny network."""
    from SynthDiffusionLib.backends import patch_ddpm

    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    one = replace(data, evaluated=data.evaluated[:1])
    make_samples(package, one, tmp_path, Settings(steps=1, device="cpu"))
    index = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))
    assert [e["arm"] for e in index["samples"]] == list(arms_of(package.spec)) and not index["skipped"]
    real = one.evaluated[0].image.array
    inpainted = read_volume(tmp_path / next(e["file"] for e in index["samples"] if e["arm"] == "inpainting")).array
    assert 0.01 < (inpainted != real).mean() < 0.9
