"""One index under measurement: its build, the choice of its efforts, its timings."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison import Trial
from benchmarks.datasets import Dataset
from benchmarks.machine import release_freed_memory, resident_bytes
from benchmarks.peers import Effort, Lane, Peer, thread_limit
from benchmarks.recall import recall_at
from benchmarks.sweep import bracket, confirm, explore
from benchmarks.truth import Truth

MOST_CORES = 1.3  # processor seconds a second; above it a search used more than its one thread
LEAST_CPU_SECONDS = 0.1  # of a measurement on which that can be judged
LATENCY_CALLS = 2000  # in all rounds together, for each target
LANES_KEPT = 3  # of an index with several parameters, for each target


class UnfairError(RuntimeError):
    """A measurement would not be comparable with the others."""


@dataclass(frozen=True)
class Sample:
    """A data set, exact neighbours of its queries, and how many are asked for."""

    dataset: Dataset
    truth: Truth
    k: int

    def thinned(self, count: int) -> "Sample":
        """`count` queries or a few more, at even steps: words come by frequency, so the first are not typical."""
        queries = self.dataset.queries
        step = max(1, len(queries) // count)
        if step == 1:
            return self
        truth = Truth(self.truth.ids[::step], self.truth.distances[::step])
        return Sample(replace(self.dataset, queries=np.ascontiguousarray(queries[::step])), truth, self.k)


@dataclass(frozen=True)
class _Found:
    """What the exploration of one lane found: recall and rough seconds by effort."""

    lane: Lane
    recalls: dict[int, float]
    seconds: dict[int, float]

    def seconds_at(self, target: float) -> float:
        _, above = bracket(self.recalls, target)
        return float("inf") if above is None else self.seconds[above]


class Contestant:
    """An index over the base of `sample`, built with `threads` threads.

    Attributes
    ----------
    build_seconds : float
    resident_bytes : int or None
        By how much the process grew during the build; None where the system does not tell.
    trials : list of Trial
        The efforts that are timed, chosen by `choose_efforts`.
    latency_efforts : dict of float to effort
        For each target in reach the effort that single queries are timed at.
    """

    def __init__(self, peer: Peer, sample: Sample, threads: int) -> None:
        self.peer, self.sample = peer, sample
        peer.prepare()
        release_freed_memory()
        before = resident_bytes()
        self.build_seconds = peer.timed_build(sample.dataset.base, sample.dataset.metric, threads)
        release_freed_memory()
        after = resident_bytes()
        self.resident_bytes = None if before is None or after is None else after - before
        self.trials: list[Trial] = []
        self.latency_efforts: dict[float, Effort] = {}
        self._latencies: dict[tuple[tuple[str, int], ...], list[float]] = {}
        self._queries = peer.convert(sample.dataset.queries)
        self._recalls: dict[tuple[tuple[str, int], ...], float] = {}

    def choose_efforts(self, targets: Sequence[float], explored_queries: int) -> None:
        """Find efforts on either side of each target, on a part of the queries first, then on all."""
        lanes = self.peer.lanes(self.sample.k)
        if not lanes:
            self.trials = [Trial({}, self._recall({}))]
            return
        part = self.sample.thinned(explored_queries)
        found = [self._explore(lane, part, targets) for lane in lanes]
        efforts: dict[tuple[tuple[str, int], ...], Effort] = {}
        for target in targets:
            for one in sorted(found, key=lambda f: f.seconds_at(target))[:LANES_KEPT]:
                for effort in self._around(one, target):
                    efforts[_key(effort)] = effort
        quickest = min(found, key=lambda f: f.seconds_at(min(targets))).lane
        lowest = quickest.effort(quickest.low)
        efforts[_key(lowest)] = lowest
        trials = [Trial(effort, self._recall(effort)) for effort in efforts.values()]
        self.trials = sorted(trials, key=lambda trial: trial.recall)

    def _explore(self, lane: Lane, part: Sample, targets: Sequence[float]) -> _Found:
        queries = self.peer.convert(part.dataset.queries)
        seconds: dict[int, float] = {}

        def measured_recall(value: int) -> float:
            with thread_limit(1):
                started = time.perf_counter()
                ids = self.peer.search(queries, part.k, lane.effort(value))
                seconds[value] = time.perf_counter() - started
            return recall_at(part.dataset, part.truth, ids, part.k)

        return _Found(lane, explore(measured_recall, lane.low, lane.high, targets), seconds)

    def _around(self, found: _Found, target: float) -> list[Effort]:
        lane = found.lane
        below, above = bracket(found.recalls, target)

        def full_recall(value: int) -> float:
            return self._recall(lane.effort(value))

        values = []
        if below is not None:
            values.append(confirm(full_recall, below, lane.low, lane.high, target, reach=False))
        if above is not None:
            values.append(confirm(full_recall, above, lane.low, lane.high, target, reach=True))
        return [lane.effort(value) for value in values]

    def _recall(self, effort: Effort) -> float:
        key = _key(effort)
        if key not in self._recalls:
            with thread_limit(1):
                ids = self.peer.search(self._queries, self.sample.k, effort)
            self._recalls[key] = recall_at(self.sample.dataset, self.sample.truth, ids, self.sample.k)
        return self._recalls[key]

    def time_trials(self, least_seconds: float) -> None:
        """One round: every chosen effort once, all queries as one batch, on one thread."""
        with thread_limit(1):
            self.peer.search(self._queries[:256], self.sample.k, self.trials[0].effort)  # into the caches
            for trial in self.trials:
                trial.qps.append(self._batch_qps(trial.effort, least_seconds))

    def _batch_qps(self, effort: Effort, least_seconds: float) -> float:
        done, started, used = 0, time.perf_counter(), time.process_time()
        while True:
            self.peer.search(self._queries, self.sample.k, effort)
            done += len(self._queries)
            seconds = time.perf_counter() - started
            if seconds >= least_seconds:
                break
        cores = (time.process_time() - used) / seconds
        if seconds > LEAST_CPU_SECONDS and cores > MOST_CORES:
            raise UnfairError(f"{self.peer.name}: a search on one thread kept {cores:.1f} cores busy")
        return done / seconds

    def time_single_queries(self, targets: Sequence[float], count: int) -> None:
        """One round: `count` queries, one call each, at the fastest effort that reaches each target."""
        if not self._latencies:  # the efforts of the first round stay
            for target in targets:
                reaching = [trial for trial in self.trials if trial.recall >= target]
                if reaching:
                    self.latency_efforts[target] = max(reaching, key=lambda trial: trial.point.qps).effort
        k, queries = self.sample.k, self._queries
        rows = np.linspace(0, len(queries) - 1, count).astype(int)
        with thread_limit(1):
            for key, effort in {_key(effort): effort for effort in self.latency_efforts.values()}.items():
                self.peer.search(queries[:256], k, effort)
                seconds = self._latencies.setdefault(key, [])
                for row in rows:
                    query: NDArray[Any] = queries[row : row + 1]
                    started = time.perf_counter()
                    self.peer.search(query, k, effort)
                    seconds.append(time.perf_counter() - started)

    def latencies(self, target: float) -> list[float]:
        """Seconds of single queries at the effort for a target; empty where that is out of reach."""
        effort = self.latency_efforts.get(target)
        return [] if effort is None else self._latencies[_key(effort)]


def _key(effort: Effort) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(effort.items()))


def run_rounds(contestants: Sequence[Contestant], rounds: int, least_seconds: float, targets: Sequence[float]) -> None:
    """Measure all in turn, again and again, each time beginning with another one.

    What slows the machine for a while so slows all of them, and nobody always follows the same predecessor.
    """
    calls = max(1, LATENCY_CALLS // rounds)
    for number in range(rounds):
        shift = number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            started = time.perf_counter()
            contestant.time_trials(least_seconds)
            contestant.time_single_queries(targets, calls)
            say(f"round {number + 1} of {rounds}: {contestant.peer.name} {time.perf_counter() - started:.1f} s")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
