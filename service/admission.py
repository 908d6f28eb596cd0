"""A bounded queue in front of the threads that work.

gRPC would accept requests without end and let them wait; here a request either gets a place or is refused at once,
so that memory stays bounded and what was accepted is answered in time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, NamedTuple, TypeVar

Result = TypeVar("Result")
Argument = TypeVar("Argument")

BATCH_ROWS = 64
"""Most queries that searches which wait are joined to."""

_JOINED = 8  # searches that one thread takes even if others have nothing to do
_SMOOTHING = 0.1  # weight of the newest duration in the running mean
_MARGIN = 2.0  # times that jobs may take longer than expected before what was accepted misses its deadline
_MOST_TIMES = 2.0  # the running mean that a duration counts as: a rare long job must not make all look long


class QueueFullError(Exception):
    """All places, or all bytes, are taken.

    Parameters
    ----------
    message
        Which limit, and what holds it.
    retry_after
        Seconds after which about half of what is pending should have finished.
    reason
        "queue_full", "bytes" or "too_late".
    """

    def __init__(self, message: str, retry_after: float, reason: str) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class DeadlinePassedError(Exception):
    """The caller's deadline passed while the job waited; it was not run."""


@dataclass(slots=True)
class Spent:
    """Seconds that the jobs of a request have waited for a thread, and run; joined ones run as long as all of them."""

    waited: float = 0.0
    ran: float = 0.0


current_spent: ContextVar[Spent | None] = ContextVar("current_spent", default=None)
"""Where jobs of this task add what they spend."""

Watcher = Callable[[Sequence[float], int], None]
"""Told of what a thread has taken: seconds that each job waited, and the rows of those that may be joined, or 0."""


class ByteBudget:
    """Bytes that accepted requests and their answers may hold together, in all queues of an event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be added. A single request may exceed the budget, or it could never be served."""
        return not self.held or self.held + size <= self.limit


@dataclass(frozen=True)
class Batchable(Generic[Argument, Result]):
    """A job that may run as one with others of the same key.

    Parameters
    ----------
    key
        Jobs with equal keys differ in their argument only.
    rows
        How much of a batch the argument takes.
    argument
        What `together` gets a list of.
    together
        The results for several arguments, each exactly what it would be alone.
    """

    key: Hashable
    rows: int
    argument: Argument
    together: Callable[[Sequence[Argument]], Sequence[Result]]


class _Job:
    __slots__ = ("batch", "deadline", "function", "queued", "result", "size", "spent", "taken")

    def __init__(
        self,
        function: Callable[[], Any],
        deadline: float | None,
        result: asyncio.Future[Any],
        size: int,
        batch: Batchable[Any, Any] | None,
    ) -> None:
        self.function = function
        self.deadline = deadline
        self.result = result
        self.size = size
        self.batch = batch
        self.taken = False
        self.queued = time.monotonic()
        self.spent = current_spent.get()


class _Outcome(NamedTuple):
    job: _Job
    result: Any
    error: BaseException | None


class _Taken(NamedTuple):
    """What a thread has taken at once: when, how many of the jobs it ran in how many seconds, with how many rows."""

    start: float
    jobs: int
    seconds: float
    rows: int


