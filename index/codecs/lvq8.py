"""LVQ-8: one byte a dimension."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.codecs.centred import CentredCodec
from nearhash.kernels import lvq
from nearhash.kernels.lvq import HEADER, LOWER, STEP


class LVQ8Codec(CentredCodec):
    """Locally-adaptive vector quantisation with 8 bits (Aguerrebere et al., VLDB 2023); layout in ``kernels.lvq``."""

    name = "lvq8"
    dtype = np.uint8
    exact = False

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        super().__init__(dim, has_extra)
        self.scheme = lvq.lvq8_scheme(dim)

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        self._require_training()
        lvq.encode(np.ascontiguousarray(vectors), self.mean, extra, rows)

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        header = np.ascontiguousarray(rows[:, :HEADER]).view(np.float32)
        codes = rows[:, HEADER : HEADER + self.dim].astype(np.float32)
        return header[:, LOWER, None] + header[:, STEP, None] * codes + self.mean
