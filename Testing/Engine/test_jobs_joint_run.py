"""The joint mode: what a run writes, and that it can be made again."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from command_process import environment, labels, save
from tiny_package import make_working_package
from tiny_slice_ldm import EXTENT, SHAPE, SPACING, make_joint_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.jobs import GenerateRequest, run, runner
from SynthDiffusionLib.jobs.command_line import command_line
from SynthDiffusionLib.jobs.joint import (
    ball_surface,
)
from SynthDiffusionLib.jobs.previews import Previews
from SynthDiffusionLib.jobs.tumour import tumour_values
from SynthDiffusionLib.labels.characteristics import measure
from SynthDiffusionLib.models import SegmenterSpec, load_package
from SynthDiffusionLib.schemas import first_problem
from SynthDiffusionLib.volumes import read_segmentation, read_volume, same_grid
from SynthDiffusionLib.volumes.digests import mask_sha256

ROOT = Path(__file__).resolve().parents[2]
FULL = {"volume_mm3": 20000.0, "sphericity": 0.75, "center": (0.0, 10.0, -5.0), "box": (40.0, 30.0, 50.0)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("joint place")
    make_joint_package(folder / "models" / "tiny-joint")
    make_joint_package(folder / "models" / "tiny-empty", id="tiny-empty", mask_bias=-100.0)
    make_joint_package(folder / "models" / "tiny-full", id="tiny-full", mask_bias=100.0)
    make_working_package(folder / "models" / "tiny-ct")
    save(folder / "seg.nii.gz", labels())
    return folder


@pytest.fixture
def models(place, monkeypatch) -> Path:
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(place / "models"))
    return place


def make(out: Path, model: str = "tiny-joint", events: list | None = None, previews=None, **fields):
    asked = {"mode": "joint", "precision": "fp32", "device": "cpu", "seed": 11} | fields
    return run(
        GenerateRequest(None, model, out, **asked),
        events.append if events is not None else lambda e: None,
        previews=previews,
    )


@pytest.fixture(scope="module")
def sample(place, tmp_path_factory):
    """One run of two samples: the result, its events and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHDIFFUSION_MODELS", str(place / "models"))
        out, events = tmp_path_factory.mktemp("out"), []
        result = make(out, events=events, tumour=FULL | {"volume_mm3": 15000.0}, samples=2)
    return result, events, out


def test_volume_and_segmentation_lie_on_one_grid(sample):
    result, _, out = sample
    assert {p.name for p in out.iterdir()} == {
        f"joint_tiny-joint_seed{seed}.{end}" for seed in (11, 12) for end in ("nii.gz", "seg.nrrd", "json", "png")
    }
    for output in result.outputs:
        volume, drawn = read_volume(output["volume"]), read_segmentation(output["segmentation"])
        assert volume.shape == drawn.shape == SHAPE and volume.array.dtype == np.int16
        assert same_grid(volume.shape, volume.affine, drawn.shape, drawn.affine)
        np.testing.assert_allclose(volume.spacing, SPACING)
        middle = volume.affine @ [*((np.array(SHAPE) - 1) / 2), 1.0]
        np.testing.assert_allclose(middle[:3], 0.0, atol=1e-4)
        (segment,) = drawn.segments
        assert (segment.name, segment.value) == ("tumour", 7) and segment.type.value == "108369006"
        assert segment.category.value == "49755003"
        assert set(np.unique(drawn.layers[0])) == {0, 7}
        # Read by a library that does not share our code: the same voxels in the same place.
        image, mask = sitk.ReadImage(str(output["volume"])), sitk.ReadImage(str(output["segmentation"]))
        np.testing.assert_allclose(image.GetOrigin(), mask.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), mask.GetDirection(), atol=1e-6)
        assert image.GetSize() == mask.GetSize()
        assert np.array_equal(sitk.GetArrayFromImage(mask).T, drawn.layers[0])


def test_what_is_written_is_marked_synthetic(sample):
    output = sample[0].outputs[0]
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(output["segmentation"]))
    reader.ReadImageInformation()
    assert reader.GetMetaData("SynthDiffusion.Synthetic") == "YES"
    assert "tiny-joint" in reader.GetMetaData("SynthDiffusion.Model")
    assert b"SYNTHETIC" in nib.load(output["volume"]).header["descrip"].tobytes()


