"""Checkpoints of other people: what is taken, what is refused, and what the new package says of itself."""

from __future__ import annotations

import os
import sys
import zipfile

import numpy as np
import pytest
import tiny_package
from safetensors.numpy import load_file, save_file
from tiny_package import DESCRIPTION, WEIGHTS, make_package

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models import IMPORTERS, Converted, Importer, import_checkpoint, load_package, verify

model_folders = tiny_package.model_folders
NEW = {"stem.weight": np.full((3, 4), 0.5, np.float32), "head.bias": np.array([1, 2], np.float16)}


def checkpoint(path, state=NEW, wrap=lambda state: state):
    import torch

    torch.save(wrap({k: torch.from_numpy(v) for k, v in state.items()}), path)
    return path


def test_a_safetensors_file_becomes_a_package(model_folders, tmp_path):
    shipped, user = model_folders
    template = make_package(shipped / "tiny-ct").spec
    save_file(NEW, tmp_path / "mine.safetensors")
    done = import_checkpoint(tmp_path / "mine.safetensors", "mine", like="tiny-ct")
    spec = load_package("mine").spec
    assert done.package.folder == user / "mine" and verify("mine").ok
    assert {k: v.tolist() for k, v in load_file(user / "mine" / "denoiser.safetensors").items()} == {
        k: v.tolist() for k, v in NEW.items()
    }
    for same in ("backend", "network", "diffusion", "grid", "intensity", "label_scheme", "modes", "sampling"):
        assert getattr(spec, same) == getattr(template, same)
    assert spec.id == "mine" and spec.segmenter is None
    assert [f.role for f in spec.files] == ["denoiser", "card"]
    assert spec.license.spdx == "NOASSERTION"
    assert (spec.training.dataset, spec.training.license, spec.training.split) == ("unknown", "unknown", {})
    assert (spec.quality, spec.performance) == ({}, {})
    assert spec.provenance["template"] == "tiny-ct 1.2.0" and spec.provenance["imported_file"] == "mine.safetensors"
    assert DESCRIPTION["license"]["attribution"] not in str(spec.raw)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "args": {"lr": 0.1}},
        lambda s: {"model": {k: v * 0 for k, v in s.items()}, "ema": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_a_torch_checkpoint_is_found_in_its_wrappings(model_folders, tmp_path, wrap, suffix):
    make_package(model_folders[0] / "tiny-ct")
    done = import_checkpoint(checkpoint(tmp_path / f"c{suffix}", wrap=wrap), "mine")  # the template is found by itself
    tensors = done.package.load_tensors()
    assert {k: v.tolist() for k, v in tensors.items()} == {k: v.tolist() for k, v in NEW.items()}


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_with_code_is_refused_and_not_run(model_folders, tmp_path):
    import torch

    make_package(model_folders[0] / "tiny-ct")
    torch.save({"state_dict": {}, "x": _Trap(tmp_path / "trapped")}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="holds program code, which is never run"):
        import_checkpoint(tmp_path / "evil.pt", "mine", like="tiny-ct")
    assert not (tmp_path / "trapped").exists()
    assert not model_folders[1].exists()


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
def test_a_truncated_checkpoint_is_refused(model_folders, tmp_path, name):
    make_package(model_folders[0] / "tiny-ct")
    path = tmp_path / name
    if name.endswith(".pt"):
        checkpoint(path)
    else:
        save_file(NEW, path)
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as caught:
            import_checkpoint(path, "mine", like="tiny-ct")
        assert "\n" not in caught.value.one_line()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"stem.weight": NEW["stem.weight"]}, "it lacks 'head.bias'"),
        (NEW | {"extra": np.zeros(1, np.float32)}, "it has 'extra' too"),
        (NEW | {"head.bias": np.zeros(3, np.float32)}, r"'head.bias' is \(3,\), not \(2,\)"),
        (NEW | {"head.bias": np.array([np.nan, 0], np.float32)}, "'head.bias' of the denoiser is not finite"),
    ],
)
def test_what_does_not_fit_is_named(model_folders, tmp_path, state, said):
    make_package(model_folders[0] / "tiny-ct")
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match=said):
        import_checkpoint(tmp_path / "c.safetensors", "mine", like="tiny-ct")
    assert not (model_folders[1] / "mine").exists()


def test_ids_and_templates_that_do_not_do(model_folders, tmp_path):
    make_package(model_folders[0] / "tiny-ct")
    save_file(NEW, tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match="There is a model 'tiny-ct' already"):
        import_checkpoint(tmp_path / "c.safetensors", "tiny-ct")
    for bad in ("../x", "My Model", "", "nul", "a/b"):
        with pytest.raises(ModelError, match="cannot be the ID of a model"):
            import_checkpoint(tmp_path / "c.safetensors", bad)
    with pytest.raises(ModelError, match="no model 'tiny'") as caught:
        import_checkpoint(tmp_path / "c.safetensors", "mine", like="tiny")
    assert "Did you mean 'tiny-ct'?" in caught.value.hint
    with pytest.raises(ModelError, match="There is no file"):
        import_checkpoint(tmp_path / "none.pt", "mine")
    (tmp_path / "c.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ModelError, match="must end in .safetensors"):
        import_checkpoint(tmp_path / "c.txt", "mine")
    save_file({"other": np.zeros(1, np.float32)}, tmp_path / "o.safetensors")
    with pytest.raises(ModelError, match="fits no model") as caught:
        import_checkpoint(tmp_path / "o.safetensors", "mine")
    assert "Installed: tiny-ct" in caught.value.hint
    make_package(model_folders[0] / "twin", id="twin")
    with pytest.raises(ModelError, match="fits 2 models: tiny-ct, twin"):
        import_checkpoint(tmp_path / "c.safetensors", "mine")


def test_a_backend_can_add_its_own_importer(model_folders, tmp_path, monkeypatch):
    template = make_package(model_folders[0] / "tiny-ct").spec

    def convert(tensors, like):
        if set(tensors) != {"w"}:
            return None
        kept = ("format", "id", "files", "license", "training", "measured", "segmenter")
        description = {k: v for k, v in template.raw.items() if k not in kept}
        description["backend"] = "other"
        description["autoencoder"] = {"class": "VQVAE"}
        description["latent"] = {"channels": 1, "downsampling": 2, "scale_factor": 1.0, "decoded_range": [-1.0, 1.0]}
        return Converted(description, {"denoiser": {"renamed": tensors["w"]}, "autoencoder": {"a": tensors["w"] * 2}})

    monkeypatch.setattr("SynthDiffusionLib.models.importers.IMPORTERS", [*IMPORTERS, Importer("other", convert)])
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "c.safetensors")
    package = import_checkpoint(tmp_path / "c.safetensors", "mine").package
    assert package.load_tensors("autoencoder")["a"].tolist() == [2, 2, 2]
    assert package.spec.provenance["importer"] == "other"
    assert WEIGHTS.keys() != package.load_tensors().keys() == {"renamed"}


