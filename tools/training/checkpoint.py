"""checkpoint.pth: the state of a training after an epoch, from which --restart resumes as if it had never stopped.

Loading runs no code from the file (weights_only=True). PyTorch does not notice flipped bits in what it loads. So the
file ends with the SHA-256 of its contents, which torch.load ignores.
"""

import hashlib
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import TRAINING_KEYS, BaselineError, Config
from datasets.clips import Clip
from datasets.feature_cache import LogMels
from files import atomic_path
from tools.training.generators import generator_states, set_generator_states
from tools.training.paths import RunPaths

FORMAT = 2
DIGEST_LENGTH = hashlib.sha256().digest_size
SHOWN_CLIPS = 3  # clips named in a message

log = logging.getLogger("baseline")


class DamagedCheckpointError(BaselineError):
    """A file that is not a complete checkpoint of this version."""


def training_identity(config: Config, clips: Sequence[Clip], log_mels: LogMels) -> dict[str, Any]:
    """What the course of a training depends on: its parameters, and each clip with the checksum of its features."""
    frames = np.split(log_mels.frames, np.cumsum(log_mels.lengths)[:-1])
    checksums = {clip.name: hashlib.sha256(f).hexdigest()[:16] for clip, f in zip(clips, frames, strict=True)}
    return config.as_dict(TRAINING_KEYS) | {"clips": checksums}


class TrainingState:
    """The state of a training after an epoch.

    Args:
        optimizer: with state_dict and load_state_dict.
        identity: see training_identity.

    Attributes:
        history: the rows of log.csv.
        batch_losses: of the last finished epoch: training batches, then validation batches.
    """

    def __init__(self, network: nn.Module, optimizer: Any, identity: dict[str, Any], device: torch.device):
        self._network, self._optimizer, self._identity, self._device = network, optimizer, identity, device
        self._environment = {"torch": str(torch.__version__), "numpy": np.__version__, "device": device.type}
        self.history: list[list[float]] = []
        self.batch_losses: list[float] = []

    @property
    def epoch(self) -> int:
        """The last finished epoch, from 1; 0 before the first."""
        return len(self.history)

    def finish_epoch(self, row: list[float], batch_losses: list[float]) -> None:
        """Add the losses of an epoch.

        Args:
            row: of log.csv.

        Raises:
            BaselineError: a loss is not a finite number.
        """
        if not all(map(math.isfinite, row)):
            raise BaselineError(
                f"epoch {self.epoch + 1}: the loss is not a finite number. Choose a smaller --learning_rate than "
                f"{self._identity['learning_rate']}. An earlier model is unchanged."
            )
        self.history.append(row)
        self.batch_losses = batch_losses

    def save(self, path: Path) -> None:
        """Write the checkpoint.

        Raises:
            BaselineError: the file cannot be written.
        """
        contents = {
            "format": FORMAT,
            "identity": self._identity,
            "environment": self._environment,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generators": generator_states(self._device),
            "history": self.history,
            "batch_losses": self.batch_losses,
        }
        buffer = io.BytesIO()
        torch.save(contents, buffer)
        body = buffer.getvalue()  # not a view: in the traceback of a full disk it would crash Python 3.12
        with atomic_path(path) as temporary:
            temporary.write_bytes(body + hashlib.sha256(body).digest())

    def resume(self, config: Config, paths: RunPaths) -> None:
        """Load the checkpoint that --restart asks for. Without one, or if it is damaged, start from scratch.

        Raises:
            BaselineError: it is of another training, or --checkpoint_path cannot be used.
        """
        if config.checkpoint_path:
            self.load(config.checkpoint_path, config.epochs)
        elif paths.checkpoint.exists():
            try:
                self.load(paths.checkpoint, config.epochs)
            except DamagedCheckpointError as error:
                log.warning("%s Training starts from scratch.", str(error).removesuffix(" Train without --restart."))

    def load(self, path: Path, epochs: int) -> None:
        """Load a checkpoint.

        Args:
            epochs: how many there will be in all.

        Raises:
            DamagedCheckpointError: it is damaged, or of another version. Nothing has changed.
            BaselineError: it cannot be read, is of another training or of more epochs, or does not fit the network.
        """
        contents = _read(path)
        differences = _differences(contents["identity"], self._identity)
        if differences:
            raise BaselineError(
                f"{path} is of another training: {'; '.join(differences)}. "
                "Restart with the same parameters and clips, or train without --restart."
            )
        if len(contents["history"]) > epochs:
            raise BaselineError(
                f"{path} has {len(contents['history'])} epochs, more than --epochs {epochs}. "
                "Choose at least as many, or train without --restart."
            )
        try:
            self._network.load_state_dict(contents["network"])
            self._optimizer.load_state_dict(contents["optimizer"])
            set_generator_states(contents["generators"], self._device)
        except Exception as error:  # of many kinds, such as with another network
            raise BaselineError(
                f"{path} does not fit this network or optimizer ({' '.join(repr(error).split())[:300]}). "
                "Train without --restart."
            ) from error
        changed = {k: v for k, v in contents["environment"].items() if v != self._environment.get(k)}
        if changed:
            log.warning(
                "the checkpoint was written with %s, this run has %s: the last bits of the results will differ from an "
                "uninterrupted training.",
                " ".join(f"{key} {value}" for key, value in changed.items()),
                " ".join(f"{key} {self._environment.get(key)}" for key in changed),
            )
        self.history, self.batch_losses = contents["history"], contents["batch_losses"]
        log.info("resuming after epoch %d", self.epoch)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BaselineError(f"{path} cannot be read: {error.strerror}. Train without --restart.") from error
    body, digest = data[:-DIGEST_LENGTH], data[-DIGEST_LENGTH:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedCheckpointError(f"{path} is damaged, or of an older version. Train without --restart.")
    try:
        contents = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        values = [value for row in (*contents["history"], contents["batch_losses"]) for value in row]
        if contents["format"] != FORMAT or not all(map(math.isfinite, values)):
            raise ValueError(f"format {contents['format']}, not {FORMAT}")
        if not isinstance(contents["identity"]["clips"], dict) or not isinstance(contents["environment"], dict):
            raise ValueError("no description of the training")
    except Exception as error:  # complete, but written by another program
        raise DamagedCheckpointError(
            f"{path} is not a checkpoint of this version ({' '.join(repr(error).split())[:300]}). "
            "Train without --restart."
        ) from error
    return contents


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A few words for each parameter that differs, and for clips that differ."""
    lines = [f"--{k} was {before.get(k)}, now {v}" for k, v in now.items() if k != "clips" and before.get(k) != v]
    old, new = before["clips"], now["clips"]
    for names, words in (
        (sorted(old.keys() - new.keys(), key=str), "gone"),
        (sorted(new.keys() - old.keys()), "new"),
        (sorted(name for name in old.keys() & new.keys() if old[name] != new[name]), "changed"),
    ):
        if names:
            more = f" and {len(names) - SHOWN_CLIPS} more" if len(names) > SHOWN_CLIPS else ""
            lines.append(f"clips (or their features) {words}: {' '.join(map(str, names[:SHOWN_CLIPS]))}{more}")
    return lines if lines or list(old) == list(new) else ["the clips were in another order"]
