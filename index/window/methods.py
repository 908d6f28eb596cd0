"""Methods of Engels et al., "Approximate Nearest Neighbor Search with Window Filters" (ICML 2024), for comparison.

Each is a set of ranges of the order of labels, which graphs are built over, and a rule that cuts a window into pieces:
a piece is searched in the graph of a range that contains it (postfilter), or measured exactly. They are static, and
there to compare `WindowIndex` with.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nearhash.index.arguments import check_count
from nearhash.index.hits import Hits
from nearhash.index.window.range_graphs import Nearest, Range, RangeGraphs

LEAF = 1000  # ranges of fewer points have no graph


class Piece(NamedTuple):
    """Ranks [first, last), to be searched in the graph of the range `node`, or exactly where that is None."""

    first: int
    last: int
    node: Range | None


class Prefilter:
    """Measure the whole window."""

    ranges: tuple[Range, ...] = ()

    def __init__(self, count: int, leaf: int = LEAF) -> None:
        self.count, self.leaf = count, check_count(leaf, "leaf")

    def pieces(self, first: int, last: int) -> list[Piece]:
        return [Piece(first, last, None)]


class Postfilter(Prefilter):
    """One graph over all points."""

    def __init__(self, count: int, leaf: int = LEAF) -> None:
        super().__init__(count, leaf)
        self.ranges = ((0, count),) if count else ()

    def pieces(self, first: int, last: int) -> list[Piece]:
        return [Piece(first, last, (0, self.count))]


class WindowSearchTree(Prefilter):
    """beta-WST (Algorithm 2): all points, cut into `branching` equal ranges, each cut again, down to leaves.

    Ranges that a window covers are searched without a filter, from the largest down; the ends of it are measured.
    """

    branching: ClassVar[int] = 2

    def __init__(self, count: int, leaf: int = LEAF) -> None:
        super().__init__(count, leaf)
        self._edges: list[list[int]] = []  # of the ranges of each level
        parts = 1
        while count // parts >= self.leaf:
            self._edges.append([count * part // parts for part in range(parts + 1)])
            parts *= self.branching
        self.ranges = tuple((edges[part], edges[part + 1]) for edges in self._edges for part in range(len(edges) - 1))

    def pieces(self, first: int, last: int) -> list[Piece]:
        pieces, rest = [], [(first, last)]
        for edges in self._edges:
            ends = []
            for start, stop in rest:
                left, right = bisect_left(edges, start), bisect_right(edges, stop) - 1
                if left >= right:
                    ends.append((start, stop))
                    continue
                covered = list(zip(edges[left:right], edges[left + 1 : right + 1], strict=True))
                pieces += [Piece(*node, node) for node in covered]
                ends += [(start, edges[left]), (edges[right], stop)]
            rest = [(start, stop) for start, stop in ends if start < stop]
        return pieces + [Piece(start, stop, None) for start, stop in rest]


class OptimizedPostfilter(WindowSearchTree):
    """The smallest range of the tree that contains the window (section 4.3)."""

    def pieces(self, first: int, last: int) -> list[Piece]:
        for edges in reversed(self._edges):
            part = min(bisect_right(edges, first), len(edges) - 1) - 1
            if last <= edges[part + 1]:
                return [Piece(first, last, (edges[part], edges[part + 1]))]
        return [Piece(first, last, None)]


class ThreeSplit(OptimizedPostfilter):
    """The largest range of the tree that the window covers; left and right of it as `OptimizedPostfilter` does."""

    def pieces(self, first: int, last: int) -> list[Piece]:
        for edges in self._edges:
            part = bisect_left(edges, first)
            if part + 1 < len(edges) and edges[part + 1] <= last:
                start, stop = edges[part], edges[part + 1]
                sides = [(first, start), (stop, last)]
                pieces = [
                    piece for low, high in sides if low < high for piece in super(ThreeSplit, self).pieces(low, high)
                ]
                return [Piece(start, stop, (start, stop)), *pieces]
        return super().pieces(first, last)


class SuperPostfilter(Prefilter):
    """Overlapping ranges: 2 g^j wide, one every g^j, g = 2: one contains the window and is at most 4 times as wide."""

    def __init__(self, count: int, leaf: int = LEAF) -> None:
        super().__init__(count, leaf)
        self._strides = []
        stride = -(-self.leaf // 2)  # the narrowest ranges are as wide as leaves
        while 2 * stride < count:
            self._strides.append(stride)
            stride *= 2
        self.ranges = tuple(
            (first, min(first + 2 * stride, count))
            for stride in self._strides
            for first in range(0, count - stride, stride)
        ) + (((0, count),) if count else ())

    def pieces(self, first: int, last: int) -> list[Piece]:
        for stride in self._strides:
            if last - first <= stride:
                # The last range of a stride ends with the points, so it also serves what begins behind its first half.
                start = min(first // stride, -(-self.count // stride) - 2) * stride
                return [Piece(first, last, (start, min(start + 2 * stride, self.count)))]
        return [Piece(first, last, (0, self.count))]


METHODS: dict[str, type[Prefilter]] = {
    "prefilter": Prefilter,
    "postfilter": Postfilter,
    "2-WST": WindowSearchTree,
    "optimized postfilter": OptimizedPostfilter,
    "three-split": ThreeSplit,
    "super-postfilter": SuperPostfilter,
}


def search(
    graphs: RangeGraphs, method: Prefilter, queries: ArrayLike, k: int = 10, window: ArrayLike = (-np.inf, np.inf),
    beam: int = 64,
) -> Hits:  # fmt: skip
    """The k nearest vectors with a label in the window, on the calling thread.

    Parameters
    ----------
    graphs : RangeGraphs
        With graphs of `method.ranges`.
    method : Prefilter or one of the others
        Made for as many points as `graphs` has.
    queries : (q, dim) or (dim,)
    k : int
    window : (lo, hi) or (q, 2)
        [lo, hi) of labels.
    beam : int
        Effort: candidates that a walk keeps, at least k.

    Returns
    -------
    Hits
        Positions of vectors and exact distances, each (q, k): exactly min(k, matches), then -1 and inf.
    """
    k, beam = check_count(k, "k"), check_count(beam, "beam")
    asked = graphs.queries(queries)
    groups: dict[tuple[Range | None, int], list[tuple[int, int, int]]] = defaultdict(list)
    for query, (first, last) in enumerate(graphs.ranks(window, len(asked)).tolist()):
        if first < last:
            for number, piece in enumerate(method.pieces(first, last)):  # the number: a query is in a group once
                groups[piece.node, number].append((query, piece.first, piece.last))
    best = Nearest.nothing(len(asked), k)
    for (node, _), members in groups.items():
        table = np.array(members, np.int64)
        if node is None:
            graphs.scan(table[:, 0], asked, table[:, 1:], best)
        else:
            graphs.postfilter(node, table[:, 0], asked, table[:, 1:], max(beam, k), best)
    return Hits(graphs.ids(best.ranks), best.distances)
