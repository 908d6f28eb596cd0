"""What an IVFIndex has learned: partition and codes, and how vectors become entries of lists."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.base import Progress
from nearhash.index.coarse import CentroidGraph
from nearhash.index.inverted import Entries, Layout
from nearhash.index.list_codes import ListCodes, make_list_codes
from nearhash.index.partition import GRAPH_LISTS, SAMPLE, Partition, default_lists, draw_sample, train_centroids
from nearhash.index.storage import take_tensor
from nearhash.kernels.lists import Centroids
from nearhash.kernels.threads import run_chunks

LEAST_SAMPLE = 65_536  # training vectors of the partition, if there are so many
SPILL_WEIGHT = 1.0  # lambda of SOAR
_CHUNK = 4096  # vectors encoded at once


class Model:
    """Partition and codec, learned from a sample.

    origin (dim,) is taken from vectors and queries first: under l2 the mean of the sample, so that scores lose no
    digits to a common offset; else zero.
    """

    def __init__(self, origin: NDArray[np.float32], partition: Partition, codes: ListCodes) -> None:
        self.origin = origin
        self.partition = partition
        self.codes = codes
        self.radius: NDArray[np.float32] = np.zeros(partition.lists, np.float32)
        self.trained_on = 0
        self.given = False  # whether by `train`: then it stays
        self.residual = 0.0  # mean squared distance of the sample to its centroids
        self.imbalance = 1.0  # of the sample

    @classmethod
    def learn(
        cls, sample: NDArray[Any], metric: str, codec: str, lists: int | None, seed: int, threads: int
    ) -> "Model":
        """Learn from vectors (n, dim), n >= 1; at most as many lists as vectors."""
        count, dim = sample.shape
        origin: NDArray[np.float32] = np.zeros(dim, np.float32)
        if metric == "l2":
            origin = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        lists = min(default_lists(count) if lists is None else lists, count)
        chosen = draw_sample(count, max(SAMPLE * lists, LEAST_SAMPLE), seed, 0)
        rows = sample[chosen].astype(np.float32, copy=False) - origin
        centroids = train_centroids(rows, lists, metric == "cosine", seed, threads)
        graph = CentroidGraph.build(centroids, metric, seed, threads) if lists >= GRAPH_LISTS else None
        partition = Partition(centroids, metric, graph)
        model = cls.on_partition(origin, partition, rows, partition.assign(rows, threads), codec, seed, threads)
        model.trained_on = count
        return model

    @classmethod
    def on_partition(
        cls,
        origin: NDArray[np.float32],
        partition: Partition,
        rows: NDArray[np.float32],
        numbers: NDArray[np.int32],
        codec: str,
        seed: int,
        threads: int,
    ) -> "Model":
        """Learn codes for a partition that there is.

        rows (n, dim): a sample in random order, less the origin; numbers (n,): their lists.
        """
        codes = make_list_codes(codec, rows.shape[1], partition.metric)
        model = cls(origin, partition, codes)
        residuals = rows - partition.centroids[numbers]
        codes.train(rows, residuals, seed, threads)
        model.trained_on = len(rows)
        model.residual = float(np.einsum("ij,ij->i", residuals, residuals).mean(dtype=np.float64))
        sizes = np.bincount(numbers, minlength=partition.lists).astype(np.float64)
        model.imbalance = float(partition.lists * (sizes**2).sum() / len(rows) ** 2)
        return model

    @property
    def layout(self) -> Layout:
        """How codes lie in the lists."""
        return self.codes.layout

    @property
    def centroids(self) -> Centroids:
        return Centroids(self.partition.squares, self.partition.bias, self.radius)

    @property
    def nbytes(self) -> int:
        return self.partition.nbytes + self.codes.nbytes + int(self.radius.nbytes)

    def shifted(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """Vectors relative to the origin."""
        floats = vectors.astype(np.float32, copy=False)
        return floats - self.origin if self.partition.metric == "l2" else floats

    def encode(
        self,
        vectors: NDArray[Any],
        first: int,
        spill: bool,
        threads: int,
        progress: Progress | None,
        given: NDArray[np.int32] | None = None,
    ) -> Entries:
        """Entries for vectors (n, dim) with slots from `first` on, without labels and attributes; radii are updated.

        given (n,): their lists, where these are not to be chosen here.
        """
        count, copies = len(vectors), 2 if spill and self.partition.lists > 1 else 1
        layout = self.layout
        numbers, lengths = np.empty((copies, count), np.int32), np.empty((copies, count), np.float32)
        codes = np.empty((copies, count, layout.width), layout.dtype)
        factors = np.empty((layout.factors, copies, count), np.float32)

        def task(offset: int, start: int, stop: int) -> None:
            start, stop = offset + start, offset + stop
            part = self.shifted(vectors[start:stop])
            if given is None:
                lists = self.partition.assign_twice(part, SPILL_WEIGHT, 1, spill=copies == 2)
            else:
                lists = given[start:stop], given[:0]
            for copy in range(copies):
                numbers[copy, start:stop] = lists[copy]
                residuals = part - self.partition.centroids[lists[copy]]
                lengths[copy, start:stop] = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))
                outcome = self.codes.encode(part, residuals, self.partition)
                codes[copy, start:stop], factors[:, copy, start:stop] = outcome

        # In parts, between which the callback is called from this thread.
        step = _CHUNK * threads * 4
        for start in range(0, count, step):
            if progress is not None:
                progress(start, count)
            stop = min(start + step, count)
            run_chunks(partial(task, start), stop - start, threads, _CHUNK)
        if progress is not None:
            progress(count, count)
        radius = self.radius.copy()
        np.maximum.at(radius, numbers.ravel(), lengths.ravel())
        self.radius = radius
        slots = np.tile(np.arange(first, first + count, dtype=np.int32), copies)
        return Entries(
            numbers.ravel(), slots, codes.reshape(-1, layout.width), factors.reshape(layout.factors, copies * count),
            np.empty(0), np.empty((0, copies * count), np.int64),
        )  # fmt: skip

    def residual_squares(
        self, vectors: NDArray[Any], slots: NDArray[np.int32], numbers: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Squared distance of the vectors in `slots` to the centroids of the lists `numbers`."""
        squares = np.empty(len(slots))
        for start in range(0, len(slots), _CHUNK):
            part = slice(start, start + _CHUNK)
            residuals = self.shifted(vectors[slots[part]]) - self.partition.centroids[numbers[part]]
            squares[part] = np.einsum("ij,ij->i", residuals, residuals, dtype=np.float64)
        return squares

    # --- storage ---

    def state(self) -> dict[str, Any]:
        """What the header of a file holds."""
        graph = None if self.partition.graph is None else self.partition.graph.to_file()[0]
        return {
            "trained_on": self.trained_on,
            "given": self.given,
            "residual": self.residual,
            "imbalance": self.imbalance,
            "coarse": graph,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {
            "origin": self.origin,
            "centroids": self.partition.centroids,
            "radius": self.radius,
            **self.codes.tensors(),
            **({} if self.partition.graph is None else self.partition.graph.to_file()[1]),
        }

    @classmethod
    def restored(cls, dim: int, metric: str, codec: str, state: Any, tensors: dict[str, NDArray[Any]]) -> "Model":
        """The model in a file; raises CorruptIndexError if it cannot be one."""
        centroids = take_tensor(tensors, "centroids", np.float32, (None, dim))
        origin = take_tensor(tensors, "origin", np.float32, (dim,))
        radius = take_tensor(tensors, "radius", np.float32, (len(centroids),))
        for name, array in (("centroids", centroids), ("origin", origin), ("radius", radius)):
            if not len(array) or not np.isfinite(array).all():
                raise CorruptIndexError(f"tensor {name!r}: expected finite numbers")
        if not isinstance(state, dict):
            raise CorruptIndexError(f"header 'model': expected facts about the training, got {state!r:.80}")
        numbers: list[Any] = [state.get(name) for name in ("trained_on", "residual", "imbalance")]
        if any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 <= n < np.inf for n in numbers):
            raise CorruptIndexError(f"header 'model': expected numbers of at least 0, got {state!r:.80}")
        if not isinstance(state.get("given"), bool):
            raise CorruptIndexError(f"header 'model': expected 'given' to be true or false, got {state!r:.80}")
        codes = make_list_codes(codec, dim, metric)
        codes.restore(tensors)
        graph = None
        if state.get("coarse") is not None:
            graph = CentroidGraph.from_file(state["coarse"], tensors, len(centroids), metric)
        model = cls(origin, Partition(centroids, metric, graph), codes)
        model.radius = radius
        model.trained_on, model.residual, model.imbalance = int(state["trained_on"]), *map(float, numbers[1:])
        model.given = state["given"]
        return model
