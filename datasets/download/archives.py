"""Zip archive → a machine type's directory, complete or absent; and whether what is there is still intact.

Each archive that has been unpacked leaves its manifest in the directory: name, size and CRC-32 of every file.
"""

import contextlib
import json
import logging
import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from config import BaselineError
from datasets.catalog import Archive, Machine
from datasets.clips import SPLIT_DIRECTORIES
from files import cannot_write, write_text

CHUNK = 1 << 20  # bytes
MOST_UNPACKED = 50  # times an archive's size; clips take 1 to 2 times
SMALL = 1 << 28  # bytes that are no harm in any case
# What reading a damaged archive raises; RuntimeError where it is encrypted or packed in an unknown way.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error)
UNPACKING = ".unpacking"  # .fan.unpacking, beside fan: what is not complete yet
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")  # what archives pick up on their makers' machines

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class Entry:
    """Size (bytes) and CRC-32 of a file."""

    size: int
    crc: int


@dataclass
class Findings:
    """What became of an archive's files: names relative to the machine type's directory."""

    files: int = 0
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    note: str = ""  # where there was nothing to compare them with

    @property
    def intact(self) -> bool:
        return not (self.missing or self.corrupt)


def manifest_path(machine: Machine, dataset_directory: Path, archive: Archive) -> Path:
    """Where the manifest of an unpacked archive is: `dcase2024t2/dev_data/raw/fan/dev_fan.zip.json`."""
    return machine.directory(dataset_directory) / f"{archive.name}.json"


def read_manifest(machine: Machine, dataset_directory: Path, archive: Archive) -> dict[str, Entry] | None:
    """File → entry of an archive that was unpacked here, or None where there is no (readable) manifest."""
    path = manifest_path(machine, dataset_directory, archive)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        files = {str(_safe_path(name)): Entry(int(size), int(crc)) for name, (size, crc) in listed.items()}
        if not _holds_clips(files, archive):
            raise ValueError("clips are missing in it")
    except FileNotFoundError:
        return None
    except (
        *(OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError),
        BaselineError,  # a name that leads outside
    ) as error:
        log.warning("%s is damaged (%s), and taken as not there.", path, error)
        return None
    return files


def compare(directory: Path, files: Mapping[str, Entry]) -> Findings:
    """Compare the files of a directory with what they should be, byte by byte (CRC-32).

    Clips beside them, in the same subdirectories, that are not among `files` are surplus.
    """
    findings = Findings(files=len(files))
    for name, entry in tqdm(files.items(), desc=f"verify {directory.name}", unit="file", disable=None, leave=False):
        try:
            intact = (directory / name).stat().st_size == entry.size and _crc(directory / name) == entry.crc
        except FileNotFoundError:
            findings.missing.append(name)
            continue
        except OSError:
            intact = False
        if not intact:
            findings.corrupt.append(name)
    parts = {PurePosixPath(name).parts[0] for name in files if "/" in name}
    for part in sorted(parts):
        clips = (f"{part}/{path.name}" for path in (directory / part).glob("*.[wW][aA][vV]"))
        findings.surplus += sorted(clip for clip in clips if clip not in files)
    return findings


