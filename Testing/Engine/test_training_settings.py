"""`train`: settings that it refuses before the first step, and that the shipped configurations are complete."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_package
from tiny_package import DESCRIPTION, make_package
from tiny_training import prepared_set, write_config

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.presets import load_preset
from SynthDiffusionLib.models.spec import DiffusionSpec
from SynthDiffusionLib.training.checks import check_run
from SynthDiffusionLib.training.config import SegmenterConfig, load_config
from SynthDiffusionLib.training.dataset import read_description

ROOT = Path(__file__).resolve().parents[2]
model_folders = tiny_package.model_folders


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepared_set(tmp_path_factory.mktemp("data"))


WRONG_SETTINGS = [
    # piece of the configuration, what stands there instead, what the error must name
    ("ema = 0.9", "emma = 0.9", "[optimiser] has no setting 'emma'"),
    ("seed = 7", "sede = 7", "[run] has no setting 'sede'"),
    ("seed = 7", "seed = 7\npatches = 3", "[run] has no setting 'patches'"),
    ("[patches]", "[patchs]", "unknown table [patchs]"),
    ("[network]", "[[network]]", "'network' is not a table"),
    ("patch = 8", "patch = 9", "multiple of 2"),
    ("steps = 30\n", "", "[[phase]] needs steps and batch of at least 1"),
    ("seed = 7", "seed = 7\nminutes = 1", "[run] gives minutes: there must be one [[phase]], without steps"),
    ("seed = 7", "seed = 7\nminutes = -1", "[run] minutes must be above 0"),
    ("seed = 7", 'seed = 7\nclock = "sun"', "[run] clock must be one of wall, processor, not 'sun'"),
    ("steps = 30\n", "steps = 1.5\n", "[phase] steps must be a whole number, not 1.5"),
    ("steps = 30\n", "steps = true\n", "[phase] steps must be a whole number, not True"),
    ("field_sizes = [16, 20]", "field_sizes = [16, 20, 24]", "field_sizes must be two numbers"),
    ("field_sizes = [16, 20]", "field_sizes = [20, 16]", "field_sizes must rise"),
    ("patch = 16\nbatch = 2\n\n[[phase]]", "patch = 15\nbatch = 2\n\n[[phase]]", "multiple of 2"),
    ("batch = 3", "batch = 0", "batch of at least 1"),
    ("norm_groups = 4", "norm_groups = 3", "[network] does not describe a network"),
    ("norm_groups = 4", "groups = 4", "[network] does not describe a network"),
    ("lung = 0.4", "lungs = 0.4", "drop names 'lungs'"),
    ("lung = 0.4", "lung = 4", "drop.lung is a probability, not 4"),
    ("field_sizes", "target = 'tumour'\nfield_sizes", "target 'tumour' is no class"),
    ('"linear"', '"sigmoid"', "beta_schedule must be one of linear"),
    ('"v_prediction"', '"velocity"', "a rectified_flow predicts the velocity, and nothing else does"),
    ('"linear"', '"rectified_flow"', "beta_schedule must be one of linear"),
    ("seed = 7", 'seed = 7\npreset = "patch-ddpm"', "[network] is given, and preset = 'patch-ddpm' in [run] too"),
    ("seed = 7", 'seed = 7\npreset = "patch-dppm"', "preset 'patch-dppm' is unknown. Choose one of: maisi-ddpm"),
    ("seed = 7", "seed = 7\npreset = 3", "preset 3 is unknown"),
    (
        "seed = 7",
        'seed = 7\npreset = "medlord-x4"',
        'of the method medlord, which this kind of run does not train. Write method = "medlord" in [run]',
    ),
    ("seed = 7", 'seed = 7\npreset = "maisi-rflow"', "of the method maisi, which this kind of run does not train"),
    ('precision = "32-true"', 'precision = "fp8"', "Unknown precision 'fp8'"),
    ('precision = "32-true"', 'precision = "16-mixed"', "The CPU cannot train with the precision 16-mixed"),
    ('label_scheme = "lung-nodule-ct"', 'label_scheme = "lungs"', "Unknown label scheme 'lungs'"),
    ('id = "tiny-trained"\n', "", "[package] has no 'id'"),
    ('id = "tiny-trained"', 'id = "Tiny Trained"', "id"),
    ('orientation = "LPS"', 'orientation = "RAS"', "orientation RAS, but the data set has LPS"),
    ('default_sampler = "ddim"', 'default_sampler = "dimm"', "dimm"),
    ("margin_mm = 2.0\n", "", "margin_mm"),
    ("patch = 16\nbatch = 2\n\n[package]", "patch = 15\nbatch = 2\n\n[package]", "[segmenter] needs"),
    ("seed = 7", "seed = -7", "seed must be a whole number from 0"),
    ("seed = 7", "seed = 99999999999999999999", "seed must be a whole number from 0"),
    ("learning_rate = 5e-3", "learning_rate = inf", "[optimiser] learning_rate = inf"),
    ("learning_rate = 5e-3", "learning_rate = 0", "learning_rate must be above 0"),
    ("learning_rate = 5e-3", "gradient_clip = nan", "[optimiser] gradient_clip = nan"),
    ("learning_rate = 5e-3", "gradient_clip = -1.0", "gradient_clip must be above 0"),
    ("learning_rate = 5e-3", "weight_decay = -1.0", "weight_decay must be from 0 to 1"),
    ("beta_start = 1e-3", "beta_start = nan", "[diffusion] beta_start = nan"),
    ("margin_mm = 2.0", "margin_mm = inf", "[package.inpaint] margin_mm = inf"),
    ("channels = [8, 8]", "channels = [8, -8]", "[network] does not describe a network: channels must be"),
    ("channels = [8, 8]", "channels = [8, 100000000]", "[network] does not describe a network: channels must be"),
    ("channels = [8, 8]", "channels = [4096, 4096, 4096]", "more than 1,000,000,000"),
    ("norm_groups = 4", "norm_groups = 0", "norm_groups must be a whole number from 1"),
    ("channels = [4, 8]", "channels = [4, 0]", "[segmenter] channels must be"),
    ("channels = [4, 8]", "channels = [4]", "[segmenter] channels must be"),
    ("batch = 2", "batch = 1000000", "batch must be at most 1024, not 1000000"),
    ("drop = { body = 0.4, lung = 0.4, bone = 0.5, nodule = 0.15 }", "drop = 3", "drop must be a table"),
    ("field_sizes = [16, 20]", "field_sizes = [16, 2000]", "field_sizes go up to 2000 voxels, but no case has more"),
    ("field_sizes = [16, 20]", "field_sizes = [26, 30]", "24x24x24 voxels, fewer than the 26 that 'field_sizes'"),
]


@pytest.mark.parametrize(("old", "new", "named"), WRONG_SETTINGS, ids=[str(i) for i in range(len(WRONG_SETTINGS))])
def test_wrong_settings_get_one_line(old, new, named, data, tmp_path, capsys):
    config = write_config(tmp_path, data, ((old, new),))
    out = tmp_path / "out"
    assert main(["train", str(config), "--out", str(out), "--device", "cpu"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("synthdiffusion: error: ") and named in lines[0], lines
    assert not out.exists()


@pytest.mark.parametrize("table", ["package", "network", "diffusion", "phase"])
def test_missing_tables_get_one_line(table, data, tmp_path, capsys):
    text = write_config(tmp_path, data).read_text(encoding="utf-8")
    head = f"[[{table}]]" if table == "phase" else f"[{table}"
    blocks = [b for b in text.split("\n\n") if not b.strip().startswith(head)]
    (tmp_path / "tiny.toml").write_text("\n\n".join(blocks), encoding="utf-8")
    assert main(["train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"has no [{table}] table" in error and len(error.splitlines()) == 1


def test_other_refusals_get_one_line(data, tmp_path, capsys):
    def refusal(config: Path, *arguments: str) -> str:
        assert main(["train", str(config), "--out", str(tmp_path / "out"), *arguments]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    assert "Cannot read" in refusal(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\n", encoding="utf-8")
    assert "is not valid TOML" in refusal(broken)
    broken.write_bytes(b"[run]\nx = '\xff'\n")
    assert "is not valid TOML" in refusal(broken)
    assert "is not a prepared data set" in refusal(write_config(tmp_path, tmp_path / "nowhere"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "dataset.json").write_text("{", encoding="utf-8")
    assert "is damaged" in refusal(write_config(tmp_path, damaged))
    (damaged / "dataset.json").write_text("{}", encoding="utf-8")
    assert "unknown format" in refusal(write_config(tmp_path, damaged))
    empty = tmp_path / "empty"
    shutil.copytree(data, empty)
    text = (data / "dataset.json").read_text(encoding="utf-8")
    (empty / "dataset.json").write_text(text.replace('"validation"', '"others"'), encoding="utf-8")
    assert "has no validation cases" in refusal(write_config(tmp_path, empty))
    (empty / "dataset.json").write_text(text.replace('"nodule": 4', '"nodule": 3'), encoding="utf-8")
    assert "prepared for other classes" in refusal(write_config(tmp_path, empty))
    shutil.copy(data / "dataset.json", empty / "dataset.json")
    shutil.rmtree(empty / "images")
    assert ".nii.gz" in refusal(write_config(tmp_path, empty), "--device", "cpu")
    assert "Unknown device 'gpu'" in refusal(write_config(tmp_path, data), "--device", "gpu")


def without_tables(path: Path, *names: str) -> Path:
    """The configuration with these tables taken out."""
    blocks = [b for b in path.read_text(encoding="utf-8").split("\n\n") if not b.strip().startswith(names)]
    path.write_text("\n\n".join(blocks), encoding="utf-8")
    return path


def test_a_preset_stands_for_its_tables(data, tmp_path):
    preset = load_preset("patch-ddpm")
    patches = (("patch = 16", "patch = 64"), ("patch = 8", "patch = 64"))  # multiples of what seven levels take
    config = write_config(tmp_path, data, (("seed = 7", 'seed = 7\npreset = "patch-ddpm"'), *patches))
    config = load_config(without_tables(config, "[network]", "[diffusion]"))
    assert config.network == preset.network.parameters and config.network["channels"][0] == 29
    assert DiffusionSpec(**config.diffusion) == preset.diffusion
    assert config.intensity_range == preset.intensity.range
    check_run(config, load_scheme(config.label_scheme), read_description(data))
    own = (("seed = 7", 'seed = 7\npreset = "patch-ddpm"\nintensity_range = [-900.0, 300.0]'),)
    config = load_config(without_tables(write_config(tmp_path, data, own), "[network]", "[diffusion]"))
    assert config.intensity_range == (-900.0, 300.0)
    with pytest.raises(BadInput, match=r"\[diffusion\] is given, and preset"):
        load_config(without_tables(write_config(tmp_path, data, own), "[network]"))


def test_what_the_package_says_of_its_segmenter(model_folders):
    """Only what differs from the defaults is said, and the package that says it is read again."""
    shipped, _ = model_folders
    assert SegmenterConfig(patch=24).details() == {"patch": 24}
    full = SegmenterConfig(patch=32, intensity_range=(-200.0, 300.0), context_voxels=6, ball_radius_mm=12.5)
    expected = {"patch": 32, "intensity_range": [-200.0, 300.0], "context_voxels": 6, "ball_radius_mm": 12.5}
    assert full.details() == expected
    make_package(shipped / "tiny-ct", segmenter=DESCRIPTION["segmenter"] | full.details())
    assert load_package("tiny-ct").spec.segmenter.details == expected


@pytest.mark.parametrize("name", ["lung-nodule-ct.toml", "lung-nodule-ct-gpu.toml"])
def test_shipped_configurations_are_complete(name):
    """All but data and initial weights: settings that exist, a network that builds, a package that would be valid."""
    config = replace(load_config(ROOT / "Resources" / "Training" / name), initial_weights=None)
    scheme = load_scheme(config.label_scheme)
    description = {
        "unit": "HU",
        "spacing_mm": 1.0,
        "orientation": "LPS",
        "classes": {c.name: c.value for c in scheme.condition_classes},
        "split_seed": 2026,
        "split": {"train": ["1_a"], "validation": ["2_a"], "test": ["3_a"]},
        "cases": {name: {"patient": name[0]} for name in ("1_a", "2_a", "3_a")},
    }
    check_run(config, scheme, description)
    assert config.phases == tuple(sorted(config.phases, key=lambda p: p.patch))
    with pytest.raises(BadInput, match="no train cases"):
        check_run(config, scheme, description | {"split": {"train": [], "validation": ["2_a"]}})
