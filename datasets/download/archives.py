"""Zip archive → a machine type's directory, complete or absent; and whether that directory is still intact.

Each unpacked archive leaves its manifest in the directory: name, size and CRC-32 of every file.
"""

import contextlib
import json
import logging
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from config import BaselineError
from datasets.catalog import Archive, Machine
from datasets.clips import SPLIT_DIRECTORIES
from files import cannot_write, write_text

MOST_UNPACKED = 50  # times an archive's size; clips take 1 to 2 times
SMALL = 1 << 28  # bytes; an archive may always unpack to that much
# What zipfile raises for a damaged archive (RuntimeError: encrypted, or an unknown compression).
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)
UNPACKING = ".unpacking"  # .fan.unpacking, beside fan: not complete yet
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")  # added by the system that an archive was made on

log = logging.getLogger("baseline")


class Entry(NamedTuple):
    """Size (bytes) and CRC-32 of a file."""

    size: int
    crc: int


@dataclass
class Findings:
    """The state of an archive's files, by names relative to the machine type's directory."""

    files: int  # number
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    note: str = ""  # why missing files cannot be known

    @property
    def intact(self) -> bool:
        return not (self.missing or self.corrupt)


def manifest_path(machine: Machine, dataset_directory: Path, archive: Archive) -> Path:
    """The manifest of an unpacked archive: `dcase2024t2/dev_data/raw/fan/dev_fan.zip.json`."""
    return machine.directory(dataset_directory) / f"{archive.name}.json"


