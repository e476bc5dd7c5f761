"""Facts about the datasets (catalog/*.yaml) → Dataset, Machine, Archive.

`python -m datasets.catalog` lists datasets, machine types and sections; `python -m datasets.catalog DCASE2022T2 -d`
those of one split.
"""

import argparse
import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import ROOT, BaselineError, Config, UsageError, nearest

CATALOG_DIRECTORY = Path(__file__).resolve().parent / "catalog"
SPLITS = ("dev", "eval")
ZENODO = "https://zenodo.org"
# Names of files and directories: none leads outside. {machine} and {section} stand for their names.
SAFE_NAME = re.compile(r"([A-Za-z0-9]|\{(machine|section)\})([A-Za-z0-9._-]|\{(machine|section)\})*")


@dataclass(frozen=True)
class Archive:
    """A zip file of a Zenodo record, with clips of one machine type."""

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

    def split_directory(self, dataset_directory: Path) -> Path:
        """Where the data of its split are: `dcase2024t2/dev_data`."""
        return dataset_directory / self.dataset.directory / f"{self.split}_data"

    def directory(self, dataset_directory: Path) -> Path:
        """Where its clips are: `dcase2024t2/dev_data/raw/fan`."""
        return self.split_directory(dataset_directory) / "raw" / self.name

    def cache_directory(self, config: Config) -> Path:
        """Where its features are cached: `dcase2024t2/dev_data/processed/fan`."""
        return self.split_directory(config.cache_directory or config.dataset_directory) / "processed" / self.name

    def channels(self, config: Config) -> int:
        """How many channels its clips must have."""
        return self.dataset.channels if config.mono is None else 1 if config.mono else 2

    @property
    def archives(self) -> list[Archive]:
        """The published archives with this machine type's clips; a user's own recordings have none."""
        archives = []
        for facts in self.dataset.facts[self.split].get("archives", []):
            name = facts.get("exceptions", {}).get(self.name, facts["file"].format(machine=self.name))
            archives.append(Archive(facts["record"], name, tuple(facts["holds"])))
        return archives

    def label_files(self, kind: str) -> list[str]:
        """Files with labels of the evaluation clips, below the split's directory.

        Args:
            kind: `anomaly` or `domain`.
        """
        patterns = self.dataset.labels.get(kind, []) if self.split == "eval" else []
        files = [pattern.format(machine=self.name, section=s) for s in self.sections for pattern in patterns]
        return list(dict.fromkeys(files))  # a list of all machine types is one file

    def section_names(self, use_ids: tuple[int, ...]) -> tuple[str, ...]:
        """The sections with these numbers (`(0, 2)` → `("00", "02")`), or all sections if there are no numbers.

        Raises:
            UsageError: this machine type has no such section.
        """
        asked = tuple(f"{number:02d}" for number in use_ids)
        unknown = set(asked) - set(self.sections)
        if unknown:
            raise UsageError(
                f"--use_ids: {self.name} of {self.dataset.name} ({self.split}) has no section {min(unknown)}; "
                f"its sections: {' '.join(self.sections)}."
            )
        return tuple(section for section in self.sections if section in asked) if asked else self.sections

    @property
    def is_tested(self) -> bool:
        """Whether it has test clips; a user's own recordings may have none."""
        return self.name not in self.dataset.facts[self.split].get("without_test_clips", [])


@dataclass
class Dataset:
    """One year's dataset.

    Attributes:
        facts: its file in catalog/; dcase2024t2.yaml explains the keys.
        name: such as `DCASE2024T2`.
        directory: name of its directory below --dataset_directory.
        channels: number of channels of each clip.
        official_score: `mean` (harmonic or arithmetic) and `metrics` of the score that the challenge ranks by.
        clips_of_a_section: number of test clips of each section of the evaluation data, or None.
        labels: files with the labels of the evaluation clips, `anomaly` and `domain`, and their URL, `download`.
        machines: split → name → machine type.
    """

    facts: dict[str, Any]

    def __post_init__(self) -> None:
        self.name: str = self.facts["name"]
        self.directory: str = self.facts["directory"]
        self.channels: int = self.facts["channels"]
        self.official_score: dict[str, Any] = self.facts["official_score"]
        self.clips_of_a_section: int | None = self.facts["eval"].get("clips_of_a_section")
        self.labels: dict[str, Any] = self.facts.get("labels", {})
        self.machines = {
            split: {
                name: Machine(self, split, name, tuple(sections))
                for name, sections in self.facts[split]["machines"].items()
            }
            for split in SPLITS
        }

    @property
    def is_published(self) -> bool:
        """Whether it can be downloaded; a user's own recordings cannot."""
        return any(self.facts[split].get("archives") for split in SPLITS)

    def tested(self, split: str) -> dict[str, Machine]:
        """Name → machine type, of those with test clips."""
        return {name: machine for name, machine in self.machines[split].items() if machine.is_tested}

    def script(self, step: str, split: str) -> str:
        """The command of a step for this dataset, such as `./01_train_2024t2.sh -d` for `01_train`."""
        own = f"{step}_{self.name.lower().removeprefix('dcase')}.sh"
        return f"./{own} -{split[0]}" if (ROOT / own).exists() else f"tools/{step}_legacy.sh {self.name} -{split[0]}"


