"""checkpoint.pth: the state of a training after an epoch. --restart resumes from it as if there had been no break.

Loading runs no code from the file (weights_only=True). PyTorch does not detect flipped bits, so the file ends
with the SHA-256 of its contents. torch.load ignores it.
"""

import hashlib
import io
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import EARLIER_VALUES, BaselineError, Config
from files import atomic_path, set_aside
from tools.training.generators import generator_states, set_generator_states
from tools.training.identity import describe_changes, differences, identity_of_epochs
from tools.training.model_files import is_record_of, is_trained_here, read_record
from tools.training.paths import RunPaths

FORMAT = 3
DIGEST_LENGTH = hashlib.sha256().digest_size

log = logging.getLogger("baseline")


class DamagedCheckpointError(BaselineError):
    """A file that is not a complete checkpoint of this version."""


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
            row: one row of log.csv.

        Raises:
            BaselineError: a loss is not a finite number.
        """
        if not all(map(math.isfinite, row)):
            raise BaselineError(
                f"epoch {self.epoch + 1}: the loss is not a finite number. Use a --learning_rate smaller than "
                f"{self._identity['learning_rate']}. An existing model is unchanged."
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
        body = buffer.getvalue()  # a copy: with a view, Python 3.12 crashes in the traceback for a full disk
        with atomic_path(path) as temporary:
            temporary.write_bytes(body + hashlib.sha256(body).digest())

    def start(self, config: Config, paths: RunPaths) -> None:
        """Resume from the checkpoint if --restart is given. Otherwise, make sure that no finished epochs are lost.

        Without a checkpoint, or with a damaged one, training starts from scratch.

        Raises:
            BaselineError: the checkpoint is from another training, --checkpoint_path cannot be used, or this run would
                overwrite epochs of the same training or a model from elsewhere.
        """
        if not is_trained_here(paths):
            raise BaselineError(
                f"{paths.model} was not trained here: there is no {paths.config_record.name} beside it. Move it away, "
                "or train with another -tag."
            )
        if config.checkpoint_path:
            self.load(config.checkpoint_path)
        elif paths.checkpoint.exists():
            try:
                contents = _read(paths.checkpoint)
            except DamagedCheckpointError as error:
                reason = str(error).removesuffix(" Train without --restart.")
                kept = set_aside(paths.checkpoint, paths.old_checkpoint)
                log.warning("%s Training starts from scratch. The file is kept as %s.", reason, kept.name)
                return
            if config.restart:
                self._load(contents, paths.checkpoint)
            else:
                self._keep(contents, paths)
        elif config.restart and (record := read_record(paths)) and not is_record_of(record, self._identity):
            self._check(record, paths.model)

    def load(self, path: Path) -> None:
        """Load a checkpoint.

        Raises:
            DamagedCheckpointError: it is damaged, or from another version. Nothing has changed.
            BaselineError: it cannot be read, is from another training, has more epochs, or does not fit the network.
        """
        self._load(_read(path), path)

    def _keep(self, contents: dict[str, Any], paths: RunPaths) -> None:
        """Keep the checkpoint of another, unfinished training. Raise a BaselineError if it is from this training."""
        record, n_epochs = read_record(paths) or {}, len(contents["history"])
        other = differences(identity_of_epochs(record), identity_of_epochs(contents["identity"]))
        if record.get("epochs") == n_epochs and not other:  # finished: its model exists
            return
        if contents["identity"] == self._identity:
            raise BaselineError(
                f"{paths.checkpoint} has {n_epochs} finished epochs of this training. Use --restart to resume. To "
                "train from scratch, delete the file."
            )
        kept = set_aside(paths.checkpoint, paths.old_checkpoint)
        log.info("kept %d epochs of another training in %s", n_epochs, kept)

    def _check(self, identity: dict[str, Any], path: Path) -> None:
        """Raise a BaselineError if `identity` is from another training. The number of epochs may differ."""
        found = differences(identity_of_epochs(identity), identity_of_epochs(self._identity))
        if found:
            raise BaselineError(
                f"{path} is from another training: {'; '.join(found)}. "
                "Restart with the same parameters, clips and code, or train without --restart."
            )

    def _load(self, contents: dict[str, Any], path: Path) -> None:
        """Restore the state in a checkpoint.

        Raises:
            BaselineError: it is from another training, has more epochs, or does not fit the network.
        """
        self._check(contents["identity"], path)
        if len(contents["history"]) > self._identity["epochs"]:
            raise BaselineError(
                f"{path} has {len(contents['history'])} epochs, more than --epochs {self._identity['epochs']}. "
                "Choose at least as many, or train without --restart."
            )
        try:
            self._network.load_state_dict(contents["network"])
            self._optimizer.load_state_dict(contents["optimizer"])
            set_generator_states(contents["generators"], self._device)
        except Exception as error:  # many types, for example if the network differs
            raise BaselineError(
                f"{path} does not fit this network or optimizer ({' '.join(repr(error).split())[:300]}). "
                "Train without --restart."
            ) from error
        changed = {k: v for k, v in contents["environment"].items() if v != self._environment.get(k)}
        if changed:
            log.warning(
                "the checkpoint was written with %s, but this run has %s. The last bits of the results will "
                "differ from those of an uninterrupted training.",
                " ".join(f"{key} {value}" for key, value in changed.items()),
                " ".join(f"{key} {self._environment.get(key)}" for key in changed),
            )
        self.history, self.batch_losses = contents["history"], contents["batch_losses"]
        changed = sorted({name for name, _ in contents["identity"]["code"].items() ^ self._identity["code"].items()})
        again = f"; {describe_changes(changed)}: computing covariances and thresholds again" if changed else ""
        log.info("resuming after epoch %d%s", self.epoch, again)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BaselineError(f"{path} cannot be read: {error.strerror}. Train without --restart.") from error
    body, digest = data[:-DIGEST_LENGTH], data[-DIGEST_LENGTH:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedCheckpointError(f"{path} is damaged, or from an older version. Train without --restart.")
    try:
        contents = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        values = [value for row in (*contents["history"], contents["batch_losses"]) for value in row]
        if contents["format"] != FORMAT or not all(map(math.isfinite, values)):
            raise ValueError(f"format {contents['format']}, not {FORMAT}")
        identity, environment = contents["identity"], contents["environment"]
        if not all(isinstance(part, dict) for part in (identity["clips"], identity["code"], environment)):
            raise ValueError("no description of the training")
    except Exception as error:  # complete, but written by another program
        raise DamagedCheckpointError(
            f"{path} is not a checkpoint of this version ({' '.join(repr(error).split())[:300]}). "
            "Train without --restart."
        ) from error
    return contents | {"identity": EARLIER_VALUES | identity}
