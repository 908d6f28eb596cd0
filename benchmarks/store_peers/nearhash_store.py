"""A collection of nearhash, embedded, and over gRPC from a server on the same machine."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nearhash as nh
from benchmarks.store_peers.base import FIELD, Effort, ladder
from nearhash import where
from nearhash.service.engine.database import COLLECTIONS

COLLECTION = "points"
DURABILITY = "in SQLite, synced (synchronous=FULL)"


class Embedded:
    durability = DURABILITY
    configuration = "index graph; at the end one segment of all points (compact)"

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


class Served(Embedded):
    configuration = "the same behind nearhash serve and nearhash.Client; compacted while the server is away"

    def __init__(self) -> None:
        super().__init__()
        self._make_client = nh.Client  # wants gRPC
        self._server: subprocess.Popen[str] | None = None

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        self._folder = folder
        self._serve()
        self._client.create_collection(COLLECTION, dim, metric, index="graph", if_missing=True)

    def _serve(self) -> None:
        program = Path(sys.executable).with_name("nearhash")
        command = [program, "serve", "--data", self._folder, "--listen", "127.0.0.1:0", "--json"]
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._client = self._make_client(_announced(self._server), timeout=300)
        self._collection = self._client.collection(COLLECTION)

    def finish(self) -> None:
        self.close()
        with nh.Collection(self._folder / COLLECTIONS / COLLECTION) as collection:
            collection.compact()
        self._serve()

    def close(self) -> None:
        if self._server is not None:
            self._client.close()
            self._server.send_signal(signal.SIGTERM)
            self._server.communicate()
            self._server = None


def _announced(server: subprocess.Popen[str]) -> str:
    """The address, which the server prints as JSON once it is ready."""
    assert server.stdout is not None
    text = ""
    for line in server.stdout:
        text += line
        if line.startswith("}"):
            address: str = json.loads(text)["address"]
            return address
    raise OSError(f"nearhash serve ended with {server.wait()}: {text}")
