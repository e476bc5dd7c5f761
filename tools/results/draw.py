"""Save a plot, or warn. Matplotlib is imported only when a plot is drawn."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from config import BaselineError
from files import remove

log = logging.getLogger("baseline")


def save_plot(function: str, path: Path, *arguments: Any) -> None:
    """Call a function of plots.py. If it fails, log a warning and remove the old plot."""
    try:
        from tools.results import plots

        getattr(plots, function)(path, *arguments)
    except Exception as error:
        log.warning("%s could not be drawn: %s", path, error)
        log.debug("", exc_info=True)
        with contextlib.suppress(BaselineError):
            remove(path)
