"""The published clips and labels of a dataset: what is missing is fetched, verified and unpacked.

The data_download scripts do this for all machine types of a split, `train.py --is_auto_download True` for one.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from config import BaselineError, nearest
from datasets.archives import check_space, compare, read_manifest, remove_leftovers, unpack
from datasets.catalog import Archive, Machine
from datasets.clips import SPLIT_DIRECTORIES
from datasets.labels import parse_labels
from datasets.transfer import PublishedFile, Server, is_intact, part_of, size_of
from files import alone, atomic_path

PARTS = ("train", "test", "labels")

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
        BaselineError: nothing can be done: no list of files is to be had, or the disk has no room.
    """
    failed = []
    directory = machines[0].split_directory(dataset_directory)
    with alone(directory / ".download.lock", f"waiting for another download into {directory}"):
        remove_leftovers(directory / "raw")
        server = Server(mirror)
        with_labels = "labels" in parts and _are_labels_published(machines, directory)
        wanted = {
            machine.name: [
                archive
                for archive in machine.archives
                if set(archive.holds) & set(parts) and not _is_there(machine, archive, dataset_directory)
            ]
            for machine in machines
        }
        archives = [archive for each in wanted.values() for archive in each]
        lists = {record: _list_files(server, record, archives, directory) for record in {a.record for a in archives}}
        if archives:
            _check_space_for(archives, lists, directory)
        for machine in machines:
            try:
                for archive in wanted[machine.name]:
                    _fetch(server, archive, lists[archive.record], archive_path(directory, archive))
                    findings = unpack(archive_path(directory, archive), archive, machine, dataset_directory)
                    log.info(
                        "%s: %s unpacked, %d files (%d were missing, %d damaged)",
                        *(machine.name, archive.name, findings.files, len(findings.missing), len(findings.corrupt)),
                    )
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
    missing = [part for part in parts if not any((directory / name).is_dir() for name in SPLIT_DIRECTORIES[part])]
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
            "%s: %d clips that %s does not hold, such as %s. They count as clips of this machine type: move them away.",
            *(machine.name, len(findings.surplus), archive.name, findings.surplus[0]),
        )
    if findings.intact:
        log.info("%s: the files of %s are there, %d verified", machine.name, archive.name, findings.files)
    return findings.intact


def _list_files(
    server: Server, record: int, archives: Sequence[Archive], directory: Path
) -> dict[str, PublishedFile] | None:
    """What the record lists; None where that is not to be had, but all archives wanted of it are there."""
    try:
        return server.files_of(record)
    except BaselineError as error:
        if not all(archive_path(directory, archive).exists() for archive in archives if archive.record == record):
            raise
        log.warning("%s The archives that are there are taken without their checksums.", error)
        return None


def _check_space_for(
    archives: Sequence[Archive], lists: dict[int, dict[str, PublishedFile] | None], directory: Path
) -> None:
    """Room for what is to be fetched, and for as much again unpacked, which is the least it will take."""
    needed = 0
    for archive in archives:
        listed, path = (lists[archive.record] or {}).get(archive.name), archive_path(directory, archive)
        if listed is not None:
            needed += 2 * listed.size - max(size_of(path), size_of(part_of(path)))
    check_space(directory / "archives", needed)


def _fetch(server: Server, archive: Archive, files: dict[str, PublishedFile] | None, path: Path) -> None:
    if files is None:
        return
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
    names = machine.label_files("anomaly") + machine.label_files("domain")
    missing = [name for name in names if not (directory / name).exists()]
    for name in missing:
        address = f"{machine.dataset.labels['download']}/{name}"
        text = server.text(address)
        if text is None:
            raise BaselineError(f"{server.url(address)}: no such file of labels.")
        with atomic_path(directory / name) as temporary:
            temporary.write_bytes(text)
            try:
                parse_labels(temporary, machine.name)
            except BaselineError as error:
                raise BaselineError(f"{server.url(address)}: not a file of labels: {error}") from error
    if missing:
        log.info("%s: labels fetched, %d files", machine.name, len(missing))
