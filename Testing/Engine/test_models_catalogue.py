"""The catalogue of released models: what it says, and the way from an ID to an installed package, from a hub on this
machine that has files of the released layouts with tiny networks."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_package
from hub_server import COMMIT, running_hub
from tiny_released import maisi_files, medlord_files, tiny_preset

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.models import catalogue, import_checkpoint, load_package, remove, verify
from SynthDiffusionLib.models import download as download_module
from SynthDiffusionLib.models.catalogue import catalogue_ids, load_catalogue, load_entry
from SynthDiffusionLib.models.presets import load_preset, networks
from SynthDiffusionLib.resources import resource_path

model_folders = tiny_package.model_folders
IDS = ("maisi-ddpm-ct", "maisi-rflow-ct", "maisi-rflow-mr", "maisi-rflow-mr-brain", "medlord-luna")
TOKEN = "hf_very_secret"


def test_the_entries():
    assert catalogue_ids() == IDS
    for entry in load_catalogue():
        described = dict(networks(load_preset(entry.preset)))
        assert {f.role for f in entry.files} <= set(described)
        assert {"autoencoder", "denoiser"} <= {f.role for f in entry.files}
        assert entry.modes and ("whole" in entry.modes) == any(f.role == "controlnet" for f in entry.files)
        assert entry.license.url.startswith("https://") and entry.license.attribution and entry.notes
        # Nobody has read these from the server yet: a value here must come from there.
        assert {(f.revision, f.sha256, f.bytes) for f in entry.files} == {(None, None, None)}
        assert entry.total_bytes is None
    assert [e.id for e in load_catalogue() if "NON-COMMERCIAL" in e.license.permitted_use] == ["maisi-rflow-mr"]
    assert [e.gated for e in load_catalogue()] == [True, True, True, True, False]
    luna = load_entry("medlord-luna")
    assert luna.modes == ("unconditional",) and luna.package["intensity"]["range"] == [-1000.0, 1000.0]
    assert luna.license.spdx == "Apache-2.0"


def test_a_damaged_entry_and_an_unknown_one(monkeypatch):
    from SynthDiffusionLib import schemas
    from SynthDiffusionLib.errors import ModelError

    with pytest.raises(ModelError, match="no released model 'maisi-ct'") as caught:
        load_entry("maisi-ct")
    assert "Did you mean" in caught.value.hint
    data = json.loads(resource_path("Catalogue", "medlord-luna.json").read_text(encoding="utf-8"))
    for change in (
        {"license": data["license"] | {"url": "http://insecure.example"}},
        {"files": [data["files"][0] | {"path": "../up.pth"}, data["files"][1]]},
        {"files": [data["files"][0] | {"sha256": "abc"}, data["files"][1]]},
        {"id": "other"},
    ):
        monkeypatch.setattr(
            schemas,
            "read_json",
            lambda path, real=schemas.read_json, new=data | change: (
                new if path.name == "medlord-luna.json" else real(path)
            ),
        )
        with pytest.raises(ModelError, match="is no valid entry"):
            load_entry("medlord-luna")
        monkeypatch.undo()


@pytest.fixture
def command(capsys):
    """Runs `synthdiffusion`: exit code, lines of standard output, standard error."""

    def run(*arguments):
        code = main(["models", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out.rstrip("\n").splitlines(), err

    return run


def test_list_and_show(model_folders, command):
    code, lines, _ = command("list", "--json")
    answer = json.loads(lines[-1])
    assert code == 0 and [e["id"] for e in answer["available"]] == list(IDS)
    assert {"medlord-x8", "maisi-rflow", "patch-ddpm"} <= set(answer["presets"])
    mr = next(e for e in answer["available"] if e["id"] == "maisi-rflow-mr")
    assert mr["modality"] == "MR" and mr["backend"] == "maisi" and mr["modes"] == ["unconditional"]
    assert mr["gated"] is True and mr["bytes"] is None and mr["installed"] is False
    assert {"spdx", "name", "url", "permitted_use"} <= set(mr["license"])
    text = "\n".join(command("list", "--available")[1])
    assert all(known in text for known in (*IDS, "medlord-x4"))
    shown = "\n".join(command("show", "maisi-rflow-ct")[1])
    for expected in (
        "not installed",
        "NVIDIA Open Model License",
        "nvidia/NV-Generate-CT/models/autoencoder_v1.pt",
        "must be asked for",
        "models install maisi-rflow-ct --accept-licence",
        "--from FOLDER",
    ):
        assert expected in shown
    preset = "\n".join(command("show", "medlord-x8")[1])
    assert "not trained, no weights" in preset and "166.6 M" in preset and "95.7 M" in preset
    answer = json.loads(command("show", "medlord-x8", "--json")[1][-1])
    assert answer["trained"] is False and round(answer["parameters"]["denoiser"] / 1e6, 1) == 166.6


CASES = {
    "maisi-ddpm-ct": ("maisi-ddpm", lambda folder: maisi_files(folder, "maisi-ddpm")),
    "maisi-rflow-ct": ("maisi-rflow", lambda folder: maisi_files(folder, "maisi-rflow")),
    "medlord-luna": ("medlord-x4", medlord_files),
}


@pytest.fixture
def released(monkeypatch, tmp_path, model_folders):
    """Puts files of tiny networks on a hub under the names of an entry, and makes the entry's preset tiny."""
    for name in ("HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download_module, "PAUSE_S", 0.01)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)

        def prepare(entry_id):
            preset, write = CASES[entry_id]
            folder = tmp_path / "made"
            folder.mkdir()
            files, _ = write(folder)
            entry = replace(load_entry(entry_id), preset=str(tiny_preset(tmp_path / "tiny.json", preset)))
            monkeypatch.setattr(
                catalogue, "load_entry", lambda wanted, real=load_entry: entry if wanted == entry_id else real(wanted)
            )
            for file, path in zip(entry.files, files, strict=True):
                hub.files[f"{file.repo}/{file.path}"] = path.read_bytes()
            return SimpleNamespace(hub=hub, entry=entry, files=files, user=model_folders[1])

        yield prepare


@pytest.mark.parametrize("entry_id", CASES)
def test_the_life_of_a_released_model(released, command, entry_id):
    r = released(entry_id)
    code, lines, err = command("install", entry_id, "--accept-licence")
    assert code == 0, err
    assert lines[0].startswith(f"Installed '{entry_id}'") and "converting" in err
    assert any("scale factor" in line for line in lines) == (entry_id == "medlord-luna")
    spec = load_package(entry_id).spec
    assert verify(entry_id).ok and spec.name == r.entry.name and spec.modes == r.entry.modes
    assert spec.license.spdx == r.entry.license.spdx and r.entry.license.url in spec.license.permitted_use
    assert spec.license.attribution == r.entry.license.attribution
    assert spec.training.dataset == r.entry.training["dataset"]
    for record, file, path in zip(spec.provenance["source_files"], r.entry.files, r.files, strict=True):
        assert (record["repo"], record["path"], record["role"]) == (file.repo, file.path, file.role)
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == record["etag"]
        assert (record["revision"], record["bytes"]) == (COMMIT, path.stat().st_size)
        assert record["source"] == r.hub.endpoint and re.fullmatch(r"20\d\d-\d\d-\d\dT.*\+00:00", record["at"])
    accepted = spec.provenance["licence_accepted"]
    assert accepted["how"] == "option" and accepted["name"] == r.entry.license.name and accepted["at"]
    assert [p.name for p in r.user.iterdir()] == [entry_id]  # the downloads are gone
    card = (r.user / entry_id / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert r.entry.license.url in card and "Nothing of it has been measured" in card
    asked = len(r.hub.requests)
    code, lines, _ = command("install", entry_id)  # no licence is asked for again, and nothing of the network
    assert code == 0 and "installed already" in lines[0] and len(r.hub.requests) == asked
    listed = json.loads(command("list", "--json")[1][-1])
    assert next(e for e in listed["available"] if e["id"] == entry_id)["installed"] is True
    assert command("verify", entry_id)[0] == 0 and "Trained on" in "\n".join(command("show", entry_id)[1])
    (r.user / entry_id / "autoencoder.safetensors").write_bytes(b"damaged")
    assert command("install", entry_id, "--accept-licence")[0] == 0 and verify(entry_id).ok
    assert command("remove", entry_id)[0] == 0 and not (r.user / entry_id).exists()


def test_without_acceptance_nothing_is_asked_of_the_network(released, command, monkeypatch):
    r = released("maisi-rflow-ct")
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))  # no terminal: what comes from it is no answer
    code, _, err = command("install", "maisi-rflow-ct")
    assert code == 2 and len(err.splitlines()) == 1
    for expected in ("NVIDIA Open Model License", r.entry.license.url, "--accept-licence"):
        assert expected in err
    assert not r.hub.requests and not r.user.exists()


