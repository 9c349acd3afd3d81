"""Bundles that want to run something, read something or fill something: refused in one line, and nothing was run."""

from __future__ import annotations

import json
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest
import tiny_package
import torch
from bundle_examples import edit, medlord_bundle, write_json
from monai.bundle import ConfigParser
from tiny_latent import make_latent_package
from tiny_released import tiny_preset

from SynthDiffusionLib import cli
from SynthDiffusionLib.bundles.write import export_bundle

model_folders = tiny_package.model_folders
make_pipe = getattr(os, "mkfifo", None)  # Windows has none
INFERENCE, METADATA = "configs/inference.json", "configs/metadata.json"


@pytest.fixture
def theirs(tmp_path, model_folders, monkeypatch):
    """A bundle of MONAI's networks that can be imported, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    medlord_bundle(tmp_path / "theirs")
    tiny_preset(tmp_path / "tiny.json", "medlord-x4")
    return tmp_path / "theirs"


@pytest.fixture
def ours(tmp_path, model_folders, monkeypatch):
    """An exported package."""
    monkeypatch.chdir(tmp_path)
    return export_bundle(make_latent_package(tmp_path / "tiny-limb", controlnet=False).folder, tmp_path / "out").folder


def refused(bundle, capsys, *more) -> str:
    """What the command says; it must fail by one line, install nothing and have run nothing."""
    assert cli.main(["models", "import", str(bundle), "--as", "new", *more]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and len(told) < 1500, told
    assert not Path(os.environ["SYNTHDIFFUSION_MODELS"], "new").exists()
    assert not list(Path.cwd().rglob("touched*")), "something was run"
    return told


def import_theirs(theirs, capsys) -> str:
    return refused(theirs, capsys, "--like", "./tiny.json")


def changed(**entries):
    return lambda config: config.update(entries)


def network(**arguments):
    return lambda config: config["network_def"].update(arguments)


TOUCH = "$__import__('os').mkdir('touched')"
TARGET = "monai.networks.nets.DiffusionModelUNet"


def test_the_expression_would_have_run(theirs):
    """MONAI's own parser runs what the next test refuses: the marker is a real sign."""
    edit(theirs / INFERENCE, network(channels=TOUCH))
    parser = ConfigParser()
    parser.read_config(theirs / INFERENCE)
    parser.get_parsed_content("network_def::channels")
    assert Path("touched").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (network(channels=TOUCH), "'network_def::channels' is an expression, which is never run"),
        (network(channels=[8, TOUCH]), "'network_def::channels::1' is an expression"),
        (network(channels="@widths") , "'network_def::channels' refers to 'widths', which is not in the file"),
        (lambda c: c.update(widths=TOUCH) or c["network_def"].update(channels="@widths"), "'widths' is an expression"),
        (lambda c: c.update(a={"b": [8, TOUCH]}) or c["network_def"].update(channels="@a::b"), "'a::b::1' is an expr"),
        (lambda c: c.update(a={"b": [8, TOUCH]}) or c["network_def"].update(channels="%a#b"), "'a::b::1' is an expr"),
        (network(norm_eps={"_target_": "os.system", "command": "mkdir touched"}), "is made by another entry"),
        (network(_mode_="debug"), "'network_def::_mode_' is debug"),
        (network(_mode_="callable"), "'network_def::_mode_' is callable"),
        (network(_mode_={"a": 1}), "'network_def::_mode_' is"),
        (network(_requires_=[TOUCH]), "'network_def::_requires_' asks for other things to be run first"),
        (network(_requires_="@touch"), "'network_def::_requires_'"),
        (network(_disabled_=TOUCH), "'network_def::_disabled_' is an expression"),
        (network(channels="%/etc/passwd"), "'network_def::channels' is no plain value"),
        (network(channels="%../other.json::channels"), "'network_def::channels'"),
        (network(channels="@network_def::channels"), "refers to itself"),
        (lambda c: c.update(a="@b", b="@a") or c["network_def"].update(channels="@a"), "refers to itself"),
        (lambda c: c.update(a=["@a"]) or c["network_def"].update(channels="@a"), "refers to itself"),
        (lambda c: c.update({f"a{i}": [f"@a{i + 1}"] * 10 for i in range(9)} | {"a9": 1})
         or c["network_def"].update(channels="@a0"), "nested too deeply, or too long"),
        (lambda c: c.update({f"a{i}": f"@a{i + 1}" for i in range(50)}) or c["network_def"].update(channels="@a0"),
         "nested too deeply"),
        (network(channels=[[[[[[8]]]]]]), "is nested too deeply"),
        (network(channels=[8] * 3000), "too long"),
        (network(in_channels=10**12), "'network_def.in_channels' must be 0 to"),
        (network(channels=[65536, 65536]), "thousand million parameters"),
        (network(norm_eps="x" * 500), "no plain value"),
        (lambda c: c.clear() or c.update(network_def={"_target_": "os.system", "command": "x"}),
         "defines no network that SynthDiffusion knows; it has 'network_def' (os.system)"),
        (lambda c: c["network_def"].update(_target_="os.system"), "defines no denoiser"),
        (lambda c: c["network_def"].update(_target_=TARGET + ".__init__"), "defines no denoiser"),
        (lambda c: c["network_def"].update(_target_=["os", "system"]), "defines no denoiser"),
        (lambda c: c["scheduler"].update(num_train_timesteps=TOUCH), "'scheduler::num_train_timesteps' is an expr"),
        (lambda c: c["scheduler"].update(prediction_type={"_target_": "os.system"}), "is made by another entry"),
        (changed(surprise="a\0b"), "holds the character NUL"),
    ],
)  # fmt: skip
def test_configurations(change, message, theirs, capsys):
    edit(theirs / INFERENCE, change)
    assert message in import_theirs(theirs, capsys)


