"""Catalog files (YAML) → Dataset, Machine, Archive.

The files in catalog/ describe the published datasets. Your own dataset is described by a file catalog.yaml in its
directory.

`python -m datasets.catalog` lists all datasets, machine types and sections. `python -m datasets.catalog DCASE2022T2 -d`
lists those of one split.
"""

import argparse
import logging
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from startup import prepare

    prepare()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` stops it without an error

import yaml

from config import DEFAULTS_FILE, ROOT, Config, UsageError, nearest, read_defaults

CATALOG_DIRECTORY = Path(__file__).resolve().parent / "catalog"
OWN_FILE = "catalog.yaml"  # describes a user's own dataset, in its directory
SPLITS = ("dev", "eval")
ZENODO = "https://zenodo.org"
# <machine>_section_00 is the name of a section's model
PLAIN_NAME = re.compile(r"(?!.*_section_)[A-Za-z0-9][A-Za-z0-9_-]*")
RESERVED_NAMES = ("h-mean", "a-mean")  # columns of the summary, next to the machine types

log = logging.getLogger("baseline")


class CatalogLoader(yaml.SafeLoader):
    """Rejects repeated keys. yaml.safe_load would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known = set()
        for key, _ in node.value:
            if key.value in known:
                raise ValueError(f"line {key.start_mark.line + 1}: the key '{key.value}' appears twice")
            if isinstance(key, yaml.ScalarNode):
                known.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Archive:
    """A zip file in a Zenodo record, with clips of one machine type."""

    record: int
    name: str
    holds: tuple[str, ...]  # train, test

    @property
    def url(self) -> str:
        return f"{ZENODO}/records/{self.record}/files/{self.name}"


@dataclass(frozen=True)
class Machine:
    """One machine type in one split of a dataset."""

    dataset: "Dataset"
    split: str
    name: str
    sections: tuple[str, ...]
    archives: tuple[Archive, ...]  # published zip files with its clips; none for a user's own recordings

    def split_directory(self, dataset_directory: Path) -> Path:
        """The directory of its split, such as `dcase2024t2/dev_data`."""
        return dataset_directory / self.dataset.directory / f"{self.split}_data"

    def directory(self, dataset_directory: Path) -> Path:
        """The directory of its clips, such as `dcase2024t2/dev_data/raw/fan`."""
        return self.split_directory(dataset_directory) / "raw" / self.name

    def cache_directory(self, config: Config) -> Path:
        """The directory of its cached features, such as `dcase2024t2/dev_data/processed/fan`."""
        return self.split_directory(config.cache_directory or config.dataset_directory) / "processed" / self.name

    def channels(self, config: Config) -> int:
        """The number of channels that its clips must have."""
        return self.dataset.channels if config.mono is None else 1 if config.mono else 2

    def label_files(self, kind: str) -> list[str]:
        """The files with `anomaly` or `domain` labels of evaluation clips, relative to the split's directory."""
        patterns = self.dataset.labels.get(kind, []) if self.split == "eval" else []
        files = [pattern.format(machine=self.name, section=s) for s in self.sections for pattern in patterns]
        return list(dict.fromkeys(files))  # without duplicates: one file may list all machine types

    def section_names(self, use_ids: tuple[int, ...]) -> tuple[str, ...]:
        """The sections with these numbers, such as `(0, 2)` → `("00", "02")`, or all sections if there are no numbers.

        Raises:
            UsageError: a section does not exist.
        """
        wanted = {f"{number:02d}" for number in use_ids}
        if not wanted <= set(self.sections):
            raise UsageError(
                f"--use_ids: {self.name} of {self.dataset.name} ({self.split}) has no section "
                f"{min(wanted - set(self.sections))}. Sections: {' '.join(self.sections)}."
            )
        return tuple(section for section in self.sections if section in wanted) if wanted else self.sections

    @property
    def is_tested(self) -> bool:
        """Whether it has test clips. A user's own recordings may have none."""
        return self.name not in self.dataset.facts[self.split].get("without_test_clips", [])


@dataclass
class Dataset:
    """The dataset of one year. Its keys are explained in catalog/dcase2024t2.yaml.

    Attributes:
        machines: split → name → machine type.
    """

    facts: dict[str, Any]

    def __post_init__(self) -> None:
        self.name: str = self.facts["name"]
        self.directory: str = self.facts["directory"]
        self.channels: int = self.facts["channels"]
        self.has_submission: bool = self.facts.get("submission", True)  # in the format of make_submission.py
        self.official_score: dict[str, Any] = self.facts["official_score"]
        self.clips_of_a_section: int | None = self.facts["eval"].get("clips_of_a_section")
        self.first_clips: dict[str, int] = self.facts["eval"].get("first_clips", {})
        self.labels: dict[str, Any] = self.facts.get("labels", {})
        self.machines = {split: {machine.name: machine for machine in self._machines(split)} for split in SPLITS}

    def _machines(self, split: str) -> Iterator[Machine]:
        facts = self.facts[split]
        for name, sections in facts["machines"].items():
            if not all(isinstance(section, str) and re.fullmatch("[0-9][0-9]", section) for section in sections):
                raise ValueError(f'{name!r}: {sections!r}: sections are strings such as "00"')
            if len(set(sections)) < len(sections):
                raise ValueError(f"{name!r}: {sections!r}: a section appears twice")
            archives = []
            for archive in facts.get("archives", []):
                file = archive.get("exceptions", {}).get(name, archive["file"].format(machine=name))
                archives.append(Archive(archive["record"], file, tuple(archive["holds"])))
            yield Machine(self, split, name, tuple(sections), tuple(archives))

    @property
    def is_published(self) -> bool:
        """Whether it can be downloaded. A user's own recordings cannot."""
        return any(self.facts[split].get("archives") for split in SPLITS)

    def tested(self, split: str) -> dict[str, Machine]:
        """Name → machine type, for machine types with test clips."""
        return {name: machine for name, machine in self.machines[split].items() if machine.is_tested}

    def script(self, step: str, split: str) -> str:
        """The command for a step with this dataset, such as `./01_train_2024t2.sh -d` for `01_train`."""
        own = f"{step}_{self.name.lower().removeprefix('dcase')}.sh"
        return f"./{own} -{split[0]}" if (ROOT / own).exists() else f"tools/{step}_legacy.sh {self.name} -{split[0]}"


def read_dataset(path: Path) -> Dataset:
    """Read the catalog file of a dataset. A user's own dataset is in the directory of its catalog file.

    Raises:
        UsageError: a key is missing, or a value is invalid.
    """
    try:
        facts = yaml.load(path.read_text(encoding="utf-8"), CatalogLoader)
        if path.name == OWN_FILE:
            facts["directory"] = path.parent.name
        dataset = Dataset(facts)
        _check_names(dataset)
        names: list[str] = []
        for machine in (machine for split in SPLITS for machine in dataset.machines[split].values()):
            names += [archive.name for archive in machine.archives]
            names += machine.label_files("anomaly") + machine.label_files("domain")
        for name in map(Path, names):
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{name} is outside its directory")
        return dataset
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UsageError(
            f"{path}: not a valid catalog file: {reason}. The keys are explained in datasets/catalog/dcase2024t2.yaml."
        ) from error


def _check_names(dataset: Dataset) -> None:
    """Raise ValueError if a name cannot be used for directories and columns."""
    machines = [name for split in SPLITS for name in dataset.machines[split]]
    for name in (dataset.name, dataset.directory, *machines):
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{name!r}: a name may contain only letters, digits, '-' and '_', but not '_section_'")
    for name in RESERVED_NAMES:
        if name in machines:
            raise ValueError(f"{name!r}: this name is reserved for a column of the summary. Use another name")
    for split in SPLITS:
        spellings: dict[str, str] = {}
        for name in dataset.machines[split]:
            other = spellings.setdefault(name.lower(), name)
            if other != name:  # the same directory on some file systems
                raise ValueError(f"{other!r} and {name!r} differ only in upper and lower case. Rename one of them")


def all_datasets(dataset_directory: Path | None = None) -> dict[str, Dataset]:
    """Name → dataset, for the published datasets and the user's own datasets in `dataset_directory`.

    An invalid file in `dataset_directory` is ignored with a warning, because another program may have written it.

    Raises:
        UsageError: a file is invalid, or two files share a name, a directory or the full name of a machine type.
    """
    datasets = {path: read_dataset(path) for path in sorted(CATALOG_DIRECTORY.glob("*.yaml"))}
    for path in sorted(dataset_directory.glob(f"*/{OWN_FILE}")) if dataset_directory else ():
        try:
            datasets[path] = read_dataset(path)
        except UsageError as error:
            log.warning("ignored: %s", error)
    owners: dict[tuple[str, str], Path] = {}
    for path, dataset in datasets.items():
        # Names become directories, and some file systems ignore case. Two datasets in the same directory would use each
        # other's clips.
        unique = [("name", dataset.name.lower()), ("directory", dataset.directory.lower())]
        for split in SPLITS:
            unique += [(f"full name of a {split} machine type", dataset.name + m) for m in dataset.machines[split]]
        for what, name in unique:
            other = owners.setdefault((what, name), path)
            if other != path:
                raise UsageError(
                    f"{other} and {path} have the same {what}, {name}. Change it in one of them, or move one away."
                )
    return {dataset.name: dataset for dataset in datasets.values()}


def find_dataset(name: str, dataset_directory: Path | None = None) -> Dataset:
    """The dataset with this name: a published one, or a user's own in `dataset_directory`.

    Raises:
        UsageError: the name is unknown.
    """
    datasets = all_datasets(dataset_directory)
    if name not in datasets:
        raise UsageError(
            f"unknown dataset '{name}'.{nearest(name, datasets)} Known datasets: {' '.join(datasets)}."
            f"{_own_place(dataset_directory)}"
        )
    return datasets[name]


def _own_place(dataset_directory: Path | None) -> str:
    return f" Your own datasets are expected in --dataset_directory {dataset_directory}." if dataset_directory else ""


def find_machine(dataset_and_machine: str, split: str, dataset_directory: Path | None = None) -> Machine:
    """The machine type with this full name, such as `DCASE2024T2fan`, from a published dataset or a user's own.

    Raises:
        UsageError: the dataset does not exist, or this split does not contain the machine type.
    """
    datasets = all_datasets(dataset_directory).values()
    machines = {s: {d.name + name: m for d in datasets for name, m in d.machines[s].items()} for s in SPLITS}
    if dataset_and_machine in machines[split]:
        return machines[split][dataset_and_machine]
    other = "eval" if split == "dev" else "dev"
    if dataset_and_machine in machines[other]:
        hint = f" It belongs to the {other} data: use -{other[0]}."
    else:
        hint = nearest(dataset_and_machine, machines[split])
    raise UsageError(
        f"--dataset: no machine type '{dataset_and_machine}' in the {split} data.{hint} "
        f"Run python -m datasets.catalog to list all names.{_own_place(dataset_directory)}"
    )


def machine_of_path(clip: Path) -> Machine | None:
    """The machine type of a clip according to its path, such as `dcase2024t2/dev_data/raw/fan/test/….wav`."""
    path = Path(os.path.abspath(clip))  # noqa: PTH100, Path.resolve would follow links
    dataset_directory = path.parents[5] if len(path.parents) > 5 else None
    for dataset in all_datasets(dataset_directory).values():
        for split in SPLITS:
            for machine in dataset.machines[split].values():
                if path.parts[-6:-2] == machine.directory(Path()).parts:
                    return machine
    return None


def main(arguments: list[str] | None = None) -> None:
    """List datasets, machine types and sections."""
    parser = argparse.ArgumentParser(prog="datasets.catalog", description=main.__doc__)
    parser.add_argument("dataset", nargs="?", help="dataset, such as DCASE2024T2 (default: all)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("-d", "--dev", action="store_const", const="dev", dest="split", help="development data only")
    split.add_argument("-e", "--eval", action="store_const", const="eval", dest="split", help="evaluation data only")
    text = "directory with your own datasets (default: from baseline.yaml)"
    parser.add_argument("--dataset_directory", type=Path, help=text)
    options = parser.parse_args(arguments)
    try:
        place = options.dataset_directory or read_defaults(DEFAULTS_FILE)["dataset_directory"]
        datasets = [find_dataset(options.dataset, place)] if options.dataset else all_datasets(place).values()
    except UsageError as error:
        parser.error(str(error))
    for dataset in datasets:
        for split in [options.split] if options.split else SPLITS:
            for name, machine in dataset.machines[split].items():
                print(f"{dataset.name}  {split:4}  {name:20} sections {' '.join(machine.sections)}")


if __name__ == "__main__":
    main()
