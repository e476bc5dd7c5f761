"""Records that hold their own checksum: of a model (config.yaml, score_distribution.json), of a test.

Nothing is read that could run code: JSON, safe YAML.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from config import BaselineError, load_yaml
from tools.training.paths import RunPaths

SEAL = "sha256"  # key of a record's own checksum


def sealed(contents: dict[str, Any]) -> dict[str, Any]:
    """The contents with their own checksum."""
    return contents | {SEAL: checksum_of(contents)}


def checksum_of(contents: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    """The contents of a record without their checksum; None where there is no such file.

    Args:
        parse: of its text.

    Raises:
        BaselineError: it is damaged.
    """
    try:
        contents = parse(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict) or contents.pop(SEAL, None) != checksum_of(contents):
            raise ValueError("it is not what was written, or was written by an older version")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BaselineError(f"{path} is damaged ({reason}). Train again; --restart mends it quickly.") from error
    return contents


def read_record(paths: RunPaths) -> dict[str, Any] | None:
    """The parameters, versions and device that a model was trained with; None where there is no record of them.

    Raises:
        BaselineError: the record is damaged.
    """
    return read_sealed(paths.config_record, load_yaml)
