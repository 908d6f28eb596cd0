"""USearch: HNSW over vectors of several precisions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Effort, Lane, Peer

METRICS = {"l2": "l2sq", "ip": "ip", "cosine": "cos"}


class Usearch(Peer):
    """Connectivity 16 and expansion_add 128: the defaults and the values of its quick start."""

    package = "usearch"
    reference = "https://unum-cloud.github.io/USearch/python/"
    dtype: str
    index: Any  # its stubs deny setters that exist

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        from usearch.index import Index

        self.index = Index(
            ndim=base.shape[1], metric=METRICS[metric], dtype=self.dtype, connectivity=16, expansion_add=128
        )
        self.index.add(np.arange(len(base), dtype=np.uint64), base, threads=threads)
        self.parameters = {"dtype": self.dtype, "connectivity": 16, "expansion_add": 128}

    def lanes(self, k: int) -> list[Lane]:
        return [Lane("expansion_search", k, 4096)]

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        self.index.expansion_search = effort["expansion_search"]
        matches = self.index.search(queries, k, threads=threads)
        if len(queries) == 1:  # of one query USearch returns only what was found
            ids = np.full((1, k), -1, np.int64)
            ids[0, : len(matches)] = matches.keys
            return ids
        missing = np.arange(k) >= np.asarray(matches.counts)[:, None]
        return np.where(missing, -1, np.asarray(matches.keys).astype(np.int64))

    def nbytes(self) -> int | None:
        return int(self.index.serialized_length)


class UsearchF32(Usearch):
    name = "usearch-f32"
    dtype = "f32"


class UsearchF16(Usearch):
    name = "usearch-f16"
    dtype = "f16"


class UsearchBf16(Usearch):
    name = "usearch-bf16"
    dtype = "bf16"