class AdmissionQueue:
    """Runs jobs on `workers` threads and holds at most `max_pending` of them, running or waiting.

    Belongs to one event loop; its counts are touched by that loop's thread only. Threads of its own, because the
    hand-over through ``concurrent.futures`` costs more than twice as much, which short searches feel.
    """

    def __init__(
        self, workers: int, max_pending: int, budget: ByteBudget | None = None, name: str = "nearhash-search"
    ) -> None:
        self._workers = workers
        self._max_pending = max_pending
        self._budget = budget or ByteBudget(2**63)
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._batches: dict[Hashable, deque[_Job]] = {}  # those in `_jobs` that may be joined, by key
        self._idle = 0  # threads that wait for a job
        self._taking = Lock()  # guards `_batches`, `_idle` and `taken` of jobs
        self._threads: list[Thread] = []
        self._pending = 0
        self._mean_seconds = 0.01  # until something has been measured
        self._watcher: Watcher | None = None

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody of what is taken from the queue, see `Watcher`. Called in the event loop."""
        self._watcher = watcher

    @property
    def workers(self) -> int:
        """Threads that there are at most."""
        return self._workers

    @property
    def pending(self) -> int:
        """Jobs that run or wait."""
        return self._pending

    async def run(
        self,
        job: Callable[[], Result],
        deadline: float | None,
        size: int = 0,
        batch: Batchable[Any, Result] | None = None,
    ) -> Result:
        """Run `job` on a thread and return its result.

        Cancelling the call drops the job if it has not started. A running one cannot be stopped: it keeps its place
        until it ends.

        Parameters
        ----------
        job
            A function that spends its time without the GIL.
        deadline
            Moment on ``time.monotonic()`` after which the job is not started any more; None for no such moment.
        size
            Bytes that the request and its answer hold.
        batch
            How the job may run as one with others. It never waits for others to come: it takes along those that wait
            when its turn has come.

        Raises
        ------
        QueueFullError
            There is no place left, the bytes are used up, or what waits leaves too little time before the deadline.
        DeadlinePassedError
            The deadline came before a thread was free.
        """
        self._admit(size, deadline)
        if len(self._threads) < self._workers:
            self._start_thread()
        entry = _Job(job, deadline, asyncio.get_running_loop().create_future(), size, batch)
        self._pending += 1
        self._budget.held += size
        if batch is not None:
            with self._taking:
                self._batches.setdefault(batch.key, deque()).append(entry)
        self._jobs.put(entry)
        result: Result = await entry.result
        return result

    def close(self) -> None:
        """Wait until running jobs have ended, and end the threads. The event loop must still run."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _admit(self, size: int, deadline: float | None) -> None:
        # Until this one would be done, if it must wait at all.
        needed = (self._pending + 1) * self._mean_seconds / self._workers if self._pending >= self._workers else 0.0
        if self._pending >= self._max_pending:
            message, reason = f"max_pending: {self._pending} requests are being answered already", "queue_full"
        elif not self._budget.fits(size):
            message, reason = (
                f"max_pending_bytes: requests that are being answered hold {self._budget.held} bytes, this one needs "
                f"{size}, the limit is {self._budget.limit}",
                "bytes",
            )
        elif needed and deadline is not None and 0 < (left := deadline - time.monotonic()) < _MARGIN * needed:
            # Accepted to be late, it would take time from others that they need to be in time.
            message, reason = (
                f"deadline: it comes in {left:.3f} s, this request and {self._pending} before it take {needed:.3f} s, "
                "or longer",
                "too_late",
            )
        else:
            return
        raise QueueFullError(message, max(self._pending * self._mean_seconds / (2 * self._workers), 0.001), reason)

    def _start_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = Thread(target=self._work, args=(asyncio.get_running_loop(),), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """What a thread does: take jobs, run them, hand the results to the loop."""
        while True:
            with self._taking:
                self._idle += 1
            job = self._jobs.get()
            taken = self._take(job)
            if job is None:
                return
            if not taken:
                continue  # another thread took it along
            start = time.monotonic()
            late = [one for one in taken if one.deadline is not None and start >= one.deadline]
            wanted = [one for one in taken if one not in late and not one.result.cancelled()]
            outcomes = [_Outcome(one, None, DeadlinePassedError()) for one in late]
            outcomes += [_Outcome(one, None, None) for one in taken if one not in late and one not in wanted]
            outcomes += _carried_out(wanted)
            rows = sum(one.batch.rows for one in wanted if one.batch is not None)
            record = _Taken(start, len(wanted), time.monotonic() - start, rows)
            loop.call_soon_threadsafe(self._finish, outcomes, record)
            del job, taken, late, wanted, outcomes  # not held while waiting for the next one

    def _take(self, job: _Job | None) -> list[_Job]:
        """Mark a job as taken, with those that wait and may run as one with it; empty if it was taken before."""
        with self._taking:
            self._idle -= 1
            if job is None or job.taken:
                return []
            job.taken = True
            if job.batch is None:
                return [job]
            waiting = self._batches[job.batch.key]
            waiting.remove(job)  # it is the first one, or near it
            taken, rows = [job], job.batch.rows
            # What threads without work could do at once is left to them, but for a few: a search of its own costs more
            # of the GIL, which the event loop needs, than it takes in a batch.
            most = max(_JOINED, -(-(len(waiting) + 1) // (self._idle + 1)))
            while waiting and len(taken) < most:
                batch = waiting[0].batch
                assert batch is not None
                rows += batch.rows
                if rows > BATCH_ROWS:
                    break
                waiting[0].taken = True
                taken.append(waiting.popleft())
            if not waiting:
                del self._batches[job.batch.key]
            return taken

    def _finish(self, outcomes: Sequence[_Outcome], taken: _Taken) -> None:
        if taken.jobs:
            seconds = min(taken.seconds / taken.jobs, _MOST_TIMES * self._mean_seconds)
            self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)
        if self._watcher is not None:
            self._watcher([taken.start - job.queued for job, _, _ in outcomes], taken.rows)
        for job, result, error in outcomes:
            self._pending -= 1
            self._budget.held -= job.size
            if job.spent is not None:
                job.spent.waited += taken.start - job.queued
                if not isinstance(error, DeadlinePassedError):
                    job.spent.ran += taken.seconds
            if job.result.done():  # cancelled
                continue
            if error is not None:
                job.result.set_exception(error)
            else:
                job.result.set_result(result)


def _carried_out(jobs: Sequence[_Job]) -> list[_Outcome]:
    if len(jobs) > 1:
        batches = [job.batch for job in jobs if job.batch is not None]
        try:
            results = batches[0].together([batch.argument for batch in batches])
            return [_Outcome(job, result, None) for job, result in zip(jobs, results, strict=True)]
        except Exception:  # one of them is to blame: each finds out by itself
            pass
    return [_alone(job) for job in jobs]


def _alone(job: _Job) -> _Outcome:
    try:
        return _Outcome(job, job.function(), None)
    except BaseException as error:
        return _Outcome(job, None, error)