def read_manifest(machine: Machine, dataset_directory: Path, archive: Archive) -> dict[str, Entry] | None:
    """File → entry of an unpacked archive, or None without a readable manifest."""
    path = manifest_path(machine, dataset_directory, archive)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        files = {str(_safe_path(name)): Entry(int(size), int(crc)) for name, (size, crc) in listed.items()}
        if not _holds_clips(files, archive):
            raise ValueError("it lists no clips")
    except FileNotFoundError:
        return None
    except (OSError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        log.warning("%s is damaged (%s) and will be ignored.", path, error)
        return None
    return files


def compare(directory: Path, files: Mapping[str, Entry]) -> Findings:
    """Compare the files of a directory with an archive's entries, byte by byte (CRC-32).

    Clips in the same subdirectories that are not among `files` are surplus.
    """
    findings = Findings(files=len(files))
    for name, entry in tqdm(files.items(), desc=f"verify {directory.name}", unit="file", disable=None, leave=False):
        try:
            path = directory / name
            intact = path.stat().st_size == entry.size and zlib.crc32(path.read_bytes()) == entry.crc
        except FileNotFoundError:
            findings.missing.append(name)
            continue
        except OSError:
            intact = False
        if not intact:
            findings.corrupt.append(name)
    for part in sorted({name.split("/")[0] for name in files if "/" in name}):
        clips = (f"{part}/{path.name}" for path in (directory / part).glob("*.[wW][aA][vV]"))
        findings.surplus += sorted(clip for clip in clips if clip not in files)
    return findings


def unpack(path: Path, archive: Archive, machine: Machine, dataset_directory: Path) -> Findings:
    """Unpack an archive into the directory of its machine type.

    The files are written beside it and renamed when all are complete, the manifest last: an interrupted call leaves a
    complete directory or none. Intact files are left alone.

    Returns:
        What was missing or corrupt before, and is intact now.

    Raises:
        BaselineError: the archive is damaged, holds something else, or would write outside of the directory; the
            directory holds other data; the disk is full.
    """
    directory = machine.directory(dataset_directory).resolve()  # a link may lead to another disk
    staging = directory.with_name(f".{machine.name}{UNPACKING}")
    with _open(path) as zip_file:
        members = _members(zip_file, archive, machine)
        files = _entries(members)
        findings = compare(directory, files)
        if read_manifest(machine, dataset_directory, archive) is None:
            other_clips = [*filter(is_clip, findings.corrupt), *findings.surplus]
            if other_clips:
                raise BaselineError(
                    f"{directory} holds other data than {archive.name} (such as {other_clips[0]}). Move the directory "
                    "away, then download again."
                )
            for name in findings.corrupt:  # from another archive of this machine type, such as attributes_00.csv
                del files[name]
            findings.corrupt.clear()
        needed = {name: members[name] for name in findings.missing + findings.corrupt}
        try:
            shutil.rmtree(staging, ignore_errors=True)
            _extract(zip_file, needed, staging)
            manifest = {"archive": archive.name, "record": archive.record, "files": files}
            write_text(staging / f"{archive.name}.json", json.dumps(manifest))
            _move(staging, directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return findings


def list_archive(path: Path, archive: Archive, machine: Machine) -> dict[str, Entry]:
    """File → entry of an archive, from its table of contents. Raises BaselineError as unpack does."""
    with _open(path) as zip_file:
        return _entries(_members(zip_file, archive, machine))


def remove_leftovers(raw_directory: Path) -> None:
    """Remove what a killed call has unpacked."""
    for path in raw_directory.glob(f".*{UNPACKING}"):
        shutil.rmtree(path, ignore_errors=True)


def is_clip(name: str) -> bool:
    """Whether a file is a clip, by its name."""
    return name.lower().endswith(".wav")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file; errors that are raised while it is read name it."""
    try:
        with zipfile.ZipFile(path) as zip_file:
            yield zip_file
    except ZIP_ERRORS as error:
        raise BaselineError(f"{path} cannot be unpacked: {error}. Remove it, then download again.") from error
    except OSError as error:
        raise BaselineError(f"cannot read {path}: {error.strerror or error}. Check its permissions.") from error


def _entries(members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Entry]:
    return {name: Entry(member.file_size, member.CRC) for name, member in members.items()}


def _members(zip_file: zipfile.ZipFile, archive: Archive, machine: Machine) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their names relative to the machine type's directory.

    Raises:
        ValueError: a file is unsafe to unpack, or the archive is not that of the machine type.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for member in zip_file.infolist():
        path = _safe_path(member.filename)
        if member.is_dir() or any(part in JUNK or part.startswith("._") for part in path.parts):
            continue
        name = "/".join(path.parts[1:] if path.parts[0] == machine.name else path.parts)
        if not name or name in members or name == f"{archive.name}.json":
            raise ValueError(f"{member.filename} is there twice or misplaced")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{member.filename} is a link")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is packed in an unusual way")
        members[name] = member
    unpacked = sum(member.file_size for member in members.values())
    if unpacked > MOST_UNPACKED * Path(zip_file.filename).stat().st_size + SMALL:  # made to fill the disk
        raise ValueError(f"it would unpack to {unpacked / 1e6:.0f} MB, more than {MOST_UNPACKED} times its size")
    if not _holds_clips(members, archive):
        raise ValueError(f"no {' and '.join(f'{machine.name}/{split}/' for split in archive.holds)} in it")
    return members


def _holds_clips(files: Collection[str], archive: Archive) -> bool:
    """Whether there are clips of each split that the archive must hold."""
    directories = {name.split("/")[0] for name in files if is_clip(name)}
    return all(directories & set(SPLIT_DIRECTORIES[split]) for split in archive.holds)


def _safe_path(name: str) -> PurePosixPath:
    """The path of a file in an archive or a manifest.

    Raises:
        ValueError: it could lead out of the directory that it is unpacked into, or cannot be a file's name.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or any(c in name for c in "\\:"):
        raise ValueError(f"a file name that leads outside of its directory, {name!r}")
    if not name.isprintable() or any(len(part.encode()) > 255 for part in path.parts):
        raise ValueError(f"a file name that cannot be one, {name[:300]!r}")
    return path


def _extract(zip_file: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], staging: Path) -> None:
    """Unpack these files under their new names. zipfile checks the CRC-32 of each."""
    try:
        staging.mkdir(parents=True)
        for name, member in tqdm(members.items(), desc=staging.name[1:], unit="file", disable=None, leave=False):
            member.filename = name
            target = Path(zip_file.extract(member, staging))
            if target.stat().st_size != member.file_size:
                raise ValueError(f"{name} has not the size that is listed")
    except OSError as error:
        raise cannot_write(staging, error) from error


def _move(staging: Path, directory: Path) -> None:
    """Rename the whole directory; or if it exists, each part that it lacks, the manifest last."""
    try:
        if not directory.exists():
            staging.replace(directory)
            return
        for part in sorted(staging.iterdir(), key=lambda part: part.suffix == ".json"):
            is_merged = part.is_dir() and (directory / part.name).exists()
            for path in sorted(filter(Path.is_file, part.rglob("*"))) if is_merged else [part]:
                target = directory / path.relative_to(staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    except OSError as error:
        raise cannot_write(directory, error) from error
