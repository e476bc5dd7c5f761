"""Where every output file of a run goes."""

from pathlib import Path

from config import Config
from datasets.catalog import Machine


class RunPaths:
    """The output files of one model and of its test.

    Args:
        model_name: the machine type, with the suffix `_section_<ss>` for a model of one section of several.

    Attributes:
        old_checkpoint: a checkpoint of another training, or one that cannot be read.
        run_log: the output of the run with times and details. It is beside the model, or for a test beside the results.
        test_record: parameters, model, code and clips of a test.
        training_lock: held by the run that trains the model.
        model_lock: held while the model's files are replaced or read, because they belong together.
        result_lock: held while results are written, because sections tested in parallel share metrics and plots.
    """

    def __init__(self, config: Config, dataset: str, machine: str, model_name: str):
        self.config, self.dataset, self.machine, self.model_name = config, dataset, machine, model_name
        split, tag = f"{config.split}_data", config.model_name_suffix
        run = f"seed{config.seed}" + (f"_{tag}" if tag else "")

        self.model_dir = config.model_directory / config.export_dir / split / dataset / run / model_name
        self.model = self.model_dir / "model.pth"
        self.checkpoint = self.model_dir / "checkpoint.pth"
        self.old_checkpoint = self.model_dir / "checkpoint_old.pth"
        self.score_distribution = self.model_dir / "score_distribution.json"
        self.config_record = self.model_dir / "config.yaml"
        self.loss_log = self.model_dir / "log.csv"
        self.loss_plot = self.model_dir / "log.png"
        self.training_lock = self.model_dir / ".training.lock"
        self.model_lock = self.model_dir / ".files.lock"

        self.result_dir = config.result_directory / split / f"{config.export_dir}_{config.score}" / dataset / run
        self.metrics = self.result_dir / f"result_{machine}.csv"
        self.test_record = self.result_dir / f"test_{model_name}.json"
        self.score_plot = self.result_dir / f"anomaly_score_{machine}.png"
        self.roc_plot = self.result_dir / f"roc_{machine}.png"
        self.reconstruction_dir = self.result_dir / f"reconstruction_{machine}"
        self.result_lock = self.result_dir.with_name(f".{run}_{machine}.lock")

        test_log = self.result_dir / f"test_{model_name}.log"
        self.run_log = test_log if config.test_only else self.model_dir / "train.log"

    def anomaly_scores(self, section: str) -> Path:
        """The score CSV of a section."""
        return self.result_dir / f"anomaly_score_{self.machine}_section_{section}_test.csv"

    def test_records(self, section: str) -> list[Path]:
        """The records of tests that may have written a section's results: with its own model, or with a common one."""
        names = (f"{self.machine}_section_{section}", self.machine)
        return [path for path in (self.result_dir / f"test_{name}.json" for name in names) if path.exists()]

    def decisions(self, section: str) -> Path:
        """The decision CSV of a section."""
        return self.result_dir / f"decision_result_{self.machine}_section_{section}_test.csv"


def run_paths(config: Config, machine: Machine, sections: tuple[str, ...]) -> RunPaths:
    """The paths for a model of these sections. Its name is `fan_section_01` for one section of several, else `fan`."""
    suffix = f"_section_{sections[0]}" if len(sections) == 1 and len(machine.sections) > 1 else ""
    return RunPaths(config, machine.dataset.name, machine.name, machine.name + suffix)
