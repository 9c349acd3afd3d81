"""What every method that is trained in stages asks of its data: patients in one part each, and the grid of [package].

Nothing is trained: these are refused before an earlier stage is even looked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_medlord
import tiny_training
import tiny_training_med_lsdm
import tiny_training_slice_ldm

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.med_lsdm.config import load_med_lsdm_config
from SynthDiffusionLib.training.medlord.config import load_medlord_config
from SynthDiffusionLib.training.slice_ldm.config import load_slice_ldm_config
from SynthDiffusionLib.training.stage_runs import check_data
from SynthDiffusionLib.training.train import train

METHODS = {
    "medlord": (tiny_medlord, load_medlord_config),
    "med_lsdm": (tiny_training_med_lsdm, load_med_lsdm_config),
    "slice_ldm": (tiny_training_slice_ldm, load_slice_ldm_config),
}
STAGES = [(method, stage) for method, (module, _) in METHODS.items() for stage in module.TEXTS]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The prepared phantoms, of 1 mm in LPS."""
    return tiny_training.prepared_set(tmp_path_factory.mktemp("data"))


@pytest.fixture
def mixed(data, tmp_path) -> Path:
    """The same, with a training patient's second case among those for the test."""
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    split = description["split"]
    description["cases"][split["test"][0]]["patient"] = description["cases"][split["train"][0]]["patient"]
    path.write_text(json.dumps(description), encoding="utf-8")
    return tmp_path / "data"


@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_a_patient_in_two_parts_is_refused(method, stage, mixed, tmp_path):
    config = METHODS[method][0].write_config(tmp_path, stage, mixed)
    with pytest.raises(BadInput, match="is in the parts train and test of the data set"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_patient_in_two_parts_is_refused_by_the_patch_wise_model_too(mixed, tmp_path):
    with pytest.raises(BadInput, match="is in the parts train and test of the data set"):
        train(tiny_training.write_config(tmp_path, mixed), tmp_path / "run", device="cpu")


@pytest.fixture
def with_grid(data, tmp_path) -> Callable[[str, str], Path]:
    """A function that writes the last stage of a method with something else in the place of its orientation."""

    def write(method: str, grid: str) -> Path:
        module = METHODS[method][0]
        return module.write_config(tmp_path, list(module.TEXTS)[-1], data, ('orientation = "LPS"', grid))

    return write


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ('orientation = "RAS"', "says orientation RAS, but the data set in .* has LPS"),
        ('orientation = "LPS"\nspacing_mm = [1.0, 1.0, 2.0]', r"spacing_mm \[1.0, 1.0, 2.0\], but .* has \[1"),
        ('orientation = "LPS"\nspacing_mm = [1.002, 1, 1]', "says spacing_mm"),
        ('orientation = "LPS"\nspacing_mm = [1.0, 1.0]', "says spacing_mm"),
        ('orientation = "LPS"\nspacing_mm = 1.0', "says spacing_mm 1.0"),
        ('orientation = "LPS"\nspacing_mm = ["1", "1", "1"]', "says spacing_mm"),
    ],
)  # fmt: skip
def test_a_package_with_another_grid_than_the_data_is_refused(method, grid, named, with_grid, tmp_path):
    with pytest.raises(BadInput, match=named):
        train(with_grid(method, grid), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", list(METHODS))
def test_a_spacing_that_is_rounded_is_the_datas(method, with_grid):
    grid = 'orientation = "LPS"\nspacing_mm = [1.0004, 1, 0.9996]'
    check_data(METHODS[method][1](with_grid(method, grid)))
