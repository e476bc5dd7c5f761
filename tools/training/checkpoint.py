"""checkpoint.pth: where a training stands after an epoch, so that --restart goes on as if it had never stopped.

Nothing is read that could run code (weights_only=True). PyTorch does not notice flipped bits in what it loads: the file
ends with the SHA-256 of what is before it, which torch.load passes over.
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
from tools.training.fast_step import Optimizer
from tools.training.generators import generator_states, set_generator_states

FORMAT = 2
DIGEST_LENGTH = hashlib.sha256().digest_size
SHOWN_CLIPS = 3  # of those that differ

log = logging.getLogger("baseline")


class DamagedCheckpointError(BaselineError):
    """There is a file, and it is no whole checkpoint of this version."""


def training_identity(config: Config, clips: Sequence[Clip], log_mels: LogMels) -> dict[str, Any]:
    """What the course of a training depends on: its parameters, and each clip with the checksum of its features."""
    frames = np.split(log_mels.frames, np.cumsum(log_mels.lengths)[:-1])
    checksums = {clip.name: hashlib.sha256(each).hexdigest()[:16] for clip, each in zip(clips, frames, strict=True)}
    return config.as_dict(TRAINING_KEYS) | {"clips": checksums}


class OtherTrainingError(BaselineError):
    """There is a whole checkpoint, of other parameters or clips, or of more epochs."""

    def __init__(self, reason: str, advice: str):
        super().__init__(f"{reason} {advice}")
        self.reason = reason


class TrainingState:
    """Where a training stands after an epoch: all that is needed to go on as if it had not been interrupted.

    Attributes:
        epoch: the last finished epoch, from 1; 0 before the first.
        history: the rows of log.csv.
        batch_losses: of the last finished epoch, training batches then validation batches.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, identity: dict[str, Any], device: torch.device):
        self._network, self._optimizer, self._identity, self._device = network, optimizer, identity, device
        self._environment = {"torch": str(torch.__version__), "numpy": np.__version__, "device": device.type}
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
        body = buffer.getvalue()  # no copy; and a view of it, in the traceback of a full disk, crashes Python 3.12
        with atomic_path(path) as temporary:
            temporary.write_bytes(body + hashlib.sha256(body).digest())

    def load(self, path: Path, epochs: int) -> None:
        """Go on from a checkpoint.

        Args:
            epochs: how many there are to be in all.

        Raises:
            DamagedCheckpointError: it is damaged, or of another version; nothing has been changed.
            OtherTrainingError: it is of other parameters or clips, or of more epochs; nothing has been changed.
            BaselineError: it cannot be read, or does not fit the network.
        """
        contents = _read(path)
        differing = _differences(contents["identity"], self._identity)
        if differing:
            raise OtherTrainingError(
                f"{path} is of another training: {'; '.join(differing)}.",
                "Restart with the same, or train without --restart.",
            )
        if len(contents["history"]) > epochs:
            raise OtherTrainingError(
                f"{path} is of {len(contents['history'])} epochs, more than --epochs {epochs}.",
                "Ask for as many or more, or train without --restart.",
            )
        try:
            self._network.load_state_dict(contents["network"])
            self._optimizer.load_state_dict(contents["optimizer"])
            set_generator_states(contents["generators"], self._device)
        except Exception as error:  # of many kinds; another network, say
            raise BaselineError(
                f"{path} does not fit this network or optimizer ({' '.join(repr(error).split())[:300]}). "
                "Train without --restart."
            ) from error
        others = {k: v for k, v in contents["environment"].items() if v != self._environment.get(k)}
        if others:
            log.warning(
                "the checkpoint was written with %s, this run has %s: the results are not to the last bit those of an "
                "uninterrupted training.",
                " ".join(f"{key} {value}" for key, value in others.items()),
                " ".join(f"{key} {self._environment.get(key)}" for key in others),
            )
        self.history, self.batch_losses = contents["history"], contents["batch_losses"]
        log.info("going on after epoch %d", self.epoch)


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
        if contents["format"] != FORMAT or not _is_complete(contents):
            raise ValueError(f"format {contents['format']}, not {FORMAT}")
    except Exception as error:  # whole, but somebody else's
        raise DamagedCheckpointError(
            f"{path} is not a checkpoint of this version ({' '.join(repr(error).split())[:300]}). "
            "Train without --restart."
        ) from error
    return contents


def _is_complete(contents: dict[str, Any]) -> bool:
    numbers = [value for row in (*contents["history"], contents["batch_losses"]) for value in row]
    parts = [contents[name] for name in ("identity", "environment", "network", "optimizer", "generators")]
    return all(isinstance(part, dict) for part in parts) and all(map(math.isfinite, numbers))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A few words for each parameter and the clips where they differ."""
    lines = [
        f"--{key} was {before.get(key)}, now {value}"
        for key, value in now.items()
        if key != "clips" and before.get(key) != value
    ]
    old, new = (clips if isinstance(clips, dict) else {} for clips in (before.get("clips"), now["clips"]))
    for names, words in (
        (sorted(old.keys() - new.keys()), "gone"),
        (sorted(new.keys() - old.keys()), "new"),
        (sorted(name for name in old.keys() & new.keys() if old[name] != new[name]), "changed"),
    ):
        if names:
            more = f" and {len(names) - SHOWN_CLIPS} more" if len(names) > SHOWN_CLIPS else ""
            lines.append(f"clips (or their features) {words}: {' '.join(map(str, names[:SHOWN_CLIPS]))}{more}")
    return lines if lines or list(old) == list(new) else ["the clips were in another order"]
