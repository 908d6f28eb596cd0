"""E2LSH: buckets of Euclidean space, for distances."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import randomness
from nearhash.hashing.collisions import as_distances, normal_cdf
from nearhash.hashing.vectors import MAX_DIM, as_rows, check_positive, check_whole
from nearhash.kernels.panels import fill_panels, multiply, panel_count
from nearhash.kernels.simd import PRODUCT_ROWS
from nearhash.kernels.threads import resolve_threads, run_chunks

MOST_HASHES = 65_536
_NORMAL_STREAM, _OFFSET_STREAM = 0x45324C01, 0x45324C02
_CHUNK = 1024  # vectors that a thread takes at a time


class E2LSH:
    """Numbers of intervals on random lines (Datar, Immorlica, Indyk & Mirrokni, SoCG 2004).

    Hash i of x is ``floor((<a_i, x> + b_i) / width)`` with a_i of independent standard normal elements and b_i uniform
    in [0, width): near vectors are likely to be in the same interval.

    Parameters
    ----------
    dim : int
        Elements of a vector, 1 to 32,768.
    hashes : int
        Numbers of a vector, 1 to 65,536. Users put several of them together to a key.
    width : float
        Of the intervals, in the unit of distances.
    seed : int
        0 to 2**64 - 1: the same gives the same numbers, at any number of threads.

    Raises
    ------
    InvalidArgumentError
        If an argument is none of the above.
    """

    def __init__(self, dim: int, hashes: int = 16, width: float = 4.0, seed: int = 0) -> None:
        self.dim = check_whole(dim, "dim", 1, MAX_DIM)
        self.hashes = check_whole(hashes, "hashes", 1, MOST_HASHES)
        self.width = check_positive(width, "width")
        self.seed = randomness.check_seed(seed)
        drawn = randomness.normals(self.seed, _NORMAL_STREAM, self.hashes * self.dim)
        self.projections: NDArray[np.float32] = drawn.reshape(self.hashes, self.dim).astype(np.float32)
        """(hashes, dim) float32, the directions of the lines."""
        self.offsets: NDArray[np.float64] = self.width * randomness.uniforms(self.seed, _OFFSET_STREAM, self.hashes)
        """(hashes,) float64, where the intervals begin."""
        self._panels = np.empty((panel_count(self.hashes), self.dim, PRODUCT_ROWS), np.float32)
        fill_panels(self.projections, self._panels)

    def __repr__(self) -> str:
        return f"E2LSH(dim={self.dim}, hashes={self.hashes}, width={self.width}, seed={self.seed})"

    def hash(self, X: ArrayLike, threads: int | None = None) -> NDArray[np.int32]:
        """Numbers of the intervals of vectors.

        Parameters
        ----------
        X : (n, dim) or (dim,) array of a float or integer dtype
            Computed in float32.
        threads : int, optional
            By default all cores; the numbers do not depend on it.

        Returns
        -------
        (n, hashes) int32

        Raises
        ------
        DimensionError, DtypeError
            For another shape or dtype.
        InvalidArgumentError
            For NaN, infinity, or values so large beside `width` that their intervals have no number in int32.
        """
        vectors, threads = as_rows(X, self.dim, "X"), resolve_threads(threads)
        numbers = np.empty((len(vectors), self.hashes), np.int32)
        too_far: list[bool] = []

        def task(first: int, last: int) -> None:
            products = np.empty((last - first, len(self._panels) * PRODUCT_ROWS), np.float32)
            multiply(vectors[first:last], self._panels, products)
            own = np.floor((products[:, : self.hashes] + self.offsets) / self.width)
            if not (np.abs(own) < 2.0**31).all():
                too_far.append(True)
            else:
                numbers[first:last] = own

        run_chunks(task, len(vectors), threads, _CHUNK)
        if too_far:
            raise InvalidArgumentError(
                f"X: some projections lie more than 2**31 intervals of width {self.width:g} from 0; expected smaller "
                "values, or a greater width"
            )
        return numbers

    def collision_probability(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Probability that two vectors at a Euclidean distance c share a number.

        ``1 - 2 Phi(-w / c) - 2 c / (sqrt(2 pi) w) (1 - exp(-w^2 / (2 c^2)))`` with w the width (Datar et al., sec.
        3.2); 1 at distance 0.
        """
        distances = as_distances(distance)
        near = distances < self.width * 1e-6  # there 1 to all digits but six, and without a division by 0
        ratio = self.width / np.where(near, 1.0, distances)
        chance = (
            1.0 - 2.0 * normal_cdf(-ratio) - 2.0 / (math.sqrt(2 * math.pi) * ratio) * -np.expm1(-0.5 * np.square(ratio))
        )
        return np.where(near, 1.0 - math.sqrt(2 / math.pi) * distances / self.width, np.clip(chance, 0.0, 1.0))

    def variance(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Variance of the share of numbers that two vectors at this distance have in common: ``p (1 - p) / hashes``."""
        chance = self.collision_probability(distance)
        variances: NDArray[np.float64] = chance * (1.0 - chance) / self.hashes
        return variances