def test_what_is_no_released_model(command, model_folders):
    code, _, err = command("install", "maisi-rflow-tc")
    assert code == 2 and "Did you mean 'maisi-rflow-ct'?" in err
    code, _, err = command("install", "medlord-x8")
    assert code == 2 and "a design without weights. Released weights of it: medlord-luna" in err
    code, _, err = command("install", "qqqq")
    assert code == 2 and "There is no model 'qqqq'" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "code"), [("yes\n", 0), ("no\n", 2), ("\n", 2), ("", 2)])
def test_a_terminal_is_asked(released, monkeypatch, answer, code):
    r = released("medlord-luna")
    told = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", told)
    assert main(["models", "install", "medlord-luna"]) == code
    assert r.entry.license.url in told.getvalue() and "do you accept it?" in told.getvalue()
    if code == 0:
        assert load_package("medlord-luna").spec.provenance["licence_accepted"]["how"] == "terminal"
        remove("medlord-luna")
    else:
        assert not r.hub.requests and "has not been accepted" in told.getvalue()


def test_events(released, command):
    r = released("maisi-ddpm-ct")
    code, lines, err = command("install", "maisi-ddpm-ct", "--accept-licence", "--events", "--json")
    assert code == 0 and not err
    *events, last = map(json.loads, lines)
    assert last["id"] == "maisi-ddpm-ct"
    total = sum(path.stat().st_size for path in r.files)
    loading = [e for e in events if e["stage"] == "download"]
    assert all(e["event"] == "progress" and e["total"] == total for e in loading)
    steps = [e["step"] for e in loading]
    assert steps == sorted(steps) and steps[-1] == total
    assert {e["message"] for e in loading} <= {f.path.split("/")[-1] for f in r.entry.files}
    assert events[-1]["stage"] == "convert"


