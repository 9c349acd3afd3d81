"""Adherence of one sample: the same Dice that another library finds in the written file, and never a reason to fail."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.distance import dice as dice_dissimilarity
from tiny_package import DESCRIPTION, ROLES, Painter, edit_description, make_working_package

from SynthDiffusionLib.backends import patch_ddpm
from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.evaluation import adherence as evaluation
from SynthDiffusionLib.jobs import GenerateRequest, run, runner
from SynthDiffusionLib.models import load_package, seal_package

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
CHANNELS = [4, 8]
LUNG, NODULE, REMOVE = 2, 4, 5


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A working package whose segmenter has random weights that mark about half of all voxels."""
    import torch
    from safetensors.torch import save_file

    from SynthDiffusionLib.networks.segmenter import build_segmenter

    folder = make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder
    raw = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = build_segmenter(CHANNELS)
    weights = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    save_file(weights, folder / "segmenter.safetensors")
    description = {k: v for k, v in raw.items() if k not in ("files", "format")}
    description["segmenter"] = {"network": {"class": "UNet", "channels": CHANNELS}, "measured": {}, "patch": 16}
    description["measured"] = {
        "quality": {"adherence": {"real": {"dice": 0.68, "ratio": 1.0}, "ball": {"dice": 0.42}}},
        "performance": {},
    }
    seal_package(folder, description, ROLES)
    return folder


@pytest.fixture
def model(package, monkeypatch) -> str:
    """The model, on grids as small as 16 voxels a side."""
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    return str(package)


@pytest.fixture
def threshold(package, monkeypatch) -> None:
    """A painted nodule (400 HU on -1000) and a segmenter that marks everything above 0 HU."""
    monkeypatch.setattr(runner, "load_backend", lambda package: Painter())
    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: lambda hu: hu > 0)


def save(path: Path, array: np.ndarray, affine=LPS) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def drawing(shape=(20, 20, 20)) -> np.ndarray:
    array = np.full(shape, LUNG, np.uint8)
    array[6:12, 7:12, 8:12] = NODULE
    return array


def read(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_the_package_segmenter_on_the_written_volume(model, package, tmp_path):
    """Where the window is the whole grid, the Dice is that of the package's segmenter on the file, counted by scipy."""
    array = np.full((27, 27, 27), LUNG, np.uint8)  # the segmenter's patch, 16, and the shifts
    array[10:17, 9:18, 11:16] = NODULE
    result = run(GenerateRequest(save(tmp_path / "seg.nii.gz", array), model, tmp_path, seed=2, adherence=True))
    (output,) = result.outputs
    found = evaluation.package_segmenter(load_package(package))(read(output["volume"]).astype(np.float32))
    target = array == NODULE
    assert 0 < found.sum() < found.size
    expected = {
        "class": "nodule",
        "dice": round(1 - dice_dissimilarity(found.ravel(), target.ravel()), 4),
        "drawn_ml": round(target.sum() / 1000, 4),
        "found_ml": round(found.sum() / 1000, 4),
        "real_dice": 0.68,
        "ball_dice": 0.42,
    }
    assert output["adherence"] == expected
    assert json.loads(output["provenance"].read_text(encoding="utf-8"))["adherence"] == expected
    assert result.to_json()["outputs"][0]["adherence"] == expected


def test_stages(model, tmp_path, threshold):
    events: list[dict] = []
    seg = save(tmp_path / "seg.nii.gz", drawing())
    run(GenerateRequest(seg, model, tmp_path, seed=2, steps=1, samples=2, adherence=True), events.append)
    stages = [(e["stage"], e.get("sample")) for e in events if e["event"] == "progress"]
    each = ["denoise", "adherence", "write"]
    assert stages == [("read", None), ("model", None), *((s, n) for n in (1, 2) for s in each)]


def test_not_asked_for(model, tmp_path):
    result = run(GenerateRequest(save(tmp_path / "seg.nii.gz", drawing()), model, tmp_path, seed=2))
    assert not {"adherence", "adherence_note"} & result.outputs[0].keys()
    assert "adherence" not in json.loads(result.outputs[0]["provenance"].read_text(encoding="utf-8"))


def test_perfect_and_on_another_grid(model, tmp_path, threshold):
    """The segmentation has half the model's voxel size and another orientation; what is drawn is found there too."""
    array = drawing((24, 24, 24))
    seg = save(tmp_path / "seg.nii.gz", array, np.diag([0.5, 0.5, 0.5, 1.0]))
    (output,) = run(GenerateRequest(seg, model, tmp_path, seed=2, adherence=True)).outputs
    assert output["adherence"]["dice"] == 1.0
    assert output["adherence"]["drawn_ml"] == pytest.approx((array == NODULE).sum() * 0.5**3 / 1000, rel=0.35)


def test_inpainted_regions_are_pooled(model, tmp_path, threshold, monkeypatch):
    """Two nodules far apart, of which the segmenter sees the larger one: Dice of the two crops together."""
    array = np.full((90, 34, 34), LUNG, np.uint8)
    array[13:21, 13:21, 13:21] = NODULE  # 8 a side
    array[70:76, 14:20, 14:20] = NODULE  # 6 a side
    image = save(tmp_path / "real.nii.gz", np.full(array.shape, -800, np.int16))
    seg = save(tmp_path / "seg.nii.gz", array)

    def segment(hu: np.ndarray) -> np.ndarray:
        marked = hu > 0
        return marked if marked.sum() > 300 else np.zeros_like(marked)

    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: segment)
    request = GenerateRequest(seg, model, tmp_path, mode="inpaint", image=image, seed=2, adherence=True)
    (output,) = run(request).outputs
    large, small = 8**3, 6**3
    found = (read(output["volume"])[:40] > 0).sum()
    assert found == pytest.approx(large, rel=0.05)
    measured = output["adherence"]
    assert measured["drawn_ml"] == round((large + small) / 1000, 4) and measured["found_ml"] == round(found / 1000, 4)
    assert measured["dice"] == pytest.approx(2 * min(found, large) / (found + large + small), abs=0.01)


