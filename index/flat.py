"""Exact search by scanning every vector."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.index.arguments import LARGEST, as_matrix, check_range, for_kernels
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots, VectorIndex
from nearhash.index.exact import exact_search, range_search
from nearhash.index.hits import Hits, RangeHits
from nearhash.index.metrics import inverse_norms
from nearhash.index.points import Filter, NewPoints, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import take_tensor
from nearhash.kernels.threads import resolve_threads

Dtype = Literal["float32", "float16", "int8", "uint8"]
DTYPES = ("float32", "float16", "int8", "uint8")


class FlatIndex(VectorIndex):
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
    Searches may run in several threads at once; changes wait for them and have the index alone. Removed vectors give
    back their memory by themselves when they are a quarter of all.
    """

    kind = "flat"
    _SETTINGS = ("dtype",)
    _COMPACT_AT = 0.25

    def __init__(self, dim: int, metric: str = "l2", dtype: Dtype = "float32") -> None:
        super().__init__(dim, metric)
        if dtype not in DTYPES:
            raise DtypeError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        self.dtype = dtype
        self._rows = Growable.empty((self.dim,), dtype)
        # Inverse norms, for cosine over types that cannot store unit vectors exactly enough.
        self._factors = Growable.empty((), np.float32)

    # --- change ---

    def _insert(self, rows: NDArray[Any], new: NewPoints, progress: Progress | None) -> None:
        present = len(self._rows.view)
        try:
            self._rows.append(rows)
            if self._uses_factors:
                self._factors.append(inverse_norms(rows))
            if progress is not None:
                progress(len(rows), len(rows))
        except BaseException:
            self._rows.truncate(present)
            self._factors.truncate(present)
            raise

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        rows = self._rows.view[slots]
        if self._uses_factors:
            self._factors = Growable(self._factors.view[slots])
        self._rows = Growable(rows)

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, exactly; arguments and result are those of `VectorIndex.search`."""
        return self._search(queries, k, window, allow, threads, where)

    def _nearest(
        self, queries: NDArray[Any], k: int, wanted: Filter, effort: None, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return exact_search(queries, self._kernel_rows(), self._factors.view, self.metric, wanted, k, threads)

    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
    ) -> RangeHits:
        """All vectors at distance <= radius of each query, nearest first.

        Parameters are those of `search`; `radius` is a distance of the metric: squared for l2, 1 - cos for cosine,
        and for ip the negative of the least inner product wanted.
        """
        if not isinstance(radius, int | float | np.number) or np.isnan(float(radius)):
            raise InvalidArgumentError(f"radius: expected a number, got {radius!r}")
        threads = resolve_threads(threads)
        prepared = self._queries_of(as_matrix(queries, self.dim, "queries"))
        with self._lock.read():
            wanted = self._filter(len(prepared), window, allow, where)
            indptr, slots, distances = range_search(
                prepared, self._kernel_rows(), self._factors.view, self.metric, wanted, float(radius), threads
            )
            return RangeHits(indptr, self._points.ids[slots], distances)

    # --- facts and storage ---

    def _own_nbytes(self) -> int:
        return self._rows.nbytes + self._factors.nbytes

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        """Under cosine unit vectors only where they are float32; else as they were given."""
        return self._rows.view[slots].astype(np.float32)

    def _tensors(self) -> dict[str, NDArray[Any]]:
        tensors = {"rows": self._rows.view}
        if self._uses_factors:
            tensors["factors"] = self._factors.view
        return tensors

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        count = self._points.slots
        self._rows = Growable(take_tensor(tensors, "rows", self.dtype, (count, self.dim)))
        if self._uses_factors:
            self._factors = Growable(take_tensor(tensors, "factors", np.float32, (count,)))

    # --- representation ---

    @property
    def _uses_factors(self) -> bool:
        return self.metric == "cosine" and self.dtype != "float32"

    def _kernel_rows(self) -> NDArray[Any]:
        """Rows as kernels take them: float16 as its bits."""
        rows = self._rows.view
        return rows.view(np.uint16) if self.dtype == "float16" else rows

    def _rows_of(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """New vectors in the stored dtype; raises if it cannot hold them."""
        if self.dtype == "float32":
            return super()._rows_of(matrix)
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

    def _queries_of(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Queries as kernels take them: the integer dtype of the rows where both agree, else float32."""
        if matrix.dtype == self.dtype and self.dtype in ("int8", "uint8") and self.metric != "cosine":
            return for_kernels(matrix)
        return super()._queries_of(matrix)
