"""The files of a trained model: model.pth, score_distribution.json, config.yaml, log.csv.

Nothing is read that could run code: weights_only=True, JSON, safe YAML. The two records hold the checksum of the
weights and their own.
"""

import hashlib
import io
import json
import logging
import math
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
import yaml
from torch import nn

from config import FIELDS, MODEL_KEYS, BaselineError, Config
from datasets.catalog import Machine
from files import alone, atomic_paths, csv_text
from networks import make_network
from networks.scores import SCORES
from networks.threshold import Gamma
from tools.training.paths import RunPaths
from tools.training.records import checksum_of, read_record, read_sealed, sealed

log = logging.getLogger("baseline")

PACKAGES = ("numpy", "scipy", "librosa", "soundfile")
CALIBRATIONS = FIELDS["calibration"].metadata["among"]


def save_model(
    config: Config,
    paths: RunPaths,
    network: nn.Module,
    distributions: dict[str, dict[str, Gamma | None]],
    losses: Iterable[Iterable[Any]],
    identity: dict[str, Any],
    sampling_rate: int,
    device: torch.device,
) -> None:
    """Write the weights, and what belongs to them: losses, score distributions, configuration, versions, device.

    score_distribution.json and config.yaml name the weights by their checksum, so that files of two trainings are
    never taken for one model. config.yaml comes last: with it, the training is finished.

    Args:
        distributions: calibration → score → distribution of the scores of normal sounds, where one could be fitted.
        losses: the rows of log.csv.
        identity: what the course of the training depended on, see tools.training.checkpoint.
    """
    files = paths.loss_log, paths.model, paths.score_distribution, paths.config_record
    # All are written before the first is renamed: a full disk leaves the old ones together.
    with (
        alone(paths.model_lock),
        atomic_paths(*files) as (loss_file, model_file, distribution_file, record_file),
    ):
        loss_rows = csv_text(losses).encode()
        loss_file.write_bytes(loss_rows)
        # Given a path, torch.save would put its name into the file, and meet a full disk with an error of its own.
        buffer = io.BytesIO()
        torch.save({name: values.cpu() for name, values in network.state_dict().items()}, buffer)
        weights = buffer.getvalue()
        model_file.write_bytes(weights)
        checksum = hashlib.sha256(weights).hexdigest()
        record = config.as_dict() | {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "sampling_rate": sampling_rate,
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),  # says which CUDA it was built for, too
                **{name: version(name) for name in PACKAGES},
            },
            "training_sha256": _training_checksum(identity, config.epochs),
            "model_sha256": checksum,
            "log_sha256": hashlib.sha256(loss_rows).hexdigest(),
        }
        fits = {
            calibration: {score: fit and asdict(fit) for score, fit in of_scores.items()}
            for calibration, of_scores in distributions.items()
        } | {"model_sha256": checksum}
        distribution_file.write_text(json.dumps(sealed(fits), indent=1) + "\n", encoding="utf-8")
        record_file.write_text(yaml.safe_dump(sealed(record), sort_keys=False), encoding="utf-8")


def is_trained(paths: RunPaths, identity: dict[str, Any], epochs: int) -> bool:
    """Whether just this training has been finished here, and its files are whole and know all scores."""
    try:
        with alone(paths.model_lock):
            record, fits, _ = _read_records(paths)
            loss_rows = paths.loss_log.read_bytes()
    except (BaselineError, OSError):
        return False
    expected = {
        "training_sha256": _training_checksum(identity, epochs),
        "log_sha256": hashlib.sha256(loss_rows).hexdigest(),
    }
    if fits is None or record is None or any(set(fits.get(each, ())) != set(SCORES) for each in CALIBRATIONS):
        return False
    return {key: record.get(key) for key in expected} == expected


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, and what its files say of it."""

    network: nn.Module
    threshold: float | None  # above it a clip is anomalous; None: not known
    sampling_rate: int | None  # Hz, of the clips it was trained on; None: not known
    checksum: str  # SHA-256 of its weights' file


def load_model(config: Config, machine: Machine, paths: RunPaths) -> TrainedModel:
    """The trained model of a machine type, or of some of its sections.

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
    with alone(paths.model_lock, needed=False):
        record, fits, weights = _read_records(paths)
    if record is not None:
        differing = [key for key in MODEL_KEYS if record.get(key) != config.as_dict()[key]]
        if differing:
            trained = ", ".join(f"--{key} {record.get(key)} (now {config.as_dict()[key]})" for key in differing)
            raise BaselineError(f"{paths.model} was trained with {trained}. Test with the same, or train again.")

    network = make_network(config.model, config.frames * config.n_mels, config.n_mels)
    try:
        network.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except Exception as error:  # of many kinds, from a damaged zip to missing weights
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{paths.model}: not the weights of a {config.model} ({reason}). Train again.") from error
    if fits is None:
        log.warning("%s is missing: anomaly scores are written, decisions cannot be made.", paths.score_distribution)
    elif config.score not in fits.get(config.calibration, ()):
        log.warning(
            "%s was written before there was a %s distribution of %s: no decisions. Train with --restart to add it.",
            *(paths.score_distribution, config.calibration, config.score),
        )
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise BaselineError(f"{paths.model}: some of its weights are not finite numbers. Train again.")
    rate, checksum = record and record.get("sampling_rate"), hashlib.sha256(weights).hexdigest()
    return TrainedModel(network, _threshold(fits, config, paths), rate, checksum)


def read_threshold(config: Config, paths: RunPaths) -> float | None:
    """The decision threshold of a model, or None where the distribution of its normal scores is not known.

    Raises:
        BaselineError: the file of the distributions is damaged.
    """
    return _threshold(read_sealed(paths.score_distribution, json.loads), config, paths)


def _threshold(fits: dict[str, Any] | None, config: Config, paths: RunPaths) -> float | None:
    try:
        fit = (fits or {}).get(config.calibration, {}).get(config.score)
        threshold = None if fit is None else Gamma(**fit).threshold(config.decision_threshold)
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"{config.score}: {fit} has no finite threshold")
        return threshold
    except (TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{paths.score_distribution} cannot be used ({error}). Train again.") from error


def _read_records(paths: RunPaths) -> tuple[dict[str, Any] | None, dict[str, Any] | None, bytes]:
    """config.yaml, score_distribution.json (None where one is not there) and the bytes of model.pth, if they agree."""
    record = read_record(paths)
    fits = read_sealed(paths.score_distribution, json.loads)
    try:
        weights = paths.model.read_bytes()
    except OSError as error:
        raise BaselineError(f"{paths.model} cannot be read ({error.strerror}). Mend that, or train again.") from error
    checksum = hashlib.sha256(weights).hexdigest()
    for path, contents in ((paths.config_record, record), (paths.score_distribution, fits)):
        if contents is not None and contents.get("model_sha256") != checksum:
            raise BaselineError(
                f"{path} belongs to other weights than {paths.model.name}, or these are damaged. Train again, or go on "
                "with --restart; remove the file if the weights are another's."
            )
    return record, fits, weights


def _training_checksum(identity: dict[str, Any], epochs: int) -> str:
    return checksum_of({"epochs": epochs, **identity})
