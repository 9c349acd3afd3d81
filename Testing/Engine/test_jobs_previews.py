"""Previews: when they come, where they lie in the world, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from tiny_package import make_working_package

from SynthDiffusionLib.backends import patch_ddpm
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.jobs.previews import Previews, coarse, preview_steps
from SynthDiffusionLib.sampling.denoising import sample
from SynthDiffusionLib.sampling.schedule import DiffusionSpec
from SynthDiffusionLib.volumes import Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MARKS = {"description": "SYNTHETIC tiny-ct", "SynthDiffusion.Synthetic": "YES"}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return make_working_package(tmp_path_factory.mktemp("model") / "tiny-ct").folder


@pytest.fixture
def model(package, monkeypatch) -> str:
    """The model, on grids as small as 16 voxels a side."""
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    return str(package)


def drawing(path: Path, shape=(14, 15, 13), first: int = 5) -> Path:
    array = np.full(shape, 2, np.uint8)
    array[(slice(first, first + 4),) * 3] = 4
    nib.save(nib.Nifti1Image(array, LPS), path)
    return path


def real_image(path: Path, shape=(40, 40, 40)) -> np.ndarray:
    array = np.random.default_rng(1).integers(-900, 100, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, LPS), path)
    return array


def made(request: GenerateRequest, folder: Path | None = None, count: int = 3) -> tuple[dict, list[dict]]:
    """The first output of a run, and its events."""
    events: list[dict] = []
    previews = Previews(folder, count, events.append) if folder is not None else None
    return run(request, events.append, previews=previews).outputs[0], events


@pytest.mark.parametrize("total", [1, 2, 3, 7, 20, 50, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 19, 100])
def test_steps_are_spread_evenly_and_the_last_is_not_among_them(count, total):
    steps = preview_steps(count, total)
    assert len(steps) == min(count, total - 1) == len(set(steps))
    bounds = [0, *steps, total]
    gaps = np.diff(bounds)
    assert (gaps >= 1).all() and gaps.max() - gaps.min() <= 1


def test_events_and_files(model, tmp_path):
    seg = drawing(tmp_path / "seg.nii.gz")
    request = GenerateRequest(seg, model, tmp_path / "out", seed=3, steps=8, samples=2, guidance=1.0)
    _, events = made(request, tmp_path / "previews, ü", 3)
    told = [e for e in events if e["event"] == "preview"]
    assert [(e["sample"], e["samples"], e["step"], e["total"]) for e in told] == [
        (n, 2, step, 8) for n in (1, 2) for step in (2, 4, 6)
    ]
    # Each comes before the step that it shows is told as done.
    place = [i for i, e in enumerate(events) if e["event"] == "preview"]
    assert [events[i + 1]["step"] for i in place] == [2, 4, 6, 10, 12, 14]
    assert {p.name for p in (tmp_path / "previews, ü").iterdir()} == {Path(e["path"]).name for e in told}
    for event in told:
        header = nrrd.read_header(event["path"])
        assert header["SynthDiffusion.Synthetic"] == header["SynthDiffusion.Preview"] == "YES"
        assert header["SynthDiffusion.Seed"] == str(2 + event["sample"])
        image = sitk.ReadImage(event["path"])
        assert image.GetPixelID() == sitk.sitkInt16 and image.GetSize() == (14, 15, 13), "padding is off"
        assert image.GetOrigin() == (0, 0, 0) and image.GetSpacing() == (1, 1, 1)
        values = sitk.GetArrayViewFromImage(image)
        assert values.min() >= -1000 and values.max() <= 400 and values.std() > 1
    first, last = (nrrd.read(told[i]["path"])[0].astype(float) for i in (0, 2))
    final = np.asanyarray(nib.load(tmp_path / "out" / "seg_tiny-ct_seed3.nii.gz").dataobj)
    assert np.abs(last - final).mean() < np.abs(first - final).mean(), "the estimates approach the result"


@pytest.mark.parametrize("mode", ["whole", "inpaint"])
def test_previews_and_adherence_change_no_voxel(model, tmp_path, mode):
    seg = drawing(tmp_path / "seg.nii.gz", (40, 40, 40) if mode == "inpaint" else (14, 15, 13))
    image = None
    if mode == "inpaint":
        real_image(tmp_path / "real.nii.gz")
        image = tmp_path / "real.nii.gz"
    files = []
    for name, previews, adherence in (("a", None, False), ("b", tmp_path / "previews", True)):
        request = GenerateRequest(
            seg, model, tmp_path / name, mode=mode, image=image, seed=3, sampler="ddpm", steps=5, adherence=adherence
        )
        output, events = made(request, previews, 4)
        files.append(output["volume"].read_bytes())
    assert len([e for e in events if e["event"] == "preview"]) == 4
    assert files[0] == files[1]


def test_a_preview_of_inpainting_lies_in_the_real_volume(model, tmp_path):
    real = real_image(tmp_path / "real.nii.gz")
    seg = drawing(tmp_path / "seg.nii.gz", (40, 40, 40), first=18)
    request = GenerateRequest(
        seg, model, tmp_path / "out", mode="inpaint", image=tmp_path / "real.nii.gz", seed=3, steps=4, margin_mm=2.0
    )
    _, events = made(request, tmp_path / "previews", 1)
    (told,) = [e for e in events if e["event"] == "preview"]
    shown, header = nrrd.read(told["path"])
    assert header["description"].startswith("PREVIEW, PARTLY SYNTHETIC (inpainted)")
    drawn = np.asanyarray(nib.load(seg).dataobj) == 4
    known = ndimage.distance_transform_edt(~drawn) > 2.0
    # The crop is on the image's own voxels here: every voxel of the preview is one of the image.
    geometry = sitk.ReadImage(told["path"])
    assert geometry.GetSpacing() == (1, 1, 1)
    start = np.array(geometry.GetOrigin()).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, shown.shape))
    same = shown == real[box]
    assert same[known[box]].all() and same[drawn[box]].mean() < 0.1


def test_of_a_large_grid_every_second_voxel_is_shown(oblique_affine):
    array = np.arange(40 * 33 * 41, dtype=np.float32).reshape(40, 33, 41) % 1500 - 1000.4
    affine = oblique_affine()
    shown = coarse(Volume(array, affine), MARKS)
    assert shown.shape == (20, 17, 21) and shown.array.dtype == np.int16
    np.testing.assert_array_equal(shown.array, np.rint(array[::2, ::2, ::2]))
    index = np.array([[0, 0, 0], [3, 4, 5], [19, 16, 20]])
    expected = nib.affines.apply_affine(affine, 2 * index)
    np.testing.assert_allclose(nib.affines.apply_affine(shown.affine, index), expected, atol=1e-9)
    small = coarse(Volume(array[:32, :32, :32], affine), MARKS)
    assert small.shape == (32, 32, 32) and np.array_equal(small.affine, affine)


def test_values_beyond_16_bits_are_clipped():
    shown = coarse(Volume(np.array([[[-1e6, 1e6]]], np.float32), np.eye(4)), MARKS)
    assert shown.array.tolist() == [[[-32768, 32767]]]


def test_previews_that_cannot_be_written_are_one_warning(model, tmp_path):
    (tmp_path / "previews").write_text("a file where the folder should be")
    seg = drawing(tmp_path / "seg.nii.gz")
    request = GenerateRequest(seg, model, tmp_path / "out", seed=3, steps=6, samples=2)
    output, events = made(request, tmp_path / "previews", 3)
    assert output["volume"].is_file()
    assert [e["event"] for e in events].count("preview") == 0
    warnings = [e["message"] for e in events if e["event"] == "warning" and "review" in e["message"]]
    assert len(warnings) == 1


def test_the_estimates_of_the_sampling_loop():
    """A network that always sees the same image estimates it at every step; the loop's result is the last estimate."""
    image = torch.linspace(-0.9, 0.9, 64).reshape(1, 1, 4, 4, 4)
    seen: list[torch.Tensor] = []
    result = sample(
        lambda noisy, t: image,
        image.shape,
        DiffusionSpec(prediction="sample"),
        sampler="ddim",
        steps=5,
        seed=0,
        on_estimate=lambda clean: seen.append(clean.clone()),
    )
    assert len(seen) == 5 and all(torch.equal(clean, image) for clean in seen)
    torch.testing.assert_close(result, image, atol=1e-5, rtol=0)
