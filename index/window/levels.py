"""Partitions of the same points at several resolutions, in segments; which of them a window is looked for in."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.base import Progress
from nearhash.index.inverted import Entries, InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.partition import default_lists
from nearhash.index.points import NewPoints, Points

STEP = 8  # lists of a level for one of the next coarser
LEAST_LISTS = 6  # a level of fewer lists gives way to a single list
# Lists of a level that are read at a beam of BEAM, as a multiple of their square root, and how the number grows where a
# window leaves a share s of the points: s^-GROWTH times as many keep the recall from falling.
SPREAD, BEAM, GROWTH = 1.6, 80, 0.3
# Nanoseconds, about, of a list and of a byte of codes, fitted to searches of word vectors and of images.
LIST_NS, BYTE_NS = 120.0, 1 / 23
MULTIPLY_NS = 1 / 30  # a centroid's dimension


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


class Plan(NamedTuple):
    """How each query of a batch is answered: (q,) level, and lists to read there."""

    levels: NDArray[np.int64]
    probes: NDArray[np.int64]


class Segment:
    """Points in the lists of the coarser levels, as many of these as pay for so many points."""

    def __init__(self, lists: list[InvertedLists]) -> None:
        self.lists = lists

    @property
    def entries(self) -> int:
        return self.lists[0].entries

    @property
    def labels(self) -> NDArray[np.float64]:
        """Labels of its points in order, NaN last; empty where there are none."""
        return self.lists[0].arrays.labels[: self.entries]

    def inside(self, windows: NDArray[np.float64], queries: int) -> NDArray[np.int64]:
        """(q,) points in each window; all if there are no windows."""
        if not len(windows):
            return np.full(queries, self.entries, np.int64)
        edges: NDArray[np.int64] = np.searchsorted(self.labels, windows)
        return np.asarray(edges[:, 1] - edges[:, 0])

    def slots(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Slots (q, most) of the points in each window, by label, and how many (q,) of a row count."""
        edges = np.searchsorted(self.labels, windows)
        counts: NDArray[np.int64] = edges[:, 1] - edges[:, 0]
        places = edges[:, :1] + np.arange(int(counts.max(initial=0)))
        own: NDArray[np.int32] = self.lists[0].arrays.slots[np.minimum(places, self.entries - 1)]
        return own, counts

    @property
    def nbytes(self) -> int:
        return sum(lists.nbytes for lists in self.lists)


class Levels:
    """Models of all levels, coarse to fine, that all segments share."""

    def __init__(self, models: list[Model]) -> None:
        self.models = models

    @classmethod
    def learn(cls, sample: NDArray[Any], metric: str, codec: str, seed: int, threads: int) -> "Levels":
        return cls([Model.learn(sample, metric, codec, lists, seed, threads) for lists in lists_of_levels(len(sample))])

    @property
    def trained_on(self) -> int:
        return self.models[-1].trained_on

    @property
    def nbytes(self) -> int:
        return sum(model.nbytes for model in self.models)

    def depth(self, count: int) -> int:
        """Levels that a segment of so many points has."""
        finest = lists_of_levels(count)[-1]
        return max(1, sum(model.partition.lists <= finest for model in self.models))

    def segment(self, rows: NDArray[Any], first: int, facts: Facts, threads: int, progress: Progress | None) -> Segment:
        """A segment of the rows (n, dim) with slots from `first` on."""
        lists, depth = [], self.depth(len(rows))
        for number, model in enumerate(self.models[:depth]):

            def report(done: int, total: int, level: int = number) -> None:
                if progress is not None:
                    progress((level * total + done) // depth, total)

            lists.append(_filled(model, model.encode(rows, first, False, threads, report), facts))
        return Segment(lists)

    def merged(self, one: Segment, other: Segment, rows: NDArray[Any], facts: Facts, threads: int) -> Segment:
        """The points of two segments in one; rows: all vectors, by slot."""
        lists, depth = [], self.depth(one.entries + other.entries)
        for number, model in enumerate(self.models[:depth]):
            parts = []
            for segment in (one, other):
                if number < len(segment.lists):
                    parts.append(_bare(segment.lists[number].everything()))
                else:
                    slots = segment.lists[0].everything().slots
                    entries = model.encode(rows[slots], 0, False, threads, None)
                    parts.append(entries._replace(slots=slots[entries.slots]))
            lists.append(_filled(model, parts[0].joined(parts[1]), facts))
        return Segment(lists)

    def kept(self, segment: Segment, places: NDArray[np.int32], facts: Facts) -> Segment | None:
        """The segment with the slots `places` (n,) for the old ones, -1 for those that go; None if all do.

        facts: of the new slots.
        """
        lists = []
        for number, held in enumerate(segment.lists):
            entries = held.everything()
            stay = entries.take(np.flatnonzero(places[entries.slots] >= 0))
            lists.append(_filled(self.models[number], stay._replace(slots=places[stay.slots]), facts))
        return Segment(lists) if lists[0].entries else None

    # --- plan ---

    def plan(self, segment: Segment, inside: NDArray[np.int64], matches: NDArray[np.float64], beam: int) -> Plan:
        """The cheapest level of each query, of whose window `inside` points are in the segment.

        matches (q,): how many of those may answer, about.
        """
        share = np.maximum(matches, 1.0) / max(1, segment.entries)
        best = np.full(len(inside), np.inf)
        levels, probes = np.zeros(len(inside), np.int64), np.ones(len(inside), np.int64)
        for number in range(len(segment.lists)):
            wanted = self.probes(number, share, beam)
            cost = self.cost(number, wanted, inside)
            cheaper = cost < best
            best[cheaper], levels[cheaper], probes[cheaper] = cost[cheaper], number, wanted[cheaper]
        return Plan(levels, probes)

    def probes(self, level: int, share: NDArray[np.float64], beam: int) -> NDArray[np.int64]:
        """(q,) lists of a level to read for filters that leave such shares of its points."""
        lists = self.models[level].partition.lists
        # In steps of two, so that queries of about equal filters are searched together.
        rarer = 2.0 ** (GROWTH * np.rint(-np.log2(share)))
        return np.minimum(np.ceil(SPREAD * math.sqrt(lists) * rarer * (beam / BEAM)), lists).astype(np.int64)

    def cost(self, level: int, probes: NDArray[np.int64], inside: NDArray[np.int64]) -> NDArray[np.float64]:
        """(q,) nanoseconds, about, of a search there, without the exact measurements."""
        model = self.models[level]
        lists, width = model.partition.lists, model.layout.width * np.dtype(model.layout.dtype).itemsize
        scanned = inside / lists + 8.0  # blocks are not full
        compared = lists * model.partition.centroids.shape[1] * MULTIPLY_NS if lists > 1 else 0.0
        return np.asarray(compared + probes * (LIST_NS + scanned * width * BYTE_NS))


def _filled(model: Model, entries: Entries, facts: Facts) -> InvertedLists:
    """Lists with these entries, with the labels and attributes of their slots."""
    lists = InvertedLists(model.partition.lists, model.layout, len(facts.columns), len(facts.labels) > 0)
    labels = facts.labels[entries.slots] if len(facts.labels) else facts.labels
    lists.replace(entries._replace(labels=labels, columns=facts.columns[:, entries.slots]))
    return lists


def _bare(entries: Entries) -> Entries:
    """Entries without labels and attributes."""
    return entries._replace(labels=np.empty(0), columns=np.empty((0, len(entries.slots)), np.int64))
