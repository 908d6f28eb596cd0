"""A priority sample by what codes of the keys tell, with a certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearhash.attention.estimators.base import (
    Choice,
    Estimate,
    Estimator,
    check_certainty,
    estimate,
    normal_quantile,
    with_always,
)
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.index.arguments import check_number
from nearhash.kernels.reference_attention import priority_sample, uniforms, weights

LEAST_SAMPLE = 32
"""Tokens of a sample at least, where an error is wished for: fewer tell nothing of their own."""
DENSE_AT = 0.5
"""Share of the tokens from which on all of them are read rather than a larger sample."""
_MARGIN = 1.3  # by which a sample is made larger than its variance asks for, as that is an estimate itself


@dataclass(frozen=True)
class Priority(Estimator):
    """Priority sampling by estimated logits (Duffield, Lund and Thorup, J. ACM 2007).

    Parameters
    ----------
    temperature, floor : float
        Token i has the weight ``w_i = mean over the queries of softmax(l_i / temperature) |v_i|`` by logits l of the
        codes, scaled to the sum 1, plus ``floor / m`` with m tokens to choose from.
    eps : float, optional
        Relative error of the output that is wished for, in the Euclidean norm, of each query.
    delta : float
        Probability with which it may be missed, at most .2.

    Notes
    -----
    With u_i uniform, a function of position and key, the `budget` tokens of greatest ``w_i / u_i`` are read, and with
    t the greatest of the others ``p_i = min(1, w_i / t)``. One sample serves all queries. Reads the codes of all
    tokens, d / 2 + 6 bytes each with LVQ-4; nothing else is kept.

    Certificate: with V the variance that the sample shows of itself (`estimate`), the sample is enlarged while
    ``z sqrt(V) > eps |output|`` for some query, ``z = Phi^-1(1 - delta / 2)``; where half of the tokens would be read
    all of them are. The same uniforms are used, so the larger sample contains the smaller, and `reads` counts each
    token once. For a normal error vector of total variance V, P(|error|^2 > z^2 V) is greatest if all variance lies
    in one direction, when it is delta, if z^2 > 1.5364 (Székely and Bakirov, "Extremal probabilities for Gaussian
    quadratic forms", Probab. Theory Relat. Fields 2003): hence delta <= .2. That holds as far as the sample shows all
    there is: mass in tokens whose codes tell nothing of it is seen only by the floor.
    """

    temperature: float = 1.0
    floor: float = 0.02
    eps: float | None = None
    delta: float = 0.1

    name = "priority"
    uses_codes = True
    unbiased = True
    samples = True

    def __post_init__(self) -> None:
        check_number(self.temperature, "temperature", 0.0, 1e6)
        check_number(self.floor, "floor", 0.0, 1e6)
        check_certainty(self.eps, self.delta)

    def choose(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        return [_sample(always, rest, self._weights(head, queries, rest), budget, key)]

    def _weights(self, head: KVHead, queries: Floats, rest: Positions) -> Floats:
        if not len(rest):
            return np.zeros(0, np.float32)
        logits, norms = head.logits(queries)[:, rest], head.value_norms(rest)
        return weights(logits, norms, self.temperature, self.floor).astype(np.float32)

    def _attend(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> Estimate:
        if self.eps is None:
            return super()._attend(head, index, queries, always, rest, budget, key)
        shares, wanted = self._weights(head, queries, rest), max(budget, LEAST_SAMPLE)
        while True:
            if wanted < len(rest) and len(always) + wanted >= DENSE_AT * head.n:
                wanted = len(rest)
            result = estimate(head, queries, [_sample(always, rest, shares, wanted, key)], True)
            # No token with p < 1, yet not all read: the sample tells nothing, and the error is NaN.
            excess = float(normal_quantile(self.delta) * result.error.max(initial=0.0) / self.eps)
            if excess <= 1 or wanted >= len(rest):
                return result
            wanted = min(len(rest), enlarged(wanted, excess))


def enlarged(budget: int, excess: float) -> int:
    """Tokens of the next sample, where the error of one of `budget` was `excess` times too great: at least twice."""
    growth = excess**2 * _MARGIN if math.isfinite(excess) else 2.0
    return math.ceil(budget * max(min(growth, 2.0**31), 2.0))


def _sample(always: Positions, rest: Positions, shares: Floats, budget: int, key: int) -> Choice:
    """The tokens of `always`, and a priority sample of those of `rest`."""
    if budget == 0:
        return with_always(always, rest[:0])
    chosen, chances = priority_sample(shares, uniforms(rest, key), budget)
    return with_always(always, rest[chosen], np.log(chances, dtype=np.float64))
