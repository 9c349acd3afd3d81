"""The command line that provenance is turned into: read by the real parser, run, and compared voxel by voxel."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_process import labels, save, write_program
from tiny_latent import SECTIONS, make_latent_package
from tiny_package import edit_description, make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.jobs.command_line import as_text, command_line
from SynthDiffusionLib.volumes import Code, Segment, Segmentation, read_volume, write_segmentation

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(3)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the model `tiny-ct`, segmentations and an image."""
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "models"))
    make_working_package(tmp_path / "models" / "tiny-ct")
    save(tmp_path / "seg.nii.gz", labels())
    save(tmp_path / "large.nii.gz", labels((70, 30, 30)))
    save(tmp_path / "image.nii.gz", RNG.integers(-900, -600, (20, 20, 20)).astype(np.int16))
    lung, nodule = np.ones((20, 20, 20), np.uint8), labels() // 4
    segments = (
        Segment("my \"drawing\" & 'more' $HOME %PATH% Größe", 1, 0, type=Code("SCT", "39607008", "Lung")),
        Segment("Segment_1", 1, 1, type=Code("SCT", "27925004", "Nodule")),
    )
    write_segmentation(Segmentation((lung, nodule), np.eye(4), segments), tmp_path / "names.seg.nrrd")
    parts = np.zeros((20, 20, 20), np.uint8)
    parts[:, :, :8], parts[:, :, 8:] = 1, 2
    parts[8:12, 8:12, 8:12] = 3
    segments = (
        Segment("part", 1, type=Code("SCT", "39607008", "Lung")),
        Segment("part", 2, type=Code("SCT", "22943007", "Trunk")),
        Segment("nodule", 3),
        Segment("nothing", 4),
    )
    write_segmentation(Segmentation((parts,), np.eye(4), segments), tmp_path / "same names.seg.nrrd")
    return tmp_path


