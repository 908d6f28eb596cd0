"""A bounded queue in front of the search threads.

gRPC would accept requests without end and let them wait; here a request either gets a place or is refused at once,
so that memory stays bounded and what was accepted is answered in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

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


class _Job(NamedTuple):
    function: Callable[[], Any]
    deadline: float | None
    result: asyncio.Future[Any]


class AdmissionQueue:
    """Runs jobs on `workers` threads and holds at most `max_pending` of them, running or waiting.

    Belongs to one event loop; its counts are touched by that loop's thread only. Threads of its own, because the
    hand-over through ``concurrent.futures`` costs more than twice as much, which short searches feel.
    """

    def __init__(self, workers: int, max_pending: int) -> None:
        self._workers = workers
        self._max_pending = max_pending
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._pending = 0
        self._mean_seconds = 0.01  # until something has been measured

    @property
    def pending(self) -> int:
        """Jobs that run or wait."""
        return self._pending

    async def run(self, job: Callable[[], Result], deadline: float | None) -> Result:
        """Run `job` on a thread and return its result.

        Cancelling the call drops the job if it has not started. A running one cannot be stopped: it keeps its place
        until it ends.

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
        if self._pending >= self._max_pending:
            raise QueueFullError(self._pending, self._pending * self._mean_seconds / (2 * self._workers))
        if len(self._threads) < self._workers:
            self._start_thread()
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending += 1
        self._jobs.put(_Job(job, deadline, result))
        return await result

    def close(self) -> None:
        """Wait until running jobs have ended, and end the threads. The event loop must still run."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        name = f"nearhash-search-{len(self._threads)}"
        thread = Thread(target=self._work, args=(asyncio.get_running_loop(),), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """What a thread does: take jobs, run them, hand the results to the loop."""
        while (job := self._jobs.get()) is not None:
            start = time.monotonic()
            seconds: float | None = None
            result: Any = None
            error: BaseException | None = None
            if job.deadline is not None and start >= job.deadline:
                error = DeadlinePassedError()
            elif not job.result.cancelled():
                try:
                    result = job.function()
                except BaseException as raised:
                    error = raised
                seconds = time.monotonic() - start
            loop.call_soon_threadsafe(self._finish, job.result, result, error, seconds)
            del job, result, error  # not held while waiting for the next one

    def _finish(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None, seconds: float | None
    ) -> None:
        self._pending -= 1
        if seconds is not None:
            self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)
        if future.done():  # cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
