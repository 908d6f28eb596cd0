"""One server over real vectors for all tests of this room, and an index whose slowness and failures are scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

import nearhash as nh
from nearhash.protos.v1 import (
    attention_pb2_grpc,
    collections_pb2,
    collections_pb2_grpc,
    documents_pb2_grpc,
    hashes_pb2_grpc,
    points_pb2,
    points_pb2_grpc,
    search_pb2_grpc,
)
from nearhash.service.background import running_server
from nearhash.service.config import ServerConfig
from nearhash.service.engine.database import Database
from nearhash.service.points_wire import to_ids
from nearhash.service.wire import to_tensor

DIM = 24


class ScriptedIndex:
    """Stands in where an index must be slow or fail: ``search`` calls `behaviour` and finds nothing."""

    def __init__(self, behaviour: Callable[[NDArray[Any]], None], dim: int = 4, size: int = 0) -> None:
        self.dim = dim
        self.metric = "l2"
        self.behaviour = behaviour
        self._size = size  # an index of size 0 is not warmed by the server

    def __len__(self) -> int:
        return self._size

    def info(self) -> dict[str, Any]:
        return {"kind": "scripted", "dim": self.dim, "metric": self.metric, "size": self._size}

    def search(
        self, queries: NDArray[Any], k: int = 10, window: Any = None, allow: Any = None, threads: int | None = None
    ) -> nh.Hits:
        self.behaviour(queries)
        return nh.Hits(np.full((len(queries), k), -1), np.full((len(queries), k), np.inf, np.float32))


class Gate:
    """A behaviour that holds every search until the gate opens, and counts."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, queries: NDArray[Any]) -> None:
        self.calls += 1
        self.entered.release()
        assert self.open.wait(20)


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedIndex]:
    return ScriptedIndex


@pytest.fixture
def gate() -> Iterator[Gate]:
    held = Gate()
    yield held
    held.open.set()


@pytest.fixture(scope="session")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((600, DIM)).astype(np.float32)


@pytest.fixture(scope="session")
def index(vectors: NDArray[np.float32]) -> nh.FlatIndex:
    flat = nh.FlatIndex(DIM, metric="l2")
    flat.add(vectors, ids=np.arange(len(vectors)) * 3 + 1, labels=np.arange(len(vectors)))
    return flat


@pytest.fixture(scope="session")
def graph(vectors: NDArray[np.float32]) -> nh.GraphIndex:
    vamana = nh.GraphIndex(DIM, metric="cosine", degree=12, build_beam=24)
    vamana.add(vectors, labels=np.arange(len(vectors)))
    return vamana


@pytest.fixture(scope="session")
def address(index: nh.FlatIndex) -> Iterator[str]:
    with running_server(index) as bound:
        yield bound


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[nh.Client]:
    with nh.Client(address) as connected:
        yield connected


@pytest.fixture(scope="session")
def channel(address: str) -> Iterator[grpc.Channel]:
    """For what the client would never send."""
    with grpc.insecure_channel(address) as connected:
        yield connected


class Stubs(NamedTuple):
    """A server over a database, as raw calls: for what the client would never send."""

    database: Database
    address: str
    channel: grpc.Channel
    search: search_pb2_grpc.SearchServiceStub
    points: points_pb2_grpc.PointServiceStub
    collections: collections_pb2_grpc.CollectionServiceStub
    hashes: hashes_pb2_grpc.HashServiceStub
    documents: documents_pb2_grpc.DocumentServiceStub
    attention: attention_pb2_grpc.AttentionServiceStub

    def create(self, name: str, **settings: Any) -> None:
        complete = {"dim": DIM, "metric": "l2", **settings}
        request = collections_pb2.CreateCollectionRequest(
            name=name, settings=collections_pb2.CollectionSettings(**complete)
        )
        self.collections.CreateCollection(request, timeout=20)

    def upsert(self, name: str, ids: Any, vectors: Any, **more: Any) -> points_pb2.UpsertResponse:
        request = points_pb2.UpsertRequest(
            collection=name, ids=to_ids(ids), vectors=to_tensor(vectors, "vectors"), **more
        )
        return self.points.Upsert(request, timeout=20)


@contextmanager
def serving(folder: Path, config: ServerConfig | None = None, index: nh.FlatIndex | None = None) -> Iterator[Stubs]:
    """A server over a new database in a folder."""
    with (
        Database(folder, most=(config or ServerConfig()).limits.max_collections) as database,
        running_server(index, config=config, database=database) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield Stubs(
            database,
            address,
            channel,
            search_pb2_grpc.SearchServiceStub(channel),
            points_pb2_grpc.PointServiceStub(channel),
            collections_pb2_grpc.CollectionServiceStub(channel),
            hashes_pb2_grpc.HashServiceStub(channel),
            documents_pb2_grpc.DocumentServiceStub(channel),
            attention_pb2_grpc.AttentionServiceStub(channel),
        )


@pytest.fixture(scope="session")
def serve_folder() -> Any:
    return serving


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stubs]:
    with serving(tmp_path_factory.mktemp("database")) as started:
        yield started
