"""The tokens whose SimHash codes are closest to those of the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.estimators.base import Choice, Estimator, greatest, with_always
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.errors import InvalidArgumentError
from nearhash.hashing.simhash import SimHash
from nearhash.index.arguments import check_count


class SignCodes(NamedTuple):
    """SimHash codes (tokens, bits // 8) uint8 of keys less their mean."""

    hashing: SimHash
    codes: NDArray[np.uint8]

    @property
    def tokens(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes

    def matches(self, queries: Floats, positions: Positions) -> NDArray[np.int64]:
        """Bits (g, m) in which the codes of queries agree with those of tokens."""
        turns = self.hashing.angle(self.hashing.encode(queries)[:, None], self.codes[positions][None])
        return self.hashing.bits - np.rint(turns * (self.hashing.bits / np.pi)).astype(np.int64)


@dataclass(frozen=True)
class HashTopK(Estimator):
    """The `budget` tokens with most bits in common with the queries, added up over the group, ties to the lower one.

    Top-k by Hamming distance of binary codes, as HATA (Gong et al., "Trainable and hardware-efficient hash-aware top-k
    attention", Findings of ACL 2025), with the sign of random projections (Charikar, STOC 2002) where HATA trains them,
    of keys less their mean, which leaves softmax as it is. Reads the codes of all tokens, bits / 8 bytes each. Leaves
    out the mass of all other tokens, so the log-sum-exp is too small.

    Parameters
    ----------
    bits, seed
        Of SimHash.
    """

    bits: int = 256
    seed: int = 0

    name = "hash_topk"

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def index(self, head: KVHead, always: Positions) -> SignCodes:
        keys = head.keys(np.arange(head.n))
        hashing = SimHash(head.d, self.bits, self.seed)
        return SignCodes(hashing, hashing.encode(keys - mean_key(keys)))

    def choose(
        self, head: KVHead, index: SignCodes, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        return [with_always(always, rest[greatest(index.matches(queries, rest).sum(axis=0), budget)])]


def mean_key(keys: Floats) -> Floats:
    """Mean (d,) of keys (n, d), 0 of none."""
    if not len(keys):
        return np.zeros(keys.shape[1], np.float32)
    mean: Floats = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def check_bits(bits: int) -> None:
    """The number of bits of a code; raises InvalidArgumentError."""
    if check_count(bits, "bits", least=8, most=65_536) % 8:
        raise InvalidArgumentError(f"bits: expected a multiple of 8, got {bits}")
