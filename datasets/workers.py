"""Apply a function to many items on all cores, in a separate process whose memory is freed at the end."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any

from config import ROOT, BaselineError, cores

MIN_ITEMS = 32  # with fewer items, a separate process is not worth its start-up time
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from datasets.workers import serve; serve(int(sys.argv[2]))"


def compute_all(function: Callable[[Any], Any], items: Sequence) -> Iterator:
    """Yield `function(item)` for each item, in order. Close the iterator after an error to stop the other process.

    Many items are computed by threads of another process, because libraries such as librosa keep 200 MB until their
    process ends. BLAS uses one thread, because its results depend on the number of threads.

    Args:
        function: defined at module level, not a lambda. Threads help if it spends its time in NumPy.

    Raises:
        BaselineError: raised by `function`, or the other process was killed.
    """
    from threadpoolctl import threadpool_limits

    if len(items) < MIN_ITEMS:
        with threadpool_limits(1, user_api="blas"):
            yield from map(function, items)
        return
    connection, other_end = Pipe()
    with other_end:
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, ROOT, str(other_end.fileno())],
            pass_fds=[other_end.fileno()],
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the other
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
            "the process that computes features stopped unexpectedly. If there is no error message above, it was "
            "killed, probably because memory ran out. Free some memory and try again."
        ) from error
    finally:
        child.kill()
        child.wait()
        connection.close()


def serve(descriptor: int) -> None:
    """Run in the other process: receive the function and the items, and send the results or the first error."""
    from threadpoolctl import threadpool_limits

    parent = Connection(descriptor)  # stays open until this process ends, after it prints its traceback
    with contextlib.suppress(EOFError, ConnectionError):  # the parent process has ended
        function, items, n_threads = parent.recv()
        try:
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
                parent.send(function(items[0]))  # alone: threads must not import modules in parallel
                for result in pool.map(function, items[1:]):  # after an error, remaining items are not computed
                    parent.send(result)
        except BaselineError as error:
            parent.send(error)
