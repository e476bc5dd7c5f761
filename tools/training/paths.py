"""Where every output file of a run goes."""

from dataclasses import dataclass
from pathlib import Path

from config import Config
from datasets.catalog import Machine


def run_paths(config: Config, machine: Machine, sections: tuple[str, ...]) -> "RunPaths":
    """Where the files of the model of these sections go: `fan_section_01` for one of several, else `fan`."""
    suffix = f"_section_{sections[0]}" if len(sections) == 1 and len(machine.sections) > 1 else ""
    return RunPaths(config, machine.dataset.name, machine.name, machine.name + suffix)


@dataclass(frozen=True)
class RunPaths:
    """Where a run's files go. `model_name` is `machine`, with the suffix `_section_<ss>` for one section of several."""

    config: Config
    dataset: str
    machine: str
    model_name: str

    @property
    def _run(self) -> str:
        tag = self.config.model_name_suffix
        return f"seed{self.config.seed}" + (f"_{tag}" if tag else "")

    @property
    def model_dir(self) -> Path:
        root = self.config.model_directory / self.config.export_dir / f"{self.config.split}_data"
        return root / self.dataset / self._run / self.model_name

    @property
    def result_dir(self) -> Path:
        root = self.config.result_directory / f"{self.config.split}_data"
        return root / f"{self.config.export_dir}_{self.config.score}" / self.dataset / self._run

    @property
    def model(self) -> Path:
        return self.model_dir / "model.pth"

    @property
    def checkpoint(self) -> Path:
        return self.model_dir / "checkpoint.pth"

    @property
    def score_distribution(self) -> Path:
        return self.model_dir / "score_distribution.json"

    @property
    def config_record(self) -> Path:
        return self.model_dir / "config.yaml"

    @property
    def loss_log(self) -> Path:
        return self.model_dir / "log.csv"

    @property
    def loss_picture(self) -> Path:
        return self.model_dir / "log.png"

    @property
    def run_log(self) -> Path:
        """What the run said, with times: beside the model, or beside the results of a test."""
        if self.config.test_only:
            return self.result_dir / f"test_{self.model_name}.log"
        return self.model_dir / "train.log"

    def anomaly_scores(self, section: str) -> Path:
        return self.result_dir / f"anomaly_score_{self.machine}_section_{section}_test.csv"

    def decisions(self, section: str) -> Path:
        return self.result_dir / f"decision_result_{self.machine}_section_{section}_test.csv"

    @property
    def metrics(self) -> Path:
        return self.result_dir / f"result_{self.machine}.csv"

    @property
    def test_record(self) -> Path:
        """What the results of a test were made from."""
        return self.result_dir / f"test_{self.model_name}.json"

    @property
    def training_lock(self) -> Path:
        """Held by the run that trains the model."""
        return self.model_dir / ".training.lock"

    @property
    def model_lock(self) -> Path:
        """Held while the files of the model are replaced, or read: they go together."""
        return self.model_dir / ".files.lock"

    @property
    def result_lock(self) -> Path:
        """Held while results are written: sections that are tested side by side share metrics and picture."""
        return self.result_dir.with_name(f".{self.result_dir.name}_{self.machine}.lock")

    @property
    def score_picture(self) -> Path:
        return self.result_dir / f"anomaly_score_{self.machine}.png"

    @property
    def roc_picture(self) -> Path:
        return self.result_dir / f"roc_{self.machine}.png"

    @property
    def reconstruction_dir(self) -> Path:
        """Pictures of how single clips were reconstructed."""
        return self.result_dir / f"reconstruction_{self.machine}"
