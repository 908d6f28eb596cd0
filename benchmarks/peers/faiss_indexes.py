"""faiss: exact, HNSW, and inverted lists of 4-bit product codes or 1-bit RaBitQ codes with exact refinement."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.distances import normalised
from benchmarks.peers.base import Effort, Lane, Peer, UnsuitableError, rerank_lanes

# faiss compares queries with all of a matrix (exact search, choice of inverted lists) one after another or by a matrix
# product. Since 1.15 it multiplies only from 128,000 values in the queries on, which on one thread is far too late
# (1,000 queries of 100 dimensions: six times slower than the product); its authors know and mean to change it,
# https://github.com/facebookresearch/faiss/pull/5109. Before, the bound was 20 queries. So we choose for it.
BLAS_FROM_QUERIES = 20
ALWAYS, NEVER = 1, 1 << 30

GUIDE = "https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index"
FACTORY = "https://github.com/facebookresearch/faiss/wiki/The-index-factory"


class Faiss(Peer):
    """faiss has no cosine: vectors and queries are normalised and compared by inner product."""

    package = "faiss-cpu"

    @abstractmethod
    def make(self, base: NDArray[Any], measure: int) -> Any:
        """An index that is not trained; faiss's number of the metric."""

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        import faiss

        self._set_threads(threads)
        self.normalises = metric == "cosine"
        rows = normalised(base) if self.normalises else base
        self.index = self.make(base, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows)
        self.index.add(rows)

    def convert(self, queries: NDArray[Any]) -> NDArray[Any]:
        return normalised(queries) if self.normalises else queries

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        import faiss

        self._set_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = ALWAYS if len(queries) >= BLAS_FROM_QUERIES else NEVER
        self.apply(effort)
        _, ids = self.index.search(queries, k)
        return np.asarray(ids)

    def apply(self, effort: Effort) -> None:
        """Set the effort of the searches to come."""

    def nbytes(self) -> int | None:
        import faiss

        return int(faiss.serialize_index(self.index).nbytes)

    @staticmethod
    def _set_threads(threads: int) -> None:
        import faiss

        if faiss.omp_get_max_threads() != threads:
            faiss.omp_set_num_threads(threads)


class FaissFlat(Faiss):
    name = "faiss-flat"
    reference = GUIDE

    def make(self, base: NDArray[Any], measure: int) -> Any:
        import faiss

        return faiss.index_factory(base.shape[1], "Flat", measure)

    def lanes(self, k: int) -> list[Lane]:
        return []


class FaissHnsw(Faiss):
    """M = 16 and efConstruction = 200, the same as for hnswlib; the guide: "4 <= M <= 64"."""

    name = "faiss-hnsw"
    reference = GUIDE

    def make(self, base: NDArray[Any], measure: int) -> Any:
        import faiss

        index: Any = faiss.index_factory(base.shape[1], "HNSW16,Flat", measure)
        index.hnsw.efConstruction = 200
        self.parameters = {"M": 16, "efConstruction": 200}
        return index

    def lanes(self, k: int) -> list[Lane]:
        return [Lane("efSearch", k, 4096)]

    def apply(self, effort: Effort) -> None:
        self.index.hnsw.efSearch = effort["efSearch"]


class FaissIvf(Faiss):
    """Inverted lists of codes for fast scan, then exact distances of the k * k_factor best."""

    reference = GUIDE
    lists_factor: ClassVar[float] = 4.0
    """The guide: "between 4 sqrt(n) and 16 sqrt(n)" lists. Four is the cheapest to train; two is faster here."""

    @abstractmethod
    def factory(self, dim: int, lists: int) -> str:
        """The index for ``faiss.index_factory``."""

    def make(self, base: NDArray[Any], measure: int) -> Any:
        import faiss

        n, dim = base.shape
        self.lists = max(1, round(self.lists_factor * math.sqrt(n)))
        factory = self.factory(dim, self.lists)
        self.parameters = {"factory": factory}
        return faiss.index_factory(dim, factory, measure)

    def lanes(self, k: int) -> list[Lane]:
        return rerank_lanes("nprobe", self.lists, "k_factor", 1)

    def apply(self, effort: Effort) -> None:
        import faiss

        lists: Any = faiss.extract_index_ivf(self.index)
        lists.nprobe = effort["nprobe"]
        self.index.k_factor = effort["k_factor"]


class FaissIvfPq(FaissIvf):
    """4-bit codes of two dimensions each.

    The guide, for when memory is no concern: "HNSW or IVF1024,PQNx4fs,RFlat" with N half the dimension.
    """

    name = "faiss-ivfpq"
    family = "faiss-ivfpq"
    codes = "x4fs"

    def factory(self, dim: int, lists: int) -> str:
        if dim % 2:
            raise UnsuitableError(f"PQ of two dimensions a code needs an even dimension, got {dim}")
        return f"IVF{lists},PQ{dim // 2}{self.codes},RFlat"


class FaissIvfPqHalf(FaissIvfPq):
    name = "faiss-ivfpq-2"
    lists_factor = 2.0


class FaissIvfPqResidual(FaissIvfPq):
    """Codes of what a vector differs by from its list's centroid, "slower, more accurate" (FACTORY)."""

    name = "faiss-ivfpqr"
    reference = FACTORY
    codes = "x4fsr"


class FaissIvfPqResidualHalf(FaissIvfPqResidual):
    name = "faiss-ivfpqr-2"
    lists_factor = 2.0


class FaissIvfRabitq(FaissIvf):
    """One bit a dimension; "requires random rotation preprocessing" (FACTORY), here by Hadamard transforms."""

    name = "faiss-ivfrabitq"
    reference = FACTORY

    def factory(self, dim: int, lists: int) -> str:
        return f"HR,IVF{lists},RaBitQfs,RFlat"
