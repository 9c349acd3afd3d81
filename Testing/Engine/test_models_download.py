"""Downloads from a hub on this machine: resumed, checked, refused, with the token kept where it belongs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import COMMIT, running_hub

from SynthDiffusionLib.errors import BadInput, Cancelled, ModelError, RunFailed
from SynthDiffusionLib.models import download as download_module
from SynthDiffusionLib.models import hub as hub_module
from SynthDiffusionLib.models.download import bytes_there, check_space, clear, download, expect, only_one
from SynthDiffusionLib.models.hub import describe, endpoint, read_token

REPO, PATH = "owner/Model-1", "models/net v1.pt"
CONTENT = random.Random(0).randbytes(700_000)  # more than two pieces of a download
TOKEN = "hf_secret"


@pytest.fixture
def hub(monkeypatch):
    for name in ("HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download_module, "PAUSE_S", 0.01)
    with running_hub() as running:
        running.files[f"{REPO}/models/net%20v1.pt"] = CONTENT
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint + "/")
        yield running


def fetch(folder, **options):
    return download(describe(REPO, PATH, None, options.get("token")), folder, **options)


def test_what_the_server_says_is_what_is_known(hub):
    remote = describe(REPO, PATH, None, None)
    assert (remote.commit, remote.bytes) == (COMMIT, len(CONTENT))
    assert remote.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert remote.url == f"{hub.endpoint}/{REPO}/resolve/{COMMIT}/models/net%20v1.pt"  # pinned from here on
    assert [r.path.split("/")[4] for r in hub.requests] == ["main"] and not hub.asked("storage", "GET")


def test_a_file_arrives_whole_with_progress(hub, tmp_path):
    seen = []
    path = fetch(tmp_path / "new" / "folder", on_bytes=seen.append)
    assert path.name == "net v1.pt" and path.read_bytes() == CONTENT
    assert seen == sorted(seen) and len(seen) >= 3 and seen[-1] == len(CONTENT)
    assert not list(path.parent.glob("*.part"))
    clear(path.parent, [path.name])
    assert not (tmp_path / "new").exists()


def test_a_complete_file_is_checked_but_not_asked_for_again(hub, tmp_path):
    path = fetch(tmp_path)
    assert bytes_there(describe(REPO, PATH, None, None), tmp_path) == len(CONTENT)
    assert fetch(tmp_path) == path and len(hub.asked("storage", "GET")) == 1
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(RunFailed, match="wrong checksum"):
        fetch(tmp_path)
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_where_it_broke(hub, tmp_path):
    hub.stop_after = [300_000, 100_000]
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert [r.headers.get("Range") for r in hub.asked("storage", "GET")] == [None, "bytes=300000-", "bytes=400000-"]


def test_a_server_without_ranges_begins_anew(hub, tmp_path):
    hub.ranges, hub.stop_after = False, [300_000]
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert len(hub.asked("storage", "GET")) == 2


def test_a_download_that_ends_is_kept_and_taken_up_by_the_next_call(hub, tmp_path):
    hub.stop_after = [300_000] + [0] * download_module.ATTEMPTS
    with pytest.raises(RunFailed, match=r"broke off .*300.0 kB of 700.0 kB are there") as caught:
        fetch(tmp_path)
    assert "goes on from there" in caught.value.hint and "--from FOLDER" in caught.value.hint
    assert (tmp_path / "net v1.pt.part").stat().st_size == 300_000
    hub.requests.clear()
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert [r.headers.get("Range") for r in hub.asked("storage", "GET")] == ["bytes=300000-"]


def test_another_version_is_not_put_after_half_of_the_old_one(hub, tmp_path):
    hub.stop_after = [300_000] + [0] * download_module.ATTEMPTS
    with pytest.raises(RunFailed):
        fetch(tmp_path)
    newer = CONTENT[::-1]
    hub.files[f"{REPO}/models/net%20v1.pt"] = newer
    hub.requests.clear()
    remote = describe(REPO, PATH, None, None)
    assert bytes_there(remote, tmp_path) == 0
    assert download(remote, tmp_path).read_bytes() == newer
    assert [r.headers.get("Range") for r in hub.asked("storage", "GET")] == [None]


def test_passing_faults_of_the_server_are_passed_over(hub, tmp_path):
    hub.refuse_bytes = [503, 500]
    assert fetch(tmp_path).read_bytes() == CONTENT
    hub.refuse_bytes = [503] * download_module.ATTEMPTS
    clear(tmp_path / "other", [])
    with pytest.raises(RunFailed, match="the server answered 503"):
        fetch(tmp_path / "other")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (CONTENT[:-1] + b"?", "wrong checksum: sha256 [0-9a-f]{12}"),
        (CONTENT[:-100], "wrong length: 699900 bytes come, 700000 were announced"),
        (CONTENT + b"more", "wrong length: 700004"),
    ],
)
def test_what_is_not_the_announced_file_is_deleted(hub, tmp_path, sent, said):
    hub.wrong_bytes = sent
    with pytest.raises(RunFailed, match=said) as caught:
        fetch(tmp_path)
    assert caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["net v1.pt.part.json"]


def test_a_file_without_a_checksum_is_measured_by_its_length(hub, tmp_path):
    hub.lie = {"X-Linked-Etag": '"' + "a" * 40 + '"'}  # as for small files, whose etag is Git's
    assert describe(REPO, PATH, None, None).sha256 is None
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_the_catalogue_goes_before_the_server(hub):
    remote = describe(REPO, PATH, None, None)
    assert expect(remote, None, None) == remote == expect(remote, remote.sha256, remote.bytes)
    with pytest.raises(ModelError, match="another 'net v1.pt' than the catalogue: checksum"):
        expect(remote, "0" * 64, None)
    with pytest.raises(ModelError, match="length 700000 instead of 5"):
        expect(remote, None, 5)


def test_the_token_goes_to_the_hub_alone(hub, tmp_path):
    hub.token = TOKEN
    assert fetch(tmp_path, token=TOKEN).read_bytes() == CONTENT
    assert hub.asked("hub", "GET") and hub.asked("storage", "GET")
    for request in hub.requests:
        assert request.headers.get("Authorization") == (f"Bearer {TOKEN}" if request.host == "hub" else None)
    written = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*.json"))
    assert TOKEN not in written


def test_a_moved_repository_on_the_same_host_still_gets_the_token(hub):
    """The hub redirects a renamed repository by an address without a host."""
    hub.token = TOKEN
    elsewhere = f"{hub.endpoint}/{REPO}/resolve/main/models/net%20v1.pt"
    redirects = hub_module._Redirects(elsewhere=False)
    request = hub_module.urllib.request.Request(
        f"{hub.endpoint}/old/name", headers={"Authorization": f"Bearer {TOKEN}"}, method="HEAD"
    )
    followed = redirects.redirect_request(request, None, 307, "", {}, elsewhere)
    assert followed.get_method() == "HEAD" and followed.get_header("Authorization") == f"Bearer {TOKEN}"
    assert redirects.redirect_request(request, None, 302, "", {}, hub.storage) is None


def test_encryption_is_not_given_up_on_the_way():
    request = hub_module.urllib.request.Request("https://hub.example/a")
    with pytest.raises(RunFailed, match="without encryption"):
        hub_module._Redirects(elsewhere=True).redirect_request(request, None, 302, "", {}, "http://cdn.example/a")


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        (None, 401, "asked for access \\(401\\).*huggingface.co/owner/Model-1.*--token-file FILE"),
        ("wrong", 403, "this token's account \\(403\\)"),
    ],
)
def test_gated(hub, token, status, said):
    hub.token = TOKEN
    with pytest.raises(ModelError) as caught:
        describe(REPO, PATH, None, token)
    assert __import__("re").search(said, caught.value.one_line()), caught.value.one_line()
    assert caught.value.exit_code == 2 and "wrong" not in caught.value.one_line()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, ModelError, "does not accept the access token"),
        (404, ModelError, "has no such file"),
        (429, RunFailed, "asked too often"),
        (500, RunFailed, "error 500"),
    ],
)
def test_refusals(hub, status, kind, said):
    hub.refuse = status
    with pytest.raises(kind, match=said):
        describe(REPO, PATH, None, TOKEN)


def test_no_network(monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(RunFailed, match="Cannot reach http://127.0.0.1") as caught:
            describe(REPO, PATH, None, None)
    assert "--from FOLDER" in caught.value.hint


def test_addresses_and_tokens(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert endpoint() == "https://huggingface.co" and read_token(None) is None
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(BadInput, match="HF_ENDPOINT is no address"):
        endpoint()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="ascii")
    monkeypatch.setenv("HF_TOKEN", "from-the-environment")
    assert read_token(file) == TOKEN and read_token(None) == "from-the-environment"
    for content in (b"", b"two\nlines", b"\xff\xfe", b"a b"):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="holds no access token"):
            read_token(file)
    with pytest.raises(BadInput, match="cannot be read"):
        read_token(tmp_path / "none")
    assert hub_module.host_of("https://user:secret@hub.example:444/a?b") == "https://hub.example:444"


def test_cancelling_keeps_what_is_there(hub, tmp_path):
    with pytest.raises(Cancelled):
        fetch(tmp_path, should_cancel=lambda: True)
    there = (tmp_path / "net v1.pt.part").stat().st_size
    assert 0 < there < len(CONTENT)
    hub.requests.clear()
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert hub.asked("storage", "GET")[0].headers["Range"] == f"bytes={there}-"


def test_no_space(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
        with pytest.raises(RunFailed, match="'x' needs 2.0 kB, but only 1.0 kB are free"):
            check_space(tmp_path / "not" / "there", 2000, "'x'")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_append", full)
        with pytest.raises(RunFailed, match="The disk with .* is full") as caught:
            fetch(tmp_path)
    assert "goes on from there" in caught.value.hint
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_a_note_that_is_damaged_begins_anew(hub, tmp_path):
    (tmp_path / "net v1.pt.part").write_bytes(b"x" * 1000)
    for note in ("", "[1]", json.dumps({"etag": "other"})):
        Path(tmp_path / "net v1.pt.part.json").write_text(note, encoding="utf-8")
        assert fetch(tmp_path).read_bytes() == CONTENT


def test_what_has_come_is_on_the_disk_at_once_and_a_slow_server_can_be_left(hub, tmp_path):
    hub.stop_after, hub.stall = [1000], threading.Event()  # 1000 bytes, and then nothing for 10 s
    part, seen = tmp_path / "net v1.pt.part", []
    began = time.monotonic()
    try:
        with pytest.raises(Cancelled):
            fetch(
                tmp_path,
                on_bytes=lambda done: seen.append((done, part.stat().st_size)),
                should_cancel=lambda: seen[-1][0] == 1000,
            )
        assert time.monotonic() - began < 5
    finally:
        hub.stall.set()
    assert seen[-1] == (1000, 1000) and all(done == there for done, there in seen)


def test_cancelling_between_two_attempts(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "PAUSE_S", 60.0)
    hub.refuse_bytes = [503] * download_module.ATTEMPTS
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(tmp_path, should_cancel=lambda: bool(hub.asked("storage", "GET")))
    assert time.monotonic() - began < 30 and len(hub.asked("storage", "GET")) == 1


def test_another_part_than_was_asked_for_is_not_put_after_the_first(hub, tmp_path):
    hub.stop_after = [300_000]
    hub.part = "bytes 299999-699999/700000"
    with pytest.raises(RunFailed, match="the server sent another part of the file"):
        fetch(tmp_path)
    assert (tmp_path / "net v1.pt.part").read_bytes() == CONTENT[:300_000]
    hub.part = None
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_an_endless_answer_stops_at_the_announced_length(hub, tmp_path):
    hub.endless = True
    seen = []
    with pytest.raises(RunFailed, match="wrong length: 700001 bytes instead of 700000"):
        fetch(tmp_path, on_bytes=seen.append)
    assert seen[-1] == 700_001 and not (tmp_path / "net v1.pt.part").exists()


@pytest.mark.parametrize("size", ["0", None])
def test_nothing_comes(hub, tmp_path, size):
    hub.lie, hub.wrong_bytes = {"X-Linked-Size": size}, b""
    with pytest.raises(RunFailed, match="The server sent nothing for 'net v1.pt'"):
        fetch(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["net v1.pt.part.json"]


@pytest.mark.parametrize("size", ["\u00b2", "9" * 5000, "-5", "many"])
def test_sizes_that_are_none(hub, size):
    hub.lie = {"X-Linked-Size": size}
    with pytest.raises(ModelError, match="gives a size of 'models/net v1.pt' that is none") as caught:
        describe(REPO, PATH, None, None)
    assert "fault of the server" in caught.value.hint and len(caught.value.one_line()) < 400


@pytest.mark.parametrize("address", ["http://[::1", "http://localhost:port/a", "http://localhost:99999/a"])
def test_redirects_to_what_is_no_address(hub, tmp_path, monkeypatch, address):
    remote = describe(REPO, PATH, None, None)
    hub.lie = {"Location": address}
    for ask in (lambda: download(remote, tmp_path), lambda: describe(REPO, PATH, None, None)):
        with pytest.raises(ModelError, match="sends us on to an address that is none") as caught:
            ask()
        assert "fault of the server" in caught.value.hint
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(BadInput, match="HF_ENDPOINT is no address"):
        endpoint()


def test_one_process_at_a_time(tmp_path):
    folder, lock = tmp_path / "downloads" / "net", tmp_path / "downloads" / "net.lock"
    with only_one(folder, "net"):
        script = (
            "import sys; from pathlib import Path; from SynthDiffusionLib.models.download import only_one\n"
            "with only_one(Path(sys.argv[1]), 'net'): pass"
        )
        root = str(Path(download_module.__file__).parents[2])
        other = subprocess.run(
            [sys.executable, "-c", script, str(folder)], cwd=root, capture_output=True, text=True, check=False
        )
        assert f"Another installation of 'net' is under way (process {os.getpid()})" in other.stderr
        assert lock.exists()  # still ours
    assert not lock.parent.exists()
    lock.parent.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for left in (f"{ended.pid} 1.0", f"{os.getpid()} 1.0", "nonsense here"):  # the second number is another process's
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(left, encoding="ascii")
        with only_one(folder, "net"):
            assert lock.read_text(encoding="ascii").split()[0] == str(os.getpid())
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("", encoding="ascii")  # just being written
    with pytest.raises(RunFailed, match="is under way"), only_one(folder, "net"):
        pass
    os.utime(lock, (1, 1))
    with only_one(folder, "net"):
        pass
