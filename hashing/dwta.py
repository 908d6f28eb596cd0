"""Densified winner-take-all hashes: similarity of rankings, for sparse and dense vectors."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.hashing.randomness import check_seed, words64
from nearhash.hashing.vectors import check_whole
from nearhash.kernels.dwta import EMPTY, hash_rows
from nearhash.kernels.threads import resolve_threads, run_chunks

# Streams of random words: permutation p is made from stream PERMUTATIONS + p.
PROBES, PERMUTATIONS = 0x44575441_00000000, 0x44575441_00000001

_ROWS = 256  # that a thread takes at a time
Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


class DWTA:
    """Winner-take-all hashes, densified so that sparse vectors have no empty ones.

    A hash looks at `window` random coordinates and says which of them is the greatest (Yagnik et al., "The power of
    comparative reasoning", ICCV 2011): it depends on the order of values only, so neither scaling nor any other
    increasing map changes it. One permutation of the coordinates serves dim / window hashes. Where all coordinates
    of a window are zero the hash is borrowed from another window, chosen at random in the same way for all vectors
    (Chen & Shrivastava, "Densified winner take all (DWTA) hashing for sparse datasets", UAI 2018).

    Parameters
    ----------
    dim : int
        Dimension of the vectors, at least `window`.
    k : int
        Hashes of a vector.
    window : int
        Coordinates that a hash compares, 2 to 255: the more, the more the greatest values alone decide.
    seed : int

    Notes
    -----
    A coordinate that is zero is absent: it never wins, not even against negative ones. Of equal values the one wins
    that the permutation puts first.
    """

    def __init__(self, dim: int, k: int = 128, window: int = 8, seed: int = 0) -> None:
        self.window = check_whole(window, "window", 2, EMPTY)
        self.dim = check_whole(dim, "dim", self.window, 2**31 - 1)
        self.k = check_whole(k, "k", 1, 2**24)
        self.seed = check_seed(seed)
        windows = self.dim // self.window
        permutations = -(-self.k // windows)
        bins = np.empty((permutations, self.dim), np.int32)
        places = np.empty((permutations, self.dim), np.uint8)
        for number in range(permutations):
            order = np.argsort(words64(self.seed, PERMUTATIONS + number, self.dim), kind="stable")
            place = np.empty(self.dim, np.int64)
            place[order] = np.arange(self.dim)
            own = place // self.window
            target = number * windows + own
            bins[number] = np.where((own < windows) & (target < self.k), target, -1)
            places[number] = place % self.window
        self._bins, self._places = bins, places
        self._key = np.uint64(words64(self.seed, PROBES, 1)[0])

    def hash(self, vectors: Any, threads: int | None = None) -> NDArray[np.uint8]:
        """Hashes of vectors.

        Parameters
        ----------
        vectors : (n, dim) or (dim,) array of a real dtype, or a CSR matrix
            Finite. A CSR matrix is anything with ``indptr``, ``indices``, ``data`` and ``shape``, such as SciPy's.
        threads : int, optional
            By default all cores; the result does not depend on it.

        Returns
        -------
        (n, k) uint8
            Numbers below `window`. All 255 for a vector without a coordinate in any window, such as a zero vector.
        """
        threads = resolve_threads(threads)
        if all(hasattr(vectors, name) for name in ("indptr", "indices", "data", "shape")):
            rows = self._sparse(vectors)
        else:
            rows = self._dense(vectors)
        out = np.empty((len(rows[0]) - 1, self.k), np.uint8)

        def task(first: int, last: int) -> None:
            hash_rows(*rows, self._bins, self._places, self._key, out, first, last)

        run_chunks(task, len(out), threads, _ROWS)
        return out

    def _dense(self, vectors: ArrayLike) -> Rows:
        array = np.asarray(vectors)
        if array.dtype.kind not in "fiu":
            raise DtypeError(f"vectors: expected a real dtype, got {array.dtype}")
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise DimensionError(f"vectors: expected shape (n, {self.dim}) or ({self.dim},), got {np.shape(vectors)}")
        present = array != 0
        indptr = np.zeros(len(array) + 1, np.int64)
        np.cumsum(present.sum(axis=1), out=indptr[1:])
        return indptr, np.nonzero(present)[1].astype(np.int32), _values(array[present])

    def _sparse(self, matrix: Any) -> Rows:
        indptr, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
        values = _values(np.asarray(matrix.data))
        if len(matrix.shape) != 2 or matrix.shape[1] != self.dim:
            raise DimensionError(f"vectors: expected shape (n, {self.dim}), got {tuple(matrix.shape)}")
        if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
            raise DtypeError(f"vectors: expected integer indptr and indices, got {indptr.dtype} and {indices.dtype}")
        if indptr.shape != (matrix.shape[0] + 1,) or indptr[0] != 0 or (np.diff(indptr.astype(np.int64)) < 0).any():
            raise InvalidArgumentError(f"vectors: expected indptr (n + 1,) that ascends from 0, got {indptr!r:.80}")
        if len(indices) != indptr[-1] or values.shape != indices.shape:
            raise InvalidArgumentError(
                f"vectors: expected {indptr[-1]} indices and values, got {len(indices)} and {len(values)}"
            )
        if len(indices) and (indices.min() < 0 or indices.max() >= self.dim):
            raise InvalidArgumentError(f"vectors: expected indices in [0, {self.dim}), got {indices.max()}")
        return indptr.astype(np.int64), indices.astype(np.int32), values

    def similarity(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n,) share of equal hashes, row by row; 1 where both are of vectors without coordinates, 0 where one is."""
        shares: NDArray[np.float64] = (np.atleast_2d(a) == np.atleast_2d(b)).mean(axis=1)
        return shares

    def collision_probability(self, x: ArrayLike, y: ArrayLike) -> float:
        """Probability that two vectors agree in a hash whose window holds coordinates of both.

        Coordinate i wins in both if the others of its window are among the R_i that are less in both, so
        ``P = sum_i C(R_i, w - 1) / C(dim, w)`` (Yagnik et al. 2011, sec. 3), here divided by the probability that
        neither window is empty. For distinct values; borrowed hashes are not covered.

        Parameters
        ----------
        x, y : (dim,)
        """
        a, b = (np.asarray(v, np.float64) for v in (x, y))
        for name, vector in (("x", a), ("y", b)):
            if vector.shape != (self.dim,) or not np.isfinite(vector).all():
                raise InvalidArgumentError(f"{name}: expected {self.dim} finite values, got shape {vector.shape}")
        wins = 0
        for i in np.flatnonzero((a != 0) & (b != 0)):
            less = ((a == 0) | (a < a[i])) & ((b == 0) | (b < b[i]))
            wins += self._windows(int(less.sum()), self.window - 1)
        total = self._windows(self.dim, self.window)
        empty = [self._windows(int(zero.sum()), self.window) for zero in (a == 0, b == 0, (a == 0) & (b == 0))]
        filled = total - empty[0] - empty[1] + empty[2]
        return wins / filled if filled else 0.0

    @staticmethod
    def _windows(coordinates: int, size: int) -> int:
        return math.comb(coordinates, size)

    def variance(self, probability: float) -> float:
        """Variance of the share of equal hashes if they were independent: ``P (1 - P) / k``.

        Windows of one permutation do not overlap, which makes it slightly less; borrowed hashes make it more.
        """
        if not 0 <= probability <= 1:
            raise InvalidArgumentError(f"probability: expected a number in [0, 1], got {probability!r}")
        return probability * (1 - probability) / self.k


def _values(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values as float32; the order of distinct ones may only be lost to its rounding."""
    if values.dtype.kind not in "fiu":
        raise DtypeError(f"vectors: expected a real dtype, got {values.dtype}")
    with np.errstate(over="ignore"):
        floats = np.require(values, np.float32, requirements=["C", "A", "W"])
    if not np.isfinite(floats).all():
        raise InvalidArgumentError("vectors: expected finite values within float32, got NaN, inf or beyond")
    return floats
