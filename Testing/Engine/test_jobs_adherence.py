"""Adherence of one sample: the same Dice that another library finds in the written file, and never a reason to fail."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
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
    rows = {"real": {"dice": 0.68, "ratio": 1.0}, "ball": {"dice": 0.42}, "blob_flat_lung": {"dice": 0.72}}
    description["measured"] = {"quality": {"adherence": rows}, "performance": {}}
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


def ball_in_the_middle(side: int, radius: float) -> np.ndarray:
    """A ball of a radius in voxels in a cube of an odd side."""
    return np.linalg.norm(np.indices((side,) * 3) - side // 2, axis=0) <= radius


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
        "structures": 1,
        "found": int((found & target).sum() >= 0.1 * target.sum()),
        "drawn_ml": round(target.sum() / 1000, 4),
        "found_ml": round(found.sum() / 1000, 4),
        "ball_dice": round(1 - dice_dissimilarity(ball_in_the_middle(27, 5.0).ravel(), target.ravel()), 4),
        "real_dice": 0.68,
        "cartoon_dice": 0.72,
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


def test_on_another_grid(model, tmp_path, threshold, monkeypatch):
    """The segmentation has half the model's voxel size and another orientation; what is drawn is found there too."""
    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: lambda hu: hu > -300)  # half way
    array = drawing((24, 24, 24))
    seg = save(tmp_path / "seg.nii.gz", array, np.diag([0.5, 0.5, 0.5, 1.0]))
    (output,) = run(GenerateRequest(seg, model, tmp_path, seed=2, adherence=True)).outputs
    assert output["adherence"]["dice"] > 0.9 and output["adherence"]["found"] == 1
    assert output["adherence"]["drawn_ml"] == pytest.approx((array == NODULE).sum() * 0.5**3 / 1000, rel=0.35)


def test_the_written_volume_is_measured(model, tmp_path, threshold, monkeypatch):
    """On a grid of 4 mm much of the painted nodule is lost: what SimpleITK finds in the file, on the model's grid."""
    seen: list[np.ndarray] = []

    def segment(hu: np.ndarray) -> np.ndarray:
        seen.append(hu)
        return hu > -300

    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: segment)
    array = np.full((10, 10, 10), LUNG, np.uint8)
    array[4:7, 4:7, 5:7] = NODULE
    seg = save(tmp_path / "seg.nii.gz", array, np.diag([-4.0, -4.0, 4.0, 1.0]))
    (output,) = run(GenerateRequest(seg, model, tmp_path, seed=2, adherence=True)).outputs
    written = sitk.ReadImage(str(output["volume"]), sitk.sitkFloat32)
    grid = sitk.Image(40, 40, 40, sitk.sitkFloat32)
    grid.SetOrigin([o - 1.5 for o in written.GetOrigin()])
    assert written.GetDirection() == grid.GetDirection()
    mask = sitk.GetImageFromArray((array == NODULE).astype(np.float32).transpose())
    mask.CopyInformation(written)
    fine, share = (
        sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear)).transpose()
        for image in (written, mask)
    )
    found, drawn = np.rint(fine) > -300, share >= 0.5
    expected = 1 - dice_dissimilarity(found.ravel(), drawn.ravel())
    assert 0.3 < expected < 0.9
    assert output["adherence"]["dice"] == pytest.approx(expected, abs=1e-4)
    assert output["adherence"]["found_ml"] == found.sum() / 1000
    assert output["adherence"]["drawn_ml"] == drawn.sum() / 1000
    (hu,) = seen
    assert hu.max() == pytest.approx(np.rint(fine).max(), abs=1)


def test_a_missing_structure_is_counted(model, tmp_path, monkeypatch):
    """Of a large nodule, which is painted, and a small one, which is not: 1 of 2, whatever the Dice of both."""

    class Forgetful(Painter):
        def sample(self, condition, plan, **settings) -> np.ndarray:
            values = super().sample(condition, plan, **settings)
            values[24:] = -1.0
            return values

    monkeypatch.setattr(runner, "load_backend", lambda package: Forgetful())
    monkeypatch.setattr(evaluation, "package_segmenter", lambda package: lambda hu: hu > 0)
    array = np.full((40, 24, 24), LUNG, np.uint8)
    array[4:14, 6:16, 6:16] = NODULE
    array[30:33, 8:11, 8:11] = NODULE
    seg = save(tmp_path / "seg.nii.gz", array)
    (output,) = run(GenerateRequest(seg, model, tmp_path, seed=2, adherence=True)).outputs
    measured = output["adherence"]
    assert (measured["structures"], measured["found"]) == (2, 1)
    assert measured["dice"] == round(2 * 1000 / (2 * 1000 + 27), 4) > 0.98


