"""test_<machine>.json, the record of a test: the model, parameters, code and clips behind the results beside it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from config import EARLIER_VALUES, TEST_KEYS, TRAINING_KEYS, BaselineError, Config
from datasets.clips import Clip
from datasets.feature_cache import LogMels
from files import write_text
from fingerprints import code_behind, fingerprint_of
from tools.results.metrics import section_metrics
from tools.training.identity import IGNORED_MODULES
from tools.training.paths import RunPaths
from tools.training.trained_model import TrainedModel

# Copied from a model's config.yaml.
TRAINING_FACTS = (*TRAINING_KEYS, "use_ids", "sampling_rate", "device", "versions", "git_revision", "code")


def make_test_record(
    config: Config, clips: Sequence[Clip], log_mels: LogMels, model: TrainedModel, test: Callable[..., Any]
) -> dict[str, Any]:
    """The record of a test, without the checksums of its files.

    Args:
        test: the function that tests.
    """
    training = {key: model.record[key] for key in TRAINING_FACTS if key in model.record}
    if "clips" in model.record:
        training["clips"] = fingerprint_of(json.dumps(model.record["clips"]).encode())
    return config.as_dict(TEST_KEYS) | {
        "model": model.name,
        "threshold": model.threshold,
        "model_sha256": model.checksum,
        "training": training,
        "code": model.code | code_behind(test, without=IGNORED_MODULES) | code_behind(section_metrics),
        "clips": {
            f"{clip.path.parent.name}/{clip.name}": [clip.section, clip.is_target, clip.is_anomaly, checksum]
            for clip, checksum in zip(clips, log_mels.checksums, strict=True)
        },
    }


def write_test_record(paths: RunPaths, record: dict[str, Any]) -> None:
    """Write the record, as the last file of a test: it marks the test as finished."""
    sections = sorted({section for section, *_ in record["clips"].values()})
    write_text(paths.test_record, json.dumps(record | {"files": _checksums(paths, sections)}, indent=1) + "\n")


def read_test_record(paths: RunPaths, section: str) -> dict[str, Any] | None:
    """The record of the test that wrote the scores of a section, with the time in seconds as `written`; or None.

    Raises:
        BaselineError: a record cannot be read, or the scores or decisions have changed since the test.
    """
    found = _checksums(paths, [section])  # of the files that still exist
    records = [_read(path) for path in paths.test_records(section)]
    records = [record for record in records if paths.anomaly_scores(section).name in record["files"]]
    for record in records:
        if all(record["files"].get(name) == checksum for name, checksum in found.items()):
            return record
    if records:
        raise BaselineError(
            f"{paths.anomaly_scores(section)} or its decisions have changed since the test. Test again."
        )
    return None


def recorded_clips(record: dict[str, Any], section: str, directory: Path) -> tuple[list[Clip], list[str]]:
    """The clips of a section and their checksums, in the order of the CSVs. The clips need not exist any more.

    Args:
        directory: of the machine type's clips.
    """
    rows = [(name, row) for name, row in record["clips"].items() if row[0] == section]
    clips = [
        Clip(directory / name, section, is_target, is_anomaly, "test") for name, (_, is_target, is_anomaly, _) in rows
    ]
    return clips, [checksum for _, (*_, checksum) in rows]


def _names(paths: RunPaths, section: str) -> list[str]:
    return [paths.anomaly_scores(section).name, paths.decisions(section).name]


def _checksums(paths: RunPaths, sections: Sequence[str]) -> dict[str, str]:
    """Name → fingerprint of the text. Line ends and byte order marks are ignored, because spreadsheets change them."""
    files = (paths.result_dir / name for section in sections for name in _names(paths, section))
    texts = {path.name: path.read_text(encoding="utf-8-sig", errors="replace") for path in files if path.exists()}
    return {name: fingerprint_of(text.encode()) for name, text in texts.items()}


def _read(path: Path) -> dict[str, Any]:
    """Read a record. One without `training` is of an older version and lists no files."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if "training" not in record:
            return {"files": {}}
        texts, tables = dict.fromkeys(("model", "model_sha256"), str), ("files", "training", "code", "clips", "metrics")
        kinds = texts | dict.fromkeys(tables, dict) | {"max_fpr": float | int}
        if not all(isinstance(record[key], kind) for key, kind in kinds.items()):
            raise ValueError("not a record of a test")
        if Path(record["model"]).name != record["model"] or not 0 < record["max_fpr"] <= 1:
            raise ValueError("invalid model or max_fpr")
        if not all(len(row) == 4 for row in record["clips"].values()):
            raise ValueError("incomplete clips")
        record = EARLIER_VALUES | record | {"written": path.stat().st_mtime}
        return record | {"training": EARLIER_VALUES | record["training"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BaselineError(f"{path} cannot be read ({repr(error)[:300]}). Test again.") from error
