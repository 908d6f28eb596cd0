"""Vectors in hash tables from which members of a bucket can be drawn, with insertion and removal."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError, UnknownIdError
from nearhash.hashing.vectors import as_rows
from nearhash.kernels.buckets import draw_members

# Slots that are in no order are looked at by every draw; sorting them in costs a pass over all.
_LEAST_UNSORTED, _UNSORTED_SHARE = 256, 1 / 64
_DEAD_SHARE = 0.25  # of the slots, above which they are given up


class Buckets:
    """Vectors, the keys of each in several tables, and an id of each that is never used again.

    Parameters
    ----------
    dim, tables : int
    """

    def __init__(self, dim: int, tables: int) -> None:
        self._vectors = _Rows(np.empty((0, dim), np.float32))
        self._keys = _Rows(np.empty((0, tables), np.uint64))
        self._alive = _Rows(np.empty(0, np.uint8))
        self._ids = _Rows(np.empty(0, np.int64))  # ascending
        self._next_id = self._dead = self._built = 0
        self._order: NDArray[np.int32] = np.empty((tables, 0), np.int32)
        self._whole = True  # no slot of the order has been removed

    def __len__(self) -> int:
        return len(self._ids.view) - self._dead

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the vectors, ascending."""
        return np.asarray(self._ids.view[self._alive.view == 1])

    @property
    def nbytes(self) -> int:
        rows = (self._vectors, self._keys, self._alive, self._ids)
        return sum(one.nbytes for one in rows) + int(self._order.nbytes)

    def add(self, vectors: NDArray[np.float32], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Add vectors (n, dim) of keys (n, tables); returns their ids."""
        ids = np.arange(self._next_id, self._next_id + len(vectors))
        self._next_id += len(vectors)
        for rows, new in (
            (self._vectors, vectors), (self._keys, keys), (self._alive, np.ones(len(ids), np.uint8)), (self._ids, ids),
        ):  # fmt: skip
            rows.append(new)
        if len(self._ids.view) - self._built > max(_LEAST_UNSORTED, _UNSORTED_SHARE * self._built):
            self._sort()
        return ids

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors by id; an unknown one, or one given twice, raises and nothing is removed."""
        wanted = np.atleast_1d(np.asarray(ids))
        if wanted.size == 0:
            return
        if wanted.dtype.kind not in "iu" or wanted.ndim != 1:
            raise InvalidArgumentError(f"ids: expected integers (n,), got {wanted.dtype} of shape {wanted.shape}")
        known, alive = self._ids.view, self._alive.view
        slots = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        found = (known[slots] == wanted) & (alive[slots] == 1) if len(known) else np.zeros(len(wanted), bool)
        if not found.all():
            raise UnknownIdError(f"ids: {wanted[~found][0]} is not here")
        if len(np.unique(slots)) < len(slots):
            raise InvalidArgumentError("ids: expected distinct ids, got one more than once")
        alive[slots] = 0
        self._whole = False
        self._dead += len(slots)
        if self._dead > _DEAD_SHARE * len(known):
            self._compact()

    def _sort(self) -> None:
        living = np.flatnonzero(self._alive.view).astype(np.int32)
        own = self._keys.view[living]
        self._order = np.ascontiguousarray(living[np.argsort(own, axis=0, kind="stable")].T)
        self._built, self._whole = len(self._ids.view), True

    def _compact(self) -> None:
        living = self._alive.view == 1
        for rows in (self._vectors, self._keys, self._ids, self._alive):
            rows.keep(living)
        self._dead = 0
        self._sort()

    def draw(
        self, own: NDArray[np.uint64], tables: NDArray[np.int64], uniforms: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """One member of each of m buckets, all members being as likely.

        own, tables, uniforms (m,): key and table of each bucket, a number in (0, 1).

        Returns
        -------
        ids : (m,) int64
            -1 from an empty bucket.
        vectors : (m, dim) float32
            Zero there.
        sizes : (m,) int64
            Of the buckets.
        """
        slots, sizes = np.empty(len(own), np.int32), np.empty(len(own), np.int64)
        draw_members(
            self._keys.view,
            self._order,
            self._built,
            self._whole,
            self._alive.view,
            own,
            tables,
            uniforms,
            slots,
            sizes,
        )
        ids, vectors = np.full(len(own), -1), np.zeros((len(own), self._vectors.view.shape[1]), np.float32)
        there = slots >= 0
        ids[there], vectors[there] = self._ids.view[slots[there]], self._vectors.view[slots[there]]
        return ids, vectors, sizes


class HashedPoints(ABC):
    """Points that come and go, in tables by keys that a subclass makes of them."""

    def __init__(self, dim: int, tables: int) -> None:
        self.dim, self.tables = dim, tables
        self._buckets = Buckets(dim, tables)

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the points, ascending."""
        return self._buckets.ids

    @property
    def nbytes(self) -> int:
        """Bytes of points and tables."""
        return self._buckets.nbytes

    def add(self, X: ArrayLike) -> NDArray[np.int64]:
        """Add points (n, dim); returns their ids, consecutive and never used again."""
        rows = as_rows(X, self.dim, "X")
        return self._buckets.add(rows, self._keys(rows))

    def remove(self, ids: ArrayLike) -> None:
        """Remove points by id; an unknown one raises and nothing is removed."""
        self._buckets.remove(ids)

    @abstractmethod
    def _keys(self, rows: NDArray[np.float32]) -> NDArray[np.uint64]:
        """(n, tables) keys of rows (n, dim)."""


class _Rows:
    """An array that grows by doubling."""

    def __init__(self, empty: NDArray[Any]) -> None:
        self._buffer = empty
        self._count = 0

    @property
    def view(self) -> NDArray[Any]:
        return self._buffer[: self._count]

    @property
    def nbytes(self) -> int:
        return int(self._buffer.nbytes)

    def append(self, rows: NDArray[Any]) -> None:
        total = self._count + len(rows)
        if total > len(self._buffer):
            larger = np.empty((max(total, 2 * self._count), *self._buffer.shape[1:]), self._buffer.dtype)
            larger[: self._count] = self.view
            self._buffer = larger
        self._buffer[self._count : total] = rows
        self._count = total

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        self._buffer = self.view[chosen]
        self._count = len(self._buffer)
