"""Bands: which pairs of sketches are worth a look."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.randomness import check_seed, words64
from nearhash.hashing.sketches import chance_of
from nearhash.kernels.bands import band_keys
from nearhash.kernels.threads import resolve_threads, run_chunks

_KEY_STREAM = 0x42414E44
_MOST_VALUES = 1 << 16
_CHUNK = 4096  # sketches of a task


@dataclass(frozen=True)
class Banding:
    """A sketch cut into bands: two sketches are candidates if they agree on all values of at least one band.

    Parameters
    ----------
    bands : int
        Number of bands. Only the first ``bands * rows`` values of a sketch are used.
    rows : int
        Values of a band.
    bits : int
        Bits of a value. Below 32, values of different sets agree by chance, with probability ``C = 2**-bits`` (b-bit
        minwise hashing, Li and Koenig 2010).

    Notes
    -----
    If each value agrees with probability ``p = C + (1 - C) s``, independently, then at similarity s a pair is a
    candidate with probability ``1 - (1 - p**rows)**bands``: an S-curve, steepest near ``(1 / bands)**(1 / rows)``
    (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.2). That is so for `MinHash` of the method
    "classic". Where slots draw from each other without replacement, as with "fss" for sets of not many more than k
    elements, the curve is a little steeper: lower to the left of its midpoint, higher to the right.
    """

    bands: int
    rows: int
    bits: int = 32

    def __post_init__(self) -> None:
        for name in ("bands", "rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= _MOST_VALUES:
                raise InvalidArgumentError(f"{name}: expected an integer from 1 to {_MOST_VALUES:,}, got {value!r}")
        if self.bits not in (1, 2, 4, 8, 16, 32):
            raise InvalidArgumentError(f"bits: expected 1, 2, 4, 8, 16 or 32, got {self.bits!r}")

    @classmethod
    def for_threshold(
        cls,
        threshold: float,
        k: int,
        false_positive_weight: float = 0.5,
        false_negative_weight: float = 0.5,
        bits: int = 32,
    ) -> "Banding":
        """The banding of at most k values that separates best what is above the threshold from what is below.

        Parameters
        ----------
        threshold : float
            Similarity, between 0 and 1.
        k : int
            Values of a sketch.
        false_positive_weight, false_negative_weight : float
            Not negative and not both 0: what counts is ``false_positive_weight * false_positive_area(threshold) +
            false_negative_weight * false_negative_area(threshold)``, of which the least wins; among equals, fewer bands
            and then fewer rows. This is the criterion of datasketch (there with a sum for the integral).
        bits : int
            Bits of a value.

        Raises
        ------
        InvalidArgumentError
            If an argument is out of range.
        """
        threshold = check_similarity(threshold, "threshold")
        weights = check_weights((false_positive_weight, false_negative_weight))
        cls(1, k, bits)
        best, least = (1, 1), np.inf
        for rows in range(1, k + 1):
            bands = np.arange(1, k // rows + 1)
            below, above = _areas(threshold, rows, bands, bits)
            cost = weights[0] * below + weights[1] * above
            chosen = int(cost.argmin())
            candidate = (int(bands[chosen]), rows)
            if cost[chosen] < least or (cost[chosen] == least and candidate < best):
                best, least = candidate, float(cost[chosen])
        return cls(*best, bits)

    @property
    def values(self) -> int:
        """How many values of a sketch are used."""
        return self.bands * self.rows

    @property
    def midpoint(self) -> float:
        """Similarity near which the S-curve is steepest: where p, see above, is ``(1 / bands)**(1 / rows)``."""
        chance = chance_of(self.bits)
        agree = math.pow(1 / self.bands, 1 / self.rows)
        return max(0.0, (agree - chance) / (1 - chance))

    def collision_probability(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """Probability that sketches of sets of this similarity (any shape, 0 to 1) are candidates; of that shape."""
        s = np.asarray(similarity, np.float64)
        if not ((s >= 0) & (s <= 1)).all():
            raise InvalidArgumentError("similarity: expected numbers from 0 to 1")
        return _candidates(s, self.rows, np.asarray(self.bands), self.bits)

    def false_positive_area(self, threshold: float) -> float:
        """Area under the S-curve below a threshold."""
        return float(
            _areas(check_similarity(threshold, "threshold"), self.rows, np.array([self.bands]), self.bits)[0][0]
        )

    def false_negative_area(self, threshold: float) -> float:
        """Area above the S-curve beyond a threshold."""
        return float(
            _areas(check_similarity(threshold, "threshold"), self.rows, np.array([self.bands]), self.bits)[1][0]
        )

    def keys(self, values: NDArray[Any], seed: int, threads: int | None = None) -> NDArray[np.uint64]:
        """(n, bands) uint64 keys: equal where all values of a band are; others are equal with a chance of 2**-64.

        Parameters
        ----------
        values : (n, k) uint8, uint16 or uint32, C-ordered
            A value in each element; ``k >= bands * rows``.
        seed : int
            In [0, 2**64). Keys of different seeds have nothing to do with each other.
        threads : int, optional
            By default all cores; the result does not depend on it.
        """
        if values.ndim != 2 or values.shape[1] < self.values or values.dtype not in (np.uint8, np.uint16, np.uint32):
            raise InvalidArgumentError(
                f"values: expected uint8, uint16 or uint32 of shape (n, {self.values} or more), "
                f"got {values.dtype} of shape {values.shape}"
            )
        if not values.flags.carray:
            values = np.require(values, requirements=["C", "A", "W"])
        out = np.empty((len(values), self.bands), np.uint64)
        start, threads = key_start(check_seed(seed)), resolve_threads(threads)
        if len(values) <= _CHUNK:
            band_keys(values, self.bands, self.rows, start, out)
            return out

        def task(first: int, last: int) -> None:
            band_keys(values[first:last], self.bands, self.rows, start, out[first:last])

        run_chunks(task, len(values), threads, _CHUNK)
        return out


@lru_cache
def key_start(seed: int) -> np.uint64:
    """What keys of this seed are made from, see `nearhash.kernels.bands.band_keys`."""
    start: np.uint64 = words64(seed, _KEY_STREAM, 1)[0]
    return start


def check_similarity(value: float, name: str) -> float:
    """A number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= float(value) <= 1:
        raise InvalidArgumentError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return float(value)


