"""One decoding step over a store: heads and parts of tokens on threads, merged in an order of their own."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.arguments import Reading
from nearhash.attention.estimators.base import Choice, exact_tokens, normal_quantile
from nearhash.attention.estimators.priority import DENSE_AT, LEAST_SAMPLE, Priority, enlarged
from nearhash.attention.results import Attention, Retrieval
from nearhash.attention.store_head import StoreHead
from nearhash.index.arrays import aligned_empty
from nearhash.kernels import attention as kernels
from nearhash.kernels.attention_priority import attend_priority as attend_priority_kernel
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.attention_sampling import choose, sampling_key
from nearhash.kernels.threads import run_chunks

if TYPE_CHECKING:
    from nearhash.attention.store import KVStore

Floats = NDArray[np.float32]

MOST_QUERIES = 16  # of one kernel call: groups of more have several
PART = 4096  # tokens that are attended to together, then merged: results do not depend on threads


class Step(Protocol):
    """Attention over one store, in tasks that may run in any order on any thread, and its result when all have."""

    tasks: int

    def run(self, task: int) -> None:
        """One task, from 0 on."""

    def result(self) -> Attention:
        """Called once, by one thread."""


def run_steps(steps: Sequence[Step], threads: int) -> list[Attention]:
    """Results of the steps, whose tasks share the threads."""
    starts = np.cumsum([0, *(step.tasks for step in steps)]).tolist()

    def run(task: int, _: int) -> None:
        number = bisect_right(starts, task) - 1
        steps[number].run(task - starts[number])

    run_chunks(run, starts[-1], threads, 1)
    return [step.result() for step in steps]


class DenseStep:
    """Attention over all tokens, PART of them a task; queries (q_heads, d) times the scale."""

    def __init__(self, store: KVStore, queries: Floats, group: int) -> None:
        self.store, self.heads = store, _Heads(store, queries, group)
        self.parts = max(1, -(-len(store) // PART))
        units = len(self.heads.units)
        self.tasks = units * self.parts
        self.outputs = np.empty((units, self.parts, MOST_QUERIES, store.head_dim), np.float32)
        self.lses = np.empty((units, self.parts, MOST_QUERIES), np.float32)

    def run(self, task: int) -> None:
        unit, part = divmod(task, self.parts)
        head, own = self.heads.units[unit]
        queries, pages = self.heads.queries[own], self.store._pages.addresses(head)
        size, first, last = len(queries), part * PART, min((part + 1) * PART, len(self.store))
        output, lse = self.outputs[unit, part, :size], self.lses[unit, part, :size]
        kernels.attend_dense(self.store._rows, queries, pages, first, last, output, lse)

    def result(self) -> Attention:
        heads = self.heads
        for unit, (head, own) in enumerate(heads.units):
            size = own.stop - own.start
            kernels.merge(
                np.ascontiguousarray(self.outputs[unit, :, :size]), np.ascontiguousarray(self.lses[unit, :, :size]),
                heads.output[own], heads.lse[own],
            )  # fmt: skip
            heads.reads[head] = len(self.store)
        return heads.result()


class PriorityStep:
    """Attention estimated from a priority sample, see `KVStore.attend`; queries (q_heads, d) times the scale."""

    def __init__(self, store: KVStore, queries: Floats, group: int, reading: Reading) -> None:
        self.store, self.heads, self.reading = store, _Heads(store, queries, group), reading
        self.tasks = len(self.heads.units)
        self.reads = [0] * self.tasks

    def run(self, task: int) -> None:
        self.reads[task] = _Sampler(self.store, self.heads, task, self.reading).attend()

    def result(self) -> Attention:
        for (head, _), reads in zip(self.heads.units, self.reads, strict=True):
            self.heads.reads[head] += reads
        return self.heads.result()


class EstimatorStep:
    """Attention by any estimator, in NumPy, a KV head a task; queries (q_heads, d) times the scale."""

    def __init__(self, store: KVStore, queries: Floats, group: int, reading: Reading) -> None:
        self.store, self.heads, self.reading = store, _Heads(store, queries, group), reading
        self.tasks, self.group = store.kv_heads, group

    def run(self, task: int) -> None:
        heads, own = self.heads, slice(task * self.group, (task + 1) * self.group)
        head, index, always, budget, key = _question(self.store, self.reading, task)
        found = self.reading.estimator.attend(head, heads.queries[own], budget, always, key, index)
        heads.output[own], heads.lse[own], heads.error[own] = found.output, found.lse, found.error
        heads.reads[task] = found.reads

    def result(self) -> Attention:
        return self.heads.result()


def _question(store: KVStore, reading: Reading, head: int) -> tuple[StoreHead, Any, NDArray[np.int64], int, int]:
    """A KV head and its index, the tokens that are always read, how many others, and the key of the draw."""
    view, always = StoreHead(store, head), exact_tokens(len(store), reading.sink, reading.local)
    key = int(sampling_key(store.seed, reading.step, reading.layer, head))
    return view, store._index_of(reading.estimator, view, always), always, reading.budget(len(store)), key


def retrieve_priority(store: KVStore, queries: Floats, group: int, reading: Reading, threads: int) -> list[Retrieval]:
    """What a `PriorityStep` reads, given the same."""
    heads = _Heads(store, queries, group)
    found: list[Retrieval | None] = [None] * len(heads.units)

    def retrieve(unit: int, _: int) -> None:
        sampler, (head, own) = _Sampler(store, heads, unit, reading), heads.units[unit]
        if sampler.eps is not None:
            sampler.attend()  # which tells how much has to be read
        found[unit] = Retrieval(head, own.start, own.stop, *sampler.choose())

    run_chunks(retrieve, len(heads.units), threads, 1)
    return [one for one in found if one is not None]


class _Sampler:
    """A priority sample for one group of queries: drawn, read, and enlarged where an error was wished for."""

    def __init__(self, store: KVStore, heads: _Heads, unit: int, reading: Reading) -> None:
        assert isinstance(reading.estimator, Priority)
        self.store, self.heads, self.estimator, self.eps = store, heads, reading.estimator, reading.estimator.eps
        self.head, self.own = heads.units[unit]
        self.queries, self.count = heads.queries[self.own], len(store)
        self.first, last = reading.bounds(self.count)
        self.last = max(self.first, min(last, store._codes.coded))
        self.budget = reading.budget(self.count)
        self.pages, self.codes = store._pages.addresses(self.head), store._code_pages.addresses(self.head)
        self.key = np.uint64(sampling_key(store.seed, reading.step, reading.layer, unit))
        self.scratch = _scratch(len(self.queries) + 2, max(PAGE, len(self.codes) * PAGE))

    def _scan(self) -> None:
        if self.last > self.first:
            common = self.store._codes.common[self.head]
            self.store._key_codes.scan(common, self.codes, self.queries, self.first, self.last, self.scratch)

    def attend(self) -> int:
        """Attend, with more tokens as long as a wished error is exceeded; returns how many were read, each once."""
        store, own, estimator = self.store, self.own, self.estimator
        output, lse, variance = self.heads.output[own], self.heads.lse[own], np.zeros(len(self.queries), np.float32)
        exact = self.count - (self.last - self.first)
        if self.eps is not None:
            self.budget = max(self.budget, LEAST_SAMPLE)
        while True:
            if self.eps is not None and exact + self.budget >= DENSE_AT * self.count:
                self.budget = self.count
                kernels.attend_dense(store._rows, self.queries, self.pages, 0, self.count, output, lse)
                self.heads.error[own] = 0.0
                return self.count
            self._scan()
            reads = attend_priority_kernel(
                store._rows, self.queries, self.pages, self.count, self.first, self.last, self.scratch, self.codes,
                store._key_codes.norms_at, estimator.temperature, estimator.floor, self.key, self.budget, output, lse,
                variance,
            )  # fmt: skip
            norm = np.linalg.norm(output, axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.where(variance > 0, np.sqrt(variance) / norm, 0.0)
            self.heads.error[own] = error
            if self.eps is None:
                return int(reads)
            excess = float(normal_quantile(estimator.delta) * error.max(initial=0.0) / self.eps)
            if excess <= 1:
                return int(reads)
            self.budget = enlarged(self.budget, excess)

    def choose(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions of a sample of the budget's size, ascending, and the logarithms of their probabilities."""
        self._scan()
        sampled = self.last - self.first
        most = self.count - sampled + min(self.budget, sampled)
        positions, chances = np.empty(most, np.int32), np.empty(most, np.float32)
        found = choose(
            self.scratch, self.codes, self.store._key_codes.norms_at, self.count, self.first, self.last,
            self.estimator.temperature, self.estimator.floor, self.key, self.budget, positions, chances,
        )  # fmt: skip
        return positions[:found].astype(np.int64), np.log(chances[:found], dtype=np.float64)


