"""What the refiner of the slice-based model is scored on: pieces that come out as they do in the whole volume."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import tiny_training_slice_ldm as tiny
import torch
from tiny_training_slice_ldm import write_config

from SynthDiffusionLib.training.loop import make_fabric
from SynthDiffusionLib.training.slice_ldm.autoencoder import build_trained
from SynthDiffusionLib.training.slice_ldm.config import load_slice_ldm_config
from SynthDiffusionLib.training.slice_ldm.earlier import Autoencoder, read_stage
from SynthDiffusionLib.training.slice_ldm.refiner import Mended, Piece, RefinerStage

slice_data, slice_run = tiny.slice_data, tiny.slice_run


def refiner_stage(slice_run: dict, slice_data: Path, tmp_path: Path, *changes: tuple[str, str]) -> RefinerStage:
    """The stage beside the autoencoder of the finished run, with a refiner whose weights are all random."""
    shutil.copytree(slice_run["folder"] / "autoencoder", tmp_path / "autoencoder")
    config = load_slice_ldm_config(write_config(tmp_path, "refiner", slice_data, *changes))
    fabric = make_fabric(config, "cpu")
    network = build_trained("refiner", config.network)
    for head in (network.latents.head, network.images.head):
        torch.nn.init.normal_(head.weight, std=0.3)
    return RefinerStage(config, fabric, Autoencoder(read_stage(config.autoencoder, "autoencoder"), fabric), network)


def test_what_is_scored_of_a_piece_is_what_the_whole_volume_gives(slice_run, slice_data, tmp_path):
    """Against `Autoencoder.decode` of the whole stack, which is how a package decodes."""
    still = ("shift = [3, 2, 4]\nintensity_scale = 0.1", "flip_probability = [0.0, 0.0, 0.0]")
    stage = refiner_stage(slice_run, slice_data, tmp_path, still, ("slices = 6", "slices = 6\nnoise = 0.0"))
    assert (stage.reach, stage.slices) == (4, 6)
    refiner = copy.deepcopy(stage.parts["network"])
    wholes = [stage.autoencoder.decode(stage.autoencoder.encode(pair[None]), refiner).detach() for pair in stage.train]
    seen, straight = [], stage._loss

    def keep(found: torch.Tensor, real: torch.Tensor):
        seen.append((found.detach(), real))
        return straight(found, real)

    stage._loss = keep
    for step in range(4):
        stage.trained.refiner.load_state_dict(refiner.state_dict())
        stage.train_step(step, 0.0)
    starts = set()
    for found, real in seen:
        assert found.shape == real.shape == (1, 2, 24, 20, 6)
        case, start = next(
            (case, start)
            for case, pair in enumerate(stage.train)
            for start in range(11)
            if torch.equal(pair[None, ..., start : start + 6], real)
        )
        starts.add(start)
        torch.testing.assert_close(found, wholes[case][..., start : start + 6], rtol=0, atol=1e-5)
        plain = stage.autoencoder.decode(stage.autoencoder.encode(real), refiner)
        assert float((plain - wholes[case][..., start : start + 6]).abs().max()) > 1e-2  # without the slices around it
    assert len(starts) > 3
    places = stage.places
    for start in (0, 3, 10):  # at both ends and between them
        piece = Piece.of(start, 6, 16, stage.reach)
        latents = stage.autoencoder.encode(stage.train[0][None])
        mended = Mended(refiner, stage.autoencoder.network)
        found = mended(latents[..., piece.encoded], places, piece)
        torch.testing.assert_close(found, wholes[0][..., start : start + 6], rtol=0, atol=1e-5)
    assert Piece.of(0, 6, 16, 4) == Piece(slice(0, 6), slice(0, 10), slice(0, 14))


@pytest.mark.parametrize(("asked", "scored"), [(7, 7), (8, 16), (0, 16), (40, 16)])
def test_pieces_that_need_the_whole_volume_are_the_whole_volume(asked, scored, slice_run, slice_data, tmp_path):
    stage = refiner_stage(slice_run, slice_data, tmp_path, ("slices = 6", f"slices = {asked}"))
    assert stage.slices == scored


def test_a_step_in_mixed_precision(slice_run, slice_data, tmp_path):
    """Fabric converts what a network is given then, and takes no frozen dataclass."""
    stage = refiner_stage(
        slice_run,
        slice_data,
        tmp_path,
        ('precision = "32-true"', 'precision = "bf16-mixed"'),
        ("slices = 6", "slices = 6"),
    )
    losses = stage.train_step(0, 0.0)
    assert all(torch.isfinite(value) for value in losses.values())
