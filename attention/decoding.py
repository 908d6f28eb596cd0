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
from nearhash.kernels.attention_priority import choose
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.attention_sampling import sampling_key
from nearhash.kernels.attention_units import attend_dense_units, attend_priority_units
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
    """Attention over all tokens, PART of them at a time; queries (q_heads, d) times the scale."""

    def __init__(self, store: KVStore, queries: Floats, group: int, workers: int) -> None:
        self.store, self.heads = store, _Heads(store, queries, group)
        parts, units, widest = max(1, -(-len(store) // PART)), len(self.heads.units), self.heads.widest
        self.tickets = np.array([0, units * parts])
        self.tasks = min(workers, units * parts)
        self.outputs = np.empty((units, parts, widest, store.head_dim), np.float32)
        self.lses = np.empty((units, parts, widest), np.float32)

    def run(self, task: int) -> None:
        store, heads = self.store, self.heads
        attend_dense_units(
            store._rows, self.tickets, heads.numbers, heads.starts, self.lses.shape[1], PART, heads.queries,
            store._pages.table, len(store), self.outputs, self.lses,
        )  # fmt: skip

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

    def __init__(self, store: KVStore, queries: Floats, group: int, reading: Reading, workers: int) -> None:
        self.samples = _Samples(store, queries, group, reading)
        units = len(self.samples.heads.units)
        self.tickets = np.array([0, units])
        self.tasks = units if self.samples.estimator.eps is not None else min(workers, units)

    def run(self, task: int) -> None:
        if self.samples.estimator.eps is None:
            self.samples.attend(self.tickets)
        else:
            self.samples.attend_within(task)

    def result(self) -> Attention:
        return self.samples.result()


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
    samples = _Samples(store, queries, group, reading)
    units = samples.heads.units
    found: list[Retrieval | None] = [None] * len(units)

    def retrieve(unit: int, _: int) -> None:
        head, own = units[unit]
        if samples.estimator.eps is not None:
            samples.attend_within(unit)  # which tells how much has to be read
        found[unit] = Retrieval(head, own.start, own.stop, *samples.choose(unit))

    run_chunks(retrieve, len(units), threads, 1)
    return [one for one in found if one is not None]


class _Samples:
    """Priority samples of all units: drawn, read, and enlarged where an error was wished for."""

    def __init__(self, store: KVStore, queries: Floats, group: int, reading: Reading) -> None:
        assert isinstance(reading.estimator, Priority)
        self.store, self.reading, self.estimator = store, reading, reading.estimator
        self.heads, self.count = _Heads(store, queries, group), len(store)
        self.first, last = reading.bounds(self.count)
        self.last = max(self.first, min(last, store._codes.coded))
        self.asked = store._key_codes.ask(store._codes.joint, queries)
        self.room = max(PAGE, store._code_pages.count * PAGE)
        self.budgets = np.full(len(self.heads.units), reading.budget(self.count))
        self.variances, self.reads = np.zeros(len(queries), np.float32), np.zeros(len(self.heads.units), np.int64)

    def attend(self, tickets: NDArray[np.int64]) -> None:
        """Attend for the units that tickets are drawn for."""
        store, heads, reading, estimator = self.store, self.heads, self.reading, self.estimator
        attend_priority_units(
            store._rows, self.asked, tickets, heads.numbers, heads.starts, heads.queries, store._pages.table,
            store._code_pages.table, store._key_codes.norms_at, self.count, self.first, self.last,
            estimator.temperature, estimator.floor, store.seed, reading.step, reading.layer, self.budgets,
            _scratch((heads.widest + 2) * self.room), self.room, heads.output, heads.lse, self.variances, self.reads,
        )  # fmt: skip

    def attend_within(self, unit: int) -> None:
        """Attend for a unit, with more tokens as long as the wished error is exceeded; each of them counts once."""
        store, estimator, (head, own) = self.store, self.estimator, self.heads.units[unit]
        assert estimator.eps is not None
        exact, budget = self.count - (self.last - self.first), max(int(self.budgets[unit]), LEAST_SAMPLE)
        while True:
            if exact + budget >= DENSE_AT * self.count:
                self.budgets[unit] = self.reads[unit] = self.count
                kernels.attend_dense(
                    store._rows, self.heads.queries[own], store._pages.addresses(head), 0, self.count,
                    self.heads.output[own], self.heads.lse[own],
                )  # fmt: skip
                self.variances[own] = 0.0
                return
            self.budgets[unit] = budget
            self.attend(np.array([unit, unit + 1]))
            excess = float(normal_quantile(estimator.delta) * self._errors(own).max(initial=0.0) / estimator.eps)
            if excess <= 1:
                return
            budget = enlarged(budget, excess)

    def _errors(self, own: slice) -> Floats:
        """Relative errors of outputs that the samples themselves show."""
        variances = self.variances[own]
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.sqrt(variances) / np.linalg.norm(self.heads.output[own], axis=1)
        found: Floats = np.where(variances > 0, errors, np.float32(0.0))
        return found

    def result(self) -> Attention:
        self.heads.error[:] = self._errors(slice(None))
        np.add.at(self.heads.reads, self.heads.numbers, self.reads)
        return self.heads.result()

    def choose(self, unit: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions of a sample of the budget's size, ascending, and the logarithms of their probabilities."""
        store, (head, own), budget = self.store, self.heads.units[unit], int(self.budgets[unit])
        pages, sampled, rows = store._code_pages.addresses(head), self.last - self.first, own.stop - own.start + 2
        lines = _scratch(rows * self.room)[: rows * self.room].reshape(rows, self.room)
        most = self.count - sampled + min(budget, sampled)
        positions, chances = np.empty(most, np.int32), np.empty(most, np.float32)
        key = np.uint64(sampling_key(store.seed, self.reading.step, self.reading.layer, unit))
        found = choose(
            self.asked, head, own.start, own.stop, lines, pages, store._key_codes.norms_at, self.count, self.first,
            self.last, self.estimator.temperature, self.estimator.floor, key, budget, positions, chances,
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


def _scratch(size: int) -> Floats:
    """Uninitialised memory of this thread: anew for each step, its pages would cost more than what is done in them."""
    kept: Floats | None = getattr(_local, "scratch", None)
    if kept is None or kept.size < size:
        kept = _local.scratch = aligned_empty((size,), np.float32)
    return kept


class _Heads:
    """What all groups of queries write to: those of a KV head, MOST_QUERIES of them at a time."""

    def __init__(self, store: KVStore, queries: Floats, group: int) -> None:
        self.queries = queries
        self.units = [
            (head, slice(start, min(start + MOST_QUERIES, (head + 1) * group)))
            for head in range(store.kv_heads)
            for start in range(head * group, (head + 1) * group, MOST_QUERIES)
        ]
        self.numbers = np.array([head for head, _ in self.units])
        self.starts = np.array([0, *(own.stop for _, own in self.units)])
        self.widest = min(MOST_QUERIES, group)
        self.output = np.empty_like(queries)
        self.lse = np.empty(len(queries), np.float32)
        self.error = np.zeros(len(queries), np.float32)
        self.reads = np.zeros(store.kv_heads, np.int64)

    def result(self) -> Attention:
        return Attention(self.output, self.lse, self.reads, self.error)
