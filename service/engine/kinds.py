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
GRAPH_FROM = 20_000  # vectors: smaller segments will soon be merged, and lists are built in a third of the time


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


def kind_for(wanted: str, size: int, labelled: bool) -> str:
    """The kind of a new segment of so many vectors."""
    if size < FLAT_BELOW:
        return "flat"
    if wanted != "auto":
        return wanted
    if labelled:
        return "window"
    return "graph" if size >= GRAPH_FROM else "ivf"
