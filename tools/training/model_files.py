"""The files of a trained model: model.pth, score_distribution.json, config.yaml, log.csv.

config.yaml records the training: parameters, device, versions, git revision, code and clips. config.yaml and
score_distribution.json contain the SHA-256 of the weights, so that files of two trainings are never mixed. Loading runs
no code from a file (weights_only=True, JSON, safe YAML).
"""

import hashlib
import io
import json
import logging
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from config import EARLIER_VALUES, VERSION, BaselineError, Config
from files import atomic_paths, csv_text, process_lock
from fingerprints import git_revision, sha256_of
from networks.scores import SCORES
from networks.threshold import Gamma
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")

CALIBRATIONS = ("batch", "clip")  # a distribution is fitted to the scores of batches or of clips
LOADER, DUMPER = (getattr(yaml, f"CSafe{kind}", getattr(yaml, f"Safe{kind}")) for kind in ("Loader", "Dumper"))
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

    config.yaml is replaced last. A training is finished when config.yaml has the checksum of model.pth.

    Args:
        losses: the rows of log.csv.
        identity: what the training depends on, see training_identity.
        sampling_rate: of the clips, Hz.
    """
    buffer = io.BytesIO()  # with a path, torch.save would store the file name in the file
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
            "baseline": VERSION,
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # includes the CUDA version of the build
            **{name: version(name) for name in PACKAGES},
        },
        "git_revision": git_revision(),
        "model_sha256": checksum,
        **identity,  # last, because it is the longest
    }
    files = paths.loss_log, paths.score_distribution, paths.model, paths.config_record
    # All files are written before the first is renamed, so that a full disk leaves the old files unchanged.
    with process_lock(paths.model_lock), atomic_paths(*files) as (loss_file, fits_file, model_file, record_file):
        loss_file.write_text(csv_text(losses), encoding="utf-8")
        model_file.write_bytes(weights)
        text = json.dumps(fits | {"model_sha256": checksum}, indent=1)
        fits_file.write_text(text + "\n", encoding="utf-8")
        record_file.write_text(yaml.dump(record, Dumper=DUMPER, sort_keys=False), encoding="utf-8")


def is_trained(paths: RunPaths, identity: dict[str, Any]) -> bool:
    """Whether exactly this training is finished: its files belong together and have a distribution for each score."""
    try:
        with process_lock(paths.model_lock):
            record, fits, _ = read_files(paths)
    except BaselineError:
        return False
    complete = fits is not None and all(set(fits.get(name, ())) == set(SCORES) for name in CALIBRATIONS)
    return is_record_of(record, identity) and complete and paths.loss_log.exists()


def is_trained_here(paths: RunPaths) -> bool:
    """Whether model.pth is missing or was written by a training, and not put there by the user."""
    if paths.config_record.exists() or not paths.model.exists():
        return True
    try:
        fits = _read_distributions(paths)
    except BaselineError:
        return False
    return fits is not None and fits.get("model_sha256") == sha256_of(paths.model)


def is_record_of(record: dict[str, Any] | None, identity: dict[str, Any]) -> bool:
    """Whether the contents of config.yaml are from exactly this training."""
    return record is not None and json.dumps({key: record.get(key) for key in identity}) == json.dumps(identity)


def read_record(paths: RunPaths) -> dict[str, Any] | None:
    """The contents of config.yaml: parameters, versions, device, checksums. None if the file does not exist.

    Raises:
        BaselineError: it cannot be read.
    """

    def parse(text: str) -> dict[str, Any]:
        record = yaml.load(text, LOADER)
        if not all(isinstance(record.get(key, {}), dict) for key in ("clips", "code", "versions")):
            raise ValueError("clips, code and versions must be mappings")
        return EARLIER_VALUES | record

    return _read(paths.config_record, parse)


def _read_distributions(paths: RunPaths) -> dict[str, Any] | None:
    def parse(text: str) -> dict[str, Any]:
        fits = json.loads(text)
        if not all(isinstance(fits.get(calibration, {}), dict) for calibration in CALIBRATIONS):
            raise ValueError("a calibration must be a mapping from scores to distributions")
        return fits

    return _read(paths.score_distribution, parse)


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    try:
        contents = parse(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict):
            raise ValueError("not a mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{path} cannot be read ({reason}). Train again with --restart, or correct it.") from error
    return contents


def read_files(paths: RunPaths) -> tuple[dict[str, Any] | None, dict[str, Any] | None, bytes]:
    """The contents of config.yaml and score_distribution.json (None if missing), and the bytes of model.pth.

    Raises:
        BaselineError: a file cannot be read, or they do not belong together.
    """
    record, fits = read_record(paths), _read_distributions(paths)
    try:
        weights = paths.model.read_bytes()
    except OSError as error:
        raise BaselineError(f"{paths.model} cannot be read ({error.strerror}). Train again.") from error
    checksum = hashlib.sha256(weights).hexdigest()
    for path, contents in ((paths.config_record, record), (paths.score_distribution, fits)):
        if contents is not None and contents.get("model_sha256") != checksum:
            raise BaselineError(
                f"{path} belongs to other weights than {paths.model.name}, or one of the two is damaged. Train again, "
                f"with or without --restart. If you put other weights there yourself, delete {path.name}."
            )
    return record, fits, weights
