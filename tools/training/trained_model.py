"""Load a trained network and check that its parameters, sections and code fit the test."""

import hashlib
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from config import MODEL_KEYS, BaselineError, Config
from datasets.catalog import Machine
from datasets.clips import Clip
from datasets.feature_cache import LogMels
from files import process_lock
from fingerprints import Code
from networks import make_network
from networks.threshold import MIN_SCORES, Gamma
from tools.training.identity import describe_changes, scoring_code
from tools.training.model_files import read_files
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what its files say about it."""

    name: str  # the name of its directory
    network: nn.Module
    threshold: float | None  # clips with a higher score are anomalous; None if unknown
    checksum: str  # SHA-256 of model.pth
    record: dict[str, Any]  # config.yaml; empty if it is missing
    code: Code  # the current code that scores clips

    @property
    def sampling_rate(self) -> int | None:
        """Sampling rate of the training clips in Hz, or None if unknown."""
        return self.record.get("sampling_rate")


def load_model(config: Config, machine: Machine, paths: RunPaths) -> TrainedModel:
    """Load the trained model of a machine type, or of some of its sections.

    model.pth may come from the published baseline, without the other files. Then there are scores but no decisions.
    There are no decisions either if the code that scores clips has changed since the training. A warning says so.

    Raises:
        BaselineError: there is no model, or it does not fit this configuration.
    """
    if not paths.model.exists():
        others = sorted(path.parent.name for path in paths.model_dir.parent.glob(f"{machine.name}*/model.pth"))
        hint = f" Trained models: {' '.join(others)}. Select their sections with --use_ids." if others else ""
        raise BaselineError(
            f"{paths.model}: no trained model. Run {machine.dataset.script('01_train', machine.split)} first, with the "
            f"same --seed and -tag.{hint}"
        )
    with process_lock(paths.model_lock, needed=False):
        record, fits, weights = read_files(paths)
    if record is not None:
        _check_record(record, config, machine, paths)

    network = make_network(config.model, config.frames * config.n_mels, config.n_mels)
    try:
        network.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except Exception as error:  # many types, from a damaged zip file to missing weights
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{paths.model}: not the weights of a {config.model} ({reason}). Train again.") from error
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise BaselineError(f"{paths.model}: some of its weights are not finite numbers. Train again.")
    code, threshold = scoring_code(config), None
    if reason := _why_no_threshold(record, fits, code, config, paths):
        log.warning("no decisions: %s.", reason)
    else:
        threshold = _threshold(fits, config, paths)
    checksum = hashlib.sha256(weights).hexdigest()
    return TrainedModel(paths.model_name, network, threshold, checksum, record or {}, code)


def check_clips(model: TrainedModel, clips: Sequence[Clip], log_mels: LogMels) -> None:
    """Check that the test clips have the sampling rate of the training clips. Warn if some are training clips.

    Raises:
        BaselineError: the sampling rates differ.
    """
    if model.sampling_rate not in (None, log_mels.sampling_rate):
        raise BaselineError(
            f"{clips[0].path}: sampling rate {log_mels.sampling_rate} Hz, but the model was trained on clips with "
            f"{model.sampling_rate} Hz."
        )
    trained = {*model.record.get("clips", {}).values()}
    known = [str(clip.path) for clip, checksum in zip(clips, log_mels.checksums, strict=True) if checksum in trained]
    if known:
        log.warning(
            "%d test clips are also training clips, such as %s. Their scores are not meaningful", len(known), known[0]
        )


def _check_record(record: dict[str, Any], config: Config, machine: Machine, paths: RunPaths) -> None:
    """Raise a BaselineError if the model was trained with other parameters or sections than those of the test."""
    now = config.as_dict(MODEL_KEYS)
    differing = [f"--{key} {record.get(key)} (now {now[key]})" for key in now if record.get(key) != now[key]]
    if differing:
        raise BaselineError(
            f"{paths.model} was trained with {', '.join(differing)}. Use the same values, or train again."
        )
    use_ids = record.get("use_ids") or []
    trained = {f"{number:02d}" for number in use_ids} or {*machine.sections}
    if untrained := sorted({*machine.section_names(config.use_ids)} - trained):
        raise BaselineError(
            f"{paths.model} was not trained on section {' '.join(untrained)}. Use the sections that it was trained on: "
            f"--use_ids {' '.join(map(str, use_ids))}."
        )


def _why_no_threshold(
    record: dict[str, Any] | None, fits: dict[str, Any] | None, code: Code, config: Config, paths: RunPaths
) -> str:
    """Why there is no decision threshold for the scores. Empty if there is one."""
    if record is None:
        return f"{paths.config_record} is missing, so the parameters and the code of the training are unknown"
    if "code" not in record:
        return f"{paths.config_record} is from an earlier version and does not record the code of the training"
    changed = [name for name in code if record["code"].get(name) != code[name]]
    if changed:
        return f"{paths.model} was trained with different code: {describe_changes(changed)}"
    if fits is None:
        return f"{paths.score_distribution} is missing"
    if config.score not in fits.get(config.calibration, ()):
        return (
            f"{paths.score_distribution} has no {config.calibration} distribution of {config.score}. Train with "
            "--restart to add it"
        )
    return ""


def _threshold(fits: dict[str, Any] | None, config: Config, paths: RunPaths) -> float | None:
    try:
        fit = (fits or {}).get(config.calibration, {}).get(config.score)
        if fit is None:
            return None
        distribution = Gamma(**fit)
        threshold = distribution.threshold(config.decision_threshold)
        if not math.isfinite(threshold):
            raise ValueError(f"{config.score}: {fit} has no finite threshold")
        if distribution.n_scores is not None and distribution.n_scores < MIN_SCORES:
            log.warning(
                "the decision threshold is based on only %d normal scores (--calibration %s), so the rate of false "
                "alarms may be far from the intended one. At least %d are needed: add clips, train with a smaller "
                "--batch_size, or try the other --calibration.",
                *(distribution.n_scores, config.calibration, MIN_SCORES),
            )
        return threshold
    except (TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{paths.score_distribution} cannot be used ({error}). Train again.") from error
