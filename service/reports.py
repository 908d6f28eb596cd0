"""Counts of reader processes, which the process that writes adds to its own.

Each reader sends all its counts, every second in which they have changed, through the pipe by which it said that it
serves. Nobody else can reach that pipe, which a method of the writer's gRPC server would have to see to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from nearhash.service.counts import Counts, Failure

_SECONDS = 1.0  # between reports

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels."""

Samples = dict[str, dict[Sample, float]]
"""By the name of the metric."""


class Report(NamedTuple):
    """What a process has counted since it started.

    Attributes
    ----------
    samples
        Counters and histograms.
    failures
        The last ones.
    pending
        Requests that run or wait now.
    """

    samples: Samples
    failures: list[Failure]
    pending: int = 0


def samples_of(registry: CollectorRegistry) -> Samples:
    """The counts of a registry. When they began to be counted is not among them: that is nothing to add up."""
    return {
        family.name: {
            (sample.name, tuple(sample.labels.items())): float(sample.value)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        for family in registry.collect()
    }


def summed(parts: Iterable[Samples]) -> Samples:
    """The sums of counts."""
    total: Samples = {}
    for part in parts:
        for name, samples in part.items():
            family = total.setdefault(name, {})
            for sample, value in samples.items():
                family[sample] = family.get(sample, 0.0) + value
    return total


def families(registry: CollectorRegistry, samples: Samples) -> Iterable[Metric]:
    """The metrics of a registry with other values."""
    for family in registry.collect():
        family.samples = []
        for (name, labels), value in samples.get(family.name, {}).items():
            family.add_sample(name, dict(labels), value)
        yield family


class Reporter:
    """In a reader process: tells the one that writes what has been counted, on a thread of its own.

    Parameters
    ----------
    counts
        What is told.
    pending
        Requests that run or wait now.
    existing
        Names of what is served.
    tell
        Sends a report; raises OSError if nobody listens any more.
    """

    def __init__(
        self,
        counts: Counts,
        pending: Callable[[], int],
        existing: Callable[[], Iterable[str]],
        tell: Callable[[Report], None],
    ) -> None:
        self._counts = counts
        self._pending = pending
        self._housekeeping = Housekeeping(counts, existing)
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="nearhash-reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more. Does not wait: where nobody takes what was sent, sending does not end."""
        self._stop.set()

    def _work(self) -> None:
        last: Report | None = None
        while not self._stop.wait(_SECONDS):
            self._housekeeping.tick()
            report = Report(samples_of(self._counts.registry), list(self._counts.failures), self._pending())
            if report == last:
                continue
            try:
                self._tell(report)
            except OSError:
                return
            last = report


class Housekeeping:
    """Once a minute of ticks, where labels have run out, takes them from collections that are gone."""

    def __init__(self, counts: Counts, existing: Callable[[], Iterable[str]]) -> None:
        self._counts = counts
        self._existing = existing
        self._ticks = 0

    def tick(self) -> None:
        """To be called each second."""
        self._ticks += 1
        if self._ticks % 60 == 0 and self._counts.full:
            self._counts.forget(frozenset(self._existing()))
