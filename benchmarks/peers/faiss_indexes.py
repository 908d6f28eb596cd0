"""faiss: exact, HNSW, and inverted lists with 4-bit product quantisation and exact refinement."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.distances import normalised
from benchmarks.peers.base import Effort, Lane, Peer, UnsuitableError

# faiss compares queries with all of a matrix (exact search, choice of inverted lists) one after another or by a matrix
# product. Since 1.15 it multiplies only from 128,000 values in the queries on, which on one thread is far too late
# (1,000 queries of 100 dimensions: six times slower than the product); its authors know and mean to change it,
# https://github.com/facebookresearch/faiss/pull/5109. Before, the bound was 20 queries. So we choose for it.
BLAS_FROM_QUERIES = 20
ALWAYS, NEVER = 1, 1 << 30

GUIDE = "https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index"


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


class FaissIvfPq(Faiss):
    """Fast scan over 4-bit codes of two dimensions each, then exact distances of the k * k_factor best.

    The guide, for when memory is no concern: "HNSW or IVF1024,PQNx4fs,RFlat" with N half the dimension, and for the
    number of lists "between 4 sqrt(n) and 16 sqrt(n)". Four: the cheapest to train.
    """

    name = "faiss-ivfpq"
    reference = GUIDE

    def make(self, base: NDArray[Any], measure: int) -> Any:
        import faiss

        n, dim = base.shape
        if dim % 2:
            raise UnsuitableError(f"PQ of two dimensions a code needs an even dimension, got {dim}")
        self.lists = max(1, round(4 * math.sqrt(n)))
        factory = f"IVF{self.lists},PQ{dim // 2}x4fs,RFlat"
        self.parameters = {"factory": factory}
        return faiss.index_factory(dim, factory, measure)

    def lanes(self, k: int) -> list[Lane]:
        return [Lane("nprobe", 1, self.lists, {"k_factor": factor}) for factor in (1, 2, 4, 8, 16, 32, 64)]

    def apply(self, effort: Effort) -> None:
        import faiss

        lists: Any = faiss.downcast_index(self.index.base_index)
        lists.nprobe = effort["nprobe"]
        self.index.k_factor = effort["k_factor"]
