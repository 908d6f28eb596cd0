"""Exact search of binary codes: how the work is cut, which queries scan and which go through tables."""

import threading

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arrays import aligned_empty
from nearhash.index.hamming_tables import Tables
from nearhash.index.points import Filter
from nearhash.kernels.hamming import (
    block_words,
    count_within,
    place_within,
    pool_capacity,
    scan_code_slots,
    scan_codes,
    unpack_codes,
)
from nearhash.kernels.simd_hamming import ROWS
from nearhash.kernels.threads import run_chunks

# A filter that leaves less than this share of the rows is answered from the list of its slots, one random row each.
SPARSE = 1 / 16
_BATCH = 256  # queries that share a pass over the rows
_CELLS = 1 << 22  # counters of a range search that are in memory at once, for each thread

_memory = threading.local()

Codes = NDArray[np.uint64]
Sizes = NDArray[np.int64]  # a name of its own, as annotations of a function inside of another are evaluated every time
Pools = tuple[Codes, Sizes]


def nearest_codes(
    queries: Codes, rows: Codes, tables: Tables | None, k: int, flips: int | None, wanted: Filter, threads: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k nearest rows (n, w) of queries (q, w) among those that pass the filter.

    Returns slots (q, k) int32, -1 where fewer match, and distances (q, k) float32, ascending, inf there.
    """
    slots = np.full((len(queries), k), -1, np.int32)
    distances = np.full((len(queries), k), np.inf, np.float32)
    if not len(queries) or not len(rows):
        return slots, distances
    most = min(k, len(rows))
    if tables is None and wanted.everything:  # the rest is as long as the scan of some thousand rows
        unpack_codes(*scan_pools(queries, rows, 0, most, wanted, threads), slots, distances)
        return slots, distances
    sparse = wanted.counts < len(rows) * SPARSE
    few, rest = np.flatnonzero(sparse), np.flatnonzero(~sparse)
    if len(few):
        _unpack(_slot_pools(queries, few, rows, most, wanted, threads), few, slots, distances)
    if tables is not None and len(rest):
        keys, sizes, done = tables.search(_rows(queries, rest), rows, most, flips, wanted.of(rest), threads)
        found, pools = np.flatnonzero(done), (keys, sizes)
        if len(found):
            answered = rest[found]
            pools = (_rows(keys, found), sizes[found])
            if tables.count < len(rows):
                part = wanted.of(answered)
                pools = scan_pools(_rows(queries, answered), rows, tables.count, most, part, threads, pools)
            _unpack(pools, answered, slots, distances)
        rest = rest[done == 0]
    if len(rest):
        pools = scan_pools(_rows(queries, rest), rows, 0, most, wanted.of(rest), threads)
        _unpack(pools, rest, slots, distances)
    return slots, distances


def _scratch(words: int) -> Codes:
    """Memory of this thread for a block of codes: to find some costs more than to scan a thousand rows."""
    block: Codes | None = getattr(_memory, "block", None)
    if block is None or len(block) != block_words(words):
        block = _memory.block = aligned_empty((block_words(words),), np.uint64)
    return block


def _empty_pools(queries: int, k: int) -> Pools:
    return np.empty((queries, pool_capacity(k)), np.uint64), np.zeros(queries, np.int64)


def _rows(array: NDArray[np.uint64], chosen: NDArray[np.int64]) -> NDArray[np.uint64]:
    return array if len(chosen) == len(array) else array[chosen]


def _unpack(pools: Pools, queries: NDArray[np.int64], slots: NDArray[np.int32], distances: NDArray[np.float32]) -> None:
    own_slots, own_distances = (np.empty((len(queries), slots.shape[1]), out.dtype) for out in (slots, distances))
    unpack_codes(*pools, own_slots, own_distances)
    slots[queries], distances[queries] = own_slots, own_distances


def _slot_pools(queries: Codes, chosen: NDArray[np.int64], rows: Codes, k: int, wanted: Filter, threads: int) -> Pools:
    """Selective filters: for each chosen query look only at the slots that its filter names."""
    keys, sizes = _empty_pools(len(queries), k)
    shared = None if len(wanted.windows) else wanted.slots(0)  # a mask is the same for all queries

    def task(first: int, last: int) -> None:
        for query in chosen[first:last]:
            own = wanted.slots(query) if shared is None else shared
            scan_code_slots(
                queries, query, rows, own, k, wanted.mask, wanted.labels, wanted.windows, keys, sizes
            )  # fmt: skip

    run_chunks(task, len(chosen), threads, 1)
    return _rows(keys, chosen), sizes[chosen]


def scan_pools(
    queries: Codes, rows: Codes, first_row: int, k: int, wanted: Filter, threads: int, pools: Pools | None = None
) -> Pools:
    """Pools of the k nearest rows from `first_row` on, added to `pools` of the rows before it.

    Many queries are shared out over the threads, so that each reads all rows for its own; few scan a range of rows in
    each thread. The result is the same.
    """
    keys, sizes = _empty_pools(len(queries), k) if pools is None else pools
    bounds = np.full(len(queries), 64 * rows.shape[1] + 1, np.int64)
    if pools is not None:
        for query in np.flatnonzero(sizes >= k):
            bounds[query] = int(keys[query, : sizes[query]].max()) >> 32

    def scan(part: slice, first: int, last: int, keys: Codes, sizes: Sizes) -> None:
        windows = wanted.windows[part] if len(wanted.windows) else wanted.windows
        scan_codes(
            queries[part], rows, first, last, k, wanted.mask, wanted.labels, windows,
            _scratch(rows.shape[1]), keys, sizes, bounds[part].copy(),
        )  # fmt: skip

    if threads == 1 or len(queries) >= 4 * threads:
        chunk = min(_BATCH, -(-len(queries) // threads))

        def by_queries(first: int, last: int) -> None:
            scan(slice(first, last), first_row, len(rows), keys[first:last], sizes[first:last])

        run_chunks(by_queries, len(queries), threads, chunk)
        return keys, sizes

    results: dict[int, Pools] = {}

    def by_rows(first: int, last: int) -> None:
        own = _empty_pools(len(queries), k)
        scan(slice(0, len(queries)), first_row + first, first_row + last, *own)
        results[first] = own

    count = len(rows) - first_row
    run_chunks(by_rows, count, threads, -(-count // (threads * ROWS)) * ROWS)
    return _merged([(keys, sizes), *(results[first] for first in sorted(results))], k)


def _merged(parts: list[Pools], k: int) -> Pools:
    """The k least keys of several pools of each query."""
    keys = np.concatenate([part for part, _ in parts], axis=1)
    counted = np.concatenate([np.arange(part.shape[1])[None] < sizes[:, None] for part, sizes in parts], axis=1)
    keys[~counted] = np.iinfo(np.uint64).max
    keys.sort(axis=1)
    return np.ascontiguousarray(keys[:, :k]), np.minimum(counted.sum(axis=1), k).astype(np.int64)


def within_radius(
    queries: Codes, rows: Codes, radius: int, wanted: Filter, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """All rows within `radius` bits: (indptr (q + 1,), slots, distances), each query's by distance and slot.

    Scanned twice: counted by distance first, so that every row then has its place and nothing is sorted.
    """
    indptr = np.zeros(len(queries) + 1, np.int64)
    if radius < 0 or not len(queries) or not len(rows):
        return indptr, np.empty(0, np.int32), np.empty(0, np.float32)
    bound = radius + 1
    chunk = max(1, min(_BATCH, -(-len(queries) // threads), _CELLS // bound))
    parts: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}

    def task(first: int, last: int) -> None:
        asked, own = queries[first:last], wanted.of(slice(first, last))
        filters = own.mask, own.labels, own.windows
        block = _scratch(rows.shape[1])
        counts = np.zeros((last - first, bound), np.int64)
        count_within(asked, rows, bound, *filters, block, counts)
        indptr[first + 1 : last + 1] = counts.sum(axis=1)
        places = np.concatenate([[0], np.cumsum(counts)])[:-1].reshape(counts.shape)
        total = int(counts.sum())
        slots, distances = np.empty(total, np.int32), np.empty(total, np.float32)
        place_within(asked, rows, bound, *filters, block, places, slots, distances)
        parts[first] = slots, distances

    run_chunks(task, len(queries), threads, chunk)
    np.cumsum(indptr, out=indptr)
    slots, distances = (np.concatenate([parts[first][i] for first in sorted(parts)]) for i in (0, 1))
    return indptr, slots.astype(np.int32, copy=False), distances.astype(np.float32, copy=False)