def test_every_structure_is_shown_in_the_middle():
    from SynthDiffusionLib.jobs.adherence import windows

    target = np.zeros((30, 30, 30), bool)
    target[1:4, 20:25, 8:12] = True  # near a corner
    target[6:8, 22:24, 9:10] = True  # near the other one
    target[10:28, 2:4, 2:4] = True  # longer than the window
    hu = np.where(target, 40.0, np.arange(30.0)[:, None, None] - 900)
    found = list(windows(hu, target, 12))
    assert [w[0].shape for w in found] == [(12, 12, 12), (12, 12, 12), (18, 12, 12)]
    assert [int(own.sum()) for _, own, _ in found] == [60, 4, 72]
    for values, own, others in found:
        where = np.argwhere(own)
        assert np.all(np.abs((where.min(0) + where.max(0) + 1) / 2 - np.array(own.shape) / 2) <= 0.5)
        assert (values[own] == 40).all() and not (own & others).any()
    assert [int(others.sum()) > 0 for _, _, others in found] == [True, True, False]
    # Beyond the edge the last voxel is repeated, here that of the first plane.
    assert (found[0][0][:3, 0, 0] == found[0][0][3, 0, 0]).all()


def test_where_the_structure_lies_does_not_matter(model, tmp_path, threshold, monkeypatch):
    """A segmenter that looks only at the middle of its window, as one that has learnt on centred crops does."""

    def segment(hu: np.ndarray) -> np.ndarray:
        marked = np.zeros(hu.shape, bool)
        middle = tuple(slice(n // 2 - 6, n // 2 + 6) for n in hu.shape)
        marked[middle] = hu[middle] > 0
        return marked

    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: segment)
    array = np.full((40, 30, 30), LUNG, np.uint8)
    array[2:7, 3:8, 20:26] = NODULE
    array[28:33, 20:26, 4:9] = NODULE
    seg = save(tmp_path / "seg.nii.gz", array)
    (output,) = run(GenerateRequest(seg, model, tmp_path, seed=2, adherence=True)).outputs
    assert output["adherence"]["dice"] == 1.0


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_target_not_drawn(model, tmp_path, threshold, mode):
    array = np.full((40, 40, 40), LUNG, np.uint8)
    settings = {"labels": {"2": "lung"}}
    if mode == "inpaint":
        array[18:22, 18:22, 18:22] = REMOVE
        image = save(tmp_path / "real.nii.gz", np.full(array.shape, -800, np.int16))
        settings = {"image": image, "labels": {"2": "lung", "5": "remove"}}
    seg = save(tmp_path / "seg.nii.gz", array)
    (output,) = run(GenerateRequest(seg, model, tmp_path, mode=mode, seed=2, adherence=True, **settings)).outputs
    assert output["adherence"] is None and output["adherence_note"] == "the target class is not drawn"


def test_no_segmenter(tmp_path, monkeypatch):
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    plain = make_working_package(tmp_path / "tiny-ct").folder
    events: list[dict] = []
    seg = save(tmp_path / "seg.nii.gz", drawing())
    (output,) = run(GenerateRequest(seg, str(plain), tmp_path, seed=2, adherence=True), events.append).outputs
    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    for entry in (output, record):
        assert entry["adherence"] is None and entry["adherence_note"] == "no segmenter"
    assert not any("dherence" in e.get("message", "") for e in events), "that is no fault to warn of"


def test_a_segmenter_that_fails_is_a_warning(model, tmp_path, threshold, monkeypatch):
    def fail(hu: np.ndarray) -> np.ndarray:
        raise RuntimeError("no memory for it")

    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: fail)
    events: list[dict] = []
    seg = save(tmp_path / "seg.nii.gz", drawing())
    (output,) = run(GenerateRequest(seg, model, tmp_path, seed=2, adherence=True), events.append).outputs
    assert output["volume"].is_file() and output["adherence"] is None
    assert "no memory for it" in output["adherence_note"]
    assert sum("no memory for it" in e.get("message", "") for e in events) == 1


