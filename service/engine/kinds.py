"""Which index a segment is: made by kind, chosen by size, searched with the efforts that its kind knows."""

from __future__ import annotations

from typing import Any

from nearhash.index.base import VectorIndex

EFFORTS = {
    "flat": frozenset[str](),
    "graph": frozenset({"beam", "rerank"}),
    "ivf": frozenset({"probes", "rerank"}),
    "window": frozenset({"beam"}),
}
ALL_EFFORTS = frozenset[str]().union(*EFFORTS.values())

FLAT_BELOW = 2_000  # vectors: measuring all of them takes as long as deciding which ones to measure
GRAPH_FROM = 20_000  # vectors: smaller segments will soon be merged, and lists are built in a fifth of the time
BATCH_FROM = 8  # queries at once from which lists win
ENOUGH_QUERIES = 10_000  # to know how a collection is searched


def make_index(kind: str, dim: int, metric: str, options: dict[str, Any], threads: int | None) -> VectorIndex:
    """An empty index; unknown options raise TypeError, impossible ones what the index raises."""
    if kind == "flat":
        from nearhash.index.flat import FlatIndex

        return FlatIndex(dim, metric, **options)
    if kind == "graph":
        from nearhash.index.graph import GraphIndex

        return GraphIndex(dim, metric, **{**options, "threads": threads})
    if kind == "ivf":
        from nearhash.index.ivf import IVFIndex

        return IVFIndex(dim, metric, **{**options, "threads": threads})
    from nearhash.index.window import WindowIndex

    return WindowIndex(dim, metric, **{**options, "threads": threads})


class Workload:
    """How a collection is searched: one query at a time, where graphs are faster, or many at once, where lists are.

    Counts may miss a search of another thread; nothing but a choice depends on them.
    """

    def __init__(self) -> None:
        self._single = 0.0
        self._batched = 0.0

    def note(self, queries: int) -> None:
        """A search of so many queries."""
        if queries < BATCH_FROM:
            self._single += queries
        else:
            self._batched += queries
        if self._single + self._batched > 2 * ENOUGH_QUERIES:  # what was long ago counts less and less
            self._single /= 2
            self._batched /= 2

    @property
    def prefers_graph(self) -> bool:
        return self._single >= max(ENOUGH_QUERIES / 2, self._batched)


def kind_for(wanted: str, size: int, labelled: bool, settled: bool, workload: Workload) -> str:
    """The kind of a new segment of so many vectors; `settled`: nothing is being written, so it may take its time."""
    if size < FLAT_BELOW:
        return "flat"
    if wanted != "auto":
        return wanted
    if labelled:
        return "window"
    return "graph" if settled and size >= GRAPH_FROM and workload.prefers_graph else "ivf"