def test_the_provenance_says_what_was_asked_drawn_used_and_made(sample):
    result, events, _ = sample
    records = [json.loads(o["provenance"].read_text(encoding="utf-8")) for o in result.outputs]
    for output, record in zip(result.outputs, records):
        assert first_problem(record, "provenance") is None
        tumour = record["settings"]["tumour"]
        assert tumour["asked"] == tumour_values(FULL | {"volume_mm3": 15000.0})
        assert tumour["drawn"] == ["surface_mm2"]
        assert tumour["used"]["surface_mm2"] == pytest.approx(ball_surface(15000.0) / 0.75, rel=1e-4)
        drawn = read_segmentation(output["segmentation"])
        found = measure(drawn.layers[0] > 0, drawn.affine)
        assert record["measured"] == pytest.approx(found, rel=1e-5)
        assert record["synthetic"] and not record["contains_real_patient_pixels"] and record["inputs"] == {}
    assert records[0]["measured"] != records[1]["measured"]
    pieces = [e["message"] for e in events if e["event"] == "warning" and "pieces" in e["message"]]
    assert [m.split(":")[0] for m in pieces] == ["Seed 11", "Seed 12"]
    assert (
        set(pieces) <= set(result.notes) and pieces[0] in records[0]["notes"] and pieces[1] not in records[0]["notes"]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["settings"].pop("tumour"),
        lambda record: record["settings"]["tumour"]["used"].pop("sphericity"),
        lambda record: record["settings"]["tumour"]["asked"].update(colour=3),
        lambda record: record["measured"].pop("sphericity"),
        lambda record: record["settings"].update(mode="whole"),
    ],
)
def test_the_schema_sees_what_is_missing(sample, change):
    record = json.loads(sample[0].outputs[0]["provenance"].read_text(encoding="utf-8"))
    change(record)
    assert first_problem(record, "provenance") is not None


def test_the_record_says_which_mask_is_the_models(sample):
    output = sample[0].outputs[0]
    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    made = read_segmentation(output["segmentation"], empty=True)
    assert record["masks"] == {"segmentation_sha256": mask_sha256(made.layers[0], made.affine)}


def test_the_same_seed_gives_the_same_voxels_and_the_tumour_matters(models, tmp_path):
    def voxels(name: str, **fields) -> tuple[bytes, bytes]:
        (output,) = make(tmp_path / name, **fields).outputs
        return read_volume(output["volume"]).array.tobytes(), read_segmentation(output["segmentation"]).layers[
            0
        ].tobytes()

    first = voxels("a")
    assert voxels("b") == first
    assert voxels("c", seed=12) != first
    asked = voxels("d", tumour={"sphericity": 0.8, "volume_mm3": 10000.0})
    assert asked != first and voxels("e", tumour={"sphericity": 0.8, "volume_mm3": 20000.0}) != asked


def test_sample_two_is_the_first_of_the_next_seed(models, tmp_path):
    second = make(tmp_path / "two", samples=2).outputs[1]
    alone = make(tmp_path / "one", seed=12).outputs[0]
    records = [json.loads(o["provenance"].read_text(encoding="utf-8")) for o in (second, alone)]
    assert (
        records[0]["settings"] == records[1]["settings"] and records[0]["output_sha256"] == records[1]["output_sha256"]
    )


def test_the_command_makes_it_again(models, tmp_path, capsys):
    (output,) = make(tmp_path / "first", tumour={"center": (0.0, 4.0, -8.0)}, size=(20, 24, 12)).outputs
    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    arguments = command_line(record, None, tmp_path / "again")
    assert cli.main(arguments[1:]) == 0, capsys.readouterr().err
    (again,) = (tmp_path / "again").glob("*.json")
    other = json.loads(again.read_text(encoding="utf-8"))
    assert other["output_sha256"] == record["output_sha256"] and other["measured"] == record["measured"]
    assert other["settings"]["tumour"]["used"] == record["settings"]["tumour"]["used"]
    assert other["settings"]["tumour"]["drawn"] == []
    assert {p.name for p in (tmp_path / "again").iterdir()} == {p.name for p in (tmp_path / "first").iterdir()}


