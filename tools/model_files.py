"""The files of a model's directory: model.pth, score_distribution.json, config.yaml, checkpoint.pth.

Nothing is read that could run code: weights_only=True, JSON, safe YAML.
"""

import hashlib
import io
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from config import MODEL_KEYS, TRAINING_KEYS, BaselineError, Config, RunPaths
from datasets.catalog import Machine
from datasets.clips import Clip
from files import atomic_path
from networks import find_network
from networks.steps import Optimizer
from networks.threshold import Gamma

log = logging.getLogger("baseline")

PACKAGES = ("numpy", "scipy", "librosa", "soundfile")


def save_model(
    config: Config,
    paths: RunPaths,
    network: nn.Module,
    distributions: dict[str, Gamma | None],
    sampling_rate: int,
    device: torch.device,
) -> None:
    """Write the weights, and what belongs to them: score distributions, configuration, versions, device.

    score_distribution.json and config.yaml name the weights by their checksum, so that files of two trainings are
    never taken for one model.
    """
    # All three are written before the first is renamed: a full disk leaves the old ones together.
    with (
        atomic_path(paths.model) as model_file,
        atomic_path(paths.score_distribution) as distribution_file,
        atomic_path(paths.config_record) as record_file,
    ):
        _save({name: values.cpu() for name, values in network.state_dict().items()}, model_file)
        checksum = _checksum(model_file)
        record = config.as_dict() | {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "sampling_rate": sampling_rate,
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),  # says which CUDA it was built for, too
                **{name: version(name) for name in PACKAGES},
            },
            "model_sha256": checksum,
        }
        fits = {score: fit and asdict(fit) for score, fit in distributions.items()}
        distribution_file.write_text(json.dumps(fits | {"model_sha256": checksum}, indent=1) + "\n", encoding="utf-8")
        record_file.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_model(config: Config, machine: Machine, paths: RunPaths) -> tuple[nn.Module, float | None, int | None]:
    """The trained network, its decision threshold, and the sampling rate it was trained at (Hz).

    A state dict of the published baseline can be put in the place of model.pth. It comes without the other files: then
    the threshold and the sampling rate are None, and there are scores but no decisions.

    Raises:
        BaselineError: there is no model, or it does not go with this configuration.
    """
    if not paths.model.exists():
        others = sorted(path.parent.name for path in paths.model_dir.parent.glob(f"{machine.name}*/model.pth"))
        hint = f" Trained are {' '.join(others)}: choose their sections with --use_ids." if others else ""
        raise BaselineError(
            f"{paths.model}: no trained model. Run {machine.dataset.script('01_train', machine.split)} first, with the "
            f"same --seed and -tag.{hint}"
        )
    record = _read(paths.config_record, yaml.safe_load)
    fits = _read(paths.score_distribution, json.loads)
    checksum = _checksum(paths.model)
    for path, contents in ((paths.config_record, record), (paths.score_distribution, fits)):
        if contents is not None and contents.get("model_sha256") != checksum:
            raise BaselineError(f"{path} belongs to other weights than {paths.model.name}. Train again, or remove it.")
    if record is not None:
        differing = [key for key in MODEL_KEYS if record.get(key) != config.as_dict()[key]]
        if differing:
            trained = ", ".join(f"--{key} {record.get(key)} (now {config.as_dict()[key]})" for key in differing)
            raise BaselineError(f"{paths.model} was trained with {trained}. Test with the same, or train again.")

    network = find_network(config.model)(config.frames * config.n_mels, config.n_mels)
    try:
        network.load_state_dict(torch.load(paths.model, map_location="cpu", weights_only=True))
    except Exception as error:  # of many kinds, from a damaged zip to missing weights
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{paths.model}: not the weights of a {config.model} ({reason}). Train again.") from error
    if fits is None:
        log.warning("%s is missing: anomaly scores are written, decisions cannot be made.", paths.score_distribution)
    try:
        return network, _threshold(fits, config, paths), record and record["sampling_rate"]
    except KeyError as error:
        raise BaselineError(f"{paths.config_record} is damaged ({error}). Train again.") from error


def read_threshold(config: Config, paths: RunPaths) -> float | None:
    """The decision threshold of a model, or None where the distribution of its normal scores is not known.

    Raises:
        BaselineError: the file of the distributions is damaged.
    """
    return _threshold(_read(paths.score_distribution, json.loads), config, paths)


def _threshold(fits: dict[str, Any] | None, config: Config, paths: RunPaths) -> float | None:
    try:
        fit = (fits or {}).get(config.score)
        return None if fit is None else Gamma(**fit).threshold(config.decision_threshold)
    except TypeError as error:
        raise BaselineError(f"{paths.score_distribution} is damaged ({error}). Train again.") from error


class TrainingState:
    """Where a training stands after an epoch: all that is needed to go on as if it had not been interrupted.

    Attributes:
        epoch: the last finished epoch, from 1; 0 before the first.
        history: the rows of log.csv.
        batch_losses: of the last finished epoch, training batches then validation batches.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, config: Config, clips: Sequence[Clip]):
        self._network, self._optimizer, self._epochs = network, optimizer, config.epochs
        self._identity = config.as_dict(TRAINING_KEYS) | {"clips": [clip.name for clip in clips]}
        self.history: list[list[float]] = []
        self.batch_losses: list[float] = []

    @property
    def epoch(self) -> int:
        return len(self.history)

    def finish_epoch(self, row: list[float], batch_losses: list[float]) -> None:
        """Take up the figures of one more epoch."""
        self.history.append(row)
        self.batch_losses = batch_losses

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        contents = {
            "identity": self._identity,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": torch.get_rng_state(),
            "history": self.history,
            "batch_losses": self.batch_losses,
        }
        with atomic_path(path) as temporary:
            _save(contents, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            BaselineError: it cannot be read, or is of other parameters or other clips.
        """
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
            identity = contents["identity"]
        except Exception as error:  # of many kinds, from a damaged zip to a missing key
            raise BaselineError(f"{path}: not a checkpoint ({error!r}). Train without --restart.") from error
        differing = [_difference(key, identity.get(key), now) for key, now in self._identity.items()]
        if any(differing):
            raise BaselineError(
                f"{path} is of another training: {'; '.join(filter(None, differing))}. "
                "Restart with the same, or train without --restart."
            )
        if len(contents["history"]) > self._epochs:
            raise BaselineError(
                f"{path} is of {len(contents['history'])} epochs, more than --epochs {self._epochs}. "
                "Ask for as many or more, or train without --restart."
            )
        try:
            self._network.load_state_dict(contents["network"])
            self._optimizer.load_state_dict(contents["optimizer"])
            torch.set_rng_state(contents["generator"])
        except (KeyError, RuntimeError) as error:
            raise BaselineError(
                f"{path} is of another version of this baseline ({error!r}). Train without --restart."
            ) from error
        self.history, self.batch_losses = contents["history"], contents["batch_losses"]
        log.info("going on after epoch %d", self.epoch)


def _difference(key: str, before: Any, now: Any) -> str | None:
    if before == now:
        return None
    return f"{key} were others" if key == "clips" else f"--{key} was {before}, now {now}"


def _save(contents: dict[str, Any], path: Path) -> None:
    # Given a path, torch.save would put its name into the file, and meet a full disk with a RuntimeError of its own.
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    path.write_bytes(buffer.getbuffer())


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path, parse) -> dict | None:
    try:
        contents = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BaselineError(f"{path} cannot be read ({error}). Train again.") from error
    if not isinstance(contents, dict):
        raise BaselineError(f"{path} is damaged. Train again.")
    return contents
