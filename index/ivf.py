"""Approximate search in the lists of a partition, over 4-bit codes."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError, NotTrainedError
from nearhash.index.arguments import as_matrix, check_count
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots
from nearhash.index.hits import Hits
from nearhash.index.inverted import Entries, InvertedLists
from nearhash.index.ivf_model import LEAST_SAMPLE, Model
from nearhash.index.list_index import Expected, ListIndex, Plan
from nearhash.index.partition import Partition, draw_sample
from nearhash.index.points import NewPoints, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.tune import Space
from nearhash.index.tuned import Tuned
from nearhash.kernels.threads import resolve_threads

# Nanoseconds, about, of a search, a list and an entry of it: they decide whether all that a filter leaves is measured,
# or the nearest are looked for in the lists.
SEARCH_NS, LIST_NS, ENTRY_NS = 15_000.0, 150.0, 0.5
# Where a filter leaves a share s of the vectors, the nearest of them lie in more lists: s^-GROWTH times as many keep
# the recall from falling (word vectors, s from 1 to 1/128: .959 at 1, between .964 and .986 below).
GROWTH = 0.3
# An index that was trained on few vectors learns anew when it has grown by this factor, until it was trained on so
# many.
OUTGROWN, SETTLED = 4, 20_000
RERANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # times k, that `tune` tries


class Effort(NamedTuple):
    """How thoroughly to search: lists read, and candidates measured exactly."""

    probes: int
    rerank: int


class IVFIndex(ListIndex):
    """Approximate nearest neighbours by scanning the lists of a partition.

    Every vector belongs to the list of its nearest centroid and is there as a code of 4 bits for each two dimensions or
    so. A search scans the codes of the lists nearest to the query at once (fast scan), and measures the best candidates
    exactly on the float32 vectors, which are kept beside.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768.
    metric : {"l2", "ip", "cosine"}
        Distance: squared Euclidean; minus the inner product; one minus the cosine. Under cosine unit vectors are
        stored, and a zero vector has similarity 0, distance 1, with every other.
    lists : int, optional
        Lists of the partition, by default 2.5 sqrt(n) for the n vectors of the training.
    codec : {"pq4"}
        How vectors are coded in the lists.
    seed : int
        Of the training, 0 to 2**64 - 1. The same data, calls and seed give the same file at any `threads`.
    spill : bool
        Put every vector in a second list as well, chosen by the loss of SOAR (Sun et al., NeurIPS 2023): more memory
        for codes, fewer lists to read for the same recall.
    store : {"f32", "f16"}
        How the vectors themselves are kept, for the exact distances: "f16" takes half the memory and holds elements up
        to 65,504 with 11 bits.
    threads : int, optional
        Threads for building, by default all cores.

    Notes
    -----
    The partition and the codes are learned from the first vectors that are added, or before from a sample by `train`.
    They stay as they are when more vectors come: `drift` says how well they still fit, `retrain` learns them anew.

    Searches may run in several threads at once; changes wait for them and have the index alone.
    """

    kind = "ivf"
    _SETTINGS = ("lists", "codec", "seed", "spill", "store")
    _EFFORTS: ClassVar = dict.fromkeys(Effort._fields, int)

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        lists: int | None = None,
        codec: str = "pq4",
        seed: int = 0,
        spill: bool = False,
        store: str = "f32",
        threads: int | None = None,
    ) -> None:
        super().__init__(dim, metric, codec, seed, store, threads)
        self.lists = None if lists is None else check_count(lists, "lists", most=1 << 24)
        if not isinstance(spill, bool):
            raise InvalidArgumentError(f"spill: expected True or False, got {spill!r}")
        self.spill = spill
        self._model: Model | None = None
        self._lists: InvertedLists | None = None

    # --- change ---

    def train(self, sample: ArrayLike) -> None:
        """Learn partition and codes from a sample (n, dim) of what will be added; vectors in the index are coded anew.

        Without it the first `add` learns from what it adds.
        """
        rows = self._rows_of(as_matrix(sample, self.dim, "sample"))
        if not len(rows):
            raise InvalidArgumentError("sample: expected at least one vector, got none")
        with self._lock.write():
            self._learn(rows, None)
            assert self._model is not None
            self._model.given = True

    def retrain(self, progress: Progress | None = None) -> None:
        """Learn partition and codes anew from the vectors that are in the index now."""
        with self._lock.write():
            rows = self._vectors.view[self._points.live_slots].astype(np.float32, copy=False)
            if not len(rows):
                raise NotTrainedError("retrain: the index is empty; add vectors first")
            self._learn(rows, progress)

    def _learn(self, sample: NDArray[np.float32], progress: Progress | None) -> None:
        """A new model, and the vectors that there are in its lists; nothing changes if it fails."""
        model = self._new_model(sample)
        lists = self._lists_for(model, self._points.labelled, len(self._points.attribute_names))
        if self._points.slots:
            entries = model.encode(self._vectors.view, 0, self.spill, resolve_threads(self.threads), progress)
            lists.replace(self._described(entries, self._points.labels, self._points.columns))
        self._model, self._lists, self._tuned = model, lists, Tuned()

    def _take(
        self,
        vectors: NDArray[np.float32],
        ids: NDArray[np.int64],
        centroids: NDArray[np.float32],
        numbers: NDArray[np.int32],
    ) -> None:
        """Fill a new index with vectors (n, dim), n >= 1, that are in lists already, with centroids (lists, dim).

        Only the codes are learned. numbers (n,) int32: the list of each vector.
        """
        threads = resolve_threads(self.threads)
        new = self._points.check(len(vectors), ids, None)
        origin: NDArray[np.float32] = np.zeros(self.dim, np.float32)
        if self.metric == "l2":
            origin = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        partition = Partition(np.ascontiguousarray(centroids - origin), self.metric)
        chosen = draw_sample(len(vectors), LEAST_SAMPLE, self.seed, 0)
        model = Model.on_partition(
            origin, partition, vectors[chosen] - origin, numbers[chosen], self.codec, self.seed, threads
        )
        model.given = True
        lists = self._lists_for(model, False, 0)
        lists.replace(model.encode(vectors, 0, False, threads, None, numbers))
        self._vectors.append(vectors)
        self._points.append(new)
        self._model, self._lists = model, lists

    def _new_model(self, sample: NDArray[np.float32]) -> Model:
        return Model.learn(sample, self.metric, self.codec, self.lists, self.seed, resolve_threads(self.threads))

    def _lists_for(self, model: Model, labelled: bool, columns: int) -> InvertedLists:
        return InvertedLists(model.partition.lists, model.layout, columns, labelled)

    @staticmethod
    def _described(
        entries: Entries, labels: NDArray[np.float64] | None, columns: NDArray[np.int64], first: int = 0
    ) -> Entries:
        """Entries with the labels and attributes of their slots; those given begin at slot `first`."""
        own = np.empty(0) if labels is None else labels[entries.slots - first]
        return entries._replace(
            labels=own, columns=columns[:, entries.slots - first] if len(columns) else entries.columns
        )

    def _insert(self, rows: NDArray[Any], new: NewPoints, progress: Progress | None) -> None:
        present = self._points.slots
        model, lists, threads = self._model, self._lists, resolve_threads(self.threads)
        labelled = self._points.labelled or new.labels is not None
        labels = new.labels if new.labels is not None or not labelled else np.full(len(rows), np.nan)
        columns = np.stack(list(new.attributes.values())) if new.attributes else np.empty((0, len(rows)), np.int64)
        outgrown = model is not None and self._outgrown(model, present + len(rows))
        self._vectors.append(rows)
        try:
            if model is None or outgrown:
                everything = self._vectors.view
                model = self._new_model(everything)
                lists = self._lists_for(model, labelled, len(columns))
                entries = model.encode(everything, 0, self.spill, threads, progress)
                if present:
                    before = self._points.labels if self._points.labels is not None else np.full(present, np.nan)
                    labels = np.concatenate([before, labels]) if labels is not None else None
                    if len(columns):
                        columns = np.concatenate([self._points.columns[:, :present], columns], axis=1)
                lists.replace(self._described(entries, labels, columns))
            else:
                assert lists is not None
                entries = model.encode(rows, present, self.spill, threads, progress)
                if (labelled and not lists.labelled) or len(columns) != lists.columns:
                    before_columns = np.zeros((len(columns), present), np.int64)
                    lists.describe(np.full(present, np.nan) if labelled else None, before_columns)
                lists.add(self._described(entries, labels, columns, present))
        except BaseException:
            self._vectors.truncate(present)
            raise
        if model is not self._model:
            self._tuned = Tuned()  # found for other lists
        self._model, self._lists = model, lists

    def _outgrown(self, model: Model, count: int) -> bool:
        """Whether the model was learned from too few vectors for so many, by `add`."""
        if model.given or count < OUTGROWN * model.trained_on:
            return False
        return model.trained_on < SETTLED if self.lists is None else model.partition.lists < self.lists

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        if self._lists is not None:
            entries = self._lists.everything()
            places = np.full(self._points.slots, -1, np.int32)
            places[slots] = np.arange(len(slots), dtype=np.int32)
            kept = entries.take(np.flatnonzero(places[entries.slots] >= 0))
            vectors = Growable(np.ascontiguousarray(self._vectors.view[slots]))
            self._lists.replace(kept._replace(slots=places[kept.slots]))
            self._vectors = vectors
        if progress is not None:
            progress(len(slots), len(slots))

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
        probes: int = 32,
        rerank: int = 100,
        recall: float | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, approximately; other arguments are those of `VectorIndex.search`.

        Parameters
        ----------
        probes : int
            Effort: how many lists are read. Recall and time grow with it. Filters raise it, the more the
            less they leave, or are answered by an exact scan where little is left.
        rerank : int
            Effort: how many of the best codes are measured exactly, at least k.
        recall : float, optional
            Instead of an effort: that which `tune` found for such a recall.

        Returns
        -------
        Hits
            Ids and exact distances, each (q, k); ties in the order in which the vectors were added.
        """
        effort = self._search_effort(k, recall, probes=probes, rerank=rerank)
        return self._search(queries, k, window, allow, threads, where, effort)

    @property
    def _trained(self) -> bool:
        return self._model is not None

    def _lists_of(self, number: int) -> tuple[Model, Sequence[InvertedLists]]:
        assert self._model is not None
        assert self._lists is not None
        return self._model, (self._lists,)

    def _plan(self, expected: Expected, k: int, effort: Effort) -> Plan:
        # Steps of two, so that queries of about equal filters are searched together.
        rarer = np.maximum(self._points.slots / np.maximum(expected.matches, 1.0), 1.0)
        probes = np.ceil(effort.probes * 2.0 ** (GROWTH * np.rint(np.log2(rarer))))
        want = max(effort.rerank, k * (2 if self.spill else 1))  # a vector may be there twice
        count = len(probes)
        return Plan(
            np.zeros(count, np.int64), probes.astype(np.int64), np.full(count, np.inf, np.float32),
            np.full(count, want), self._lists_cost(probes, effort.rerank),
        )  # fmt: skip

    def _least_cost(self, k: int, effort: Effort) -> float:
        return float(self._lists_cost(np.float64(effort.probes), effort.rerank))

    def _lists_cost(self, probes: NDArray[np.float64] | np.float64, rerank: int) -> NDArray[np.float64]:
        """Nanoseconds, about, of a search in so many lists."""
        assert self._lists is not None
        lists = len(self._lists.sizes)
        length = self._lists.entries / lists
        scanned = np.minimum(probes, lists) * (LIST_NS + ENTRY_NS * length)
        return SEARCH_NS + scanned + rerank * self._row_cost

    # --- effort ---

    def _effort_space(self, k: int) -> Space:
        assert self._lists is not None
        reranks = [{"rerank": factor * k} for factor in RERANKS if factor * k < self._points.slots or factor == 1]

        def work(effort: dict[str, int]) -> float:
            return float(self._lists_cost(np.float64(effort["probes"]), effort["rerank"]))

        return Space("probes", 1, len(self._lists.sizes), reranks, work)

    def _effort_of(self, effort: dict[str, int]) -> Effort:
        return Effort(**effort)

    # --- facts ---

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON; `trained_lists` is how many lists it has."""
        return {**super().info(), "trained_lists": 0 if self._lists is None else len(self._lists.sizes)}

    def drift(self) -> "Drift":
        """How well partition and codes fit the vectors in the index now, against when they were learned.

        Raises
        ------
        NotTrainedError
            If nothing has been learned yet.
        """
        with self._lock.read():
            if self._model is None or self._lists is None or not self._points.size:
                raise NotTrainedError("drift: the index is empty; add vectors first")
            model, entries = self._model, self._lists.everything()
            entries = entries.take(np.flatnonzero(self._points.live[entries.slots]))
            squares = model.residual_squares(self._vectors.view, entries.slots, entries.numbers)
            # With a second list: the nearer one of the two counts.
            least = np.full(self._points.slots, np.inf)
            np.minimum.at(least, entries.slots, squares)
            residual = float(least[np.isfinite(least)].mean())
            imbalance = _imbalance(np.bincount(entries.numbers, minlength=model.partition.lists))
            return Drift(imbalance, model.imbalance, residual, model.residual, self._points.size, model.trained_on)

    def _own_nbytes(self) -> int:
        lists = 0 if self._lists is None else self._lists.nbytes
        return self._vectors.nbytes + lists + (0 if self._model is None else self._model.nbytes)

    # --- storage ---

    def _state(self) -> dict[str, Any]:
        return {"model": None if self._model is None else self._model.state()}

    def _tensors(self) -> dict[str, NDArray[Any]]:
        tensors: dict[str, NDArray[Any]] = {"vectors": self._vectors.view}
        if self._model is not None and self._lists is not None:
            tensors.update(self._model.tensors())
            tensors.update(self._lists.tensors())
        return tensors

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        count = self._points.slots
        self._take_vectors(tensors)
        if header.get("model") is None and not count:
            return
        self._model = Model.restored(self.dim, self.metric, self.codec, header.get("model"), tensors)
        self._lists = self._lists_for(self._model, False, 0)
        self._lists.restore(tensors, 2 if self.spill else 1, slice(0, count), self._points.labels, self._points.columns)


class Drift(NamedTuple):
    """What `IVFIndex.drift` finds.

    Attributes
    ----------
    imbalance, imbalance_trained : float
        ``lists * sum(size^2) / n^2``, how many times more than for equal lists a search has to scan: now, and for the
        sample of the training. 1 is perfect.
    residual, residual_trained : float
        Mean squared distance of the vectors to their centroids, now and for the sample. Grows when vectors come from
        where none were.
    size, trained_on : int
        Vectors now and in the sample.
    """

    imbalance: float
    imbalance_trained: float
    residual: float
    residual_trained: float
    size: int
    trained_on: int


def _imbalance(sizes: NDArray[np.int64]) -> float:
    total = float(sizes.sum())
    return float(len(sizes) * (sizes.astype(np.float64) ** 2).sum() / total**2) if total else 1.0
