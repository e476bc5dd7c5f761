"""One function, many items: computed on all cores, in a process of its own that gives back its memory at the end."""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from config import ROOT, BaselineError, cores

LEAST = 32  # items that are worth another process
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from datasets.workers import serve; serve()"


def compute_all(function: Callable[[Any], Any], items: Sequence) -> Iterator:
    """`function` of each item, in order. Close the iterator after an error, so that the other process ends at once.

    Many items are computed by threads of another process, because libraries such as librosa take 200 MB for as long as
    a process lasts. BLAS has one thread: its results depend on the number.

    Args:
        function: can be pickled, as the items and results can. Threads gain if it spends its time in NumPy.

    Raises:
        BaselineError: `function` raised it, or the other process was killed.
    """
    from threadpoolctl import threadpool_limits

    if len(items) < LEAST:
        with threadpool_limits(1, user_api="blas"):
            yield from map(function, items)
        return
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ROOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process only, which ends the other one
    )
    try:
        with child.stdin:
            pickle.dump((function, items, cores()), child.stdin)
        for _ in items:
            result = pickle.load(child.stdout)
            if isinstance(result, BaselineError):
                raise result
            yield result
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise BaselineError(
            "the process that computes features ended too early. If it shows no error above, it was killed, perhaps "
            "because memory ran out: free some, and try again."
        ) from error
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


def serve() -> None:
    """What the other process runs: it reads the function and the items, and writes the results, or the first error."""
    from threadpoolctl import threadpool_limits

    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not get between the results

    def send(result: Any) -> None:
        pickle.dump(result, output)
        output.flush()

    with contextlib.suppress(EOFError, BrokenPipeError):  # the process that started this one has ended
        function, items, n_threads = pickle.load(sys.stdin.buffer)
        pool = ThreadPoolExecutor(n_threads)
        try:
            with threadpool_limits(1, user_api="blas"):
                send(function(items[0]))  # alone: threads must not import the same modules at the same time
                for result in pool.map(function, items[1:]):
                    send(result)
        except BaselineError as error:
            send(error)
        finally:
            pool.shutdown(cancel_futures=True)
