"""PQ8: product codes of one byte for several dimensions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.codecs.base import NO_PARAMETERS, Codec, take_finite
from nearhash.kernels import pq8
from nearhash.kernels.pq8 import CODEWORDS
from nearhash.kernels.threads import run_chunks

DIMENSIONS = 4  # of a part, by default
SAMPLE = 64 * CODEWORDS  # training vectors
ROUNDS = 10


class PQ8Codec(Codec):
    """Product quantisation with 256 codewords a part (Jegou et al., PAMI 2011); layout in ``kernels.pq8``.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    has_extra : bool
        See `Codec`.
    parts : int, optional
        Parts that a vector is divided into, 1 to dim: bytes of a code. By default one for four dimensions.
    """

    name = "pq8"
    dtype = np.uint8
    exact = False

    def __init__(self, dim: int, has_extra: bool = False, parts: int | None = None) -> None:
        super().__init__(dim, has_extra)
        parts = -(-dim // DIMENSIONS) if parts is None else parts
        if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= dim:
            raise InvalidArgumentError(f"parts: expected an integer from 1 to {dim} (the dimension), got {parts!r}")
        self.scheme = pq8.pq8_scheme(dim, parts, has_extra)
        self._codewords: NDArray[np.float32] | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {"parts": self.parts}

    @property
    def parts(self) -> int:
        """Parts of a vector."""
        return int(self.scheme.parts)

    @property
    def parameters(self) -> NDArray[np.float32]:
        return NO_PARAMETERS if self._codewords is None else self._codewords.reshape(-1)

    @property
    def trained(self) -> bool:
        return self._codewords is not None

    def train(self, vectors: NDArray[np.float32], seed: int = 0, threads: int = 1) -> None:
        """Learn codewords from vectors (n, dim), n >= 1, by Lloyd's algorithm for each part, on a sample of them."""
        order = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64))).permutation(len(vectors))
        sample = np.ascontiguousarray(vectors[order[:SAMPLE]])
        codewords = np.empty((self.dim, CODEWORDS), np.float32)

        def task(first: int, last: int) -> None:
            for part in range(first, last):
                begin, end = part * self.dim // self.parts, (part + 1) * self.dim // self.parts
                codewords[begin:end] = _train_part(np.ascontiguousarray(sample[:, begin:end]), seed)

        run_chunks(task, self.parts, threads, 1)
        self._codewords = codewords

    def encode(self, vectors: NDArray[np.float32], extra: NDArray[np.float32], rows: NDArray[Any]) -> None:
        self._require_training()
        pq8.encode(np.ascontiguousarray(vectors), self._codewords, self.parts, rows)
        if self.has_extra:
            at = self.scheme.extra_at
            rows[:, self.parts : at] = 0
            rows[:, at:] = extra.astype(np.float32)[:, None].view(np.uint8)

    def decode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        self._require_training()
        assert self._codewords is not None
        sizes = np.diff(np.arange(self.parts + 1) * self.dim // self.parts)
        codes = np.repeat(rows[:, : self.parts], sizes, axis=1)
        decoded: NDArray[np.float32] = self._codewords[np.arange(self.dim), codes]
        return decoded

    def tensors(self) -> dict[str, NDArray[Any]]:
        self._require_training()
        assert self._codewords is not None
        return {"codewords": self._codewords}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._codewords = take_finite(tensors, "codewords", (self.dim, CODEWORDS))


def _train_part(sample: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Codewords (d, 256) of a part of the sample (n, d): its vectors themselves where no more of them differ.

    Trained by a kernel of our own: faiss takes five times as long for so few dimensions.
    """
    distinct = np.unique(sample, axis=0)
    if len(distinct) <= CODEWORDS:
        return np.ascontiguousarray(np.resize(distinct, (CODEWORDS, sample.shape[1])).T)
    chosen = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64))).choice(
        len(distinct), CODEWORDS, replace=False
    )
    codewords = np.ascontiguousarray(distinct[chosen].T)
    pq8.train_part(sample, ROUNDS, codewords)
    return codewords
