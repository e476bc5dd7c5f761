"""Unpack the zip archive of a machine type, completely or not at all, and verify the unpacked files.

For each unpacked archive, the directory contains a manifest with the name, size and CRC-32 of every file.
"""

import json
import logging
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from config import BaselineError
from datasets.catalog import Archive, Machine
from datasets.clips import SPLIT_DIRECTORIES, wav_files
from files import cannot_write, set_aside, write_text

MAX_EXPANSION = 50  # largest ratio of unpacked to archive size; clips have a ratio of 1 to 2
ALWAYS_ALLOWED = 1 << 28  # bytes that any archive may unpack to
# Raised by zipfile for a damaged archive (RuntimeError: encrypted, or unknown compression).
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)
REPLACED = "replaced"  # directory for files that were replaced: they may be the user's own
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")  # added by the system that created the archive

log = logging.getLogger("baseline")


class Entry(NamedTuple):
    """The size (bytes) and CRC-32 of a file."""

    size: int
    crc: int


@dataclass
class Findings:
    """The state of an archive's files. Names are relative to the directory of the machine type."""

    files: int  # number of files
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # clips that are not in the archive
    note: str = ""  # why missing files cannot be detected

    @property
    def intact(self) -> bool:
        return not (self.missing or self.corrupt)


def read_manifest(machine: Machine, dataset_directory: Path, archive: Archive) -> dict[str, Entry] | None:
    """Read the manifest of an unpacked archive: file → entry, or None if there is no readable manifest."""
    path = machine.directory(dataset_directory) / _manifest_name(archive)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(_safe_path(name)): Entry(int(size), int(crc)) for name, (size, crc) in listed.items()}
    except FileNotFoundError:
        return None
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        log.warning("%s is damaged (%s) and is ignored.", path, error)
        return None


def compare(directory: Path, files: Mapping[str, Entry]) -> Findings:
    """Compare the files in a directory with the entries of an archive, by size and CRC-32.

    Clips in the same subdirectories that are not in `files` are reported as extra.
    """
    findings = Findings(files=len(files))
    for name, entry in tqdm(files.items(), desc=f"verify {directory.name}", unit="file", disable=None, leave=False):
        path = directory / name
        if not path.exists():
            findings.missing.append(name)
        elif not path.is_file() or Entry(path.stat().st_size, zlib.crc32(path.read_bytes())) != entry:
            findings.corrupt.append(name)
    for part in sorted({name.split("/")[0] for name in files if "/" in name}):
        clips = (f"{part}/{path.name}" for path in wav_files(directory / part))
        findings.extra += [clip for clip in clips if clip not in files]
    return findings


def unpack(path: Path, archive: Archive, machine: Machine, dataset_directory: Path) -> None:
    """Unpack the files that are missing or damaged in the directory of a machine type.

    Files are written to a temporary directory and renamed when all are complete, the manifest last. An interrupted call
    therefore leaves a complete directory or none. Intact files are not changed.

    Raises:
        BaselineError: the archive is damaged, has unexpected contents or would write outside the directory, the
            directory contains other data, or the disk is full.
    """
    directory = machine.directory(dataset_directory).resolve()  # may be a link to another disk
    staging = directory.with_name(f".{machine.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
    try:
        with zipfile.ZipFile(path) as zip_file:
            members = _members(zip_file, archive, machine)
            files = {name: Entry(member.file_size, member.CRC) for name, member in members.items()}
            findings = compare(directory, files)
            if read_manifest(machine, dataset_directory, archive) is None:
                _check_other_data(directory, archive, findings)
                for name in findings.corrupt:  # of another archive of this machine type, such as attributes_00.csv
                    del files[name]
                findings.corrupt.clear()
            needed = findings.missing + findings.corrupt
            for name in tqdm(needed, desc=f"unpack {machine.name}", unit="file", disable=None, leave=False):
                members[name].filename = name
                zip_file.extract(members[name], staging)  # also checks the CRC-32
        manifest = {"archive": archive.name, "record": archive.record, "files": files}
        write_text(staging / _manifest_name(archive), json.dumps(manifest))
        replaced = machine.split_directory(dataset_directory) / REPLACED / machine.name
        for name in findings.corrupt:
            set_aside(directory / name, replaced / name)
        if findings.corrupt:
            text = "%d file(s) of %s, such as %s, differ from %s. They are replaced; the old files are kept in %s."
            log.warning(text, len(findings.corrupt), machine.name, findings.corrupt[0], archive.name, replaced)
        _move(staging, directory)
    except ZIP_ERRORS as error:
        raise BaselineError(f"{path} cannot be unpacked: {error}. Remove it and download again.") from error
    except OSError as error:
        raise cannot_write(staging, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    log.info("%s: unpacked %d of %d files", archive.name, len(needed), findings.files)


def is_clip(name: str) -> bool:
    """Whether a file name is that of a clip."""
    return name.lower().endswith(".wav")


def _manifest_name(archive: Archive) -> str:
    return f"{archive.name}.json"


def _check_other_data(directory: Path, archive: Archive, findings: Findings) -> None:
    """Raise BaselineError if a directory contains clips that are not from the archive."""
    others = [*filter(is_clip, findings.corrupt), *findings.extra]
    if others:
        raise BaselineError(
            f"{directory} contains clips that are not from {archive.name}, such as {others[0]}. Move the directory "
            "away and download again."
        )


def _members(zip_file: zipfile.ZipFile, archive: Archive, machine: Machine) -> dict[str, zipfile.ZipInfo]:
    """The files in an archive, by name relative to the directory of the machine type.

    Raises:
        ValueError: a file is not safe to unpack, or the archive belongs to another machine type.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for member in zip_file.infolist():
        parts = _safe_path(member.filename).parts
        name = "/".join(parts[1:] if parts[0] == machine.name else parts)
        if not name or member.is_dir() or any(part in JUNK or part.startswith("._") for part in parts):
            continue
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} uses an unsupported compression method")
        members[name] = member
    unpacked = sum(member.file_size for member in members.values())
    if unpacked > MAX_EXPANSION * Path(zip_file.filename).stat().st_size + ALWAYS_ALLOWED:  # a zip bomb
        raise ValueError(f"it would unpack to {unpacked / 1e6:.0f} MB, more than {MAX_EXPANSION} times its size")
    with_clips = {name.split("/")[0] for name in members if is_clip(name)}
    if not all(with_clips & set(SPLIT_DIRECTORIES[split]) for split in archive.holds):
        raise ValueError(f"it does not contain {' and '.join(f'{machine.name}/{split}/' for split in archive.holds)}")
    return members


def _safe_path(name: str) -> PurePosixPath:
    """The path of a file in an archive or a manifest. Raises ValueError if it could be outside the directory."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the file name {name[:300]!r} leads outside the directory")
    return path


def _move(staging: Path, directory: Path) -> None:
    """Rename the whole directory. If the target exists, move the missing parts into it, the manifest last."""
    if not directory.exists():
        staging.replace(directory)
        return
    for part in sorted(staging.iterdir(), key=lambda part: part.suffix == ".json"):
        target = directory / part.name
        if part.is_dir() and target.exists():
            shutil.copytree(part, target, copy_function=os.replace, dirs_exist_ok=True)  # moves the files
        else:
            part.replace(target)
