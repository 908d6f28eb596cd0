"""LVQ-4: half a byte a dimension."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.codecs.centred import CentredCodec
from nearhash.kernels import lvq4
from nearhash.kernels.lvq4 import LOWER, STEP


class LVQ4Codec(CentredCodec):
    """Locally-adaptive vector quantisation with 4 bits (Aguerrebere et al., VLDB 2023); layout in ``kernels.lvq4``."""

    name = "lvq4"
    dtype = np.uint8
    exact = False

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        super().__init__(dim, has_extra)
        self.scheme = lvq4.lvq4_scheme(dim, has_extra)

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        self._require_training()
        lvq4.encode(np.ascontiguousarray(vectors), self.mean, extra, self.scheme.header, rows)

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        first = self.scheme.header
        header = np.ascontiguousarray(rows[:, :first]).view(np.float32)
        packed = rows[:, first : first + (self.dim + 1) // 2]
        codes = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)[:, : self.dim]
        return header[:, LOWER, None] + header[:, STEP, None] * codes.astype(np.float32) + self.mean
