"""Similarity of sets, from how many values of their sketches agree."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nearhash.hashing.sketches import chance_of, unpacked


@lru_cache
def zero_fields(bits: int) -> NDArray[np.uint8]:
    """(256,) how many values of `bits` < 8 bits in a byte are 0; empty for larger ones."""
    if bits >= 8:
        return np.empty(0, np.uint8)
    fields = unpacked(np.arange(256, dtype=np.uint8)[:, None], bits)
    return np.asarray((fields == 0).sum(axis=1), np.uint8)


@lru_cache
def jaccard_estimates(k: int, bits: int) -> NDArray[np.float64]:
    """(k + 1,) the similarity of sets of whose k values 0, 1, ... k differ, clipped to [0, 1].

    Values of b bits agree by chance with probability ``C = 2**-b``: ``(agree / k - C) / (1 - C)`` (Li and Koenig 2010).
    """
    chance = chance_of(bits)
    agree = np.arange(k, -1, -1) / k
    estimates: NDArray[np.float64] = np.clip((agree - chance) / (1 - chance), 0.0, 1.0)
    return estimates


@lru_cache
def least_agreement(threshold: float, k: int, bits: int) -> int:
    """Values of k that must agree for an estimate of at least `threshold`."""
    return k + 1 - int(np.count_nonzero(jaccard_estimates(k, bits) >= threshold))
