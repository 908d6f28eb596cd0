"""How thoroughly the lists of a level are read: found by searching for some of the vectors themselves."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.exact import exact_search
from nearhash.index.inverted import InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.list_scan import ListScanner, Wanted
from nearhash.index.metrics import normalised
from nearhash.index.partition import Partition, draw_sample
from nearhash.index.points import unfiltered

QUERIES, K = 200, 10
# Of the neighbours that reading everything finds, this share is to be found by the lists that are read, and of those by
# the codes that are measured: together .98.
SHARE = 0.99
MOST_CODES = 320  # measured at most
# A level is searched in windows of about so many points for each of its lists, and no fewer than so many.
POINTS, LEAST_POINTS = 300, 2000
# Searches for the vectors themselves are easier than others, the more so the tighter the clusters are that they lie in.
# A limit for so many lists is never below LEAST_LIMIT * lists^LIMIT_POWER, about what images need.
LEAST_LIMIT, LIMIT_POWER = 0.3, 0.27
WANTS = np.unique(np.round(2.5 * K * 1.12 ** np.arange(23)).astype(np.int64))  # 25 to 302
_STREAM = 9  # of random numbers


class Calibration(NamedTuple):
    """What suits a level.

    limit, see `kernels.lists.Reach`, and want, codes to measure exactly for K neighbours, at windows of `points`
    points; lists, the mean number that is read then.
    """

    limit: float
    want: int
    lists: float
    points: int

    def state(self) -> dict[str, Any]:
        """What the header of a file holds: JSON has no infinity."""
        return {**self._asdict(), "limit": self.limit if math.isfinite(self.limit) else None}

    @classmethod
    def restored(cls, state: Any) -> "Calibration":
        """What `state` gave; raises CorruptIndexError if it cannot be that."""
        if not isinstance(state, dict) or set(state) != set(cls._fields):
            raise CorruptIndexError(f"header 'calibration': expected {', '.join(cls._fields)}, got {state!r:.80}")
        numbers = {**state, "limit": 1.0 if state["limit"] is None else state["limit"]}
        largest = {"limit": 2.0**40, "want": MOST_CODES, "lists": 2**31, "points": 2**31}
        if any(type(value) not in (int, float) or not 0 < value <= largest[name] for name, value in numbers.items()):
            raise CorruptIndexError(f"header 'calibration': expected numbers above 0, got {state!r:.80}")
        limit = math.inf if state["limit"] is None else float(state["limit"])
        return cls(limit, int(state["want"]), float(state["lists"]), int(state["points"]))


def calibrate(
    model: Model, lists: InvertedLists, rows: NDArray[Any], metric: str, seed: int, threads: int
) -> Calibration:
    """Calibrate a level that holds all of the vectors, rows (n, dim) as kernels take them.

    Some of the vectors are searched for among as many others as a window of the level has, less themselves.
    """
    points = min(len(rows), max(LEAST_POINTS, POINTS * model.partition.lists))
    members = draw_sample(len(rows), points, seed, _STREAM)
    asked = _floats(rows[members[:QUERIES]])
    if metric == "cosine":
        asked = normalised(asked)
    k = min(K + 1, points)  # the vector itself is the nearest one
    everything = unfiltered(len(asked), points)
    near, away = exact_search(asked, rows[members], np.empty(0, np.float32), metric, everything, k, threads)
    limit, number = math.inf, 1.0
    if model.partition.lists > 1:
        entries = lists.everything()
        homes = np.empty(len(rows), np.int32)
        homes[entries.slots] = entries.numbers
        limit, number = _reach(model.partition, model.shifted(asked), homes[members[near]], away[:, -1])
    part = lists if points == len(rows) else _part(lists, members)
    scanner, wanted = ListScanner(metric), Wanted(everything, None, ())
    farthest = away[:, -1] + 1e-5 * np.abs(away[:, -1]) + 1e-6

    def recall(want: int) -> float:
        slots, distances = np.full((len(asked), k), -1, np.int32), np.full((len(asked), k), np.inf, np.float32)
        scanner.scan(
            model, (part,), rows, asked, wanted, model.partition.lists, np.full(len(asked), limit, np.float32), want,
            slots, distances, threads,
        )  # fmt: skip
        return float((distances <= farthest[:, None]).mean())

    enough = SHARE * recall(max(k, MOST_CODES))
    low, high = 0, len(WANTS) - 1
    while low < high:
        middle = (low + high) // 2
        if recall(max(k, int(WANTS[middle]) + 1)) >= enough:
            high = middle
        else:
            low = middle + 1
    return Calibration(limit, int(WANTS[low]), number, points)


def _reach(
    partition: Partition, asked: NDArray[np.float32], homes: NDArray[np.int32], farthest: NDArray[np.float32]
) -> tuple[float, float]:
    """The limit (`kernels.coarse.lead_within`) that reads the lists of SHARE of the neighbours, and the mean number.

    asked (q, dim) relative to the origin; homes (q, k): the list of each neighbour; farthest (q,): the last distance.
    Under inner product, where there is no distance to compare with, the limit is inf, and as many lists as read SHARE.
    """
    scores = partition.bias + partition.factor * (asked @ partition.centroids.T)
    ascending = np.sort(scores, axis=1)
    own = np.take_along_axis(scores, homes, axis=1)
    ranks = np.stack([np.searchsorted(row, mine) for row, mine in zip(ascending, own, strict=True)])[:, 1:]
    if partition.metric == "ip":
        return math.inf, float(np.quantile(ranks, SHARE)) + 1
    rising = (ascending - ascending[:, :1]) * np.sqrt(np.arange(1, partition.lists + 1))
    rising /= np.maximum(farthest, np.finfo(np.float32).tiny)[:, None]
    least = LEAST_LIMIT * partition.lists**LIMIT_POWER
    limit = max(least, float(np.quantile(np.take_along_axis(rising, ranks, axis=1), SHARE)))
    return limit, float((rising <= limit).sum(axis=1).mean())


def _floats(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows as kernels take them as float32: of float16 they are the bits."""
    return (rows.view(np.float16) if rows.dtype == np.uint16 else rows).astype(np.float32)


def _part(lists: InvertedLists, members: NDArray[np.int64]) -> InvertedLists:
    """Lists with just these slots, without labels and attributes."""
    entries = lists.everything()
    entries = entries.take(np.flatnonzero(np.isin(entries.slots, members)))
    part = InvertedLists(len(lists.sizes), lists.layout)
    part.replace(entries._replace(labels=np.empty(0), columns=np.empty((0, len(entries.slots)), np.int64)))
    return part
