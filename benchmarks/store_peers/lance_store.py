"""LanceDB, embedded."""

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.store_peers.base import FIELD, Effort, ladder

TABLE = "points"


class Lance:
    durability = "written to files, not synced"

    def __init__(self, kind: str) -> None:
        self._kind = kind
        # https://docs.lancedb.com/indexing/vector-index: one partition of a graph for a million rows
        if kind == "IVF_HNSW_SQ":
            self.configuration = "IVF_HNSW_SQ, 1 partition; bitmap index on the field"
            self.ladders = [ladder("ef", 10 * refine, 2000, refine_factor=refine) for refine in (1, 3)]
        else:
            self.configuration = "IVF_PQ, default partitions, a code for 4 dimensions; bitmap index on the field"
            self.ladders = [ladder("nprobes", 4, 512, refine_factor=refine) for refine in (5, 20)]

    def version(self) -> str:
        return str(lancedb.__version__)

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        self._metric = metric
        database = lancedb.connect(folder)
        vector = pa.list_(pa.float32(), dim)
        self._schema = pa.schema([("id", pa.int64()), (FIELD, pa.int64()), ("vector", vector)])
        if (folder / f"{TABLE}.lance").exists():
            self._table = database.open_table(TABLE)
        else:
            self._table = database.create_table(TABLE, schema=self._schema)

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> None:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        self._table.add(pa.Table.from_arrays([pa.array(ids), pa.array(buckets), rows], schema=self._schema))

    def finish(self) -> None:
        self._table.optimize()  # 1,000 rows a file otherwise
        dim = self._schema.field("vector").type.list_size
        more: dict[str, Any] = {"num_partitions": 1} if self._kind == "IVF_HNSW_SQ" else {"num_sub_vectors": dim // 4}
        self._table.create_index(metric=self._metric, index_type=self._kind, **more)
        self._table.create_scalar_index(FIELD, index_type="BITMAP")

    def prepare(self, effort: Effort) -> None:
        pass

    def search(self, query: NDArray[np.float32], k: int, effort: Effort, bucket: int | None) -> Any:
        asked = self._table.search(query, vector_column_name="vector").distance_type(self._metric).limit(k)
        for name, value in effort.items():
            asked = getattr(asked, name)(value)
        if bucket is not None:
            asked = asked.where(f"{FIELD} = {bucket}", prefilter=True)
        return asked.select(["id", "_distance"]).to_arrow()["id"].to_numpy()

    def close(self) -> None:
        pass
