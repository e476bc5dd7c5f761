"""Files from Zenodo and GitHub, or from a mirror: listed, fetched, resumed, verified.

urllib3 repeats a request while a server is busy or cannot be reached. If an answer breaks off in the middle, the rest
is asked for here. (pooch would start again from the beginning of the file.)
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

RETRIES = 5  # of a request, and of a transfer without progress
BACKOFF = 1  # seconds; doubles with each further retry
LONGEST_WAIT = 120  # seconds, if the server asks for a time
BUSY = (408, 425, 429, 500, 502, 503, 504)  # statuses of a server that may answer later
TIMEOUTS = (15, 60)  # seconds to connect, and without a byte
CHUNK = 1 << 13  # bytes; what is lost if a connection breaks off
LATER = "Try again later, or name a mirror with --download_url."

log = logging.getLogger("baseline")


class PublishedFile(NamedTuple):
    """Size and checksum of a file, from the list of its record."""

    size: int  # bytes
    checksum: str  # such as md5:0cc175b9c0f1b6a831c399e269772661


class LoggedRetry(urllib3.Retry):
    """Says why a request is repeated, and when."""

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        failed = self.history[-1]
        reason = f"the server answers {failed.status}" if failed.status else "no answer"
        wait = (response and self.get_retry_after(response)) or self.get_backoff_time()
        log.warning("%s: %s; trying again in %g s", failed.url, reason, wait)
        super().sleep(response)


class Server:
    """Zenodo and GitHub, or a mirror with their files under the same paths."""

    def __init__(self, mirror: str | None):
        self._mirror = mirror
        retry = LoggedRetry(
            total=RETRIES,
            backoff_factor=BACKOFF,
            status_forcelist=BUSY,
            raise_on_status=False,  # the last answer is returned
            retry_after_max=LONGEST_WAIT,
        )
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file itself
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def url(self, published: str) -> str:
        """The address to fetch a published file from."""
        return self._mirror.rstrip("/") + urlsplit(published).path if self._mirror else published

    def files_of(self, record: int) -> dict[str, PublishedFile] | None:
        """File name → size and checksum of the files of a Zenodo record; from Zenodo itself if a mirror has no list.

        Returns:
            The list, or None if it cannot be fetched; the log says why.
        """
        published = f"{ZENODO}/api/records/{record}"
        for url in dict.fromkeys((self.url(published), published)):
            try:
                return _parse_list(url, self.read(url, "record"))
            except BaselineError as error:
                log.warning("%s", error)
        return None

    def read(self, url: str, kind: str) -> bytes:
        """The contents of a small file. Raises BaselineError, which calls it a `kind`, if it cannot be fetched."""
        try:
            with self._get(url, kind) as response:
                return response.content
        except OSError as error:
            raise BaselineError(f"{url}: the connection broke off. {LATER}") from error

    def fetch(self, url: str, listed: PublishedFile, path: Path, away: Path) -> None:
        """Fetch a file to `path`; resume an earlier transfer of it. Move an older file there to `away`.

        Raises:
            BaselineError: it cannot be fetched or written, or has a wrong size or checksum twice.
        """
        partial = part_of(path)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                self._transfer(url, partial, listed.size)
                if is_intact(partial, listed):
                    if set_aside(path, away):
                        log.warning("%s is not the file that the record lists: moved to %s", path, away.parent)
                    partial.replace(path)
                    return
                partial.unlink()
                log.warning("%s: not the file that the record lists (%s)", url, listed.checksum)
        except OSError as error:
            raise cannot_write(path, error) from error
        raise BaselineError(
            f"{url}: not the file that the record lists ({listed.size} bytes, {listed.checksum}), even when fetched "
            f"again from scratch. It was not unpacked. {LATER}"
        )

    def _transfer(self, url: str, partial: Path, size: int) -> None:
        """Fetch what is missing of a file, over as many connections as needed while there is progress."""
        partial.touch()
        failures = 0
        with tqdm(total=size, desc=partial.stem, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            while (arrived := size_of(partial)) < size:
                self._append(url, partial, size, bar)
                failures = 0 if size_of(partial) > arrived else failures + 1
                if failures > RETRIES:
                    raise BaselineError(f"{url}: the connection broke off {failures} times in a row. {LATER}")
                if size_of(partial) < size:
                    log.warning("%s: the connection broke off; resuming in %g s", url, BACKOFF * 2**failures)
                    time.sleep(BACKOFF * 2**failures)

    def _append(self, url: str, partial: Path, size: int, bar: tqdm) -> None:
        """Write what is missing of a file until the connection ends or breaks off."""
        start = size_of(partial)
        with self._get(url, "file", start) as response, partial.open("r+b") as file:
            if response.status_code != 206:
                start = 0  # the server sends the whole file
                if response.headers.get("Content-Length", str(size)) != str(size):
                    raise BaselineError(f"{url}: the server sends an error page or another version of it. {LATER}")
            file.seek(start)
            with contextlib.suppress(requests.RequestException):
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(file.tell() - bar.n)
                    if file.tell() > size:  # not the listed file; the checksum will tell
                        break

    def _get(self, url: str, kind: str, first_byte: int = 0) -> requests.Response:
        """The answer to a request for a file from this byte on; or for the whole file, if the server has no parts."""
        headers = {"Range": f"bytes={first_byte}-"} if first_byte else None
        try:
            response = self._session.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
        except (OSError, ValueError) as error:  # of requests, and of malformed addresses and headers
            cause = getattr(error.args[0] if error.args else error, "reason", error)
            raise BaselineError(f"{url}: no answer: {cause}. {LATER}") from error
        if response.ok:
            return response
        response.close()
        if response.status_code == 416 and first_byte:
            return self._get(url, kind)
        answer = f"the server answers {response.status_code} {response.reason}"
        if response.status_code == 404:
            raise BaselineError(f"{url}: no such {kind} ({answer}). Check its address in datasets/catalog/.")
        raise BaselineError(f"{url}: {answer}. {LATER}")


def _parse_list(url: str, text: bytes) -> dict[str, PublishedFile]:
    """The files of a record, from the JSON that Zenodo's API sends."""
    try:
        files = json.loads(text)["files"]
        listed = {file["key"]: PublishedFile(int(file["size"]), file["checksum"]) for file in files}
        if not all(re.fullmatch("md5:[0-9a-f]{32}", file.checksum) for file in listed.values()):
            raise ValueError("a checksum of an unknown kind")
    except (LookupError, TypeError, ValueError) as error:
        raise BaselineError(f"{url}: not the list of a record's files ({error!r}). {LATER}") from error
    return listed


def part_of(path: Path) -> Path:
    """The file that holds what has arrived of `path` so far."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """Size in bytes; 0 if the file does not exist."""
    return path.stat().st_size if path.exists() else 0


def is_intact(path: Path, listed: PublishedFile) -> bool:
    """Whether a file has the size and the checksum that its record lists."""
    if not path.is_file() or size_of(path) != listed.size:
        return False
    algorithm, _, digest = listed.checksum.partition(":")
    return pooch.file_hash(str(path), alg=algorithm) == digest
