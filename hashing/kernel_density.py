"""Sums of a kernel over points that come and go, estimated by hashing."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import randomness
from nearhash.hashing.buckets import HashedPoints
from nearhash.hashing.e2lsh import E2LSH
from nearhash.hashing.vectors import as_rows, check_positive, check_whole
from nearhash.kernels.reference_hashes import fmix64

_DRAW_STREAM = 0x4B444501
_QUERIES = 256  # estimated at once

# Kernels of the distance in bandwidths, and how many times the bandwidth times sqrt(2 / pi) times the number of hashes
# the width of intervals is. Laplace: 2 makes the chance of a shared bucket the square root of the kernel, the best
# there is (Charikar & Siminelakis, sec. 3); Gaussian: by measurement, see the guide.
_KERNELS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "gaussian": (lambda distance: np.exp(-0.5 * np.square(distance)), 1.5),
    "laplace": (lambda distance: np.exp(-distance), 2.0),
}
KERNELS = tuple(_KERNELS)
_mix: Callable[[NDArray[np.uint64]], NDArray[np.uint64]] = fmix64


class KernelSums(NamedTuple):
    """Estimated sums of a kernel over all points, and their standard errors; each (q,) float64."""

    sums: NDArray[np.float64]
    errors: NDArray[np.float64]


class KernelDensity(HashedPoints):
    """Sums of a kernel over a changing set of points, without reading all of them.

    Hashing-based estimators (Charikar & Siminelakis, FOCS 2017; dynamic ones: Qin et al., arXiv 2212.11408, 2022). In
    each table of `hashes` E2LSH numbers one member x of the query's bucket is drawn; with b members, and P(c) the
    chance that points at distance c share a bucket, ``b k(c) / P(c)`` is an unbiased estimate of the sum of k, an
    empty bucket giving 0. The mean over the tables is returned, and its standard error by their spread. Near points,
    which make most of a sum that is small, are drawn far more often than by uniform sampling.

    Parameters
    ----------
    dim : int
        Elements of a vector.
    kernel : {"gaussian", "laplace"}
        ``exp(-c^2 / (2 h^2))`` or ``exp(-c / h)`` of the Euclidean distance c, h the bandwidth.
    bandwidth : float
        In the unit of distances.
    tables : int
        Draws of an estimate: its error falls with their square root. 2 to 1,024.
    hashes : int
        Numbers of a key. More follow the kernel more closely (its square root, for "laplace") and cost time.
    seed : int
        Of the hash functions, 0 to 2**64 - 1.
    width : float, optional
        Of the intervals of E2LSH, by default what suits the kernel.

    Notes
    -----
    Estimates are unbiased over hash functions, that is over seeds. Points that many queries find in no table make
    single estimates too low, and rare ones far too high: where sums are below a few hundredths of a point, look at
    `errors`.
    """

    def __init__(
        self,
        dim: int,
        kernel: str = "gaussian",
        bandwidth: float = 1.0,
        tables: int = 64,
        hashes: int = 8,
        seed: int = 0,
        width: float | None = None,
    ) -> None:
        if kernel not in _KERNELS:
            raise InvalidArgumentError(f"kernel: expected one of {', '.join(KERNELS)}, got {kernel!r}")
        self.kernel, self.bandwidth = kernel, check_positive(bandwidth, "bandwidth")
        tables = check_whole(tables, "tables", 2, 1024)
        self.hashes = check_whole(hashes, "hashes", 1, 64)
        usual = _KERNELS[kernel][1] * self.bandwidth * self.hashes * math.sqrt(2 / math.pi)
        self._hash = E2LSH(dim, tables * self.hashes, usual if width is None else width, seed)
        self.seed, self.width = self._hash.seed, self._hash.width
        super().__init__(self._hash.dim, tables)

    def inclusion(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Probability that a point at this distance of a query is in its bucket of a table."""
        return np.asarray(self._hash.collision_probability(distance) ** self.hashes)

    def estimate(self, queries: ArrayLike, seed: int = 0) -> KernelSums:
        """Estimate the sum of the kernel over all points.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array
        seed : int
            Of the draws.

        Returns
        -------
        KernelSums
            Divide by ``len(self)`` for the mean of the kernel.
        """
        rows, seed = as_rows(queries, self.dim, "queries"), randomness.check_seed(seed)
        numbers = randomness.uniforms(seed, _DRAW_STREAM, len(rows) * self.tables).reshape(len(rows), self.tables)
        sums, errors = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), _QUERIES):
            part = slice(start, start + _QUERIES)
            terms = self._terms(rows[part], numbers[part])
            sums[part], errors[part] = terms.mean(axis=1), terms.std(axis=1, ddof=1) / math.sqrt(self.tables)
        return KernelSums(sums, errors)

    def _terms(self, rows: NDArray[np.float32], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """(q, tables) estimates of each table."""
        count = len(rows)
        tables = np.tile(np.arange(self.tables), count)
        ids, drawn, sizes = self._buckets.draw(
            self._keys(rows).reshape(-1), tables, np.ascontiguousarray(numbers).reshape(-1)
        )
        apart = np.repeat(rows.astype(np.float64), self.tables, axis=0) - drawn
        distances = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        value = _KERNELS[self.kernel][0](distances / self.bandwidth)
        chance = np.where(ids >= 0, self.inclusion(distances), 1.0)
        return np.where(ids >= 0, sizes * value / chance, 0.0).reshape(count, self.tables)

    def _keys(self, rows: NDArray[np.float32]) -> NDArray[np.uint64]:
        """(n, tables) keys: the numbers of each table mixed to 64 bits."""
        numbers = self._hash.hash(rows).reshape(len(rows), self.tables, self.hashes)
        keys = np.zeros((len(rows), self.tables), np.uint64)
        for i in range(self.hashes):
            keys = _mix(keys ^ (numbers[:, :, i].astype(np.int64).view(np.uint64) + np.uint64(i + 1)))
        return keys
