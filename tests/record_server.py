"""A local HTTP server that behaves like Zenodo and GitHub, and misbehaves as it is told."""

import contextlib
import hashlib
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from datasets.catalog import Archive, Machine


class RecordServer:
    """Contents by path (`texts`); the other attributes set what goes wrong.

    Attributes:
        requests: (path, Range header or None) of each request.
        answers: status and headers of the next answers with an archive, before the first good one.
        drop_after: break the connection after so many bytes, in each of the next answers.
        ranges: status of the answer to a request for a part of an archive; 200: with all of it.
        says_length: whether an answer announces its length.
        pause: seconds before each 16 KiB of an archive.
        change: contents of an archive → what is sent.
    """

    def __init__(self):
        self.texts: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.drop_after: Iterator[int] = iter(())
        self.ranges, self.says_length, self.pause = 206, True, 0.0
        self.change = lambda contents: contents
        self._listed: dict[int, list[dict]] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True  # else each answer takes 40 ms

            def do_GET(self):
                owner.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, archive: Archive, contents: bytes) -> None:
        """Publish an archive, and list it as Zenodo's API does (what the project reads of that)."""
        self.texts[urlsplit(archive.url).path] = contents
        listed = self._listed.setdefault(archive.record, [])
        checksum = f"md5:{hashlib.md5(contents).hexdigest()}"
        listed.append({"key": archive.name, "size": len(contents), "checksum": checksum})
        self.texts[f"/api/records/{archive.record}"] = json.dumps({"id": 1, "files": listed}).encode()

    def fetched(self) -> list[str]:
        """Names of the archives that were asked for."""
        return [path.rsplit("/", 1)[1] for path, _ in self.requests if "/files/" in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, request.headers.get("Range")))
        contents, status, headers = self.texts.get(request.path), 200, {}
        is_archive = "/files/" in request.path
        if contents is None:
            contents, status = b"", 404
        elif is_archive and self.answers:
            contents, (status, headers) = b"", self.answers.pop(0)
        elif is_archive:
            contents = self.change(contents)
            asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
            if asked and self.ranges != 200:
                contents = contents[int(asked[1]) :]
                status = self.ranges if contents else 416
        request.send_response(status)
        length = {"Content-Length": str(len(contents))} if self.says_length else {"Connection": "close"}
        for name, value in (headers | length).items():
            request.send_header(name, value)
        request.end_headers()
        sent = contents[: next(self.drop_after, None)]
        with contextlib.suppress(OSError):  # the client has gone
            for start in range(0, len(sent), 1 << 14):
                if is_archive and self.pause:
                    time.sleep(self.pause)
                request.wfile.write(sent[start : start + (1 << 14)])
        request.close_connection = sent != contents or not self.says_length


def make_zip(machine: Machine, files: Mapping[str, bytes]) -> bytes:
    """An archive in the published layout, `fan/train/<clip>.wav`; the keys of `files` are names below `fan/`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name, contents in files.items():
            zip_file.writestr(f"{machine.name}/{name}", contents)
    return buffer.getvalue()
