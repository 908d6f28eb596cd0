"""Load on a server from the client's side: requests in a closed or an open loop, and how long each took.

Requests are encoded beforehand and answers are decoded but not turned into arrays, so that little of what is measured
is the client's own work.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.protos.v1 import points_pb2, search_pb2
from nearhash.service.client_errors import retry_after
from nearhash.service.connection import (
    DEFAULT_MESSAGE_BYTES,
    SEARCH,
    TLS,
    UPSERT,
    Connection,
    Method,
    RpcError,
    bound_methods,
)
from nearhash.service.points_wire import to_ids
from nearhash.service.wire import to_tensor

OK, REFUSED = "OK", "RESOURCE_EXHAUSTED"
KINDS = ("search", "batch", "upsert")
FIRST_ID = 2**62
"""Ids of points that upserts write are at least this."""

_PREPARED = 256  # requests of a kind, used in turn
_LATE = 0.001  # seconds before an arrival that a timer is trusted for
_AT_ONCE = 64  # requests that are begun before answers are looked at
_POINT_IDS = 2**40  # of one process
_LONGEST_MESSAGE = 200

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Load:
    """What is asked, and how often.

    Parameters
    ----------
    address, api_key, tls, insecure
        As for `nearhash.Client`.
    collection
        Name of what is searched and written to.
    queries
        (n, dim) float32 to ask for, and to write.
    mix
        Weights of "search" (one query), "batch" and "upsert".
    in_flight
        Requests of one process under way at once: each begins when another one ends (closed loop).
    rate
        Instead: requests per second of one process that begin at fixed times, whether others have ended or not (open
        loop). Latencies count from these times, so that requests which had to wait for the client count, too.
    seconds, warmup
        How long is measured, and how long not yet.
    k, recall, effort
        Of searches.
    batch, points
        Queries of a batch, points of an upsert.
    timeout
        Deadline of each request, seconds.
    processes
        Clients.

    Raises
    ------
    InvalidArgumentError
        A value is impossible.
    """

    address: str
    collection: str
    queries: NDArray[np.float32]
    mix: Mapping[str, float] = field(default_factory=lambda: {"search": 1.0})
    in_flight: int = 16
    rate: float | None = None
    seconds: float = 10.0
    warmup: float = 1.0
    k: int = 10
    recall: float | None = None
    effort: Mapping[str, int] = field(default_factory=dict)
    batch: int = 64
    points: int = 100
    timeout: float = 10.0
    processes: int = 1
    api_key: str | None = None
    tls: bool | TLS | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for name in ("in_flight", "k", "batch", "points", "processes"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("rate", "seconds", "timeout"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidArgumentError(f"{name}: expected a number above 0, got {value}")
        if not (self.warmup >= 0 and math.isfinite(self.warmup)):
            raise InvalidArgumentError(f"warmup: expected seconds >= 0, got {self.warmup}")
        unknown = self.mix.keys() - set(KINDS)
        weights = self.mix.values()
        if unknown or not sum(weights) > 0 or not all(weight >= 0 and math.isfinite(weight) for weight in weights):
            raise InvalidArgumentError(f"mix: expected weights of {', '.join(KINDS)}, got {dict(self.mix)!r:.80}")
        if self.queries.ndim != 2 or not len(self.queries):
            raise InvalidArgumentError(f"queries: expected vectors (n, dim), got shape {self.queries.shape}")


class Measured(NamedTuple):
    """What requests of one kind met with.

    Attributes
    ----------
    latencies : (n,) float64
        Seconds of those that were answered; in an open loop, from the time at which they were due.
    since_sent : (n,) float64
        The same from when they were sent: without what a client that is too slow for the load adds.
    codes : dict
        How many ended with each status; OK among them.
    messages : dict
        What the first of each other status said.
    told : int
        How many of those that were refused were told when to come again.
    slowest_refusal : float
        Seconds from when it was sent.
    """

    latencies: NDArray[np.float64]
    since_sent: NDArray[np.float64]
    codes: Counter[str]
    messages: dict[str, str]
    told: int
    slowest_refusal: float


class LoadResult(NamedTuple):
    """All that was measured.

    Attributes
    ----------
    kinds : dict of kind to Measured
        Requests that began within the measured time.
    seconds : float
        From the first of them to the end of the last, at least the time that was to be measured.
    lag : float
        Most seconds by which the clients were behind the times of an open loop when they sent.
    written : list of (first id, stop)
        Ids of upserts that were acknowledged.
    """

    kinds: dict[str, Measured]
    seconds: float
    lag: float
    written: list[tuple[int, int]]


def run_load(load: Load, progress: Progress | None = None) -> LoadResult:
    """Put load on a server and measure; blocks until it is over.

    Raises
    ------
    InvalidArgumentError
        The connection's settings are impossible.
    ServiceError
        There is no server.
    """
    Connection(**_connection(load))  # refuses what cannot be, before processes start
    seeds = [int.from_bytes(os.urandom(2), "little") for _ in range(load.processes)]
    if load.processes == 1:
        return asyncio.run(_run(load, seeds[0], progress))
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    with ProcessPoolExecutor(load.processes, mp_context=context) as pool:
        running = [pool.submit(_run_in_process, load, seed) for seed in seeds]
        started, total = time.monotonic(), math.ceil(load.warmup + load.seconds)
        while progress is not None and not all(one.done() for one in running):
            progress(min(int(time.monotonic() - started), total), total)
            time.sleep(0.2)
        return _together([one.result() for one in running])


def _run_in_process(load: Load, seed: int) -> LoadResult:
    return asyncio.run(_run(load, seed, None))


def _together(results: Sequence[LoadResult]) -> LoadResult:
    kinds = {}
    for kind in {kind for result in results for kind in result.kinds}:
        some = [result.kinds[kind] for result in results if kind in result.kinds]
        kinds[kind] = Measured(
            np.concatenate([one.latencies for one in some]),
            np.concatenate([one.since_sent for one in some]),
            sum((one.codes for one in some), Counter()),
            {code: message for one in some for code, message in one.messages.items()},
            sum(one.told for one in some),
            max(one.slowest_refusal for one in some),
        )
    written = [ids for result in results for ids in result.written]
    return LoadResult(kinds, max(result.seconds for result in results), max(result.lag for result in results), written)


def _connection(load: Load) -> dict[str, Any]:
    return {
        "address": load.address,
        "timeout": load.timeout,
        "api_key": load.api_key,
        "tls": load.tls,
        "max_message_bytes": DEFAULT_MESSAGE_BYTES,
        "insecure": load.insecure,
    }


async def _run(load: Load, seed: int, progress: Progress | None) -> LoadResult:
    connection = Connection(**_connection(load))
    async with connection.open_async_channel() as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), load.timeout)
        except asyncio.TimeoutError:
            raise ServiceError(f"no server at {load.address} within {load.timeout:g} s", "UNAVAILABLE") from None
        client = _Client(load, seed, bound_methods(channel), connection.metadata)
        ticking = None if progress is None else asyncio.ensure_future(_tick(load, progress))
        await (client.closed_loop() if load.rate is None else client.open_loop(load.rate))
        if ticking is not None:
            ticking.cancel()
    return client.result()


async def _tick(load: Load, progress: Progress) -> None:
    started, total = time.monotonic(), math.ceil(load.warmup + load.seconds)
    while True:
        progress(min(int(time.monotonic() - started), total), total)
        await asyncio.sleep(0.2)


class _Record:
    """Measured, while it grows."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.since_sent: list[float] = []
        self.codes: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        self.told = 0
        self.slowest_refusal = 0.0


