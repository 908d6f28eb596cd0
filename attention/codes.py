"""Codes of keys: what a store knows of tokens that it does not read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.randomness import check_seed
from nearhash.hashing.simhash import SimHash
from nearhash.index.codecs.pq4 import bounds_by_deviation
from nearhash.kernels import attention_lvq4, attention_pq4, attention_simhash, product_codes
from nearhash.kernels.attention_code_scan import AskedOfCodes, LVQ4Queries, PQ4Queries, SimHashQueries
from nearhash.kernels.simd_tables import GROUP

Floats = NDArray[np.float32]


class KeyCodes(Protocol):
    """Codes of a kind, for keys of some dimension.

    Attributes
    ----------
    page_bytes : int
        Of a page of PAGE tokens of one head, a multiple of 64.
    norms_at : int
        Byte of a page from which on the bfloat16 norms of the values lie.
    """

    page_bytes: int
    norms_at: int

    def train(self, keys: Floats) -> Any:
        """What all codes of one head have in common, from its first keys (n, d); it stays so."""

    def mean(self, common: Any) -> Floats:
        """The key (dim,) that is taken off all others before they are coded."""

    def encode(self, common: Any, pages: NDArray[np.int64], first: int, keys: Floats, values: Floats) -> None:
        """Write the codes of the tokens from position `first` on."""

    def join(self, common: Sequence[Any]) -> Any:
        """What `ask` needs of what the codes of each head have in common."""

    def ask(self, joint: Any, queries: Floats) -> AskedOfCodes:
        """Queries (q_heads, dim), times their scale, as the kernels that scan codes of this kind take them.

        joint: what `join` gave, or None as long as nothing is coded.
        """


class LVQ4Codes:
    """4 bits a dimension and a range for each key, less the mean of the first keys; dim / 2 + 6 bytes a token."""

    def __init__(self, dim: int, seed: int) -> None:
        self.page_bytes = attention_lvq4.page_bytes(dim)
        self.norms_at = attention_lvq4.norms_at(dim)

    def train(self, keys: Floats) -> Floats:
        return _mean(keys)

    def mean(self, common: Floats) -> Floats:
        return common

    def encode(self, common: Floats, pages: NDArray[np.int64], first: int, keys: Floats, values: Floats) -> None:
        attention_lvq4.encode(pages, first, keys, values, common)

    def join(self, common: Sequence[Floats]) -> None:
        return None

    def ask(self, joint: None, queries: Floats) -> LVQ4Queries:
        return LVQ4Queries(queries)


class _Codebook(NamedTuple):
    """What product codes of a head have in common, or those of all heads, with an axis for these in front.

    The mean (dim,) of the keys, directions (dim, dim) that they are turned to, as orthonormal rows; and bounds (m + 1,)
    and codewords (dim, 16) of the sub-quantisers.
    """

    mean: Floats
    directions: Floats
    bounds: NDArray[np.int32]
    codewords: Floats


class PQ4Codes:
    """Product codes of 4 bits (Jegou et al., PAMI 2011) of keys less the mean of the first ones, dim / 2 of them.

    Keys are turned to the principal directions of the first ones, and divided so that each code has about the same
    share of the deviation (after Ge et al., "Optimized product quantization", CVPR 2013): on keys of SmolLM2 attention
    then has three quarters of the error that it has by codes of two dimensions each. A head learns all that from its
    first keys; dim / 4 + 2 bytes a token, if dim is a multiple of 16, else up to 4 bytes more.
    """

    _SAMPLE, _ROUNDS = 4096, 12  # keys that a codebook is learned from, and rounds of Lloyd's algorithm

    def __init__(self, dim: int, seed: int) -> None:
        self._dim, self._seed = dim, seed
        self._subs = GROUP * -(-dim // (2 * GROUP))
        self.page_bytes, self.norms_at = attention_pq4.page_bytes(self._subs), attention_pq4.norms_at(self._subs)

    def train(self, keys: Floats) -> _Codebook:
        mean = _mean(keys)
        order = np.random.Generator(np.random.Philox(key=np.array([self._seed, 0], np.uint64))).permutation(len(keys))
        sample = keys[order[: self._SAMPLE]] - mean
        wide = sample.astype(np.float64)
        directions = np.ascontiguousarray(np.linalg.eigh(wide.T @ wide)[1].T[::-1], np.float32)
        turned = sample @ directions.T
        bounds = bounds_by_deviation(turned.std(axis=0), self._subs)
        codewords = np.zeros((self._dim, attention_pq4.LEVELS), np.float32)
        for first, last in pairwise(bounds):
            product_codes.train_sub_quantiser(turned, first, last, self._ROUNDS, codewords)
        return _Codebook(mean, directions, bounds, codewords)

    def mean(self, common: _Codebook) -> Floats:
        return common.mean

    def encode(self, common: _Codebook, pages: NDArray[np.int64], first: int, keys: Floats, values: Floats) -> None:
        codes = np.empty((len(keys), self._subs), np.uint8)
        product_codes.encode((keys - common.mean) @ common.directions.T, common.bounds, common.codewords, codes)
        attention_pq4.encode(pages, first, codes, values)

    def join(self, common: Sequence[_Codebook]) -> _Codebook:
        return _Codebook(*(np.stack(parts) for parts in zip(*common, strict=True)))

    def ask(self, joint: _Codebook | None, queries: Floats) -> PQ4Queries:
        if joint is None:  # nothing is coded, so nothing will be looked up
            shape = (0, self._dim, attention_pq4.LEVELS)
            return PQ4Queries(queries, np.zeros((0, self._subs + 1), np.int32), np.zeros(shape, np.float32))
        by_head = queries.reshape(len(joint.mean), -1, self._dim)
        turned = np.matmul(by_head, joint.directions.transpose(0, 2, 1)).reshape(queries.shape)
        return PQ4Queries(turned, joint.bounds, joint.codewords)


class SimHashCodes:
    """Signs of projections of keys less the mean of the first ones, and norms; bits / 8 + 4 bytes a token.

    All heads have the same projections.
    """

    def __init__(self, dim: int, seed: int, bits: int = 256) -> None:
        self._hashing = SimHash(dim, bits, seed)
        self.page_bytes, self.norms_at = attention_simhash.page_bytes(bits), attention_simhash.norms_at(bits)

    def _codes(self, vectors: Floats) -> NDArray[np.uint64]:
        # Powers of two change no sign, and SimHash takes no vectors as long as queries times a scale may be.
        _, exponents = np.frexp(np.abs(vectors).max(axis=1, keepdims=True, initial=0.0))
        signs = self._hashing.encode(np.ldexp(vectors, -exponents), threads=1)
        codes: NDArray[np.uint64] = signs.view("<u8").astype(np.uint64, copy=False)
        return codes

    def train(self, keys: Floats) -> Floats:
        return _mean(keys)

    def mean(self, common: Floats) -> Floats:
        return common

    def encode(self, common: Floats, pages: NDArray[np.int64], first: int, keys: Floats, values: Floats) -> None:
        attention_simhash.encode(pages, first, self._codes(keys - common), keys, values, common)

    def join(self, common: Sequence[Floats]) -> None:
        return None

    def ask(self, joint: None, queries: Floats) -> SimHashQueries:
        return SimHashQueries(queries, self._codes(queries))


def _mean(keys: Floats) -> Floats:
    mean: Floats = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


CODECS: dict[str, Any] = {"lvq4": LVQ4Codes, "pq4": PQ4Codes, "simhash": SimHashCodes}
LEAST_BITS, MOST_BITS = 64, 4096


def make_codes(codec: str, dim: int, seed: int = 0) -> KeyCodes:
    """Codes by name: one of `CODECS`; ``"simhash"`` has 256 bits, ``"simhash512"`` 512, any multiple of 64."""
    sized = re.fullmatch(r"simhash([1-9]\d{1,4})", codec) if isinstance(codec, str) else None
    if sized is not None:
        bits = int(sized[1])
        if not LEAST_BITS <= bits <= MOST_BITS or bits % 64:
            raise InvalidArgumentError(
                f"codec: expected simhash of a multiple of 64 bits from {LEAST_BITS} to {MOST_BITS}, got {codec!r}"
            )
        return SimHashCodes(dim, check_seed(seed), bits)
    if not isinstance(codec, str) or codec not in CODECS:
        raise InvalidArgumentError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r:.80}")
    codes: KeyCodes = CODECS[codec](dim, check_seed(seed))
    return codes
