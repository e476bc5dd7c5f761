"""What a training or a test depends on (parameters, clips, code), and how two of them differ."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from config import TRAINING_KEYS, Config
from datasets.clips import Clip
from datasets.feature_cache import IGNORED_IN_FEATURES, LogMels, compute_log_mels
from datasets.frames import Vectors
from fingerprints import Code, code_behind
from networks import find_network, make_network, residual
from networks.scores import SCORES

# Modules that read and write files and show results. They do not affect the values.
TRAINING_MODULES = ("checkpoint", "console", "device", "identity", "model_files", "paths", "trained_model")
IGNORED_MODULES = (
    *("datasets.catalog", "datasets.download", "datasets.labels", "datasets.workers", "tools.results"),
    *(f"tools.training.{name}" for name in TRAINING_MODULES),
)
# Code that runs after the last epoch. If only this code has changed, --restart runs it again without any epoch.
AFTER_EPOCHS = ("networks/scores.py", "networks/threshold.py")
SHOWN = 3  # clips or names in a message


def training_identity(
    config: Config, clips: Sequence[Clip], log_mels: LogMels, train: Callable[..., Any]
) -> dict[str, Any]:
    """What a training depends on: its parameters, each clip's name and checksum, and the code.

    Args:
        train: the function that trains.
    """
    checksums = {clip.name: checksum for clip, checksum in zip(clips, log_mels.checksums, strict=True)}
    code = code_behind(train, find_network(config.model), *SCORES.values(), without=IGNORED_MODULES)
    return config.as_dict(TRAINING_KEYS) | {"clips": checksums, "code": code}


def identity_of_epochs(identity: dict[str, Any]) -> dict[str, Any]:
    """The same without the code that runs after the last epoch, and without the number of epochs."""
    code = {name: text for name, text in identity.get("code", {}).items() if not name.startswith(AFTER_EPOCHS)}
    return {key: value for key, value in identity.items() if key != "epochs"} | {"code": code}


def remember_code(*functions: Callable[..., Any]) -> None:
    """Read the code behind these functions now. If it is edited later, the next check raises an error."""
    code_behind(*functions, without=IGNORED_MODULES)


def scoring_code(config: Config) -> Code:
    """The code that computes anomaly scores with a trained model: features, vectors, network, score."""
    roots = compute_log_mels, Vectors, make_network, residual, find_network(config.model), SCORES[config.score]
    return code_behind(*roots, without=(*IGNORED_MODULES, *IGNORED_IN_FEATURES))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How two identities differ, in a few words for each parameter, for clips and for code. See training_identity."""
    lines = [
        f"--{key} was {before.get(key)}, now {value}"
        for key, value in now.items()
        if key not in ("clips", "code") and before.get(key) != value
    ]
    old, new = before.get("clips", {}), now["clips"]
    for names, words in (
        (sorted(old.keys() - new.keys(), key=str), "missing"),
        (sorted(new.keys() - old.keys()), "new"),
        (sorted(name for name in old.keys() & new.keys() if old[name] != new[name]), "changed"),
    ):
        if names:
            lines.append(f"clips {words}: {_first(names)}")
    if list(old) != list(new) and old == new:
        lines.append("the clips were in another order")
    old, new = before.get("code", {}), now["code"]
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return lines + ([describe_changes(changed)] if changed else [])


def describe_changes(names: Iterable[str]) -> str:
    """`networks/autoencoder.py has changed (AutoEncoder, _layer)` for names as in fingerprints.Code."""
    by_file: dict[str, list[str]] = {}
    for name in names:
        file, _, definition = name.partition(": ")
        by_file.setdefault(file, []).append(definition or "its top level")
    return ", ".join(f"{file} has changed ({_first(definitions)})" for file, definitions in by_file.items())


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{' '.join(map(str, names[:SHOWN]))}{more}"
