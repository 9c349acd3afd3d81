"""`jobs.run` on whole volumes: what is written, that it can be made again, and that it lies in the right place."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tiny_package import Painter, make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.backends import patch_ddpm
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs import GenerateRequest, run, runner
from SynthDiffusionLib.volumes import Segment, Segmentation, write_segmentation

BODY, LUNG, BONE, NODULE = 1, 2, 3, 4
HU_BETWEEN = -300.0  # half-way between what `Painter` gives the nodule (400) and everything else (-1000)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder


@pytest.fixture
def model(package, monkeypatch) -> str:
    """The model, on grids as small as 16 voxels a side."""
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    return str(package)


@pytest.fixture
def painter(package, monkeypatch) -> Painter:
    """Stands for the network: what it paints shows where every class has ended up."""
    fake = Painter()
    monkeypatch.setattr(runner, "load_backend", lambda package: fake)
    return fake


def nested(shape=(14, 14, 14)) -> np.ndarray:
    """Body with a lung with a nodule, none of them in the middle."""
    array = np.full(shape, BODY, np.uint8)
    array[2:12, 3:13, 2:12] = LUNG
    array[4:8, 5:9, 4:8] = NODULE
    return array


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, descrip: str = "") -> Path:
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header["descrip"] = descrip.encode()
    nib.save(image, path)
    return path


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def positions(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """RAS mm of the voxels of a mask, by nibabel."""
    return nib.affines.apply_affine(affine, np.argwhere(mask))


# What is written.


def test_names_and_contents_of_the_outputs(model, tmp_path):
    seg = save(tmp_path / "case 7.nii.gz", nested())
    result = run(GenerateRequest(seg, model, tmp_path / "out", seed=5))
    stem = "case 7_tiny-ct_seed5"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{stem}.nii.gz", f"{stem}.json", f"{stem}.png"}
    (output,) = result.outputs
    assert [output[k].name for k in ("volume", "provenance", "contact_sheet")] == [
        f"{stem}.nii.gz",
        f"{stem}.json",
        f"{stem}.png",
    ]
    volume = nib.load(output["volume"])
    assert b"SYNTHETIC" in volume.header["descrip"].item() and volume.get_data_dtype() == np.int16
    hu = voxels(output["volume"])
    assert -1000 <= hu.min() < hu.max() <= 400, "the model's range"

    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    assert record["synthetic"] is True and record["contains_real_patient_pixels"] is False
    assert "Not for diagnosis" in record["notice"]
    assert record["settings"] == {"mode": "whole", "sampler": "ddim", "steps": 2, "seed": 5, "guidance": 1.0}
    assert record["model"]["id"] == "tiny-ct" and len(record["model"]["files"]["denoiser.safetensors"]) == 64
    assert record["given_classes"] == ["body", "lung", "nodule"]
    assert {e["class"]: e["voxels"] for e in record["mapping"]["segments"]} == {
        "body": 14**3 - 1000,
        "lung": 1000 - 64,
        "nodule": 64,
    }
    assert record["plan"]["device"] == "cpu" and record["plan"]["precision"] in ("fp32", "bf16")
    assert record["plan"]["grid"] == [16, 16, 16]
    assert set(record["software"]["libraries"]) >= {"torch", "monai", "diffusers", "numpy"}
    picture = Image.open(output["contact_sheet"])
    assert picture.text["Description"].startswith("SYNTHETIC. ")
    assert picture.format == "PNG" and min(picture.size) > 200 and len(np.unique(np.asarray(picture))) > 20


def test_a_voxel_larger_than_the_grid_is_refused(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested(), np.diag([70.0, 70.0, 70.0, 1.0]))
    for crop in (True, False):
        with pytest.raises(BadInput, match="One voxel of the segmentation" if crop else "at most"):
            run(GenerateRequest(seg, model, tmp_path / "out", seed=1, crop=crop))


def test_too_few_steps_for_a_sampler_are_pointed_out(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    for sampler, steps, warned in (("ddim", 2, True), ("ddim", 50, False), ("dpmpp-2m", 2, False)):
        events = []
        request = GenerateRequest(seg, model, tmp_path / "out", sampler=sampler, steps=steps, seed=1)
        result = run(request, events.append)
        assert any("too smooth" in note for note in result.notes) == warned
        assert any("too smooth" in e.get("message", "") for e in events) == warned


def test_classes_that_are_taken_away_are_reported_as_left_out(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    result = run(GenerateRequest(seg, model, tmp_path / "out", seed=1, classes=("nodule",)))
    assert {s["value"]: s["class"] for s in result.mapping["segments"]} == {1: None, 2: None, 4: "nodule"}
    assert "label 1 and label 2 left out" in result.notes


@pytest.mark.parametrize("fmt", ["nii.gz", "nrrd"])
def test_nothing_of_the_input_files_but_the_case_name_gets_out(model, tmp_path, fmt):
    folder = tmp_path / "Ward-Nine"
    folder.mkdir()
    seg = save(folder / "case.nii.gz", nested(), descrip="DOE^JANE 1961-02-03")
    image = save(folder / "Jane-Doe.nii.gz", np.full((14, 14, 14), -700, np.int16), descrip="DOE^JANE 1961-02-03")
    for extra in ({}, {"mode": "inpaint", "image": image}):
        run(GenerateRequest(seg, model, tmp_path / "out", seed=1, format=fmt, **extra))
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 3 + 4
    secrets = re.compile(rb"doe|jane|1961|ward-nine|" + re.escape(os.fsencode(tmp_path.name)), re.IGNORECASE)
    assert secrets.search(gzip.decompress(seg.read_bytes())), "the input has something to give away"
    for path in files:
        data = path.read_bytes()
        for content in (data, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else b""):
            found = secrets.search(content)
            assert not found, f"{path.name}: {found}"


def test_the_last_line_of_json_output(model, tmp_path, capsys):
    seg = save(tmp_path / "case.nii.gz", nested())
    out = tmp_path / "out"
    arguments = ["generate", str(seg), "--model", model, "--out", str(out), "--seed", "2", "--samples", "2"]
    assert cli.main([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert [o["seed"] for o in result["outputs"]] == [2, 3]
    assert all(Path(o[k]).is_file() for o in result["outputs"] for k in ("volume", "provenance", "contact_sheet"))
    assert result["mapping"]["left_out"] == [] and result["seconds"] > 0
    assert "synthesising" not in said.err, "no progress beside JSON"
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [o["volume"] for o in result["outputs"]]
    assert "synthesising: step 4 of 4" in said.err


def test_events_count_up_to_the_end(model, tmp_path):
    events = []
    seg = save(tmp_path / "case.nii.gz", nested())
    run(GenerateRequest(seg, model, tmp_path / "out", seed=2, samples=2, steps=3), events.append)
    steps = [e for e in events if e.get("stage") == "denoise"]
    assert [(e["step"], e["total"]) for e in steps] == [(n, 6) for n in range(1, 7)]
    assert all(e["eta_s"] >= 0 for e in steps)
    assert events[-1]["event"] == "done" and len(events[-1]["outputs"]) == 2
    assert json.loads(json.dumps(events)) == events
    run(GenerateRequest(seg, model, tmp_path / "one", seed=2, steps=3), events.append)
    last = [e for e in events if e.get("stage") == "denoise"][-1]
    assert last["eta_s"] == 0, "nothing is known yet of the time that writing takes"


# Made again.


@pytest.mark.parametrize("extra", [{}, {"sampler": "ddpm", "format": "nrrd"}, {"mode": "inpaint"}], ids=str)
def test_the_same_request_gives_the_same_bytes(model, tmp_path, extra):
    seg = save(tmp_path / "case.nii.gz", nested())
    if extra.get("mode") == "inpaint":
        noise = np.random.default_rng(0).normal(-600, 200, (14, 14, 14)).astype(np.int16)
        extra = {**extra, "image": save(tmp_path / "ct.nii.gz", noise)}
    for out in ("a", "b"):
        run(GenerateRequest(seg, model, tmp_path / out, seed=9, **extra))
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert len(first) == (4 if "image" in extra else 3) and first == second


def test_seeds_and_samples(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    three = run(GenerateRequest(seg, model, tmp_path / "three", seed=7, samples=3))
    assert [o["seed"] for o in three.outputs] == [7, 8, 9]
    for output in three.outputs:
        assert json.loads(output["provenance"].read_text())["settings"]["seed"] == output["seed"]
        assert f"seed{output['seed']}" in output["volume"].name
    one, two, last = (voxels(o["volume"]).astype(float) for o in three.outputs)
    for a, b in itertools.combinations((one, two, last), 2):
        assert np.abs(a - b).mean() > 50, "HU by which volumes of two seeds differ"
    alone = run(GenerateRequest(seg, model, tmp_path / "alone", seed=8))
    assert alone.outputs[0]["volume"].read_bytes() == three.outputs[1]["volume"].read_bytes()


def test_a_seed_is_drawn_and_recorded_when_none_is_given(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    drawn = [run(GenerateRequest(seg, model, tmp_path / "out", steps=1)).outputs[0] for _ in range(2)]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    again = run(GenerateRequest(seg, model, tmp_path / "again", steps=1, seed=drawn[0]["seed"])).outputs[0]
    assert again["volume"].read_bytes() == drawn[0]["volume"].read_bytes()


# The right place.

ALL_CODES = [
    "".join(codes[axis] for axis in order)
    for codes in itertools.product("RL", "AP", "SI")
    for order in itertools.permutations(range(3))
]
GRIDS = [
    ((0.7, 1.1, 2.3), (11.0, -7.0, 19.0), (32, 24, 13)),
    ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (30, 26, 24)),
    ((2.5, 0.8, 0.9), (-24.0, 13.0, 5.0), (14, 30, 29)),
]


@pytest.mark.parametrize(("number", "codes"), list(enumerate(ALL_CODES[1::4])))
def test_classes_lie_where_they_were_drawn(painter, package, tmp_path, number, codes, oblique_affine):
    assert len(set(ALL_CODES)) == 48
    spacing, angles, shape = GRIDS[number % 3]
    affine = oblique_affine(codes, spacing, angles)
    centre = nib.affines.apply_affine(affine, np.array(shape) * (0.4, 0.6, 0.45))
    world = nib.affines.apply_affine(affine, np.stack(np.indices(shape), -1))
    # Three different half-axes in world space, so that no swap of axes goes unseen.
    drawn = (((world - centre) / (8.0, 6.0, 4.5)) ** 2).sum(-1) <= 1
    seg = save(tmp_path / "case.nii.gz", np.where(drawn, NODULE, BODY).astype(np.uint8), affine)
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1))

    condition = painter.conditions[0]
    inside = positions(np.asarray(condition.class_map) == NODULE, condition.affine)
    drawn_at = positions(drawn, affine)
    assert nib.aff2axcodes(condition.affine) == ("L", "P", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(condition.affine), 1.0, atol=1e-6)
    assert np.linalg.norm(inside.mean(0) - drawn_at.mean(0)) < 0.7
    assert len(inside) == pytest.approx(drawn.sum() * np.prod(spacing), rel=0.15), "its volume in mm3"

    volume = nib.load(result.outputs[0]["volume"])
    assert volume.shape == shape
    np.testing.assert_allclose(volume.affine, nib.load(seg).affine, atol=1e-4)
    placed = voxels(result.outputs[0]["volume"]) > HU_BETWEEN
    dice = 2 * (placed & drawn).sum() / (placed.sum() + drawn.sum())
    assert dice > 0.85, dice
    assert np.linalg.norm(positions(placed, volume.affine).mean(0) - drawn_at.mean(0)) < 0.7
    itk = sitk.ReadImage(str(result.outputs[0]["volume"]))
    corner = [n - 1 for n in shape]
    np.testing.assert_allclose(
        np.array(itk.TransformIndexToPhysicalPoint(corner)) * (-1, -1, 1), world[tuple(corner)], atol=1e-3
    )


@pytest.mark.parametrize("fmt", ["nii.gz", "nrrd"])
def test_both_formats_have_the_same_geometry_and_voxels(painter, package, tmp_path, fmt, oblique_affine):
    affine = oblique_affine("PIR")
    seg = save(tmp_path / "case.nii.gz", nested((20, 18, 14)), affine)
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1, format=fmt))
    itk = sitk.ReadImage(str(result.outputs[0]["volume"]))
    assert itk.GetSize() == (20, 18, 14)
    for index in ((0, 0, 0), (19, 0, 3), (4, 17, 13)):
        expected = nib.affines.apply_affine(affine, index) * (-1, -1, 1)
        np.testing.assert_allclose(itk.TransformIndexToPhysicalPoint(index), expected, atol=1e-3)
    assert itk[5, 6, 5] > HU_BETWEEN > itk[15, 3, 12]


@pytest.mark.parametrize(
    ("codes", "angles"), [("LIP", (11.0, -7.0, 19.0)), ("PSR", (0.0, 0.0, 0.0)), ("IRP", (45.0, 45.0, 0.0))]
)
def test_crop_keeps_a_part_of_the_grid_with_the_nodule(painter, package, tmp_path, codes, angles, oblique_affine):
    affine = oblique_affine(codes, (0.9, 1.2, 1.5), angles)
    array = np.full((80, 40, 60), LUNG, np.uint8)
    array[60:66, 20:26, 8:12] = NODULE  # far from the middle
    seg = save(tmp_path / "case.nii.gz", array, affine)
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1, crop=True))
    volume = nib.load(result.outputs[0]["volume"])
    assert all(n * s <= 40.5 for n, s in zip(volume.shape, (0.9, 1.2, 1.5)))
    assert all(n * s > 38 for n, s in zip(volume.shape, (0.9, 1.2, 1.5))), "no smaller than it has to be"
    shift = np.linalg.inv(affine) @ volume.affine
    np.testing.assert_allclose(shift[:3, :3], np.eye(3), atol=1e-5)
    start = np.rint(shift[:3, 3]).astype(int)
    np.testing.assert_allclose(shift[:3, 3], start, atol=1e-3)
    inside = array[tuple(slice(a, a + n) for a, n in zip(start, volume.shape))] == NODULE
    assert inside.shape == volume.shape and inside.sum() == (array == NODULE).sum()
    placed = voxels(result.outputs[0]["volume"]) > HU_BETWEEN
    assert 2 * (placed & inside).sum() / (placed.sum() + inside.sum()) > 0.85
    assert any("was cropped to" in note for note in result.notes)
    assert json.loads(result.outputs[0]["provenance"].read_text())["settings"]["crop"] is True


def test_a_drawing_smaller_than_a_voxel_of_the_model_is_said_to_be_lost(painter, package, tmp_path):
    array = np.full((60, 60, 60), LUNG, np.uint8)
    array[30, 30, 30] = NODULE
    seg = save(tmp_path / "case.nii.gz", array, np.diag([0.2, 0.2, 0.2, 1.0]))
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1))
    assert "Too small for the model's voxels, and ignored: nodule" in result.notes
    assert painter.conditions[0].given == ("lung",)


# Classes.


def test_classes_that_are_not_wanted_leave_no_hole(painter, package, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    for wanted in (("lung",), ("nodule",), ("body",), ("body", "nodule")):
        run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1, classes=wanted))
        condition = painter.conditions[-1]
        assert condition.given == wanted
        drawn = nib.as_closest_canonical(nib.Nifti1Image(nested(), np.eye(4))).get_fdata()
        outlines = {"body": drawn > 0, "lung": np.isin(drawn, (LUNG, NODULE)), "nodule": drawn == NODULE}
        for channel, label in zip(condition.channels(), condition.scheme.condition_classes):
            if label.name in wanted:
                expected = np.where(outlines[label.name][::-1, ::-1], 1, -1)  # RAS to LPS
                np.testing.assert_array_equal(channel, expected)
            else:
                assert not channel.any()


def test_explicit_map(painter, package, tmp_path):
    array = np.full((14, 14, 14), 11, np.uint8)
    array[4:8, 4:8, 4:8] = 12
    array[9, 9, 9] = 13
    seg = save(tmp_path / "case.nii.gz", array)
    labels = {"11": "lung", "12": "nodule", "13": None}
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1, labels=labels))
    counts = np.bincount(painter.conditions[0].class_map.ravel(), minlength=5)
    assert counts[LUNG] == 14**3 - 65 and counts[NODULE] == 64 and counts[0] == 1
    assert result.mapping["left_out"] == ["13"] and any("13" in note and "left out" in note for note in result.notes)


def test_a_nodule_alone(painter, package, tmp_path):
    seg = save(tmp_path / "case.nii.gz", (nested() == NODULE).astype(np.uint8))
    result = run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1))
    assert painter.conditions[0].given == ("nodule",)
    assert (painter.conditions[0].class_map == NODULE).sum() == 64
    assert any("taken as nodule" in note for note in result.notes)


def test_merged_segments_are_reported(painter, package, tmp_path, oblique_affine):
    layer = np.zeros((14, 14, 14), np.uint8)
    layer[:5], layer[8:], layer[6] = 1, 2, 3
    segments = (Segment("Left lung", 1), Segment("Right lung", 2), Segment("Heart", 3))
    path = tmp_path / "case.seg.nrrd"
    write_segmentation(Segmentation((layer,), oblique_affine("LPS", (1, 1, 1), (0, 0, 0)), segments), path)
    result = run(GenerateRequest(path, str(package), tmp_path / "out", seed=1))
    assert result.mapping["merged"] == {"lung": ["Left lung", "Right lung"]}
    assert result.mapping["left_out"] == ["Heart"]
    assert "'Left lung' and 'Right lung' -> lung (by name)" in result.notes and "'Heart' left out" in result.notes
    assert result.outputs[0]["volume"].name.startswith("case_tiny-ct"), ".seg.nrrd is no part of the case's name"


# Settings.


def test_every_sampler_draws_its_own_volume(model, package, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    made = {}
    for sampler in ("ddpm", "ddim", "dpmpp-2m", "unipc"):
        for steps in (1, 5):
            result = run(GenerateRequest(seg, model, tmp_path / f"{steps}", seed=1, sampler=sampler, steps=steps))
            array = voxels(result.outputs[0]["volume"]).astype(float)
            assert array.std() > 10
            settings = json.loads(result.outputs[0]["provenance"].read_text())["settings"]
            assert (settings["sampler"], settings["steps"]) == (sampler, steps)
            made[sampler, steps] = array
    for a, b in itertools.combinations(("ddpm", "ddim", "dpmpp-2m", "unipc"), 2):
        assert (made[a, 5] != made[b, 5]).sum() > 50, f"{a} and {b} give the same volume"


def test_guidance_changes_the_volume(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    made = {}
    for guidance in (0.0, 1.0, 3.0):
        result = run(GenerateRequest(seg, model, tmp_path / str(guidance), seed=1, guidance=guidance))
        made[guidance] = voxels(result.outputs[0]["volume"]).astype(float)
    assert np.abs(made[1.0] - made[3.0]).mean() > 1 and np.abs(made[1.0] - made[0.0]).mean() > 1
    other = save(tmp_path / "other.nii.gz", nested()[::-1].copy())
    blind = run(GenerateRequest(other, model, tmp_path / "blind", seed=1, guidance=0.0))
    np.testing.assert_array_equal(voxels(blind.outputs[0]["volume"]), made[0.0], "0 follows no drawing")


def test_the_models_guidance_is_the_default(tmp_path, painter):
    sampling = {"default_sampler": "ddim", "default_steps": 2, "samplers": ["ddim"], "default_guidance": 1.5}
    inpaint = {"margin_mm": 4.0, "max_region_mm": 40.0}
    seg = save(tmp_path / "case.nii.gz", nested())
    real = save(tmp_path / "real.nii.gz", np.full((14, 14, 14), 30, np.int16))

    def used(name, package, **settings):
        result = run(GenerateRequest(seg, str(package.folder), tmp_path / name, seed=1, **settings))
        recorded = json.loads(result.outputs[0]["provenance"].read_text())["settings"]["guidance"]
        assert recorded == painter.guidance[-1]
        return recorded

    one = make_working_package(tmp_path / "one", sampling=sampling, inpaint=inpaint)
    assert one.spec.default_guidance_text == "1.5"
    assert used("whole", one) == used("inpaint", one, mode="inpaint", image=real) == 1.5
    assert used("said", one, guidance=1.0) == 1.0
    two = make_working_package(tmp_path / "two", sampling=sampling, inpaint=inpaint | {"default_guidance": 0.5})
    assert two.spec.default_guidance_text == "1.5 (inpainting: 0.5)"
    assert used("whole of two", two) == 1.5 and used("inpaint of two", two, mode="inpaint", image=real) == 0.5


def test_a_volume_of_another_format_keeps_its_provenance(model, painter, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    run(GenerateRequest(seg, model, tmp_path / "out", seed=1, format="nrrd"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(BadInput, match=r"\.nrrd' lies there"):
        run(GenerateRequest(seg, model, tmp_path / "out", seed=1))
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    run(GenerateRequest(seg, model, tmp_path / "out", seed=1, format="nrrd"))


def test_low_precision_is_near_full_precision(model, tmp_path):
    seg = save(tmp_path / "case.nii.gz", nested())
    made = {}
    for precision in ("fp32", "bf16"):
        result = run(GenerateRequest(seg, model, tmp_path / precision, seed=1, precision=precision))
        made[precision] = voxels(result.outputs[0]["volume"]).astype(float)
        record = json.loads(result.outputs[0]["provenance"].read_text())
        assert record["plan"]["precision"] == precision
    difference = np.abs(made["fp32"] - made["bf16"]).mean()
    assert 0 < difference < 0.1 * made["fp32"].std()


def test_what_lies_outside_the_crop_is_absent_not_unknown(painter, package, tmp_path):
    array = np.full((120, 60, 60), LUNG, np.uint8)
    array[20:30, 30:40, 30:40] = NODULE
    array[100:110, 30:40, 30:40] = BONE
    seg = save(tmp_path / "case.nii.gz", array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    run(GenerateRequest(seg, str(package), tmp_path / "out", seed=1, crop=True))
    condition = painter.conditions[0]
    bone = [c.name for c in condition.scheme.condition_classes].index("bone")
    assert np.all(condition.channels()[bone] == -1)
