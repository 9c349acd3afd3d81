"""Small model packages: one of a few hundred bytes that nothing can be drawn from, and one with a tiny network."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from SynthDiffusionLib.models import ModelPackage, folders, registry, seal_package

DESCRIPTION: dict[str, Any] = {
    "id": "tiny-ct",
    "name": "Tiny CT",
    "version": "1.2.0",
    "description": "For tests.",
    "backend": "patch_ddpm",
    "modality": "CT",
    "body_part": "chest",
    "target_class": "nodule",
    "network": {"class": "PatchUNet", "channels": [8, 16], "blocks_per_level": 1},
    "diffusion": {
        "train_steps": 1000,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction": "v_prediction",
    },
    "grid": {
        "spacing_mm": [1.0, 1.0, 1.0],
        "orientation": "LPS",
        "min_size": [16, 16, 16],
        "max_size": [64, 64, 64],
        "divisor": 2,
    },
    "intensity": {"unit": "HU", "range": [-1000.0, 400.0]},
    "label_scheme": [
        {"name": "lung", "value": 1, "codes": [{"scheme": "SCT", "value": "39607008", "meaning": "Lung"}]},
        {"name": "nodule", "value": 2, "within": ["lung"], "color": [0.9, 0.2, 0.2]},
    ],
    "modes": ["whole", "inpaint"],
    "inpaint": {"margin_mm": 4.0, "max_region_mm": 40.0},
    "sampling": {"default_sampler": "ddim", "default_steps": 20, "samplers": ["ddpm", "ddim"]},
    "segmenter": {"network": {"class": "PatchUNet", "channels": [4]}, "measured": {"dice": 0.7}},
    "license": {"spdx": "CC-BY-4.0", "attribution": "Somebody", "permitted_use": "Research only."},
    "training": {
        "dataset": "LIDC-IDRI",
        "license": "CC BY 3.0",
        "citation": "Armato 2011",
        "split": {"train": ["1", "2"], "validation": ["3"], "test": ["4"]},
        "steps": 10,
        "command": "synthdiffusion train tiny.toml",
        "commit": "abc",
        "seed": 1,
    },
    "measured": {
        "quality": {"dice": 0.61, "ratio": {"value": 1.0, "interval": [0.9, 1.1]}},
        "performance": {"device": "2 CPU cores", "seconds": 41.25, "peak_bytes": 2147483648},
    },
    "provenance": {"made": "by hand"},
}
WEIGHTS = {"stem.weight": np.arange(12, dtype=np.float16).reshape(3, 4), "head.bias": np.zeros(2, np.float32)}
ROLES = {"denoiser.safetensors": "denoiser", "segmenter.safetensors": "segmenter", "MODEL_CARD.md": "card"}


def make_package(folder: Path, **changes: Any) -> ModelPackage:
    """Writes the package into a folder, with some entries of its description changed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(WEIGHTS, folder / "denoiser.safetensors")
    save_file({"w": np.ones(3, np.float32)}, folder / "segmenter.safetensors")
    (folder / "MODEL_CARD.md").write_text("# Tiny\n", encoding="utf-8")
    return seal_package(folder, copy.deepcopy(DESCRIPTION) | changes, ROLES)