def unpack(path: Path, archive: Archive, machine: Machine, dataset_directory: Path) -> Findings:
    """Unpack an archive into the directory of its machine type.

    The files are written beside it and renamed when all are there, the manifest last: what is interrupted leaves a
    complete directory or none, and the next call goes on. Files that are there and intact stay as they are.

    Returns:
        What was missing or corrupt before, and is there now.

    Raises:
        BaselineError: the archive is damaged, holds something else, or would write outside of the directory; the
            directory holds other data; the disk is full.
    """
    directory = machine.directory(dataset_directory).resolve()  # a link may lead to another disk
    staging = directory.with_name(f".{machine.name}{UNPACKING}")
    known = read_manifest(machine, dataset_directory, archive)
    with _opened(path) as zip_file:
        members = _members(zip_file, archive, machine)
        files = _entries(members)
        _check_size(members.values(), path)
        findings = compare(directory, files)
        if known is None:
            other_clips = [*filter(is_clip, findings.corrupt), *findings.surplus]
            if other_clips:
                raise BaselineError(
                    f"{directory} holds other data than {archive.name} (such as {other_clips[0]}). Move the directory "
                    "away, then download again."
                )
            for name in findings.corrupt:  # of another archive of this machine type, such as attributes_00.csv
                del files[name]
            findings.corrupt.clear()
        needed = {name: members[name] for name in findings.missing + findings.corrupt}
        check_space(directory.parent, sum(member.file_size for member in needed.values()))
        try:
            shutil.rmtree(staging, ignore_errors=True)
            _extract(zip_file, needed, staging)
            manifest = {"archive": archive.name, "record": archive.record}
            manifest["files"] = {name: (entry.size, entry.crc) for name, entry in files.items()}
            write_text(staging / manifest_path(machine, dataset_directory, archive).name, json.dumps(manifest))
            _move_in(staging, directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return findings


def list_archive(path: Path, archive: Archive, machine: Machine) -> dict[str, Entry]:
    """File → entry of an archive, as its table of contents says.

    Raises:
        BaselineError: the archive is damaged or holds something else.
    """
    with _opened(path) as zip_file:
        return _entries(_members(zip_file, archive, machine))


def remove_leftovers(raw_directory: Path) -> None:
    """Remove what an unpacking that was killed has left."""
    for path in raw_directory.glob(f".*{UNPACKING}"):
        shutil.rmtree(path, ignore_errors=True)


def check_space(directory: Path, needed: int) -> None:
    """Check that the disk has room.

    Args:
        directory: made when it is not there.
        needed: bytes.

    Raises:
        BaselineError: it has not, or the directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise cannot_write(directory, error) from error
    if needed > free:
        raise BaselineError(
            f"{directory}: {needed / 1e6:.1f} MB are needed there, {free / 1e6:.1f} MB are free. Make room, or choose "
            "another disk with --dataset_directory."
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        zip_file = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise BaselineError(f"cannot read {path}: {error.strerror or error}. Check its permissions.") from error
    with zip_file:
        yield zip_file


def _damaged(path: Path | str, error: Exception) -> BaselineError:
    return BaselineError(f"{path}: not an intact zip file ({error}). Remove it, then download again.")


def _entries(members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Entry]:
    return {name: Entry(member.file_size, member.CRC) for name, member in members.items()}


def _members(zip_file: zipfile.ZipFile, archive: Archive, machine: Machine) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their names relative to the machine type's directory."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in zip_file.infolist():
        inside = _safe_path(member.filename)
        if member.is_dir() or any(part in JUNK or part.startswith("._") for part in inside.parts):
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BaselineError(f"{archive.name}: {member.filename} is a link; nothing was unpacked.")
        parts = inside.parts[1:] if inside.parts[0] == machine.name else inside.parts
        name = str(PurePosixPath(*parts))
        if not parts or name in members or name == f"{archive.name}.json":
            raise BaselineError(f"{archive.name}: {member.filename} is there twice or misplaced; nothing was unpacked.")
        members[name] = member
    for name in members:
        for parent in PurePosixPath(name).parents:
            if str(parent) in members:
                raise BaselineError(f"{archive.name}: {parent} is a file and a directory; nothing was unpacked.")
    if not _holds_clips(members, archive):
        raise BaselineError(
            f"{archive.name}: no {' and '.join(f'{machine.name}/{split}/' for split in archive.holds)} in it; nothing "
            f"was unpacked. Is this the archive of {machine.name}?"
        )
    return members


def _check_size(members: Collection[zipfile.ZipInfo], path: Path) -> None:
    """Check that an archive is not made to fill the disk, or memory: a few bytes that unpack to a great many."""
    unpacked, packed = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > MOST_UNPACKED * packed + SMALL:
        raise BaselineError(
            f"{path}: would unpack to {unpacked / 1e6:.0f} MB, more than {MOST_UNPACKED} times its size; nothing was "
            "unpacked. Remove it, then download again."
        )
    unusual = next((m for m in members if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)), None)
    if unusual is not None:
        raise BaselineError(f"{path}: {unusual.filename} is packed in an unusual way; nothing was unpacked.")


def _holds_clips(files: Collection[str], archive: Archive) -> bool:
    """Whether there are clips of each split that the archive is to hold."""
    directories = {PurePosixPath(name).parts[0] for name in files if is_clip(name)}
    return all(directories & set(SPLIT_DIRECTORIES[split]) for split in archive.holds)


def is_clip(name: str) -> bool:
    """Whether a file is a clip, by its name."""
    return name.lower().endswith(".wav")


def _safe_path(name: str) -> PurePosixPath:
    """The path of a file inside an archive or a manifest.

    Raises:
        BaselineError: it could lead out of the directory that it is unpacked into.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or any(c in name for c in "\\:\0"):
        raise BaselineError(f"a file name that leads outside of its directory, {name!r}; nothing was unpacked.")
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.parts) or not name.isprintable():
        raise BaselineError(f"a file name that cannot be one, {name[:300]!r}; nothing was unpacked.")
    return path


def _extract(zip_file: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], staging: Path) -> None:
    progress = tqdm(members.items(), desc=staging.name.strip("."), unit="file", disable=None, leave=False)
    try:
        staging.mkdir(parents=True)
        for name, member in progress:
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for chunk in _read(zip_file, member):
                    file.write(chunk)
    except OSError as error:
        raise cannot_write(staging, error) from error


def _read(zip_file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The contents of a file in an archive; zipfile checks the CRC-32 at its end."""
    size = 0
    try:
        with zip_file.open(member) as source:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                yield chunk
        if size != member.file_size:
            raise zipfile.BadZipFile(f"{member.filename}: {size} bytes, not {member.file_size}")
    except (*ZIP_ERRORS, OSError) as error:
        raise _damaged(str(zip_file.filename), error) from error


def _move_in(staging: Path, directory: Path) -> None:
    """Rename the whole, or where the directory is there already, each part that it lacks; the manifest last."""
    try:
        if not directory.exists():
            staging.replace(directory)
            return
        for path in sorted(staging.iterdir(), key=lambda path: path.suffix == ".json"):
            target = directory / path.name
            if not path.is_dir() or not target.exists():
                path.replace(target)
                continue
            for file in _files_below(path):
                place = target / file.relative_to(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
    except OSError as error:
        raise cannot_write(directory, error) from error


def _files_below(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
