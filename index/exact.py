"""Exact search over the rows of a matrix: which path, how the work is cut, how partial results are joined."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.points import Filter
from nearhash.kernels.pool import EMPTY_KEY
from nearhash.kernels.product import BLOCK, select_by_product
from nearhash.kernels.scan import DOT, L2, rescore, scan_radius, scan_rows, scan_spans, unpack_pools
from nearhash.kernels.simd import PRODUCT_QUERIES
from nearhash.kernels.threads import run_chunks

# Batches of at least this many queries use a matrix product; measured crossover 8-16 at dim 100 and 784.
PRODUCT_BATCH = 12
# A filter that leaves less than this share of the rows is answered from the list of its slots, one random row each.
SPARSE = 1 / 16

Pools = tuple[NDArray[np.uint64], NDArray[np.int64]]


def _empty_pools(queries: int, k: int) -> Pools:
    return np.full((queries, k), EMPTY_KEY), np.zeros(queries, np.int64)


def _scoring(metric: str) -> tuple[int, np.float32]:
    """(kernel metric, offset) such that the distance is ``offset - factor * <q, x>`` for all but l2."""
    return (L2 if metric == "l2" else DOT), np.float32(1.0 if metric == "cosine" else 0.0)


def exact_search(
    queries: NDArray[Any],
    rows: NDArray[Any],
    factors: NDArray[np.float32],
    metric: str,
    wanted: Filter,
    k: int,
    threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k nearest rows of each query among those that pass the filter.

    queries (q, dim) float32 (unit vectors for cosine) or the integer dtype of the rows; rows (n, dim) float32, uint16
    (half bits), uint8 or int8; factors (n,) float32 inverse norms or (0,).
    Returns slots (q, k) int32, -1 where fewer match, and distances (q, k) float32, ascending, inf there.
    """
    slots = np.full((len(queries), k), -1, np.int32)
    distances = np.full((len(queries), k), np.inf, np.float32)
    pools, sizes = _empty_pools(len(queries), min(k, max(1, len(rows))))
    if len(queries) and len(rows):
        sparse = wanted.counts < len(rows) * SPARSE
        few, many = np.flatnonzero(sparse), np.flatnonzero(~sparse)
        if len(few) >= PRODUCT_BATCH and not len(wanted.windows):  # a mask is the same for all queries, so all are few
            return _search_shared(queries, rows, factors, metric, wanted, k, threads)
        if len(few):
            _search_spans(queries, few, rows, factors, metric, wanted, pools, sizes, threads)
        if len(many) >= PRODUCT_BATCH:
            part = _search_product(queries[many], rows, factors, metric, wanted.of(many), pools.shape[1], threads)
            pools[many], sizes[many] = part
        elif len(many):
            part = _search_scan(queries[many], rows, factors, metric, wanted.of(many), pools.shape[1], threads)
            pools[many], sizes[many] = part
        unpack_pools(pools, sizes, slots, distances)
    return slots, distances