def test_from_a_folder_without_a_network(released, command, monkeypatch, tmp_path):
    r = released("maisi-rflow-ct")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    code, _, err = command("install", "maisi-rflow-ct", "--accept-licence")
    assert code == 1 and "Cannot reach" in err and "--from FOLDER" in err
    plain, tree = tmp_path / "plain", tmp_path / "tree"
    for file, path in zip(r.entry.files, r.files):
        for target in (plain / file.path.split("/")[-1], tree / file.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for folder in (plain, tree):
        assert command("install", "maisi-rflow-ct", "--accept-licence", "--from", folder)[0] == 0
        record = load_package("maisi-rflow-ct").spec.provenance["source_files"][0]
        assert record["source"] == "local file" and record["revision"] is None
        assert all((folder / f).exists() for f in (p.relative_to(folder) for p in folder.rglob("*.pt")))
        remove("maisi-rflow-ct")
    (plain / "controlnet_3d_rflow-ct.pt").unlink()
    code, _, err = command("install", "maisi-rflow-ct", "--accept-licence", "--from", plain)
    assert code == 2 and "lacks 'models/controlnet_3d_rflow-ct.pt'" in err and "huggingface.co/nvidia" in err
    assert command("install", "maisi-rflow-ct", "--accept-licence", "--from", plain / "none")[0] == 2
    code, _, err = command("install", tmp_path, "--from", plain)
    assert code == 2 and "--from is for released models" in err


def test_a_gated_model_and_its_token(released, command, monkeypatch, tmp_path):
    r = released("maisi-rflow-ct")
    r.hub.token = TOKEN
    code, _, err = command("install", "maisi-rflow-ct", "--accept-licence")
    assert code == 2 and "(401)" in err and "https://huggingface.co/nvidia/NV-Generate-CT" in err
    (tmp_path / "token").write_text("not-this-one", encoding="ascii")
    code, _, err = command("install", "maisi-rflow-ct", "--accept-licence", "--token-file", tmp_path / "token")
    assert code == 2 and "(403)" in err and "not-this-one" not in err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, lines, err = command("install", "maisi-rflow-ct", "--accept-licence", "--events")
    assert code == 0
    written = "".join(p.read_text(encoding="utf-8", errors="replace") for p in r.user.rglob("*") if p.is_file())
    assert TOKEN not in written + err + "".join(lines)


def test_an_interrupted_installation_goes_on(released, command):
    r = released("medlord-luna")
    size = r.files[1].stat().st_size
    r.hub.stop_after = [10**9, size // 2] + [0] * download_module.ATTEMPTS
    code, _, err = command("install", "medlord-luna", "--accept-licence")
    assert code == 1 and "ldm_luna_ds8.pth" in err and "broke off" in err
    assert not (r.user / "medlord-luna").exists() and command("list")[1][0].startswith("No model")
    r.hub.requests.clear()
    assert command("install", "medlord-luna", "--accept-licence")[0] == 0
    assert [x.headers.get("Range") for x in r.hub.asked("storage", "GET")] == [f"bytes={size // 2}-"]
    assert verify("medlord-luna").ok


def test_an_interrupt_from_the_keyboard_keeps_what_is_there(released, command, monkeypatch):
    r = released("medlord-luna")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("SynthDiffusionLib.models.importers.put_package", interrupt)
        code, _, err = command("install", "medlord-luna", "--accept-licence")
    assert code == 130 and err.endswith("Cancelled\n")
    assert [p.name for p in r.user.iterdir()] == [".downloads"]
    r.hub.requests.clear()
    assert command("install", "medlord-luna", "--accept-licence")[0] == 0
    assert not r.hub.asked("storage", "GET")  # everything was there


def test_wrong_files_and_no_space(released, command, monkeypatch):
    r = released("medlord-luna")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
        code, _, err = command("install", "medlord-luna", "--accept-licence")
    assert code == 1 and "but only 1.0 kB are free" in err and not r.hub.asked("hub", "GET")
    r.hub.wrong_bytes = b"?" * r.files[0].stat().st_size
    code, _, err = command("install", "medlord-luna", "--accept-licence")
    assert code == 1 and "wrong checksum" in err
    r.hub.wrong_bytes = None
    r.hub.files["AICM-HD/medlord/ldm_luna_ds8.pth"] = r.files[0].read_bytes()
    code, _, err = command("install", "medlord-luna", "--accept-licence")
    assert code == 2 and "both are MedLoRD's autoencoder" in err and not (r.user / "medlord-luna").exists()
    assert f"The downloaded files are in '{r.user / '.downloads' / 'medlord-luna'}'" in err


def test_files_and_package_together_need_space(released, command, monkeypatch):
    r = released("medlord-luna")
    total = sum(path.stat().st_size for path in r.files)
    for free, wanted in ((2 * total - 1, 1), (2 * total, 0)):  # the files, and the weights that are made of them
        with monkeypatch.context() as patch:
            patch.setattr(download_module.shutil, "disk_usage", lambda place, free=free: SimpleNamespace(free=free))
            code, _, err = command("install", "medlord-luna", "--accept-licence")
        assert code == wanted, err
        assert bool(r.hub.asked("storage", "GET")) == (code == 0)


def test_an_installation_that_is_under_way(released, command):
    r = released("medlord-luna")
    with download_module.only_one(r.user / ".downloads" / "medlord-luna", "medlord-luna"):
        code, _, err = command("install", "medlord-luna", "--accept-licence")
        assert code == 1 and "Another installation of 'medlord-luna' is under way" in err and not r.hub.requests
    assert command("install", "medlord-luna", "--accept-licence")[0] == 0


def test_another_model_of_that_id(released, command):
    r = released("medlord-luna")
    tiny_package.make_package(r.user / "medlord-luna", id="medlord-luna")
    code, _, err = command("install", "medlord-luna", "--accept-licence")
    assert code == 2 and "Another model 'medlord-luna' is installed already" in err and not r.hub.requests


def test_known_checksums_bring_the_licence_to_an_import(released, monkeypatch):
    r = released("medlord-luna")
    known = [hashlib.sha256(path.read_bytes()).hexdigest() for path in r.files]
    files = tuple(replace(f, sha256=checksum) for f, checksum in zip(r.entry.files, known))
    monkeypatch.setattr(catalogue, "load_catalogue", lambda: (replace(r.entry, files=files),))
    spec = import_checkpoint(r.files, "mine", like=r.entry.preset).package.spec
    assert spec.license.spdx == "Apache-2.0" and spec.provenance["catalogue"] == "medlord-luna" and spec.id == "mine"
    monkeypatch.setattr(catalogue, "load_catalogue", lambda: (replace(r.entry, files=(files[0],)),))
    assert import_checkpoint(r.files, "other", like=r.entry.preset).package.spec.license.spdx == "NOASSERTION"