class _Client:
    def __init__(self, load: Load, seed: int, methods: Mapping[Method, Any], metadata: Any) -> None:
        self._load = load
        self._methods = methods
        self._metadata = metadata
        self._draw = random.Random(seed)
        self._records = {kind: _Record() for kind, weight in load.mix.items() if weight > 0}
        self._weights = [load.mix[kind] for kind in self._records]
        self._searches = {
            kind: _searches(load, 1 if kind == "search" else load.batch) for kind in self._records if kind != "upsert"
        }
        self._turn = 0
        self._next_id = FIRST_ID + seed * _POINT_IDS
        self._written: list[tuple[int, int]] = []
        self._lag = 0.0
        self._last_end = 0.0
        self._failure: BaseException | None = None  # a defect: what servers and networks do has a status
        self._begin = time.perf_counter() + load.warmup  # of what is measured
        self._end = self._begin + load.seconds

    async def closed_loop(self) -> None:
        async def again() -> None:
            while (now := time.perf_counter()) < self._end:
                await self._send(now)

        await asyncio.gather(*(again() for _ in range(self._load.in_flight)))

    async def open_loop(self, rate: float) -> None:
        first, number = time.perf_counter(), 0
        under_way: set[asyncio.Task[None]] = set()
        while (due := first + number / rate) < self._end:
            # Where arrivals are overdue, the loop must turn nevertheless, for answers: so not all of them at once.
            await asyncio.sleep(max(due - time.perf_counter() - _LATE, 0.0))
            for _ in range(_AT_ONCE):
                due = first + number / rate
                if due > time.perf_counter() or due >= self._end:
                    break
                task = asyncio.ensure_future(self._send(due))
                under_way.add(task)
                task.add_done_callback(self._ended)
                task.add_done_callback(under_way.discard)
                number += 1
        if under_way:
            await asyncio.wait(under_way)
        if self._failure is not None:
            raise self._failure

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._failure = self._failure or task.exception()

    async def _send(self, due: float) -> None:
        """One request, which counts from `due` on."""
        kind = self._draw.choices(list(self._records), self._weights)[0]
        measured, sent = due >= self._begin, time.perf_counter()
        if measured:
            self._lag = max(self._lag, sent - due)
        record = self._records[kind]
        request: Message
        ids = None
        if kind == "upsert":
            ids = (self._next_id, self._next_id + self._load.points)
            self._next_id = ids[1]
            method, request = UPSERT, self._upsert(*ids)
        else:
            prepared = self._searches[kind]
            self._turn += 1
            method, request = SEARCH, prepared[self._turn % len(prepared)]
        failure = None
        try:
            answer = await self._methods[method](request, timeout=self._load.timeout, metadata=self._metadata)
            code = OK if kind == "upsert" or self._fits(answer, kind) else "MALFORMED"
        except RpcError as error:
            failure, code = error, error.code().name
        ended = time.perf_counter()
        if ids is not None and code == OK:
            self._written.append(ids)
        if not measured:
            return
        self._last_end = max(self._last_end, ended)
        record.codes[code] += 1
        if code == OK:
            record.latencies.append(ended - due)
            record.since_sent.append(ended - sent)
            return
        if code not in record.messages:
            record.messages[code] = "" if failure is None else str(failure.details())[:_LONGEST_MESSAGE]
        if failure is not None and code == REFUSED:
            record.told += retry_after(failure) is not None
            record.slowest_refusal = max(record.slowest_refusal, ended - sent)

    def _upsert(self, first: int, stop: int) -> points_pb2.UpsertRequest:
        rows = np.arange(first, stop) % len(self._load.queries)
        return points_pb2.UpsertRequest(
            collection=self._load.collection,
            ids=to_ids(np.arange(first, stop)),
            vectors=to_tensor(self._load.queries[rows], "vectors"),
        )

    def _fits(self, answer: search_pb2.SearchResponse, kind: str) -> bool:
        shape = [1 if kind == "search" else self._load.batch, self._load.k]
        return list(answer.ids.shape) == shape and list(answer.distances.shape) == shape

    def result(self) -> LoadResult:
        kinds = {
            kind: Measured(
                np.array(one.latencies), np.array(one.since_sent), one.codes, one.messages, one.told,
                one.slowest_refusal,
            )
            for kind, one in self._records.items()
        }  # fmt: skip
        return LoadResult(kinds, max(self._last_end - self._begin, self._load.seconds), self._lag, self._written)


