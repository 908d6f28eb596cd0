"""What a server counts and holds: Prometheus metrics of all its processes, and the facts of its status page."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nearhash.errors import NearhashError
from nearhash.service.catalog import Catalog
from nearhash.service.counts import SECONDS, Counts, Failure
from nearhash.service.queues import Queues
from nearhash.service.reports import Housekeeping, Report, Samples, families, samples_of, summed
from nearhash.service.sessions.registry import Sessions

_STATS_SECONDS = 1.0  # that facts about collections are kept: they look at the disk
_ERRORS = 20
_MINUTE = 60

# Names of gauges of a collection, what they mean, and where they are in its stats.
_GAUGES = (
    ("points", "Points", ("size",)),
    ("buffer_points", "Points that are not in a segment yet", ("buffer",)),
    ("dead_points", "Rows that are dead and not yet given back", ("deleted",)),
    ("memory_bytes", "Bytes of indexes and columns, mapped ones included", ("nbytes",)),
    ("disk_bytes", "Bytes of all files", ("disk_bytes",)),
    ("wal_bytes", "Bytes of the write-ahead log", ("wal_bytes",)),
    ("pending_writes", "Writes that wait for a commit", ("pending_writes",)),
    ("sequence", "Writes so far", ("sequence",)),
    ("seals", "Buffers made into segments since the start", ("background", "seals")),
    ("merges", "Merges of segments since the start", ("background", "merges")),
    ("background_rows_left", "Rows that background work has still to do", ()),
)


class Metrics:
    """The metrics of a server: what all its processes have counted, and what is the case now.

    Parameters
    ----------
    catalog, queues
        Asked whenever somebody wants to know.
    counts
        Those of this process.
    sessions
        Asked as well; None where there are none.
    """

    def __init__(self, catalog: Catalog, queues: Queues, counts: Counts, sessions: Sessions | None = None) -> None:
        self._catalog = catalog
        self._queues = queues
        self.sessions = sessions
        self.counts = counts
        self._living: dict[tuple[str, int], Report] = {}  # of reader processes, by name and process id
        self._ended: dict[str, Report] = {}  # sums by name, so that counts never go down
        self._processes = threading.Lock()  # guards both
        self.registry = CollectorRegistry()
        self.registry.register(_Counted(self))
        self.registry.register(_Gauges(self))
        self._stats: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})
        self._guard = threading.Lock()
        self._per_second: deque[int] = deque(maxlen=_MINUTE + 1)
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="nearhash-metrics", daemon=True)
        self._sampler.start()

    def heard(self, name: str, pid: int, report: Report) -> None:
        """A reader process has told what it has counted since it started."""
        with self._processes:
            self._living[name, pid] = report

    def ended(self, name: str, pid: int) -> None:
        """A reader process has ended: what it has counted remains."""
        with self._processes:
            last = self._living.pop((name, pid), None)
            if last is not None:
                self._ended[name] = _together([*_present(self._ended.get(name)), last])

    def processes(self) -> dict[str, Report]:
        """What has been counted by each process, those in its place before included: "writer", "reader-0" and so on."""
        own = Report(samples_of(self.counts.registry), list(self.counts.failures))
        with self._processes:
            parts: dict[str, list[Report]] = {name: [report] for name, report in self._ended.items()}
            for (name, _), report in self._living.items():
                parts.setdefault(name, []).append(report)
        return {"writer": own, **{name: _together(parts[name]) for name in sorted(parts)}}

    def text(self, shown: Callable[[str], bool]) -> bytes:
        """The metrics in the text format of Prometheus; of collections only of those that are `shown`."""
        return generate_latest(_Shown(self.registry, shown))

    @property
    def pending(self) -> int:
        """Requests that run or wait, in all processes."""
        with self._processes:
            return self._queues.pending + sum(report.pending for report in self._living.values())

    @property
    def failures(self) -> list[Failure]:
        """The last failures, oldest first."""
        return _together(self.processes().values()).failures

    def collections(self) -> dict[str, dict[str, Any]]:
        """The stats of each collection, at most a second old; of one that cannot be opened its ``state`` alone."""
        with self._guard:
            at, stats = self._stats
            if time.monotonic() - at < _STATS_SECONDS:
                return stats
            stats = {}
            for name in self._catalog.names():
                try:
                    stats[name] = self._catalog.find(name).stats()
                except NearhashError as error:
                    stats[name] = {"name": name, "state": type(error).__name__}
            self._stats = (time.monotonic(), stats)
            return stats

    def throughput(self) -> list[int]:
        """Requests in each of the last seconds, a minute at most, oldest first."""
        counts = list(self._per_second)
        return [after - before for before, after in pairwise(counts)]

    def latencies(self) -> dict[str, dict[str, float]]:
        """By method: requests, and about the seconds within which half and 99% of them were answered."""
        counts: dict[str, list[tuple[float, float]]] = {}
        for (name, labels), value in self._samples().get("nearhash_request_seconds", {}).items():
            if name.endswith("_bucket"):
                facts = dict(labels)
                counts.setdefault(facts["method"], []).append((float(facts["le"]), value))
        return {
            method: {"requests": buckets[-1][1], "p50": _within(buckets, 0.5), "p99": _within(buckets, 0.99)}
            for method, buckets in counts.items()
        }

    def close(self) -> None:
        self._stop.set()
        self._sampler.join()

    def _samples(self) -> Samples:
        return summed(report.samples for report in self.processes().values())

    def _sample(self) -> None:
        housekeeping = Housekeeping(self.counts, self._catalog.all_names)
        while True:
            self._per_second.append(int(_requests(self._samples())))
            if self._stop.wait(1.0):
                return
            housekeeping.tick()


def _present(report: Report | None) -> list[Report]:
    return [] if report is None else [report]


def _together(reports: Iterable[Report]) -> Report:
    """What several have counted. What is pending now is no count."""
    parts = list(reports)
    failures = sorted(failure for report in parts for failure in report.failures)
    return Report(summed(report.samples for report in parts), failures[-_ERRORS:])


def _requests(samples: Samples) -> float:
    return sum(samples.get("nearhash_requests", {}).values())


def _within(buckets: list[tuple[float, float]], share: float) -> float:
    """The upper end of the bucket in which that share of all is reached."""
    total = buckets[-1][1]
    return next((upper for upper, below in buckets if below >= share * total and np.isfinite(upper)), SECONDS[-1])


class _Counted:
    """What the processes have counted, together, and how many requests each of them had."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        processes = self._metrics.processes()
        yield from families(self._metrics.counts.registry, summed(report.samples for report in processes.values()))
        served = CounterMetricFamily("nearhash_process_requests", "Requests by process", labels=["process"])
        for name, report in processes.items():
            served.add_metric([name], _requests(report.samples))
        yield served


