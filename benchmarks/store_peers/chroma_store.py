"""Chroma, embedded."""

from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from numpy.typing import NDArray

from benchmarks.store_peers.base import FIELD, Effort, ladder

COLLECTION = "points"
SPACES = {"cosine": "cosine", "l2": "l2", "ip": "ip"}


class Chroma:
    durability = "in SQLite, synced"
    configuration = "HNSW as by default (M 16, ef_construction 100)"

    def __init__(self) -> None:
        self.ladders = [ladder("ef_search", 10, 1000)]

    def version(self) -> str:
        return str(chromadb.__version__)

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        self._folder = folder
        self._client = self._connect()
        self._collection = self._client.get_or_create_collection(
            COLLECTION, configuration={"hnsw": {"space": SPACES[metric]}}, embedding_function=None
        )
        self._effort: Effort = {"ef_search": self._collection.configuration["hnsw"]["ef_search"]}

    def _connect(self) -> Any:
        return chromadb.PersistentClient(self._folder, settings=chromadb.Settings(anonymized_telemetry=False))

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> None:
        self._collection.add(
            ids=[str(one) for one in ids.tolist()],
            embeddings=vectors,
            metadatas=[{FIELD: one} for one in buckets.tolist()],
        )

    def finish(self) -> None:
        """What has not been indexed yet is by the first query."""
        self._collection.query(query_embeddings=np.ones((1, self._dim()), np.float32), n_results=1, include=[])

    def _dim(self) -> int:
        return len(self._collection.peek(1)["embeddings"][0])

    def prepare(self, effort: Effort) -> None:
        if effort == self._effort:
            return
        # The index keeps the effort with which it was opened (seen with 1.5.9).
        self._collection.modify(configuration={"hnsw": effort})
        self._client.close()
        self._client = self._connect()
        self._collection = self._client.get_collection(COLLECTION, embedding_function=None)
        self._effort = effort
        self._collection.query(query_embeddings=np.ones((1, self._dim()), np.float32), n_results=1, include=[])

    def search(self, query: NDArray[np.float32], k: int, effort: Effort, bucket: int | None) -> Any:
        where = None if bucket is None else {FIELD: bucket}
        found = self._collection.query(query_embeddings=query[None], n_results=k, where=where, include=[])
        return [int(one) for one in found["ids"][0]]

    def close(self) -> None:
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()
