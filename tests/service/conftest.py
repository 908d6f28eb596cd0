"""One server over real vectors for all tests of this room, and an index whose slowness and failures are scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

import nearhash as nh
from nearhash.service.background import running_server

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
