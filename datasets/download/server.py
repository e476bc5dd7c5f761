"""List, fetch, resume and verify files from Zenodo and GitHub, or from a mirror.

urllib3 repeats requests while a server is busy or cannot be reached. If a transfer is interrupted, this module requests
the rest of the file. (pooch would start again from the beginning.)
"""

import contextlib
import json
import logging
import re
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pooch
import requests
import urllib3
from tqdm import tqdm

from config import BaselineError
from datasets.catalog import ZENODO
from files import cannot_write, set_aside

RETRIES = 5  # for a request, and for a transfer without progress
BACKOFF = 1  # seconds before a retry; doubles each time
MAX_WAIT = 120  # seconds, if the server requests a delay
BUSY = (408, 425, 429, 500, 502, 503, 504)  # status codes that justify a retry
TIMEOUTS = (15, 60)  # seconds to connect, and to wait for data
CHUNK = 1 << 13  # bytes; at most this much is lost if the connection breaks
LATER = "Try again later, or use a mirror with --download_url."

log = logging.getLogger("baseline")


class PublishedFile(NamedTuple):
    """The size and checksum of a file, as listed in its record."""

    size: int  # bytes
    checksum: str  # such as md5:0cc175b9c0f1b6a831c399e269772661


class LoggedRetry(urllib3.Retry):
    """Logs why and when a request is repeated."""

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        failed = self.history[-1]
        reason = f"the server returned {failed.status}" if failed.status else "no response"
        wait = (response and self.get_retry_after(response)) or self.get_backoff_time()
        log.warning("%s: %s; trying again in %g s", failed.url, reason, wait)
        super().sleep(response)


class Server:
    """Zenodo and GitHub, or a mirror that has their files under the same paths."""

    def __init__(self, mirror: str | None):
        self._mirror = mirror
        retry = LoggedRetry(
            total=RETRIES,
            backoff_factor=BACKOFF,
            status_forcelist=BUSY,
            raise_on_status=False,  # return the last response
            retry_after_max=MAX_WAIT,
        )
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # byte ranges refer to the uncompressed file
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def url(self, published: str) -> str:
        """The URL to fetch a published file from."""
        return self._mirror.rstrip("/") + urlsplit(published).path if self._mirror else published

    def files_of(self, record: int) -> dict[str, PublishedFile] | None:
        """List the files of a Zenodo record. If a mirror has no list, it is fetched from Zenodo.

        Returns:
            File name → size and checksum, or None if the list cannot be fetched. The reason is in the log.
        """
        published = f"{ZENODO}/api/records/{record}"
        for url in dict.fromkeys((self.url(published), published)):
            try:
                return _parse_list(url, self.read(url, "record"))
            except BaselineError as error:
                log.warning("%s", error)
        return None

    def read(self, url: str, kind: str) -> bytes:
        """The contents of a small file. Raises BaselineError if it cannot be fetched; `kind` is for the message."""
        try:
            with self._get(url, kind) as response:
                return response.content
        except OSError as error:
            raise BaselineError(f"{url}: the connection was lost. {LATER}") from error

    def fetch(self, url: str, listed: PublishedFile, path: Path, away: Path) -> None:
        """Fetch a file to `path`, resuming an earlier transfer. An existing file is moved to `away`.

        Raises:
            BaselineError: the file cannot be fetched or written, or has a wrong size or checksum twice.
        """
        partial = part_of(path)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                self._transfer(url, partial, listed.size)
                if is_intact(partial, listed):
                    if set_aside(path, away):
                        log.warning("%s does not match the file in the record. It was moved to %s", path, away.parent)
                    partial.replace(path)
                    return
                partial.unlink()
                log.warning("%s: the file does not match the record (%s)", url, listed.checksum)
        except OSError as error:
            raise cannot_write(path, error) from error
        raise BaselineError(
            f"{url}: the file does not match the record ({listed.size} bytes, {listed.checksum}), even after it was "
            f"fetched again from scratch. It was not unpacked. {LATER}"
        )

    def _transfer(self, url: str, partial: Path, size: int) -> None:
        """Fetch the missing part of a file. Reconnect as often as needed while there is progress."""
        partial.touch()
        failures = 0
        with tqdm(total=size, desc=partial.stem, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            while (arrived := size_of(partial)) < size:
                self._append(url, partial, size, bar)
                failures = 0 if size_of(partial) > arrived else failures + 1
                if failures > RETRIES:
                    raise BaselineError(f"{url}: the connection was lost {failures} times in a row. {LATER}")
                if size_of(partial) < size:
                    log.warning("%s: the connection was lost; resuming in %g s", url, BACKOFF * 2**failures)
                    time.sleep(BACKOFF * 2**failures)

    def _append(self, url: str, partial: Path, size: int, bar: tqdm) -> None:
        """Write the missing part of a file until the connection ends or is lost."""
        start = size_of(partial)
        with self._get(url, "file", start) as response, partial.open("r+b") as file:
            if response.status_code != 206:
                start = 0  # the server sends the whole file
                if response.headers.get("Content-Length", str(size)) != str(size):
                    raise BaselineError(f"{url}: the server sent an error page or another version of the file. {LATER}")
            file.seek(start)
            with contextlib.suppress(requests.RequestException):
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(file.tell() - bar.n)
                    if file.tell() > size:  # not the listed file; the checksum will fail
                        break

    def _get(self, url: str, kind: str, first_byte: int = 0) -> requests.Response:
        """Request a file from this byte on, or the whole file if the server does not support ranges."""
        headers = {"Range": f"bytes={first_byte}-"} if first_byte else None
        try:
            response = self._session.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
        except (OSError, ValueError) as error:  # from requests, or for malformed URLs and headers
            cause = getattr(error.args[0] if error.args else error, "reason", error)
            raise BaselineError(f"{url}: no response: {cause}. {LATER}") from error
        if response.ok:
            return response
        response.close()
        if response.status_code == 416 and first_byte:
            return self._get(url, kind)
        answer = f"the server returned {response.status_code} {response.reason}"
        if response.status_code == 404:
            raise BaselineError(f"{url}: no such {kind} ({answer}). Check the address in datasets/catalog/.")
        raise BaselineError(f"{url}: {answer}. {LATER}")


def _parse_list(url: str, text: bytes) -> dict[str, PublishedFile]:
    """Parse the list of files in a record, which is JSON from Zenodo's API."""
    try:
        files = json.loads(text)["files"]
        listed = {file["key"]: PublishedFile(int(file["size"]), file["checksum"]) for file in files}
        if not all(re.fullmatch("md5:[0-9a-f]{32}", file.checksum) for file in listed.values()):
            raise ValueError("unknown kind of checksum")
    except (LookupError, TypeError, ValueError) as error:
        raise BaselineError(f"{url}: not a list of files in a record ({error!r}). {LATER}") from error
    return listed


def part_of(path: Path) -> Path:
    """The file for the part of `path` that has been fetched so far."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """The size in bytes, or 0 if the file does not exist."""
    return path.stat().st_size if path.exists() else 0


def is_intact(path: Path, listed: PublishedFile) -> bool:
    """Whether a file has the size and checksum listed in its record."""
    if not path.is_file() or size_of(path) != listed.size:
        return False
    algorithm, _, digest = listed.checksum.partition(":")
    return pooch.file_hash(str(path), alg=algorithm) == digest
