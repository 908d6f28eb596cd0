"""From greatest inner products to smallest angles."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError, NotTrainedError
from nearhash.hashing.vectors import MAX_DIM, as_rows, check_whole

_SLACK = 1 + 1e-6  # of the longest key: its norm is rounded


class InnerProductTransform:
    """Makes the keys of the greatest inner products those of the smallest angles (Neyshabur & Srebro, ICML 2015).

    With M the norm of the longest key, a key x becomes ``[x / M, sqrt(1 - |x|^2 / M^2)]``, a unit vector, and a query q
    becomes ``[q / |q|, 0]``: then the cosine of both is ``<q, x> / (M |q|)``, and any hash of angles finds inner
    products.

    Parameters
    ----------
    dim : int
        Elements of keys and queries, 1 to 32,767; transformed vectors have one more.

    Attributes
    ----------
    norm : float
        M, once fitted.
    """

    def __init__(self, dim: int) -> None:
        self.dim = check_whole(dim, "dim", 1, MAX_DIM - 1)
        self.norm: float | None = None

    def __repr__(self) -> str:
        return f"InnerProductTransform(dim={self.dim}, norm={self.norm})"

    def fit(self, keys: ArrayLike) -> "InnerProductTransform":
        """Take M from keys (n, dim), at least one of them not zero; returns itself."""
        rows = as_rows(keys, self.dim, "keys")
        longest = float(_norms(rows).max(initial=0.0))
        if not longest > 0:
            raise InvalidArgumentError("keys: expected at least one that is not zero")
        self.norm = longest
        return self

    def keys(self, keys: ArrayLike) -> NDArray[np.float32]:
        """Keys (n, dim) as unit vectors (n, dim + 1) float32; one that is longer than M raises."""
        rows, longest = as_rows(keys, self.dim, "keys"), self._fitted()
        norms = _norms(rows)
        if len(norms) and norms.max() > longest * _SLACK:
            raise InvalidArgumentError(
                f"keys: expected none longer than {longest:g}, that of the longest in `fit`, got {norms.max():g} in "
                f"row {int(norms.argmax())}; fit again, and transform all keys anew"
            )
        rest = np.sqrt(np.maximum(0.0, 1.0 - np.square(norms / longest)))
        return np.concatenate([rows / longest, rest[:, None]], axis=1, dtype=np.float32)

    def queries(self, queries: ArrayLike) -> NDArray[np.float32]:
        """Queries (q, dim) as unit vectors (q, dim + 1) float32; a zero vector stays one."""
        rows = as_rows(queries, self.dim, "queries")
        norms = _norms(rows)
        lengths = np.where(norms > 0, norms, 1.0)
        return np.concatenate([rows / lengths[:, None], np.zeros((len(rows), 1))], axis=1, dtype=np.float32)

    def inner_product(self, cosine: ArrayLike, query_norm: ArrayLike) -> NDArray[np.float64]:
        """The inner product that a cosine of transformed vectors stands for: ``cosine M |q|``."""
        return np.asarray(np.asarray(cosine, np.float64) * self._fitted() * np.asarray(query_norm, np.float64))

    def _fitted(self) -> float:
        if self.norm is None:
            raise NotTrainedError("InnerProductTransform: call fit with the keys first")
        return self.norm


def _norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", wide, wide)))
