"""What one process of a server counts: requests, what became of them, and how long they waited."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram

from nearhash.service import recall_probe
from nearhash.service.calls import Answered
from nearhash.service.recall_probe import RecallProbe
from nearhash.service.security.access import action_of

MOST_COLLECTIONS = 100
"""Collections that have requests of their own among the metrics: each is some dozens of series."""

OTHER = "_other"
"""Label of requests about further collections, or about such that there are not. No collection can have this name."""

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
_ERRORS = 20
_FOUND = ("OK", "ALREADY_EXISTS", "DATA_LOSS")  # with these answers, the collection that a request names is there


class Failure(NamedTuple):
    """A request that failed by no fault of its caller: when (seconds since 1970), method, code."""

    at: float
    method: str
    code: str


class Counts:
    """Prometheus metrics of what one process does; `metrics` adds up those of all."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "nearhash_requests", "Requests by method and status", ("method", "code"), registry=registry
        )
        self._seconds = Histogram(
            "nearhash_request_seconds", "From parsing a request to its answer", ("method",), buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._bytes = Counter("nearhash_request_bytes", "Bytes of requests", ("method",), registry=registry)
        self._own_requests = Counter(
            "nearhash_collection_requests", "Requests by collection", ("collection", "method", "code"),
            registry=registry,
        )  # fmt: skip
        self._own_seconds = Histogram(
            "nearhash_collection_request_seconds", "From parsing a request to its answer, by collection",
            ("collection", "action"), buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._refusals = Counter("nearhash_refusals", "Requests that were refused", ("reason",), registry=registry)
        self._waits = Histogram(
            "nearhash_queue_seconds", "From a place in a queue to a thread", ("queue",), buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._rows = Histogram(
            "nearhash_batch_rows", "Queries that one search has answered, of one request or several joined ones",
            buckets=_ROWS, registry=registry,
        )  # fmt: skip
        recall = Histogram(
            "nearhash_recall", "Recall of sampled searches, compared with exact ones", ("collection",),
            buckets=_RECALLS, registry=registry,
        )  # fmt: skip
        self._named: dict[str, set[tuple[str, str]]] = {}  # collections with labels: methods and codes
        self._guard = threading.Lock()  # of `_named`
        self.failures: deque[Failure] = deque(maxlen=_ERRORS)
        self.probe = RecallProbe(recall, recall_probe.PROBED)

    def observe(self, answered: Answered) -> None:
        """Count a request."""
        code, call = answered.code, answered.call
        name = answered.method.rpartition("/")[2]
        self._requests.labels(name, code).inc()
        self._seconds.labels(name).observe(answered.seconds)
        self._bytes.labels(name).inc(call.size)
        if call.collection:
            collection = self._label(call.collection, name, code)
            self._own_requests.labels(collection, name, code).inc()
            self._own_seconds.labels(collection, action_of(answered.method)).observe(answered.seconds)
        if answered.refusal is not None:
            self.refused(answered.refusal)
        if code in ("INTERNAL", "DATA_LOSS", "UNKNOWN", "UNAVAILABLE"):
            self.failures.append(Failure(time.time(), name, code))

    def refused(self, reason: str) -> None:
        """Count a request that was refused."""
        self._refusals.labels(reason).inc()

    def ran(self, queue: str, waits: Sequence[float], rows: int) -> None:
        """Count what a thread has taken from a queue.

        Parameters
        ----------
        queue
            Its name.
        waits
            Seconds that each job waited.
        rows
            Queries of jobs that may be joined; 0 where there were none.
        """
        child = self._waits.labels(queue)
        for wait in waits:
            child.observe(wait)
        if rows:
            self._rows.observe(rows)

    @property
    def full(self) -> bool:
        """Whether no further collection gets a label of its own."""
        return len(self._named) >= MOST_COLLECTIONS

    def forget(self, existing: Collection[str]) -> None:
        """Take the labels from collections that are not there any more."""
        with self._guard:
            gone = {name: self._named.pop(name) for name in [*self._named] if name not in existing}
        for name, series in gone.items():
            for method, code in series:
                self._own_requests.remove(name, method, code)
            for action in ("read", "write", "admin"):
                self._own_seconds.remove(name, action)

    def close(self) -> None:
        self.probe.close()

    def _label(self, collection: str, method: str, code: str) -> str:
        """The name if it has a label; names come from callers, who must not make series without end."""
        with self._guard:
            series = self._named.get(collection)
            if series is None:
                if code not in _FOUND or len(self._named) >= MOST_COLLECTIONS:
                    return OTHER
                series = self._named[collection] = set()
            series.add((method, code))
            return collection
