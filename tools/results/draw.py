"""Save a plot, or warn: matplotlib is imported only here, where a plot is needed."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from config import BaselineError
from files import remove

log = logging.getLogger("baseline")


def save_plot(function: str, path: Path, *arguments: Any) -> None:
    """Call a function of plots.py. A plot that cannot be drawn is a warning; an older one is removed."""
    try:
        from tools.results import plots

        getattr(plots, function)(path, *arguments)
    except Exception as error:
        log.warning("%s could not be drawn: %s", path, error)
        log.debug("", exc_info=True)
        with contextlib.suppress(BaselineError):
            remove(path)
