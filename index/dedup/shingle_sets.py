"""The sets of shingles of documents that are compared exactly."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.shingle_sets import distinct_rows, gather_rows, jaccard_pairs
from nearhash.kernels.threads import resolve_threads, run_chunks

Sets = tuple[NDArray[np.int64], NDArray[np.uint64]]


def as_sets(shingles: Sets, threads: int | None) -> Sets:
    """Rows of tokens in CSR as sorted sets. The tokens given are overwritten."""
    indptr, tokens = shingles
    rows = len(indptr) - 1
    counts = np.empty(rows, np.int64)
    workers = resolve_threads(threads)
    run_chunks(lambda first, last: distinct_rows(indptr, tokens, first, last, counts), rows, workers, 64)
    starts = np.zeros(rows + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    out = np.empty(starts[-1], np.uint64)
    run_chunks(lambda first, last: gather_rows(indptr, tokens, counts, first, last, starts, out), rows, workers, 256)
    return starts, out


def jaccard(sets: Sets, left: NDArray[Any], right: NDArray[Any], threads: int | None) -> NDArray[np.float64]:
    """Jaccard similarity of pairs of sets, given by their numbers."""
    left, right = np.ascontiguousarray(left, np.int64), np.ascontiguousarray(right, np.int64)
    out = np.empty(len(left), np.float64)
    workers = resolve_threads(threads)
    run_chunks(
        lambda first, last: jaccard_pairs(sets[0], sets[1], left, right, first, last, out), len(left), workers, 256
    )
    return out
