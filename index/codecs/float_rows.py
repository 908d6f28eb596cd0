"""No compression, or half of it: padded float32, and half floats."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.codecs.base import Codec
from nearhash.kernels.float_rows import f16_scheme, f32_scheme

LARGEST_HALF = 65504.0


class Float32Codec(Codec):
    """Rows of float32, the extra coordinate behind the vector; layouts in ``kernels.float_rows``."""

    name = "f32"
    dtype = np.float32
    exact = True

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        super().__init__(dim, has_extra)
        self.scheme = f32_scheme(dim, has_extra)

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        rows[:, : self.dim] = vectors
        rows[:, self.dim :] = 0
        if self.has_extra:
            rows[:, self.dim] = extra

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(rows[:, : self.dim])


class Float16Codec(Codec):
    """Rows of IEEE half floats: relative error at most 2**-11 for magnitudes from 2**-14 to 65504."""

    name = "f16"
    dtype = np.uint16
    exact = False

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        super().__init__(dim, has_extra)
        self.scheme = f16_scheme(dim, has_extra)

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        """See `Codec.encode`; raises InvalidArgumentError for values beyond 65504, which half floats do not have."""
        if vectors.size and max(vectors.max(), -vectors.min()) > LARGEST_HALF:
            raise InvalidArgumentError(
                f"vectors: expected magnitudes of at most {LARGEST_HALF:g} for codec f16, got {np.abs(vectors).max():g}"
            )
        rows[:, : self.dim] = vectors.astype(np.float16).view(np.uint16)
        rows[:, self.dim :] = 0
        if self.has_extra:
            at = self.scheme.extra_at
            rows[:, at : at + 2] = extra.astype(np.float32)[:, None].view(np.uint16)

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(rows[:, : self.dim]).view(np.float16).astype(np.float32)
