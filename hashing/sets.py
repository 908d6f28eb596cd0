"""Sets as kernels take them: rows of tokens, CSR."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DtypeError, InvalidArgumentError

Sets = tuple[NDArray[np.int64], NDArray[np.uint64]]
"""(n + 1,) bounds and (m,) tokens: set i has the tokens ``indptr[i]:indptr[i + 1]``."""


def checked_sets(indptr: ArrayLike, tokens: ArrayLike) -> Sets:
    """Arguments `indptr` and `tokens` of a caller, checked, C-ordered and aligned."""
    starts, ids = np.asarray(indptr), np.asarray(tokens)
    if starts.dtype.kind not in "iu" or starts.ndim != 1 or not len(starts):
        raise InvalidArgumentError(f"indptr: expected integers (n + 1,), got {starts.dtype} of shape {starts.shape}")
    if ids.ndim != 1:
        raise InvalidArgumentError(f"tokens: expected shape (m,), got {ids.shape}")
    if not ids.size and ids.dtype.kind == "f":  # np.asarray([])
        ids = ids.astype(np.uint64)
    if ids.dtype.kind not in "iu" or (ids.dtype.kind == "i" and ids.size and ids.min() < 0):
        raise DtypeError(f"tokens: expected uint64 (or integers that are not negative), got {ids.dtype}")
    if starts[0] != 0 or starts[-1] != len(ids) or (starts[1:] < starts[:-1]).any():
        raise InvalidArgumentError(
            f"indptr: expected numbers that ascend from 0 to {len(ids)}, the number of tokens, got {starts!r:.80}"
        )
    return _for_kernels(starts, np.int64), _for_kernels(ids, np.uint64)


def _for_kernels(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return np.require(array, dtype, requirements=["C", "A", "W"])


def bounds_of(lengths: Iterable[int], count: int) -> NDArray[np.int64]:
    """(n + 1,) int64 CSR bounds of rows of these lengths."""
    bounds = np.zeros(count + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, count), out=bounds[1:])
    return bounds
