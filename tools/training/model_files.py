"""The files of a trained model: model.pth, score_distribution.json, config.yaml, log.csv.

config.yaml is the record of the training. Both records name the weights that they belong to by their SHA-256, so that
files of two trainings are never used together. Loading runs no code from a file: weights_only=True, JSON, safe YAML.
"""

import hashlib
import io
import json
import logging
import math
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from config import MODEL_KEYS, BaselineError, Config
from datasets.catalog import Machine
from files import alone, atomic_paths, csv_text
from networks import make_network
from networks.scores import SCORES
from networks.threshold import Gamma
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")

CALIBRATIONS = ("batch", "clip")  # whose scores a distribution is fitted to
PACKAGES = ("numpy", "scipy", "librosa", "soundfile")
Distributions = dict[str, dict[str, Gamma | None]]  # calibration → score → distribution of normal scores


def save_model(
    config: Config,
    paths: RunPaths,
    network: nn.Module,
    distributions: Distributions,
    losses: Iterable[Iterable[Any]],
    identity: dict[str, Any],
    sampling_rate: int,
    device: torch.device,
) -> None:
    """Write the weights, losses, score distributions and the record of the training.

    config.yaml is replaced last: a training is finished when it names the weights beside it.

    Args:
        losses: the rows of log.csv.
        identity: what the course of the training depended on, see training_identity.
        sampling_rate: of the clips, Hz.
    """
    buffer = io.BytesIO()  # given a path, torch.save would put its name into the file
    torch.save({name: values.cpu() for name, values in network.state_dict().items()}, buffer)
    weights = buffer.getvalue()
    checksum = hashlib.sha256(weights).hexdigest()
    fits = {
        calibration: {score: fit and asdict(fit) for score, fit in score_fits.items()}
        for calibration, score_fits in distributions.items()
    }
    record = config.as_dict() | {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "sampling_rate": sampling_rate,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # includes the CUDA version of the build
            **{name: version(name) for name in PACKAGES},
        },
        "training_sha256": _training_checksum(identity, config.epochs),
        "model_sha256": checksum,
    }
    files = paths.loss_log, paths.model, paths.score_distribution, paths.config_record
    # All are written before the first is renamed: a full disk leaves the old ones together.
    with alone(paths.model_lock), atomic_paths(*files) as (loss_file, model_file, distribution_file, record_file):
        loss_file.write_text(csv_text(losses), encoding="utf-8")
        model_file.write_bytes(weights)
        text = json.dumps(fits | {"model_sha256": checksum}, indent=1)
        distribution_file.write_text(text + "\n", encoding="utf-8")
        record_file.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")


