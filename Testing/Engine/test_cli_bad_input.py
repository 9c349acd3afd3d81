"""What `synthdiffusion generate` refuses, as a user sees it: the command runs as a process of its own, ends with exit
code 2 (1 when the fault shows later) and one line that names the cause and the mend, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import command_process
import nibabel as nib
import numpy as np
import pytest
from command_process import ERROR, environment, labels, save
from PIL import Image
from tiny_package import edit_description

from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume

place, refused = command_process.place, command_process.refused


def patched(path: Path, *fields: tuple[int, str, list]) -> Path:
    """A NIfTI file (.nii) with header fields overwritten in place, which nibabel would mend or refuse by itself."""
    data = bytearray(path.read_bytes())
    for offset, code, values in fields:
        packed = np.array(values, dtype=code).tobytes()
        data[offset : offset + len(packed)] = packed
    path.write_bytes(data)
    return path


# Files.


@pytest.mark.parametrize(
    "arguments",
    [
        {"seg": "nothing here.nii.gz"},
        {"extra": ("--mode", "inpaint", "--image", "nothing here.nii.gz")},
        {"extra": ("--labels", "nothing here.nii.gz")},
    ],
    ids=["segmentation", "image", "labels"],
)
def test_missing_file(refused, arguments):
    extra = arguments.pop("extra", ())
    line = refused(*extra, **arguments, cause="nothing here.nii.gz", mend="Check the path")
    assert "does not exist" in line or "No such file" in line


def test_not_an_image(refused, place, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("a nodule in the left lung\n")
    refused(seg=text, cause="notes.txt: it is not an image", mend="Use .nii")
    picture = tmp_path / "picture.nii.gz"
    Image.new("L", (64, 64)).save(picture, format="PNG")
    refused(seg=picture, cause="picture.nii.gz: it is not a NIfTI image", mend="Choose an image")
    refused("--mode", "inpaint", "--image", text, cause="notes.txt: it is not an image", mend="Use .nii")


def test_truncated_file(refused, tmp_path):
    path = save(tmp_path / "cut.nii.gz", np.random.default_rng(0).integers(1, 3, (30, 30, 30)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:1500])
    refused(seg=path, cause="cut.nii.gz", mend="Copy or download it again")


def test_corrupt_file(refused, tmp_path):
    path = tmp_path / "damaged.nrrd"
    noise = np.random.default_rng(0).integers(1, 3, (30, 30, 30)).astype(np.uint8)
    write_volume(Volume(noise, np.eye(4), "label"), path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 16] = bytes(255 - b for b in data[middle : middle + 16])
    path.write_bytes(data)
    refused(seg=path, cause="damaged.nrrd", mend="again")


def test_empty_segmentation(refused, tmp_path):
    path = save(tmp_path / "empty.nii.gz", np.zeros((9, 9, 9), np.uint8))
    refused(seg=path, cause="empty.nii.gz: the segmentation is empty", mend="Draw")
    path = tmp_path / "empty.seg.nrrd"
    layer = np.zeros((9, 9, 9), np.uint8)
    write_segmentation(Segmentation((layer,), np.eye(4), (Segment("nodule", 1),)), path)
    refused(seg=path, cause="empty", mend="Draw")


def test_only_unknown_labels(refused, tmp_path):
    array = np.full((9, 9, 9), 71, np.uint8)
    array[4] = 72
    line = refused(seg=save(tmp_path / "a.nii.gz", array), cause="label 71 and label 72", mend="--labels MAP.json")
    assert "nodule (4)" in line


def test_map_that_names_an_unknown_class(refused, tmp_path):
    path = tmp_path / "map.json"
    path.write_text('{"4": "noodle"}')
    refused("--labels", path, cause="'noodle'", mend="Did you mean 'nodule'?")
    refused("--labels", '{"4": "noodle"}', cause="'noodle' (for '4' in the label map)", mend="Did you mean 'nodule'?")
    refused("--labels", '{"4": nodule}', cause="The label map in --labels is not valid JSON", mend="Write it like")
    refused("--classes", "body,noodle", cause="'noodle' is no class", mend="Did you mean 'nodule'? Its classes: body")


def test_four_dimensions(refused, tmp_path):
    path = save(tmp_path / "series.nii.gz", np.ones((9, 9, 9, 3), np.uint8))
    refused(seg=path, cause="series.nii.gz: it is 4-D", mend="Save the one 3D image")


def test_color_image(refused, tmp_path):
    rgb = np.zeros((9, 9, 9), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(seg=save(tmp_path / "rgb.nii.gz", rgb), cause="rgb.nii.gz: it is a color image", mend="Choose")


@pytest.mark.parametrize(
    ("value", "cause"), [(np.nan, "not finite"), (np.inf, "not finite"), (-3.0, "negative"), (0.5, "fractions")]
)
def test_voxels_that_are_no_labels(refused, tmp_path, value, cause):
    array = labels().astype(np.float32)
    array[3, 3, 3] = value
    refused(seg=save(tmp_path / "a.nii.gz", array), cause=cause, mend=". ")


def test_image_with_voxels_that_are_not_finite(refused, tmp_path):
    array = np.full((20, 20, 20), -700, np.float32)
    array[3, 3, 3] = np.nan
    path = save(tmp_path / "holes.nii.gz", array)
    refused("--mode", "inpaint", "--image", path, cause="holes.nii.gz: 1 voxels are not finite", mend="Replace them")


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ([(80, "<f4", [0.0])], "zero, negative or non-finite voxel spacing"),
        ([(84, "<f4", [-1.0])], "zero, negative or non-finite voxel spacing"),
        ([(280, "<f4", [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0])], "singular"),  # srow_x, srow_y, srow_z
    ],
    ids=["zero spacing", "negative spacing", "singular affine"],
)
def test_impossible_geometry(refused, tmp_path, fields, cause):
    path = patched(save(tmp_path / "a.nii", labels()), *fields)
    refused(seg=path, cause=cause, mend="Correct the")


def test_a_single_voxel(refused, tmp_path):
    path = save(tmp_path / "dot.nii.gz", np.ones((1, 1, 1), np.uint8))
    refused(seg=path, cause="dot.nii.gz: it has a single voxel", mend="Choose a 3D image")


def test_header_of_a_huge_volume(refused, tmp_path):
    path = patched(save(tmp_path / "huge.nii", labels()), (42, "<i2", [2000, 2000, 2000]))
    refused(seg=path, cause="huge.nii: its header declares 2000 x 2000 x 2000 voxels", mend="Crop or resample")


# What the model can do.


def test_grid_beyond_the_model(refused, tmp_path):
    path = save(tmp_path / "large.nii.gz", labels((41, 20, 20)))
    line = refused(seg=path, cause="covers 41x20x20 mm, but 'tiny-ct' makes at most 40x40x40 mm", mend="Add --crop")
    assert "--mode inpaint" in line


def test_region_too_large_to_inpaint(refused, tmp_path):
    path = save(tmp_path / "large.nii.gz", labels(block=slice(0, 20)), np.diag([2.0, 2.0, 2.0, 1.0]))
    image = save(tmp_path / "image.nii.gz", np.zeros((20, 20, 20), np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    cause = "40 x 40 x 40 mm large; this model can inpaint at most 20 mm"
    refused("--mode", "inpaint", "--image", image, seg=path, cause=cause, mend="Draw a smaller region")


def test_margin_that_leaves_no_room(refused):
    cause = "A rim of 15 mm leaves no room"
    refused("--mode", "inpaint", "--image", "image.nii.gz", "--margin", 15, cause=cause, mend="its default is 4")


def test_nothing_to_inpaint(refused, tmp_path):
    path = save(tmp_path / "lung.nii.gz", np.ones((20, 20, 20), np.uint8) + (labels() == 4))
    arguments = ("--mode", "inpaint", "--image", "image.nii.gz")
    refused(
        *arguments,
        seg=path,
        cause="Nothing is drawn that can be inpainted",
        mend="nodule or remove",
        notes=(
            "label 1 -> body (by value; give --labels if they are something else)",
            "label 2 -> lung (by value; give --labels if they are something else)",
        ),
    )


def test_only_a_region_to_remove_and_no_image(refused, tmp_path):
    layer = (labels() == 4).astype(np.uint8)
    path = tmp_path / "remove.seg.nrrd"
    write_segmentation(Segmentation((layer,), np.eye(4), (Segment("remove", 1),)), path)
    refused(seg=path, cause="no image to remove it from", mend="--image and --mode inpaint")


# Frames.


def test_frames_without_overlap(refused, tmp_path, oblique_affine):
    image = save(tmp_path / "far.nii.gz", np.zeros((20, 20, 20), np.int16), oblique_affine(origin=(500.0, 0.0, 0.0)))
    cause = "lie in different places: their boxes do not overlap"
    refused("--mode", "inpaint", "--image", image, cause=cause, mend="Draw the segmentation on this image")


def test_drawing_outside_the_image(refused, tmp_path, oblique_affine):
    array = np.zeros((20, 20, 20), np.uint8)
    array[:4, :4, :4] = 4
    path = save(tmp_path / "corner.nii.gz", array)
    image = save(
        tmp_path / "beside.nii.gz",
        np.zeros((20, 20, 20), np.int16),
        oblique_affine("RAS", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (8.0, 8.0, 8.0)),
    )
    cause = "Nothing of the segmentation lies within --image"
    refused("--mode", "inpaint", "--image", image, seg=path, cause=cause, mend="Draw the segmentation on this image")


def test_another_frame_is_resampled_and_said(place, tmp_path, oblique_affine):
    affine = oblique_affine("LPS", (1.0, 1.1, 1.3), (0.0, 0.0, 20.0), (19.0, 19.0, 0.0))
    image = save(tmp_path / "turned.nii.gz", np.full((20, 18, 16), -700, np.int16), affine)
    arguments = ["generate", "seg.nii.gz", "--model", "tiny-ct", "--out", tmp_path / "out", "--mode", "inpaint"]
    arguments += ["--image", image, "--steps", 1, "--seed", 3, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "SynthDiffusionLib", *map(str, arguments)],
        cwd=place,
        env=environment(place),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "note: The segmentation was resampled to the grid of --image" in done.stderr.splitlines()
    said = json.loads(done.stdout.splitlines()[-1])
    assert "The segmentation was resampled to the grid of --image" in said["notes"]
    written = {Path(v) for k, v in said["outputs"][0].items() if k != "seed"}
    assert {p.name for p in written} == {
        f"seg_tiny-ct_seed3_inpainted{end}" for end in (".nii.gz", ".json", ".png", "_region.seg.nrrd")
    }
    assert written == set((tmp_path / "out").iterdir())
    np.testing.assert_allclose(nib.load(said["outputs"][0]["volume"]).affine, affine, atol=1e-4)


# Names and values.


def test_unknown_model(refused, place, tmp_path):
    refused(model="tiny-cd", cause="There is no model 'tiny-cd'", mend="Did you mean 'tiny-ct'?")
    cause = "'tiny-ct' is not a folder with a model package"
    refused(model="./tiny-ct", cause=cause, mend="synthdiffusion models list")


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("--sampler", "dpmpp", "dpmpp-2m"),
        ("--mode", "inpant", "inpaint"),
        ("--format", "nii", "nii.gz"),
        ("--precision", "bf61", "bf16"),
        ("--device", "cudaa", "cuda"),
        ("--inpaint-method", "replace", "replacement"),
    ],
)
def test_unknown_value(refused, option, value, near):
    line = refused(option, value, cause=f"Unknown {option[2:]} '{value}'", mend=f"Did you mean '{near}'?")
    assert "Choose one of: " in line


@pytest.mark.parametrize(
    ("option", "value", "mend"),
    [
        ("--steps", "0", "from 1 to 1000"),
        ("--samples", "0", "from 1 to"),
        ("--seed", "-1", "from 0 to"),
        ("--guidance", "nan", "from 0 to 20"),
        ("--margin", "-2", "from 0 to 20"),
        ("--vram-limit", "8 parrots", "like 24GiB"),
    ],
)
def test_number_out_of_range(refused, option, value, mend):
    refused(f"{option}={value}", cause=value, mend=mend)


@pytest.mark.parametrize("option", ["--margin=3", "--inpaint-method=replacement"])
def test_an_option_of_another_mode(refused, option):
    refused(option, cause=f"{option.partition('=')[0]} was given, but the mode is 'whole'", mend="--mode inpaint")


def test_a_name_that_is_taken_by_a_folder(refused, tmp_path):
    taken = tmp_path / "results" / "seg_tiny-ct_seed3.png"
    taken.mkdir(parents=True)
    refused(
        "--seed=2", "--samples=2", cause=f"'{taken}' is to be written, but is a folder", mend="--out", out=taken.parent
    )
    assert list(taken.parent.iterdir()) == [taken]


@pytest.mark.parametrize("option", ["--out", "--image", "--labels"])
def test_an_empty_path_is_not_the_current_folder(refused, option):
    refused(option, "", cause=f"argument {option}: the path is empty", mend="--help")


def test_text_in_place_of_a_number(refused):
    refused("--steps", "many", cause="argument --steps: invalid int value: 'many'", mend="--help")


def test_unknown_option(refused):
    refused("--seeed", "3", cause="unrecognized arguments: --seeed", mend="Did you mean --seed?")


def test_unknown_command(place):
    done = subprocess.run(
        [sys.executable, "-m", "SynthDiffusionLib", "generat"],
        cwd=place,
        env=environment(place),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(ERROR) and "'generat'" in line and "Did you mean 'generate'?" in line


def test_image_and_mode_go_together(refused):
    refused("--image", "image.nii.gz", cause="--image was given, but the mode is 'whole'", mend="Add --mode inpaint")
    refused("--mode", "inpaint", cause="Inpainting needs the real volume", mend="--image")


# Model packages.


@pytest.fixture
def own_model(place, tmp_path) -> Path:
    """A copy of the model, to be spoilt."""
    return Path(shutil.copytree(place / "models" / "tiny-ct", tmp_path / "own"))


def test_sampler_that_the_model_does_not_bear(refused, own_model):
    edit_description(own_model, lambda d: d["sampling"].update(samplers=["ddpm", "ddim"]))
    cause = "The sampler 'unipc' does not fit the schedule of the model 'tiny-ct'"
    refused("--sampler", "unipc", model=own_model, cause=cause, mend="Choose one of: ddpm, ddim")


def test_schedule_that_no_sampler_bears(refused, own_model):
    edit_description(own_model, lambda d: d["diffusion"].update(beta_schedule="sigmoid"))
    cause = "The sampler 'ddim' does not fit the model's 'sigmoid' schedule"
    refused(model=own_model, cause=cause, mend="Choose another model")


def test_more_steps_than_the_model_has(refused, own_model):
    edit_description(own_model, lambda d: d["diffusion"].update(train_steps=100))
    refused("--steps", 101, model=own_model, cause="101 steps were asked for", mend="from 1 to 100")


def test_mode_that_the_model_does_not_have(refused, own_model):
    edit_description(own_model, lambda d: d.update(modes=["whole"]))
    cause = "The model 'tiny-ct' has no mode 'inpaint'"
    refused("--mode", "inpaint", "--image", "image.nii.gz", model=own_model, cause=cause, mend="It can do: whole")


def test_tampered_weights(refused, own_model):
    weights = own_model / "denoiser.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    line = refused(model=own_model, cause="'denoiser.safetensors' has been changed or damaged", mend="again")
    assert "sha256" in line


@pytest.mark.parametrize("name", ["../denoiser.safetensors", "/etc/denoiser.safetensors", "C:\\denoiser.safetensors"])
def test_file_outside_the_folder_of_the_model(refused, own_model, name):
    edit_description(own_model, lambda d: d["files"][0].update(path=name))
    refused(model=own_model, cause="it names a path outside its folder", mend="Get the package again")


def test_weights_that_do_not_fit_the_network(refused, own_model):
    edit_description(own_model, lambda d: d["network"].update(channels=[8, 8]))
    cause = "'denoiser.safetensors' do not fit the model's network"
    refused(model=own_model, cause=cause, mend="Install the package again", torch=True)


def test_too_little_memory(refused):
    said = refused(
        "--vram-limit=100MiB",
        "--precision=fp32",
        cause="A grid of 40x40x40 needs at least",
        mend="raise --vram-limit",
        torch=True,
    )
    assert re.search(r"at least 0\.\d+ GiB of memory, but 0\.\d+ GiB may be used", said)
