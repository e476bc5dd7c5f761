"""The results of systems and seeds that are there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from config import Config
from datasets.catalog import Dataset, Machine
from tools.results.score_files import SectionScores, clips_of_names, read_column, read_decisions, read_metrics
from tools.training.paths import RunPaths, run_paths

SEED_AND_TAG = re.compile(r"seed(0|[1-9]\d*)(?:_(.*))?")  # the name of a run's directory, see RunPaths


@dataclass(frozen=True)
class Run:
    """The results of one system with one seed, whichever are there."""

    config: Config  # of its score, seed and tag
    dataset: Dataset

    @property
    def system(self) -> str:
        """The score and the tag, such as `MSE` or `MAHALA wide`."""
        return " ".join(filter(None, (self.config.score, self.config.model_name_suffix)))

    @property
    def machines(self) -> dict[str, Machine]:
        """Name → machine type, of those that are tested."""
        return self.dataset.tested(self.config.split)

    def paths(self, machine: Machine) -> RunPaths:
        """The files of a machine type: of its one model, where it has several of sections."""
        return run_paths(self.config, machine, machine.sections)

    def metrics(self) -> dict[tuple[str, str, str], float]:
        """(machine type, section, metric) → value, of all that were tested.

        Raises:
            BaselineError: a file is damaged.
        """
        found = {}
        for name, machine in self.machines.items():
            if self.paths(machine).metrics.exists():
                for section, values in read_metrics(self.paths(machine).metrics).items():
                    found |= {(name, section, metric): value for metric, value in values.items()}
        return found

    def section(self, machine: Machine, section: str) -> SectionScores | None:
        """The clips of a section and their scores, or None where it was not tested.

        Raises:
            BaselineError: the score file is damaged.
        """
        paths = self.paths(machine)
        scores = read_column(paths.anomaly_scores(section))
        if scores is None:
            return None
        clips = clips_of_names(machine, self.config.dataset_directory, section, list(scores))
        return SectionScores(section, clips, list(scores.values()), read_decisions(paths, section, list(scores)))

    def sections(self, machine: Machine) -> dict[str, SectionScores]:
        """Section → its clips and their scores, of a machine type's sections that were tested.

        Raises:
            BaselineError: a score file is damaged.
        """
        found = {section: self.section(machine, section) for section in machine.sections}
        return {section: result for section, result in found.items() if result is not None}

    def models(self, machine: Machine) -> list[RunPaths]:
        """The files of the trained models of a machine type that are there: one of all its sections, or one of each."""
        choices = dict.fromkeys([machine.sections, *((section,) for section in machine.sections)])
        found = [run_paths(self.config, machine, sections) for sections in choices]
        return [paths for paths in found if paths.model.exists()]


def run_of_directory(directory: Path, config: Config, dataset: Dataset) -> Run | None:
    """The run whose results are in this directory, as its place says; None where it is not one that a test has made.

    Args:
        config: what the place does not say.
    """
    from networks.scores import SCORES

    *_, split_data, experiment, name, seed_and_tag = ("",) * 4 + directory.absolute().parts
    matched = SEED_AND_TAG.fullmatch(seed_and_tag)
    score = max((s for s in SCORES if experiment.endswith(f"_{s}")), key=len, default=None)
    if name != dataset.name or split_data not in ("dev_data", "eval_data") or not matched or not score:
        return None
    is_dev = split_data == "dev_data"
    found = {"dev": is_dev, "eval": not is_dev, "score": score, "export_dir": experiment.removesuffix(f"_{score}")}
    found |= {"seed": int(matched[1]), "model_name_suffix": matched[2] or ""}
    return Run(replace(config, result_directory=directory.absolute().parents[3], **found), dataset)


def find_runs(config: Config, dataset: Dataset, seeds: Sequence[int] = ()) -> list[Run]:
    """The runs whose results are there: of each score and tag, by seed.

    Args:
        seeds: of these only; none: of all.
    """
    from networks.scores import SCORES

    root, runs = config.result_directory / f"{config.split}_data", []
    for score in SCORES:
        found = []
        for directory in (root / f"{config.export_dir}_{score}" / dataset.name).glob("seed*"):
            name = SEED_AND_TAG.fullmatch(directory.name)
            if name and (not seeds or int(name[1]) in seeds):
                found.append((name[2] or "", int(name[1])))
        for tag, seed in sorted(found):
            runs.append(Run(replace(config, score=score, seed=seed, model_name_suffix=tag), dataset))
    return runs