@pytest.mark.parametrize(
    "change",
    [
        lambda k, t: (1, t),
        lambda k, t: (k, t.to_sparse()),
        lambda k, t: (k, t.to("meta")),
        lambda k, t: (k, t.to(dtype=__import__("torch").complex64)),
    ],
    ids=["numbers for names", "sparse", "meta", "complex"],
)
def test_tensors_that_are_no_plain_weights(model_folders, tmp_path, change):
    make_package(model_folders[0] / "tiny-ct")
    checkpoint(tmp_path / "c.pt", wrap=lambda s: dict(change(k, t) for k, t in s.items()))
    with pytest.raises(ModelError, match="no state dict|not a dense one"):
        import_checkpoint(tmp_path / "c.pt", "mine", like="tiny-ct")


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(model_folders, tmp_path, monkeypatch):
    make_package(model_folders[0] / "tiny-ct")
    checkpoint(tmp_path / "c.pt")
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("torch has opened it"))
    with zipfile.ZipFile(tmp_path / "c.pt") as whole, zipfile.ZipFile(tmp_path / "z.pt", "w") as packed:
        for member in whole.namelist():
            packed.writestr(member, whole.read(member) + bytes(100_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="is compressed, or claims to hold more"):
        import_checkpoint(tmp_path / "z.pt", "mine", like="tiny-ct")
    stored = bytearray((tmp_path / "c.pt").read_bytes())
    at = stored.index(b"PK\x01\x02")
    stored[at + 20 : at + 28] = (1_000_000).to_bytes(4, "little") * 2  # both sizes of its first member
    (tmp_path / "s.pt").write_bytes(stored)
    with pytest.raises(ModelError, match="is compressed, or claims to hold more"):
        import_checkpoint(tmp_path / "s.pt", "mine", like="tiny-ct")
    (tmp_path / "n.pt").write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(ModelError, match="it is damaged"):
        import_checkpoint(tmp_path / "n.pt", "mine", like="tiny-ct")


def test_a_flipped_byte_in_a_checkpoint_is_found(model_folders, tmp_path):
    make_package(model_folders[0] / "tiny-ct")
    content = bytearray(checkpoint(tmp_path / "c.pt").read_bytes())
    content[content.index(NEW["stem.weight"].tobytes()) + 1] ^= 1  # another finite number
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"is damaged: the checksum of '.*data/\d'"):
        import_checkpoint(tmp_path / "c.pt", "mine", like="tiny-ct")


@pytest.mark.parametrize("kind", ["int64", "bool", "float8_e4m3fn"])
@pytest.mark.parametrize("like", ["tiny-ct", None])
def test_tensors_of_other_types_are_refused(model_folders, tmp_path, kind, like):
    import torch

    make_package(model_folders[0] / "tiny-ct")
    checkpoint(tmp_path / "c.pt", wrap=lambda s: s | {"head.bias": s["head.bias"].to(getattr(torch, kind))})
    said = "fits no model" if like is None else f"'head.bias' is of type {kind}, not float32"
    with pytest.raises(ModelError, match=said):
        import_checkpoint(tmp_path / "c.pt", "mine", like=like)


def test_long_names_are_shortened(model_folders, tmp_path):
    make_package(model_folders[0] / "tiny-ct")
    save_file(NEW | {"n" * 100_000: np.zeros(1, np.float32)}, tmp_path / "c.safetensors")
    for like in ("tiny-ct", None):
        with pytest.raises(ModelError, match=r"n{77}\.\.\.|fits no model") as caught:
            import_checkpoint(tmp_path / "c.safetensors", "mine", like=like)
        assert len(caught.value.one_line()) < 1000


def test_ids_of_released_models_are_not_for_imports(model_folders, tmp_path):
    save_file(NEW, tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match="'medlord-luna' is the ID of a released model") as caught:
        import_checkpoint(tmp_path / "c.safetensors", "medlord-luna")
    assert "models install medlord-luna --from FOLDER" in caught.value.hint


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
def test_a_file_name_that_is_no_text(model_folders, tmp_path):
    make_package(model_folders[0] / "tiny-ct")
    path = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.safetensors")
    save_file(NEW, tmp_path / "c.safetensors")
    os.rename(tmp_path / "c.safetensors", path)
    with pytest.raises(ModelError, match=r"'bad\\udcff.safetensors' is no valid text") as caught:
        import_checkpoint(path, "mine", like="tiny-ct")
    caught.value.one_line().encode("utf-8")