def test_what_is_not_needed_is_not_run(theirs, capsys):
    """All of it would be run by MONAI; the import needs none of it, succeeds, and says what it has passed over."""
    entries = {"imports": ["$import scripts"], "initialize": [TOUCH], "run": [TOUCH], "dataset": TOUCH}
    entries |= {"trainer": {"_target_": "os.system", "command": "mkdir touched"}, "ckpt_path": "../../secret.pt"}
    edit(theirs / INFERENCE, changed(**entries))
    (theirs / "scripts").mkdir()
    for name in ("__init__.py", "sitecustomize.py"):
        (theirs / "scripts" / name).write_text("open('touched', 'w')\n", encoding="utf-8")
    assert cli.main(["models", "import", str(theirs), "--as", "new", "--like", "./tiny.json"]) == 0
    assert "program code (scripts/__init__.py, scripts/sitecustomize.py)" in capsys.readouterr().out
    assert not list(Path.cwd().rglob("touched*")) and "scripts" not in sys.modules


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (INFERENCE, "[" * 100_000, "nested too deeply"),
        (INFERENCE, '{"a":' * 200 + "1" + "}" * 200, "nested too deeply"),
        (INFERENCE, '{"network_def": 1, "network_def": 2}', "the key 'network_def' is there twice"),
        (INFERENCE, '{"network_def": NaN}', "NaN is not a JSON number"),
        (INFERENCE, '{"network_def": 1e999}', "too large"),
        (INFERENCE, "[1, 2]", "no table of names and values"),
        (INFERENCE, "", "damaged"),
        (METADATA, '{"version": Infinity}', "Infinity is not a JSON number"),
        (METADATA, "[]", "no table"),
        (METADATA, "\ud800".encode("utf-16", "surrogatepass"), "not UTF-8"),
    ],
)
def test_damaged_files(name, text, message, theirs, capsys):
    (theirs / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    assert message in import_theirs(theirs, capsys)


@pytest.mark.parametrize("name", [INFERENCE, METADATA])
def test_a_file_of_100_mb_is_not_read(name, theirs, capsys):
    with open(theirs / name, "wb") as file:
        file.truncate(100_000_000)
    assert "is larger than 16 MiB" in import_theirs(theirs, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "has aliases"),
        ("network_def: 1\nnetwork_def: 2\n", "has the key 'network_def' twice"),
        ("network_def: !!python/object/apply:os.mkdir ['touched']\n", "is damaged"),
        ("a: .nan\n", "must be a finite number"),
        ("a: " + "[" * 5000, "is damaged"),
        ("x" * 2_000_000, "larger than 1 MiB"),
        ("- 1\n", "no table"),
    ],
)
def test_yaml(text, message, theirs, capsys):
    pytest.importorskip("yaml")
    (theirs / INFERENCE).unlink()
    (theirs / "configs" / "inference.yaml").write_text(text, encoding="utf-8")
    assert message in import_theirs(theirs, capsys)


