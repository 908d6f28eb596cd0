"""Exact search by scanning every vector."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, DtypeError, InvalidArgumentError
from nearhash.index.arguments import (
    LARGEST,
    as_float32,
    as_matrix,
    check_count,
    check_dim,
    check_metric,
    check_range,
    for_kernels,
)
from nearhash.index.arrays import Growable
from nearhash.index.exact import exact_search, range_search
from nearhash.index.hits import Hits, RangeHits
from nearhash.index.locks import ReadWriteLock
from nearhash.index.metrics import inverse_norms, normalised
from nearhash.index.points import Points
from nearhash.index.storage import write_file
from nearhash.kernels.threads import resolve_threads

Progress = Callable[[int, int], None]
Dtype = Literal["float32", "float16", "int8", "uint8"]
DTYPES = ("float32", "float16", "int8", "uint8")


class FlatIndex:
    """Exact nearest neighbours: every search looks at every vector.

    The index to start with, and the ground truth for all others. Large batches go through a matrix product, small
    ones through a vector scan at the speed of memory.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768.
    metric : {"l2", "ip", "cosine"}
        Distance: squared Euclidean; minus the inner product; one minus the cosine. Under cosine a zero vector has
        similarity 0, distance 1, with every other.
    dtype : {"float32", "float16", "int8", "uint8"}
        How vectors are stored. Input of any float or integer dtype is accepted where the stored type can hold it:
        integers out of range and fractions for an integer type raise. float32 under cosine stores unit vectors.

    Notes
    -----
    Searches may run in several threads at once; changes wait for them and have the index alone.
    """

    def __init__(self, dim: int, metric: str = "l2", dtype: Dtype = "float32") -> None:
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)
        if dtype not in DTYPES:
            raise DtypeError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        self.dtype = dtype
        self._points = Points()
        self._rows = Growable.empty((self.dim,), dtype)
        # Inverse norms, for cosine over types that cannot store unit vectors exactly enough.
        self._factors = Growable.empty((), np.float32)
        self._lock = ReadWriteLock()

    # --- change ---

    def add(
        self,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.int64]:
        """Add vectors and return their ids.

        Parameters
        ----------
        vectors : (n, dim) or (dim,) array of a float or integer dtype
            Finite values.
        ids : (n,) integers, optional
            Distinct, not negative, not in the index; by default consecutive, from 0 or the largest id so far plus one.
        labels : (n,) numbers, optional
            Stored as float64, for ``window=`` of `search`. Vectors added without labels match no window.
        progress : callable, optional
            Called with (vectors done, vectors in all).

        Returns
        -------
        (n,) int64
            The ids.

        Raises
        ------
        InvalidArgumentError
            Wrong shape or dtype, NaN or inf, duplicate ids, ...; the index is then unchanged.
        """
        rows = self._encode(as_matrix(vectors, self.dim, "vectors"))
        with self._lock.write():
            new_ids, new_labels = self._points.check(len(rows), ids, labels)
            self._rows.append(rows)
            if self._uses_factors:
                self._factors.append(inverse_norms(rows))
            self._points.append(new_ids, new_labels)
        if progress is not None:
            progress(len(rows), len(rows))
        return new_ids

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors by id. An unknown id raises UnknownIdError and nothing is removed."""
        with self._lock.write():
            self._points.remove(self._points.slots_of(ids))
            if self._points.deleted * 4 > self._points.slots:
                self._compact()

    def compact(self) -> None:
        """Give back the memory of removed vectors. Happens by itself when a quarter of the vectors are removed."""
        with self._lock.write():
            self._compact()

    def _compact(self) -> None:
        if self._points.deleted:
            slots = self._points.live_slots
            self._rows = Growable(np.ascontiguousarray(self._rows.view[slots]))
            if self._uses_factors:
                self._factors = Growable(self._factors.view[slots])
            self._points.keep(slots)

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, exactly.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array of a float or integer dtype
        k : int
            Results per query, at least 1. Where fewer vectors match, the rest is id -1 at distance inf.
        window : (lo, hi) or (q, 2), optional
            Only vectors with lo <= label < hi; -inf and inf for open ends.
        allow : boolean mask or ids, optional
            Only these vectors. ``mask[i]`` speaks of id i; ids beyond the mask are not allowed, unknown ids ignored.
        threads : int, optional
            Threads to use, by default all cores. The result does not depend on it.

        Returns
        -------
        Hits
            Ids and distances, each (q, k); ties in the order in which the vectors were added.
        """
        k = check_count(k, "k")
        threads = resolve_threads(threads)
        matrix = as_matrix(queries, self.dim, "queries")
        with self._lock.read():
            prepared = self._query(matrix)
            points = self._points
            wanted = points.filter(len(matrix), window, allow)
            slots, distances = exact_search(
                prepared, self._kernel_rows(), self._factors.view, self.metric, wanted, k, threads
            )
            ids = np.where(slots >= 0, points.ids[slots] if points.slots else -1, -1)
        return Hits(ids, distances)

    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        window: ArrayLike | None = None,
        allow: ArrayLike | None = None,
        threads: int | None = None,
    ) -> RangeHits:
        """All vectors at distance <= radius of each query, nearest first.

        Parameters are those of `search`; `radius` is a distance of the metric: squared for l2, 1 - cos for cosine,
        and for ip the negative of the least inner product wanted.
        """
        if not isinstance(radius, int | float | np.number) or np.isnan(float(radius)):
            raise InvalidArgumentError(f"radius: expected a number, got {radius!r}")
        threads = resolve_threads(threads)
        matrix = as_matrix(queries, self.dim, "queries")
        with self._lock.read():
            prepared = self._query(matrix)
            wanted = self._points.filter(len(matrix), window, allow)
            indptr, slots, distances = range_search(
                prepared, self._kernel_rows(), self._factors.view, self.metric, wanted, float(radius), threads
            )
            return RangeHits(indptr, self._points.ids[slots], distances)

    # --- facts ---

    def __len__(self) -> int:
        return self._points.size

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the vectors in the index, in the order in which they were added."""
        with self._lock.read():
            return self._points.ids[self._points.live_slots]

    @property
    def nbytes(self) -> int:
        """Bytes of memory (or of the mapped file) that the index holds."""
        return self._rows.nbytes + self._factors.nbytes + self._points.nbytes

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """(n, dim) float32 stored vectors of some ids; under cosine with float32 these are unit vectors."""
        with self._lock.read():
            return self._rows.view[self._points.slots_of(ids)].astype(np.float32)

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        return {
            "kind": "flat",
            "dim": self.dim,
            "metric": self.metric,
            "dtype": self.dtype,
            "size": self._points.size,
            "deleted": self._points.deleted,
            "labelled": self._points.labelled,
            "nbytes": self.nbytes,
        }

    # --- storage ---

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to a file, atomically; `nearhash.load` reads it."""
        with self._lock.read():
            header = {
                "kind": "flat",
                "dim": self.dim,
                "metric": self.metric,
                "dtype": self.dtype,
                "next_id": self._points.next_id,
            }
            tensors = {"rows": self._rows.view, **self._points.tensors()}
            if self._uses_factors:
                tensors["factors"] = self._factors.view
            write_file(path, header, tensors)

    @classmethod
    def _from_file(cls, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> "FlatIndex":
        index = cls(header["dim"], header["metric"], header["dtype"])
        rows = tensors.get("rows")
        if rows is None or rows.dtype != np.dtype(index.dtype) or rows.ndim != 2 or rows.shape[1] != index.dim:
            raise CorruptIndexError(f"tensor 'rows': expected {index.dtype} of shape (n, {index.dim})")
        index._points = Points.from_tensors(tensors, header.get("next_id"), len(rows))
        index._rows = Growable(rows)
        if index._uses_factors:
            factors = tensors.get("factors")
            if factors is None or factors.dtype != np.float32 or factors.shape != (len(rows),):
                raise CorruptIndexError(f"tensor 'factors': expected float32 of shape ({len(rows)},)")
            index._factors = Growable(factors)
        return index

    # --- representation ---

    @property
    def _uses_factors(self) -> bool:
        return self.metric == "cosine" and self.dtype != "float32"

    def _kernel_rows(self) -> NDArray[Any]:
        """Rows as kernels take them: float16 as its bits."""
        rows = self._rows.view
        return rows.view(np.uint16) if self.dtype == "float16" else rows

    def _encode(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """New vectors in the stored dtype; raises if it cannot hold them."""
        if self.dtype == "float32":
            rows = as_float32(matrix, "vectors")
            return normalised(rows) if self.metric == "cosine" else rows
        if self.dtype == "float16":
            with np.errstate(over="ignore"):
                rows = np.ascontiguousarray(matrix, np.float16)
            check_range(rows, matrix, "vectors", float(np.finfo(np.float16).max))
            return rows
        check_range(matrix, matrix, "vectors", LARGEST)
        limits = np.iinfo(self.dtype)
        with np.errstate(invalid="ignore"):
            rows = np.ascontiguousarray(matrix, np.dtype(self.dtype))
        if matrix.size and (matrix.min() < limits.min or matrix.max() > limits.max or (rows != matrix).any()):
            raise DtypeError(
                f"vectors: expected whole numbers from {limits.min} to {limits.max} (dtype={self.dtype!r})"
            )
        return rows

    def _query(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Queries as kernels take them: the integer dtype of the rows where both agree, else float32."""
        if matrix.dtype == self.dtype and self.dtype in ("int8", "uint8") and self.metric != "cosine":
            return for_kernels(matrix)
        floats = for_kernels(as_float32(matrix, "queries"))
        return normalised(floats) if self.metric == "cosine" else floats
