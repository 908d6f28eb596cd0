"""What every codec offers."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class Codec(ABC):
    """Turns float32 vectors into rows of codes for one kind of kernel (see ``kernels.codes``).

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    has_extra : bool
        Whether vectors come with one extra coordinate (the one that reduces inner product to Euclidean distance).
    """

    name: ClassVar[str]
    dtype: ClassVar[Any]
    exact: ClassVar[bool]
    """Whether rows hold the vectors unchanged in their first `dim` elements."""

    def __init__(self, dim: int, has_extra: bool) -> None:
        self.dim = dim
        self.has_extra = has_extra

    @property
    @abstractmethod
    def width(self) -> int:
        """Elements of `dtype` in a row; a multiple of 64 bytes."""

    @abstractmethod
    def train(self, vectors: NDArray[np.float32]) -> None:
        """Learn from a sample (n, dim) what `encode` needs."""

    @abstractmethod
    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        """Write the codes of vectors (n, dim), with extra coordinates (n,), to rows (n, width)."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What was learned, for the index file."""
        return {}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave; raises CorruptIndexError if it cannot be that."""
        return
