"""An S3 server for tests in a process of its own, and a proxy that fails as networks do.

It is MinIO where that is installed (``go install github.com/minio/minio@latest``), else moto.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from obstore.store import S3Store

from tests.acceptance.processes import until
from tests.servers.required import unavailable

HOW_TO_GET_IT = (
    "moto is not installed, so object storage is NOT tested against a server: "
    "pip install 'moto[server]'"
)

SECRET = "canary-of-a-secret-key"
KEY_ID = "canary-of-a-key-id"

_SERVE = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@dataclass
class Server:
    """A server that runs at ``url``."""

    url: str
    buckets: int = 0
    drive: Path | None = None

    def new_bucket(self) -> str:
        """Make an empty bucket, and return its name."""
        self.buckets += 1
        name = f"bucket-{self.buckets}"
        if self.drive is not None:
            (self.drive / name).mkdir()
            return name
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")).close()
        return name

    def remote(self, bucket: str, *, url: str = "", timeout: str = "10s") -> S3Store:
        """Return a client of a bucket, through a proxy at ``url`` if there is one."""
        return S3Store(
            bucket,
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            region="us-east-1",
            endpoint=url or self.url,
            client_options={"allow_http": True, "timeout": timeout},
            retry_config={"max_retries": 0},
        )

    def environment(self, url: str = "") -> dict[str, str]:
        """Return what a process needs to know to find it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server of one's own; skip, and say how to get it, where it is not installed."""
    program = shutil.which("minio")
    if program is not None:
        with _minio(program) as server:
            yield server
        return
    if importlib.util.find_spec("moto") is None:
        unavailable(HOW_TO_GET_IT)
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET},
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        try:
            port = lines.readline().strip()
            assert port, "the S3 server has not started"
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()


@contextmanager
def _minio(program: str) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="flowsnap-s3-") as drive:
        process = subprocess.Popen(
            [program, "server", drive, "--address", address, "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET},
        )
        try:
            until(lambda: _is_ready(f"http://{address}"), "MinIO")
            yield Server(f"http://{address}", drive=Path(drive))
        finally:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(f"{url}/minio/health/ready").close()
        return True
    return False


Fault = Literal["refuse", "drop", "lose", "slow", "busy"]
"""``refuse``: 500 and nothing done; ``drop``: the connection ends before anything is done;
``lose``: done, and the connection ends without the answer; ``slow``: done, and the answer never
comes; ``busy``: 503, as a service that wants fewer requests."""


@dataclass
class Faults:
    """Which requests fail, and how: ``plan`` is asked for each with its method and path."""

    plan: Callable[[str, str], Fault | None] = lambda method, path: None
    seen: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def next(self, method: str, path: str) -> Fault | None:
        """Return how a request fails, if it does."""
        fault = self.plan(method, path)
        self.seen.append(f"{method} {path}")
        if fault is not None:
            self.failed.append(f"{fault} {method} {path}")
        return fault


def first(count: int, fault: Fault, method: str, ending: str = "") -> Callable[..., Fault | None]:
    """Return a plan by which the first ``count`` requests of a kind fail."""
    left = count
    lock = threading.Lock()

    def plan(asked: str, path: str) -> Fault | None:
        nonlocal left
        with lock:
            if asked != method or not path.partition("?")[0].endswith(ending) or not left:
                return None
            left -= 1
            return fault

    return plan


class _Proxy(BaseHTTPRequestHandler):
    """Hands one request on to ``target``; both are set by the server's own class."""

    protocol_version = "HTTP/1.1"
    faults: Faults
    target: str

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.faults.next(self.command, self.path)
        if fault == "drop":
            self.close_connection = True
            return
        if fault in ("refuse", "busy"):
            self._answer(500 if fault == "refuse" else 503, {}, b"")
            return
        try:
            status, headers, data = self._ask(body)
        except (OSError, http.client.HTTPException):  # The server has gone away.
            self.close_connection = True
            return
        if fault == "slow":
            self.faults.released.wait()
        if fault in ("lose", "slow"):
            self.close_connection = True
            return
        self._answer(status, headers, data)

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.target, timeout=20)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        kept = {k: v for k, v in headers.items() if k.lower() not in _HOP_BY_HOP}
        if self.command != "HEAD" or "Content-Length" not in headers:
            kept["Content-Length"] = str(len(data))
        else:
            kept["Content-Length"] = headers["Content-Length"]
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in kept.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "server", "date", "keep-alive"}


@contextmanager
def proxy(server: Server, faults: Faults) -> Iterator[str]:
    """Yield the URL of a proxy in front of a server."""
    target = server.url.removeprefix("http://")
    handler = type("Proxy", (_Proxy,), {"faults": faults, "target": target})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            faults.released.set()
            listener.shutdown()
            thread.join()
