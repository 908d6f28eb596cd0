"""SOCKET: tokens by the probability of their buckets under a soft hash of the query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.estimators.base import Choice, Doubles, Estimator, greatest, with_always
from nearhash.attention.estimators.tables import MOST_BITS, TableHashing
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.hashing.randomness import check_seed
from nearhash.index.arguments import check_count, check_number


class Buckets(NamedTuple):
    """Bucket (tables, tokens) uint16 of each key in each table."""

    hashing: TableHashing
    codes: NDArray[np.uint16]

    @property
    def tokens(self) -> int:
        return len(self.codes[0])

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes


@dataclass(frozen=True)
class Socket(Estimator):
    """SOCKET, the soft collision kernel estimator (Joshi et al. 2026, arXiv:2602.06283), in the form of its code.

    Keys have the code r of K signs of normal projections W k in each of L tables. A query q gives each code the
    probability ``softmax_r(tanh(W q).c_r / (sqrt(d) tau))``, c_r in {-1, 1}^K; the score of a token is the sum of the
    probabilities of its codes over the tables, times ``|v|``, and for a group the sum over its queries. The `budget`
    greatest are read. q is the query without scale: it is taken to have been ``1 / sqrt(d)``.

    Reads the codes of all tokens, 2 L bytes each, and 2^K numbers a query and table. Leaves out the mass of all other
    tokens, so the log-sum-exp is too small.

    Parameters
    ----------
    K : int
        Bits of a code, at most 16.
    L : int
        Tables.
    tau : float
        Temperature.
    seed : int
    """

    K: int = 10
    L: int = 60
    tau: float = 0.3
    seed: int = 0

    name = "socket"
    uses_codes = True

    def __post_init__(self) -> None:
        check_count(self.K, "K", most=MOST_BITS)
        check_count(self.L, "L", most=4096)
        check_number(self.tau, "tau", 0.0, math.inf)
        check_seed(self.seed)

    def index(self, head: KVHead, always: Positions) -> Buckets:
        hashing = TableHashing(head.d, self.L, self.K, self.seed)
        return Buckets(hashing, np.ascontiguousarray(hashing.codes(head.keys(np.arange(head.n))).T))

    def choose(
        self, head: KVHead, index: Buckets, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        root = np.float32(math.sqrt(head.d))
        turns = np.tanh(index.hashing.projections(queries * root)) / (root * self.tau)  # [g, L, K]
        scores = np.zeros(len(rest))
        for table in range(self.L):
            codes = index.codes[table, rest]
            for chances in _bucket_chances(turns[:, table]):
                scores += chances[codes]
        return [with_always(always, rest[greatest(scores * head.value_norms(rest), budget)])]


def _bucket_chances(turns: NDArray[np.floating]) -> Doubles:
    """Probabilities (g, 2^K) of the codes with turns (g, K) = tanh(W q) / (sqrt(d) tau).

    The softmax over the corners of the cube is a product over the bits, of ``1 / (1 + exp(-2 turn))`` for a one.
    """
    ones = 1 / (1 + np.exp(-2 * turns.astype(np.float64)))
    chances = np.ones((len(turns), 1))
    for bit in range(turns.shape[1]):  # codes with bit i set follow those without
        one = ones[:, bit : bit + 1]
        chances = np.concatenate([chances * (1 - one), chances * one], axis=1)
    return chances