@pytest.mark.parametrize(("marked", "found"), [(49, 0), (50, 1)])
def test_found_is_what_the_card_counts(package, marked, found):
    """A tenth of a structure of 500 voxels."""
    from SynthDiffusionLib.jobs.adherence import adherence_of
    from SynthDiffusionLib.volumes import Volume

    spec = load_package(str(package), verify=False).spec
    classes = np.full((27, 27, 27), LUNG, np.uint8)
    classes[9:19, 9:19, 11:16] = NODULE
    hu = np.full(classes.shape, -1000.0)
    hu[tuple(np.argwhere(classes == NODULE)[:marked].T)] = 40
    view = (Volume(hu, LPS, "HU"), classes, np.ones(classes.shape, bool))
    entry = adherence_of(lambda: [view], spec, lambda hu: hu > 0, print)["adherence"]
    assert (entry["structures"], entry["found"]) == (1, found)
    assert entry["dice"] == round(2 * marked / (500 + marked), 4)


@pytest.mark.parametrize(("own", "radius"), [(None, 5.0), (8.0, 8.0)])
@pytest.mark.parametrize("half", [4, 20])
def test_the_ball_is_for_this_drawing(package, own, radius, half):
    """A cube round the ball, or one within it: 2 V / (ball + cube) with V the smaller one, by the volumes' formulas."""
    from dataclasses import replace

    from SynthDiffusionLib.jobs.adherence import adherence_of
    from SynthDiffusionLib.volumes import Volume

    spec = load_package(str(package), verify=False).spec
    details = spec.segmenter.details | ({"ball_radius_mm": own} if own else {})
    spec = replace(spec, segmenter=replace(spec.segmenter, details=details))
    classes = np.full((60, 60, 60), LUNG, np.uint8)
    classes[(slice(31 - half, 31 + half + 1),) * 3] = NODULE
    spacing = 0.5
    side = spacing * (2 * half + 1)
    assert math.sqrt(3) * side / 2 < radius or side / 2 > radius
    view = (Volume(np.zeros(classes.shape), np.diag([-spacing, -spacing, spacing, 1.0]), "HU"), classes, classes > 0)
    entry = adherence_of(lambda: [view], spec, lambda hu: hu > 0, print)["adherence"]
    cube, ball = side**3, 4 / 3 * math.pi * radius**3
    assert entry["dice"] == 0.0
    assert entry["ball_dice"] == pytest.approx(2 * min(cube, ball) / (cube + ball), abs=0.01)


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
    assert (measured["structures"], measured["found"]) == (2, 1)


def test_inpainted_neighbours_count_once(model, tmp_path, threshold):
    """Two nodules near each other, one of them at the volume's edge: a crop shows both, and air beyond the edge."""
    array = np.full((40, 34, 34), LUNG, np.uint8)
    array[0:6, 14:20, 14:20] = NODULE
    array[18:23, 14:19, 14:19] = NODULE
    image = save(tmp_path / "real.nii.gz", np.full(array.shape, -800, np.int16))
    seg = save(tmp_path / "seg.nii.gz", array)
    request = GenerateRequest(seg, model, tmp_path, mode="inpaint", image=image, seed=2, adherence=True)
    measured = run(request).outputs[0]["adherence"]
    assert (measured["structures"], measured["found"]) == (2, 2)
    assert measured["drawn_ml"] == round((array == NODULE).sum() / 1000, 4)
    assert measured["dice"] > 0.95


