"""Who can reach the network: what Docs/SECURITY.md says of it, held on the source and on a run."""

from __future__ import annotations

import ast
import socket
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_package import make_working_package

from SynthDiffusionLib.backends import patch_ddpm
from SynthDiffusionLib.jobs import GenerateRequest, run

ROOT = Path(__file__).resolve().parents[2]

# Modules that open connections. `socket` is asked for the computer's name in `reader_study/locks.py`, and for no more.
CONNECTING = {
    "urllib.request",
    "http.client",
    "http.server",
    "socket",
    "ssl",
    "ftplib",
    "smtplib",
    "telnetlib",
    "xmlrpc",
    "asyncio",
    "requests",
    "httpx",
    "urllib3",
    "huggingface_hub",
    "webbrowser",
    "ray",
}


def connecting(source: str) -> set[str]:
    """Modules and calls in a source that can open a connection; exception classes of such a module cannot."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & CONNECTING
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = {alias.name for alias in node.names}
            if node.module in CONNECTING and not all(name.endswith("Exception") for name in names):
                found.add(node.module)
            found |= {f"{node.module}.{name}" for name in names} & CONNECTING
        elif isinstance(node, ast.Attribute) and node.attr in ("urlretrieve", "urlopen", "load_state_dict_from_url"):
            found.add(node.attr)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.hub.load", "slicer.util.downloadFile"):
            found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import urllib.request",
        "from urllib import request",
        "def f():\n    import requests",
        "from http.client import HTTPSConnection, HTTPException",
        "import torch\ntorch.hub.load('a', 'b')",
        "x.urlopen('https://a.example')",
    ],
)
def test_the_check_sees_a_connection(source):
    assert connecting(source)


def test_the_hub_and_a_cluster_are_all_that_the_project_connects_to():
    found = {
        path.relative_to(ROOT).as_posix(): names
        for folder in ("SynthDiffusionLib", "SynthDiffusion")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (names := connecting(path.read_text(encoding="utf-8")))
    }
    assert found.pop("SynthDiffusionLib/reader_study/locks.py") == {"socket"}
    assert set(found) == {"SynthDiffusionLib/models/hub.py", "SynthDiffusionLib/batch/ray_pool.py"}


def test_the_name_of_the_computer_is_all_that_a_study_asks_of_socket():
    tree = ast.parse((ROOT / "SynthDiffusionLib" / "reader_study" / "locks.py").read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "socket"
    }
    assert used == {"gethostname"}


def test_no_training_file_asks_for_code_from_elsewhere():
    """MONAI gets the networks of MedicalNet by torch.hub, which runs what it has downloaded."""
    files = sorted((ROOT / "Resources" / "Training").glob("*.toml"))
    assert len(files) > 8
    chosen = {p.stem: tomllib.loads(p.read_text(encoding="utf-8")).get("losses", {}).get("perceptual") for p in files}
    assert not [name for name, loss in chosen.items() if loss and loss.startswith("medicalnet")]
    small = [name for name in chosen if name.startswith(("limb-tumour", "hippocampus", "lung-nodule"))]
    assert small and {chosen[name] for name in small} <= {"off", None}


def test_generating_opens_no_connection(tmp_path, monkeypatch):
    def refused(*arguments: object) -> None:
        raise AssertionError(f"a connection to {arguments[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(patch_ddpm, "SMALLEST_SIDE", 16)
    package = make_working_package(tmp_path / "tiny-ct").folder
    array = np.full((14, 14, 14), 1, np.uint8)
    array[4:8, 5:9, 4:8] = 4
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "seg.nii.gz")
    result = run(GenerateRequest(tmp_path / "seg.nii.gz", str(package), tmp_path / "out", seed=1))
    assert result.outputs
    with pytest.raises(AssertionError, match="a connection"):
        socket.create_connection(("127.0.0.1", 9))