def _searches(load: Load, rows: int) -> list[search_pb2.SearchRequest]:
    """Requests with queries in turn."""
    template = search_pb2.SearchRequest(collection=load.collection, k=load.k, recall=load.recall)
    for name, value in load.effort.items():
        template.effort[name].integer = value
    requests = []
    for number in range(min(_PREPARED, max(len(load.queries) // rows, 1))):
        chosen = np.arange(number * rows, (number + 1) * rows) % len(load.queries)
        request = search_pb2.SearchRequest(queries=to_tensor(load.queries[chosen], "queries"))
        request.MergeFrom(template)
        requests.append(request)
    return requests


def at_rate(load: Load, rate: float) -> Load:
    """The same load in an open loop, of so many requests per second from all processes together."""
    return replace(load, rate=rate / load.processes)


def summary(measured: Measured, seconds: float) -> dict[str, Any]:
    """Figures of one kind of requests, ready for JSON: latencies in milliseconds, None where nothing was answered."""
    answered = len(measured.latencies)
    return {
        "requests": sum(measured.codes.values()),
        "answered": answered,
        "refused": measured.codes[REFUSED],
        "told_when_to_come_again": measured.told,
        "per_second": answered / seconds,
        "milliseconds": _quantiles(measured.latencies),
        "milliseconds_since_sent": _quantiles(measured.since_sent),
        "slowest_refusal_ms": measured.slowest_refusal * 1e3,
        "codes": dict(sorted(measured.codes.items())),
        "messages": dict(sorted(measured.messages.items())),
    }


def _quantiles(seconds: NDArray[np.float64]) -> dict[str, float | None]:
    quantiles = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    return {
        name: float(np.percentile(seconds, q, method="higher")) * 1e3 if len(seconds) else None
        for name, q in quantiles.items()
    }
