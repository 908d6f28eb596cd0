"""What families of hash functions for vectors have in common: angles, the normal distribution, integrals."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError

_erf = np.frompyfunc(math.erf, 1, 1)


def as_cosines(cosine: ArrayLike) -> NDArray[np.float64]:
    """Cosines as float64; what rounding put beyond +-1 is brought back, anything further out raises."""
    values = np.asarray(cosine, np.float64)
    if not (np.abs(values) <= 1 + 1e-5).all():
        raise InvalidArgumentError(f"cosine: expected values in [-1, 1], got {cosine!r}")
    return np.clip(values, -1.0, 1.0)


def as_distances(distance: ArrayLike) -> NDArray[np.float64]:
    """Distances as float64; negative ones and NaN raise."""
    values = np.asarray(distance, np.float64)
    if not (values >= 0).all():
        raise InvalidArgumentError(f"distance: expected values >= 0, got {distance!r}")
    return values


def normal_density(x: ArrayLike) -> NDArray[np.float64]:
    """Density of the standard normal distribution."""
    values: NDArray[np.float64] = np.exp(-0.5 * np.square(np.asarray(x, np.float64))) / math.sqrt(2 * math.pi)
    return values


def normal_cdf(x: ArrayLike) -> NDArray[np.float64]:
    """Distribution function of the standard normal distribution."""
    return 0.5 * (1.0 + np.asarray(_erf(np.asarray(x, np.float64) / math.sqrt(2.0)), np.float64))


def integrate(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], low: float, high: float, nodes: int = 200
) -> float:
    """Integral of a smooth function over [low, high] by Gauss-Legendre quadrature."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (high - low)
    return float(half * np.sum(weights * function(half * points + 0.5 * (low + high))))
