"""What a run says: lines on the terminal, and the same with times and details in the run's log file."""

import argparse
import contextlib
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from config import BaselineError, UsageError
from files import cannot_write, make_writable_directory

if TYPE_CHECKING:
    import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TIDYING_UP = 5.0  # seconds
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # but for the tab

log = logging.getLogger("baseline")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a termination signal: the program is to end with `status`."""

    def __init__(self, number: int):
        super().__init__()
        self.status = 128 + number


class _Interrupter:
    """The handler of SIGINT and SIGTERM; further signals within TIDYING_UP of one that it raised are ignored."""

    def __init__(self) -> None:
        self.raised: Interrupted | None = None
        self._last = -math.inf  # seconds

    def __call__(self, number: int, _: object) -> None:
        if time.monotonic() - self._last > TIDYING_UP:
            self._last = time.monotonic()
            self.raised = Interrupted(number)
            raise self.raised


def catch_signals(*others: signal.Signals) -> None:
    """From now on SIGINT, SIGTERM and these others raise Interrupted; more within TIDYING_UP are ignored.

    Later ones count again, for the first may be lost: an exception that is raised within a destructor is dropped, and
    so is one within the import of some compiled modules. TrainingProgress raises a lost one anew.
    """
    interrupter = _Interrupter()
    for each in (*SIGNALS, *others):
        signal.signal(each, interrupter)


class _Console(logging.Handler):
    """Lines on standard output, warnings and errors on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        with contextlib.suppress(OSError):  # a closed terminal or a full disk does not end a training
            tqdm.write(self.format(record), file=stream)
            stream.flush()


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, logging's name
        # Names of files may hold what would move the cursor, clear the screen, or look like a line of its own.
        return CONTROL_CHARACTERS.sub(lambda match: repr(match[0])[1:-1], super().formatMessage(record))


class _LinesWithLevel(_Lines):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, logging's name
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return level + super().formatMessage(record)


def open_console(name: str = "") -> None:
    """Print the lines of the logger `baseline`, each with a name before it, such as the machine type's."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a full disk costs lines of the log file, and no tracebacks
    console = _Console(logging.INFO)
    console.setFormatter(_LinesWithLevel(f"{name}: %(message)s" if name else "%(message)s"))
    log.setLevel(logging.DEBUG)
    log.addHandler(console)


def open_log_file(path: Path) -> None:
    """Write what the logger `baseline` gets, details too, to the end of this file; warnings of libraries as well.

    Raises:
        BaselineError: the file cannot be written.
    """
    make_writable_directory(path.parent)
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise cannot_write(path, error) from error
    handler.setFormatter(_Lines("%(asctime)s %(levelname)-7s %(message)s"))
    log.addHandler(handler)
    logging.getLogger("py.warnings").addHandler(handler)


def add_channel_argument(parser: argparse.ArgumentParser) -> None:
    """Add --channel, for recordings of several channels."""
    text = "which channel of the recordings, from 1 (default: the only one)"
    parser.add_argument("--channel", type=whole_number(1024), default=None, help=text)


def whole_number(most: int) -> Callable[[str], int]:
    """A type of arguments: a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most}, not '{text}'")
        return int(text)

    return parse


def run_command(command: Callable[[], bool | None], after_interrupt: str = "") -> int:
    """Run a tool's command, and say in a line what the user can put right.

    Args:
        command: returns False where it has said itself what went wrong.
        after_interrupt: what to know after Ctrl-C or a termination signal.

    Returns:
        The exit status.
    """
    catch_signals()
    try:
        return 1 if command() is False else 0
    except BaselineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough; nothing more is to be written there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"error: {error}. Check names and permissions.", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"interrupted. {after_interrupt}".rstrip(), file=sys.stderr)
        return stop.status


class TrainingProgress:
    """One progress bar over all batches of all epochs; a line each tenth of the epochs where there is no terminal.

    Where the environment has PROGRESS_LINES, from the loop over machine types, it is a line each epoch.
    """

    def __init__(self, epochs: int, batches: int, finished_epochs: int, log_interval: int):
        self._epochs, self._batches, self._log_interval = epochs, batches, log_interval
        self._done = finished_epochs * batches
        self._after_epoch = ""
        self._bar = tqdm(total=epochs * batches, initial=self._done, unit="batch", disable=None, leave=False)
        self._bar.set_description(f"epoch {finished_epochs + 1}/{epochs}", refresh=False)
        self._first, self._start = self._done, time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def finish_batch(self, losses: "torch.Tensor") -> None:
        """Count a batch; show its loss each `log_interval` batches.

        Raises:
            Interrupted: a signal came before, and its exception was lost.
        """
        handler = signal.getsignal(signal.SIGTERM)
        if isinstance(handler, _Interrupter) and handler.raised:
            raise handler.raised
        self._done += 1
        self._bar.update()
        if self._done % self._log_interval == 0 and not self._bar.disable:
            self._bar.set_postfix_str(f"batch loss {losses.mean():.2f}{self._after_epoch}")

    def finish_epoch(self, epoch: int, loss: float, valid_loss: float) -> None:
        """Show and log an epoch's losses."""
        self._after_epoch = f", loss {loss:.2f}, validation loss {valid_loss:.2f}"
        self._done = epoch * self._batches
        self._bar.set_postfix_str(self._after_epoch.removeprefix(", "), refresh=False)
        self._bar.set_description(f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}")
        elapsed = time.monotonic() - self._start
        left = elapsed / (self._done - self._first) * (self._epochs * self._batches - self._done)
        is_due = "PROGRESS_LINES" in os.environ or epoch % max(1, self._epochs // 10) == 0
        level = logging.INFO if self._bar.disable and is_due and epoch < self._epochs else logging.DEBUG
        log.log(level, "epoch %d/%d%s, %s left", epoch, self._epochs, self._after_epoch, tqdm.format_interval(left))
