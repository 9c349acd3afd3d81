"""A model hub on this machine, with the answers of the real one: HEAD with the commit, the SHA-256 and the size of a
file, GET with a redirect to another host that has the bytes and knows ranges, and the failures of both."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

COMMIT = "c0ffee" * 6 + "c0ff"


class Hub:
    """What the two servers serve, and how they fail.

    Attributes:
        files: content by "owner/name/path".
        token: the only one that opens anything; None: open to all.
        refuse: a status that every request to the hub gets, or None.
        refuse_bytes: statuses of the next requests for bytes.
        stop_after: bytes after which the next answers break off, one entry per answer.
        lie: changes to the headers of HEAD, by name.
        stall: what an answer that is in `stop_after` waits for before it breaks off, or None.
        endless: send bytes until nobody wants them, without a length.
        part: which part the host of the bytes says that it sends, whatever it does, or None.
        wrong_bytes: content that the host of the bytes sends instead, or None.
        ranges: whether it knows ranges.
        requests: (host, method, path, headers) of all requests.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.token: str | None = None
        self.refuse: int | None = None
        self.refuse_bytes: list[int] = []
        self.stop_after: list[int] = []
        self.lie: dict[str, str | None] = {}
        self.stall: threading.Event | None = None
        self.endless = False
        self.part: str | None = None
        self.wrong_bytes: bytes | None = None
        self.ranges = True
        self.requests: list[SimpleNamespace] = []
        self.endpoint = self.storage = ""

    def asked(self, host: str, method: str) -> list[SimpleNamespace]:
        """The requests of a kind to "hub" or "storage"."""
        return [r for r in self.requests if (r.host, r.method) == (host, method)]


def _handler(hub: Hub, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, headers: dict[str, str], body: bytes = b"", send: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:send])
            if send is not None and hub.stall is not None:
                hub.stall.wait(10)
            if send is not None:
                self.close_connection = True

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.requests.append(
                SimpleNamespace(host=host, method=self.command, path=self.path, headers=dict(self.headers.items()))
            )
            self.hub() if host == "hub" else self.bytes()

        def hub(self) -> None:
            if hub.refuse:
                return self.answer(hub.refuse, {})
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer(401 if "Authorization" not in self.headers else 403, {})
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, path = rest.partition("/")
            content = hub.files.get(f"{repo}/{path}")
            if content is None or revision not in ("main", COMMIT):
                return self.answer(404, {})
            headers: dict[str, str | None] = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "ETag": '"of the redirect"',
                "Location": f"{hub.storage}/{repo}/{path}",
                **hub.lie,
            }
            self.answer(302, {name: value for name, value in headers.items() if value is not None})

        def bytes(self) -> None:
            if hub.refuse_bytes:
                return self.answer(hub.refuse_bytes.pop(0), {})
            if hub.endless:
                self.send_response(200)
                self.end_headers()
                self.close_connection = True
                with suppress(OSError):
                    while True:
                        self.wfile.write(b"?" * 65536)
                return None
            content = hub.wrong_bytes if hub.wrong_bytes is not None else hub.files[self.path.lstrip("/")]
            stop = hub.stop_after.pop(0) if hub.stop_after else None
            wanted = self.headers.get("Range")
            if wanted is None or not hub.ranges:
                return self.answer(200, {}, content, stop)
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
            where = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            if hub.part is not None:
                where = {"Content-Range": hub.part}
            return self.answer(206, where, content[start:], stop)

    return Handler


@contextmanager
def running_hub():
    """A `Hub` that answers, on 127.0.0.1; the bytes come from "localhost", which is another host."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, host)) for host in ("hub", "storage")]
    hub.endpoint = f"http://127.0.0.1:{servers[0].server_port}"
    hub.storage = f"http://localhost:{servers[1].server_port}"
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads):
            server.shutdown()
            server.server_close()
            thread.join()
