"""Search in the lists of one partition: a scan of codes, then exact distances of the best."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.inverted import InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.list_codes import Task, Work
from nearhash.index.points import Filter
from nearhash.index.programs import Program
from nearhash.kernels.lists import POOL_SLACK, Restriction
from nearhash.kernels.rerank import rerank
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.threads import run_chunks

# The lists nearest to a query are scanned before all others, for a threshold that the rest is measured by. Between 1
# and 10 makes no difference that could be measured.
NEAR = 4
BATCH = 1024  # queries searched at once by a thread: the more, the more share a list
POOL_BYTES = 1 << 22

_NO_BOUNDS: tuple[NDArray[np.float64], NDArray[np.float64]] = (np.empty(0), np.empty(0))
_NO_STEPS: NDArray[np.int64] = np.empty(0, np.int64)


class Wanted(NamedTuple):
    """What may answer: a filter of rows, and a predicate that is not part of it yet."""

    rows: Filter
    program: Program | None
    arguments: tuple[Any, ...]  # of `Points.filter`, for both together

    @property
    def everything(self) -> bool:
        return self.rows.everything and self.program is None

    @property
    def sparse(self) -> bool:
        """Whether the mask forbids so much that lists are better asked before they are scanned."""
        mask = self.rows.mask
        return len(mask) > 0 and 2 * int(np.count_nonzero(mask)) < len(mask)

    def of(self, queries: NDArray[np.int64]) -> "Wanted":
        return self._replace(rows=self.rows.of(queries))


class ListScanner:
    """Searches in lists under a metric, with the memory they need, which is kept between them."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._scratch = _Scratch()

    def scan(
        self,
        model: Model,
        parts: Sequence[InvertedLists],
        rows: NDArray[Any],
        queries: NDArray[np.float32],
        wanted: Wanted,
        probes: int,
        limits: NDArray[np.float32],
        want: int,
        slots: NDArray[np.int32],
        distances: NDArray[np.float32],
        threads: int,
    ) -> NDArray[np.int64]:
        """Scan the nearest `probes` lists of each query, or fewer, and measure the best `want` entries.

        parts: lists of the model that hold different vectors, the largest first; rows: the vectors as kernels take
        them, by slot; limits (q,) float32: how far a query reads on, see `kernels.lists.Reach`, inf for all `probes`.
        Results: slots (q, k) int32 and distances (q, k) float32, -1 and inf where fewer were found. Returns (q,) how
        many lists each query read.
        """
        probes = min(probes, model.partition.lists)
        metric, base = (L2 if self._metric == "l2" else DOT), np.float32(self._metric == "cosine")
        steps, operands = (_NO_STEPS, _NO_STEPS) if wanted.program is None else wanted.program
        shifted = model.shifted(queries)
        bounds = _outer_bounds(parts) if len(wanted.rows.windows) else _NO_BOUNDS
        batch = min(BATCH, max(16, POOL_BYTES // (8 * (2 * want + POOL_SLACK))), -(-len(queries) // threads))
        read = np.empty(len(queries), np.int64)

        def task(first: int, last: int) -> None:
            block = slice(first, last)
            part = shifted[block]
            windows = wanted.rows.windows[block] if len(wanted.rows.windows) else wanted.rows.windows
            chosen = model.partition.nearest(part, probes, windows, bounds)
            work = self._scratch.take(len(part), model.codes.query_bytes, 2 * want + POOL_SLACK)
            restriction = Restriction(wanted.rows.mask, windows, steps, operands, wanted.sparse)
            for number, lists in enumerate(parts):
                asked = Task(
                    part, chosen, min(NEAR, probes), restriction, want, limits[block], slots.shape[1], number == 0
                )
                model.codes.scan(asked, lists.arrays, model.centroids, self._metric, work)
            margin = work.squares if self._metric == "l2" else np.full(len(part), base)
            rerank(
                queries[block], rows, metric, base, work.keys, work.sizes, want, model.codes.bounded, margin,
                slots[block], distances[block],
            )  # fmt: skip
            read[block] = work.stops[: len(part)]
            self._scratch.give_back(work)

        run_chunks(task, len(queries), threads, batch)
        return read


def _outer_bounds(parts: Sequence[InvertedLists]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest label of each list, over all parts."""
    lows, highs = parts[0].label_bounds
    for lists in parts[1:]:
        lows, highs = np.minimum(lows, lists.label_bounds[0]), np.maximum(highs, lists.label_bounds[1])
    return lows, highs


class _Scratch:
    """Arrays of searches, kept between them: fresh ones of megabytes cost page faults at every search."""

    def __init__(self) -> None:
        self._free: list[Work] = []

    def take(self, queries: int, query_bytes: int, keys: int) -> Work:
        """Arrays for at least so many queries."""
        while True:
            try:
                work = self._free.pop()
            except IndexError:
                return Work.empty(queries, query_bytes, keys)
            fits = len(work.sizes) >= queries and work.queries.shape[1] == query_bytes
            if fits and work.keys.shape[1] == keys:
                return work

    def give_back(self, work: Work) -> None:
        self._free.append(work)
