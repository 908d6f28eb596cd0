"""Checks of what callers give to stores of keys and values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.attention.estimators import make_estimator
from nearhash.attention.estimators.base import Estimator
from nearhash.attention.estimators.priority import LEAST_SAMPLE
from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.hashing.vectors import is_tensor
from nearhash.index.arguments import check_count, check_number

_LARGEST = 1e15  # of keys, values and queries; products stay finite


class Reading(NamedTuple):
    """How a store is read in one step; `sampled` is the size of the sample, unless it follows of `share`."""

    estimator: Estimator
    share: float | None
    sampled: int
    sink: int
    local: int
    scale: float
    step: int
    layer: int

    def bounds(self, count: int) -> tuple[int, int]:
        """First and last position of the tokens that are sampled, of `count` tokens."""
        first = min(self.sink, count)
        return first, max(first, count - self.local)

    def budget(self, count: int) -> int:
        """Tokens of the sample, of `count` tokens."""
        if self.share is None:
            return self.sampled
        first, last = self.bounds(count)
        # Fewer than LEAST_SAMPLE tell nothing of their own error.
        return max(round(self.share * count) - (count - (last - first)), LEAST_SAMPLE)


def check_reading(
    estimator: str,
    budget: float | int,
    sink: int,
    local: int,
    scale: float | None,
    step: int,
    layer: int,
    dim: int,
    options: dict[str, Any],
) -> Reading:
    """Arguments of `KVStore.attend`; raises InvalidArgumentError."""
    chooses = make_estimator(estimator, **options)
    share, sampled = None, 0
    if isinstance(budget, float | np.floating):
        share = check_number(budget, "budget", 0.0, 1.0)
    else:
        sampled = check_count(budget, "budget")
    return Reading(
        chooses,
        share,
        sampled,
        check_count(sink, "sink", least=0),
        check_count(local, "local", least=0),
        1 / math.sqrt(dim) if scale is None else check_number(scale, "scale", 0.0, 1e6),
        check_count(step, "step", least=0, most=2**32 - 1),
        check_count(layer, "layer", least=0, most=2**32 - 1),
    )


def as_heads(values: ArrayLike, heads: int, dim: int, name: str) -> NDArray[np.float32]:
    """Keys or values (heads, n, dim) as C-ordered float32; raises InvalidArgumentError and its subclasses."""
    array = _floats(values, name)
    if array.ndim != 3 or array.shape[0] != heads or array.shape[2] != dim:
        raise DimensionError(f"{name}: expected shape ({heads}, n, {dim}), got {array.shape}")
    return array


def as_queries(values: ArrayLike, heads: int, dim: int) -> tuple[NDArray[np.float32], int]:
    """Queries (q_heads, dim) as C-ordered float32, and how many of them share a KV head."""
    array = _floats(values, "queries")
    if array.ndim != 2 or array.shape[1] != dim or not len(array) or len(array) % heads:
        raise DimensionError(
            f"queries: expected shape (q_heads, {dim}), q_heads a multiple of {heads}, got {array.shape}"
        )
    return array, len(array) // heads


def _floats(values: ArrayLike, name: str) -> NDArray[np.float32]:
    if is_tensor(values):
        tensor: Any = values
        values = tensor.detach().cpu().float().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name}: expected a float or integer dtype, got {array.dtype}")
    with np.errstate(over="ignore"):
        floats: NDArray[np.float32] = np.require(array, np.float32, ["C", "A", "W"])
    if floats.size and not max(floats.max(), -floats.min()) <= _LARGEST:  # NaN is not, either
        place = np.argwhere(~(np.abs(floats) <= _LARGEST))[0].tolist()
        found = floats[tuple(place)]
        raise InvalidArgumentError(
            f"{name}: expected finite numbers of at most {_LARGEST:g} in magnitude, got {found} at {place}"
        )
    return floats
