"""A local HTTP server that behaves like Zenodo and GitHub, and misbehaves as it is told."""

import hashlib
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from datasets.catalog import Archive, Machine


class RecordServer:
    """Records with their files, and other files by path; attributes set what goes wrong.

    Attributes:
        requests: (path, Range header or None) of each request.
        answers: status and headers of the next answers to requests for files of records, before the first good one.
        drop_after: break the connection after so many bytes, in each of the next answers with a file.
        ranges: status of the answer to a request for a part of a file; 200: with the whole file.
        says_length: whether an answer announces its length.
        pause: seconds before each 16 KiB of a file.
        change: file's contents → what is sent.
        listing: what is sent instead of the list of a record's files.
    """

    def __init__(self):
        self.records: dict[int, dict[str, bytes]] = {}
        self.texts: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.drop_after: Iterator[int] = iter(())
        self.ranges, self.says_length, self.pause = 206, True, 0.0
        self.change = lambda contents: contents
        self.listing: bytes | None = None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

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
        self.records.setdefault(archive.record, {})[archive.name] = contents

    def fetched(self) -> list[str]:
        """Names of the files of records that were asked for."""
        return [path.rsplit("/", 1)[1] for path, _ in self.requests if "/files/" in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, request.headers.get("Range")))
        if match := re.fullmatch(r"/api/records/(\d+)", request.path):
            files = self.records.get(int(match[1]))
            self.send(request, None if files is None else self.listing or list_files(files))
        elif match := re.fullmatch(r"/records/(\d+)/files/(.+)", request.path):
            contents = self.records.get(int(match[1]), {}).get(match[2])
            if self.answers:
                self.send(request, b"", *self.answers.pop(0))
            else:
                self.send_file(request, contents and self.change(contents))
        else:
            self.send(request, self.texts.get(request.path))

    def send_file(self, request: BaseHTTPRequestHandler, contents: bytes | None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        if contents is None or not asked or self.ranges == 200:
            self.send(request, contents)
        elif self.ranges == 416 or int(asked[1]) >= len(contents):
            self.send(request, b"", 416)
        else:
            part = f"bytes {asked[1]}-{len(contents) - 1}/{len(contents)}"
            self.send(request, contents[int(asked[1]) :], 206, {"Content-Range": part})

    def send(self, request, contents: bytes | None, status: int = 200, headers: Mapping[str, str] | None = None):
        request.send_response(404 if contents is None else status)
        contents = contents or b""
        length = {"Content-Length": str(len(contents))} if self.says_length else {"Connection": "close"}
        for name, value in ((headers or {}) | length).items():
            request.send_header(name, value)
        request.end_headers()
        sent = contents
        if "/files/" in request.path and status in (200, 206):
            sent = contents[: next(self.drop_after, None)]
        try:
            for start in range(0, len(sent), 1 << 14):
                if self.pause and "/files/" in request.path:
                    time.sleep(self.pause)
                request.wfile.write(sent[start : start + (1 << 14)])
        except OSError:
            pass  # the client has gone
        request.close_connection = sent != contents or not self.says_length


def list_files(files: Mapping[str, bytes]) -> bytes:
    """The list of a record's files, as Zenodo's API sends it (what the project reads of it)."""
    entries = [
        {"key": name, "size": len(contents), "checksum": f"md5:{hashlib.md5(contents).hexdigest()}"}
        for name, contents in files.items()
    ]
    return json.dumps({"id": 1, "files": entries}).encode()


def make_zip(machine: Machine, files: Mapping[str, bytes]) -> bytes:
    """An archive in the published layout, `fan/train/<clip>.wav`; the keys of `files` are names below `fan/`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name, contents in files.items():
            zip_file.writestr(f"{machine.name}/{name}", contents)
    return buffer.getvalue()
