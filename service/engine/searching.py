"""A search over all parts of a collection, and its answers brought together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.arguments import as_float32, check_count
from nearhash.index.flat import FlatIndex
from nearhash.service.engine.kinds import ALL_EFFORTS, EFFORTS
from nearhash.service.engine.parts import View, Wanted

_MEASURED = 1 << 14  # vectors that are copied at a time to be measured


class Neighbours(NamedTuple):
    """The nearest points of each query, as places.

    views: which view each is in, (q, k), or one number for all; positions (q, k) in it, -1 for none; distances (q, k).
    """

    views: NDArray[np.int64] | int
    positions: NDArray[np.int64]
    distances: NDArray[np.float32]


class Effort(NamedTuple):
    """How thoroughly to search: values by name, or a recall that was tuned for."""

    values: Mapping[str, Any]
    recall: float | None = None

    def check(self) -> None:
        unknown = sorted(self.values.keys() - ALL_EFFORTS)
        if unknown:
            raise InvalidArgumentError(f"effort: expected {', '.join(sorted(ALL_EFFORTS))}, got {', '.join(unknown)}")
        for name, value in self.values.items():
            check_count(value, name)
        if self.recall is not None and self.values:
            raise InvalidArgumentError("recall: expected no effort beside it, as it chooses one")

    def for_kind(self, kind: str) -> dict[str, Any]:
        """Arguments for the search of an index of some kind; those that it does not know are for others."""
        if self.recall is not None and EFFORTS[kind]:
            return {"recall": self.recall}
        return {name: value for name, value in self.values.items() if name in EFFORTS[kind]}


def search_views(
    views: Sequence[View],
    queries: NDArray[Any],
    k: int,
    window: NDArray[np.float64] | None,
    wanted: Wanted,
    effort: Effort,
    threads: int | None,
) -> Neighbours:
    """The k nearest of each query among what the views show; ties go to the older point.

    queries (q, dim); window (q, 2) on the first label or None. Exactly min(k, matches) are found.
    """
    asked = [number for number, view in enumerate(views) if view.count]
    found = [_search_view(views[number], queries, k, window, wanted, effort, threads) for number in asked]
    return _merged(queries, k, asked, found)


def exact_views(views: Sequence[View], queries: NDArray[Any], k: int, threads: int | None) -> Neighbours:
    """The k nearest of each query among all that the views show, by measuring all of it, a part at a time."""
    asked, found = [], []
    for number, view in enumerate(views):
        positions = view.live_positions()
        for first in range(0, len(positions), _MEASURED):
            some = positions[first : first + _MEASURED]
            flat = FlatIndex(view.part.index.dim, view.part.index.metric)
            flat.add(view.part.index.vectors(some), ids=some)
            asked.append(number)
            found.append(tuple(flat.search(queries, k, threads=threads)))
    return _merged(queries, k, asked, found)  # type: ignore[arg-type]


def _merged(
    queries: NDArray[Any],
    k: int,
    asked: Sequence[int],
    found: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> Neighbours:
    """The k best of what was found in each of the views that were asked."""
    if len(found) == 1:
        return Neighbours(asked[0], *found[0])
    if not found:
        as_float32(queries, "queries")  # an index would have looked at them
        shape = (len(queries), k)
        return Neighbours(0, np.full(shape, -1), np.full(shape, np.inf, np.float32))
    positions = np.concatenate([one for one, _ in found], axis=1)
    distances = np.concatenate([one for _, one in found], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    rows = np.arange(len(queries))[:, None]
    return Neighbours(np.repeat(np.array(asked), k)[order], positions[rows, order], distances[rows, order])


def _search_view(
    view: View,
    queries: NDArray[Any],
    k: int,
    window: NDArray[np.float64] | None,
    wanted: Wanted,
    effort: Effort,
    threads: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    index = view.part.index
    allow = view.allow(wanted)
    return tuple(index.search(queries, k, window, allow, threads, **effort.for_kind(index.kind)))  # type: ignore[return-value]


def count_views(views: Sequence[View], window: tuple[float, float] | None, wanted: Wanted) -> int:
    """How many points match."""
    if window is None and wanted.everything:
        return sum(view.count for view in views)
    bounds = wanted.bounds if window is None else (*wanted.bounds, (0, *window))
    all_wanted = wanted._replace(bounds=bounds)
    return sum(int(np.count_nonzero(view.matching(all_wanted))) for view in views)