def test_an_empty_mask_is_written_and_said(models, tmp_path):
    events: list[dict] = []
    result = make(tmp_path, "tiny-empty", events, adherence=True)
    (output,) = result.outputs
    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    assert record["measured"] is None and first_problem(record, "provenance") is None
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(output["segmentation"]))).any()
    assert output["adherence"] is None and output["adherence_note"] == "no segmenter"
    assert any("no voxel of tumour" in note for note in result.notes)
    assert any(e["event"] == "warning" and "no voxel of tumour" in e["message"] for e in events)


def test_one_piece_needs_no_note(models, tmp_path):
    result = make(tmp_path, "tiny-full")
    assert not [note for note in result.notes if "piece" in note or "voxel" in note]


def test_adherence_is_that_of_the_samples_own_mask(models, tmp_path, monkeypatch):
    """The mask is the whole grid and the segmenter marks all of its window, which is larger by what it was moved by."""
    package = load_package("tiny-full")
    segmenter = SegmenterSpec(package.spec.network, {}, {"patch": 4})
    package = replace(package, spec=replace(package.spec, segmenter=segmenter))
    monkeypatch.setattr(runner, "load_package", lambda model: package)
    monkeypatch.setattr(runner, "load_segmenter", lambda package, on_event: lambda image: np.ones(image.shape, bool))
    (output,) = make(tmp_path, "tiny-full", adherence=True).outputs
    found = output["adherence"]
    assert found["class"] == "tumour" and found["structures"] == found["found"] == 1
    assert found["drawn_ml"] == pytest.approx(math.prod(EXTENT) / 1000)
    assert found["dice"] == pytest.approx(2 * found["drawn_ml"] / (found["drawn_ml"] + found["found_ml"]), abs=1e-3)
    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    assert record["adherence"] == found and record["measured"]["box_s_mm"] == EXTENT[2]


def test_previews_are_images_of_the_steps(models, tmp_path):
    events: list[dict] = []
    plain = make(tmp_path / "plain", steps=4).outputs[0]
    seen = make(tmp_path / "seen", events=events, steps=4, previews=Previews(tmp_path / "p", 2, events.append)).outputs[
        0
    ]
    shown = [e["path"] for e in events if e["event"] == "preview"]
    assert len(shown) == 2 and all(read_volume(Path(p)).shape == SHAPE for p in shown)
    assert np.array_equal(read_volume(plain["volume"]).array, read_volume(seen["volume"]).array)


def test_the_contact_sheet_shows_the_mask(sample):
    from PIL import Image

    with Image.open(sample[0].outputs[0]["contact_sheet"]) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert ((np.abs(pixels - [229, 51, 51]) <= 1).all(-1)).sum() > 500  # the class's own colour, undiluted


@pytest.mark.parametrize("model", ["tiny-joint", "tiny-empty"])
def test_the_scene_holds_the_segmentation(models, tmp_path, model):
    if importlib.util.find_spec("slicer_core") is None and importlib.util.find_spec("slicer") is None:
        pytest.skip("needs the extra slicer")

    (output,) = make(tmp_path, model, scene=True).outputs
    with zipfile.ZipFile(output["scene"]) as archive:
        names = archive.namelist()
        scene = next(archive.read(n).decode("utf-8") for n in names if n.endswith(".mrml"))
    held = int(model == "tiny-joint")  # an empty one is left out
    assert sum(n.endswith(".seg.nrrd") for n in names) == held == ("synthetic segmentation" in scene)
    assert any(n.endswith(".nrrd") and "seg" not in n for n in names)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", "tiny-ct", "--mode", "joint"], 2, "has no mode 'joint'. It can do: whole, inpaint"),
        (["seg.nii.gz", "--model", "tiny-joint", "--mode", "joint"], 2, "makes the segmentation itself"),
        (["seg.nii.gz", "--model", "tiny-joint"], 2, "has no mode 'whole'. It makes the drawing itself"),
        (["--model", "tiny-joint", "--tumour", "volum_mm3=3"], 2, "Did you mean 'volume_mm3'"),
        (["--model", "tiny-joint", "--tumour", "sphericity=1.2"], 2, "at most 1"),
        (["--model", "tiny-joint", "--guidance", "2"], 2, "trained with its condition only"),
        (["--model", "tiny-ct"], 2, "has no mode 'unconditional'"),
        (["--model", "tiny-joint", "--seed", "1", "--device", "cpu"], 0, ""),
        (["--model", "tiny-joint", "--seed", "1", "--device", "cpu", "--tumour", "center=-5x0x3"], 0, ""),
    ],
)
def test_the_command_line(models, tmp_path, capsys, arguments, code, says):
    arguments = [str(models / a) if a.endswith(".gz") else a for a in arguments]
    assert cli.main(["generate", *arguments, "--out", str(tmp_path)]) == code
    out = capsys.readouterr()
    assert says in out.err
    assert code or (tmp_path / "joint_tiny-joint_seed1.seg.nrrd").is_file()


