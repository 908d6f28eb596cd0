"""float8: one byte a dimension, of constant relative error."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.codecs.base import Codec
from nearhash.kernels import float8


class Float8Codec(Codec):
    """e4m3 floats with a scale for each vector; needs no training. Format and layout in ``kernels.float8``."""

    name = "float8"
    dtype = np.uint8
    exact = False

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        super().__init__(dim, has_extra)
        self.scheme = float8.float8_scheme(dim)

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        float8.encode(np.ascontiguousarray(vectors), extra, rows)

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        vectors = np.empty((len(rows), self.dim), np.float32)
        float8.decode(np.ascontiguousarray(rows), vectors)
        return vectors
