"""Candidate pairs: documents that agree in a whole band, compared by their sketches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.settings import BITS, Settings, standard_error
from nearhash.kernels.radix import sort_pairs

PAIR = np.dtype([("low", "<i8"), ("high", "<i8"), ("similarity", "<f4")])
# In larger buckets not all pairs are looked at.
ALL_PAIRS = 32
ROUNDS = 64  # leaders of a large bucket, at most
_BATCH = 1 << 15  # pairs compared at once
# Estimates so many standard errors below the threshold are not worth an exact comparison.
_MARGIN = 4.0

Rows = Callable[[NDArray[np.int64]], NDArray[Any]]
Labels = NDArray[np.int64]


@dataclass
class Comparison:
    """What came of comparing documents.

    Attributes
    ----------
    pairs : ndarray of PAIR
        Distinct, in order: those that are duplicates by their sketches or, if they will be verified, may be.
    histogram : ndarray of float64, shape (k + 1,)
        How many distinct pairs were compared, by the number of slots that agree.
    skipped : int
        Documents of large buckets that were left after the last round, compared with its leaders only.
    """

    pairs: NDArray[Any]
    histogram: NDArray[np.float64]
    skipped: int = 0


@dataclass
class _Tally:
    settings: Settings
    found: list[NDArray[Any]] = field(default_factory=list)
    skipped: int = 0

    def __post_init__(self) -> None:
        self.histogram = np.zeros(self.settings.k + 1, np.float64)


def estimate(agreeing: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Jaccard similarity from the number of k slots that agree, less chance (Li and Koenig, WWW 2010, eq. 9)."""
    chance = 2.0**-BITS
    similarity: NDArray[np.float64] = np.maximum(0.0, (agreeing / k - chance) / (1 - chance))
    return similarity


def least_similarity(settings: Settings) -> float:
    """Of estimates that make a pair a candidate for what follows."""
    if settings.verify is None:
        return 0.0
    if settings.verify == "sketch":
        return settings.threshold
    return settings.threshold - _MARGIN * standard_error(settings.threshold, settings.k)


def sort_keys(keys: NDArray[np.uint64], documents: NDArray[np.int64]) -> None:
    """Sort in place by key; documents of a key stay in their order."""
    sort_pairs(keys, documents, np.empty_like(keys), np.empty_like(documents), 0)


def compare_buckets(
    keys: NDArray[np.uint64],
    documents: NDArray[np.int64],
    rows: Rows,
    settings: Settings,
    first: int = 0,
    labels: Labels | None = None,
) -> Comparison:
    """Compare documents that share a key.

    All pairs of a bucket of up to 32 documents are compared. In a larger one the lowest document leads: all others are
    compared with it, and those leave that are so near that it can stand for them. Near is half the distance of the
    threshold: Jaccard distance is a metric, so what is within it of one that left is within one and a half of it from
    the leader. The next lowest that is left leads then, until 32 are left or 64 have led: the work is linear in the
    size of a bucket. Without verification all of a bucket are duplicates anyway: the first leader is linked with all.

    Parameters
    ----------
    keys, documents : ndarray, shape (m,)
        Sorted by key, then document.
    rows : callable
        Sketches (n, k) of documents, which come ascending and distinct.
    settings : Settings
    first : int
        Documents below it were compared with each other before; only pairs with another are looked at.
    labels : ndarray of int64, shape (first,), optional
        Groups of documents below `first`: in a large bucket the first of each group stands for it.
    """
    tally = _Tally(settings)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    sizes = np.diff(starts, append=len(keys))
    wanted = (sizes > 1) & (documents[starts + sizes - 1] >= first) if len(keys) else np.empty(0, bool)
    starts, sizes = starts[wanted], sizes[wanted]
    small = sizes <= ALL_PAIRS
    for low, high in _small_pairs(documents, starts[small], sizes[small], first):
        _compare(low, high, rows, tally)
    for start, size in zip(starts[~small].tolist(), sizes[~small].tolist(), strict=True):
        _lead(documents[start : start + size], rows, tally, first, labels)
    pairs = np.concatenate(tally.found) if tally.found else np.empty(0, PAIR)
    return Comparison(distinct(pairs), tally.histogram, tally.skipped)


