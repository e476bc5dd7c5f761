"""Facts about the datasets (catalog/*.yaml) → Dataset, Machine.

`python -m datasets.catalog` lists what there is, `python -m datasets.catalog DCASE2024T2 -d` a split's machine types.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from config import BaselineError, UsageError, nearest

CATALOG_DIRECTORY = Path(__file__).resolve().parent / "catalog"
SPLITS = ("dev", "eval")
ZENODO_FILE = "https://zenodo.org/records/{record}/files/{file}"


@dataclass(frozen=True)
class Machine:
    """One machine type in one split of a dataset."""

    dataset: "Dataset"
    split: str
    name: str
    sections: tuple[str, ...]

    def directory(self, dataset_directory: Path) -> Path:
        """Where its clips are: `dcase2024t2/dev_data/raw/fan`."""
        return dataset_directory / self.dataset.directory / f"{self.split}_data" / "raw" / self.name

    def cache_directory(self, dataset_directory: Path) -> Path:
        """Where its features are cached: `dcase2024t2/dev_data/processed/fan`."""
        return dataset_directory / self.dataset.directory / f"{self.split}_data" / "processed" / self.name

    @property
    def archives(self) -> list[str]:
        """URLs of the archives that hold this machine type's clips."""
        return [
            ZENODO_FILE.format(
                record=archive["record"],
                file=archive.get("exceptions", {}).get(self.name, archive["file"].format(machine=self.name)),
            )
            for archive in self.dataset.facts[self.split]["archives"]
        ]

    def section_names(self, use_ids: tuple[int, ...]) -> tuple[str, ...]:
        """The sections with these numbers (`(0, 2)` → `("00", "02")`), or all of them where none is given.

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


@dataclass(frozen=True)
class Dataset:
    """One year's dataset; `facts` is its file in catalog/."""

    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.facts["name"]

    @property
    def directory(self) -> str:
        return self.facts["directory"]

    @property
    def channels(self) -> int:
        return self.facts["channels"]

    @property
    def official_score(self) -> dict[str, Any]:
        """`mean` (harmonic or arithmetic) and `metrics` of the score that the challenge ranks by."""
        return self.facts["official_score"]

    @cached_property
    def machines(self) -> dict[str, dict[str, Machine]]:
        """Split → name → machine type."""
        return {
            split: {
                name: Machine(self, split, name, tuple(sections))
                for name, sections in self.facts[split]["machines"].items()
            }
            for split in SPLITS
        }


def dataset_names() -> list[str]:
    """The names of all datasets in the catalog."""
    return sorted(path.stem.upper() for path in CATALOG_DIRECTORY.glob("*.yaml"))


def find_dataset(name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in dataset_names():
        raise UsageError(
            f"unknown dataset '{name}'.{nearest(name, dataset_names())} Known datasets: {' '.join(dataset_names())}."
        )
    with (CATALOG_DIRECTORY / f"{name.lower()}.yaml").open(encoding="utf-8") as file:
        return Dataset(yaml.safe_load(file))


def find_machine(dataset_and_machine: str, split: str) -> Machine:
    """The machine type that `--dataset` names, such as `DCASE2024T2fan`.

    Raises:
        UsageError: no such dataset, or no such machine type in this split.
    """
    prefix = next((name for name in dataset_names() if dataset_and_machine.startswith(name)), None)
    if prefix is None:
        everything = [n + m for n in dataset_names() for s in SPLITS for m in find_dataset(n).machines[s]]
        raise UsageError(
            f"--dataset: unknown dataset in '{dataset_and_machine}'.{nearest(dataset_and_machine, everything)} "
            f"Expected dataset and machine type, such as DCASE2024T2fan. Known datasets: {' '.join(dataset_names())}."
        )
    dataset, name = find_dataset(prefix), dataset_and_machine[len(prefix) :]
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


def main(arguments: list[str] | None = None) -> None:
    """List datasets, machine types and sections; or, for one dataset and split, the machine types, one a line."""
    parser = argparse.ArgumentParser(prog="datasets.catalog", description=main.__doc__)
    parser.add_argument("dataset", nargs="?", help="such as DCASE2024T2")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("-d", "--dev", action="store_const", const="dev", dest="split", help="development data")
    split.add_argument("-e", "--eval", action="store_const", const="eval", dest="split", help="evaluation data")
    options = parser.parse_args(arguments)
    try:
        if options.dataset and options.split:
            print(*find_dataset(options.dataset).machines[options.split], sep="\n")
            return
        for name in [options.dataset] if options.dataset else dataset_names():
            dataset = find_dataset(name)
            for each in [options.split] if options.split else SPLITS:
                for machine in dataset.machines[each].values():
                    print(f"{dataset.name}  {each:4}  {machine.name:20} sections {' '.join(machine.sections)}")
    except BaselineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
