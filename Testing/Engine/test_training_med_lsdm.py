"""Med-LSDM's training: two stages on phantoms, going on after a kill, latents and their scale, the null condition."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_training_med_lsdm
import torch
from safetensors.torch import load_file
from tiny_training_med_lsdm import TEXTS, checkpoint, write_config

from SynthDiffusionLib.backends.med_lsdm import MedLSDM
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.intensity import normalise
from SynthDiffusionLib.labels.condition import Condition, encode_classes
from SynthDiffusionLib.labels.onehot import one_hot_condition
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.models import NetworkSpec, load_package
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.training.crops import mirror_to
from SynthDiffusionLib.training.dataset import load_split
from SynthDiffusionLib.training.latent_stage import forward_process
from SynthDiffusionLib.training.latents import read_sealed
from SynthDiffusionLib.training.loop import make_fabric
from SynthDiffusionLib.training.masks import class_table, masks_of, one_hot_masks
from SynthDiffusionLib.training.med_lsdm.autoencoder import (
    AutoencoderStage,
    build_trained,
    feature_distance,
    hinge,
    slice_loss,
    slices_at,
)
from SynthDiffusionLib.training.med_lsdm.condition import draw_all_given
from SynthDiffusionLib.training.med_lsdm.config import METHOD, ConditionConfig, load_med_lsdm_config
from SynthDiffusionLib.training.med_lsdm.diffusion import DiffusionStage
from SynthDiffusionLib.training.med_lsdm.earlier import read_stage
from SynthDiffusionLib.training.med_lsdm.latents import Autoencoder, prepare_latents, recipe_of
from SynthDiffusionLib.training.train import train

ROOT = Path(__file__).resolve().parents[2]
data, whole = tiny_training_med_lsdm.data, tiny_training_med_lsdm.whole


def autoencoder_of(folder: Path) -> Autoencoder:
    fabric = make_fabric(load_med_lsdm_config(folder / "diffusion.toml"), "cpu")
    return Autoencoder(read_stage(folder / "autoencoder", "autoencoder"), fabric)


def test_the_stages_make_a_package_whose_weights_are_theirs(whole):
    package = load_package(whole["package"])
    spec = package.spec
    assert (spec.id, spec.backend, spec.target_class) == ("tiny-med-lsdm", "med_lsdm", "nodule")
    assert set(spec.modes) == {"whole", "unconditional"} and spec.controls.guidance
    assert (spec.latent.channels, spec.latent.downsampling, spec.latent.scale_factor) == (4, 2, 1.0)
    assert (spec.grid.divisor, spec.windows.depth, spec.windows.stride, spec.windows.join) == (4, 12, 6, "steps")
    runs = {"autoencoder": "autoencoder", "denoiser": "diffusion"}
    networks = {"autoencoder": spec.autoencoder, "denoiser": spec.network}
    for role, stage in runs.items():
        tensors = {k: v.float() for k, v in package.load_tensors(role).items()}
        build_network(networks[role]).load_state_dict(tensors, strict=True)
        weights = checkpoint(whole["folder"] / stage)["weights"]
        assert {n for n in weights if not n.startswith("ema_")} == set(tensors)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, weights[name].half().float(), rtol=0, atol=0)
    codebook = checkpoint(whole["folder"] / "autoencoder")["weights"]["codebook"]
    assert spec.latent.range == (float(codebook.min()), float(codebook.max()))
    assert spec.segmenter.details["targets"] == ["lung", "nodule"]
    segmenter = build_network(spec.segmenter.network)
    segmenter.load_state_dict({k: v.float() for k, v in package.load_tensors("segmenter").items()})
    assert segmenter(torch.zeros(1, 1, 16, 16, 16)).shape[1] == 2


def test_the_package_makes_volumes(whole, tmp_path):
    """Deeper than a window, one class not drawn; so little trained, only absurd guidance gets to another code."""
    package = load_package(whole["package"])
    backend, scheme = MedLSDM(package), package.spec.label_scheme
    classes = load_split(load_med_lsdm_config(whole["folder"] / "diffusion.toml").data, "test")[0].classes
    names = tuple(c.name for c in scheme.condition_classes if c.name != "bone")
    condition = Condition(classes.array.astype(np.uint8), classes.affine, scheme, names)
    plan = Plan("cpu", "fp32", "whole", None, 0, 1, backend.working_grid(classes.shape))
    volumes = [
        backend.sample(condition, plan, sampler="ddim", steps=2, seed=3, guidance=guidance) for guidance in (1.0, 100.0)
    ]
    assert all(v.shape == classes.shape and np.isfinite(v).all() and abs(v).max() <= 1 for v in volumes)
    assert not np.array_equal(*volumes)


def test_events_log_and_pictures(whole):
    folder = whole["folder"]
    progress = [(e["stage"], e["step"], e["total"]) for e in whole["events"] if e["event"] == "progress"]
    assert progress[:-1] == [(f"train {s}", n, 4) for s in TEXTS for n in (2, 4)]
    notes = [e["message"] for e in whole["events"] if e["event"] == "note"]
    assert any("No perceptual loss" in n for n in notes) and any("become -1 to 1" in n for n in notes)
    for stage in TEXTS:
        with (folder / stage / "log.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["step"] for row in rows] == ["2", "4"]
        assert rows[0]["validation_loss"] == "" and float(rows[1]["validation_loss"]) > 0
        assert (folder / stage / "samples" / "step000004.png").stat().st_size > 100
        if stage == "autoencoder":
            assert 1 <= float(rows[1]["perplexity"]) <= 16.001
            assert float(rows[1]["discriminator"]) > 0 and float(rows[1]["feature_matching"]) > 0


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stage", list(TEXTS))
def test_a_killed_stage_that_goes_on_ends_with_the_same_weights(stage, whole, data, tmp_path):
    if stage != "autoencoder":
        shutil.copytree(whole["folder"] / "autoencoder", tmp_path / "autoencoder")
    config = write_config(tmp_path, stage, data, ("log_every = 2", "log_every = 1"))

    def die(event: dict) -> None:
        if event["event"] == "progress" and event["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / stage, device="cpu", on_event=die)
    assert checkpoint(tmp_path / stage)["step"] == 2
    with pytest.raises(BadInput, match="already holds a run"):
        train(config, tmp_path / stage, device="cpu")
    train(config, tmp_path / stage, device="cpu", resume=True)
    resumed, straight = checkpoint(tmp_path / stage), checkpoint(whole["folder"] / stage)
    assert resumed["step"] == straight["step"] == 4
    for table in ("network", "weights"):
        assert resumed[table].keys() == straight[table].keys()
        for name, tensor in straight[table].items():
            torch.testing.assert_close(resumed[table][name], tensor, rtol=0, atol=0)


def test_the_autoencoder_learns(whole, data, tmp_path):
    """Thirty steps on phantoms: a third of the first loss, and a decoder that looks at its label map."""
    changes = [("steps = 4", "steps = 30"), ("checkpoint_every = 2", "checkpoint_every = 99")]
    changes += [("learning_rate = 1e-3", "learning_rate = 1e-2"), ("hidden = 4", "hidden = 8")]
    path = write_config(tmp_path, "autoencoder", data, *changes)
    config = load_med_lsdm_config(path)
    stage = AutoencoderStage(config, make_fabric(config, "cpu"), lambda event: None)
    losses = [float(stage.train_step(step, step / 30)["loss"]) for step in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) / 3
    network = stage.ema.module
    images, masks = stage._split(stage.fixed[0], None)
    with torch.no_grad():
        q, _ = network.quantise(network.encode(images))
        assert (network.decode(q, masks) - network.decode(q, torch.zeros_like(masks))).abs().max() > 1e-3


@pytest.fixture
def diffusion_stage(whole):
    """A function that makes a fresh stage diffusion with another [condition] and number of optimiser steps done."""

    def make(steps: int, **condition: float) -> DiffusionStage:
        path = whole["folder"] / "diffusion.toml"
        config = load_med_lsdm_config(path)
        config = type(config)(**{**vars(config), "condition": ConditionConfig(**condition)})
        fabric = make_fabric(config, "cpu")
        autoencoder, scheme = autoencoder_of(whole["folder"]), load_scheme(config.label_scheme)
        folder = whole["folder"] / "diffusion" / "latents"
        latents = prepare_latents(
            folder, config.data, scheme, config.latents, autoencoder, config.seed, lambda event: None
        )
        torch.manual_seed(config.seed)
        network = build_trained("diffusion", config.network)
        stage = DiffusionStage(config, fabric, autoencoder, latents, forward_process(config.diffusion), network, scheme)
        for step in range(steps):
            stage.train_step(step, 0.1)
        return stage

    return make


def test_the_null_condition_is_trained_only_where_it_is_drawn(diffusion_stage):
    """The drawing has an effect either way; with `drop_all = 1` the network never sees one, and no gradient reaches
    what only a drawing reaches."""
    with_null, without = diffusion_stage(6, drop_all=1.0), diffusion_stage(6, drop_all=0.0)
    clean, classes, _ = with_null.fixed[0]
    rng = np.random.default_rng
    assert not with_null.condition(classes, rng(0)).any()
    drawn = without.condition(classes, rng(0))
    assert drawn.any() and (drawn[:, :1] + drawn[:, 1:].amax(1, keepdim=True) == 1).all()

    def loss(stage: DiffusionStage, condition: torch.Tensor) -> float:
        return float(stage.loss(stage.ema.module, clean, condition, torch.Generator().manual_seed(1)))

    # In training with the null condition alone, other class maps change nothing.
    other = torch.roll(classes, 3, dims=1)
    assert loss(with_null, with_null.condition(classes, rng(0))) == loss(with_null, with_null.condition(other, rng(0)))
    assert loss(without, without.condition(classes, rng(0))) != loss(without, without.condition(other, rng(0)))
    # The first convolution of the mask encoder has seen nothing but zeros: its kernels have not moved.
    fresh = diffusion_stage(0, drop_all=1.0).trained.state_dict()
    name = next(n for n in fresh if n.endswith("mask_encoder.0.weight"))
    optimised = with_null.trained.state_dict()[name]
    decay = torch.cosine_similarity(
        optimised.flatten(), fresh[name].flatten(), dim=0
    )  # AdamW's decay only shrinks them
    assert float(decay) == pytest.approx(1.0, abs=1e-6)
    assert (
        float(torch.cosine_similarity(without.trained.state_dict()[name].flatten(), fresh[name].flatten(), dim=0)) < 1
    )


def test_the_diffusion_learns(diffusion_stage):
    stage = diffusion_stage(0, drop_all=0.2)
    clean, classes, _ = stage.fixed[0]
    condition = stage.condition(classes, np.random.default_rng(0))
    before = stage.loss(stage.trained, clean, condition, torch.Generator().manual_seed(0))
    losses = [float(stage.train_step(step, 0.0)["loss"]) for step in range(40)]
    assert np.mean(losses[-10:]) < 0.93 * np.mean(losses[:5])
    assert before.item() == pytest.approx(np.sqrt(2 / np.pi), abs=0.05)  # the head begins at zero: E|noise|


def test_the_ends_of_the_codebook_become_minus_one_and_one(whole):
    autoencoder = autoencoder_of(whole["folder"])
    codebook = autoencoder.network.codebook
    scaled = autoencoder.scaled(codebook)
    assert float(scaled.min()) == -1.0 and float(scaled.max()) == 1.0
    torch.testing.assert_close(autoencoder.unscaled(scaled), codebook, rtol=0, atol=1e-6)
    low, high = autoencoder.range
    values = torch.tensor([low, 0.5 * (low + high), high])
    torch.testing.assert_close(autoencoder.scaled(values), torch.tensor([-1.0, 0.0, 1.0]), rtol=0, atol=1e-6)


def test_latents_can_have_a_deviation_of_one(whole, data, tmp_path):
    """The same files serve: what scales them is not in their stamp. The package samples within the codebook."""
    for stage in TEXTS:
        shutil.copytree(whole["folder"] / stage, tmp_path / stage)
    changes = [("copies = 2", 'copies = 2\nscaling = "deviation"'), ("steps = 4", "steps = 5")]
    config, events = write_config(tmp_path, "diffusion", data, *changes), []
    package = train(config, tmp_path / "diffusion", device="cpu", resume=True, on_event=events.append)
    assert "0 cases encoded now" in next(e["message"] for e in events if "become" in e.get("message", ""))
    values = [t.double().flatten() for p in sorted((tmp_path / "diffusion" / "latents").glob("train-*.safetensors"))
              for n, t in load_file(p).items() if n.startswith("latent")]  # fmt: skip
    spec = load_package(package).spec
    assert spec.latent.range is None
    assert spec.latent.scale_factor == pytest.approx(1 / float(torch.cat(values).std(correction=0)), rel=1e-6)
    autoencoder = autoencoder_of(tmp_path)
    autoencoder.factor = spec.latent.scale_factor
    z = torch.randn(1, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(autoencoder.unscaled(autoencoder.scaled(z)), z)
    torch.testing.assert_close(autoencoder.scaled(z), z * autoencoder.factor)


def test_latents_are_what_the_encoder_gives(whole, data):
    """Not quantised: those of a validation case, which has one copy, as it is."""
    folder, autoencoder = whole["folder"], autoencoder_of(whole["folder"])
    case = load_split(data, "validation")[0]
    tensors = load_file(folder / "diffusion" / "latents" / f"validation-{case.name}.safetensors")
    image = torch.from_numpy(normalise(case.image.array, (-1000.0, 400.0)))[None, None]
    expected = autoencoder.network.encode(image)[0].half()
    torch.testing.assert_close(tensors["latent0"], expected, rtol=0, atol=0)
    assert np.array_equal(tensors["classes0"].numpy(), case.classes.array)
    quantised, _ = autoencoder.network.quantise(expected[None].float())
    assert (quantised[0] - expected.float()).abs().max() > 1e-3


def test_copies_are_shifted_mirrored_and_flipped(whole, data):
    """The class map of a copy holds the case's, flipped along the axes that may be, within a voxel's shift."""
    for case in load_split(data, "train"):
        tensors = load_file(whole["folder"] / "diffusion" / "latents" / f"train-{case.name}.safetensors")
        assert tensors.keys() == {f"{kind}{n}" for kind in ("latent", "classes") for n in range(2)}
        nodule = case.classes.array == 4
        for n in range(2):
            found = tensors[f"classes{n}"].numpy() == 4  # its outline is sharp
            assert [2 * s for s in tensors[f"latent{n}"].shape[1:]] == list(found.shape)
            tried = [
                np.flip(nodule, flips)
                for flips in ((), (0,), (1,), (0, 1))  # the third axis has the chance 0
            ]
            starts = np.ndindex(2, 2, 2)
            within = [
                np.array_equal(found[i : i + 24, j : j + 24, k : k + 24], mask)
                for i, j, k in starts
                for mask in tried
                if all(s + 24 <= n for s, n in zip((i, j, k), found.shape))
            ]
            assert any(within)


def test_damaged_latents_are_encoded_anew(whole, data, tmp_path):
    for stage in TEXTS:
        shutil.copytree(whole["folder"] / stage, tmp_path / stage)
    write_config(tmp_path, "diffusion", data)
    config = load_med_lsdm_config(tmp_path / "diffusion.toml")
    autoencoder, scheme = autoencoder_of(whole["folder"]), load_scheme(config.label_scheme)
    folder = tmp_path / "diffusion" / "latents"

    def renewed() -> int:
        return prepare_latents(
            folder, data, scheme, config.latents, autoencoder, config.seed, lambda event: None
        ).renewed

    assert renewed() == 0
    file = next(iter(sorted(folder.glob("train-*.safetensors"))))
    content = file.read_bytes()
    for change in (content[:100], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(change)
        assert renewed() == 1
        assert file.read_bytes() == content
    recipe = recipe_of(scheme, config.latents, autoencoder, config.seed)
    straight = load_file(file)
    assert recipe.fits(straight["latent0"], straight["classes0"])
    broken = straight["latent0"].clone()
    broken[0, 0, 0, 0] = torch.nan
    assert not recipe.fits(broken, straight["classes0"])
    assert not recipe.fits(straight["latent0"].float(), straight["classes0"])
    assert not recipe.fits(straight["latent0"][1:], straight["classes0"])
    assert not recipe.fits(straight["latent0"], straight["classes0"][1:])
    assert read_sealed(file, "another", recipe, 2) is None
    state = torch.load(tmp_path / "autoencoder" / "checkpoint.pt", weights_only=True)
    state["weights"]["stem.weight"] = state["weights"]["stem.weight"] + 0.1
    torch.save(state, tmp_path / "autoencoder" / "checkpoint.pt")
    autoencoder = autoencoder_of(tmp_path)
    assert renewed() == 5  # four training cases and one of validation


DAMAGES = {
    "no range": lambda s: s.pop("intensity_range"),
    "falling range": lambda s: s.update(intensity_range=[1.0, 0.0]),
    "other downsampling": lambda s: s.update(downsampling=4),
    "no weights": lambda s: s["weights"].pop("stem.weight"),
    "not finite": lambda s: s["weights"]["stem.weight"].fill_(torch.nan),
    "flat codebook": lambda s: s["weights"]["codebook"].fill_(1.0),
    "other network": lambda s: s["network_json"].update(hidden=6),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_checkpoints_are_told(damage, whole, tmp_path):
    state = checkpoint(whole["folder"] / "autoencoder")
    DAMAGES[damage](state)
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(BadInput, match="damaged"):
        read_stage(tmp_path, "autoencoder")


def test_other_runs_are_refused(whole, tmp_path):
    with pytest.raises(BadInput, match="holds no checkpoint"):
        read_stage(tmp_path, "autoencoder")
    with pytest.raises(BadInput, match="not autoencoder.*|is a run of the stage"):
        read_stage(whole["folder"] / "diffusion", "autoencoder")
    for change in (
        {"latent_range": [1.0, 1.0]},
        {"scale_factor": 0.0},
        {"drop_all": 1.5},
        {"diffusion": {"train_steps": 0}},
    ):
        state = {**checkpoint(whole["folder"] / "diffusion"), **change}
        torch.save(state, tmp_path / "checkpoint.pt")
        with pytest.raises(BadInput, match="damaged"):
            read_stage(tmp_path, "diffusion")


BAD = {
    "autoencoder": [
        ("size = [16, 16, 8]", "size = [16, 16, 7]", "multiples of 2"),
        ("size = [16, 16, 8]", "size = [16, 16]", "three whole numbers"),
        ("size = [16, 16, 8]", "size = [2, 2, 2]", "too small for the discriminator"),
        ("flip_probability = [0.5, 0.0, 0.5]", "flip_probability = [0.5, 0.5]", "flip_probability"),
        ("flip_probability = [0.5, 0.0, 0.5]", "flip_probability = 0.5", "flip_probability"),
        ("condition_channels = 5", "condition_channels = 3", "condition_channels"),
        ("downsampling = 2", "downsampling = 3", "power of two"),
        ("image_gan = 0.1", "image_gan = -1", "image_gan"),
        ("discriminator_start = 0.25", "discriminator_start = 2", "discriminator_start"),
        ("num_embeddings = 16", "num_embeddings = 0", "num_embeddings"),
    ],
    "diffusion": [
        ("crops = [[8, 8, 5], [10, 12, 6], [14, 12, 6]]", "crops = [[8, 7, 5]]", "multiples of"),
        ("crops = [[8, 8, 5], [10, 12, 6], [14, 12, 6]]", "crops = [[10, 12, 6], [8, 8, 5]]", "smallest size"),
        ("crops = [[8, 8, 5], [10, 12, 6], [14, 12, 6]]", "crops = [[8, 8]]", "list of sizes"),
        ("in_channels = 4", "in_channels = 8", "in_channels' is 8"),
        ("condition_channels = 5", "condition_channels = 4", "condition_channels' is 4"),
        ("mask_downsampling = 2", "mask_downsampling = 4", "downsampling"),
        ("drop = { nodule = 0.1 }", "drop = { liver = 0.1 }", "liver"),
        ("drop_all = 0.2", "drop_all = 1.2", "drop_all"),
        ('sharp = ["nodule"]', 'sharp = ["liver"]', "liver"),
        ("copies = 2", 'copies = 2\nnumber = "int8"', "float16 or float32"),
        ("copies = 2", 'copies = 2\nscaling = "none"', "codebook or deviation"),
        ("depth = 12", "depth = 11", "multiple of 2"),
        ("stride = 6", "stride = 14", "windows.stride"),
        ("intensity_range = [-1000.0, 400.0]", "intensity_range = [0.0, 1.0]", "intensity_range"),
    ],
}


@pytest.mark.parametrize(("stage", "old", "new", "said"), [(s, *case) for s, cases in BAD.items() for case in cases])
def test_bad_settings_are_refused(stage, old, new, said, whole, data, tmp_path):
    if stage == "diffusion":
        shutil.copytree(whole["folder"] / "autoencoder", tmp_path / "autoencoder")
    config = write_config(tmp_path, stage, data, (old, new))
    with pytest.raises(BadInput, match=said):
        train(config, tmp_path / stage, device="cpu")
    assert not (tmp_path / stage / "checkpoint.pt").exists()


UNFIT = [
    ("in_channels = 4", "in_channels = 8", "in_channels is 8"),
    ("condition_channels = 5", "condition_channels = 4", "condition_channels is 4"),
    ("mask_downsampling = 2", "mask_downsampling = 4", "mask_downsampling is 4"),
]


@pytest.mark.parametrize(("old", "new", "said"), UNFIT)
def test_networks_that_do_not_fit_are_refused_without_a_package_too(old, new, said, whole, data, tmp_path):
    shutil.copytree(whole["folder"] / "autoencoder", tmp_path / "autoencoder")
    config = write_config(tmp_path, "diffusion", data, (old, new))
    config.write_text(config.read_text(encoding="utf-8").partition("[segmenter]")[0], encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        train(config, tmp_path / "diffusion", device="cpu")


def test_without_a_null_condition_the_package_says_so(whole, data, tmp_path):
    for stage in TEXTS:
        shutil.copytree(whole["folder"] / stage, tmp_path / stage)
    changes = [("drop_all = 0.2", "drop_all = 0.0"), ("default_guidance = 1.5", "default_guidance = 1.0")]
    config = write_config(tmp_path, "diffusion", data, *changes, ("steps = 4", "steps = 5"))
    spec = load_package(train(config, tmp_path / "diffusion", device="cpu", resume=True)).spec
    assert spec.modes == ("whole",) and not spec.controls.guidance


def test_the_segmenter_alone(data, tmp_path):
    """It needs no other stage."""
    config = write_config(tmp_path, "diffusion", data)
    assert train(config, tmp_path / "run", device="cpu", only_segmenter=True).name == "segmenter.pt"


def test_label_maps_are_those_of_sampling():
    """`labels.onehot` on the drawing's channels, for classes that nest, with and without one withheld."""
    scheme = load_scheme("lung-nodule-ct")
    names = [c.name for c in scheme.condition_classes]
    classes = np.random.default_rng(0).integers(0, 5, (6, 5, 4)).astype(np.uint8)
    for given in (names, names[:2], []):
        flags = torch.tensor([[float(n in given) for n in names]])
        masks = masks_of(torch.from_numpy(classes)[None], class_table(scheme), torch.ones_like(flags))
        ours = one_hot_masks(masks, flags)[0].numpy()
        np.testing.assert_array_equal(ours, one_hot_condition(encode_classes(classes, scheme, tuple(given))))


