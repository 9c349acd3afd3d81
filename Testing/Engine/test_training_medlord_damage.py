"""MedLoRD's training: damaged latents and checkpoints of earlier stages, unfinished ones, and the averaged weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny_medlord
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from tiny_medlord import TEXTS, checkpoint, write_config

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.latent_stage import LatentStage
from SynthDiffusionLib.training.latents import read_sealed, sealed
from SynthDiffusionLib.training.loop import make_fabric, plain
from SynthDiffusionLib.training.medlord.autoencoder import AutoencoderStage
from SynthDiffusionLib.training.medlord.config import load_medlord_config
from SynthDiffusionLib.training.medlord.earlier import read_stage
from SynthDiffusionLib.training.medlord.latents import Autoencoder, recipe_of
from SynthDiffusionLib.training.train import train

data, whole = tiny_medlord.data, tiny_medlord.whole


@pytest.fixture
def latents(whole, tmp_path):
    """A copy of a file of latents, its stamp, and the recipe that it was made by."""
    source = sorted((whole["folder"] / "diffusion" / "latents").glob("train-*.safetensors"))[0]
    file = shutil.copy(source, tmp_path / source.name)
    with safe_open(file, framework="pt") as stream:
        stamp = stream.metadata()["stamp"].split()[0]
    config = load_medlord_config(whole["folder"] / "diffusion.toml")
    autoencoder = Autoencoder(checkpoint(whole["folder"] / "autoencoder"), make_fabric(config, "cpu"))
    return file, stamp, recipe_of(load_scheme(config.label_scheme), config.latents, autoencoder, config.seed)


def test_a_flipped_bit_of_the_latents_is_never_read(latents):
    file, stamp, recipe = latents
    content, straight = file.read_bytes(), load_file(file)
    header = 8 + int.from_bytes(content[:8], "little")
    assert read_sealed(file, stamp, recipe, 2).keys() == straight.keys()
    rng = np.random.default_rng(0)
    places = [*range(8, header, 5), *rng.integers(header, len(content), 60)]
    refused = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        tensors = read_sealed(file, stamp, recipe, 2)
        refused += tensors is None
        if tensors is not None:  # a bit of the header that changes nothing
            assert place < header and all(torch.equal(tensors[n], t) for n, t in straight.items())
    assert refused >= len(places) - 5


CHANGES = {
    "names": lambda t: {n.replace("codes", "kodes"): v for n, v in t.items()},
    "beyond": lambda t: {**t, "codes0": t["codes0"] + 16},
    "below": lambda t: {**t, "codes1": t["codes1"] - 20},
    "shape": lambda t: {**t, "classes0": t["classes0"][:-1].contiguous()},
    "kind": lambda t: {**t, "codes0": t["codes0"].float()},
    "flat": lambda t: {**t, "codes0": t["codes0"].flatten()},
    "empty": lambda t: {**t, "codes0": t["codes0"][:0], "classes0": t["classes0"][:0]},
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_latents_that_do_not_fit_are_not_read_whatever_their_checksum(change, latents):
    file, stamp, recipe = latents
    tensors = CHANGES[change](load_file(file))
    save_file(tensors, file, metadata={"stamp": sealed(stamp, tensors)})
    assert read_sealed(file, stamp, recipe, 2) is None


def test_damaged_latents_are_encoded_anew(whole, data, tmp_path):
    for stage in ("autoencoder", "diffusion"):
        shutil.copytree(whole["folder"] / stage, tmp_path / stage)
    file = sorted((tmp_path / "diffusion" / "latents").glob("validation-*.safetensors"))[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    train(write_config(tmp_path, "diffusion", data), tmp_path / "diffusion", device="cpu", resume=True)
    assert file.read_bytes() == content


def first_weight(state: dict) -> str:
    return next(n for n, t in state["weights"].items() if t.ndim > 1)


def put(state: dict, value) -> None:
    state["weights"][first_weight(state)] = value


DAMAGES = {
    "no network": lambda s: s.pop("network_json"),
    "text as network": lambda s: s.update(network_json="VQVAE"),
    "no such network": lambda s: s["network_json"].update(channels="many"),
    "other network": lambda s: s["network_json"].update(channels=[8, 16]),
    "no codes": lambda s: s["network_json"].update(num_embeddings=0),
    "other shape": lambda s: put(s, torch.zeros(3)),
    "no tensor": lambda s: put(s, "weights"),
    "NaN": lambda s: put(s, torch.full_like(s["weights"][first_weight(s)], float("nan"))),
    "a tensor too few": lambda s: s["weights"].pop(first_weight(s)),
    "a tensor too many": lambda s: s["weights"].update(more=torch.zeros(1)),
    "weights as list": lambda s: s.update(weights=[1.0]),
    "no step": lambda s: s.pop("step"),
}
OF_AUTOENCODER = {
    "no range": lambda s: s.pop("intensity_range"),
    "range of one": lambda s: s.update(intensity_range=[0.0]),
    "range of texts": lambda s: s.update(intensity_range=["low", "high"]),
    "other downsampling": lambda s: s.update(downsampling=8),
}
OF_DIFFUSION = {
    "no scale": lambda s: s.pop("scale_factor"),
    "infinite scale": lambda s: s.update(scale_factor=float("inf")),
    "no process": lambda s: s.pop("diffusion"),
    "other process": lambda s: s["diffusion"].update(prediction="noise"),
    "no crops": lambda s: s["latents"].pop("crops"),
    "no seed": lambda s: s.pop("seed"),
}
CASES = [("diffusion", "autoencoder", n, d) for n, d in {**DAMAGES, **OF_AUTOENCODER}.items()]
CASES += [("controlnet", "diffusion", n, d) for n, d in {**DAMAGES, **OF_DIFFUSION}.items() if n != "no codes"]


@pytest.mark.parametrize(("stage", "earlier", "name", "damage"), CASES, ids=[f"{c[1]}-{c[2]}" for c in CASES])
def test_damaged_checkpoints_of_earlier_stages_are_named(stage, earlier, name, damage, whole, data, tmp_path, capsys):
    for each in ("autoencoder", "diffusion"):
        (tmp_path / each).mkdir()
        shutil.copy(whole["folder"] / each / "checkpoint.pt", tmp_path / each)
    state = checkpoint(tmp_path / earlier)
    damage(state)
    torch.save(state, tmp_path / earlier / "checkpoint.pt")
    config = write_config(tmp_path, stage, data)
    assert main(["train", str(config), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("synthdiffusion: error: ")]
    assert len(lines) == 1 and "is damaged" in lines[0] and str(tmp_path / earlier / "checkpoint.pt") in lines[0]
    assert ("finite" in lines[0]) == (name in ("NaN", "no tensor"))
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_an_unfinished_earlier_stage_is_told(whole, data, tmp_path, capsys):
    """A stage that was killed, through the command line, which shows the warning."""
    shutil.copytree(whole["folder"] / "autoencoder", tmp_path / "autoencoder")

    def die(event: dict) -> None:
        if event["event"] == "progress" and event["step"] == 3:
            raise KeyboardInterrupt

    config = write_config(tmp_path, "autoencoder", data, ("log_every = 2", "log_every = 1"))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "killed", device="cpu", on_event=die)
    unfinished = write_config(tmp_path, "diffusion", data, ('"autoencoder"', '"killed"'))
    assert main(["train", str(unfinished), "--out", str(tmp_path / "first"), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert said.count("is not finished: its weights are those of step 2.") == 1
    events: list[dict] = []
    train(config, tmp_path / "killed", device="cpu", resume=True)
    read_stage(tmp_path / "killed", "autoencoder", events.append)
    assert not events and not [e for e in whole["events"] if "not finished" in e.get("message", "")]


@pytest.mark.parametrize("stage", list(TEXTS))
def test_the_weights_of_a_stage_are_the_average_of_those_of_its_steps(stage, whole, data, tmp_path, monkeypatch):
    """Against the average in its closed form, and between the weights of the steps."""
    for earlier in ("autoencoder", "diffusion"):
        if earlier != stage:
            shutil.copytree(whole["folder"] / earlier, tmp_path / earlier)
    kind = AutoencoderStage if stage == "autoencoder" else LatentStage
    step_of, seen = kind.train_step, []

    def spied(self, step, share):
        losses = step_of(self, step, share)
        module = plain(self.codec).vqvae.decoder if stage == "autoencoder" else plain(self.trained)
        seen.append({n: p.detach().double().clone() for n, p in module.named_parameters()})
        return losses

    monkeypatch.setattr(kind, "train_step", spied)
    train(write_config(tmp_path, stage, data), tmp_path / stage, device="cpu")
    weights = checkpoint(tmp_path / stage)["weights"]
    prefix = "decoder." if stage == "autoencoder" else ""
    assert len(seen) == 4
    moved = 0
    for name in seen[0]:
        steps = torch.stack([table[name] for table in seen])
        found, mean = weights[prefix + name].double(), steps[0]
        for n in (1, 2, 3):
            keep = min(0.9, (1 + n) / (10 + n))
            mean = keep * mean + (1 - keep) * steps[n]
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-7)
        assert (found >= steps.amin(0) - 1e-6).all() and (found <= steps.amax(0) + 1e-6).all()
        moved += int(((found - steps[-1]).abs() > 1e-5).any() and ((found - steps[0]).abs() > 1e-5).any())
    assert moved > len(seen[0]) // 4


def test_the_checksum_covers_names_types_and_shapes():
    values = torch.arange(8, dtype=torch.int16)
    tables = [{"a": values}, {"b": values}, {"a": values.view(2, 4)}, {"a": values.view(torch.uint8)}]
    assert len({sealed("s", table) for table in tables}) == 4
    assert save(tables[0]) == save(tables[0]) and sealed("s", tables[0]) == sealed("s", {"a": values.clone()})
