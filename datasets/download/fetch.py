"""Fetch, verify and unpack missing clips and labels of the published datasets.

Used by the data_download scripts for all machine types of a split, and by `train.py --is_auto_download True` for one.
"""

import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from config import BaselineError, nearest
from datasets.catalog import Archive, Machine
from datasets.clips import RENAMED_DIRECTORY, SPLIT_DIRECTORIES
from datasets.download.archives import REPLACED, compare, read_manifest, unpack
from datasets.download.server import PublishedFile, Server, is_intact, part_of, size_of
from datasets.labels import combine_labels, label_files, parse_labels
from files import atomic_path, process_lock

PARTS = ("train", "test", "labels")
FileList = dict[str, PublishedFile] | None  # of a record; None if the list cannot be fetched

log = logging.getLogger("baseline")


def download(
    machines: Sequence[Machine], dataset_directory: Path, parts: Sequence[str], mirror: str | None
) -> list[str]:
    """Fetch, verify and unpack the missing or damaged data of some machine types of one split.

    Intact data are not fetched again and need no network connection. If one machine type fails, the others continue. A
    second call for the same directory waits for the first.

    Args:
        parts: some of PARTS.
        mirror: see --download_url.

    Returns:
        The names of the machine types that failed. The reasons are in the log.

    Raises:
        BaselineError: the disk does not have enough space, or is not writable.
    """
    directory, server, failed = machines[0].split_directory(dataset_directory), Server(mirror), []
    with process_lock(directory / ".download.lock", f"waiting for another download into {directory}"):
        wanted = {
            machine.name: [
                archive
                for archive in machine.archives
                if set(archive.holds) & set(parts) and not _is_unpacked(machine, archive, dataset_directory)
            ]
            for machine in machines
        }
        archives = [archive for names in wanted.values() for archive in names]
        lists = {record: server.files_of(record) for record in sorted({archive.record for archive in archives})}
        _check_space(archives, lists, directory)
        with_labels = "labels" in parts and _are_labels_published(machines, directory)
        for machine in machines:
            try:
                for archive in wanted[machine.name]:
                    path = directory / "archives" / archive.name
                    _fetch_archive(server, archive, lists[archive.record], path)
                    unpack(path, archive, machine, dataset_directory)
                if with_labels:
                    _fetch_labels(server, machine, directory)
            except BaselineError as error:
                log.error("%s: %s", machine.name, error)
                failed.append(machine.name)
    return failed


def download_missing(machine: Machine, dataset_directory: Path, parts: Sequence[str], mirror: str | None) -> None:
    """Download the parts of a machine type whose directories do not exist. Raises BaselineError on failure."""
    directory = machine.directory(dataset_directory)
    places = {"train": SPLIT_DIRECTORIES["train"], "test": (*SPLIT_DIRECTORIES["test"], RENAMED_DIRECTORY)}
    missing = [part for part in parts if not any((directory / name).is_dir() for name in places[part])]
    published = [part for part in missing if any(part in archive.holds for archive in machine.archives)]
    if published and download([machine], dataset_directory, published, mirror):
        raise BaselineError(
            f"{machine.name} of {machine.dataset.name} could not be downloaded. The reason is shown above."
        )


def _is_unpacked(machine: Machine, archive: Archive, dataset_directory: Path) -> bool:
    """Whether all files of an archive exist and are intact."""
    files = read_manifest(machine, dataset_directory, archive)
    if files is None:
        return False
    findings = compare(machine.directory(dataset_directory), files)
    if findings.extra:
        log.warning(
            "%d clip(s), such as %s, are not from %s, but are used as clips of %s. Move them away.",
            *(len(findings.extra), findings.extra[0], archive.name, machine.name),
        )
    if findings.intact:
        log.info("%s: all %d files verified", archive.name, findings.files)
    return findings.intact


def _check_space(archives: Sequence[Archive], lists: dict[int, FileList], directory: Path) -> None:
    """Raise BaselineError if the disk does not have enough space for these archives and their unpacked files."""
    needed = 0
    for archive in archives:
        path, listed = directory / "archives" / archive.name, (lists[archive.record] or {}).get(archive.name)
        if listed is not None:  # otherwise it fails later for another reason
            needed += listed.size if path.exists() else 2 * listed.size - size_of(part_of(path))
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise BaselineError(
            f"{directory} needs {needed / 1e6:.1f} MB, but the disk has only {free / 1e6:.1f} MB free. Free some "
            "space, or use another disk with --dataset_directory."
        )


def _fetch_archive(server: Server, archive: Archive, files: FileList, path: Path) -> None:
    """Fetch an archive unless it exists and is intact. If the list is None, use an existing archive unchecked."""
    if files is None:
        if not path.exists():
            raise BaselineError(f"{archive.url}: its record cannot be read. The reason is shown above.")
        log.warning("%s is used without checking its checksum", path)
        return
    if archive.name not in files:
        raise BaselineError(
            f"{archive.url}: record {archive.record} lists no such file.{nearest(archive.name, files)} If it was "
            f"renamed, change its name in datasets/catalog/. Files in the record: {' '.join(sorted(files))}."
        )
    url, listed = server.url(archive.url), files[archive.name]
    if not is_intact(path, listed):
        log.info("fetching %s, %.1f MB", url, listed.size / 1e6)
        server.fetch(url, listed, path, path.parents[1] / REPLACED / path.name)


def _are_labels_published(machines: Sequence[Machine], directory: Path) -> bool:
    names = [name for machine in machines for name in machine.label_files("anomaly")]
    if not names or "download" in machines[0].dataset.labels:
        return bool(names)
    if not all((directory / name).exists() for name in names):
        log.info(
            "the catalog has no address for the labels of %s. When you have them, copy them to %s, such as %s",
            *(machines[0].dataset.name, directory, names[0]),
        )
    return False


def _fetch_labels(server: Server, machine: Machine, directory: Path) -> None:
    """Fetch the missing label files of a machine type. They are kept only if all of its files match."""
    missing = [name for name in label_files(machine) if not (directory / name).exists()]
    files = {name: parse_labels(directory / name, machine) for name in label_files(machine) if name not in missing}
    with contextlib.ExitStack() as new_files:
        for name in missing:
            url = server.url(f"{machine.dataset.labels['download']}/{name}")
            path = new_files.enter_context(atomic_path(directory / name))
            path.write_bytes(server.read(url, "label file"))
            try:
                files[name] = parse_labels(path, machine)
            except BaselineError as error:
                raise BaselineError(f"{url}: not a label file: {error}") from error
        combine_labels(machine, files, directory)
    if missing:
        log.info("labels of %s: fetched %d files", machine.name, len(missing))