def test_all_classes_are_withheld_at_once():
    scheme = load_scheme("lung-nodule-ct")
    given = draw_all_given(scheme, ConditionConfig(drop_all=0.25), 4000, np.random.default_rng(0)).numpy()
    assert (given.min(1) == given.max(1)).all()
    assert given.mean() == pytest.approx(0.75, abs=0.03)


def test_losses():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert float(hinge(real, fake)) == pytest.approx(0.5 * (0.25 + 0.5))
    features = [torch.zeros(2, 3), torch.ones(2), torch.zeros(1)]
    others = [torch.ones(2, 3), torch.full((2,), 4.0), torch.full((1,), 9.0)]
    assert float(feature_distance(features, others)) == pytest.approx((1.0 + 3.0) / 2)
    windows = torch.arange(2 * 3 * 3 * 4.0).reshape(2, 1, 3, 3, 4)
    slices = slices_at(windows, torch.tensor([0, 3]))
    assert torch.equal(slices[0, 0], windows[0, 0, :, :, 0]) and torch.equal(slices[1, 0], windows[1, 0, :, :, 3])


def test_a_perceptual_loss_that_cannot_be_had_is_said():
    said = []
    assert slice_loss("off", said.append) is None and "off" in said[0]["message"]
    with pytest.raises(BadInput, match="none of MONAI's"):
        slice_loss("no-such-network", said.append)


def test_mirroring():
    array = np.arange(24.0).reshape(2, 3, 4)
    grown = mirror_to(array, (4, 3, 7), (1, 0, 0))
    assert grown.shape == (4, 3, 7)
    np.testing.assert_array_equal(grown[1:3, :, :4], array)
    np.testing.assert_array_equal(grown[0], grown[1])
    np.testing.assert_array_equal(grown[:, :, 4], grown[:, :, 3])
    assert mirror_to(array, (2, 3, 4)) is array


@pytest.mark.parametrize(
    "name", [f"{m}-{s}" for m in ("hippocampus-mr", "med-lsdm") for s in ("autoencoder", "diffusion")]
)
def test_shipped_configurations_are_complete(name):
    config = load_med_lsdm_config(ROOT / "Resources" / "Training" / f"{name}.toml")
    with torch.device("meta"):
        network = build_network(NetworkSpec(METHOD.classes[config.stage], config.network))
    assert sum(p.numel() for p in network.parameters()) > 1e5
    if config.stage == "diffusion":
        assert config.network["condition_channels"] == len(load_scheme(config.label_scheme).condition_classes) + 1
