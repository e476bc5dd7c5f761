"""The published clips and labels of a dataset: what is missing is fetched, verified and unpacked.

The data_download scripts do this for all machine types of a split, `train.py --is_auto_download True` for one.
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from config import BaselineError, nearest
from datasets.catalog import Archive, Machine
from datasets.clips import RENAMED_DIRECTORY, SPLIT_DIRECTORIES
from datasets.download.archives import check_space, compare, manifest_path, read_manifest, remove_leftovers, unpack
from datasets.download.server import PublishedFile, Server, is_intact, part_of, size_of
from datasets.labels import combine_labels, label_files, parse_labels
from files import alone, atomic_path, cannot_write

PARTS = ("train", "test", "labels")
FileList = dict[str, PublishedFile] | BaselineError | None

log = logging.getLogger("baseline")


def download(
    machines: Sequence[Machine], dataset_directory: Path, parts: Sequence[str], mirror: str | None
) -> list[str]:
    """Fetch, verify and unpack what is missing or damaged of some machine types of one split.

    What is there and intact is not fetched again and takes no network. A machine type that fails does not stop the
    others. Of two calls for one directory one waits for the other.

    Args:
        parts: some of PARTS.
        mirror: see --download_url.

    Returns:
        The names of the machine types that failed; the log says why.

    Raises:
        BaselineError: the disk has no room, or cannot be written to.
    """
    directory = machines[0].split_directory(dataset_directory)
    try:
        with alone(directory / ".download.lock", f"waiting for another download into {directory}"):
            remove_leftovers(directory / "raw")
            return _download_alone(machines, dataset_directory, parts, Server(mirror))
    except OSError as error:
        raise cannot_write(directory, error) from error


def _download_alone(
    machines: Sequence[Machine], dataset_directory: Path, parts: Sequence[str], server: Server
) -> list[str]:
    directory = machines[0].split_directory(dataset_directory)
    wanted = [
        (machine, archive)
        for machine in machines
        for archive in machine.archives
        if set(archive.holds) & set(parts) and not _is_there(machine, archive, dataset_directory)
    ]
    archives = [archive for _, archive in wanted]
    records = {archive.record for archive in archives}
    lists = {record: _list_files(server, record, archives, directory) for record in records}
    _check_space_for(wanted, lists, dataset_directory)
    with_labels = "labels" in parts and _are_labels_published(machines, directory)
    failed = []
    for machine in machines:
        try:
            for archive in [archive for each, archive in wanted if each is machine]:
                _fetch(server, archive, lists[archive.record], archive_path(directory, archive))
                findings = unpack(archive_path(directory, archive), archive, machine, dataset_directory)
                new = len(findings.missing) + len(findings.corrupt)
                log.info("%s unpacked, %d of %d files", archive.name, new, findings.files)
            if with_labels:
                _fetch_labels(server, machine, directory)
        except BaselineError as error:
            log.error("%s: %s", machine.name, error)
            failed.append(machine.name)
    return failed


def download_missing(machine: Machine, dataset_directory: Path, parts: Sequence[str], mirror: str | None) -> None:
    """Download those parts of a machine type whose directories are not there.

    Raises:
        BaselineError: it could not be done.
    """
    directory = machine.directory(dataset_directory)
    places = {"train": SPLIT_DIRECTORIES["train"], "test": (*SPLIT_DIRECTORIES["test"], RENAMED_DIRECTORY)}
    missing = [part for part in parts if not any((directory / name).is_dir() for name in places[part])]
    published = [part for part in missing if any(part in archive.holds for archive in machine.archives)]
    if published and download([machine], dataset_directory, published, mirror):
        raise BaselineError(f"{machine.name} of {machine.dataset.name} could not be downloaded; the reason is above.")


def archive_path(split_directory: Path, archive: Archive) -> Path:
    """Where an archive is kept: `dcase2024t2/dev_data/archives/dev_fan.zip`."""
    return split_directory / "archives" / archive.name


def _is_there(machine: Machine, archive: Archive, dataset_directory: Path) -> bool:
    files = read_manifest(machine, dataset_directory, archive)
    if files is None:
        return False
    findings = compare(machine.directory(dataset_directory), files)
    if findings.surplus:
        log.warning(
            "%s does not hold %d of the clips that are there, such as %s. They count as clips of %s: move them away.",
            *(archive.name, len(findings.surplus), findings.surplus[0], machine.name),
        )
    if findings.intact:
        log.info("%s: its files are there, %d verified", archive.name, findings.files)
    return findings.intact


def _list_files(server: Server, record: int, archives: Sequence[Archive], directory: Path) -> FileList:
    """What the record lists, or why that is not to be had; None where its archives are all there without."""
    try:
        return server.files_of(record)
    except BaselineError as error:
        if not all(archive_path(directory, archive).exists() for archive in archives if archive.record == record):
            return error
        log.warning("%s The archives that are there are taken without their checksums.", error)
        return None


def _check_space_for(
    wanted: Sequence[tuple[Machine, Archive]], lists: dict[int, FileList], dataset_directory: Path
) -> None:
    """Room for what is to be fetched, and for as much again unpacked, the least that a whole archive takes."""
    needed = 0
    for machine, archive in wanted:
        directory, files = machine.split_directory(dataset_directory), lists[archive.record]
        if isinstance(files, dict) and archive.name in files:
            size, path = files[archive.name].size, archive_path(directory, archive)
            needed += size - min(size, max(size_of(path), size_of(part_of(path))))
            is_repair = manifest_path(machine, dataset_directory, archive).exists()
            needed += 0 if is_repair else size
    if wanted:
        check_space(directory / "archives", needed)


def _fetch(server: Server, archive: Archive, files: FileList, path: Path) -> None:
    if files is None:
        return
    if isinstance(files, BaselineError):
        raise files
    if archive.name not in files:
        raise BaselineError(
            f"{archive.url}: record {archive.record} lists no such file.{nearest(archive.name, files)} If it has been "
            f"released under another name, put that into datasets/catalog/. It lists {' '.join(sorted(files))}."
        )
    if is_intact(path, files[archive.name]):
        log.info("%s is there, verified", path.name)
        return
    log.info("fetching %s, %.1f MB", server.url(archive.url), files[archive.name].size / 1e6)
    server.fetch(archive, files[archive.name], path)


def _are_labels_published(machines: Sequence[Machine], directory: Path) -> bool:
    names = [name for machine in machines for name in machine.label_files("anomaly")]
    if not names or "download" in machines[0].dataset.labels:
        return bool(names)
    if not all((directory / name).exists() for name in names):
        log.info(
            "where the labels of %s are published is not known here; when you have them, put them into %s, such as %s",
            *(machines[0].dataset.name, directory, names[0]),
        )
    return False


def _fetch_labels(server: Server, machine: Machine, directory: Path) -> None:
    """Fetch those label files of a machine type that are not there, and keep them if all go together."""
    missing = [name for name in label_files(machine) if not (directory / name).exists()]
    files = {n: parse_labels(directory / n, machine) for n in label_files(machine) if n not in missing}
    with contextlib.ExitStack() as new_files:
        for name in missing:
            address = f"{machine.dataset.labels['download']}/{name}"
            text = server.text(address)
            if text is None:
                raise BaselineError(f"{server.url(address)}: no such file of labels.")
            path = new_files.enter_context(atomic_path(directory / name))
            path.write_bytes(text)
            try:
                files[name] = parse_labels(path, machine)
            except BaselineError as error:
                raise BaselineError(f"{server.url(address)}: not a file of labels: {error}") from error
        combine_labels(machine, files, directory)
    if missing:
        log.info("labels of %s fetched, %d files", machine.name, len(missing))
