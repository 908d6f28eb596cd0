"""LVQ-4x8: half a byte a dimension, and a byte more for the candidates of a search."""

import numpy as np
from numpy.typing import NDArray

from nearhash.index.codecs.lvq4 import LVQ4Codec
from nearhash.kernels import lvq4x8
from nearhash.kernels.lvq4 import STEP
from nearhash.kernels.simd_two_level import FINE


class LVQ4x8Codec(LVQ4Codec):
    """Two-level locally-adaptive quantisation (Aguerrebere et al., VLDB 2023); the formula is in ``kernels.lvq4x8``.

    Rows are those of the first level, LVQ-4; the second is kept apart from them, and read for few vectors.
    """

    name = "lvq4x8"

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of both levels."""
        return self.width + self.dim

    def encode_fine(self, vectors: NDArray[np.float32], rows: NDArray[np.uint8], fine: NDArray[np.uint8]) -> None:
        """Write the second level (n, dim) of vectors (n, dim) that have these rows."""
        lvq4x8.encode(np.ascontiguousarray(vectors), self.mean, self.scheme.header, rows, fine)

    def decode_fine(self, rows: NDArray[np.uint8], fine: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Vectors (n, dim) that both levels stand for."""
        step = np.ascontiguousarray(rows[:, : self.scheme.header]).view(np.float32)[:, STEP, None]
        return self.decode(rows) + step * (fine.astype(np.float32) / np.float32(FINE) - np.float32(0.5))
