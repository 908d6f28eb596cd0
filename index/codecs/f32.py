"""No compression: padded float32."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.codecs.base import Codec

LANES = 16  # floats of a cache line


class Float32Codec(Codec):
    """Rows of float32, the extra coordinate behind the vector, zeros up to a cache line."""

    name = "f32"
    dtype = np.float32
    exact = True

    @property
    def width(self) -> int:
        return -(-(self.dim + self.has_extra) // LANES) * LANES

    def train(self, vectors: NDArray[np.float32]) -> None:
        return

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        rows[:, : self.dim] = vectors
        rows[:, self.dim :] = 0
        if self.has_extra:
            rows[:, self.dim] = extra
