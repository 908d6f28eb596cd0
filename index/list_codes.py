"""How an IVFIndex codes the entries of its lists, and the scan that goes with it."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.arrays import aligned_empty
from nearhash.index.codecs import CODECS, make_codec
from nearhash.index.codecs.base import Codec
from nearhash.index.codecs.pq4 import PQ4Codec, pack
from nearhash.index.codecs.rabitq import Rotation, encode_parts
from nearhash.index.inverted import Layout
from nearhash.index.partition import Partition
from nearhash.kernels import codes as row_codes
from nearhash.kernels.fastscan import LEVELS, Codebook
from nearhash.kernels.lists import Centroids, Lists, Reach, Restriction, search_lists
from nearhash.kernels.row_lists import search_row_lists
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.simd_tables import CONSTANTS

# The bias of an entry takes that part of its code's error e out of its scores which a query near the vector would see:
# such a query is about c + ANCHOR r, so of <q, e> the part <c + ANCHOR r, e> is known. Recall@10 of the 50 best codes
# (word vectors, 100 lists): .903 without, .942 with it, .940 for anisotropic codes without, which take far longer to
# find.
ANCHOR = np.float32(0.45)
# How long queries are under inner product nothing says; there codes have the anisotropic loss instead.
ANISOTROPIC = 0.2


class Work(NamedTuple):
    """Arrays of a search of a batch: what a scan makes of queries, keys of the best entries, numbers of lists read."""

    queries: NDArray[np.uint8]
    constants: NDArray[np.float32]
    squares: NDArray[np.float32]
    keys: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    stops: NDArray[np.int64]
    numbers: NDArray[np.float32]

    @classmethod
    def empty(cls, queries: int, query_bytes: int, keys: int) -> "Work":
        return cls(
            aligned_empty((queries, query_bytes), np.uint8), np.empty((queries, CONSTANTS), np.float32),
            np.empty(queries, np.float32), aligned_empty((queries, keys), np.uint64), np.empty(queries, np.int64),
            np.empty(queries, np.int64), np.empty((queries, row_codes.CONSTANTS), np.float32),
        )  # fmt: skip


class Task(NamedTuple):
    """What a batch of queries asks of the lists.

    queries (q, dim) float32 relative to the origin of the partition; chosen (q, p) uint64 keys of lists, of which the
    nearest `near` are scanned first; want: how many of the best entries. limits (q,) float32 and k: how far to read on
    from there, see `kernels.lists.Reach`; fresh: whether these are the first lists, not more of the same numbers.
    """

    queries: NDArray[np.float32]
    chosen: NDArray[np.uint64]
    near: int
    restriction: Restriction
    want: int
    limits: NDArray[np.float32]
    k: int
    fresh: bool

    def reach(self, metric: str, work: Work) -> Reach:
        return Reach(self.limits, np.float32(metric == "cosine"), self.k, work.stops, self.fresh)


class ListCodes(ABC):
    """Codes of the entries of lists."""

    name: str
    bounded = False
    """Whether scores are lower bounds of distances, less ``|q|^2`` under l2 and 1 under cosine."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """How they lie; known once trained."""

    @property
    @abstractmethod
    def query_bytes(self) -> int:
        """Bytes that a scan needs for each query."""

    @abstractmethod
    def train(self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], seed: int, threads: int) -> None:
        """Learn from vectors (n, dim) and what is left of them without their centroids, in random order."""

    @abstractmethod
    def encode(
        self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], partition: Partition
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes (n, width) and factors (f, n) of vectors (n, dim) and their residuals."""

    @abstractmethod
    def scan(self, task: Task, lists: Lists, centroids: Centroids, metric: str, work: Work) -> None:
        """Leave the keys of the best entries of each query in `work`."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of what was learned."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """What was learned, for the index file."""

    @abstractmethod
    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave; raises CorruptIndexError if it cannot be that."""


