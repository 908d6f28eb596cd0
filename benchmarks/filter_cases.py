"""Filters of every selectivity, and the exact answers under them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Dataset
from benchmarks.distances import normalised, pair_distances

HALVINGS = range(13)  # selectivities 2^0 ... 2^-12
SEED = 5
BLOCK = 100  # queries whose scores with everything are held at a time
TOLERANCE = 1e-6  # relative; distances are compared in float64, their order was found in float32


@dataclass(frozen=True)
class Filter:
    """What may answer: base vectors whose label is in the query's window, or those of a mask.

    kind: "window" (a window for each query), "where" (a range of an integer column) or "allow" (a mask).
    share: of the base that matches. windows (q, 2) float64 for "window"; bounds, the range of the column, for "where";
    mask (n,) bool for all but "window".
    """

    kind: str
    share: float
    windows: NDArray[np.float64] | None = None
    bounds: tuple[int, int] | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Case:
    """One way to filter, at every selectivity. labels (n,) are ranks 0 ... n - 1 by what the case filters."""

    name: str
    kind: str
    labels: NDArray[np.int64]

    def filters(self, queries: int) -> Iterator[Filter]:
        count = len(self.labels)
        for halvings in HALVINGS:
            matches = max(1, count >> halvings)
            generator = np.random.default_rng((SEED, halvings))
            if self.kind == "window":
                starts = generator.integers(0, count - matches + 1, queries).astype(np.float64)
                yield Filter(self.kind, matches / count, windows=np.stack([starts, starts + matches], axis=1))
                continue
            start = int(generator.integers(0, count - matches + 1))
            mask = (self.labels >= start) & (self.labels < start + matches)
            yield Filter(self.kind, matches / count, bounds=(start, start + matches), mask=mask)


def cases(base: NDArray[np.float32]) -> list[Case]:
    """Labels that have nothing to do with the vectors, and labels that follow their first coordinate."""
    random = np.random.default_rng(SEED).permutation(len(base))
    correlated = np.empty(len(base), np.int64)
    correlated[np.argsort(base[:, 0], kind="stable")] = np.arange(len(base))
    return [
        Case("window, random labels", "window", random),
        Case("window, labels by the first coordinate", "window", correlated),
        Case("where, random column", "where", random),
        Case("allow, random mask", "allow", random),
    ]


class FilteredTruth:
    """The nearest among those that a filter leaves, from one exhaustive ranking of all base vectors."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        base, queries = data.base, data.queries
        if data.metric == "cosine":
            base, queries = normalised(base), normalised(queries)
        squares = np.einsum("ij,ij->i", base, base) if data.metric == "l2" else 0.0
        factor = np.float32(2.0 if data.metric == "l2" else 1.0)
        self._order = np.empty((len(queries), len(base)), np.int32)
        for first in range(0, len(queries), BLOCK):
            scores = squares - factor * (queries[first : first + BLOCK] @ base.T)
            self._order[first : first + BLOCK] = np.argsort(scores, axis=1)

    def nearest(self, wanted: Filter, labels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
        """(q, k) ids, -1 where fewer match."""
        found = np.full((len(self._order), k), -1, np.int64)
        for query, order in enumerate(self._order):
            matching = order[allowed(wanted, labels, order[None], query)[0]][:k]
            found[query, : len(matching)] = matching
        return found

    def recall(self, ids: NDArray[np.int64], nearest: NDArray[np.int64], wanted: Filter, case: Case) -> float:
        """Mean share of the nearest that were found; what does not match is wrong however near it is."""
        data = self.data
        distances = pair_distances(data.base, data.queries, ids, data.metric)
        right = pair_distances(data.base, data.queries, nearest, data.metric)
        expected = (nearest >= 0).sum(axis=1)
        farthest = np.where(nearest >= 0, right, -np.inf).max(axis=1, keepdims=True)
        near = distances <= farthest + TOLERANCE * np.abs(farthest)
        matching = np.stack([allowed(wanted, case.labels, row[None], query)[0] for query, row in enumerate(ids)])
        hits = np.minimum((near & matching & (ids >= 0)).sum(axis=1), expected)
        return float((hits / np.maximum(expected, 1)).mean())


def allowed(wanted: Filter, labels: NDArray[np.int64], ids: NDArray[Any], query: int) -> NDArray[np.bool_]:
    """Whether ids (..., m) may answer a query; -1 may not."""
    if wanted.windows is not None:
        low, high = wanted.windows[query]
        return (labels[ids] >= low) & (labels[ids] < high) & (ids >= 0)
    assert wanted.mask is not None
    return wanted.mask[ids] & (ids >= 0)