class _Shown(CollectorRegistry):
    """The metrics of a registry, without samples of collections that somebody may not know of."""

    def __init__(self, registry: CollectorRegistry, shown: Callable[[str], bool]) -> None:
        super().__init__()
        self._all = registry
        self._is_shown = shown

    def collect(self) -> Iterable[Metric]:
        for family in self._all.collect():  # made anew by each collect, so that they may be changed
            family.samples = [
                sample
                for sample in family.samples
                if "collection" not in sample.labels or self._is_shown(sample.labels["collection"])
            ]
            yield family


class _Gauges:
    """Asks for what is the case now, whenever Prometheus does."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        pending = GaugeMetricFamily("nearhash_pending_requests", "Requests that run or wait")
        pending.add_metric([], self._metrics.pending)
        yield pending
        yield from self._sessions()
        stats = self._metrics.collections()
        up = GaugeMetricFamily("nearhash_collection_ok", "1 where writes are taken", labels=["collection"])
        segments = GaugeMetricFamily(
            "nearhash_collection_segments", "Sealed segments by kind", labels=["collection", "kind"]
        )
        for name, facts in stats.items():
            up.add_metric([name], float(facts.get("state") == "ok"))
            kinds = [segment["kind"] for segment in facts.get("segments", ())]
            for kind in sorted(set(kinds)):
                segments.add_metric([name, kind], kinds.count(kind))
        yield up
        yield segments
        for gauge, meaning, path in _GAUGES:
            family = GaugeMetricFamily(f"nearhash_collection_{gauge}", meaning, labels=["collection"])
            for name, facts in stats.items():
                value = _left(facts) if not path else _inner(facts, path)
                if value is not None:
                    family.add_metric([name], value)
            yield family

    def _sessions(self) -> Iterable[Metric]:
        if self._metrics.sessions is None:
            return
        facts = self._metrics.sessions.facts()
        yield GaugeMetricFamily("nearhash_sessions", "Attention sessions", facts.sessions)
        yield GaugeMetricFamily("nearhash_session_bytes", "Bytes that attention sessions hold", facts.held_bytes)
        ended = CounterMetricFamily("nearhash_sessions_ended", "Attention sessions that have ended", labels=["reason"])
        for reason in ("freed", "expired"):
            ended.add_metric([reason], facts.ended.get(reason, 0))
        yield ended


def _inner(facts: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = facts
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def _left(facts: dict[str, Any]) -> float | None:
    background = facts.get("background")
    return None if background is None else float(background["total"] - background["done"])
