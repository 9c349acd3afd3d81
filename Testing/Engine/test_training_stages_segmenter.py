"""The segmenter of a method that is trained in stages: what of it is refused before the stage is trained for hours."""

from __future__ import annotations

import shutil

import pytest
import tiny_training_slice_ldm as tiny
from tiny_training_slice_ldm import write_config

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training.train import train

slice_data, slice_run = tiny.slice_data, tiny.slice_run


def test_a_segmenter_of_other_steps_is_refused_before_the_stage_trains(slice_run, slice_data, tmp_path):
    """Its learning rate has come down by the steps that it was begun with. The same steps go on."""
    shutil.copytree(slice_run["folder"], tmp_path, dirs_exist_ok=True)
    out, events, wider = tmp_path / "diffusion", [], "channels = [4, 8]\nsteps = 4"
    weights = (out / "segmenter.pt").read_bytes()
    for steps, match in ((6, "begun with 4 steps, but .* steps = 6"), (3, "is of step 4")):
        config = write_config(tmp_path, "diffusion", slice_data, (wider, f"channels = [4, 8]\nsteps = {steps}"))
        with pytest.raises(BadInput, match=match):
            train(config, out, device="cpu", resume=True, on_event=events.append)
    config = write_config(tmp_path, "diffusion", slice_data, (wider, "channels = [8, 8]\nsteps = 4"))
    with pytest.raises(BadInput, match=r"segmenter\.pt' is of another network"):
        train(config, out, device="cpu", resume=True, on_event=events.append)
    train(write_config(tmp_path, "diffusion", slice_data), out, device="cpu", resume=True)
    assert events == [] and (out / "segmenter.pt").read_bytes() == weights
