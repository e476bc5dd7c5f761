"""Find the runs in a result directory, and read their metrics and scores."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import BaselineError, Config
from datasets.catalog import Dataset, Machine
from tools.results.metrics import WITHIN_DOMAIN_METRICS
from tools.results.score_files import SectionScores, read_metrics, read_section
from tools.results.test_records import read_test_record
from tools.training.paths import RunPaths, run_paths

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("baseline")

SEED_AND_TAG = re.compile(r"seed(0|[1-9]\d*)(?:_(.*))?")  # name of a run's directory, see RunPaths


@dataclass(frozen=True)
class Run:
    """The results of one system (a score and a tag) with one seed. They may be incomplete."""

    config: Config  # with its score, seed and tag
    dataset: Dataset
    left_out: frozenset[tuple[str, str]] = frozenset()  # machine types and sections

    @property
    def system(self) -> str:
        """See system_of."""
        return system_of(self.config)

    @property
    def machines(self) -> dict[str, Machine]:
        """Name → machine type, for all machine types of this split."""
        return self.dataset.tested(self.config.split)

    def paths(self, machine: Machine) -> RunPaths:
        """The files of a machine type and its model of all sections."""
        return run_paths(self.config, machine, machine.sections)

    def metrics(self) -> "pd.DataFrame":
        """The metrics of all tested sections: (machine, section, metric) → column `value`.

        Metrics that the result CSVs lack, but the official score needs (2021), are computed from the scores, if these
        and the record of their test exist.

        Raises:
            BaselineError: a file is damaged.
        """
        import pandas as pd

        values = {}
        for name, machine in self.machines.items():
            path = self.paths(machine).metrics
            for section, metrics in read_metrics(path).items() if path.exists() else ():
                if (name, section) in self.left_out:
                    continue
                metrics |= self._within_domains(machine, section)
                values |= {(name, section, metric): value for metric, value in metrics.items()}
        index = pd.MultiIndex.from_tuples(values, names=["machine", "section", "metric"])
        return pd.DataFrame({"value": list(values.values())}, index)

    def _within_domains(self, machine: Machine, section: str) -> dict[str, float]:
        names = [name for name in self.dataset.official_score["metrics"] if name in WITHIN_DOMAIN_METRICS]
        try:
            result = self.section(machine, section) if names else None
        except BaselineError:  # keep_comparable reports it
            return {}
        return result.metrics(names) if result and result.labelled else {}

    def section(self, machine: Machine, section: str) -> SectionScores | None:
        """The clips of a section and their scores, or None if it was not tested or is left out.

        Raises:
            BaselineError: see read_section.
        """
        if (machine.name, section) in self.left_out:
            return None
        return read_section(self.paths(machine), section, machine.directory(self.config.dataset_directory))

    def record(self, machine: Machine, section: str) -> dict[str, Any] | None:
        """The record of a section's test, see read_test_record; None if the section is left out."""
        return None if (machine.name, section) in self.left_out else read_test_record(self.paths(machine), section)

    def models(self, machine: Machine) -> list[RunPaths]:
        """The files of a machine type's trained models: one model for all its sections, or one for each."""
        choices = dict.fromkeys([machine.sections, *((section,) for section in machine.sections)])
        models = [run_paths(self.config, machine, sections) for sections in choices]
        return [paths for paths in models if paths.model.exists()]


def system_of(config: Config) -> str:
    """The score and the tag, such as `MSE` or `MAHALA wide`."""
    return " ".join(filter(None, (config.score, config.model_name_suffix)))


def run_of_directory(directory: Path, config: Config, dataset: Dataset) -> Run | None:
    """The run whose result directory this is, or None if it is not a result directory of this dataset."""
    from networks.scores import SCORES

    *_, split_data, experiment, name, seed_and_tag = ("",) * 4 + directory.absolute().parts
    matched = SEED_AND_TAG.fullmatch(seed_and_tag)
    score = max((s for s in SCORES if experiment.endswith(f"_{s}")), key=len, default=None)
    if name != dataset.name or split_data not in ("dev_data", "eval_data") or not matched or not score:
        return None
    changes = {
        "dev": split_data == "dev_data",
        "eval": split_data == "eval_data",
        "export_dir": experiment.removesuffix(f"_{score}"),
        "score": score,
        "seed": int(matched[1]),
        "model_name_suffix": matched[2] or "",
        "result_directory": directory.absolute().parents[3],
    }
    return Run(replace(config, **changes), dataset)


def find_runs(config: Config, dataset: Dataset, seeds: Sequence[int] = ()) -> list[Run]:
    """The runs of these seeds (empty: all) that have a result directory, sorted by score, tag and seed."""
    from networks.scores import SCORES

    root, runs = config.result_directory / f"{config.split}_data", []
    for score in SCORES:
        directories = list((root / f"{config.export_dir}_{score}" / dataset.name).glob("seed*"))
        names = [name for d in directories if d.name.isprintable() and (name := SEED_AND_TAG.fullmatch(d.name))]
        if len(names) < len(directories):
            others = sorted(str(d) for d in directories if d.name not in {name[0] for name in names})
            log.warning("left out (not named seed<number> or seed<number>_<tag>): %s", ", ".join(others))
        for tag, seed in sorted((name[2] or "", int(name[1])) for name in names):
            if not seeds or seed in seeds:
                runs.append(Run(replace(config, score=score, seed=seed, model_name_suffix=tag), dataset))
    return runs
