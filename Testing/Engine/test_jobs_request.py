"""`request.json`: what goes in comes out, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs import GenerateRequest
from SynthDiffusionLib.jobs.inputs import case_name
from SynthDiffusionLib.jobs.worker import read_request

FULL = GenerateRequest(
    segmentation=Path("in/drawing.seg.nrrd"),
    model="tiny-ct",
    out=Path("out"),
    mode="inpaint",
    image=Path("in/ct.nrrd"),
    labels={"Left lung": "lung", "heart": None},
    classes=("lung", "nodule"),
    sampler="ddim",
    steps=7,
    seed=3,
    samples=2,
    guidance=2.5,
    device="cuda:1",
    precision="bf16",
    vram_limit=8 * 1024**3,
    format="nrrd",
    inpaint_method="replacement",
    margin_mm=3.0,
    case="Fall 7",
)


def test_round_trip(tmp_path):
    FULL.save(tmp_path)
    content = json.loads((tmp_path / "request.json").read_text(encoding="utf-8"))
    assert content["schema"] == "synthdiffusion-request-1" and content["format"] == "nrrd"
    assert GenerateRequest.from_json(content) == FULL
    read = read_request(tmp_path)
    assert read.segmentation == tmp_path / "in" / "drawing.seg.nrrd" and read.out == tmp_path / "out"
    assert read.image == tmp_path / "in" / "ct.nrrd"


def test_least(tmp_path):
    least = {"schema": "synthdiffusion-request-1", "segmentation": "a.nrrd", "model": "m", "out": "o"}
    assert GenerateRequest.from_json(least) == GenerateRequest(Path("a.nrrd"), "m", Path("o"))
    with pytest.raises(BadInput, match="incomplete.*'out'"):
        GenerateRequest.from_json({k: v for k, v in least.items() if k != "out"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "20"),
        ("steps", 2.5),
        ("samples", 1.0),
        ("samples", True),
        ("seed", [1]),
        ("crop", "no"),
        ("scene", 1),
        ("guidance", "2"),
        ("classes", "nodule"),
        ("labels", ["nodule"]),
        ("vram_limit", "8GiB"),
        ("segmentation", 3),
        ("out", 3),
        ("model", {}),
        ("size", [96, 96]),
        ("size", [96, 96, 4.5]),
        ("size", 96),
        ("spacing_mm", [1, 1, "2"]),
        ("region", ["chest"]),
        ("condition_scale", "1"),
    ],
)
def test_field_of_the_wrong_type(field, value):
    with pytest.raises(BadInput, match=f"'{field}'"):
        GenerateRequest.from_json(FULL.to_json() | {field: value})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": "synthdiffusion-request-9"}, "unknown form"),
        ({"schema": "nrrd"}, "unknown form"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"sampler_name": "ddim"}, "unknown field"),
        ({"device": "gpu0"}, "Unknown device 'gpu0'"),
        ({"mode": "whole"}, "--image was given"),
    ],
)
def test_request_that_cannot_be_used(change, match):
    with pytest.raises(BadInput, match=match):
        GenerateRequest.from_json(FULL.to_json() | change)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("case.nii.gz", "case"),
        ("case.seg.nrrd", "case"),
        ("Fall 7.NII.GZ", "Fall 7"),
        ("a.b.c.mha", "a.b.c"),
        ("größe.nrrd", "größe"),
        ("no suffix", "no suffix"),
        (".nrrd", "case"),
        ("x" * 200 + ".nii", "x" * 80),
    ],
)
def test_case_name_from_the_file(name, case):
    assert case_name(GenerateRequest(Path("folder") / name, "m", Path("o"))) == case


@pytest.mark.parametrize(
    ("given", "case"),
    [("../up", "_up"), ("a:b", "a_b"), ("a/b\\c", "a_b_c"), ("  . ", "case"), ("scan.nii.gz", "scan.nii.gz")],
)
def test_case_name_as_given_stays_a_file_name(given, case):
    assert case_name(GenerateRequest(Path("a.nrrd"), "m", Path("o"), case=given)) == case
