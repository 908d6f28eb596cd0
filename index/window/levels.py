"""Partitions of the same points at several resolutions, in segments; which of them a window is looked for in."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.base import Progress
from nearhash.index.inverted import Entries, InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.list_index import Expected, Plan
from nearhash.index.partition import default_lists
from nearhash.index.points import NewPoints, Points
from nearhash.index.window.calibration import Calibration, K, calibrate

STEP = 8  # lists of a level for one of the next coarser
LEAST_LISTS = 6  # a level of fewer lists gives way to a single list
# At this effort a level is read as thoroughly as it was calibrated to be.
BEAM = 64
# The rarer what may answer is, the farther apart neighbours are: the limit of reading and the number of lists grow with
# the ratio of points in the calibration to those, and where there are more than in the
# calibration, more codes come between them. How lists grow with the effort.
LIMIT_GROWTH, LISTS_GROWTH, WANT_GROWTH, LISTS_EFFORT = 0.12, 0.25, -0.22, 1.3
SPARE = 4  # times as many lists as are read on average, at most
# Nanoseconds, about, of a search, and of a dimension of its tables; of a list and of a byte of codes; of a centroid's
# dimension; fitted to searches of word vectors and of images.
SEARCH_NS, TABLE_NS, LIST_NS, BYTE_NS, MULTIPLY_NS = 2500.0, 2.5, 150.0, 1 / 23, 1 / 30


def lists_of_levels(count: int) -> list[int]:
    """Numbers of lists for `count` points, ascending from 1: best for windows of about 300 points for each list."""
    lists = default_lists(count)
    levels = []
    while lists >= LEAST_LISTS:
        levels.append(lists)
        lists = round(lists / STEP)
    return [1, *levels[::-1]]


class Facts(NamedTuple):
    """Labels and attributes of all slots: labels (n,), empty if there are none; columns (a, n)."""

    labels: NDArray[np.float64]
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, points: Points) -> "Facts":
        columns = points.columns[:, : points.slots] if points.attribute_names else np.empty((0, points.slots), np.int64)
        return cls(np.empty(0) if points.labels is None else points.labels, columns)

    def take(self, order: NDArray[np.int64]) -> "Facts":
        """The same in another order."""
        return Facts(self.labels[order] if len(self.labels) else self.labels, self.columns[:, order])

    @classmethod
    def after(cls, points: Points, new: NewPoints) -> "Facts":
        """What they will be with these points behind the others."""
        before, count = points.slots, len(new.ids)
        labels = np.empty(0)
        if points.labels is not None or new.labels is not None:
            parts = (
                np.full(size, np.nan) if given is None else given
                for given, size in ((points.labels, before), (new.labels, count))
            )
            labels = np.concatenate(list(parts))
        names = points.attribute_names or tuple(new.attributes)
        columns = np.empty((0, before + count), np.int64)
        if names:
            columns = np.stack([new.attributes[name] for name in names])
            if before:
                columns = np.concatenate([points.columns[:, :before], columns], axis=1)
        return cls(labels, columns)


class Segment:
    """The points in the slots [first, last), but for some that are dead, in the lists of every level."""

    def __init__(self, first: int, last: int, lists: list[InvertedLists]) -> None:
        self.first, self.last = first, last
        self.lists = lists

    @property
    def entries(self) -> int:
        return self.lists[0].entries

    @property
    def nbytes(self) -> int:
        return sum(lists.nbytes for lists in self.lists)


class Levels:
    """Models of all levels, coarse to fine, that all segments share, and how thoroughly each is read."""

    def __init__(self, models: list[Model], calibrations: list[Calibration]) -> None:
        self.models = models
        self.calibrations = calibrations

    @classmethod
    def learn(
        cls, vectors: NDArray[Any], rows: NDArray[Any], facts: Facts, metric: str, codec: str, seed: int, threads: int,
        progress: Progress | None,
    ) -> tuple["Levels", Segment]:  # fmt: skip
        """Levels for vectors (n, dim), n >= 1, and all of these in a segment; rows: the same as kernels take them."""
        numbers = lists_of_levels(len(vectors))
        levels = cls([Model.learn(vectors, metric, codec, lists, seed, threads) for lists in numbers], [])
        segment = levels.segment(vectors, 0, facts, threads, progress)
        levels.calibrations = [
            calibrate(model, lists, rows, metric, seed, threads)
            for model, lists in zip(levels.models, segment.lists, strict=True)
        ]
        return levels, segment

    @property
    def trained_on(self) -> int:
        return self.models[-1].trained_on

    @property
    def nbytes(self) -> int:
        return sum(model.nbytes for model in self.models)

    def segment(self, rows: NDArray[Any], first: int, facts: Facts, threads: int, progress: Progress | None) -> Segment:
        """A segment of the rows (n, dim) with slots from `first` on."""
        lists, depth = [], len(self.models)
        for number, model in enumerate(self.models):

            def report(done: int, total: int, level: int = number) -> None:
                if progress is not None:
                    progress((level * total + done) // depth, total)

            lists.append(_filled(model, model.encode(rows, first, False, threads, report), facts))
        return Segment(first, first + len(rows), lists)

    def merged(self, one: Segment, other: Segment, live: NDArray[np.uint8], facts: Facts) -> Segment:
        """The live points of two neighbouring segments in one; live (n,) by slot."""
        lists = []
        for model, *parts in zip(self.models, one.lists, other.lists, strict=True):
            entries = [_living(_bare(part.everything()), live) for part in parts]
            lists.append(_filled(model, entries[0].joined(entries[1]), facts))
        return Segment(one.first, other.last, lists)

    def swept(self, segment: Segment, live: NDArray[np.uint8], facts: Facts) -> Segment:
        """A segment without its dead points."""
        lists = [
            _filled(model, _living(_bare(part.everything()), live), facts)
            for model, part in zip(self.models, segment.lists, strict=True)
        ]
        return Segment(segment.first, segment.last, lists)

    def kept(self, segment: Segment, places: NDArray[np.int32], facts: Facts) -> Segment | None:
        """The segment with the slots `places` (n,) for the old ones, -1 for those that go; None if all do.

        facts: of the new slots.
        """
        stay = places[segment.first : segment.last]
        stay = stay[stay >= 0]
        if not len(stay):
            return None
        lists = []
        for model, held in zip(self.models, segment.lists, strict=True):
            entries = _bare(held.everything())
            entries = entries.take(np.flatnonzero(places[entries.slots] >= 0))
            lists.append(_filled(model, entries._replace(slots=places[entries.slots]), facts))
        return Segment(int(stay[0]), int(stay[-1]) + 1, lists)

    # --- plan ---

    def plan(self, expected: Expected, k: int, beam: int, row_cost: float) -> Plan:
        """The cheapest level for each query; row_cost: nanoseconds of measuring a vector."""
        best = np.full(len(expected.inside), np.inf)
        chosen, probes = np.zeros(len(best), np.int64), np.ones(len(best), np.int64)
        limits, wants = np.full(len(best), np.inf, np.float32), np.zeros(len(best), np.int64)
        for number, calibration in enumerate(self.calibrations):
            rarer = calibration.points / np.maximum(expected.matches, 1.0)
            read, want = self._lists_read(number, rarer, beam), self._want(number, rarer, k, beam)
            cost = self._cost(number, read, expected.inside) + want * row_cost
            cheaper = cost < best
            best[cheaper], chosen[cheaper], wants[cheaper] = cost[cheaper], number, want[cheaper]
            probes[cheaper] = self._most_lists(number, read[cheaper])
            limits[cheaper] = calibration.limit * (beam / BEAM) * rarer[cheaper] ** LIMIT_GROWTH
        return Plan(chosen, probes, limits, wants, best)

    def least_cost(self, k: int, row_cost: float) -> float:
        """Nanoseconds, about, that no search stays below."""
        dim = int(self.models[0].partition.centroids.shape[1])
        return SEARCH_NS + dim * TABLE_NS + k * row_cost

    def _want(self, level: int, rarer: NDArray[np.float64], k: int, beam: int) -> NDArray[np.int64]:
        """(q,) codes of a level to measure exactly."""
        # In steps, so that queries of about equal filters are searched together.
        scarcity = 2.0 ** (np.rint(2 * WANT_GROWTH * np.log2(rarer)) / 2)
        want = self.calibrations[level].want * (beam / BEAM) * max(1.0, k / K) * np.maximum(scarcity, 1.0)
        return np.maximum(np.ceil(want), k).astype(np.int64)

    def _lists_read(self, level: int, rarer: NDArray[np.float64], beam: int) -> NDArray[np.float64]:
        """(q,) lists of a level that are read, about."""
        lists = self.calibrations[level].lists * (beam / BEAM) ** LISTS_EFFORT * rarer**LISTS_GROWTH
        return np.asarray(np.clip(lists, 1.0, self.models[level].partition.lists))

    def _most_lists(self, level: int, read: NDArray[np.float64]) -> NDArray[np.int64]:
        """(q,) lists to read at most: a power of two, so that queries of about equal filters are searched together."""
        spare = SPARE if math.isfinite(self.calibrations[level].limit) else 1  # all that are chosen are read then
        most = 2 ** np.ceil(np.log2(spare * read))
        return np.asarray(np.minimum(most, self.models[level].partition.lists).astype(np.int64))

    def _cost(self, level: int, read: NDArray[np.float64], inside: NDArray[np.int64]) -> NDArray[np.float64]:
        """(q,) nanoseconds, about, of a search there, without the exact measurements."""
        model = self.models[level]
        lists, width = model.partition.lists, model.layout.width * np.dtype(model.layout.dtype).itemsize
        scanned = inside / lists + 8.0  # blocks are not full
        dim = model.partition.centroids.shape[1]
        compared = lists * dim * MULTIPLY_NS if lists > 1 else 0.0
        return np.asarray(SEARCH_NS + dim * TABLE_NS + compared + read * (LIST_NS + scanned * width * BYTE_NS))


def _filled(model: Model, entries: Entries, facts: Facts) -> InvertedLists:
    """Lists with these entries, with the labels and attributes of their slots."""
    lists = InvertedLists(model.partition.lists, model.layout, len(facts.columns), len(facts.labels) > 0)
    labels = facts.labels[entries.slots] if len(facts.labels) else facts.labels
    lists.replace(entries._replace(labels=labels, columns=facts.columns[:, entries.slots]))
    return lists


def _bare(entries: Entries) -> Entries:
    """Entries without labels and attributes."""
    return entries._replace(labels=np.empty(0), columns=np.empty((0, len(entries.slots)), np.int64))


def _living(entries: Entries, live: NDArray[np.uint8]) -> Entries:
    """Entries of live slots."""
    return entries.take(np.flatnonzero(live[entries.slots]))
