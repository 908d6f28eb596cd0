"""A collection of nearhash, embedded, and over gRPC from a server on the same machine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nearhash as nh
from benchmarks.store_peers.base import FIELD, Effort, ladder
from nearhash import where

COLLECTION = "points"


class Embedded:
    durability = "in SQLite, synced (synchronous=FULL)"
    configuration = "index graph, one segment of all points"

    def __init__(self) -> None:
        self.ladders = [ladder("beam", 10, 1000)]

    def version(self) -> str:
        return str(nh.__version__)

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        path = folder / COLLECTION
        if path.exists():
            self._collection = nh.Collection(path)
        else:
            self._collection = nh.Collection(path, dim=dim, metric=metric, index="graph")

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> None:
        self._collection.upsert(ids, vectors, payloads=[{FIELD: one} for one in buckets.tolist()])

    def finish(self) -> None:
        self._collection.compact()

    def prepare(self, effort: Effort) -> None:
        pass

    def search(self, query: NDArray[np.float32], k: int, effort: Effort, bucket: int | None) -> Any:
        wanted = None if bucket is None else where.eq(FIELD, bucket)
        ids = self._collection.search(query, k, filter=wanted, **effort).ids[0]
        return ids[ids >= 0]

    def close(self) -> None:
        collection = self.__dict__.pop("_collection", None)
        if collection is not None:
            collection.close()
