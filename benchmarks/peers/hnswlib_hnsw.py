"""hnswlib: the reference implementation of HNSW."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Effort, Lane, Peer


class HnswlibHnsw(Peer):
    """M = 16 and ef_construction = 200, as in hnswlib's own examples; its guide: "M = 12-48 is ok for most uses"."""

    name = "hnswlib"
    package = "hnswlib"
    reference = "https://github.com/nmslib/hnswlib/blob/master/ALGO_PARAMS.md"

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        import hnswlib

        self.index = hnswlib.Index(space=metric, dim=base.shape[1])
        self.index.init_index(max_elements=len(base), M=16, ef_construction=200)
        self.index.set_num_threads(threads)
        self.index.add_items(base, num_threads=threads)
        self.parameters = {"M": 16, "ef_construction": 200}

    def lanes(self, k: int) -> list[Lane]:
        return [Lane("ef", k, 4096)]

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        self.index.set_ef(effort["ef"])
        ids, _ = self.index.knn_query(queries, k, num_threads=threads)
        return np.asarray(ids).astype(np.int64)

    def nbytes(self) -> int | None:
        return int(self.index.index_file_size())
