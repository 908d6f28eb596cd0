"""One KV head as estimators see it: keys and values by position, and what its codes tell without reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.index.arrays import aligned_empty
from nearhash.kernels import attention_lvq4
from nearhash.kernels.attention_rows import PAGE

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]
Proxy = Callable[[Floats], NDArray[Any]]


class KVHead(Protocol):
    """Keys and values of `n` tokens of one KV head, of `d` dimensions.

    Positions are int64 (m,), from 0 to n - 1, in any order; results are float32.
    """

    n: int
    d: int

    def keys(self, positions: Positions) -> Floats:
        """Keys (m, d)."""

    def values(self, positions: Positions) -> Floats:
        """Values (m, d)."""

    def value_norms(self, positions: Positions) -> Floats:
        """Norms (m,) of values, known without reading them."""

    def logits(self, queries: Floats) -> Floats:
        """Logits (g, n) of queries (g, d), which hold the scale, estimated by codes up to a number for each query."""


class ArrayHead:
    """A KV head whose keys and values are arrays.

    Parameters
    ----------
    keys, values : (n, d) arrays of a float or integer dtype
        Finite; kept as float32.
    proxy : callable, optional
        From queries (g, d) float32 to estimated logits (g, n). By default those of LVQ-4 codes, d / 2 + 6 bytes a
        token, d a multiple of 8; they are made on first use.

    Raises
    ------
    DimensionError, DtypeError, InvalidArgumentError
        For arrays of other shapes or dtypes, and such that are not finite.
    """

    def __init__(self, keys: ArrayLike, values: ArrayLike, proxy: Proxy | None = None) -> None:
        self._keys = finite_floats(keys, "keys")
        if self._keys.ndim != 2:
            raise DimensionError(f"keys: expected shape (n, d), got {self._keys.shape}")
        self._values = finite_floats(values, "values")
        if self._values.shape != self._keys.shape:
            raise DimensionError(f"values: expected the shape of keys, {self._keys.shape}, got {self._values.shape}")
        self.n, self.d = self._keys.shape
        if proxy is None and self.d % 8:
            raise DimensionError(
                f"keys: expected a multiple of 8 dimensions for LVQ-4 codes, got {self.d}; give a proxy"
            )
        self._proxy = proxy
        self._norms: Floats = np.linalg.norm(self._values, axis=1).astype(np.float32)

    def keys(self, positions: Positions) -> Floats:
        taken: Floats = self._keys[positions]
        return taken

    def values(self, positions: Positions) -> Floats:
        taken: Floats = self._values[positions]
        return taken

    def value_norms(self, positions: Positions) -> Floats:
        taken: Floats = self._norms[positions]
        return taken

    def logits(self, queries: Floats) -> Floats:
        if self._proxy is None:
            self._proxy = _LVQ4Logits(self._keys, self._values)
        estimated = np.asarray(self._proxy(queries), np.float32)
        if estimated.shape != (len(queries), self.n):
            raise DimensionError(f"proxy: expected logits of shape {(len(queries), self.n)}, got {estimated.shape}")
        return estimated


class _LVQ4Logits:
    """Logits by LVQ-4 codes of centred keys."""

    def __init__(self, keys: Floats, values: Floats) -> None:
        self._count, dim = keys.shape
        size = attention_lvq4.page_bytes(dim)
        self._memory = [aligned_empty((size,), np.uint8) for _ in range(-(-self._count // PAGE))]
        self._pages = np.array([page.ctypes.data for page in self._memory], np.int64)
        mean = keys.mean(axis=0, dtype=np.float64).astype(np.float32) if len(keys) else np.zeros(dim, np.float32)
        attention_lvq4.encode(self._pages, 0, keys, values, mean)

    def __call__(self, queries: Floats) -> Floats:
        logits = np.empty((len(queries), PAGE * len(self._memory)), np.float32)
        if self._count:
            attention_lvq4.scan(self._pages, queries, 0, self._count, logits)
        return logits[:, : self._count]


def finite_floats(values: ArrayLike, name: str) -> Floats:
    """Values as C-ordered float32; raises DtypeError, and InvalidArgumentError for what is not finite."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name}: expected a float or integer dtype, got {array.dtype}")
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(floats).all():
        place = np.argwhere(~np.isfinite(floats))[0].tolist()
        raise InvalidArgumentError(f"{name}: expected finite numbers of float32, got {array[tuple(place)]} at {place}")
    return floats
