"""The script that trains both MR models on a GPU: the configurations that it makes of the shipped ones."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.training.stages import load_stage_config, method_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import train_mr_models as script  # noqa: E402


@pytest.mark.parametrize(("model", "stage"), [(m, s) for m, (_, stages) in script.MODELS.items() for s in stages])
def test_a_stage_gets_its_minutes_on_the_wall_and_its_batch(model, stage, tmp_path, monkeypatch):
    shipped = script.CONFIGURATIONS / f"{model}-{stage}.toml"
    (tmp_path / shipped.name).write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(script, "CONFIGURATIONS", tmp_path)
    made = script.configuration(model, stage, 0.5)
    method = importlib.import_module(f"SynthDiffusionLib.training.{method_of(shipped)}.config").METHOD
    config, before = load_stage_config(made, method), load_stage_config(shipped, method)
    minutes, batch = script.ON_GPU[f"{model}-{stage}"]
    assert (config.minutes, config.clock) == (pytest.approx(0.5 * minutes, abs=1e-3), "wall")
    assert config.optimiser.batch == batch and config.network == before.network
    if before.segmenter is not None:
        assert config.segmenter.steps == before.segmenter.steps // 2
        assert config.segmenter.batch == before.segmenter.batch
