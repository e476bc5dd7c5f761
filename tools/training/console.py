"""What a run prints, its log file, its progress bar, and how it ends."""

import argparse
import contextlib
import fcntl
import gc
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from tqdm import tqdm

import startup
from config import BaselineError, UsageError, number, without_password
from files import cannot_write, make_writable_directory

if TYPE_CHECKING:
    import torch

MEMORY_OPTIONS = "--n_mels, --frames, --n_fft or --batch_size"  # with larger values, a run needs more memory
# All except tab and newline, and characters that change the writing direction
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

log = logging.getLogger("baseline")


# --- Signals


class Terminated(KeyboardInterrupt):
    """Raised after SIGTERM, which ends a run in the same way as Ctrl-C."""


def catch_signals() -> None:
    """Make SIGTERM raise Terminated, and SIGINT raise KeyboardInterrupt even if the shell ignores it."""

    def terminate(*_: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a program that was interrupted: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def run_command(command: Callable[[], bool | None], after_interrupt: str = "") -> int:
    """Run a command. If the user can correct an error, or interrupts the run, print one line and no traceback.

    Args:
        command: returns False if it has reported an error itself.
        after_interrupt: text to print after Ctrl-C or SIGTERM, such as how to resume.

    Returns:
        The exit status.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    catch_signals()
    _open_streams()
    open_console()
    try:
        return 1 if command() is False else 0
    except BaselineError as error:
        log.error("%s", error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # such as `| head`: nothing more can be written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        log.debug("", exc_info=True)
        log.error("%s. Check file names and permissions.", error)
        return 1
    except KeyboardInterrupt as interrupt:
        log.warning("%s", f"interrupted. {after_interrupt}".rstrip())
        return exit_status(interrupt)
    except Exception as error:
        log.debug("", exc_info=True)
        if isinstance(error, MemoryError | OverflowError) or "allocate memory" in str(error):
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.error("not enough memory (%s). Lower %s, or train on fewer clips.", reason, MEMORY_OPTIONS)
            return 1
        show(traceback.format_exc().rstrip(), sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def how_to_resume() -> str:
    """The text to print after train.py is interrupted."""
    kept = "Finished epochs are kept."
    if "NAME_IN_LOOP" in os.environ:  # the loop over machine types says how to resume all of them
        return kept
    arguments = sys.argv[1:]
    if not {"--restart", "--test_only"} & set(arguments):
        arguments.append("--restart")
    return f"{kept} To resume: {shlex.join([sys.executable, sys.argv[0], *arguments])}"


def import_libraries(*names: str) -> None:
    """Import slow libraries. Meanwhile Ctrl-C ends the process at once, because some libraries ignore it or crash."""
    handlers = {}
    if startup.is_command:  # not in a test or an interactive session
        handlers = {kind: signal.signal(kind, signal.SIG_DFL) for kind in (signal.SIGINT, signal.SIGTERM)}
        gc.disable()  # garbage collection takes a fifth of the time and finds nothing
    for name in names:
        importlib.import_module(name)
    if startup.is_command:
        gc.freeze()  # later collections, including the one at exit, skip the libraries
        gc.enable()
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


# --- Lines on the terminal and in the log file


def printable(text: str) -> str:
    """Make a text safe to print: escape control characters, as in `\\x1b`, and remove passwords.

    File names may contain characters that move the cursor, clear the screen, or set the title.
    """
    return CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], without_password(text))


def one_line(message: str) -> str:
    """Escape the line breaks in a message. Otherwise a file name could look like another line."""
    return message.replace("\n", "\\n")


def show(text: str, stream: TextIO | None = None) -> None:
    """Print lines above the progress bar, if there is one. The default stream is standard output."""
    stream = stream or sys.stdout
    tqdm.write(printable(text), file=stream)
    stream.flush()


def _open_streams() -> None:
    """Open standard input, output and error if cron or systemd has closed them. Make all file names printable."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if _is_closed(getattr(sys, name), mode):
            stream = Path(os.devnull).open(mode)  # noqa: SIM115, for as long as the program runs
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot show


class _Console(logging.Handler):
    """Log to standard output, warnings and errors to standard error, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a closed terminal or a full disk must not end a training
            show(self.format(record), sys.stdout if record.levelno < logging.WARNING else sys.stderr)


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, logging's name
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))  # with a traceback


class _LinesWithLevel(_Lines):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, logging's name
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return level + super().formatMessage(record)


def _is_closed(stream: TextIO | None, mode: str) -> bool:
    if stream is None:
        return True
    try:  # If standard output is closed, Bash opens its script there, for reading
        flags = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
        return mode == "w" and flags & os.O_ACCMODE == os.O_RDONLY
    except (OSError, ValueError):  # not a file, in a notebook or a test
        return False


def open_console(name: str = "") -> None:
    """Print the lines of the logger `baseline`, each with the prefix `name`. Remove the handlers of earlier calls."""
    for logger in (log, logging.getLogger("py.warnings")):
        for handler in list(logger.handlers):  # for example of an earlier run in an interactive session
            if isinstance(handler, _Console | logging.FileHandler):
                logger.removeHandler(handler)
                handler.close()
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # no tracebacks if the disk of the log file is full
    console = _Console(logging.INFO)
    console.setFormatter(_LinesWithLevel(f"{name}: %(message)s" if name else "%(message)s"))
    log.setLevel(logging.DEBUG)
    log.addHandler(console)


def open_log_file(path: Path) -> None:
    """Append the lines of the logger `baseline` to a file, with times, details, and warnings of libraries.

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


def shown(path: Path) -> str:
    """A path relative to the current directory, if it is inside that directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class TrainingProgress:
    """A progress bar over all batches of all epochs. Without a terminal, it prints about ten lines.

    If PROGRESS_LINES is set in the environment, as by each_machine.py, it prints one line per epoch.
    """

    def __init__(self, epochs: int, batches: int, finished_epochs: int, log_interval: int):
        self._epochs, self._batches, self._log_interval = epochs, batches, log_interval
        self._done = self._first = finished_epochs * batches
        self._after_epoch = ""
        self._bar = tqdm(total=epochs * batches, initial=self._done, unit="batch", disable=None, leave=False)
        self._bar.set_description(f"epoch {finished_epochs + 1}/{epochs}", refresh=False)
        self._start = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def finish_batch(self, losses: "torch.Tensor") -> None:
        """Count a batch. Show its loss every `log_interval` batches."""
        self._done += 1
        self._bar.update()
        if self._done % self._log_interval == 0 and not self._bar.disable:
            self._bar.set_postfix_str(f"batch loss {losses.mean():.2f}{self._after_epoch}")

    def finish_epoch(self, epoch: int, loss: float, valid_loss: float) -> None:
        """Show and log the losses of an epoch."""
        self._after_epoch = f", loss {loss:.2f}, validation loss {valid_loss:.2f}"
        self._done = epoch * self._batches
        self._bar.set_postfix_str(self._after_epoch.removeprefix(", "), refresh=False)
        self._bar.set_description(f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}")
        elapsed = time.monotonic() - self._start
        left = elapsed / (self._done - self._first) * (self._epochs * self._batches - self._done)
        is_due = "PROGRESS_LINES" in os.environ or epoch % max(1, self._epochs // 10) == 0
        level = logging.INFO if self._bar.disable and is_due and epoch < self._epochs else logging.DEBUG
        log.log(level, "epoch %d/%d%s, %s left", epoch, self._epochs, self._after_epoch, tqdm.format_interval(left))


# --- Arguments that several commands share


def add_channel_argument(parser: argparse.ArgumentParser) -> None:
    """Add --channel, for recordings with several channels."""
    text = "channel to use, from 1 (default: the only one)"
    parser.add_argument("--channel", type=number(int, at_least=1, at_most=1024), default=None, help=text)
