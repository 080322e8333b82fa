"""A package index and a model hub on a loopback port, small and badly behaved on request."""

import hashlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
_BLOCK = 16 << 10
_LONGEST_HOLD = 30.0


class Hold:
    """A place where an answer stops: `reached` tells the test that it did, `release` lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._released = threading.Event()

    def wait(self) -> None:
        """Called by the registry."""
        self.reached.set()
        self._released.wait(_LONGEST_HOLD)

    def release(self) -> None:
        """Let the answer, and every other one that stops here, go on."""
        self._released.set()


@dataclass
class Fault:
    """What goes wrong with one request, after `after` bytes of its answer's body: there it waits, or is cut."""

    status: int = 200
    after: int | None = None
    cut: bool = False
    hold: Hold | None = None
    garble: bool = False
    ignore_range: bool = False
    location: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    path: str
    range: str | None
    authorization: str | None
    accept_encoding: str | None


class Registry:
    """What is served, what shall go wrong (one fault for each request, in order), and what was asked for."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.index_url = f"{self.base}/simple"
        self.hub_url = f"{self.base}/hub"
        self.documents: dict[str, tuple[str, bytes]] = {}
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.seen: list[Seen] = []
        self.sent: dict[str, int] = {}
        self.lock = threading.Lock()

    def requests(self, path: str) -> list[Seen]:
        """The requests for `path` that came, in order."""
        with self.lock:
            return [seen for seen in self.seen if seen.path == path]

    def fail(self, path: str, *faults: Fault) -> None:
        """Let the next requests for `path` go wrong, one fault each."""
        with self.lock:
            self.faults.setdefault(path, []).extend(faults)

    def add_wheel(self, package: str, version: str, members: Mapping[str, bytes], *, form: str = "html") -> bytes:
        """Publish a wheel under /simple, in the `html` or `json` form of the index."""
        content = wheel(members)
        name = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        digest = hashlib.sha256(content).hexdigest()
        self.files[f"/files/{name}"] = content
        if form == "json":
            files = [
                {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": digest}, "size": len(content)}
            ]
            page = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": files, "name": package}).encode())
        else:
            link = f'<a href="/files/{name}#sha256={digest}" data-requires-python="&gt;=3.8">{name}</a>'
            page = ("text/html", f"<!DOCTYPE html><html><body><h1>{package}</h1>{link}<br/></body></html>".encode())
        self.documents[f"/simple/{package}/"] = page
        return content

    def add_repository(self, repository: str, files: Mapping[str, bytes], *, small: Sequence[str] = ()) -> None:
        """Publish a repository on the hub; `small` files are kept in git, the others in large-file storage."""
        siblings = []
        for name, content in files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name not in small:
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 133}
            siblings.append(entry)
            self.files[f"/hub/{repository}/resolve/{COMMIT}/{name}"] = content
        document = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        for revision in ("main", COMMIT):
            self.documents[f"/hub/api/models/{repository}/revision/{revision}"] = ("application/json", document)


def wheel(members: Mapping[str, bytes]) -> bytes:
    """The bytes of a zip archive with `members`."""
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return box.getvalue()


def git_sha1(content: bytes) -> str:
    """The hash under which git keeps `content`."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[Registry]:
    """A registry that answers until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.registry = registry = Registry(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="registry")
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: Registry

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed and leave are what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        registry = self.server.registry
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        with registry.lock:
            registry.seen.append(Seen(path, headers["Range"], headers["Authorization"], headers["Accept-Encoding"]))
            waiting = registry.faults.get(path)
            fault = waiting.pop(0) if waiting else Fault()
        try:
            self._answer(registry, path, fault)
        except ConnectionError:
            self.close_connection = True

    def _answer(self, registry: Registry, path: str, fault: Fault) -> None:
        if fault.location is not None:
            self._head(fault.status, {"Location": fault.location, "Content-Length": "0"})
        elif fault.status != 200:
            self._head(fault.status, {"Content-Length": "0", **fault.headers})
        elif path in registry.documents:
            kind, body = registry.documents[path]
            self._body(registry, path, 200, {"Content-Type": kind}, body, fault)
        elif path in registry.files:
            self._file(registry, path, fault)
        else:
            self._head(404, {"Content-Length": "0"})

    def _file(self, registry: Registry, path: str, fault: Fault) -> None:
        content = registry.files[path]
        if fault.garble:
            content = bytes(byte ^ 0xFF for byte in content)
        asked = self.headers["Range"]
        if asked and not fault.ignore_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self._head(416, {"Content-Length": "0"})
                return
            span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._body(registry, path, 206, span, content[start:], fault)
        else:
            self._body(registry, path, 200, {}, content, fault)

    def _body(
        self, registry: Registry, path: str, status: int, headers: Mapping[str, str], body: bytes, fault: Fault
    ) -> None:
        self._head(status, {"Content-Length": str(len(body)), **headers, **fault.headers})
        stop = len(body) if fault.after is None else min(fault.after, len(body))
        self._send(registry, path, body[:stop])
        if fault.hold is not None:
            fault.hold.wait()
        if fault.cut:
            self.close_connection = True
            return
        self._send(registry, path, body[stop:])

    def _send(self, registry: Registry, path: str, body: bytes) -> None:
        for start in range(0, len(body), _BLOCK):
            block = body[start : start + _BLOCK]
            self.wfile.write(block)
            with registry.lock:
                registry.sent[path] = registry.sent.get(path, 0) + len(block)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
