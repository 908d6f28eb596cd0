"""RaBitQ: 1 to 8 bits a dimension after a random rotation, with a bound of the error."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.codecs.base import NO_PARAMETERS, Codec, take_finite
from nearhash.index.storage import take_tensor
from nearhash.kernels import rabitq
from nearhash.kernels.rabitq import COSINE2, FEWEST_BITS, HEADER, MOST_BITS, RESCALE
from nearhash.kernels.rotation import ROUNDS, rotate_rows, rotate_rows_back, rotation_width

_STREAM = 1  # of the signs, beside other uses of a seed


class Rotation:
    """A random rotation of vectors (dim,) into `width` >= dim dimensions, see ``kernels.rotation``.

    Parameters
    ----------
    dim : int
        Dimension of the vectors; `width` is the next multiple of 64.
    seed : int
        0 to 2**64 - 1.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        self.dim = dim
        self.width = rotation_width(dim)
        bits = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64))).integers(
            0, 2, (ROUNDS, self.width), np.int8
        )
        self.signs: NDArray[np.float32] = (2 * bits - 1).astype(np.float32)

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotated vectors (n, width) of vectors (n, dim); inner products stay what they are."""
        out = np.empty((len(vectors), self.width), np.float32)
        rotate_rows(np.ascontiguousarray(vectors), self.signs, out)
        return out

    def invert(self, rotated: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (n, dim) whose rotations are (n, width)."""
        vectors = np.array(rotated, np.float32, order="C")
        rotate_rows_back(vectors, self.signs)
        return np.ascontiguousarray(vectors[:, : self.dim])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Signs for the index file."""
        return {"signs": self.signs.astype(np.int8)}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave; raises CorruptIndexError if it cannot be that."""
        signs = take_tensor(tensors, "signs", np.int8, (ROUNDS, self.width))
        if not (np.abs(signs.astype(np.int16)) == 1).all():
            raise CorruptIndexError("tensor 'signs': expected nothing but -1 and 1")
        self.signs = signs.astype(np.float32)


class Parts(NamedTuple):
    """What `encode_parts` gives: codes (n, D) uint8 and factors (n,) float32."""

    codes: NDArray[np.uint8]
    add: NDArray[np.float32]
    rescale: NDArray[np.float32]
    error: NDArray[np.float32]


def encode_parts(
    residuals: NDArray[np.float32],
    centres: NDArray[np.float32],
    numbers: NDArray[np.int32],
    metric: int,
    bits: int = 1,
) -> Parts:
    """Codes of rotated residuals from several rotated centres, and the factors of their estimate.

    Parameters
    ----------
    residuals : (n, D) float32
        Rotations of vectors less their centres.
    centres : (c, D) float32
        Rotated centres.
    numbers : (n,) int32
        The centre of each residual.
    metric : int
        L2 or DOT of ``kernels.scan``.
    bits : int
        1 to 8.

    Returns
    -------
    Parts
        With u a code and q the rotated query the distance is estimated by
        ``base + add + rescale * (<u, q> - (2**bits - 1) / 2 * sum(q))``, where base is ``|q - centre|**2`` (L2) or
        ``-<q, centre>`` (DOT); the true one is at least that less ``error * |q - centre|``, with the probability that
        ``kernels.rabitq`` states.
    """
    _check_bits(bits)
    codes, factors = np.empty(residuals.shape, np.uint8), np.empty((3, len(residuals)), np.float32)
    rabitq.encode_parts(residuals, centres, numbers, metric, bits, codes, factors)
    return Parts(codes, *factors)


class RaBitQCodec(Codec):
    """RaBitQ (Gao & Long, SIGMOD 2024; Gao et al., SIGMOD 2025), centred on the mean; layout in ``kernels.rabitq``.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    has_extra : bool
        See `Codec`.
    bits : int
        1 to 8 for each dimension.
    """

    name = "rabitq"
    dtype = np.uint8
    exact = False

    def __init__(self, dim: int, has_extra: bool = False, bits: int = 1) -> None:
        super().__init__(dim, has_extra)
        self.bits = _check_bits(bits)
        self.scheme = rabitq.rabitq_scheme(dim, self.bits, has_extra)
        self.mean: NDArray[np.float32] = np.zeros(dim, np.float32)
        self._rotation = Rotation(dim)
        self._parameters = NO_PARAMETERS

    @property
    def options(self) -> dict[str, Any]:
        return {"bits": self.bits}

    @property
    def parameters(self) -> NDArray[np.float32]:
        return self._parameters

    @property
    def trained(self) -> bool:
        return len(self._parameters) > 0

    def train(self, vectors: NDArray[np.float32], seed: int = 0, threads: int = 1) -> None:
        """Learn the mean of vectors (n, dim), n >= 1; the rotation follows from the seed."""
        self.mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._rotation = Rotation(self.dim, seed)
        self._set_parameters()

    def _set_parameters(self) -> None:
        self._parameters = np.concatenate([self.mean, self._rotation.signs.reshape(-1)])

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        self._require_training()
        rabitq.encode(
            np.ascontiguousarray(vectors), self.mean, self._rotation.signs, self.bits, extra, self.scheme.extra_at, rows
        )

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """The nearest multiple of each code's direction: `Codec.decode`."""
        self._require_training()
        header = np.ascontiguousarray(rows[:, :HEADER]).view(np.float32)
        end = HEADER + self.bits * self._rotation.width // 8
        planes = np.unpackbits(rows[:, HEADER:end], axis=1, bitorder="little").reshape(
            len(rows), self.bits, self._rotation.width
        )
        weights = (1 << np.arange(self.bits)[::-1]).astype(np.float32)
        directions = np.einsum("nbd,b->nd", planes.astype(np.float32), weights) - (2**self.bits - 1) / 2
        lengths = header[:, COSINE2] * header[:, RESCALE]
        return self._rotation.invert((directions * lengths[:, None]).astype(np.float32)) + self.mean

    def tensors(self) -> dict[str, NDArray[Any]]:
        self._require_training()
        return {"mean": self.mean, **self._rotation.tensors()}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        mean = take_finite(tensors, "mean", (self.dim,))
        self._rotation.restore(tensors)
        self.mean = mean
        self._set_parameters()


def _check_bits(bits: Any) -> int:
    if isinstance(bits, bool) or not isinstance(bits, int) or not FEWEST_BITS <= bits <= MOST_BITS:
        raise InvalidArgumentError(f"bits: expected an integer from {FEWEST_BITS} to {MOST_BITS}, got {bits!r}")
    return bits
