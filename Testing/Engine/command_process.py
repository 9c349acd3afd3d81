"""`synthdiffusion generate` as a process of its own, and what every refusal must have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_package import make_working_package

ROOT = Path(__file__).resolve().parents[2]
ERROR = "synthdiffusion: error: "
PROGRESS = ("note: ", "reading the input", "loading the model", "synthesising", "writing the ")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the models `models/tiny-ct`, a usable segmentation `seg.nii.gz` and volume `image.nii.gz`."""
    folder = tmp_path_factory.mktemp("bad input")
    make_working_package(folder / "models" / "tiny-ct")
    save(folder / "seg.nii.gz", labels())
    save(folder / "image.nii.gz", np.full((20, 20, 20), -700, np.int16))
    return folder


def labels(shape=(20, 20, 20), block=slice(8, 12)) -> np.ndarray:
    """Body, and a nodule that is a block."""
    array = np.ones(shape, np.uint8)
    array[block, block, block] = 4
    return array


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def environment(place: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "SYNTHDIFFUSION_MODELS": str(place / "models"), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own, "PYTHONIOENCODING": "utf-8", "PYTHONFAULTHANDLER": "1"}


@pytest.fixture
def refused(place, tmp_path) -> Callable[..., str]:
    """Runs `generate` and checks all that every refusal has in common; returns the line of the error."""

    def run(
        *arguments, cause: str, mend: str, seg="seg.nii.gz", model="tiny-ct", code=2, torch=False, out=None, notes=()
    ) -> str:
        folder = tmp_path / "out" if out is None else out
        command = [sys.executable, "-X", "importtime", "-m", "SynthDiffusionLib", "generate", str(seg)]
        command += ["--model", str(model), "--out", str(folder), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=place, env=environment(place), capture_output=True, encoding="utf-8", timeout=300, check=False
        )
        lines = done.stderr.splitlines()
        modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
        said = [line for line in lines if not line.startswith("import time:")]
        assert done.returncode == code, done.stderr[-2000:]
        assert said[-1].startswith(ERROR), said
        assert all(line.startswith(PROGRESS) for line in said[:-1]), said
        assert cause in said[-1] and mend in said[-1], said[-1]
        for note in notes:
            assert f"note: {note}" in said
        assert "Traceback" not in done.stderr and done.stdout == ""
        assert "numpy" in modules or not torch, "the list of imports was not seen"
        assert ("torch" in modules) == torch, "torch is loaded once the request is known to be in order, not before"
        if out is None:
            assert not folder.exists(), sorted(folder.iterdir())
        return said[-1]

    return run


def write_program(path: Path, body: str) -> None:
    """A program that this Python runs. Its first lines are those that pip writes where the interpreter's path has a
    blank, which the system does not take after `#!`."""
    start = f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n"
    path.write_text(start + body, encoding="utf-8", newline="\n")
    path.chmod(0o755)
