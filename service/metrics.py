"""What a server counts: Prometheus metrics, and the last errors for its status page."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from nearhash.errors import NearhashError
from nearhash.service.catalog import Catalog
from nearhash.service.engine.collection import Collection
from nearhash.service.queues import Queues

log = logging.getLogger("nearhash.service")

PROBED = 1 / 1000
"""Share of searches that are compared with an exact one."""

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
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


class Failure(NamedTuple):
    """A request that failed by no fault of its caller: when (seconds since 1970), method, code."""

    at: float
    method: str
    code: str


class Metrics:
    """The metrics of one server.

    Parameters
    ----------
    catalog, queues
        Asked whenever somebody wants to know.
    """

    def __init__(self, catalog: Catalog, queues: Queues) -> None:
        self._catalog = catalog
        self._queues = queues
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "nearhash_requests", "Requests by method and status", ("method", "code"), registry=self.registry
        )
        self._seconds = Histogram(
            "nearhash_request_seconds", "From parsing a request to its answer", ("method",), buckets=_BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self._bytes = Counter("nearhash_request_bytes", "Bytes of requests", ("method",), registry=self.registry)
        self._recall = Histogram(
            "nearhash_recall", "Recall of sampled searches, compared with exact ones", ("collection",),
            buckets=_RECALLS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Gauges(self))
        self._stats: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})
        self._guard = threading.Lock()
        self.failures: deque[Failure] = deque(maxlen=_ERRORS)
        self._per_second: deque[int] = deque(maxlen=_MINUTE + 1)
        self.probe = RecallProbe(self._recall, PROBED)
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="nearhash-metrics", daemon=True)
        self._sampler.start()

    def observe(self, method: str, code: str, seconds: float, size: int) -> None:
        """Count a request."""
        name = method.rpartition("/")[2]
        self._requests.labels(name, code).inc()
        self._seconds.labels(name).observe(seconds)
        self._bytes.labels(name).inc(size)
        if code in ("INTERNAL", "DATA_LOSS", "UNKNOWN", "UNAVAILABLE"):
            self.failures.append(Failure(time.time(), name, code))

    def text(self, shown: Callable[[str], bool]) -> bytes:
        """The metrics in the text format of Prometheus; of collections only of those that are `shown`."""
        return generate_latest(_Shown(self.registry, shown))

    @property
    def pending(self) -> int:
        return self._queues.pending

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
        result = {}
        for family in self._seconds.collect():
            counts: dict[str, list[tuple[float, float]]] = {}
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    counts.setdefault(sample.labels["method"], []).append((float(sample.labels["le"]), sample.value))
            for method, buckets in counts.items():
                total = buckets[-1][1]
                result[method] = {"requests": total, "p50": _within(buckets, 0.5), "p99": _within(buckets, 0.99)}
        return result

    def close(self) -> None:
        self._stop.set()
        self._sampler.join()
        self.probe.close()

    def _sample(self) -> None:
        while True:
            total = sum(
                sample.value
                for family in self._requests.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            )
            self._per_second.append(int(total))
            if self._stop.wait(1.0):
                return


def _within(buckets: list[tuple[float, float]], share: float) -> float:
    """The upper end of the bucket in which that share of all is reached."""
    total = buckets[-1][1]
    return next((upper for upper, below in buckets if below >= share * total and np.isfinite(upper)), _BUCKETS[-1])


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


def _inner(facts: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = facts
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def _left(facts: dict[str, Any]) -> float | None:
    background = facts.get("background")
    return None if background is None else float(background["total"] - background["done"])


class RecallProbe:
    """Compares a few searches with exact ones, one at a time, on a thread of its own.

    Parameters
    ----------
    recall
        Where the recall is recorded, by collection.
    share
        Of searches that are looked at; while one is, others pass.
    """

    def __init__(self, recall: Histogram, share: float) -> None:
        self._recall = recall
        self._share = share
        self._draw = random.Random(0)
        self._tasks: queue.Queue[tuple[str, Collection, NDArray[Any], NDArray[Any]] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._work, name="nearhash-recall", daemon=True)
        self._thread.start()

    def __call__(self, name: str, collection: Collection, queries: NDArray[Any], ids: NDArray[Any]) -> None:
        """A search without filters has found `ids` (q, k)."""
        if not len(queries) or self._draw.random() >= self._share:
            return
        with suppress(queue.Full):
            self._tasks.put_nowait((name, collection, np.array(queries[:1]), np.array(ids[:1])))

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            name, collection, queries, ids = task
            try:
                expected = collection.exact(queries, ids.shape[1]).ids[0].tolist()
            except NearhashError:  # it was dropped, or the like
                continue
            except Exception:
                log.exception("recall of %s could not be probed", name)
                continue
            wanted = [one for one in expected if one not in (-1, None)]
            if wanted:
                self._recall.labels(name).observe(len(set(wanted) & set(ids[0].tolist())) / len(wanted))