def test_every_structure_is_shown_in_the_middle():
    from SynthDiffusionLib.jobs.adherence import windows

    target = np.zeros((30, 30, 30), bool)
    target[1:4, 20:25, 8:12] = True  # near a corner
    target[6:8, 22:24, 9:10] = True  # near the other one
    target[10:28, 2:4, 2:4] = True  # longer than the window
    hu = np.where(target, 40.0, np.arange(30.0)[:, None, None] - 900)
    found = list(windows(hu, target, np.ones(target.shape, bool), 12))
    assert [w[0].shape for w in found] == [(12, 12, 12), (12, 12, 12), (18, 12, 12)]
    assert [int(own.sum()) for _, own, _ in found] == [60, 4, 72]
    for values, own, others in found:
        where = np.argwhere(own)
        assert np.all(np.abs((where.min(0) + where.max(0) + 1) / 2 - np.array(own.shape) / 2) <= 0.5)
        assert (values[own] == 40).all() and not (own & others).any()
    assert [int(others.sum()) > 0 for _, _, others in found] == [True, True, False]
    # Beyond the edge the last voxel is repeated, here that of the first plane.
    assert (found[0][0][:3, 0, 0] == found[0][0][3, 0, 0]).all()
    # Of the second one alone; the others are others all the same.
    here = np.zeros(target.shape, bool)
    here[6, 22, 9] = True
    ((_, own, others),) = windows(hu, target, here, 12)
    assert np.array_equal(own, found[1][1]) and np.array_equal(others, found[1][2])


def test_surroundings_widen_the_window():
    """Of a structure longer than the window less its surroundings, along that axis alone."""
    from SynthDiffusionLib.jobs.adherence import windows

    target = np.zeros((40, 30, 30), bool)
    target[10:28, 12:16, 12:16] = True
    hu = np.random.default_rng(0).normal(size=target.shape)
    for context, length in ((0, 18), (3, 24), (8, 34)):
        ((values, own, _),) = windows(hu, target, target, 12, context)
        wide = max(12, 4 + 2 * context)
        assert values.shape == own.shape == (length, wide, wide) and own.sum() == target.sum()
        low, high = np.argwhere(own).min(0), np.argwhere(own).max(0)
        assert low[0] == length - 1 - high[0] == context
        assert np.array_equal(values[own], hu[target])


def test_the_package_says_how_much_surroundings(package):
    """`context_voxels` of "segmenter" in model.json."""
    from dataclasses import replace

    from SynthDiffusionLib.jobs.adherence import SHIFT_VOXELS, adherence_of
    from SynthDiffusionLib.volumes import Volume

    spec = load_package(str(package), verify=False).spec
    classes = np.full((50, 34, 34), LUNG, np.uint8)
    classes[5:45, 14:20, 14:20] = NODULE
    view = (Volume(np.where(classes == NODULE, 40.0, -800.0), LPS, "HU"), classes, classes > 0)
    sizes = []
    for context in (None, 4):
        details = {"patch": 16} | ({"context_voxels": context} if context else {})
        own = replace(spec, segmenter=replace(spec.segmenter, details=details))

        def segment(hu: np.ndarray) -> np.ndarray:
            sizes.append(hu.shape)
            return hu > 0

        assert adherence_of(lambda: [view], own, segment, print)["adherence"]["dice"] == 1.0
    assert sizes == [(40, 16 + SHIFT_VOXELS, 16 + SHIFT_VOXELS), (48, 16 + SHIFT_VOXELS, 16 + SHIFT_VOXELS)]


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
    told = [n for n, e in enumerate(events) if "no segmenter: adherence will not" in e.get("message", "")]
    work = [n for n, e in enumerate(events) if e.get("stage") == "denoise"]
    assert len(told) == 1 and events[told[0]]["event"] == "warning" and told[0] < work[0], "told before the wait"


def test_the_command_line_says_before_the_wait_that_nothing_will_be_measured(tmp_path, monkeypatch, capsys):
    from SynthDiffusionLib import cli

    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    plain = make_working_package(tmp_path / "tiny-ct").folder
    seg = save(tmp_path / "seg.nii.gz", drawing())
    assert cli.main(["generate", str(seg), "--model", str(plain), "--out", str(tmp_path), "--adherence"]) == 0
    lines = capsys.readouterr().err.splitlines()
    note = lines.index("note: The model 'tiny-ct' has no segmenter: adherence will not be measured.")
    assert note < next(n for n, line in enumerate(lines) if line.startswith("synthesising"))


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
    ("quality", "real", "cartoon"),
    [
        ({}, None, None),
        ({"adherence": {"real": {"dice": 0.5}}}, 0.5, None),
        ({"adherence": {"blob_flat_lung": 3}}, None, None),
    ],
)
def test_figures_that_were_not_measured(package, tmp_path, threshold, quality, real, cartoon):
    copy = tmp_path / "tiny-ct"
    copy.mkdir()
    for file in package.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    edit_description(copy, lambda raw: raw["measured"].update(quality=quality))
    seg = save(tmp_path / "seg.nii.gz", drawing())
    (output,) = run(GenerateRequest(seg, str(copy), tmp_path, seed=2, adherence=True)).outputs
    assert (output["adherence"]["real_dice"], output["adherence"]["cartoon_dice"]) == (real, cartoon)


