"""What every store of the comparison offers."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Effort = dict[str, int]
FIELD = "bucket"  # the payload of a point: one whole number


class Store(Protocol):
    """A collection of vectors with whole-number ids and one payload field.

    Attributes
    ----------
    durability : str
        What has happened to a batch when `insert` returns.
    configuration : str
        Index and settings that differ from the defaults, as its documentation advises.
    ladders : list of lists of efforts
        Each rising; the fastest that reaches the recall is taken.
    """

    durability: str
    configuration: str
    ladders: list[list[Effort]]

    def version(self) -> str: ...

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        """Make it in an empty folder, for so many points, or open what is there, ready to search."""

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> None:
        """Insert new points; returns when they are acknowledged."""

    def finish(self) -> None:
        """Build the indexes and wait until they are there."""

    def prepare(self, effort: Effort) -> None:
        """Set what holds for all searches from now on; not timed."""

    def search(self, query: NDArray[np.float32], k: int, effort: Effort, bucket: int | None) -> Any:
        """Ids of the k nearest of one query (dim,), of those in a bucket unless it is None; any sequence of them."""

    def close(self) -> None:
        """End it and all that it has started."""


def ladder(name: str, first: int, last: int, **fixed: int) -> list[Effort]:
    """Efforts from the first to the last in steps of a fifth; `fixed` is in all of them."""
    steps = [first]
    while steps[-1] < last:
        steps.append(min(last, max(steps[-1] + 1, round(steps[-1] * 1.2))))
    return [{name: step, **fixed} for step in steps]