def is_trained(paths: RunPaths, identity: dict[str, Any], epochs: int) -> bool:
    """Whether exactly this training is finished: its files belong together and have a distribution of each score."""
    try:
        with alone(paths.model_lock):
            record, fits, _ = _read_files(paths)
    except BaselineError:
        return False
    complete = fits is not None and all(set(fits.get(name, ())) == set(SCORES) for name in CALIBRATIONS)
    trained = record is not None and record.get("training_sha256") == _training_checksum(identity, epochs)
    return trained and complete and paths.loss_log.exists()


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what its files say about it."""

    network: nn.Module
    threshold: float | None  # above it a clip is anomalous; None: unknown
    sampling_rate: int | None  # of the training clips, Hz; None: unknown
    checksum: str  # SHA-256 of model.pth


def load_model(config: Config, machine: Machine, paths: RunPaths) -> TrainedModel:
    """The trained model of a machine type, or of some of its sections.

    model.pth may be a state dict of the published baseline, without the other files. Then threshold and sampling rate
    are None: there will be scores but no decisions.

    Raises:
        BaselineError: there is no model, or it does not fit this configuration.
    """
    if not paths.model.exists():
        others = sorted(path.parent.name for path in paths.model_dir.parent.glob(f"{machine.name}*/model.pth"))
        hint = f" Trained models: {' '.join(others)}. Choose their sections with --use_ids." if others else ""
        raise BaselineError(
            f"{paths.model}: no trained model. Run {machine.dataset.script('01_train', machine.split)} first, with the "
            f"same --seed and -tag.{hint}"
        )
    with alone(paths.model_lock, needed=False):
        record, fits, weights = _read_files(paths)
    if record is not None:
        now = config.as_dict(MODEL_KEYS)
        differences = [f"--{key} {record.get(key)} (now {now[key]})" for key in now if record.get(key) != now[key]]
        if differences:
            raise BaselineError(
                f"{paths.model} was trained with {', '.join(differences)}. Test with the same, or train again."
            )

    network = make_network(config.model, config.frames * config.n_mels, config.n_mels)
    try:
        network.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except Exception as error:  # of many kinds, from a damaged zip to missing weights
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{paths.model}: not the weights of a {config.model} ({reason}). Train again.") from error
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise BaselineError(f"{paths.model}: some of its weights are not finite numbers. Train again.")
    if fits is None:
        log.warning("%s is missing: anomaly scores are written, decisions cannot be made.", paths.score_distribution)
    elif config.score not in fits.get(config.calibration, ()):
        log.warning(
            "%s has no %s distribution of %s: no decisions. Train with --restart to add it.",
            *(paths.score_distribution, config.calibration, config.score),
        )
    rate, checksum = record and record.get("sampling_rate"), hashlib.sha256(weights).hexdigest()
    return TrainedModel(network, _threshold(fits, config, paths), rate, checksum)


def read_threshold(config: Config, paths: RunPaths) -> float | None:
    """The decision threshold of a model, or None if there is no distribution of its normal scores.

    Raises:
        BaselineError: the file of the distributions cannot be used.
    """
    return _threshold(_read_distributions(paths), config, paths)


def read_record(paths: RunPaths) -> dict[str, Any] | None:
    """config.yaml beside a model: parameters, versions, device, checksums. None if there is no such file.

    Raises:
        BaselineError: it cannot be read.
    """
    return _read(paths.config_record, yaml.safe_load)


def _read_distributions(paths: RunPaths) -> dict[str, Any] | None:
    def parse(text: str) -> dict[str, Any]:
        fits = json.loads(text)
        if not all(isinstance(fits.get(calibration, {}), dict) for calibration in CALIBRATIONS):
            raise ValueError("a calibration must hold the distribution of each score")
        return fits

    return _read(paths.score_distribution, parse)


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    try:
        contents = parse(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict):
            raise ValueError("not a list of keys and values")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{path} cannot be read ({reason}). Train again with --restart, or correct it.") from error
    return contents


def _read_files(paths: RunPaths) -> tuple[dict[str, Any] | None, dict[str, Any] | None, bytes]:
    """config.yaml and score_distribution.json (None if missing), and the bytes of model.pth, if they go together."""
    record, fits = read_record(paths), _read_distributions(paths)
    try:
        weights = paths.model.read_bytes()
    except OSError as error:
        raise BaselineError(f"{paths.model} cannot be read ({error.strerror}). Train again.") from error
    checksum = hashlib.sha256(weights).hexdigest()
    for path, contents in ((paths.config_record, record), (paths.score_distribution, fits)):
        if contents is not None and contents.get("model_sha256") != checksum:
            raise BaselineError(
                f"{path} belongs to other weights than {paths.model.name}, or one of them is damaged. Train again, or "
                "with --restart. If you have put other weights there, remove the file."
            )
    return record, fits, weights


def _threshold(fits: dict[str, Any] | None, config: Config, paths: RunPaths) -> float | None:
    try:
        fit = (fits or {}).get(config.calibration, {}).get(config.score)
        threshold = None if fit is None else Gamma(**fit).threshold(config.decision_threshold)
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"{config.score}: {fit} has no finite threshold")
        return threshold
    except (TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{paths.score_distribution} cannot be used ({error}). Train again.") from error


def _training_checksum(identity: dict[str, Any], epochs: int) -> str:
    return hashlib.sha256(json.dumps({"epochs": epochs, **identity}, sort_keys=True).encode()).hexdigest()