def test_the_shipped_model_has_its_figures():
    from SynthDiffusionLib.jobs.adherence import adherence_of
    from SynthDiffusionLib.volumes import Volume

    spec = load_package("lung-nodule-ct", verify=False).spec
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[3:6, 3:6, 3:6] = spec.label_scheme["nodule"].value
    view = (Volume(classes, LPS), classes, classes > 0)
    entry = adherence_of(lambda: [view], spec, lambda hu: hu > 0, print)["adherence"]
    measured = spec.raw["measured"]["quality"]["adherence"]
    assert entry["dice"] == 1.0 and entry["class"] == DESCRIPTION["target_class"]
    figures = (measured["real"]["dice"], measured["blob_flat_lung"]["dice"])
    assert (entry["real_dice"], entry["cartoon_dice"]) == figures and None not in figures


def test_the_command_line_says_it(model, tmp_path, threshold, capsys):
    from SynthDiffusionLib import cli

    seg = save(tmp_path / "seg.nii.gz", drawing())
    arguments = ["generate", str(seg), "--model", model, "--out", str(tmp_path), "--seed", "2", "--adherence"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert "adherence of nodule: Dice 1.00, 1 of 1 found (real images 0.68, blind ball " in said.err
    assert said.out.splitlines() == [str(tmp_path / "seg_tiny-ct_seed2.nii.gz")]


def test_a_window_with_context_ends_at_the_edge_of_the_volume():
    """Segmenters of whole volumes are shown no voxel that is not there; the ball stays on the structure."""
    from SynthDiffusionLib.jobs.adherence import _ball, windows

    hu = np.random.default_rng(1).normal(size=(20, 30, 40)).astype(np.float32)
    target = np.zeros(hu.shape, bool)
    target[2:7, 10:15, 30:39] = True
    ((seen, own, others),) = windows(hu, target, target, side=43, context=12)
    np.testing.assert_array_equal(seen, hu[:, :, 13:])  # 34.5 - 21.5 = 13
    assert own.sum() == target.sum() and not others.any()
    ball = _ball(own, np.eye(4), 3.0)
    assert np.allclose(np.argwhere(ball).mean(0), np.argwhere(own).mean(0), atol=0.5)
    ((padded, own, _),) = windows(hu, target, target, side=43, context=0)
    assert padded.shape == (43, 43, 43) and own.sum() == target.sum()


def test_coarse_drawings_are_told_to_lower_adherence():
    from SynthDiffusionLib.jobs.adherence import coarse_note

    assert coarse_note(np.diag([1.0, 1.0, 1.4, 1.0]), np.eye(4)) == []
    (note,) = coarse_note(np.diag([-1.0, -3.0, 1.0, 1.0]), np.eye(4))
    assert note.startswith("The drawing's voxels (1 x 3 x 1 mm) are coarser than the model's (1 x 1 x 1 mm)")


def test_each_class_has_a_line():
    from SynthDiffusionLib.cli.generate_command import _adherence_text

    head = {"class": "head", "dice": 0.8, "found": 1, "structures": 1, "real_dice": None, "ball_dice": 0.6}
    head |= {"cartoon_dice": None}
    tail = head | {"class": "tail", "dice": 0.7, "found": 1, "structures": 2}
    first, second = _adherence_text({"adherence": head | {"targets": {"head": head, "tail": tail}}}).splitlines()
    assert first == "  adherence of head: Dice 0.80, 1 of 1 found (blind ball 0.60)"
    assert second.startswith("  adherence of tail: Dice 0.70, 1 of 2 found (blind ball 0.60); look at other seeds")
