"""Codecs that code vectors less the mean of the data."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.codecs.base import Codec, take_finite


class CentredCodec(Codec):
    """Learns the mean, which queries are made ready with."""

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        super().__init__(dim, has_extra)
        self.mean: NDArray[np.float32] = np.zeros(dim, np.float32)
        self._has_mean = False

    @property
    def parameters(self) -> NDArray[np.float32]:
        return self.mean

    @property
    def trained(self) -> bool:
        return self._has_mean

    def train(self, vectors: NDArray[np.float32], seed: int = 0, threads: int = 1) -> None:
        """Learn the mean of vectors (n, dim), n >= 1."""
        self.mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._has_mean = True

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"mean": self.mean}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self.mean, self._has_mean = take_finite(tensors, "mean", (self.dim,)), True
