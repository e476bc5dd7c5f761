"""A local HTTP server that behaves like Zenodo and GitHub, and misbehaves as it is told."""

import hashlib
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from conftest import write_wav

from datasets.catalog import Archive, Machine


class RecordServer:
    """Records with their files, and other files by path; attributes set what goes wrong.

    Attributes:
        requests: (path, Range header or None) of each request.
        answers: statuses, headers and contents of the next answers to requests for archives, before the first good one.
        drop_after: break the connection after so many bytes of each answer; several: of the next answers in turn.
        has_ranges: whether a part of a file can be asked for; a status: requests for a part are answered by it.
        longest_range: of a part that is asked for, this many bytes are sent.
        says_length: whether an answer announces its length.
        pause: seconds before each 16 KiB.
        change: what is sent in place of a file's bytes.
        listing: what is sent in place of the list of a record's files.
    """

    def __init__(self):
        self.records: dict[int, dict[str, bytes]] = {}
        self.texts: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.drop_after: int | Iterator[int] | None = None
        self.has_ranges: bool | int = True
        self.longest_range: int | None = None
        self.says_length, self.pause = True, 0.0
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
        self._server.daemon_threads = True
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
            listing = None if files is None else self.listing or list_files(files)
            self.send(request, listing)
        elif match := re.fullmatch(r"/records/(\d+)/files/(.+)", request.path):
            if self.answers:
                status, headers, contents = self.answers.pop(0)
                self.send(request, contents, status, headers)
                return
            contents = self.records.get(int(match[1]), {}).get(match[2])
            self.send_file(request, None if contents is None else self.change(contents))
        else:
            self.send(request, self.texts.get(request.path))

    def send_file(self, request: BaseHTTPRequestHandler, contents: bytes | None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        if contents is None or not asked or self.has_ranges is False:
            self.send(request, contents)
        elif self.has_ranges is not True or int(asked[1]) >= len(contents):
            self.send(request, b"", 416 if self.has_ranges is True else self.has_ranges)
        else:
            start = int(asked[1])
            part = contents[start:] if self.longest_range is None else contents[start : start + self.longest_range]
            content_range = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(contents)}"}
            self.send(request, part, 206, content_range)

    def send(self, request, contents: bytes | None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        request.send_response(404 if contents is None else status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        contents = contents or b""
        if self.says_length:
            request.send_header("Content-Length", str(len(contents)))
        else:
            request.send_header("Connection", "close")
        request.end_headers()
        sent = contents
        if "/files/" in request.path and status in (200, 206):
            sent = contents[: next(self.drop_after) if isinstance(self.drop_after, Iterator) else self.drop_after]
        try:
            for start in range(0, len(sent), 1 << 14):
                time.sleep(self.pause)
                request.wfile.write(sent[start : start + (1 << 14)])
        except OSError:
            pass  # the client has gone
        if sent != contents or not self.says_length:
            request.close_connection = True


def list_files(files: dict[str, bytes]) -> bytes:
    """The list of a record's files, as Zenodo's API gives it (less what nobody reads)."""
    entries = [
        {"key": name, "size": len(contents), "checksum": f"md5:{hashlib.md5(contents).hexdigest()}"}
        for name, contents in files.items()
    ]
    return json.dumps({"id": 1, "files": entries}).encode()


def make_zip(directory: Path, machine: Machine, names: list[str], **wav) -> bytes:
    """An archive in the published layout: `fan/train/<clip>.wav` and so on, and other files as they are named."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name in names:
            if name.endswith(".wav"):
                path = write_wav(directory / machine.dataset.name / machine.name / name, **({"seconds": 0.2} | wav))
                zip_file.write(path, f"{machine.name}/{name}")
            else:
                zip_file.writestr(f"{machine.name}/{name}", f"contents of {name}")
    return buffer.getvalue()
