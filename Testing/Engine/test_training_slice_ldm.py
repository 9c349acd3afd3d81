"""Training of the slice-based model: three stages on phantoms, going on after a kill, copies, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tiny_training_slice_ldm as tiny
import torch
from safetensors.torch import load_file
from tiny_training import LPS, ball
from tiny_training_slice_ldm import TEXTS, checkpoint, diffusion_stage, write_config

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.characteristics import measure
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.characteristics import NAMES
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.networks.build import build_network, count_parameters
from SynthDiffusionLib.training.loop import make_fabric
from SynthDiffusionLib.training.slice_ldm.autoencoder import AutoencoderStage, build_trained, divergence
from SynthDiffusionLib.training.slice_ldm.config import METHOD, VolumeConfig, load_slice_ldm_config
from SynthDiffusionLib.training.slice_ldm.earlier import Autoencoder, read_stage
from SynthDiffusionLib.training.slice_ldm.latents import Latent, LatentSet, packed, unpacked
from SynthDiffusionLib.training.slice_ldm.losses import hard_dice, neighbour_loss, soft_dice
from SynthDiffusionLib.training.slice_ldm.pack import package_content
from SynthDiffusionLib.training.slice_ldm.refiner import RefinerStage
from SynthDiffusionLib.training.slice_ldm.volumes import (
    AIR,
    SliceSource,
    Variation,
    draw_variation,
    load_pairs,
    shifted,
    varied,
)
from SynthDiffusionLib.training.train import train

slice_data, slice_run = tiny.slice_data, tiny.slice_run
ROOT = Path(__file__).resolve().parents[2]


def silent(event: dict) -> None:
    """Takes events."""


def test_the_stages_make_a_package_whose_weights_are_theirs(slice_run):
    package = load_package(slice_run["package"])
    spec = package.spec
    assert (spec.id, spec.backend, spec.target_class, spec.modes) == ("tiny-slices", "slice_ldm", "nodule", ("joint",))
    assert spec.latent.factors == (2, 2, 1) and spec.latent.decoded_range == (-1.0, 1.0)
    assert spec.grid.default_size == spec.grid.min_size == spec.grid.max_size == (24, 20, 16)
    assert spec.controls.guidance
    stages = {"denoiser": "diffusion", "autoencoder": "autoencoder", "refiner": "refiner"}
    networks = {"denoiser": spec.network, "autoencoder": spec.autoencoder, "refiner": spec.refiner}
    for role, stage in stages.items():
        tensors = {k: v.float() for k, v in package.load_tensors(role).items()}
        build_network(networks[role]).load_state_dict(tensors, strict=True)
        for name, tensor in checkpoint(slice_run["folder"] / stage)["weights"].items():
            torch.testing.assert_close(tensors[name], tensor.half().float(), rtol=0, atol=0)
    build_network(spec.segmenter.network).load_state_dict(
        {k: v.float() for k, v in package.load_tensors("segmenter").items()}
    )
    assert spec.provenance["steps"] == {"autoencoder": 4, "diffusion": 4, "refiner": 4}


def test_characteristics_of_the_package_are_those_of_all_training_copies(slice_run):
    spec = load_package(slice_run["package"]).spec
    table = np.concatenate(
        [
            [tensors[f"characteristics{n}"].numpy() for n in range(3)]
            for tensors in map(load_file, sorted((slice_run["folder"] / "diffusion" / "latents").glob("train-*")))
        ]
    )
    assert table.shape == (12, 9) and spec.characteristics.cases == 4  # patients, of three copies each
    np.testing.assert_allclose(np.array(spec.characteristics.range).T, [table.min(0), table.max(0)])
    assert spec.characteristics.scale[3:] == (24.0, 20.0, 16.0, 24.0, 20.0, 16.0)  # mm: the phantoms have 1 mm
    assert spec.characteristics.scale[0] == pytest.approx(table[:, 0].max(), rel=1e-5)


def test_events_log_and_pictures(slice_run):
    progress = [(e["stage"], e["step"], e["total"]) for e in slice_run["events"] if e["event"] == "progress"]
    assert progress[:6] == [(f"train {s}", n, 4) for s in TEXTS for n in (2, 4)]
    notes = [e["message"] for e in slice_run["events"] if e["event"] == "note"]
    assert any("No perceptual loss" in n for n in notes) and any("scale factor" in n for n in notes)
    for stage in TEXTS:
        with (slice_run["folder"] / stage / "log.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["step"] for row in rows] == ["2", "4"]
        assert rows[0]["validation_loss"] == "" and float(rows[1]["validation_loss"]) > 0
        assert (slice_run["folder"] / stage / "samples" / "step000004.png").stat().st_size > 100


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stage", list(TEXTS))
def test_a_killed_stage_that_goes_on_ends_with_the_same_weights(stage, slice_run, slice_data, tmp_path):
    for earlier in ("autoencoder", "refiner"):
        if earlier != stage:
            shutil.copytree(slice_run["folder"] / earlier, tmp_path / earlier)
    config = write_config(tmp_path, stage, slice_data, ("log_every = 2", "log_every = 1"))

    def die(event: dict) -> None:
        if event["event"] == "progress" and event["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / stage, device="cpu", on_event=die)
    assert checkpoint(tmp_path / stage)["step"] == 2
    with pytest.raises(BadInput, match="already holds a run"):
        train(config, tmp_path / stage, device="cpu")
    train(config, tmp_path / stage, device="cpu", resume=True)
    resumed, straight = checkpoint(tmp_path / stage), checkpoint(slice_run["folder"] / stage)
    assert resumed["step"] == straight["step"] == 4
    for table in ("network", "weights"):
        assert resumed[table].keys() == straight[table].keys()
        for name, tensor in straight[table].items():
            torch.testing.assert_close(resumed[table][name], tensor, rtol=0, atol=0)


def test_the_segmenter_trains_alone(slice_data, tmp_path):
    made = train(write_config(tmp_path, "diffusion", slice_data), tmp_path / "run", device="cpu", only_segmenter=True)
    assert made.name == "segmenter.pt" and not (tmp_path / "run" / "checkpoint.pt").exists()
    with pytest.raises(BadInput, match="no \\[segmenter\\]"):
        train(write_config(tmp_path, "refiner", slice_data), tmp_path / "run", device="cpu", only_segmenter=True)


def test_the_autoencoder_learns_the_phantoms(slice_data, tmp_path):
    config = load_slice_ldm_config(
        write_config(tmp_path, "autoencoder", slice_data, ("learning_rate = 1e-3", "learning_rate = 5e-3"))
    )
    stage = AutoencoderStage(config, make_fabric(config, "cpu"), silent)
    before = stage.validate()
    for step in range(60):
        stage.train_step(step, 0.0)
    after = stage.validate()
    assert after["validation_loss"] < 0.6 * before["validation_loss"]
    assert after["validation_psnr"] > before["validation_psnr"] + 3


def test_a_fresh_refiner_changes_nothing_and_a_trained_one_mends(slice_run, slice_data, tmp_path):
    shutil.copytree(slice_run["folder"] / "autoencoder", tmp_path / "autoencoder")
    config = load_slice_ldm_config(
        write_config(tmp_path, "refiner", slice_data, ("learning_rate = 1e-3", "learning_rate = 5e-3"))
    )
    fabric = make_fabric(config, "cpu")
    autoencoder = Autoencoder(read_stage(config.autoencoder, "autoencoder"), fabric)
    before = {name: tensor.clone() for name, tensor in autoencoder.network.state_dict().items()}
    stage = RefinerStage(config, fabric, autoencoder, build_trained("refiner", config.network))
    fresh = stage.validate()
    for name in ("loss", "neighbours", "psnr", "dice"):
        assert fresh[f"validation_{name}"] == fresh[f"unrefined_{name}"]
    for step in range(25):
        stage.train_step(step, 0.0)
    trained = stage.validate()
    assert trained["unrefined_loss"] == fresh["unrefined_loss"]
    assert trained["validation_loss"] < 0.8 * trained["unrefined_loss"]
    assert all(torch.equal(before[name], tensor) for name, tensor in autoencoder.network.state_dict().items())


def test_the_diffusion_learns_and_its_scale_is_one_over_the_standard_deviation(slice_run, slice_data, tmp_path):
    stage = diffusion_stage(slice_run, slice_data, tmp_path, ("learning_rate = 1e-3", "learning_rate = 5e-3"))
    every = torch.cat([latent.latent.double().flatten() for latent in stage.latents.train])
    assert stage.latents.scale_factor == pytest.approx(1.0 / float(every.std(correction=0)), rel=1e-9)
    assert checkpoint(tmp_path / "diffusion")["scale_factor"] == stage.latents.scale_factor
    before = stage.validate()["validation_loss"]
    for step in range(60):
        stage.train_step(step, 0.0)
    assert stage.validate()["validation_loss"] < 0.9 * before  # what predicts nothing stays at 0.8, the mean of |noise|


def test_a_cosine_schedule_may_be_trained_with_another_prediction(slice_data, tmp_path):
    changes = [('"scaled_linear"', '"squaredcos_cap_v2"'), ('"epsilon"', '"v_prediction"')]
    config = load_slice_ldm_config(write_config(tmp_path, "diffusion", slice_data, *changes))
    assert config.diffusion["prediction"] == "v_prediction"
    changes = [('"scaled_linear"', '"squaredcos_cap_v2"'), ('prediction = "epsilon"', "")]  # epsilon is the default
    with pytest.raises(BadInput, match="cannot predict epsilon"):
        load_slice_ldm_config(write_config(tmp_path, "diffusion", slice_data, *changes))


def test_without_dropped_conditions_the_package_allows_no_guidance(slice_run, slice_data, tmp_path):
    for stage in ("autoencoder", "refiner"):
        shutil.copytree(slice_run["folder"] / stage, tmp_path / stage)
    config = load_slice_ldm_config(write_config(tmp_path, "diffusion", slice_data, ("drop = 0.25", "drop = 0.0")))
    content = package_content(
        config,
        checkpoint(tmp_path / "autoencoder"),
        None,
        checkpoint(slice_run["folder"] / "diffusion"),
        segmenter_steps=0,
    )
    assert content["controls"] == {"guidance": False}
    assert "refiner" not in content and "segmenter" not in content


def test_stored_copies_are_varied_as_numpy_varies_and_measured_from_their_masks(slice_run, slice_data):
    config = load_slice_ldm_config(slice_run["folder"] / "diffusion.toml")
    scheme, volumes = load_scheme(config.label_scheme), config.volumes
    moved = 0
    for index, pair in enumerate(load_pairs(config.data, "train", scheme, volumes, config.intensity_range)):
        tensors = load_file(slice_run["folder"] / "diffusion" / "latents" / f"train-{pair.name}.safetensors")
        for copy in range(3):
            mask = unpacked(tensors[f"mask{copy}"], pair.size)
            found = measure(mask, pair.affine)
            np.testing.assert_array_equal(tensors[f"characteristics{copy}"].numpy(), [found[name] for name in NAMES])
            variation = draw_variation(volumes, np.random.default_rng([config.seed, 20, index, copy]))
            moved += any(variation.shift)
            by_numpy = np.flip(pair.pair[1].numpy() > 0, variation.flips)
            around = np.pad(by_numpy, 4)
            inside = tuple(slice(4 - s, 4 - s + n) for s, n in zip(variation.shift, pair.size))
            np.testing.assert_array_equal(mask, around[inside])
    assert moved > 5
    validation = load_pairs(config.data, "validation", scheme, volumes, config.intensity_range)
    for pair in validation:
        tensors = load_file(slice_run["folder"] / "diffusion" / "latents" / f"validation-{pair.name}.safetensors")
        np.testing.assert_array_equal(unpacked(tensors["mask0"], pair.size), pair.pair[1].numpy() > 0)


def test_a_shift_moves_the_centre_and_nothing_else():
    """On a grid of 2 x 3 x 5 mm in LPS, where i runs to the left and j to the back."""
    affine = LPS @ np.diag([2.0, 3.0, 5.0, 1.0])
    mask = np.where(ball((20, 18, 16), (8, 9, 7), 3.0), 1.0, -1.0)
    pair = torch.from_numpy(np.stack([np.zeros(mask.shape), mask])).float()

    def characteristics(variation: Variation) -> np.ndarray:
        return np.array(list(measure((varied(pair, variation, "air")[1] > 0).numpy(), affine).values()))

    plain, moved = characteristics(Variation()), characteristics(Variation(shift=(3, -2, 4)))
    np.testing.assert_allclose(moved - plain, [0, 0, 0, -6.0, 6.0, 20.0, 0, 0, 0], atol=1e-4)
    turned = characteristics(Variation(flips=(0, 2)))
    np.testing.assert_allclose(turned, plain * np.array([1, 1, 1, -1, 1, -1, 1, 1, 1]), rtol=1e-4, atol=1e-4)


def test_a_shift_that_would_lose_the_target_is_not_made_and_brightness_leaves_the_mask():
    pair = torch.full((2, 6, 6, 6), AIR)
    pair[0, 1:3] = 0.5
    pair[1, 0, 0, 0] = 1.0
    kept = varied(pair, Variation(shift=(-2, 0, 0), scale=1.2), "air")
    assert torch.equal(kept[1], pair[1])
    assert float(kept[0].max()) == pytest.approx(1.5 * 1.2 - 1) and float(kept[0].min()) == AIR


def test_shifts_fill_with_air_or_mirror_as_numpy_does():
    array = torch.arange(2 * 5 * 4 * 6, dtype=torch.float32).view(2, 5, 4, 6)
    for shift in ((2, -1, 3), (-4, 3, -5), (0, 0, 1)):
        inside = (slice(None), *(slice(5 - s, 5 - s + n) for s, n in zip(shift, (5, 4, 6))))
        pads = ((0, 0), (5, 5), (5, 5), (5, 5))
        by_numpy = {
            "air": np.pad(array.numpy(), pads, constant_values=AIR),
            "reflect": np.pad(array.numpy(), pads, mode="reflect"),
        }
        for border, padded in by_numpy.items():
            np.testing.assert_array_equal(shifted(array, shift, border).numpy(), padded[inside])


@pytest.mark.parametrize("border", ["air", "reflect"])
def test_slices_are_those_of_the_varied_volume_at_their_place(border):
    rng = np.random.default_rng(3)
    pair = torch.from_numpy(rng.uniform(-1, 1, (2, 6, 5, 8))).float()
    pair[1] = 1.0
    config = VolumeConfig(flip_probability=(0.5, 0.5, 0.5), shift=(2, 2, 3), border=border, intensity_scale=0.2)
    source = SliceSource.of([pair], empty_share=1.0)
    for seed in range(40):
        drawn, places = source.draw(1, config, np.random.default_rng(seed))
        same = np.random.default_rng(seed)
        same.integers(1)
        whole = varied(pair, draw_variation(config, same), border)
        torch.testing.assert_close(drawn[0], whole[..., int(places[0])], rtol=0, atol=0)


def test_empty_slices_come_as_seldom_as_asked():
    pair = torch.full((2, 4, 4, 8), AIR)
    pair[0, 2, 2, :3] = 0.3
    pair[1, 1, 1, 3] = 1.0  # a slice with the target alone is not empty
    still = VolumeConfig(flip_probability=(0.0, 0.0, 0.0))
    for share in (0.0, 0.1, 1.0):
        _, places = SliceSource.of([pair], share).draw(3000, still, np.random.default_rng(0))
        assert float((places > 3).float().mean()) == pytest.approx(share / (1 + share), abs=0.03)
    with pytest.raises(BadInput, match="No slice"):
        SliceSource.of([torch.full((2, 4, 4, 8), AIR)], 0.1)


def test_no_case_is_in_both_parts(slice_run, slice_data):
    files = [p.stem for p in (slice_run["folder"] / "diffusion" / "latents").glob("*.safetensors")]
    names = {
        part: {f.removeprefix(f"{part}-") for f in files if f.startswith(part)} for part in ("train", "validation")
    }
    split = json.loads((slice_data / "dataset.json").read_text(encoding="utf-8"))["split"]
    assert names == {part: set(split[part]) for part in names} and not names["train"] & names["validation"]


def test_a_cut_volume_lies_where_the_whole_did(slice_data):
    """[volumes] size cuts about the target; the centre of mass in the room stays."""
    scheme = load_scheme("lung-nodule-ct")
    for whole, cut in zip(
        load_pairs(slice_data, "train", scheme, VolumeConfig(), (-1000.0, 400.0)),
        load_pairs(slice_data, "train", scheme, VolumeConfig(size=(26, 20, 16)), (-1000.0, 400.0)),
    ):
        assert cut.size == (26, 20, 16) and whole.size == (24, 24, 24)
        centres = [
            p.affine[:3, :3] @ np.argwhere(p.pair[1].numpy() > 0).mean(0) + p.affine[:3, 3] for p in (whole, cut)
        ]
        np.testing.assert_allclose(centres[0], centres[1], atol=1e-6)
        assert int((cut.pair[0] == AIR).flatten(1).all(1).sum()) == 2  # padded from 24 to 26


def test_damaged_and_stale_latents_are_encoded_anew(slice_run, slice_data, tmp_path):
    for stage in TEXTS:
        shutil.copytree(slice_run["folder"] / stage, tmp_path / stage)
    config = write_config(tmp_path, "diffusion", slice_data)
    folder = tmp_path / "diffusion" / "latents"

    def encoded_now() -> int:
        events = []
        train(config, tmp_path / "diffusion", device="cpu", resume=True, on_event=events.append)
        note = next(e["message"] for e in events if e["event"] == "note")
        return int(note.split(" cases encoded now")[0].split()[-1])

    assert encoded_now() == 0
    for damage in (lambda b: b[: len(b) // 2], lambda b: b[:-3] + bytes([b[-3] ^ 1]) + b[-2:], lambda b: b""):
        file = sorted(folder.glob("train-*.safetensors"))[1]
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        assert encoded_now() == 1
        assert file.read_bytes() == whole
    config = write_config(tmp_path, "diffusion", slice_data, ("shift = [3, 2, 4]", "shift = [3, 2, 3]"))
    assert encoded_now() == 5


def test_checkpoints_that_do_not_fit_are_refused(slice_run, slice_data, tmp_path):
    for stage in ("autoencoder", "refiner"):
        shutil.copytree(slice_run["folder"] / stage, tmp_path / stage)
    diffusion = write_config(tmp_path, "diffusion", slice_data)
    path = tmp_path / "autoencoder" / "checkpoint.pt"
    whole = path.read_bytes()

    def refused(match: str) -> BadInput:
        with pytest.raises(BadInput, match=match) as refusal:
            train(diffusion, tmp_path / "run", device="cpu")
        return refusal.value

    path.write_bytes(whole[:-200])
    assert refused("damaged").hint == (
        f"Remove it, and train that stage again: synthdiffusion train ...-autoencoder.toml --out '{path.parent}'."
    )
    for change, match in (
        ({"intensity_range": [1.0, 1.0]}, "not two rising numbers"),
        ({"size": [24, 20]}, "size"),
        ({"network_json": {"channels": [8], "strides": [1]}}, "not those of the network"),
    ):
        path.write_bytes(whole)
        torch.save({**checkpoint(tmp_path / "autoencoder"), **change}, path)
        refused(match)
    path.write_bytes(whole)
    state = checkpoint(tmp_path / "autoencoder")
    name = next(iter(state["weights"]))
    torch.save({**state, "weights": {**state["weights"], name: state["weights"][name] + 0.1}}, path)
    refused("trained with another autoencoder")
    path.unlink()
    refused("holds no checkpoint")
    shutil.copy(tmp_path / "refiner" / "checkpoint.pt", path)
    refused("is a run of the stage refiner")


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("autoencoder", ("shift = [3, 2, 4]", "shift = [3, 2]"), "three whole numbers"),
        ("autoencoder", ("shift = [3, 2, 4]", 'border = "wrap"'), "border must be one of"),
        ("autoencoder", ("shift = [3, 2, 4]", "flip_probability = [0.5, 0.5]"), "flip_probability"),
        ("autoencoder", ("shift = [3, 2, 4]", "flip_probability = [0.5, 0.5, 2.0]"), "flip_probability"),
        ("autoencoder", ("intensity_scale = 0.1", "intensity_scale = 1.0"), "intensity_scale"),
        ("autoencoder", ("size = [24, 20, 16]", "size = [24, 20]"), "size must be three"),
        ("autoencoder", ("dice = 0.1", "dice = -0.1"), "must not be negative"),
        ("autoencoder", ("ssim_window = 7", "ssim_window = 8"), "odd"),
        ("autoencoder", ("[losses]", "[slices]\nempty_share = 1.5\n[losses]"), "empty_share"),
        ("autoencoder", ("[losses]", "[latents]\ncopies = 2\n[losses]"), "unknown table"),
        ("refiner", ("slices = 6", "slices = 1"), "at least 2"),
        ("refiner", ("slices = 6", "noise = -1.0"), "noise"),
        ("refiner", ('autoencoder = "autoencoder"', ""), "lacks autoencoder"),
        ("diffusion", ("copies = 3", "copies = 0"), "copies"),
        ("diffusion", ("drop = 0.25", "drop = 1.5"), "drop"),
        ("diffusion", ("drop = 0.25", "drop = 1.0"), "never see"),
        ("diffusion", ('"scaled_linear"', '"squaredcos_cap_v2"'), "cannot predict epsilon with squaredcos_cap_v2"),
        ("diffusion", ("steps = 4", "steps = 4\nminutes = 1.0"), "either steps or minutes"),
    ],
)
def test_bad_settings_are_refused(stage, change, message, slice_data, tmp_path):
    with pytest.raises(BadInput, match=message):
        load_slice_ldm_config(write_config(tmp_path, stage, slice_data, change))


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("autoencoder", ("slices = 16", "slices = 12"), "slices is 12, but the volumes have 16"),
        ("autoencoder", ("size = [24, 20, 16]", "size = [23, 20, 16]"), "multiples of 2"),
        ("autoencoder", ("ssim_window = 7", "ssim_window = 21"), "wider than slices"),
        ("refiner", ("latent_channels = 3", "latent_channels = 4"), "latents have 3"),
        ("diffusion", ("in_channels = 3", "in_channels = 4"), "is 4"),
        ("diffusion", ("characteristics = 9", "characteristics = 8"), "must be 9"),
        ("diffusion", ("channels = [8, 8]", "channels = [8, 8, 8]"), "no multiples of 4"),
        ("diffusion", ("train_steps = 20", "train_steps = 0"), "train_steps"),
        ("diffusion", ('orientation = "LPS"', ""), "no 'orientation'"),
        ("diffusion", ('default_sampler = "ddim"', 'default_sampler = "magic"'), "magic"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(stage, change, message, slice_run, slice_data, tmp_path):
    for earlier in ("autoencoder", "refiner"):
        shutil.copytree(slice_run["folder"] / earlier, tmp_path / earlier)
    with pytest.raises(BadInput, match=message):
        train(write_config(tmp_path, stage, slice_data, change), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_losses_have_their_known_values():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    normal = torch.distributions.Normal
    by_torch = torch.distributions.kl_divergence(normal(mean, (0.5 * logvar).exp()), normal(0.0, 1.0))
    assert float(divergence(mean, logvar)) == pytest.approx(float(by_torch.sum((1, 2, 3)).mean()), rel=1e-5)
    volume = torch.randn(1, 2, 4, 4, 6, generator=generator)
    assert float(neighbour_loss(volume + 3.0, volume)) == pytest.approx(0.0, abs=1e-6)
    assert float(neighbour_loss(volume + torch.arange(6.0) * 0.5, volume)) == pytest.approx(0.5, abs=1e-5)
    masks = torch.where(torch.rand(2, 5, 5, generator=generator) > 0.5, 1.0, -1.0)
    assert float(soft_dice(masks, masks)) == pytest.approx(0.0, abs=1e-6)
    half = masks.clone()
    half[0] = -1.0
    overlap = int((half > 0).sum())
    assert hard_dice(half, masks) == pytest.approx(2 * overlap / (overlap + int((masks > 0).sum())))
    assert hard_dice(-torch.ones(3), -torch.ones(3)) == 1.0


def test_bits_give_the_mask_back():
    mask = np.random.default_rng(0).random((5, 7, 3)) > 0.5
    np.testing.assert_array_equal(unpacked(packed(mask), mask.shape), mask)
    assert len(packed(mask)) == 14


def test_shipped_configurations_can_be_read_and_the_small_model_is_small():
    for prefix in ("slice-ldm", "limb-tumour-mr"):
        for stage in METHOD.stages:
            config = load_slice_ldm_config(ROOT / "Resources" / "Training" / f"{prefix}-{stage}.toml")
            assert (config.stage, bool(config.package)) == (stage, stage == "diffusion")
    total = 0
    for stage, name in METHOD.classes.items():
        path = ROOT / "Resources" / "Training" / f"limb-tumour-mr-{stage}.toml"
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        total += count_parameters(NetworkSpec(name, tables["network"]))
        if "segmenter" in tables:
            total += count_parameters(NetworkSpec("UNet", {"channels": tables["segmenter"]["channels"]}))
    assert 2 * total < 7.9e6  # bytes in fp16


def test_a_latent_set_is_what_its_cases_are(slice_run, slice_data, tmp_path):
    stage = diffusion_stage(slice_run, slice_data, tmp_path)
    assert isinstance(stage.latents, LatentSet) and all(isinstance(n, Latent) for n in stage.latents.train)
    clean, _ = stage.stacked(stage.latents.validation)
    config = stage.config
    pairs = load_pairs(config.data, "validation", load_scheme(config.label_scheme), config.volumes, (-1000.0, 400.0))
    with torch.no_grad():
        again = stage.autoencoder.network.encode_volume(torch.stack([p.pair for p in pairs]))
    torch.testing.assert_close(clean, again * stage.latents.scale_factor, rtol=2e-3, atol=2e-3)
