"""Milvus Lite, through the client of Milvus."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient

from benchmarks.store_peers.base import FIELD, Effort, ladder

COLLECTION = "points"
FILE = "milvus.db"
METRICS = {"cosine": "COSINE", "l2": "L2", "ip": "IP"}


class Milvus:
    durability = "in its log, not synced"

    def __init__(self, kind: str) -> None:
        self._kind = kind
        if kind == "HNSW":
            self.configuration = "HNSW, M 16, efConstruction 200; inverted index on the field"
            self.ladders = [ladder("ef", 10, 2000)]
        else:
            self.configuration = "IVF_FLAT, 4 sqrt(n) lists; inverted index on the field"
            self.ladders = [ladder("nprobe", 2, 2048)]

    def version(self) -> str:
        return f"{version('milvus-lite')}, pymilvus {version('pymilvus')}"

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        self._client = MilvusClient(str(folder / FILE))
        if self._client.has_collection(COLLECTION):
            self._client.load_collection(COLLECTION)
            return
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field(FIELD, DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        self._client.create_collection(COLLECTION, schema=schema)
        hnsw = self._kind == "HNSW"
        self._parameters = {"M": 16, "efConstruction": 200} if hnsw else {"nlist": round(4 * size**0.5)}
        self._metric = METRICS[metric]

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> None:
        columns = zip(ids.tolist(), buckets.tolist(), vectors, strict=True)
        self._client.insert(COLLECTION, [{"id": one, FIELD: bucket, "vector": row} for one, bucket, row in columns])

    def finish(self) -> None:
        self._client.flush(COLLECTION)
        wanted = self._client.prepare_index_params()
        wanted.add_index("vector", index_type=self._kind, metric_type=self._metric, params=self._parameters)
        wanted.add_index(FIELD, index_type="INVERTED")
        self._client.create_index(COLLECTION, wanted)
        self._client.load_collection(COLLECTION)

    def prepare(self, effort: Effort) -> None:
        pass

    def search(self, query: NDArray[np.float32], k: int, effort: Effort, bucket: int | None) -> Any:
        wanted = "" if bucket is None else f"{FIELD} == {bucket}"
        found = self._client.search(COLLECTION, [query], limit=k, filter=wanted, search_params={"params": effort})
        return [one["id"] for one in found[0]]

    def close(self) -> None:
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()
