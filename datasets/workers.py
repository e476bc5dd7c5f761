"""One function, many items: computed on all cores, in a process of its own that gives back its memory at the end."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any

from config import ROOT, BaselineError, cores

LEAST = 32  # items that are worth another process
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from datasets.workers import serve; serve(int(sys.argv[2]))"


def compute_all(function: Callable[[Any], Any], items: Sequence) -> Iterator:
    """`function` of each item, in order. Close the iterator after an error, so that the other process ends at once.

    Many items are computed by threads of another process, because libraries such as librosa take 200 MB for as long as
    a process lasts. BLAS has one thread: its results depend on the number.

    Args:
        function: of a module, not a lambda. Threads gain if it spends its time in NumPy.

    Raises:
        BaselineError: `function` raised it, or the other process was killed.
    """
    from threadpoolctl import threadpool_limits

    if len(items) < LEAST:
        with threadpool_limits(1, user_api="blas"):
            yield from map(function, items)
        return
    connection, other_end = Pipe()
    with other_end:
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, ROOT, str(other_end.fileno())],
            pass_fds=[other_end.fileno()],
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the other one
        )
    try:
        connection.send((function, items, cores()))
        for _ in items:
            result = connection.recv()
            if isinstance(result, BaselineError):
                raise result
            yield result
    except (EOFError, OSError) as error:
        raise BaselineError(
            "the process that computes features ended too early. If it shows no error above, it was killed, perhaps "
            "because memory ran out: free some, and try again."
        ) from error
    finally:
        child.kill()
        child.wait()
        connection.close()


def serve(descriptor: int) -> None:
    """What the other process runs: it receives the function and the items, and sends the results or the first error."""
    from threadpoolctl import threadpool_limits

    parent = Connection(descriptor)  # open until this process ends: its traceback of another error comes first
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has ended
        function, items, n_threads = parent.recv()
        try:
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
                parent.send(function(items[0]))  # alone: threads must not import the same modules at the same time
                for result in pool.map(function, items[1:]):  # what has not begun at an error is not computed
                    parent.send(result)
        except BaselineError as error:
            parent.send(error)