def test_yaml_without_its_reader(theirs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (theirs / INFERENCE).rename(theirs / "configs" / "inference.yaml")
    assert '"SynthDiffusion[bundle]"' in import_theirs(theirs, capsys)


class Reducer:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("touched",)


def test_pickled_weights(theirs, capsys):
    torch.save({"model": {"w": torch.ones(1)}, "extra": Reducer()}, theirs / "models" / "stage two.pth")
    assert "program code, which is never run" in import_theirs(theirs, capsys)


def test_pickled_weights_of_an_exported_package(ours, capsys):
    torch.save({"w": Reducer()}, ours / "models" / "model.pt")
    assert "program code, which is never run" in refused(ours, capsys)


def test_torchscript(theirs, capsys):
    for path in (theirs / "models").iterdir():
        path.unlink()
    (theirs / "models" / "model.ts").write_bytes(b"PK")
    assert "TorchScript only ('models/model.ts'): a program" in import_theirs(theirs, capsys)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(theirs / "models" / "model.pt"))  # by another name
    assert "model.pt' is TorchScript, a program, which is never run" in import_theirs(theirs, capsys)


def test_torchscript_beside_the_weights_is_told(theirs, capsys):
    (theirs / "models" / "model.ts").write_bytes(b"PK")
    assert cli.main(["models", "import", str(theirs), "--as", "new", "--like", "./tiny.json"]) == 0
    assert "Not read: models/model.ts" in capsys.readouterr().out


def test_weights_that_are_not_finite(theirs, ours, capsys):
    path = theirs / "models" / "stage two.pth"
    weights = torch.load(path, weights_only=True)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    torch.save(weights, path)
    assert "is not finite" in import_theirs(theirs, capsys)
    weights = torch.load(ours / "models" / "model.pt", weights_only=True)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    torch.save(weights, ours / "models" / "model.pt")
    assert "not finite" in refused(ours, capsys)


def own(change):
    return lambda metadata: change(metadata["synthdiffusion"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (own(lambda o: o["weights"]["denoiser"].update(file="../../secret.pt")), "a file outside its folder"),
        (own(lambda o: o["weights"]["denoiser"].update(file="/etc/passwd")), "a file outside its folder"),
        (own(lambda o: o["weights"]["denoiser"].update(file="C:\\secret.pt")), "a file outside its folder"),
        (own(lambda o: o["weights"]["denoiser"].update(file="models/../../x.pt")), "a file outside its folder"),
        (own(lambda o: o["weights"]["denoiser"].update(file="~root/x.pt")), "a file outside its folder"),
        (own(lambda o: o["weights"]["denoiser"].update(file="models/none.pt")), "lacks 'models/none.pt'"),
        (own(lambda o: o["weights"]["denoiser"].update(file=7)), "not of the form"),
        (own(lambda o: o["weights"].pop("denoiser")), "its weights are of autoencoder"),
        (own(lambda o: o.update(format="synthdiffusion-bundle-9")), "Install a newer SynthDiffusion"),
        (lambda m: m.update(synthdiffusion=TOUCH), "not of the form"),
        (lambda m: m.update(synthdiffusion=None), "not of the form"),
    ],
)
def test_metadata_of_an_exported_package(change, message, ours, capsys):
    edit(ours / METADATA, change)
    assert message in refused(ours, capsys)


@pytest.mark.parametrize("change", [{"network": {"class": "os.system"}}, {"backend": 5}, {"files": [{"path": "../x"}]}])
def test_model_json_of_an_exported_package(change, ours, capsys):
    edit(ours / "configs" / "model.json", lambda data: data.update(change))
    assert "is not a valid model description" in refused(ours, capsys)


def test_a_link_that_leaves_the_folder(theirs, ours, capsys):
    secret = Path("secret.pt")
    torch.save({"w": torch.ones(1)}, secret)
    for path, check in ((theirs / "models" / "stage two.pth", import_theirs), (ours / "models" / "model.pt", refused)):
        path.unlink()
        try:
            path.symlink_to(secret.resolve())
        except OSError:
            pytest.skip("no links here")
        assert "is a link that leaves the bundle's folder" in check(path.parents[1], capsys)


