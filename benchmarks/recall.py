"""Recall of approximate results against exact ones."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Dataset
from benchmarks.distances import pair_distances
from benchmarks.truth import Truth

TOLERANCE = 1e-9  # relative; the same pair may be summed in another order


def recall_at(dataset: Dataset, truth: Truth, ids: NDArray[np.int64], k: int) -> float:
    """Mean share of the k nearest that were found, over the queries of `dataset`.

    A result counts if its true distance is at most that of the k-th nearest, so any of several tied vectors is right.
    An id that a query's row names twice counts once, and -1 (nothing found) never.

    Parameters
    ----------
    ids : (q, at least k) int64
        Found, one row a query; only the first k columns are looked at.
    """
    found = np.asarray(ids, np.int64)[:, :k]
    if found.shape != (len(dataset.queries), k):
        raise ValueError(f"ids: expected {(len(dataset.queries), k)} or more columns, got {np.shape(ids)}")
    if truth.distances.shape[1] < k:
        raise ValueError(f"k: at most {truth.distances.shape[1]}, the depth of the ground truth, got {k}")
    distances = pair_distances(dataset.base, dataset.queries, found, dataset.metric)
    threshold = truth.distances[:, k - 1 : k]
    right = (distances <= threshold + TOLERANCE * np.abs(threshold)) & first_occurrence(found)
    return float(right.sum() / right.size)


def first_occurrence(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where an id stands in its row for the first time."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    new = np.ones(ids.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, 1)
    return first