def _search_spans(
    queries: NDArray[Any],
    chosen: NDArray[np.int64],
    rows: NDArray[Any],
    factors: NDArray[np.float32],
    metric: str,
    wanted: Filter,
    pools: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    threads: int,
) -> None:
    """Selective filters: for each chosen query look only at the slots that its filter names."""
    kernel_metric, offset = _scoring(metric)
    asked, own = (queries, wanted) if len(chosen) == len(queries) else (queries[chosen], wanted.of(chosen))
    slots, spans = own.spans()
    found, counts = _empty_pools(len(chosen), pools.shape[1])

    def task(first: int, last: int) -> None:
        block = slice(first, last)
        scan_spans(
            asked[block], rows, slots, spans[block], kernel_metric, offset, factors, own.mask, found[block],
            counts[block],
        )  # fmt: skip

    run_chunks(task, len(chosen), threads, max(1, -(-len(chosen) // (4 * threads))) if threads > 1 else len(chosen))
    pools[chosen], sizes[chosen] = found, counts


def _search_shared(
    queries: NDArray[Any],
    rows: NDArray[Any],
    factors: NDArray[np.float32],
    metric: str,
    wanted: Filter,
    k: int,
    threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """A selective mask and many queries: the few rows that pass, copied together and searched as if they were all.

    Their order stays, and so do ties.
    """
    passing = wanted.slots(0)
    own = factors[passing] if len(factors) else factors
    everything = wanted._replace(mask=wanted.mask[:0], counts=np.full(len(queries), len(passing), np.int64))
    places, distances = exact_search(queries, rows[passing], own, metric, everything, k, threads)
    if not len(passing):
        return places, distances
    return np.where(places >= 0, passing[places], np.int32(-1)).astype(np.int32), distances


def _search_scan(
    queries: NDArray[Any],
    rows: NDArray[Any],
    factors: NDArray[np.float32],
    metric: str,
    wanted: Filter,
    k: int,
    threads: int,
) -> Pools:
    """Small batches: vector scan, each thread over its own range of rows."""
    kernel_metric, offset = _scoring(metric)

    def part(first: int, last: int) -> Pools:
        pools, sizes = _empty_pools(len(queries), k)
        scan_rows(
            queries, rows, first, last, kernel_metric, offset, factors,
            wanted.mask, wanted.labels, wanted.windows, pools, sizes,
        )  # fmt: skip
        return pools, sizes

    return _over_rows(part, len(rows), 1, threads, k)


def _search_product(
    queries: NDArray[Any],
    rows: NDArray[Any],
    factors: NDArray[np.float32],
    metric: str,
    wanted: Filter,
    k: int,
    threads: int,
) -> Pools:
    """Large batches: a matrix product with fused selection, then exact distances of the survivors.

    The expansion |x|^2 - 2 <q, x> loses digits where points are close together, so more than k candidates are
    kept and their distances computed directly. A bound on the rounding error then proves for each query that
    nothing nearer was lost; where it cannot, that query is scanned. So both paths return the same.
    """
    kernel_metric, offset = _scoring(metric)
    floats = np.ascontiguousarray(queries, np.float32)
    whole = np.zeros((-(-len(floats) // PRODUCT_QUERIES) * PRODUCT_QUERIES, floats.shape[1]), np.float32)
    whole[: len(floats)] = floats
    kept = min(len(rows), k + 8 + k // 4)
    lengths: list[float] = []

    def part(first: int, last: int) -> Pools:
        pools, sizes = _empty_pools(len(queries), kept)
        for start, stop in _float_parts(rows, first, last):
            longest = select_by_product(
                whole, len(queries), _as_floats(rows, factors, start, stop), start, kernel_metric,
                wanted.mask, wanted.labels, wanted.windows, pools, sizes,
            )  # fmt: skip
            lengths.append(float(longest))
        return pools, sizes

    candidates, counts = _over_rows(part, len(rows), BLOCK, threads, kept)
    slots, scores = np.empty(candidates.shape, np.int32), np.empty(candidates.shape, np.float32)
    unpack_pools(candidates, counts, slots, scores)
    pools, sizes = _empty_pools(len(queries), k)

    def measure(first: int, last: int) -> None:
        block = slice(first, last)
        rescore(
            queries[block],
            rows,
            kernel_metric,
            offset,
            factors,
            slots[block],
            counts[block],
            pools[block],
            sizes[block],
        )

    run_chunks(measure, len(queries), threads, 64)
    complete = (counts < kept) | (kept == len(rows))  # everything that matches is among the candidates
    doubtful = np.flatnonzero(
        ~complete & (_worst(pools, sizes, k) > _least_beyond(floats, scores[:, -1], metric, max(lengths)))
    )
    if len(doubtful):
        part_pools = _search_scan(queries[doubtful], rows, factors, metric, wanted.of(doubtful), k, threads)
        pools[doubtful], sizes[doubtful] = part_pools
    return pools, sizes


def _float_parts(rows: NDArray[Any], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows to be multiplied at once: all where they are float32, else few enough to convert in the cache."""
    step = last - first if rows.dtype == np.float32 else 4 * BLOCK
    for start in range(first, last, max(1, step)):
        yield start, min(start + step, last)


def _as_floats(rows: NDArray[Any], factors: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
    part = rows[start:stop]
    if part.dtype == np.uint16:
        part = part.view(np.float16)
    part = part.astype(np.float32, copy=False)
    return part * factors[start:stop, None] if len(factors) else part


def _worst(pools: NDArray[np.uint64], sizes: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """The k-th best distance of each query, inf where there are fewer."""
    slots, distances = np.empty(pools.shape, np.int32), np.empty(pools.shape, np.float32)
    unpack_pools(pools, sizes, slots, distances)
    return distances[:, k - 1].astype(np.float64)


def _least_beyond(
    floats: NDArray[np.float32], last_scores: NDArray[np.float32], metric: str, longest: float
) -> NDArray[np.float64]:
    """A distance that no row with a score beyond the last one kept can fall below.

    A float32 sum of d products is off by at most d u / (1 - d u) times the sum of their magnitudes, u = 2^-24
    (Higham, "Accuracy and Stability of Numerical Algorithms", sec. 3.1), which is at most |q| |x|; twice that, and some
    more terms, cover the norms and the direct distances as well.
    """
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", floats, floats, dtype=np.float64))
    share = (floats.shape[1] + 16) * 2.0**-23
    if metric == "l2":
        return np.asarray(lengths**2 + last_scores - share * (lengths + longest) ** 2)
    offset = 1.0 if metric == "cosine" else 0.0
    return np.asarray(offset + last_scores - share * (lengths * longest + offset))


def _over_rows(part: Any, rows: int, unit: int, threads: int, k: int) -> Pools:
    """Run `part` over ranges of rows, one a thread, cut at multiples of `unit`, and keep the k best of all."""
    share = -(-rows // (threads * unit)) * unit
    results: dict[int, Pools] = {}

    def task(first: int, last: int) -> None:
        results[first] = part(first, last)

    run_chunks(task, rows, threads, share)
    if len(results) == 1:
        return results[0]
    parts = [results[first] for first in sorted(results)]
    merged = np.sort(np.concatenate([pools for pools, _ in parts], axis=1), axis=1)[:, :k]
    return np.ascontiguousarray(merged), np.minimum(sum(sizes for _, sizes in parts), k)


def range_search(
    queries: NDArray[Any],
    rows: NDArray[Any],
    factors: NDArray[np.float32],
    metric: str,
    wanted: Filter,
    radius: float,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """All rows at distance <= radius: (indptr (q + 1,), slots, distances), each query's ascending."""
    kernel_metric, offset = _scoring(metric)
    found: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = [
        (np.empty(0, np.int32), np.empty(0, np.float32)) for _ in range(len(queries))
    ]

    def task(first: int, last: int) -> None:
        for query in range(first, last):
            pieces, row, room = [], 0, 1024
            while row < len(rows):
                slots, distances = np.empty(room, np.int32), np.empty(room, np.float32)
                row, count = scan_radius(
                    queries, query, rows, row, kernel_metric, offset, factors,
                    wanted.mask, wanted.labels, wanted.windows, np.float32(radius), slots, distances,
                )  # fmt: skip
                pieces.append((slots[:count], distances[:count]))
                room = min(2 * room, max(1, len(rows)))
            if pieces:
                slots, distances = (np.concatenate(column) for column in zip(*pieces, strict=True))
                order = np.lexsort((slots, distances))
                found[query] = slots[order], distances[order]

    run_chunks(task, len(queries), threads, 1)
    indptr = np.concatenate([[0], np.cumsum([len(slots) for slots, _ in found])]).astype(np.int64)
    if not len(queries):
        return indptr, np.empty(0, np.int32), np.empty(0, np.float32)
    return indptr, np.concatenate([slots for slots, _ in found]), np.concatenate([d for _, d in found])
