"""One function over many items, on several cores."""

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from config import BaselineError

PART = 8  # items that a process takes at a time
LEAST = 32  # items that make another process worth its start
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent process ends, however it does


def cores() -> int:
    """How many cores this run may use: its share of them where JOBS runs go side by side."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = os.environ.get("JOBS", "")
    return max(1, available // int(jobs)) if jobs.isdecimal() and int(jobs) else available


@contextlib.contextmanager
def mapped(
    function: Callable[[Sequence], list], items: Sequence, prepare: Callable[[], Any]
) -> Iterator[Iterator[Any]]:
    """The results of `function` for all items, in their order: by several processes where there are many of both.

    On Linux processes are forked from this one, and need not import anything again. Elsewhere, where libraries do not
    bear that, this process does it all.

    Args:
        function: results of some items, by way of their order; it can be pickled.
        prepare: called before the processes are forked, for imports and tables that all of them need.

    Raises:
        BaselineError: one of the processes was killed. Exceptions of `function` come through as they are.
    """
    parts = [items[start : start + PART] for start in range(0, len(items), PART)]
    workers = min(cores(), len(items) // LEAST)
    if workers < 2 or not sys.platform.startswith("linux"):
        yield itertools.chain.from_iterable(map(function, parts))
        return
    prepare()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_start_worker)
    try:
        with warnings.catch_warnings():
            # The other threads of this process are those of BLAS, which has its own provisions for a fork.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            results = pool.map(function, parts)
        yield itertools.chain.from_iterable(results)
    except BrokenProcessPool as error:
        raise BaselineError(
            "a process that computes features was killed, perhaps for want of memory. Try again, with a smaller JOBS."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process too, which ends this one
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
