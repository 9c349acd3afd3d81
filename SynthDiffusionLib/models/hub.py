"""Asks a model hub (Hugging Face, or a server that speaks like it) for files: addresses, headers, redirects, errors.

A file is at ENDPOINT/REPO/resolve/REVISION/PATH. The answer to HEAD names the commit (X-Repo-Commit), and for a large
file its SHA-256 (X-Linked-Etag) and size (X-Linked-Size); GET redirects to another host, which has the bytes.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import BadInput, ModelError, RunFailed, SynthDiffusionError

DEFAULT_ENDPOINT = "https://huggingface.co"
ENDPOINT_VARIABLE = "HF_ENDPOINT"
TOKEN_VARIABLE = "HF_TOKEN"
TIMEOUT_S = 30.0
OFFLINE_HINT = (
    "Check the network and its proxy (HTTPS_PROXY). Without a network: copy the files from a computer that has one, "
    "and give their folder by --from FOLDER."
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIZE = re.compile(r"[0-9]{1,18}")
_LONGEST_TOKEN_FILE = 4096
_NONSENSE_HINT = f"It is a fault of the server: try again later, and see whether {ENDPOINT_VARIABLE} is right."


class Interrupted(Exception):
    """The connection failed in a way that may pass; trying again may help."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the server describes it.

    Args:
        repo, path: which.
        commit: of the repository; what was asked for, if the server does not say.
        etag: changes with the content.
        sha256: of the content; None if the server does not say.
        bytes: its size; None if the server does not say.
        url: where to get exactly this version.
    """

    repo: str
    path: str
    commit: str
    etag: str
    sha256: str | None
    bytes: int | None
    url: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def endpoint() -> str:
    """Address of the hub: HF_ENDPOINT, or huggingface.co.

    Raises:
        BadInput: HF_ENDPOINT is no http address.
    """
    address = os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT
    try:
        host = host_of(address)
    except ValueError:  # brackets or a port that are none
        host = ""
    if not host.startswith(("http://", "https://")) or not urllib.parse.urlsplit(address).hostname:
        raise BadInput(f"{ENDPOINT_VARIABLE} is no address", f"Set it to one such as {DEFAULT_ENDPOINT}.")
    return address.rstrip("/")


def host_of(url: str) -> str:
    """Scheme and host of an address, without a user name or password that may stand in it."""
    parts = urllib.parse.urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def read_token(file: Path | None) -> str | None:
    """The access token: from a file, else from HF_TOKEN; None if there is none. It is shown and recorded nowhere.

    Raises:
        BadInput: the file cannot be read, or what is in it is no token.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    source = TOKEN_VARIABLE
    if file is not None:
        source = f"'{file}'"
        try:
            with open(file, "rb") as stream:
                token = stream.read(_LONGEST_TOKEN_FILE).decode("ascii")
        except UnicodeDecodeError as error:
            raise BadInput(f"{source} holds no access token", "It must hold the token alone.") from error
        except OSError as error:
            raise BadInput(f"{source} cannot be read ({error.strerror})", "Give the file with the token.") from error
    token = token.strip()
    if not token and file is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9_.~+/=-]+", token):
        raise BadInput(f"{source} holds no access token", "It must hold the token alone, on one line.")
    return token


def describe(repo: str, path: str, revision: str | None, token: str | None) -> RemoteFile:
    """Asks the server what a file is.

    Args:
        repo: "owner/name".
        path: in it.
        revision: commit or branch; None for the newest.
        token: for gated repositories.

    Raises:
        ModelError: no access, no such file, or the server answers nonsense.
        RunFailed: the server cannot be reached, or fails.
    """
    base, wanted = endpoint(), revision or "main"
    headers = _ask("HEAD", _address(base, repo, wanted, path), repo, token, {}, elsewhere=False)[1]
    commit = headers.get("X-Repo-Commit") or wanted
    if not _COMMIT.fullmatch(commit):
        commit = wanted
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    size = headers.get("X-Linked-Size") or (None if headers.get("Location") else headers.get("Content-Length"))
    if size and size_in(size) is None:
        raise ModelError(f"{host_of(base)} gives a size of '{path}' that is none: '{size[:20]}'", _NONSENSE_HINT)
    return RemoteFile(
        repo,
        path,
        commit,
        etag,
        etag if _SHA256.fullmatch(etag) else None,
        size_in(size),
        _address(base, repo, commit, path),
    )


