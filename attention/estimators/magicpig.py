"""MagicPIG: tokens that collide with the query in at least two hash tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.estimators.base import Choice, Doubles, Estimator, with_always
from nearhash.attention.estimators.hash_topk import mean_key
from nearhash.attention.estimators.tables import MOST_BITS, TableHashing, Tables, build_tables
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.hashing.randomness import check_seed
from nearhash.index.arguments import check_count

_OFFSET = 1e-4  # added to the probability, as the authors' code does


class HashedKeys(NamedTuple):
    """Tables of the keys, the mean that was taken off them, and their number, those outside the tables included."""

    hashing: TableHashing
    tables: Tables
    mean: Floats
    tokens: int

    @property
    def nbytes(self) -> int:
        return self.tables.nbytes + self.mean.nbytes


@dataclass(frozen=True)
class MagicPIG(Estimator):
    """MagicPIG (Chen et al., "LSH sampling for efficient LLM generation", ICLR 2025, algorithm 1), as it is coded.

    Keys outside sink and local window, less their mean, have L codes of K signs of normal projections. A query reads
    the tokens that have its code in at least two tables. With theta the angle of query and centred key and
    ``P = (1 - theta / pi)^K``, the probability of that is ``u = 1 - (1 - P)^L - L P (1 - P)^(L - 1)``, and logits are
    corrected by ``-ln(u + 1e-4)``. The mean is that of the keys when the index was made.

    The budget is not used: K and L decide what is read. Each query has a sample of its own; `reads` counts the union of
    those of a group. The hash functions are drawn once, with `seed`: the key is not used either, and errors of
    successive steps are correlated. Sums are unbiased over the seeds but for the 1e-4, by a factor ``u / (u + 1e-4)``
    of each token. The tables have 2 L bytes a token up to 65,536 tokens, then 4 L, and 4 L 2^K bytes in all; authors'
    settings are (K, L) = (10, 150), (9, 120) and (8, 75), with sink 4 and local 64.

    Parameters
    ----------
    K : int
        Bits of a code, at most 16.
    L : int
        Tables, at least 2.
    seed : int
    """

    K: int = 10
    L: int = 150
    seed: int = 0

    name = "magicpig"
    samples = True

    def __post_init__(self) -> None:
        check_count(self.K, "K", most=MOST_BITS)
        check_count(self.L, "L", least=2, most=4096)
        check_seed(self.seed)

    def index(self, head: KVHead, always: Positions) -> HashedKeys:
        middle = np.setdiff1d(np.arange(head.n), always, assume_unique=True)
        keys = head.keys(middle)
        mean = mean_key(keys)
        hashing = TableHashing(head.d, self.L, self.K, self.seed)
        return HashedKeys(hashing, build_tables(hashing.codes(keys - mean), middle, head.n, self.K), mean, head.n)

    def choose(
        self, head: KVHead, index: HashedKeys, queries: Floats, always: Positions, rest: Positions, budget: int,
        key: int,
    ) -> list[Choice]:  # fmt: skip
        allowed = np.zeros(index.tokens, bool)
        allowed[rest] = True
        choices = []
        for query, codes in zip(queries, index.hashing.codes(queries), strict=True):
            found = np.flatnonzero((index.tables.collisions(codes, index.tokens) >= 2) & allowed)
            chance = inclusion(cosines(query, head.keys(found) - index.mean), self.K, self.L)
            choices.append(with_always(always, found, np.log(chance + _OFFSET)))
        return choices


def inclusion(cosine: NDArray[np.floating], K: int, L: int) -> Doubles:
    """Probability of two vectors of this cosine to collide in at least two of L tables of K bits."""
    P = (1 - np.arccos(np.clip(cosine.astype(np.float64), -1, 1)) / np.pi) ** K
    chance: Doubles = 1 - (1 - P) ** L - L * P * (1 - P) ** (L - 1)
    return np.maximum(chance, 0.0)  # rounding


def cosines(query: Floats, keys: Floats) -> Doubles:
    """Cosines (m,) of a query (d,) and keys (m, d); 0 of a zero vector."""
    norms = np.linalg.norm(query.astype(np.float64)) * np.linalg.norm(keys.astype(np.float64), axis=1)
    products = keys.astype(np.float64) @ query
    result: Doubles = np.divide(products, norms, out=np.zeros(len(keys)), where=norms > 0)
    return result
