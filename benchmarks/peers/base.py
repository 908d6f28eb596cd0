"""What every index under comparison offers, ours and theirs."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Effort = dict[str, Any]

RERANK_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class NotInstalledError(RuntimeError):
    """The library of a peer is not installed; the message says which."""


class UnsuitableError(RuntimeError):
    """A peer cannot index this data; the message says why."""


@dataclass(frozen=True)
class Lane:
    """Efforts along one parameter, the others fixed. An index with several parameters has several lanes."""

    parameter: str
    low: int
    high: int
    fixed: Effort = field(default_factory=dict)

    def effort(self, value: int) -> Effort:
        return {**self.fixed, self.parameter: value}


class Peer(ABC):
    """One index of one library, configured as that library's documentation advises.

    ``package`` is the distribution that must be installed, ``reference`` the page that advises the configuration.
    Where the page leaves a choice, such as the number of lists, each choice is a peer of its own, and ``family`` is the
    name under which the best of them stand together; empty for a peer that stands alone.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    reference: ClassVar[str]
    family: ClassVar[str] = ""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}  # of the build; known once built

    @classmethod
    def version(cls) -> str:
        try:
            return version(cls.package)
        except PackageNotFoundError:
            raise NotInstalledError(f"{cls.package} is not installed") from None

    def prepare(self) -> None:  # noqa: B027 - most libraries have nothing to prepare
        """Do what happens once per process and is no part of a build: compile, load, ..."""

    def timed_build(self, base: NDArray[Any], metric: str, threads: int) -> float:
        """Build over `base` (n, d) float32 and return the seconds it took, data conversion included."""
        with thread_limit(threads):
            started = time.perf_counter()
            self.build(base, metric, threads)
            return time.perf_counter() - started

    @abstractmethod
    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        """Build the index with so many threads; metric is "l2", "ip" or "cosine"."""

    def convert(self, queries: NDArray[Any]) -> NDArray[Any]:
        """Queries as `search` takes them; not timed, so that a peer without cosine does not pay for normalising."""
        return queries

    @abstractmethod
    def lanes(self, k: int) -> list[Lane]:
        """The efforts at which k neighbours can be asked for; empty for an exact index."""

    @abstractmethod
    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        """Ids (q, k) int64 for converted queries, -1 where nothing was found. Call it in ``thread_limit(threads)``."""

    def nbytes(self) -> int | None:
        """Bytes that the index holds by its own account, vectors included; None if it cannot tell."""
        return None


def rerank_lanes(lists: str, most: int, rerank: str, unit: int) -> list[Lane]:
    """Lanes of an index that scans lists of codes and measures the best exactly: lists searched, one lane a rerank.

    `rerank` counts in steps of `unit`: k, or 1 where the library multiplies by k itself. The steps are fine, because
    the best effort lies along another lane at every recall.
    """
    return [Lane(lists, 1, most, {rerank: factor * unit}) for factor in RERANK_FACTORS]


@contextlib.contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Hold BLAS and OpenMP, whoever loaded them, to so many threads."""
    with threadpool_limits(limits=threads):
        yield
