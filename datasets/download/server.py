"""Files from Zenodo and GitHub, or from a mirror: listed, fetched, resumed, verified.

Transfers are made with requests, which pooch brings; pooch checks the files, but would itself start an interrupted one
from its beginning.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pooch
import requests
import urllib3
from tqdm import tqdm

from config import BaselineError
from datasets.catalog import ZENODO, Archive
from files import cannot_write

WAITS = (1, 2, 4, 8, 16)  # seconds before each further attempt; after any progress the first again
LONGEST_WAIT = 120  # seconds, where the server asks for a time
TIMEOUTS = (15, 60)  # seconds to connect, and without a byte
CHUNK = 1 << 13  # bytes; what is lost where a connection breaks off
LARGEST_TEXT = 1 << 24  # bytes of a list of files or of labels
LARGEST_FILE = 1 << 50  # bytes of an archive
QUIET_BAR = {"disable": None, "leave": False}  # none where there is no terminal, and gone at its end
LATER = "Try again later, or name a mirror with --download_url."

log = logging.getLogger("baseline")
T = TypeVar("T")


@dataclass(frozen=True)
class PublishedFile:
    """What a record lists of a file."""

    size: int  # bytes
    checksum: str  # such as md5:0cc175b9c0f1b6a831c399e269772661


class _TransferError(Exception):
    """An attempt that may go better another time."""

    def __init__(self, reason: str, wait: float = 0):
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


class _NotFoundError(Exception):
    """The server has no such file."""


class _RefusedError(Exception):
    """The server does not give the file, or not in the way that it was asked for."""


class Server:
    """Zenodo and GitHub, or a mirror that has their files under the same paths."""

    def __init__(self, mirror: str | None):
        self._mirror = mirror
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file itself
        self._records: dict[int, dict[str, PublishedFile]] = {}

    def url(self, published: str) -> str:
        """Where the file of this address is taken from."""
        return self._mirror.rstrip("/") + urlsplit(published).path if self._mirror else published

    def files_of(self, record: int) -> dict[str, PublishedFile]:
        """File name → size and checksum, as a Zenodo record lists them.

        A mirror without such a list must have the files that Zenodo's own list says.

        Raises:
            BaselineError: there is no list to be had.
        """
        if record not in self._records:
            published = f"{ZENODO}/api/records/{record}"
            try:
                self._records[record] = self._list(self.url(published))
            except BaselineError as error:
                if self.url(published) == published:
                    raise
                log.info("%s Asking %s for the list.", error, ZENODO)
                self._records[record] = self._list(published)
        return self._records[record]

    def _list(self, url: str) -> dict[str, PublishedFile]:
        text = self._text(url)
        if text is None:
            raise BaselineError(f"{url}: no such record. Check the record in datasets/catalog/.")
        try:
            files = json.loads(text)["files"]
            listed = {file["key"]: PublishedFile(int(file["size"]), file["checksum"]) for file in files}
            for name, file in listed.items():
                if not isinstance(name, str) or not 0 <= file.size < LARGEST_FILE:
                    raise ValueError("a name or a size that is none")
                if not re.fullmatch("(md5|sha256|sha512):[0-9a-fA-F]+", file.checksum):
                    raise ValueError("a checksum of an unknown kind")
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise BaselineError(f"{url}: not the list of a record's files ({error!r}). {LATER}") from error
        return listed

    def text(self, published: str) -> bytes | None:
        """The contents of a small file, or None where there is none.

        Raises:
            BaselineError: it cannot be fetched.
        """
        return self._text(self.url(published))

    def fetch(self, archive: Archive, listed: PublishedFile, path: Path) -> None:
        """Fetch an archive to `path`; go on where an earlier transfer of it stopped, if the server can.

        Raises:
            BaselineError: it cannot be fetched or written, or what arrives twice is not what the record lists.
        """
        url, partial = self.url(archive.url), part_of(path)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                partial.touch()
                with tqdm(
                    total=listed.size, desc=path.name, unit="B", unit_scale=True, disable=None, leave=False
                ) as bar:
                    self._retry(url, lambda bar=bar: self._append(url, partial, listed.size, bar), partial)
                if is_intact(partial, listed):
                    partial.replace(path)
                    return
                partial.unlink()
                log.warning("%s: what arrived is not what the record lists (%s)", url, listed.checksum)
        except _NotFoundError as error:
            raise BaselineError(f"{url}: {error}, though the record lists the file. {LATER}") from error
        except OSError as error:
            raise cannot_write(path, error) from error
        raise BaselineError(
            f"{url}: what arrives is not what the record lists ({listed.size} bytes, {listed.checksum}), even when "
            f"fetched anew. It was not unpacked. {LATER}"
        )

    def _append(self, url: str, partial: Path, size: int, bar: tqdm) -> None:
        """One attempt to fetch what is missing of a file. What has arrived is kept, whatever comes."""
        there = size_of(partial)
        if there >= size:  # what is too large will not have the checksum
            return
        with self._get_from(url, there) as response:
            skipped = there  # bytes of the answer that are there already
            if response.status_code == 206:
                skipped = 0
                first, total = _content_range(response)
                if first != there or total not in (None, size):
                    raise _TransferError(f"the server sends another part than asked for, or of a file of {total} bytes")
            elif response.headers.get("Content-Length", str(size)) != str(size):
                raise _TransferError(
                    f"the server would send {response.headers['Content-Length']} bytes where the record lists {size}: "
                    "an error page, or another version of the file"
                )
            bar.reset(size)
            bar.update(there)
            with partial.open("ab") as file:
                for chunk in response.iter_content(CHUNK):
                    new, skipped = chunk[skipped:], max(0, skipped - len(chunk))
                    file.write(new)
                    bar.update(len(new))
                    if file.tell() > size:
                        return
        if size_of(partial) < size:
            raise _TransferError("the connection broke off")

    def _get_from(self, url: str, first: int) -> requests.Response:
        """The file from this byte on, where the server can, else the whole of it."""
        if first:
            try:
                return self._get(url, {"Range": f"bytes={first}-"})
            except _RefusedError:
                pass
        return self._get(url)

    def _text(self, url: str) -> bytes | None:
        def attempt() -> bytes:
            with self._get(url) as response:
                text = b""
                for chunk in response.iter_content(CHUNK):
                    text += chunk
                    if len(text) > LARGEST_TEXT:
                        raise BaselineError(f"{url}: more than {LARGEST_TEXT} bytes; not the file that it should be.")
                return text

        try:
            return self._retry(url, attempt)
        except _NotFoundError:
            return None

    def _get(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        response = self._session.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
        status = response.status_code
        if status in (200, 206):
            return response
        response.close()
        reason = f"the server answers {status} {response.reason}"
        if status in (404, 410):
            raise _NotFoundError(reason)
        if status in (408, 425, 429) or status >= 500:
            raise _TransferError(reason, _retry_after(response))
        raise _RefusedError(reason)

    def _retry(self, url: str, attempt: Callable[[], T], partial: Path | None = None) -> T:
        """What `attempt` returns; again after a wait where it is interrupted.

        Attempts count from the first again when `partial` is larger than ever.
        """
        failures, largest = 0, size_of(partial)
        while True:
            try:
                return attempt()
            except (requests.RequestException, _TransferError) as error:
                if isinstance(error, requests.exceptions.InvalidURL) or "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise BaselineError(f"{url}: {error}. {LATER}") from error
                reason, wait = _describe(error), getattr(error, "wait", 0)
            except _RefusedError as error:
                raise BaselineError(f"{url}: {error}. {LATER}") from error
            # What requests lets through of addresses, proxies and certificates that are none.
            except (ValueError, TypeError, OSError, urllib3.exceptions.HTTPError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # of a file
                    raise
                raise BaselineError(f"{url}: {error!r}. {LATER}") from error
            if size_of(partial) > largest:
                failures, largest = 0, size_of(partial)
            if failures == len(WAITS):
                raise BaselineError(f"{url}: {reason}; gave up after {failures + 1} attempts. {LATER}")
            wait = min(max(wait, WAITS[failures]), LONGEST_WAIT)
            log.warning("%s: %s; another attempt in %g s", url, reason, wait)
            time.sleep(wait)
            failures += 1


def part_of(path: Path) -> Path:
    """Where a file is that has not arrived in full."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path | None) -> int:
    """Size in bytes; 0 where there is no file."""
    return path.stat().st_size if path is not None and path.exists() else 0


def is_intact(path: Path, listed: PublishedFile) -> bool:
    """Whether a file is there, and is what its record lists."""
    if not path.is_file() or size_of(path) != listed.size:
        return False
    algorithm, _, digest = listed.checksum.rpartition(":")
    return pooch.file_hash(str(path), alg=algorithm) == digest.lower()


def _retry_after(response: requests.Response) -> float:
    try:
        return urllib3.Retry().get_retry_after(response.raw) or 0
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """The first byte of a part, and the size of the whole file; None for what is not said."""
    match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    return (None, None) if match is None else (int(match[1]), None if match[2] == "*" else int(match[2]))


def _describe(error: Exception) -> Any:
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return f"no connection ({type(error).__name__})"
    return error