class ProductLists(ListCodes):
    """PQ4 codes of residuals, for the fast scan.

    With r the code of the residual read back, the score of x for q is ``factor (<q, c> + <q, r>) + bias``, factor -2
    and bias |x|^2 under l2, -1 and 0 else, less the known part of the error (ANCHOR).
    """

    name = "pq4"

    def __init__(self, dim: int, metric: str) -> None:
        self._metric = metric
        self._codec = PQ4Codec(dim, ANISOTROPIC if metric == "ip" else None)

    @property
    def layout(self) -> Layout:
        return Layout(self._codec.width // 4, np.uint32, True, 1)

    @property
    def query_bytes(self) -> int:
        return self._codec.subs * 16

    def train(self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], seed: int, threads: int) -> None:
        self._codec.train(residuals, threads)

    def encode(
        self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], partition: Partition
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        codes, errors = self._codec.encode(residuals, vectors)
        bias: NDArray[np.float32] = np.zeros(len(vectors), np.float32)
        if self._metric != "ip":
            anchors = vectors - (1 - ANCHOR) * residuals  # c + ANCHOR r
            bias = -partition.factor * np.einsum("ij,ij->i", anchors, errors)
        if self._metric == "l2":
            bias = bias + np.einsum("ij,ij->i", vectors, vectors)
        return pack(codes), bias[None]

    def scan(self, task: Task, lists: Lists, centroids: Centroids, metric: str, work: Work) -> None:
        search_lists(
            task.queries, self._codec.project(task.queries), self._codec.codebook, lists, centroids, _kernel(metric),
            task.chosen, task.near, task.reach(metric, work), task.restriction, task.want, *work[:5],
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        return self._codec.nbytes

    def tensors(self) -> dict[str, NDArray[Any]]:
        return self._codec.tensors()

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._codec.restore(tensors)


class RaBitQLists(ListCodes):
    """RaBitQ codes of one bit a dimension, for the fast scan: four bits are a code, and tables hold their sums.

    Scores are lower bounds of distances, so that an exact measurement can stop where no candidate can win any more.
    """

    name = "rabitq"
    bounded = True

    def __init__(self, dim: int, metric: str) -> None:
        self._metric = metric
        self._rotation = Rotation(dim)
        width = self._rotation.width
        bits = np.arange(LEVELS)[None, :] >> (np.arange(width)[:, None] % 4) & 1
        self._codebook = Codebook(np.arange(0, width + 1, 4, dtype=np.int32), (bits - 0.5).astype(np.float32))

    @property
    def layout(self) -> Layout:
        return Layout(self._rotation.width // 32, np.uint32, True, 3)

    @property
    def query_bytes(self) -> int:
        return self._rotation.width // 4 * LEVELS

    def train(self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], seed: int, threads: int) -> None:
        self._rotation = Rotation(self._rotation.dim, seed)

    def encode(
        self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], partition: Partition
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        rotated = self._rotation.apply(residuals)
        centres = self._rotation.apply(vectors - residuals)
        own = np.arange(len(vectors), dtype=np.int32)
        parts = encode_parts(rotated, centres, own, _kernel(self._metric))
        codes = parts.codes.reshape(len(vectors), -1, 4) @ np.array([1, 2, 4, 8], np.uint8)
        bias = parts.add
        if self._metric == "l2":  # scores leave out |q|^2, but not |c|^2
            bias = bias + np.einsum("ij,ij->i", centres, centres)
        return pack(codes), np.stack([bias, parts.rescale / partition.factor, parts.error])

    def scan(self, task: Task, lists: Lists, centroids: Centroids, metric: str, work: Work) -> None:
        search_lists(
            task.queries, self._rotation.apply(task.queries), self._codebook, lists, centroids, _kernel(metric),
            task.chosen, task.near, task.reach(metric, work), task.restriction, task.want, *work[:5],
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        return int(self._rotation.signs.nbytes)

    def tensors(self) -> dict[str, NDArray[Any]]:
        return self._rotation.tensors()

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._rotation.restore(tensors)


class RowLists(ListCodes):
    """Vectors as rows of any codec of ``index.codecs``; scores are its estimates of the distance."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self._codec: Codec = make_codec(name, dim, has_extra=False)

    @property
    def layout(self) -> Layout:
        return Layout(self._codec.width, self._codec.dtype, False, 0)

    @property
    def query_bytes(self) -> int:
        return -(-self._codec.query_bytes // 64) * 64

    def train(self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], seed: int, threads: int) -> None:
        self._codec.train(vectors, seed, threads)

    def encode(
        self, vectors: NDArray[np.float32], residuals: NDArray[np.float32], partition: Partition
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        rows = aligned_empty((len(vectors), self._codec.width), self._codec.dtype)
        self._codec.encode(vectors, np.zeros(len(vectors), np.float32), rows)
        return rows, np.empty((0, len(vectors)), np.float32)

    def scan(self, task: Task, lists: Lists, centroids: Centroids, metric: str, work: Work) -> None:
        search_row_lists(
            task.queries, self._codec.model, lists, centroids, _kernel(metric), task.chosen, task.near,
            task.reach(metric, work), task.restriction, task.want, work.numbers, *work[:5],
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        return int(self._codec.parameters.nbytes)

    def tensors(self) -> dict[str, NDArray[Any]]:
        return self._codec.tensors()

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._codec.restore(tensors)


def _kernel(metric: str) -> int:
    return L2 if metric == "l2" else DOT


def make_list_codes(name: Any, dim: int, metric: str) -> ListCodes:
    """New, untrained codes by name."""
    if name == ProductLists.name:
        return ProductLists(dim, metric)
    if name == RaBitQLists.name:
        return RaBitQLists(dim, metric)
    if name in CODECS:
        return RowLists(name, dim)
    known = ", ".join(dict.fromkeys([ProductLists.name, RaBitQLists.name, *CODECS]))
    raise InvalidArgumentError(f"codec: expected one of {known}, got {name!r}")
