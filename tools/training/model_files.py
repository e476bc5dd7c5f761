"""The files of a trained model: model.pth, score_distribution.json, config.yaml, log.csv.

config.yaml is the record of the training: parameters, device, versions, git revision, code and clips. Both records
name the weights that they belong to by their SHA-256, so that files of two trainings are never used together. Loading
runs no code from a file: weights_only=True, JSON, safe YAML.
"""

import hashlib
import io
import json
import logging
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from config import MODEL_KEYS, BaselineError, Config
from datasets.catalog import Machine
from datasets.clips import Clip
from datasets.feature_cache import LogMels
from files import alone, atomic_paths, csv_text
from fingerprints import Code, git_revision
from networks import make_network
from networks.scores import SCORES
from networks.threshold import FEWEST_SCORES, Gamma
from tools.training.identity import code_has_changed, scoring_code
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")

CALIBRATIONS = ("batch", "clip")  # whose scores a distribution is fitted to
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
        "git_revision": git_revision(),
        "model_sha256": checksum,
        **identity,  # the longest is last
    }
    files = paths.loss_log, paths.model, paths.score_distribution, paths.config_record
    # All are written before the first is renamed: a full disk leaves the old ones together.
    with alone(paths.model_lock), atomic_paths(*files) as (loss_file, model_file, distribution_file, record_file):
        loss_file.write_text(csv_text(losses), encoding="utf-8")
        model_file.write_bytes(weights)
        text = json.dumps(fits | {"model_sha256": checksum}, indent=1)
        distribution_file.write_text(text + "\n", encoding="utf-8")
        record_file.write_text(yaml.dump(record, Dumper=DUMPER, sort_keys=False), encoding="utf-8")


def is_trained(paths: RunPaths, identity: dict[str, Any]) -> bool:
    """Whether exactly this training is finished: its files belong together and have a distribution of each score."""
    try:
        with alone(paths.model_lock):
            record, fits, _ = _read_files(paths)
    except BaselineError:
        return False
    complete = fits is not None and all(set(fits.get(name, ())) == set(SCORES) for name in CALIBRATIONS)
    return is_record_of(record, identity) and complete and paths.loss_log.exists()


def is_record_of(record: dict[str, Any] | None, identity: dict[str, Any]) -> bool:
    """Whether config.yaml is that of just this training."""
    return record is not None and json.dumps({key: record.get(key) for key in identity}) == json.dumps(identity)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what its files say about it."""

    name: str  # of its directory
    network: nn.Module
    threshold: float | None  # above it a clip is anomalous; None: unknown
    checksum: str  # SHA-256 of model.pth
    record: dict[str, Any]  # config.yaml; empty if it is missing
    code: Code  # that scores clips, as it is now

    @property
    def sampling_rate(self) -> int | None:
        """That of the training clips, Hz; None: unknown."""
        return self.record.get("sampling_rate")


def load_model(config: Config, machine: Machine, paths: RunPaths) -> TrainedModel:
    """The trained model of a machine type, or of some of its sections.

    model.pth may be a state dict of the published baseline, without the other files. Then there will be scores but no
    decisions. There are none either if the code that scores clips has changed since the training, with a warning.

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
        _check_record(record, config, machine, paths)

    network = make_network(config.model, config.frames * config.n_mels, config.n_mels)
    try:
        network.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except Exception as error:  # of many kinds, from a damaged zip to missing weights
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
    """Check that test clips have the training clips' sampling rate. A warning names those that are training clips.

    Raises:
        BaselineError: they have another one.
    """
    if model.sampling_rate not in (None, log_mels.sampling_rate):
        raise BaselineError(
            f"{clips[0].path}: sampling rate {log_mels.sampling_rate} Hz, but the model was trained on clips with "
            f"{model.sampling_rate} Hz."
        )
    trained = {*model.record.get("clips", {}).values()}
    known = [str(clip.path) for clip, checksum in zip(clips, log_mels.checksums, strict=True) if checksum in trained]
    if known:
        log.warning("%d test clips are training clips, too, such as %s: their scores say little", len(known), known[0])


def _check_record(record: dict[str, Any], config: Config, machine: Machine, paths: RunPaths) -> None:
    """Raise a BaselineError if a model was trained with other parameters than the test's, or on other sections."""
    now = config.as_dict(MODEL_KEYS)
    differing = [f"--{key} {record.get(key)} (now {now[key]})" for key in now if record.get(key) != now[key]]
    if differing:
        raise BaselineError(
            f"{paths.model} was trained with {', '.join(differing)}. Test with the same, or train again."
        )
    use_ids = record.get("use_ids") or []
    trained = {f"{number:02d}" for number in use_ids} or {*machine.sections}
    if unheard := sorted({*machine.section_names(config.use_ids)} - trained):
        raise BaselineError(
            f"{paths.model} was not trained on section {' '.join(unheard)}. Test those that it was trained on: "
            f"--use_ids {' '.join(map(str, use_ids))}."
        )


def _why_no_threshold(
    record: dict[str, Any] | None, fits: dict[str, Any] | None, code: Code, config: Config, paths: RunPaths
) -> str:
    """Why there is no decision threshold that goes with the scores; empty if there is one."""
    if record is None:
        return f"{paths.config_record} is missing, so it is not known with which parameters and code it was trained"
    if "code" not in record:
        return f"{paths.config_record} is of an earlier version, and does not say with which code it was trained"
    changed = [name for name in code if record["code"].get(name) != code[name]]
    if changed:
        return f"{paths.model} was trained with other code than it is tested with: {code_has_changed(changed)}"
    if fits is None:
        return f"{paths.score_distribution} is missing"
    if config.score not in fits.get(config.calibration, ()):
        return (
            f"{paths.score_distribution} has no {config.calibration} distribution of {config.score}. Train with "
            "--restart to add it"
        )
    return ""


def read_record(paths: RunPaths) -> dict[str, Any] | None:
    """config.yaml beside a model: parameters, versions, device, checksums. None if there is no such file.

    Raises:
        BaselineError: it cannot be read.
    """

    def parse(text: str) -> dict[str, Any]:
        record = yaml.load(text, LOADER)
        if not all(isinstance(record.get(key, {}), dict) for key in ("clips", "code", "versions")):
            raise ValueError("clips, code and versions must be keys and values")
        return record

    return _read(paths.config_record, parse)


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
        if fit is None:
            return None
        distribution = Gamma(**fit)
        threshold = distribution.threshold(config.decision_threshold)
        if not math.isfinite(threshold):
            raise ValueError(f"{config.score}: {fit} has no finite threshold")
        if distribution.n_scores is not None and distribution.n_scores < FEWEST_SCORES:
            log.warning(
                "the decision threshold rests on only %d normal scores (--calibration %s): false alarms may be far "
                "from what is meant. It needs %d: add clips, train with a smaller --batch_size, or try the other "
                "--calibration.",
                *(distribution.n_scores, config.calibration, FEWEST_SCORES),
            )
        return threshold
    except (TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{paths.score_distribution} cannot be used ({error}). Train again.") from error
