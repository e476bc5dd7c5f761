"""Many arrays, computed on several cores."""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from config import BaselineError, cores

LEAST = 32  # items that are worth the start of another process
DONE = None
PIPE_SIZE = 2**20  # bytes
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent process ends, however it does
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def fill(
    arrays: Sequence[np.ndarray], function: Callable[[Any], np.ndarray], items: Sequence, prepare: Callable[[], Any]
) -> Iterator[int]:
    """Fill each array with `function` of its item: by processes on several cores, where there are many.

    On Linux a process is forked from this one, and the others from that one when it has prepared itself: what is
    imported for the work is imported once, and ends with it, while this process goes on for hours. Elsewhere, where
    libraries do not bear a fork, this process does it all.

    Args:
        arrays: contiguous.
        prepare: called before the others are forked, for imports and tables that all of them need.

    Yields:
        The number of each array, when it is filled.

    Raises:
        BaselineError: one of the processes was killed. Exceptions of `function` come through as they are.
    """
    if len(items) < LEAST or not sys.platform.startswith("linux"):
        for number, item in enumerate(items):
            arrays[number][...] = function(item)
            yield number
        return
    fork = multiprocessing.get_context("fork")
    workers = min(cores(), len(items) // LEAST)
    receivers, senders = zip(*[fork.Pipe(duplex=False) for _ in range(workers)], strict=True)
    for sender in senders:
        with contextlib.suppress(OSError):  # room for a whole clip, or the sender waits in the middle of it
            fcntl.fcntl(sender.fileno(), fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    first = fork.Process(target=_lead, args=(os.getpid(), receivers, senders, function, items, prepare))
    try:
        with warnings.catch_warnings():
            # The other threads of this process are those of BLAS, which has its own provisions for a fork.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            first.start()
        _close(senders)
        yield from _receive(receivers, arrays)
    except BaseException:
        if first.pid is not None:
            first.kill()  # and with it the others; they have nothing to tidy up
        raise
    finally:
        if first.pid is not None:
            first.join()
        _close(receivers)


def _receive(receivers: Sequence[Connection], arrays: Sequence[np.ndarray]) -> Iterator[int]:
    waiting = list(receivers)
    while waiting:
        for receiver in wait(waiting):
            try:
                message = receiver.recv()
                if isinstance(message, int):
                    receiver.recv_bytes_into(memoryview(arrays[message]).cast("B"))
                    yield message
            except (EOFError, OSError) as error:  # at the end of a message, or in the middle of one
                raise BaselineError(
                    "a process that computes features was killed, perhaps for want of memory. Free some, and try again."
                ) from error
            if isinstance(message, Exception):
                raise message
            if message is DONE:
                waiting.remove(receiver)


def _lead(
    parent: int,
    receivers: Sequence[Connection],
    senders: Sequence[Connection],
    function: Callable[[Any], np.ndarray],
    items: Sequence,
    prepare: Callable[[], Any],
) -> None:
    """What the first process does: prepare, fork the others, and take its share of the work."""
    _start(parent)
    _close(receivers)  # what is sent to nobody is to fail
    try:
        prepare()
    except Exception as error:
        senders[0].send(error)
        return
    fork = multiprocessing.get_context("fork")
    others = [
        fork.Process(target=_work, args=(os.getpid(), number, senders, function, items))
        for number in range(1, len(senders))
    ]
    for other in others:
        other.start()
    _work(parent, 0, senders, function, items)
    for other in others:
        other.join()


def _work(
    parent: int,
    number: int,
    senders: Sequence[Connection],
    function: Callable[[Any], np.ndarray],
    items: Sequence,
) -> None:
    """Send the results of a share of the items, each after its number, or the exception; DONE at the end."""
    _start(parent)
    sender = senders[number]
    _close([other for other in senders if other is not sender])  # so that a killed process shows in a closed pipe
    try:
        for index in range(number, len(items), len(senders)):
            result = np.ascontiguousarray(function(items[index]))
            sender.send(index)
            sender.send_bytes(memoryview(result).cast("B"))
        sender.send(DONE)
    except Exception as error:
        sender.send(error)


def _close(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.close()


def _start(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process too, which ends this one
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
    if hasattr(libc, "mallopt"):  # glibc: keep memory for the next item, rather than give it back (1.4 times as fast)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**28)