def check_weights(weights: tuple[float, float]) -> tuple[float, float]:
    """Weights of false positives and false negatives."""
    try:
        positive, negative = (float(weight) for weight in weights)
    except (TypeError, ValueError):
        positive = negative = float("nan")
    if not (0 <= positive < np.inf and 0 <= negative < np.inf and positive + negative > 0):
        raise InvalidArgumentError(f"weights: expected two numbers >= 0, not both 0, got {weights!r}")
    return positive, negative


def _candidates(s: NDArray[np.float64], rows: int, bands: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """``1 - (1 - p**rows)**bands`` without loss where that is small."""
    chance = chance_of(bits)
    agree = (chance + (1 - chance) * s) ** rows
    with np.errstate(divide="ignore"):  # s = 1: the logarithm is -inf, the probability 1
        return -np.expm1(bands * np.log1p(-agree))


@lru_cache(maxsize=8)
def _nodes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def _areas(
    threshold: float, rows: int, bands: NDArray[np.int64], bits: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas under the S-curve below the threshold and above it beyond, for each number of bands.

    The curve is a polynomial of degree ``rows * bands``, so Gauss-Legendre quadrature with more than half as many nodes
    is exact but for rounding; 256 nodes leave less than 1e-12 for the smooth curves of higher degree.
    """
    nodes, weights = _nodes(min(int(rows * bands.max()) // 2 + 1, 256))
    below = _candidates(threshold * nodes, rows, bands[:, None], bits) @ weights * threshold
    above = (
        (1 - _candidates(threshold + (1 - threshold) * nodes, rows, bands[:, None], bits)) @ weights * (1 - threshold)
    )
    return below, above