@pytest.fixture
def generate(place) -> Callable[..., tuple[np.ndarray, dict[str, Any]]]:
    """Runs a request; gives the voxels and the provenance."""

    def make(seg: str, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
        if "image" in fields:
            fields["image"] = place / fields["image"]
        asked = {"precision": "fp32", "device": "cpu", "seed": 11, "steps": 2} | fields
        (output,) = run(GenerateRequest(place / seg, "tiny-ct", place / "first", **asked)).outputs
        record = json.loads(output["provenance"].read_text(encoding="utf-8"))
        return read_volume(output["volume"]).array, record

    return make


CASES = {
    "plain": ("seg.nii.gz", {}),
    "explicit": ("seg.nii.gz", {"labels": {"1": None, "4": "nodule"}, "guidance": 2.5}),
    "some classes": ("seg.nii.gz", {"classes": ("body",), "sampler": "unipc", "steps": 3}),
    "cropped": ("large.nii.gz", {"crop": True, "case": "-a case"}),
    "lower precision": ("seg.nii.gz", {"precision": "bf16"}),
    "inpainted": ("seg.nii.gz", {"mode": "inpaint", "image": "image.nii.gz", "margin_mm": 2.5}),
    "replaced": ("seg.nii.gz", {"mode": "inpaint", "image": "image.nii.gz", "inpaint_method": "replacement"}),
    "removed": ("seg.nii.gz", {"mode": "inpaint", "image": "image.nii.gz", "labels": {"1": "body", "4": "remove"}}),
    "awkward names": ("names.seg.nrrd", {}),
    "one name for two": ("same names.seg.nrrd", {}),
    "adherence": ("seg.nii.gz", {"adherence": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_volume_again(place, generate, case, capsys):
    """Also when the model's defaults have changed in between: everything is said."""
    seg, fields = CASES[case]
    voxels, record = generate(seg, **fields)
    assert voxels.std() > 1

    def other_defaults(data: dict[str, Any]) -> None:
        data["sampling"] |= {"default_sampler": "ddpm", "default_steps": 7, "default_guidance": 4.0}
        data["inpaint"] |= {"margin_mm": 5.0, "default_guidance": 3.0}

    edit_description(place / "models" / "tiny-ct", other_defaults)
    image = place / fields["image"] if "image" in fields else None
    arguments = command_line(record, place / seg, place / "again", image)
    assert arguments[:2] == ["synthdiffusion", "generate"]
    assert cli.main(arguments[1:]) == 0, capsys.readouterr().err
    names = {p.name for p in (place / "first").iterdir()}
    assert {p.name for p in (place / "again").iterdir()} == names, "the names are the same too"
    (volume,) = (place / "again").glob("*.nii.gz")
    assert np.array_equal(read_volume(volume).array, voxels)
    again = json.loads(next((place / "again").glob("*.json")).read_text(encoding="utf-8"))
    for key in ("settings", "plan", "given_classes", "output_sha256", "adherence", "inputs"):
        assert again.get(key) == record.get(key), key


@pytest.fixture
def limb(place) -> Path:
    """A model that keeps the drawing's spacing and takes every setting beside the drawing; returns its folder."""
    grid = SECTIONS["grid"] | {"spacing_range_mm": [[0.5, 4.0]] * 3}
    controls = {
        "condition_scale": True,
        "regions": ["head", "chest", "abdomen", "pelvis"],
        "modalities": {"CT": 1, "MR": 2},
    }
    make_latent_package(place / "models" / "tiny-limb", grid=grid, controls=controls)
    drawn = np.ones((16, 16, 16), np.uint8)
    drawn[4:12, 4:12, 4:12], drawn[6:9, 6:9, 6:9] = 2, 3
    save(place / "limb.nii.gz", drawn, np.diag([2.0, 2.0, 2.0, 1.0]))
    return place / "models" / "tiny-limb"


DRAWN = {"segmentation": "limb.nii.gz"}
FREE = {"segmentation": None, "mode": "unconditional"}
LATENT_CASES = {
    "size and spacing": DRAWN | {"size": (24, 16, 16), "spacing_mm": (4 / 3, 2.0, 2.0)},
    "nearest size": DRAWN | {"size": "nearest"},
    "controls": DRAWN | {"condition_scale": 0.25, "region": ("chest", "abdomen"), "modality": "MR"},
    "no strength at all": DRAWN | {"condition_scale": 0.0, "region": ("head", "head")},
    "unconditional": FREE | {},
    "unconditional of one's own size": FREE | {"size": (16, 8, 24), "spacing_mm": (1.0, 1.1, 2.75), "case": "mine"},
    "unconditional of a modality": FREE | {"modality": "MR", "region": ("pelvis", "pelvis"), "size": (8, 16, 16)},
}


@pytest.mark.parametrize("case", LATENT_CASES)
def test_the_same_volume_of_a_latent_model(place, limb, case, capsys):
    fields = {"precision": "fp32", "device": "cpu", "seed": 5} | LATENT_CASES[case]
    segmentation = fields.pop("segmentation")
    segmentation = segmentation and place / segmentation
    (output,) = run(GenerateRequest(segmentation, "tiny-limb", place / "first", **fields)).outputs
    record = json.loads(output["provenance"].read_text(encoding="utf-8"))
    for name in ("size", "spacing_mm", "condition_scale", "region", "modality"):
        if name in fields:
            value = fields[name]
            assert record["settings"][name] == (list(value) if isinstance(value, tuple) else value), name

    def other_defaults(data: dict[str, Any]) -> None:
        data["controls"]["modalities"] = {"US": 3, "MR": 2, "CT": 1}

    edit_description(limb, other_defaults)
    arguments = command_line(record, segmentation, place / "again")
    assert ("limb.nii.gz" in " ".join(arguments)) == (segmentation is not None)
    assert cli.main(arguments[1:]) == 0, capsys.readouterr().err
    (volume,) = (place / "again").glob("*.nii.gz")
    first, second = read_volume(output["volume"]), read_volume(volume)
    assert volume.name == output["volume"].name
    assert np.array_equal(first.array, second.array) and np.array_equal(first.affine, second.affine)
    assert first.array.std() > 1
    again = json.loads(next((place / "again").glob("*.json")).read_text(encoding="utf-8"))
    assert again["settings"] == record["settings"] and again["output_sha256"] == record["output_sha256"]
    if segmentation is None:
        assert first.shape == (fields.get("size") or (16, 24, 16)) and record["given_classes"] == []
    else:
        with pytest.raises(ValueError, match="made from a segmentation"):
            command_line(record, None, place / "again")


def test_a_segment_that_was_not_used_is_matched_again_by_its_class(generate):
    _, record = generate("seg.nii.gz", classes=("body",), labels={"1": "body", "4": "nodule"})
    arguments = command_line(record, "seg", "out")
    assert json.loads(arguments[arguments.index("--labels") + 1]) == {"1": "body", "4": "nodule"}
    assert arguments[arguments.index("--classes") + 1] == "body"


def test_inpainting_needs_its_image(generate):
    _, record = generate("seg.nii.gz", mode="inpaint", image="image.nii.gz")
    with pytest.raises(ValueError, match="real volume"):
        command_line(record, "seg", "out")


def test_a_gpu_of_any_number(generate):
    _, record = generate("seg.nii.gz")
    record["plan"]["device"] = "cuda:3"
    arguments = command_line(record, "-seg.nii.gz", "-out")
    assert arguments[arguments.index("--device") + 1] == "cuda"
    assert arguments[2] == os.path.join(".", "-seg.nii.gz") and "--out=-out" in arguments


AWKWARD = [
    "synthdiffusion",
    "plain",
    "two words",
    "it's",
    'a "quoted" word',
    "$HOME `id` $(id) !x *.py ~ #no",
    "a&b|c>d",
    "back\\slash\\",
    "back slash\\",
    "",
    "Größe 🙂",
    '{"Left \\u0026 lung": "lung"}',
]


@pytest.mark.skipif(shutil.which("sh") is None, reason="no POSIX shell")
def test_a_shell_reads_the_text_as_it_was_meant(tmp_path):
    """A real shell passes the arguments to a program of this name."""
    write_program(tmp_path / "synthdiffusion", "import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    text = as_text(AWKWARD, windows=False)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONUTF8": "1"}
    done = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, check=False)
    assert json.loads(done.stdout) == AWKWARD[1:], done.stderr
    assert shlex.split(text) == AWKWARD


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ('a "quoted" word', '"a \\"quoted\\" word"'),
        ("a&b", '"a&b"'),
        ("C:\\a&b\\", '"C:\\a&b\\\\"'),
        ("C:\\a b\\", '"C:\\a b\\\\"'),
        ("C:\\plain\\", "C:\\plain\\"),
        ("", '""'),
    ],
)
def test_text_for_the_windows_command_prompt(argument, quoted):
    """By the rules of "Parsing C++ command-line arguments" in Microsoft's documentation of its C runtime."""
    assert as_text([argument], windows=True) == quoted


@pytest.mark.skipif(os.name != "nt", reason="asks Windows itself")
def test_windows_reads_the_text_as_it_was_meant():
    import ctypes

    count = ctypes.c_int()
    parse = ctypes.windll.shell32.CommandLineToArgvW
    parse.restype = ctypes.POINTER(ctypes.c_wchar_p)
    found = parse(ctypes.c_wchar_p(as_text(AWKWARD, windows=True)), ctypes.byref(count))
    assert [found[i] for i in range(count.value)] == AWKWARD


def test_the_command_prompt_finds_nothing_to_act_upon(generate):
    """It knows no backslash: every double quote begins or ends a quotation, outside of which & and the like act."""
    _, record = generate("names.seg.nrrd")
    text = as_text(command_line(record, "C:\\A & B\\c>d.nii.gz", "D:\\out|"), windows=True)
    inside = False
    for character in text:
        inside ^= character == '"'
        assert inside or character not in "&|<>^()%!", text
    assert not inside
    assert text.isascii() and "%PATH%" not in text