def test_a_pipe_is_not_waited_for(theirs, capsys):
    if make_pipe is None:
        pytest.skip("no pipes here")
    (theirs / METADATA).unlink()
    make_pipe(theirs / METADATA)
    assert "lacks 'configs/metadata.json'" in import_theirs(theirs, capsys)


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ([(entry("../touched"), b"x")], "leaves its folder"),
        ([(entry("/tmp/touched"), b"x")], "leaves its folder"),
        ([(entry("models\\..\\..\\touched"), b"x")], "leaves its folder"),
        ([(entry("C:/touched"), b"x")], "leaves its folder"),
        ([(entry("models/link.pt", stat.S_IFLNK | 0o777), b"/etc/passwd")], "a link or a device"),
        ([(entry("models/bomb.pt"), b"\0" * 80_000_000)], "unpacks to 80000000 bytes"),
        ([(entry(f"docs/{i}"), b"") for i in range(1001)], "entries, too many"),
        ([(entry("other/configs/metadata.json"), b"{}")], "holds 2 bundles"),
    ],
)
def test_archives(added, message, theirs, capsys):
    with zipfile.ZipFile("theirs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in theirs.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(theirs).as_posix())
        for info, content in added:
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    assert message in import_theirs("theirs.zip", capsys)


def packed(folder, path="b.zip", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def test_what_is_wrong_in_an_archive_is_said_of_the_archive(theirs, ours, capsys):
    """Not of the temporary folder that it is unpacked to."""
    for path, bundle, check in (
        ("models/stage two.pth", theirs, import_theirs),
        ("models/model.pt", ours, refused),
    ):
        (bundle / path).write_bytes(b"no tensors")
        assert f"'b.zip/{path}' cannot be read" in check(packed(bundle), capsys)
    told = import_theirs(packed(theirs, compression=zipfile.ZIP_LZMA), capsys)
    assert "unusual method" in told and "synthdiffusion models import FOLDER" in told


@pytest.mark.parametrize("character", ["\x1b]0;x\x07", "\x9b31m", "\u202e", "\n", "\u2066"])
def test_a_description_does_not_drive_the_terminal(character, ours, capsys):
    for change in (
        lambda d: d.update(name=f"a{character}b"),
        lambda d: d["license"].update(attribution=f"a{character}b"),
        lambda d: d.update(provenance={"notes": [f"a{character}b"]}),
        lambda d: d["measured"]["quality"].update({f"a{character}b": 1}),
    ):
        before = (ours / "configs" / "model.json").read_bytes()
        edit(ours / "configs" / "model.json", change)
        told = refused(ours, capsys)
        assert "which does not print" in told and told.isprintable()
        (ours / "configs" / "model.json").write_bytes(before)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x1f\x8b"])
def test_what_is_no_archive(content, model_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("b.zip").write_bytes(content)
    assert "is not a readable .zip archive" in refused("b.zip", capsys)


def test_only_what_is_needed_is_unpacked(theirs, monkeypatch):
    """Of an archive, the weights alone come to the disk."""
    from SynthDiffusionLib.bundles.source import open_bundle

    with zipfile.ZipFile("b.zip", "w") as archive:
        for file in theirs.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(theirs).as_posix())
        archive.writestr("scripts/code.py", "open('touched', 'w')")
    monkeypatch.setenv("TMPDIR", str(Path.cwd() / "unpacked"))
    monkeypatch.setattr("tempfile.tempdir", None)
    Path("unpacked").mkdir()
    with open_bundle(Path("b.zip")) as source:
        source.json(METADATA)
        source.file("models/stage one.pth")
        assert [path.name for path in Path("unpacked").rglob("*") if path.is_file()] == ["stage one.pth"]
    assert not list(Path("unpacked").iterdir())


def test_too_many_weights(theirs, capsys):
    for number in range(30):
        write_json(theirs / "models" / f"{number}.pt", {})
    assert "at most 20 are read" in import_theirs(theirs, capsys)


def test_files_of_a_name_that_drives_the_terminal(theirs, capsys):
    edit(theirs / INFERENCE, lambda c: c.update({"\x1b[2J": c.pop("network_def") | {"channels": TOUCH}}))
    assert "\x1b" not in import_theirs(theirs, capsys)
    assert json.loads((theirs / METADATA).read_text(encoding="utf-8"))