def make_working_package(folder: Path, **changes: Any) -> ModelPackage:
    """A package with a tiny network of random weights (the head too, which training would start at zero), with the
    label scheme of the shipped model, grids of up to 40 voxels a side at 1 mm, and all samplers."""
    import torch
    from safetensors.torch import save_file as save_tensors

    from SynthDiffusionLib.backends.patch_ddpm import build_network
    from SynthDiffusionLib.labels.scheme import LabelScheme
    from SynthDiffusionLib.resources import resource_path
    from SynthDiffusionLib.sampling.samplers import SAMPLERS

    scheme = json.loads(resource_path("LabelSchemes", "lung-nodule-ct.json").read_text(encoding="utf-8"))
    parameters = {"channels": [8, 8, 16], "blocks_per_level": 1, "norm_groups": 4}
    description = {k: v for k, v in DESCRIPTION.items() if k != "segmenter"} | {
        "network": {"class": "PatchUNet", **parameters},
        "grid": DESCRIPTION["grid"] | {"min_size": [1, 1, 1], "max_size": [40, 40, 40], "divisor": 4},
        "label_scheme": scheme,
        "sampling": {"default_sampler": "ddim", "default_steps": 2, "samplers": list(SAMPLERS)},
        "measured": {"quality": {}, "performance": {}},
    }
    state = torch.random.get_rng_state()
    torch.manual_seed(20)
    network = build_network(parameters, LabelScheme.from_json(scheme))
    with torch.no_grad():
        for p in network.head.parameters():
            p.copy_(0.1 * torch.randn(p.shape))
    torch.random.set_rng_state(state)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({k: v.half().contiguous() for k, v in network.state_dict().items()}, folder / "denoiser.safetensors")
    (folder / "MODEL_CARD.md").write_text("# Tiny\n", encoding="utf-8")
    roles = {file: role for file, role in ROLES.items() if role != "segmenter"}
    return seal_package(folder, copy.deepcopy(description) | changes, roles)


class Stopwatch:
    """How long a child takes to end from now on.

    `seconds` is the time on the clock. On a machine whose cores are all taken by others that says nothing about the
    child; there it is the processor time that the child has used.
    """

    def __init__(self, child: subprocess.Popen) -> None:
        self._child = child
        self._used = sum(psutil.Process(child.pid).cpu_times()[:2])
        self._idle = psutil.cpu_times().idle
        self._began = time.monotonic()
        self.seconds = float("inf")

    def wait(self, timeout: float = 300.0) -> int:
        """Waits for the end of the child and returns its exit code."""
        process, used = psutil.Process(self._child.pid), 0.0
        while self._child.poll() is None:
            assert time.monotonic() - self._began < timeout, "the child does not end"
            with suppress(psutil.Error):
                used = sum(process.cpu_times()[:2]) - self._used
            time.sleep(0.01)
        self.seconds = time.monotonic() - self._began
        if psutil.cpu_times().idle - self._idle < 0.5 * self.seconds:
            self.seconds = used
        return self._child.returncode


class Painter:
    """Stands for a backend: paints the nodule in the highest value of the range and all else in the lowest.

    Attributes:
        conditions: what it was asked for, call by call.
        known: the known image of every call, or None.
        seeds: the seed of every call.
        guidance: the guidance of every call.
    """

    weight_bytes = 1000

    def __init__(self) -> None:
        self.conditions, self.known, self.seeds, self.guidance = [], [], [], []

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return shape

    def sample(
        self, condition, plan, *, sampler, steps, seed, guidance=1.0, known=None, controls=None, on_step=None, **_
    ) -> np.ndarray:
        assert plan.grid == condition.shape
        self.conditions.append(condition)
        self.known.append(known)
        self.seeds.append(seed)
        self.guidance.append(guidance)
        for step in range(1, steps + 1):
            on_step(step, steps)
        nodule = condition.scheme["nodule"].value
        return np.where(condition.class_map == nodule, 1.0, -1.0).astype(np.float32)


def edit_description(folder: Path, change: Any) -> None:
    """Rewrites a package's model.json without any check; `change` gets the parsed JSON."""
    path = folder / "model.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def model_folders(tmp_path, monkeypatch):
    """Empty folders for shipped and for installed models, in place of the real ones."""
    shipped, user = tmp_path / "shipped", tmp_path / "user models"
    shipped.mkdir()
    monkeypatch.setenv(folders.USER_FOLDER_VARIABLE, str(user))
    for module in (folders, registry):
        monkeypatch.setattr(module, "shipped_folder", lambda: shipped)
    return shipped, user
