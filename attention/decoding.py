"""One decoding step over a store: heads and parts of tokens on threads, merged in an order of their own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.arguments import Reading
from nearhash.attention.estimators.base import normal_quantile
from nearhash.attention.results import Attention
from nearhash.index.arrays import aligned_empty
from nearhash.kernels import attention as kernels
from nearhash.kernels.attention_priority import attend_priority as attend_priority_kernel
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.attention_sampling import sampling_key
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
    count, heads = len(store), _Heads(store, queries, group)
    first, last = reading.bounds(count)
    last = max(first, min(last, store._codes.coded))
    budget = reading.budget(count)

    def attend(unit: int, _: int) -> None:
        heads.reads_of[unit] = _sampled(store, heads, unit, reading, first, last, budget)

    run_chunks(attend, len(heads.units), threads, 1)
    for unit, (head, _) in enumerate(heads.units):
        heads.reads[head] += heads.reads_of[unit]
    return heads.result()


def _sampled(store: KVStore, heads: _Heads, unit: int, reading: Reading, first: int, last: int, budget: int) -> int:
    """Attend for one group of queries, with more and more tokens where an error was wished for; returns the reads."""
    head, own = heads.units[unit]
    count, queries = len(store), heads.queries[own]
    output, lse, variance = heads.output[own], heads.lse[own], np.zeros(len(queries), np.float32)
    pages, codes = store._pages.addresses(head), store._code_pages.addresses(head)
    key = np.uint64(sampling_key(store.seed, reading.step, reading.layer, unit))
    room = max(PAGE, len(codes) * PAGE)
    scratch = _scratch(len(queries) + 2, room)
    reads = 0
    while True:
        if reads and budget >= _DENSE_AT * count:
            kernels.attend_dense(store._rows, queries, pages, 0, count, output, lse)
            heads.error[own] = 0.0
            return reads + count
        if last > first:
            store._key_codes.scan(store._codes.common[head], codes, queries, first, last, scratch)
        read = attend_priority_kernel(
            store._rows, queries, pages, count, first, last, scratch, codes, store._key_codes.norms_at,
            reading.temperature, reading.floor, key, budget, output, lse, variance,
        )  # fmt: skip
        reads += int(read)
        norm = np.linalg.norm(output, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(variance > 0, np.sqrt(variance) / norm, 0.0)
        heads.error[own] = error
        if reading.eps is None or (normal_quantile(reading.delta) * error <= reading.eps).all():
            return reads
        budget *= 2


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
