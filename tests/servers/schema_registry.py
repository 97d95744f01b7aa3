"""A schema registry for the tests: what writers and readers use of Confluent's REST interface.

It keeps the schemas of subjects in memory, gives the same schema the same id everywhere, and
refuses one that what was written by the newest of its subject can't be read with (compatibility
BACKWARD), as the real one does.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import fastavro
from fastavro.utils import generate_many

TYPE = "application/vnd.schemaregistry.v1+json"


@dataclass
class Schemas:
    """What a registry knows; ``asked`` are its requests, ``status`` its answer, if it is set."""

    user: str = ""
    status: int = 0
    by_id: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def register(self, subject: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the id of a schema of a subject, which may be new."""
        versions = self.subjects.setdefault(subject, [])
        id_ = self._find(given)
        if id_ in versions:
            return {"id": id_}
        if versions and not self._can_read(given, self.by_id[versions[-1]]):
            raise LookupError(409, 409, "Schema being registered is incompatible")
        if id_ is None:
            id_ = len(self.by_id) + 1
            self.by_id[id_] = given
        versions.append(id_)
        return {"id": id_}

    def look_up(self, subject: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return a schema that a subject has."""
        versions = self.subjects.get(subject, [])
        id_ = self._find(given)
        if id_ is None or id_ not in versions:
            raise LookupError(404, 40403, "Schema not found")
        return self._version(subject, versions.index(id_) + 1)

    def version(self, subject: str, version: str) -> dict[str, Any]:
        """Return a version of a subject, or the latest."""
        versions = self.subjects.get(subject)
        if not versions:
            raise LookupError(404, 40401, "Subject not found")
        return self._version(subject, len(versions) if version == "latest" else int(version))

    def schema(self, id_: int) -> dict[str, Any]:
        """Return the schema of an id."""
        if id_ not in self.by_id:
            raise LookupError(404, 40403, "Schema not found")
        return self.by_id[id_]

    def _find(self, given: dict[str, Any]) -> int | None:
        return next((id_ for id_, known in self.by_id.items() if known == given), None)

    def _version(self, subject: str, version: int) -> dict[str, Any]:
        id_ = self.subjects[subject][version - 1]
        return {"subject": subject, "version": version, "id": id_, **self.by_id[id_]}

    def _can_read(self, new: dict[str, Any], old: dict[str, Any]) -> bool:
        """Return whether a reader with the new schema reads what the old one wrote."""
        before, after = (fastavro.parse_schema(json.loads(one["schema"])) for one in (old, new))
        example = next(generate_many(before, 1))
        written = io.BytesIO()
        fastavro.schemaless_writer(written, before, example)
        written.seek(0)
        try:
            fastavro.schemaless_reader(written, before, after)
        except fastavro.read.SchemaResolutionError:
            return False
        return True


class Handler(BaseHTTPRequestHandler):
    """One request; ``schemas`` is set by the server's own class."""

    schemas: Schemas

    def do_GET(self) -> None:
        match self._path():
            case ["schemas", "ids", id_]:
                self._answer(lambda: self.schemas.schema(int(id_)))
            case ["subjects", subject, "versions", version]:
                self._answer(lambda: self.schemas.version(subject, version))
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = {"schema": body["schema"], "references": body.get("references") or []}
        match self._path():
            case ["subjects", subject, "versions"]:
                self._answer(lambda: self.schemas.register(subject, given))
            case ["subjects", subject]:
                self._answer(lambda: self.schemas.look_up(subject, given))
            case _:
                self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        self.schemas.asked.append(format % args)

    def _path(self) -> list[str]:
        return [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]

    def _answer(self, ask: Any) -> None:
        expected = "Basic " + base64.b64encode(self.schemas.user.encode()).decode()
        try:
            if self.schemas.user and self.headers.get("Authorization") != expected:
                raise LookupError(401, 40101, "Unauthorized")
            if self.schemas.status:
                raise LookupError(self.schemas.status, 50001, "Error in the backend data store")
            status, found = 200, ask()
        except LookupError as error:
            status, code, message = error.args
            found = {"error_code": code, "message": message}
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(schemas: Schemas) -> Iterator[str]:
    """Serve a registry, and yield its URL."""
    handler = type("SchemasHandler", (Handler,), {"schemas": schemas})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