def retrieve_estimator(store: KVStore, queries: Floats, group: int, reading: Reading, threads: int) -> list[Retrieval]:
    """What an `EstimatorStep` reads, given the same."""
    found: list[list[Choice]] = [[] for _ in range(store.kv_heads)]

    def retrieve(task: int, _: int) -> None:
        head, index, always, budget, key = _question(store, reading, task)
        own = queries[task * group : (task + 1) * group]
        found[task] = reading.estimator.retrieve(head, own, budget, always, key, index)

    run_chunks(retrieve, store.kv_heads, threads, 1)
    return [
        Retrieval(head, head * group + i * size, head * group + (i + 1) * size, *choice)
        for head, choices in enumerate(found)
        for size in [group // len(choices)]
        for i, choice in enumerate(choices)
    ]


_local = threading.local()


def _scratch(rows: int, room: int) -> Floats:
    """Uninitialised memory of this thread: anew for each step, its pages would cost more than what is done in them."""
    kept: Floats | None = getattr(_local, "scratch", None)
    if kept is None or kept.size < rows * room:
        kept = _local.scratch = aligned_empty((rows * room,), np.float32)
    return kept[: rows * room].reshape(rows, room)


class _Heads:
    """What all groups of queries write to: those of a KV head, MOST_QUERIES of them at a time."""

    def __init__(self, store: KVStore, queries: Floats, group: int) -> None:
        self.queries = queries
        self.units = [
            (head, slice(start, min(start + MOST_QUERIES, (head + 1) * group)))
            for head in range(store.kv_heads)
            for start in range(head * group, (head + 1) * group, MOST_QUERIES)
        ]
        self.output = np.empty_like(queries)
        self.lse = np.empty(len(queries), np.float32)
        self.error = np.zeros(len(queries), np.float32)
        self.reads = np.zeros(store.kv_heads, np.int64)

    def result(self) -> Attention:
        return Attention(self.output, self.lse, self.reads, self.error)
