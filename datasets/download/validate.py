"""Find missing, corrupt and extra clips on disk. Downloads nothing."""

from pathlib import Path

from config import BaselineError
from datasets.audio import read_header
from datasets.catalog import Archive, Machine
from datasets.clips import SPLIT_DIRECTORIES, find_copies, parse_clip, wav_files
from datasets.download.archives import Findings, compare, read_manifest


def validate(machine: Machine, archive: Archive, dataset_directory: Path) -> Findings:
    """Compare the files on disk with the manifest that was written when the archive was unpacked.

    Without a manifest, each clip is opened. This finds damaged and misplaced clips, but not missing ones.
    """
    directory = machine.directory(dataset_directory)
    files = read_manifest(machine, dataset_directory, archive)
    if files is not None:
        return compare(directory, files)
    parts = [directory / name for split in archive.holds for name in SPLIT_DIRECTORIES[split]]
    if not any(part.is_dir() for part in parts):
        return Findings(0, note="not found")
    return _check_clips(machine, [wav_files(part) for part in parts])


def _check_clips(machine: Machine, parts: list[list[Path]]) -> Findings:
    paths = sorted(path for part in parts for path in part)
    copies = {copy for part in parts for copy in find_copies(part)}
    findings = Findings(len(paths), note="no manifest: clips may be missing")
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        try:
            if path in copies or parse_clip(path).section not in machine.sections:
                findings.extra.append(name)
        except BaselineError:
            findings.extra.append(name)
        try:
            if read_header(path).channels != machine.dataset.channels:
                findings.corrupt.append(name)
        except BaselineError:
            findings.corrupt.append(name)
    return findings