def distinct(pairs: NDArray[Any]) -> NDArray[Any]:
    """Pairs in order, each once."""
    pairs = pairs[np.lexsort((pairs["high"], pairs["low"]))]
    fresh = np.ones(len(pairs), bool)
    fresh[1:] = (pairs["low"][1:] != pairs["low"][:-1]) | (pairs["high"][1:] != pairs["high"][:-1])
    return pairs[fresh]


def _small_pairs(
    documents: NDArray[np.int64], starts: NDArray[np.int64], sizes: NDArray[np.int64], first: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of small buckets, in batches; a pair of several buckets of a batch comes once."""
    waiting: list[NDArray[np.int64]] = []
    count = 0
    for size in range(2, ALL_PAIRS + 1):
        of_size = starts[sizes == size]
        left, right = np.triu_indices(size, 1)
        step = max(1, 8 * _BATCH // len(left))
        for begin in range(0, len(of_size), step):
            members = documents[of_size[begin : begin + step, None] + np.arange(size)]
            pairs = np.stack([members[:, left].reshape(-1), members[:, right].reshape(-1)], axis=1)
            waiting.append(pairs[pairs[:, 1] >= first])
            count += len(waiting[-1])
            if count >= 8 * _BATCH:
                yield from _batches(waiting)
                waiting, count = [], 0
    if count:
        yield from _batches(waiting)


def _batches(waiting: list[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    pairs = np.concatenate(waiting)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    for begin in range(0, len(pairs), _BATCH):
        yield pairs[begin : begin + _BATCH, 0], pairs[begin : begin + _BATCH, 1]


def _compare(low: NDArray[np.int64], high: NDArray[np.int64], rows: Rows, tally: _Tally) -> NDArray[np.float64]:
    """Estimates of pairs, which are counted and, if they are good enough, kept."""
    settings = tally.settings
    needed, places = np.unique(np.concatenate([low, high]), return_inverse=True)
    sketches = rows(needed)
    equal = sketches[places[: len(low)]] == sketches[places[len(low) :]]
    agreeing = equal.sum(axis=1, dtype=np.int64)
    used = settings.bands * settings.rows
    # A pair turns up once in each band in which it agrees, so each time it counts as that part of a pair. If in none,
    # its keys met by chance.
    times = equal[:, :used].reshape(-1, settings.bands, settings.rows).all(axis=2).sum(axis=1)
    np.add.at(tally.histogram, agreeing, np.divide(1.0, times, out=np.zeros(len(times)), where=times > 0))
    similarity = estimate(agreeing, settings.k)
    similarity[times == 0] = -1.0
    kept = similarity >= least_similarity(settings)
    pairs = np.empty(np.count_nonzero(kept), PAIR)
    pairs["low"], pairs["high"], pairs["similarity"] = low[kept], high[kept], similarity[kept]
    tally.found.append(pairs)
    return similarity


def _lead(members: NDArray[np.int64], rows: Rows, tally: _Tally, first: int, labels: Labels | None) -> None:
    """Compare the documents of a large bucket with a few of them."""
    if first and labels is not None:
        old = members[members < first]
        chosen = np.unique(labels[old], return_index=True)[1]
        members = np.concatenate([old[np.sort(chosen)], members[len(old) :]])
    near = 1 - (1 - tally.settings.threshold) / 2
    for _ in range(ROUNDS):
        if len(members) <= ALL_PAIRS:
            break
        leader, members = members[0], members[1:]
        fresh = members >= first if leader < first else np.ones(len(members), bool)
        others = members[fresh]
        similarity = np.concatenate(
            [
                _compare(np.full(len(part), leader), part, rows, tally)
                for part in np.array_split(others, -(-len(others) // _BATCH) or 1)
            ]
        )
        if tally.settings.verify is None:
            return
        leaving = np.zeros(len(members), bool)
        leaving[fresh] = similarity >= near
        members = members[~leaving]
    if len(members) <= ALL_PAIRS:
        for low, high in _small_pairs(members, np.zeros(1, np.int64), np.array([len(members)]), first):
            _compare(low, high, rows, tally)
    else:
        tally.skipped += len(members)
