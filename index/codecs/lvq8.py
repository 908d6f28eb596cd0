"""LVQ-8: one byte a dimension."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.codecs.base import Codec
from nearhash.kernels import lvq


class LVQ8Codec(Codec):
    """Locally-adaptive vector quantisation with 8 bits (Aguerrebere et al., VLDB 2023); layout in ``kernels.lvq``."""

    name = "lvq8"
    dtype = np.uint8
    exact = False

    def __init__(self, dim: int, has_extra: bool) -> None:
        super().__init__(dim, has_extra)
        self._mean: NDArray[np.float32] = np.zeros(dim, np.float32)

    @property
    def width(self) -> int:
        return lvq.row_bytes(self.dim)

    def train(self, vectors: NDArray[np.float32]) -> None:
        self._mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        lvq.encode(np.ascontiguousarray(vectors), self._mean, extra, rows)

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"mean": self._mean}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        mean = tensors.get("mean")
        if mean is None or mean.dtype != np.float32 or mean.shape != (self.dim,) or not np.isfinite(mean).all():
            raise CorruptIndexError(f"tensor 'mean': expected finite float32 of shape ({self.dim},)")
        self._mean = mean
