"""A bounded queue in front of the search threads.

gRPC would accept requests without end and let them wait; here a request either gets a place or is refused at once,
so that memory stays bounded and what was accepted is answered in time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

_SMOOTHING = 0.1  # weight of the newest duration in the running mean


class QueueFullError(Exception):
    """All places are taken.

    Parameters
    ----------
    pending
        Requests that hold a place.
    retry_after
        Seconds after which about half of them should have finished.
    """

    def __init__(self, pending: int, retry_after: float) -> None:
        super().__init__(f"{pending} requests are pending")
        self.pending = pending
        self.retry_after = retry_after


class DeadlinePassedError(Exception):
    """The caller's deadline passed while the job waited; it was not run."""


class AdmissionQueue:
    """Runs jobs on `workers` threads and holds at most `max_pending` of them, running or waiting."""

    def __init__(self, workers: int, max_pending: int) -> None:
        self._workers = workers
        self._max_pending = max_pending
        self._executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="nearhash-search")
        self._lock = threading.Lock()
        self._pending = 0
        self._mean_seconds = 0.01  # until something has been measured

    @property
    def pending(self) -> int:
        """Jobs that run or wait."""
        return self._pending

    async def run(self, job: Callable[[], Result], deadline: float | None) -> Result:
        """Run `job` on a thread and return its result.

        Parameters
        ----------
        job
            A function that spends its time without the GIL.
        deadline
            Moment on ``time.monotonic()`` after which the job is not started any more; None for no such moment.

        Raises
        ------
        QueueFullError
            There is no place left.
        DeadlinePassedError
            The deadline came before a thread was free.
        """
        with self._lock:
            if self._pending >= self._max_pending:
                raise QueueFullError(self._pending, self._pending * self._mean_seconds / (2 * self._workers))
            self._pending += 1
        try:
            future = self._executor.submit(self._timed, job, deadline)
        except BaseException:
            self._leave()
            raise
        # The place is given back when the thread has finished or the job was cancelled before its start, not when
        # the caller went away: a cancelled caller does not stop a running kernel.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for running jobs and end the threads; waiting jobs are cancelled."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _timed(self, job: Callable[[], Result], deadline: float | None) -> Result:
        start = time.monotonic()
        if deadline is not None and start >= deadline:
            raise DeadlinePassedError
        result = job()
        seconds = time.monotonic() - start
        with self._lock:
            self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)
        return result

    def _leave(self, _: Future[Result] | None = None) -> None:
        with self._lock:
            self._pending -= 1
