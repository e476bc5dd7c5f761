"""Missing, corrupt and surplus clips of what is there of a dataset; nothing is downloaded."""

import logging
from collections.abc import Sequence
from pathlib import Path

from config import BaselineError
from datasets.audio import read_header
from datasets.catalog import Archive, Machine
from datasets.clips import SPLIT_DIRECTORIES, parse_clip
from datasets.download.archives import Findings, compare, is_clip, list_archive, read_manifest
from datasets.download.fetch import archive_path

log = logging.getLogger("baseline")


def validate(machine: Machine, archive: Archive, dataset_directory: Path) -> Findings:
    """Compare what is there of an archive's files with what it holds.

    That is known from the manifest that unpacking left, or from the archive where it is there. Where neither is, the
    clips are opened one by one: damaged and misplaced ones are found, missing ones cannot be known.
    """
    directory = machine.directory(dataset_directory)
    files = read_manifest(machine, dataset_directory, archive)
    path = archive_path(machine.split_directory(dataset_directory), archive)
    if files is None and path.exists():
        try:
            files = list_archive(path, archive, machine)
            # What is no clip, attributes_00.csv say, may as well be another archive's.
            files = {name: entry for name, entry in files.items() if is_clip(name)}
        except BaselineError as error:
            log.warning("%s", error)
    if files is not None:
        return compare(directory, files)
    parts = [name for split in archive.holds for name in SPLIT_DIRECTORIES[split]]
    return _open_each(machine, [directory / part for part in parts if (directory / part).is_dir()])


def _open_each(machine: Machine, directories: Sequence[Path]) -> Findings:
    if not directories:
        return Findings(note="not there")
    findings = Findings(note="without a manifest: clips may be missing")
    for path in sorted(path for each in directories for path in each.glob("*.[wW][aA][vV]")):
        name = f"{path.parent.name}/{path.name}"
        findings.files += 1
        try:
            if parse_clip(path).section not in machine.sections:
                findings.surplus.append(name)
        except BaselineError:
            findings.surplus.append(name)
        try:
            damaged = read_header(path).channels != machine.dataset.channels
        except BaselineError:
            damaged = True
        if damaged:
            findings.corrupt.append(name)
    return findings
