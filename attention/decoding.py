"""One decoding step over a store: heads and parts of tokens on threads, merged in an order of their own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.arguments import Reading
from nearhash.attention.estimators.base import Choice, exact_tokens, normal_quantile
from nearhash.attention.estimators.priority import Priority
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
_DENSE_AT = 0.5  # share of the tokens at which an error that was wished for is no longer sought by sampling


def attend_dense(store: KVStore, queries: Floats, group: int, threads: int) -> Attention:
    """Attention over all tokens; queries (q_heads, d) times the scale."""
    count, heads = len(store), _Heads(store, queries, group)
    parts = max(1, -(-count // PART))
    outputs = np.empty((len(heads.units), parts, MOST_QUERIES, store.head_dim), np.float32)
    lses = np.empty((len(heads.units), parts, MOST_QUERIES), np.float32)

    def attend(task: int, _: int) -> None:
        unit, part = divmod(task, parts)
        head, own = heads.units[unit]
        some = queries[own]
        first, last = part * PART, min((part + 1) * PART, count)
        pages, size = store._pages.addresses(head), len(some)
        kernels.attend_dense(store._rows, some, pages, first, last, outputs[unit, part, :size], lses[unit, part, :size])

    run_chunks(attend, len(heads.units) * parts, threads, 1)
    for unit, (head, own) in enumerate(heads.units):
        size = own.stop - own.start
        kernels.merge(
            np.ascontiguousarray(outputs[unit, :, :size]), np.ascontiguousarray(lses[unit, :, :size]),
            heads.output[own], heads.lse[own],
        )  # fmt: skip
        heads.reads[head] = count
    return heads.result()


def attend_priority(store: KVStore, queries: Floats, group: int, reading: Reading, threads: int) -> Attention:
    """Attention estimated from a priority sample, see `KVStore.attend`; queries (q_heads, d) times the scale."""
    heads = _Heads(store, queries, group)

    def attend(unit: int, _: int) -> None:
        heads.reads_of[unit] = _Sampler(store, heads, unit, reading).attend()

    run_chunks(attend, len(heads.units), threads, 1)
    for unit, (head, _) in enumerate(heads.units):
        heads.reads[head] += heads.reads_of[unit]
    return heads.result()


def retrieve_priority(store: KVStore, queries: Floats, group: int, reading: Reading, threads: int) -> list[Retrieval]:
    """What `attend_priority` reads, given the same."""
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
        """Attend, with more and more tokens where an error was wished for; returns the reads."""
        store, own, estimator = self.store, self.own, self.estimator
        output, lse, variance = self.heads.output[own], self.heads.lse[own], np.zeros(len(self.queries), np.float32)
        reads = 0
        while True:
            if reads and self.budget >= _DENSE_AT * self.count:
                self.budget = self.count
                kernels.attend_dense(store._rows, self.queries, self.pages, 0, self.count, output, lse)
                self.heads.error[own] = 0.0
                return reads + self.count
            self._scan()
            read = attend_priority_kernel(
                store._rows, self.queries, self.pages, self.count, self.first, self.last, self.scratch, self.codes,
                store._key_codes.norms_at, estimator.temperature, estimator.floor, self.key, self.budget, output, lse,
                variance,
            )  # fmt: skip
            reads += int(read)
            norm = np.linalg.norm(output, axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.where(variance > 0, np.sqrt(variance) / norm, 0.0)
            self.heads.error[own] = error
            if self.eps is None or (normal_quantile(estimator.delta) * error <= self.eps).all():
                return reads
            self.budget *= 2

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


def attend_estimator(store: KVStore, queries: Floats, group: int, reading: Reading, threads: int) -> Attention:
    """Attention by any estimator, one KV head after the other, in NumPy; queries (q_heads, d) times the scale."""
    count, heads = len(store), _Heads(store, queries, group)
    always, budget = exact_tokens(count, reading.sink, reading.local), reading.budget(count)

    def attend(head: int, _: int) -> None:
        own, view = slice(head * group, (head + 1) * group), StoreHead(store, head)
        key = int(sampling_key(store.seed, reading.step, reading.layer, head))
        index = store._index_of(reading.estimator, view, always)
        found = reading.estimator.attend(view, queries[own], budget, always, key, index)
        heads.output[own], heads.lse[own], heads.error[own] = found.output, found.lse, found.error
        heads.reads[head] = found.reads

    run_chunks(attend, store.kv_heads, threads, 1)
    return heads.result()


def retrieve_estimator(store: KVStore, queries: Floats, group: int, reading: Reading, threads: int) -> list[Retrieval]:
    """What `attend_estimator` reads, given the same."""
    count = len(store)
    always, budget = exact_tokens(count, reading.sink, reading.local), reading.budget(count)
    found: list[list[Choice]] = [[] for _ in range(store.kv_heads)]

    def retrieve(head: int, _: int) -> None:
        view, own = StoreHead(store, head), queries[head * group : (head + 1) * group]
        key = int(sampling_key(store.seed, reading.step, reading.layer, head))
        index = store._index_of(reading.estimator, view, always)
        found[head] = reading.estimator.retrieve(view, own, budget, always, key, index)

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
        self.reads_of = [0] * len(self.units)

    def result(self) -> Attention:
        return Attention(self.output, self.lse, self.reads, self.error)
