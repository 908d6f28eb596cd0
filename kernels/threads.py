"""Work split over Python threads.

Kernels release the GIL, so plain threads run them in parallel, a server may call from any thread, and nothing
depends on an OpenMP runtime. Results must not depend on how the work is cut: a task writes only its own part.
"""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nearhash.errors import InvalidArgumentError

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None


def available_threads() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_threads(threads: int | None) -> int:
    """Number of threads meant by a ``threads=`` argument; None stands for all cores."""
    if threads is None:
        return available_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidArgumentError(f"threads: expected a positive integer or None, got {threads!r}")
    return threads


def _pool() -> ThreadPoolExecutor:
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(max_workers=64, thread_name_prefix="nearhash")
        return _executor


def _forget_pool() -> None:
    """A forked child has none of its parent's threads: it makes a pool of its own."""
    global _executor, _lock
    _executor, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_chunks(task: Callable[[int, int], None], count: int, threads: int, chunk: int) -> None:
    """Call ``task(first, last)`` for consecutive chunks of ``range(count)`` on `threads` threads.

    Chunks are handed out one at a time, so uneven ones balance; the calling thread works too. The first
    exception of any chunk stops the hand-out and is raised here once all threads have stopped.
    """
    workers = min(threads, -(-count // chunk))
    if workers <= 1:
        for first in range(0, count, chunk):
            task(first, min(first + chunk, count))
        return
    tickets = itertools.count()
    failed = threading.Event()

    def work() -> None:
        while not failed.is_set():
            first = next(tickets) * chunk
            if first >= count:
                return
            try:
                task(first, min(first + chunk, count))
            except BaseException:
                failed.set()
                raise

    futures = [_pool().submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:
        # A helper that has not started yet would find nothing to do; waiting for it could only add delay.
        futures = [future for future in futures if not future.cancel()]
        errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
