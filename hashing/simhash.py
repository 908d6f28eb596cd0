"""SimHash: codes of bits whose Hamming distance estimates the angle between vectors."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.hashing import randomness
from nearhash.hashing.collisions import as_cosines
from nearhash.hashing.vectors import MAX_DIM, as_rows, check_whole, is_tensor
from nearhash.kernels.panels import fill_panels, panel_count
from nearhash.kernels.simd import PRODUCT_ROWS
from nearhash.kernels.simhash import ROUNDS, encode_hadamard, encode_product
from nearhash.kernels.threads import resolve_threads, run_chunks

METHODS = ("hadamard", "gaussian")
MAX_BITS = 65_536
# Blocks of fewer than 128 are so few sums of signs that ties between them show; 256 are as fast as 128 and have fewer.
LEAST_BLOCK, USUAL_BLOCK = 128, 256
CHUNK = 1024  # vectors that a thread takes at a time

_SIGN_STREAM, _NORMAL_STREAM = 0x53494D01, 0x53494D02
_BIT_COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.int64)


class SimHash:
    """Signs of random projections (Charikar, STOC 2002).

    Bit i of a code is 1 where the i-th projection of the vector is >= 0, so the chance that two codes agree in a bit
    is ``1 - theta / pi``, theta the angle of the vectors. Codes do not change when a vector is multiplied by a positive
    number (a power of two to the last bit, others up to rounding of the product). The zero vector has all bits 1.

    Parameters
    ----------
    dim
        Elements of a vector, 1 to 32,768.
    bits
        Bits of a code, a multiple of 8 from 8 to 65,536.
    seed
        A whole number in [0, 2**64): the same gives the same codes on every machine.
    method
        ``"hadamard"``: projections are the elements of H D3 H D2 H D1 x, with H the Hadamard matrix and D diagonal
        matrices of random signs, in blocks of a power of two (Ailon & Chazelle, SIAM J. Computing 2009; Andoni et
        al., NeurIPS 2015). Takes d log d steps and nothing but additions in a fixed order: bit-identical on every
        processor and on Torch. Bits of a block are close to orthogonal projections, which makes the estimate
        better than that of independent ones. ``"gaussian"``: independent normal projections, exact for every
        vector, however sparse, and about half as fast; products round differently on different processors, so a bit
        whose projection is almost zero may differ.

    Raises
    ------
    InvalidArgumentError
        If an argument is none of the above.
    """

    def __init__(self, dim: int, bits: int = 256, seed: int = 0, method: str = "hadamard") -> None:
        self.dim = check_whole(dim, "dim", 1, MAX_DIM)
        self.bits = check_whole(bits, "bits", 8, MAX_BITS)
        if self.bits % 8:
            raise InvalidArgumentError(f"bits: expected a multiple of 8, got {bits!r}")
        self.seed = randomness.check_seed(seed)
        if method not in METHODS:
            raise InvalidArgumentError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        self.method = method
        self.block = _block_size(self.dim, self.bits)
        """Bits whose projections are made together by the method "hadamard"."""
        self._tensors: dict[Any, Any] = {}
        if method == "hadamard":
            blocks = -(-self.bits // self.block)
            drawn = randomness.signs(self.seed, _SIGN_STREAM, blocks * ROUNDS * self.block)
            self._signs: NDArray[np.float32] = drawn.reshape(blocks, ROUNDS, self.block)
        else:
            drawn_normals = randomness.normals(self.seed, _NORMAL_STREAM, self.bits * self.dim)
            self._projections: NDArray[np.float32] = drawn_normals.reshape(self.bits, self.dim).astype(np.float32)
            self._panels = np.empty((panel_count(self.bits), self.dim, PRODUCT_ROWS), np.float32)
            fill_panels(self._projections, self._panels)

    def __repr__(self) -> str:
        return f"SimHash(dim={self.dim}, bits={self.bits}, seed={self.seed}, method={self.method!r})"

    def encode(self, X: ArrayLike, threads: int | None = None) -> Any:
        """Codes of vectors.

        Parameters
        ----------
        X
            (n, dim) or (dim,) of a float or integer dtype, computed in float32. A Torch tensor is encoded on its device
            and gives a tensor, the same bits by method "hadamard".
        threads
            Threads to use, all cores by default. The codes do not depend on it.

        Returns
        -------
        (n, bits // 8) uint8; bit i is bit i % 8 (of value ``1 << i % 8``) of byte i // 8.

        Raises
        ------
        DimensionError, DtypeError
            For another shape or dtype.
        InvalidArgumentError
            For NaN, infinity or values beyond 1e15 in magnitude.
        """
        if is_tensor(X):
            from nearhash.kernels import torch_simhash

            return torch_simhash.encode(self, X)  # type: ignore[arg-type]
        threads = resolve_threads(threads)
        vectors = as_rows(X, self.dim, "X")
        codes = np.empty((len(vectors), self.bits // 8), np.uint8)

        def encode_some(first: int, last: int) -> None:
            if self.method == "hadamard":
                encode_hadamard(vectors[first:last], self._signs, self.bits, codes[first:last])
            else:
                encode_product(vectors[first:last], self._panels, self.bits, codes[first:last])

        run_chunks(encode_some, len(vectors), threads, CHUNK)
        return codes

    def angle(self, codes_a: ArrayLike, codes_b: ArrayLike) -> NDArray[np.float64]:
        """Estimated angles in radians, ``pi`` times the share of bits that differ.

        Parameters
        ----------
        codes_a, codes_b
            uint8 of last axis bits // 8, compared row by row; other axes are broadcast.
        """
        a, b = self._check_codes(codes_a, "codes_a"), self._check_codes(codes_b, "codes_b")
        try:
            differing = _BIT_COUNTS[a ^ b].sum(axis=-1)
        except ValueError:
            raise DimensionError(
                f"codes_b: expected a shape that goes with codes_a's {a.shape}, got {b.shape}"
            ) from None
        angles: NDArray[np.float64] = np.pi * differing / self.bits
        return angles

    def similarity(self, codes_a: ArrayLike, codes_b: ArrayLike) -> NDArray[np.float64]:
        """Estimated cosines, those of `angle`."""
        cosines: NDArray[np.float64] = np.cos(self.angle(codes_a, codes_b))
        return cosines

    def collision_probability(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Chance that the codes of two vectors of this cosine agree in a bit: ``1 - arccos(cosine) / pi``.

        Exact for "gaussian". For "hadamard" a limit, from which vectors with a few non-zero elements are up to .01 away
        in blocks of 128, and others less than can be measured; see the guide.
        """
        chance: NDArray[np.float64] = 1.0 - np.arccos(as_cosines(cosine)) / np.pi
        return chance

    def variance(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Variance of the share of bits in which two codes agree, the vectors having this cosine.

        Binomial, ``p (1 - p) / bits``, for "gaussian". For "hadamard" two bits of a block of size P have covariance
        ``-(sin theta / pi)^2 / P`` up to terms of order 1 / P^2, that of the rows of a random orthogonal matrix: the
        reason why orthogonal projections estimate angles better (Ji et al., NIPS 2012). The guide has the derivation.
        """
        cosines = as_cosines(cosine)
        chance = self.collision_probability(cosines)
        total = self.bits * chance * (1.0 - chance)
        if self.method == "hadamard":
            whole, rest = divmod(self.bits, self.block)
            pairs = whole * self.block * (self.block - 1) + rest * max(0, rest - 1)
            total = total - pairs * (1.0 - np.square(cosines)) / (np.pi**2 * self.block)
        variances: NDArray[np.float64] = np.maximum(total, 0.0) / self.bits**2
        return variances

    def _check_codes(self, codes: ArrayLike, name: str) -> NDArray[np.uint8]:
        array = np.asarray(codes)
        if array.dtype != np.uint8:
            raise DtypeError(f"{name}: expected uint8, got {array.dtype}")
        if array.ndim < 1 or array.shape[-1] != self.bits // 8:
            raise DimensionError(f"{name}: expected shape (..., {self.bits // 8}), got {array.shape}")
        return array


def _block_size(dim: int, bits: int) -> int:
    """Elements of a Hadamard transform: a power of two, at least `dim`."""
    wanted = max(LEAST_BLOCK, min(USUAL_BLOCK, bits))
    return int(1 << (max(dim, wanted) - 1).bit_length())