def size_in(text: str | None) -> int | None:
    """The number of bytes in a header; None if there is none."""
    return int(text) if text and _SIZE.fullmatch(text) else None


def get(remote: RemoteFile, offset: int, token: str | None) -> tuple[Any, Message]:
    """Opens a file from a byte on.

    Returns:
        the open answer and its headers; the caller closes it.

    Raises:
        ModelError, RunFailed: as `describe`.
        Interrupted: the connection failed.
    """
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    return _ask("GET", remote.url, remote.repo, token, headers, elsewhere=True)


def _address(base: str, repo: str, revision: str, path: str) -> str:
    return f"{base}/{repo}/resolve/{urllib.parse.quote(revision, safe='')}/{urllib.parse.quote(path)}"


def _ask(
    method: str, url: str, repo: str, token: str | None, headers: dict[str, str], elsewhere: bool
) -> tuple[Any, Message]:
    # Bytes as they are: a compressed answer would have another length, and no ranges.
    headers = {"User-Agent": f"SynthDiffusion/{__version__}", "Accept-Encoding": "identity", **headers}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    opener = urllib.request.build_opener(_Redirects(elsewhere))
    try:
        answer = opener.open(urllib.request.Request(url, headers=headers, method=method), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400 and not elsewhere:
            error.close()
            return None, error.headers
        error.close()
        if error.code in (408, 500, 502, 503, 504) and method == "GET":
            raise Interrupted(f"the server answered {error.code}") from error
        raise _refusal(error.code, error.headers, url, repo, token) from error
    except (ValueError, http.client.InvalidURL) as error:  # our own address is valid: it is the one of a redirect
        raise ModelError(
            f"{host_of(url)} sends us on to an address that is none ({str(error)[:80]})", _NONSENSE_HINT
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise RunFailed(
                f"{host_of(url)} cannot be trusted: {reason.verify_message}",
                "Check the clock and the network; a file with more certificates goes into SSL_CERT_FILE.",
            ) from error
        if method == "GET":
            raise Interrupted(str(reason)) from error
        raise RunFailed(f"Cannot reach {host_of(url)} ({reason})", OFFLINE_HINT) from error
    if method == "HEAD":
        answer.close()
    return answer, answer.headers


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects without the access token where they lead to another host, and never from https to http.

    Args:
        elsewhere: follow those to other hosts at all.
    """

    def __init__(self, elsewhere: bool) -> None:
        self._elsewhere = elsewhere

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        before, after = host_of(req.full_url), host_of(newurl)
        if before != after:
            if not self._elsewhere:
                return None
            if after.startswith("http:") and before.startswith("https:"):
                raise RunFailed(
                    f"{before} sends us on to {after}, without encryption", "Do not download it from there."
                )
        kept = {k: v for k, v in req.header_items() if k.lower() not in ("host", "authorization") or before == after}
        return urllib.request.Request(
            newurl, headers=kept, method=req.get_method(), origin_req_host=req.origin_req_host, unverifiable=True
        )


def _refusal(code: int, headers: Message, url: str, repo: str, token: str | None) -> SynthDiffusionError:
    host, page, tokens = host_of(url), f"{DEFAULT_ENDPOINT}/{repo}", f"{DEFAULT_ENDPOINT}/settings/tokens"
    give = f"--token-file FILE, or the environment variable {TOKEN_VARIABLE}"
    if code == 401 and token is None:
        return ModelError(
            f"{host} gives '{repo}' only to users that have asked for access (401)",
            f"Log in and accept the conditions at {page}, make a token for reading at {tokens}, and give it by {give}.",
        )
    if code == 401:
        return ModelError(
            f"{host} does not accept the access token (401)",
            f"Make a new one at {tokens}, and give it by {give}.",
        )
    if code == 403:
        with_token = "this token's account" if token else "users without a token"
        return ModelError(
            f"{host} does not give '{repo}' to {with_token} (403)",
            f"Accept the conditions at {page}, and wait for the answer if it says so; a token goes in by {give}.",
        )
    if code == 404:
        return ModelError(
            f"{host} has no such file: {urllib.parse.urlsplit(url).path} (404)",
            f"See whether it has been moved: {page}. Files that you have go in by --from FOLDER or models import.",
        )
    if code == 429:
        wait = headers.get("Retry-After", "")
        return RunFailed(f"{host} is asked too often (429)", f"Try again in {wait} s." if wait.isdigit() else "Wait.")
    return RunFailed(f"{host} answered with error {code}", "Try again later.")