def test_weights_that_do_not_fit_are_refused_before_the_work(package, tmp_path):
    spoilt = tmp_path / "tiny-ct"
    spoilt.mkdir()
    for file in package.iterdir():
        (spoilt / file.name).write_bytes(file.read_bytes())
    edit_description(spoilt, lambda raw: raw["segmenter"]["network"].update(channels=[4, 16]))
    events: list[dict] = []
    seg = save(tmp_path / "seg.nii.gz", drawing())
    with pytest.raises(ModelError, match="segmenter"):
        run(GenerateRequest(seg, str(spoilt), tmp_path / "out", seed=2, adherence=True), events.append)
    assert not any(e.get("stage") == "denoise" for e in events) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quality", "real", "ball"),
    [({}, None, None), ({"adherence": {"real": {"dice": 0.5}}}, 0.5, None), ({"adherence": {"ball": 3}}, None, None)],
)
def test_figures_that_were_not_measured(package, tmp_path, threshold, quality, real, ball):
    copy = tmp_path / "tiny-ct"
    copy.mkdir()
    for file in package.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    edit_description(copy, lambda raw: raw["measured"].update(quality=quality))
    seg = save(tmp_path / "seg.nii.gz", drawing())
    (output,) = run(GenerateRequest(seg, str(copy), tmp_path, seed=2, adherence=True)).outputs
    assert (output["adherence"]["real_dice"], output["adherence"]["ball_dice"]) == (real, ball)


def test_the_shipped_model_has_its_figures():
    from SynthDiffusionLib.jobs.adherence import adherence_of
    from SynthDiffusionLib.volumes import Volume

    spec = load_package("lung-nodule-ct", verify=False).spec
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[3:6, 3:6, 3:6] = spec.label_scheme["nodule"].value
    entry = adherence_of(lambda: [(Volume(classes, LPS), classes)], spec, lambda hu: hu > 0, print)["adherence"]
    measured = spec.raw["measured"]["quality"]["adherence"]
    assert entry["dice"] == 1.0 and entry["class"] == DESCRIPTION["target_class"]
    assert (entry["real_dice"], entry["ball_dice"]) == (measured["real"]["dice"], measured["ball"]["dice"])