def dataset_names() -> list[str]:
    """The names of all datasets in the catalog."""
    return sorted(_catalog())


def find_dataset(name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        UsageError: there is none, or a file of the catalog does not say what is needed.
    """
    catalog = _catalog()
    if name not in catalog:
        raise UsageError(f"unknown dataset '{name}'.{nearest(name, catalog)} Known datasets: {' '.join(catalog)}.")
    return catalog[name]


def _catalog() -> dict[str, Dataset]:
    datasets = [Dataset(_read_facts(path)) for path in sorted(CATALOG_DIRECTORY.glob("*.yaml"))]
    return {dataset.name: dataset for dataset in datasets}


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_facts(facts)
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UsageError(f"{path}: not a catalog file: {reason}. dcase2024t2.yaml explains the keys.") from error
    return facts


def _check_facts(facts: dict[str, Any]) -> None:
    """Check that all required keys exist, and that no name leads out of its directory."""
    labels = facts.get("labels", {})
    names = [facts["directory"]]
    names += [part for kind in ("anomaly", "domain") for name in labels.get(kind, []) for part in name.split("/")]
    for split in SPLITS:
        machines, archives = facts[split]["machines"], facts[split].get("archives", [])
        for section in itertools.chain.from_iterable(machines.values()):
            if not isinstance(section, str) or not re.fullmatch(r"\d\d", section):
                raise ValueError(f'{split}: section {section!r}; sections are texts such as "00"')
        names += machines
        for archive in archives:
            names += [archive["file"], *archive.get("exceptions", {}).values()]
            if not isinstance(archive["record"], int) or not set(archive["holds"]) <= {"train", "test"}:
                raise ValueError(f"{split}: an archive has the number of a record, and holds train, test or both")
    for name in names:
        if not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a file")
    if not isinstance(facts["name"], str) or facts["channels"] not in (1, 2):
        raise ValueError("name is a text, channels are 1 or 2")
    facts["official_score"]["mean"], facts["official_score"]["metrics"]


def find_machine(dataset_and_machine: str, split: str) -> Machine:
    """The machine type that `--dataset` names, such as `DCASE2024T2fan`.

    Raises:
        UsageError: no such dataset, or no such machine type in this split.
    """
    catalog = _catalog()
    prefix = longest_prefix(dataset_and_machine, catalog)
    if prefix is None:
        everything = [name + machine for name in catalog for s in SPLITS for machine in catalog[name].machines[s]]
        raise UsageError(
            f"--dataset: unknown dataset in '{dataset_and_machine}'.{nearest(dataset_and_machine, everything)} "
            f"Expected dataset and machine type, such as DCASE2024T2fan. Known datasets: {' '.join(catalog)}."
        )
    dataset, name = catalog[prefix], dataset_and_machine[len(prefix) :]
    machines = dataset.machines[split]
    if name not in machines:
        other = {"dev": "eval", "eval": "dev"}[split]
        hint = nearest(name, machines)
        if name in dataset.machines[other]:
            hint = f" It belongs to the {other} data: use -{other[0]}."
        raise UsageError(
            f"--dataset: {dataset.name} has no machine type '{name}' in its {split} data.{hint} "
            f"Machine types: {' '.join(machines)}."
        )
    return machines[name]


def machine_of_path(clip: Path) -> Machine | None:
    """The machine type that a clip belongs to by its place, such as `dcase2024t2/dev_data/raw/fan/test/….wav`."""
    parts = Path(os.path.abspath(clip)).parts  # noqa: PTH100, which would follow links to where the data really are
    *_, directory, split_data, raw, name, _, _ = ("",) * 6 + parts
    split = split_data.removesuffix("_data")
    if raw != "raw" or split not in SPLITS:
        return None
    datasets = (dataset for dataset in _catalog().values() if dataset.directory == directory)
    return next((d.machines[split][name] for d in datasets if name in d.machines[split]), None)


def longest_prefix(dataset_and_machine: str, names: Iterable[str]) -> str | None:
    """The dataset of these that `--dataset` names: of several the longest, `Pumps2` before `Pumps`."""
    return max((name for name in names if dataset_and_machine.startswith(name)), key=len, default=None)


def main(arguments: list[str] | None = None) -> None:
    """List datasets, machine types and sections."""
    parser = argparse.ArgumentParser(prog="datasets.catalog", description=main.__doc__)
    parser.add_argument("dataset", nargs="?", help="such as DCASE2024T2 (default: all)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("-d", "--dev", action="store_const", const="dev", dest="split", help="development data only")
    split.add_argument("-e", "--eval", action="store_const", const="eval", dest="split", help="evaluation data only")
    options = parser.parse_args(arguments)
    splits = [options.split] if options.split else SPLITS
    try:
        datasets = [find_dataset(name) for name in ([options.dataset] if options.dataset else dataset_names())]
        if not any(dataset.machines[split] for dataset in datasets for split in splits):
            raise UsageError(f"{options.dataset} has no machine types in its {options.split} data.")
    except BaselineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    machines = [machine for dataset in datasets for split in splits for machine in dataset.machines[split].values()]
    for machine in machines:
        print(f"{machine.dataset.name}  {machine.split:4}  {machine.name:20} sections {' '.join(machine.sections)}")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough
        main()
