"""Candidate pairs: documents that agree in a whole band, compared by their sketches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.settings import BITS, Settings, standard_error
from nearhash.kernels.agreement import count_agreement
from nearhash.kernels.radix import sort_pairs
from nearhash.kernels.threads import run_chunks

# A pair is one number, ``low << 32 | high``, so that numbers in order are pairs in order.
PAIR = np.dtype([("pair", "<u8"), ("similarity", "<f8")])
# In larger buckets not all pairs are looked at.
ALL_PAIRS = 32
ROUNDS = 64  # leaders of a large bucket, at most
_BATCH = 1 << 15  # pairs compared at once
_GATHERED = 8 * _BATCH  # pairs of buckets, of which each is then compared once
_CHUNK = 1 << 12  # pairs of a task
_HELD = 1 << 20  # pairs that are kept before repetitions are sought
# Estimates so many standard errors below the threshold are not worth an exact comparison.
_MARGIN = 4.0

Rows = Callable[[NDArray[np.int64]], NDArray[Any]]
Labels = NDArray[np.int64]
Spill = Callable[[NDArray[Any]], None]


def pack(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Pairs as numbers."""
    return (low.astype(np.uint64) << np.uint64(32)) | high.astype(np.uint64)


def ends(pairs: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lower and the higher document of pairs (of PAIR, or numbers)."""
    numbers: NDArray[np.uint64] = pairs["pair"] if pairs.dtype == PAIR else pairs
    return (numbers >> np.uint64(32)).astype(np.int64), (numbers & np.uint64(2**32 - 1)).astype(np.int64)


@dataclass
class Comparison:
    """What came of comparing documents.

    Attributes
    ----------
    pairs : ndarray of PAIR
        Distinct, in order: those that are duplicates by their sketches or, if they will be verified, may be; but for
        those that were spilled.
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
    """Counts and keeps what was compared. Pairs turn up in several buckets: repetitions are thrown out on the way."""

    settings: Settings
    threads: int
    room: int
    spill: Spill | None
    found: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        self.histogram = np.zeros(self.settings.k + 1, np.float64)

    def keep(self, pairs: NDArray[Any]) -> None:
        self.found.append(pairs)
        self.size += len(pairs)
        if self.size > self.room:
            merged = self.kept()
            if self.spill is None:
                self.room = max(self.room, 2 * len(merged))
            elif len(merged) > self.room // 2:
                self.spill(merged)
                self.found, self.size = [], 0

    def kept(self) -> NDArray[Any]:
        """Distinct pairs that were not spilled."""
        merged = distinct(np.concatenate([np.empty(0, PAIR), *self.found]))
        self.found, self.size = [merged], len(merged)
        return merged


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
    *,
    threads: int = 1,
    most: int = _HELD,
    spill: Spill | None = None,
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
    threads : int
    most : int
        Pairs kept in memory if they can be spilled.
    spill : callable, optional
        Takes distinct pairs in order when there are too many; another time some of them may come again.
    """
    tally = _Tally(settings, threads, most, spill)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    sizes = np.diff(starts, append=len(keys))
    wanted = (sizes > 1) & (documents[starts + sizes - 1] >= first) if len(keys) else np.empty(0, bool)
    starts, sizes = starts[wanted], sizes[wanted]
    small = sizes <= ALL_PAIRS
    for pairs, times in _small_pairs(documents, starts[small], sizes[small], first):
        _compare(*ends(pairs), times, rows, tally)
    for start, size in zip(starts[~small].tolist(), sizes[~small].tolist(), strict=True):
        _lead(documents[start : start + size], rows, tally, first, labels)
    return Comparison(tally.kept(), tally.histogram, tally.skipped)


def distinct(pairs: NDArray[Any]) -> NDArray[Any]:
    """Pairs in order, each once."""
    numbers, places = np.unique(pairs["pair"], return_index=True)
    found = np.empty(len(numbers), PAIR)
    found["pair"], found["similarity"] = numbers, pairs["similarity"][places]
    return found


def _small_pairs(
    documents: NDArray[np.int64], starts: NDArray[np.int64], sizes: NDArray[np.int64], first: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """All pairs of small buckets, in batches: a pair of several buckets of a batch comes once, with their number.

    Documents that are alike share many buckets, so buckets go by their first document to meet in a batch.
    """
    waiting: list[NDArray[np.uint64]] = []
    count = 0
    for size in range(2, ALL_PAIRS + 1):
        of_size = starts[sizes == size]
        of_size = of_size[np.argsort(documents[of_size], kind="stable")]
        left, right = np.triu_indices(size, 1)
        step = max(1, _GATHERED // len(left))
        for begin in range(0, len(of_size), step):
            members = documents[of_size[begin : begin + step, None] + np.arange(size)]
            low, high = members[:, left].reshape(-1), members[:, right].reshape(-1)
            new = high >= first
            waiting.append(pack(low[new], high[new]))
            count += len(waiting[-1])
            if count >= _GATHERED:
                yield from _batches(waiting)
                waiting, count = [], 0
    if count:
        yield from _batches(waiting)


def _batches(waiting: list[NDArray[np.uint64]]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    pairs, times = np.unique(np.concatenate(waiting), return_counts=True)
    for begin in range(0, len(pairs), _BATCH):
        yield pairs[begin : begin + _BATCH], times[begin : begin + _BATCH]


def _compare(
    low: NDArray[np.int64], high: NDArray[np.int64], times: NDArray[np.int64], rows: Rows, tally: _Tally
) -> NDArray[np.float64]:
    """Estimates of pairs that turned up so many times; they are counted and, if they are good enough, kept."""
    settings = tally.settings
    needed, places = np.unique(np.concatenate([low, high]), return_inverse=True)
    sketches, left, right = rows(needed), places[: len(low)], places[len(low) :]
    agreeing, shared = np.empty(len(low), np.int64), np.empty(len(low), np.int64)
    bands, size = settings.bands, settings.rows
    run_chunks(
        lambda first, last: count_agreement(
            sketches, left[first:last], right[first:last], bands, size, agreeing[first:last], shared[first:last]
        ),
        len(low), tally.threads, _CHUNK,
    )  # fmt: skip
    # A pair turns up once in each band in which it agrees, so each time it counts as that part of a pair. If in none,
    # its keys met by chance. Parts are multiples of 2**-26, which add up to the same in any order.
    part = np.floor(np.divide(2.0**26, shared, out=np.zeros(len(shared)), where=shared > 0)) / 2.0**26
    tally.histogram += np.bincount(agreeing, part * times, settings.k + 1)
    similarity = estimate(agreeing, settings.k)
    similarity[shared == 0] = -1.0
    kept = similarity >= least_similarity(settings)
    pairs = np.empty(np.count_nonzero(kept), PAIR)
    pairs["pair"], pairs["similarity"] = pack(low[kept], high[kept]), similarity[kept]
    tally.keep(pairs)
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
                _compare(np.full(len(part), leader), part, np.ones(len(part), np.int64), rows, tally)
                for part in np.array_split(others, -(-len(others) // _BATCH) or 1)
            ]
        )
        if tally.settings.verify is None:
            return
        leaving = np.zeros(len(members), bool)
        leaving[fresh] = similarity >= near
        members = members[~leaving]
    if len(members) <= ALL_PAIRS:
        for pairs, times in _small_pairs(members, np.zeros(1, np.int64), np.array([len(members)]), first):
            _compare(*ends(pairs), times, rows, tally)
    else:
        tally.skipped += len(members)
