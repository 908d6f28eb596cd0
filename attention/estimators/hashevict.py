"""HashEvict: a cache of bounded size, from which the tokens least similar to the query are evicted for good."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nearhash.attention.estimators.base import Choice, Estimator, greatest
from nearhash.attention.estimators.hash_topk import SignCodes, check_bits
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.hashing.simhash import SimHash


class Cache:
    """Which tokens are still there: positions, ascending, and their codes; `seen` tokens have come so far.

    Evicted tokens never come back, so a cache serves one sequence, step after step, and changes with each.
    """

    def __init__(self, dim: int, bits: int, seed: int) -> None:
        hashing = SimHash(dim, bits, seed, method="gaussian")
        self.codes = SignCodes(hashing, np.empty((0, bits // 8), np.uint8))
        self.positions: Positions = np.empty(0, np.int64)
        self.seen = 0

    @property
    def tokens(self) -> int:
        return self.seen

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.positions.nbytes

    def admit(self, head: KVHead) -> None:
        """Take all tokens in that have come since."""
        new = np.arange(self.seen, head.n)
        added = self.codes.hashing.encode(head.keys(new))
        self.codes = self.codes._replace(codes=np.concatenate([self.codes.codes, added]))
        self.positions = np.concatenate([self.positions, new])
        self.seen = head.n

    def evict(self, queries: Floats, always: Positions, room: int) -> None:
        """Keep the tokens of `always` and, of the others, the `room` most similar ones."""
        kept = np.isin(self.positions, always)
        others = np.flatnonzero(~kept)
        scores = self.codes.matches(queries, others).sum(axis=0)
        kept[others[greatest(scores, room)]] = True
        self.positions = self.positions[kept]
        self.codes = self.codes._replace(codes=self.codes.codes[kept])


@dataclass(frozen=True)
class HashEvict(Estimator):
    """HashEvict (Liu et al. 2024, arXiv:2412.16187): eviction before attention, by Hamming distance.

    A cache holds the tokens of `always` and at most `budget` others. When more have come, those are evicted whose codes
    (signs of normal projections of keys) have the fewest bits in common with those of the queries, added up over the
    group, ties at the expense of the later one; then attention is over what is left. The index is the cache, and each
    call changes it: without one, all tokens come at once, and one call evicts by its queries alone. Tokens of `always`
    that were evicted in an earlier step are not read.

    Reads the codes of the tokens that are there, bits / 8 bytes each; keys and values of the others need not be kept.
    Leaves out the mass of what was evicted, so the log-sum-exp is too small.

    Parameters
    ----------
    bits, seed
        Of SimHash; many fewer bits than dimensions will do, says the paper.
    """

    bits: int = 16
    seed: int = 0

    name = "hashevict"

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def index(self, head: KVHead, always: Positions) -> Cache:
        return Cache(head.d, self.bits, self.seed)

    def choose(
        self, head: KVHead, index: Cache, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        index.admit(head)
        index.evict(queries, always, budget)
        return [Choice(index.positions, np.zeros(len(index.positions)))]

    def _later(self, index: Cache, count: int) -> Positions:
        return np.empty(0, np.int64)  # they go into the cache
