"""What every codec offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, NotTrainedError
from nearhash.index.storage import take_tensor
from nearhash.kernels.codes import Model

NO_PARAMETERS: NDArray[np.float32] = np.zeros(0, np.float32)


class Codec(ABC):
    """Turns float32 vectors into rows of codes that kernels measure distances from (``kernels.codes``).

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    has_extra : bool
        Whether vectors come with one extra coordinate (the one that reduces inner product to Euclidean distance). It is
        kept exactly.
    """

    name: ClassVar[str]
    dtype: ClassVar[Any]
    exact: ClassVar[bool]
    """Whether rows hold the vectors unchanged in their first `dim` elements."""

    scheme: Any
    """What kernels tell the codec by, see ``kernels.codes``."""

    def __init__(self, dim: int, has_extra: bool = False) -> None:
        self.dim = dim
        self.has_extra = has_extra

    @property
    def options(self) -> dict[str, Any]:
        """What `make_codec` must be given, beside name, dimension and extra coordinate, to make this codec again."""
        return {}

    @property
    def width(self) -> int:
        """Elements of `dtype` in a row."""
        return int(self.scheme.width)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a row."""
        return self.width * int(np.dtype(self.dtype).itemsize)

    @property
    def query_bytes(self) -> int:
        """Bytes of the buffer of a prepared query."""
        return int(self.scheme.query_bytes)

    @property
    def parameters(self) -> NDArray[np.float32]:
        """What the preparation of a query reads."""
        return NO_PARAMETERS

    @property
    def model(self) -> Model:
        """Scheme and parameters, as kernels take them."""
        return Model(self.scheme, self.parameters)

    @property
    def trained(self) -> bool:
        """Whether `encode` can be called."""
        return True

    def train(self, vectors: NDArray[np.float32], seed: int = 0, threads: int = 1) -> None:
        """Learn from a sample (n, dim) what `encode` needs. The result does not depend on `threads`."""
        return

    @abstractmethod
    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        """Write the codes of vectors (n, dim), with extra coordinates (n,), to rows (n, width)."""

    @abstractmethod
    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Vectors (n, dim) that rows (n, width) stand for, without their extra coordinates."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What was learned, for the index file."""
        return {}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave; raises CorruptIndexError if it cannot be that."""
        return

    def _require_training(self) -> None:
        if not self.trained:
            raise NotTrainedError(f"codec {self.name}: train it before it encodes or is saved")


def take_finite(tensors: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A float32 tensor of a file, of this shape and without NaN or inf; raises CorruptIndexError if it is not there."""
    array = take_tensor(tensors, name, np.float32, shape)
    if not np.isfinite(array).all():
        raise CorruptIndexError(f"tensor {name!r}: expected finite values")
    return array
