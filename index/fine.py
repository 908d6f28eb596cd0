"""What a graph index measures its last candidates by, beside the codes that it walks on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arrays import Growable
from nearhash.index.codecs.base import Codec
from nearhash.index.codecs.lvq4x8 import LVQ4x8Codec
from nearhash.index.exact import exact_search
from nearhash.index.points import Filter
from nearhash.index.storage import take_tensor
from nearhash.kernels.fine import FineRows, FloatRows, TwoLevelRows, scan_fine
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.threads import run_chunks

Floats = NDArray[np.float32]


class FineQueries(NamedTuple):
    """Queries and source as kernels/fine.py has them."""

    source: FineRows
    queries: Floats
    metric: int
    bases: Floats


class Fine(ABC):
    """Rows of a codec, seen as finely as the index keeps them.

    Parameters
    ----------
    codec : Codec
    metric : {"l2", "ip", "cosine"}
    """

    def __init__(self, codec: Codec, metric: str) -> None:
        self._codec, self._metric = codec, metric

    @property
    def _scoring(self) -> tuple[int, np.float32]:
        return L2 if self._metric == "l2" else DOT, np.float32(self._metric == "cosine")

    @abstractmethod
    def append(self, vectors: Floats) -> None:
        """Take room for new vectors (n, dim); what has to be learned of them is known after `encode`."""

    def encode(self, vectors: Floats, codes: NDArray[Any], first: int) -> None:
        """Write what is kept of vectors (n, dim) with these codes (n, width), in slots from `first` on."""
        return

    @abstractmethod
    def truncate(self, count: int) -> None:
        """Forget all slots from `count` on."""

    @abstractmethod
    def vectors(self, codes: NDArray[Any], slots: NDArray[np.integer[Any]] | slice) -> Floats:
        """Vectors (n, dim) of slots, as they are known; codes are those of all slots."""

    @abstractmethod
    def ask(self, codes: NDArray[Any], queries: Floats) -> FineQueries:
        """Queries (q, dim) as kernels take them, with what they are measured against."""

    @abstractmethod
    def scan(
        self, codes: NDArray[Any], queries: Floats, wanted: Filter, k: int, threads: int
    ) -> tuple[NDArray[np.int32], Floats]:
        """The k nearest of all slots that pass the filter, see `exact_search`."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes beside the codes."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What an index file holds of it."""
        return {}

    def restore(self, tensors: dict[str, NDArray[Any]], count: int) -> None:
        """Take back what `tensors` gave, of so many slots; raises CorruptIndexError."""
        return


class OwnRows(Fine):
    """Of an exact codec: its rows are the vectors, with zeros behind them, or a coordinate that queries have not."""

    def append(self, vectors: Floats) -> None:
        return

    def truncate(self, count: int) -> None:
        return

    def vectors(self, codes: NDArray[Any], slots: NDArray[np.integer[Any]] | slice) -> Floats:
        return np.ascontiguousarray(codes[slots, : self._codec.dim])

    def ask(self, codes: NDArray[Any], queries: Floats) -> FineQueries:
        metric, base = self._scoring
        return FineQueries(FloatRows(codes), queries, metric, np.full(len(queries), base))

    def scan(
        self, codes: NDArray[Any], queries: Floats, wanted: Filter, k: int, threads: int
    ) -> tuple[NDArray[np.int32], Floats]:
        wide = np.zeros((len(queries), codes.shape[1]), np.float32)
        wide[:, : queries.shape[1]] = queries
        return exact_search(wide, codes, np.empty(0, np.float32), self._metric, wanted, k, threads)

    @property
    def nbytes(self) -> int:
        return 0


class KeptVectors(Fine):
    """float32 vectors beside the codes."""

    def __init__(self, codec: Codec, metric: str) -> None:
        super().__init__(codec, metric)
        self._rows = Growable.empty((codec.dim,), np.float32)

    def append(self, vectors: Floats) -> None:
        self._rows.append(vectors)

    def truncate(self, count: int) -> None:
        self._rows.truncate(count)

    def vectors(self, codes: NDArray[Any], slots: NDArray[np.integer[Any]] | slice) -> Floats:
        return np.ascontiguousarray(self._rows.view[slots])

    def ask(self, codes: NDArray[Any], queries: Floats) -> FineQueries:
        metric, base = self._scoring
        return FineQueries(FloatRows(self._rows.view), queries, metric, np.full(len(queries), base))

    def scan(
        self, codes: NDArray[Any], queries: Floats, wanted: Filter, k: int, threads: int
    ) -> tuple[NDArray[np.int32], Floats]:
        return exact_search(queries, self._rows.view, np.empty(0, np.float32), self._metric, wanted, k, threads)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"vectors": self._rows.view}

    def restore(self, tensors: dict[str, NDArray[Any]], count: int) -> None:
        self._rows = Growable(take_tensor(tensors, "vectors", np.float32, (count, self._codec.dim)))


class SecondLevel(Fine):
    """The second level of LVQ-4x8; no vector is kept."""

    def __init__(self, codec: LVQ4x8Codec, metric: str) -> None:
        super().__init__(codec, metric)
        self._two_level = codec
        self._fine = Growable.empty((codec.dim,), np.uint8)

    def append(self, vectors: Floats) -> None:
        self._fine.extend(len(vectors))[...] = 0

    def encode(self, vectors: Floats, codes: NDArray[Any], first: int) -> None:
        self._two_level.encode_fine(vectors, codes, self._fine.view[first : first + len(vectors)])

    def truncate(self, count: int) -> None:
        self._fine.truncate(count)

    def vectors(self, codes: NDArray[Any], slots: NDArray[np.integer[Any]] | slice) -> Floats:
        return self._two_level.decode_fine(codes[slots], self._fine.view[slots])

    def ask(self, codes: NDArray[Any], queries: Floats) -> FineQueries:
        metric, base = self._scoring
        mean, bases = self._two_level.mean, np.full(len(queries), base)
        if metric == L2:
            queries = queries - mean
        else:
            with np.errstate(over="ignore"):  # the mean comes from a file
                bases = (base - queries.astype(np.float64) @ mean).astype(np.float32)
        return FineQueries(self._source(codes), np.ascontiguousarray(queries), metric, bases)

    def _source(self, codes: NDArray[Any]) -> TwoLevelRows:
        return TwoLevelRows(codes, self._fine.view, self._two_level.scheme.header)

    def scan(
        self, codes: NDArray[Any], queries: Floats, wanted: Filter, k: int, threads: int
    ) -> tuple[NDArray[np.int32], Floats]:
        asked, count = self.ask(codes, queries), len(queries)
        slots, distances = np.empty((count, k), np.int32), np.empty((count, k), np.float32)

        def task(first: int, last: int) -> None:
            own = slice(first, last)
            scan_fine(
                asked.source, asked.queries[own], asked.metric, asked.bases[own], wanted.mask, wanted.labels,
                wanted.windows[own], slots[own], distances[own],
            )  # fmt: skip

        run_chunks(task, count, threads, 1 if threads > 1 else max(1, count))
        return slots, distances

    @property
    def nbytes(self) -> int:
        return self._fine.nbytes

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"fine": self._fine.view}

    def restore(self, tensors: dict[str, NDArray[Any]], count: int) -> None:
        self._fine = Growable(take_tensor(tensors, "fine", np.uint8, (count, self._codec.dim)))


def make_fine(codec: Codec, metric: str) -> Fine:
    """What a graph over a codec measures its candidates by."""
    if isinstance(codec, LVQ4x8Codec):
        return SecondLevel(codec, metric)
    return OwnRows(codec, metric) if codec.exact else KeptVectors(codec, metric)