def test_a_model_without_the_mode_is_refused(models, tmp_path):
    with pytest.raises(ModelError, match="no mode 'joint'"):
        make(tmp_path, "tiny-ct")


@pytest.mark.parametrize(("tumour", "code"), [({"volume_mm3": 15000.0}, 0), ({"sphericity": 2.0}, 2)])
def test_the_preflight_says_what_the_run_says_without_torch(models, tmp_path, tumour, code):
    request = GenerateRequest(None, "tiny-joint", tmp_path / "out", "joint", tumour=tumour, seed=3, samples=3)
    request.save(tmp_path)
    text = (
        "import sys; from SynthDiffusionLib.jobs.preflight import main\n"
        f"code = main([{str(tmp_path)!r}, '--device', 'cpu', '--device-name', 'x', '--free-bytes', '{8 * 1024**3}'])\n"
        # What is refused is refused without torch. A package that is not in the table of traced peaks needs it.
        "assert code == 0 or not {'torch', 'monai', 'skimage'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env=environment(models),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    event = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == code, done.stderr
    if code:
        assert event["kind"] == "bad_input" and "at most 1" in event["message"]
    else:
        assert event["grid"] == list(SHAPE) and event["evaluations"] == 3 * 2


def test_a_mask_that_is_far_from_what_was_told_is_noted():
    """Twice the volume and 20 mm are the limits; a mask that reaches the end of the volume is cut."""
    from types import SimpleNamespace

    from SynthDiffusionLib.jobs.synthesis import joint_findings

    mask = np.zeros((40, 40, 40), np.uint8)
    mask[10:20, 10:20, 10:20] = 1  # 1 ml, its middle 14.5
    volume = SimpleNamespace(affine=np.eye(4))
    spec = SimpleNamespace(
        characteristics=SimpleNamespace(target="tumour"), label_scheme={"tumour": SimpleNamespace(value=1)}
    )

    def notes(volume_mm3: float, right: float, mask: np.ndarray = mask) -> list[str]:
        made = measure(mask == 1, np.eye(4))
        used = {"volume_mm3": volume_mm3, "center_r_mm": made["center_r_mm"] + right}
        used |= {name: made[name] for name in ("center_a_mm", "center_s_mm")}
        return joint_findings(spec, SimpleNamespace(class_map=mask, volume=volume), used)[1]

    assert notes(1900.0, 19.0) == []
    assert notes(4000.0, 0.0) == ["The tumour has 1 ml, 0.25 times the 4 ml that the model was told"]
    assert notes(1000.0, 25.0) == ["The tumour lies 25 mm from where the model was told"]
    at_the_end = np.roll(mask, 20, 2)
    assert notes(1000.0, 0.0, at_the_end) == ["The tumour reaches the end of the volume, where it is cut off"]


def test_a_place_with_commas_is_explained(capsys):
    assert cli.main(["generate", "--model", "limb-tumour-mr", "--out", "x", "--tumour", "center=10,0,-15"]) != 0
    assert "joined by x, as in --tumour volume_mm3=" in capsys.readouterr().err
