"""What indexes over inverted lists have in common: the vectors beside the codes, and how a search is put together."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.arguments import check_count, check_range
from nearhash.index.arrays import Growable
from nearhash.index.base import Slots
from nearhash.index.exact import exact_search
from nearhash.index.inverted import InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.list_codes import make_list_codes
from nearhash.index.list_scan import ListScanner, Wanted
from nearhash.index.points import Filter, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import take_tensor
from nearhash.index.tune import TunableIndex
from nearhash.kernels.lists import passing_share

STORES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}
# Nanoseconds, about, of measuring a vector in no order, and of a byte of it; of passing over one that a mask forbids.
ROW_NS, ROW_BYTE_NS, MASKED_NS = 15.0, 1 / 13, 2.0

Slots32 = NDArray[np.int32]
Distances = NDArray[np.float32]


class Expected(NamedTuple):
    """What filters leave to each query (q,): vectors in its window, removed ones too, and about how many may answer."""

    inside: NDArray[np.int64]
    matches: NDArray[np.float64]


class Plan(NamedTuple):
    """How each query is answered, (q,) each.

    models: number of the model whose lists are read; probes, at most so many, and limits, how far of these (see
    `kernels.lists.Reach`); wants: how many of the best codes are measured exactly; costs: nanoseconds, about.
    """

    models: NDArray[np.int64]
    probes: NDArray[np.int64]
    limits: NDArray[np.float32]
    wants: NDArray[np.int64]
    costs: NDArray[np.float64]

    def of(self, queries: NDArray[np.bool_]) -> "Plan":
        return Plan(
            self.models[queries], self.probes[queries], self.limits[queries], self.wants[queries], self.costs[queries]
        )

    def groups(self) -> list[tuple[int, int, int, NDArray[np.int64]]]:
        """(model, probes, want, queries) of those that can be searched together."""
        if not len(self.models):
            return []
        keys = np.stack([self.models, self.probes, self.wants], axis=1)
        if (keys == keys[0]).all():
            return [(*keys[0].tolist(), np.arange(len(keys)))]
        order = np.lexsort(keys.T)
        ordered = keys[order]
        starts = np.flatnonzero(np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1)))
        return [
            (*ordered[start].tolist(), np.sort(part))
            for start, part in zip(starts, np.split(order, starts[1:]), strict=True)
        ]


class ListIndex(TunableIndex):
    """An index that scans codes in lists and measures the best exactly, on vectors that are kept beside.

    Filters that leave little are answered by measuring all that they leave.
    """

    def __init__(self, dim: int, metric: str, codec: str, seed: int, store: str, threads: int | None) -> None:
        super().__init__(dim, metric, threads)
        self.codec = make_list_codes(codec, self.dim, self.metric).name
        self.seed = check_count(seed, "seed", least=0, most=2**64 - 1)
        if store not in STORES:
            raise InvalidArgumentError(f"store: expected one of {', '.join(STORES)}, got {store!r}")
        self.store = store
        self._vectors = Growable.empty((self.dim,), STORES[store])
        self._scanner = ListScanner(self.metric)

    # --- vectors ---

    @property
    def _rows(self) -> NDArray[Any]:
        """Vectors as kernels take them."""
        return self._for_kernels(self._vectors.view)

    def _for_kernels(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Stored vectors as kernels take them: float16 as its bits."""
        return rows.view(np.uint16) if self.store == "f16" else rows

    def _rows_of(self, matrix: NDArray[Any]) -> NDArray[Any]:
        rows = super()._rows_of(matrix)
        if self.store == "f16":
            check_range(rows, matrix, "vectors", float(np.finfo(np.float16).max))
        return rows

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        return self._vectors.view[slots].astype(np.float32, copy=False)

    def _take_vectors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Vectors from a file."""
        shape = (self._points.slots, self.dim)
        self._vectors = Growable(take_tensor(tensors, "vectors", STORES[self.store], shape))

    # --- search ---

    def _filter(
        self, queries: int, window: ArrayLike | None, allow: ArrayLike | SlotMask | None, where: Predicate | None
    ) -> Wanted:
        """Predicates are evaluated in the lists; they become a mask of all vectors only for exact scans."""
        program = None if where is None else self._points.program(where)
        return Wanted(self._points.filter(queries, window, allow), program, (queries, window, allow, where))

    def _nearest(
        self, queries: NDArray[Any], k: int, wanted: Wanted, effort: Any, threads: int
    ) -> tuple[Slots32, Distances]:
        slots = np.full((len(queries), k), -1, np.int32)
        distances = np.full((len(queries), k), np.inf, np.float32)
        counts = wanted.rows.counts
        if not len(queries) or not self._points.slots:
            return slots, distances
        if self._trained:
            expected = self._expected(wanted)
            measured = np.zeros(len(queries), np.bool_)
            if not wanted.everything:
                measured = self._measuring_cost(expected) <= self._least_cost(k, effort)
            rest = np.flatnonzero(~measured)
            if len(rest):
                expected = Expected(expected.inside[rest], expected.matches[rest])
                plan = self._plan(expected, k, effort)
                if not wanted.everything:
                    cheaper = self._measuring_cost(expected) <= plan.costs
                    measured[rest[cheaper]] = True
                    rest, plan = rest[~cheaper], plan.of(~cheaper)
                self._scan(queries, rest, plan, wanted, threads, slots, distances)
            lacking = measured | ((slots >= 0).sum(axis=1) < np.minimum(k, counts))
        else:
            lacking = np.ones(len(queries), np.bool_)
        left = np.flatnonzero(lacking & (counts > 0))
        if len(left):
            exact = wanted.rows if wanted.program is None else self._points.filter(*wanted.arguments)
            if len(left) == len(queries):
                return self._measure(queries, k, exact, threads)
            slots[left], distances[left] = self._measure(queries[left], k, exact.of(left), threads)
        return slots, distances

    def _expected(self, wanted: Wanted) -> Expected:
        rows, size = wanted.rows, self._points.slots
        edges = rows.edges
        inside = edges[:, 1] - edges[:, 0] if len(rows.windows) else np.full(len(rows.counts), size)
        share = 1.0 if wanted.program is None else passing_share(*wanted.program, self._points.columns, size)
        return Expected(inside, rows.counts * share)

    def _measuring_cost(self, expected: Expected) -> NDArray[np.float64]:
        """(q,) nanoseconds, about, of measuring all that may answer."""
        return np.asarray(MASKED_NS * (expected.inside - expected.matches) + self._row_cost * expected.matches)

    @property
    def _row_cost(self) -> float:
        """Nanoseconds, about, of measuring a vector."""
        return ROW_NS + ROW_BYTE_NS * self._vectors.view.itemsize * self.dim

    def _scan(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        plan: Plan,
        wanted: Wanted,
        threads: int,
        slots: Slots32,
        distances: Distances,
    ) -> None:
        """Answer the `chosen` queries as the plan for them says."""
        for number, probes, want, part in plan.groups():
            own = chosen[part]
            model, lists = self._lists_of(number)
            if len(own) == len(queries):
                asked, wished, found, away = queries, wanted, slots, distances
            else:
                asked, wished, found, away = queries[own], wanted.of(own), slots[own], distances[own]
            self._scanner.scan(
                model, lists, self._rows, asked, wished, probes, plan.limits[part], want, found, away, threads
            )
            if found is not slots:
                slots[own], distances[own] = found, away

    def _measure(self, queries: NDArray[np.float32], k: int, wanted: Filter, threads: int) -> tuple[Slots32, Distances]:
        """Measure everything that may answer."""
        return exact_search(queries, self._rows, np.empty(0, np.float32), self.metric, wanted, k, threads)

    def _exact(self, queries: NDArray[Any], k: int, threads: int) -> tuple[Slots32, Distances]:
        return self._measure(queries, k, self._points.filter(len(queries), None, None), threads)

    # --- to be filled in ---

    @property
    @abstractmethod
    def _trained(self) -> bool:
        """Whether there are lists."""

    @abstractmethod
    def _lists_of(self, number: int) -> tuple[Model, Sequence[InvertedLists]]:
        """A model and its lists, see `ListScanner.scan`."""

    @abstractmethod
    def _plan(self, expected: Expected, k: int, effort: Any) -> Plan:
        """How each of some queries is answered in lists."""

    @abstractmethod
    def _least_cost(self, k: int, effort: Any) -> float:
        """Nanoseconds below which no search in lists stays."""
