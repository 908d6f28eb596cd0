"""A simple random sample of the tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearhash.attention.estimators.base import Choice, Doubles, Estimator, with_always
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.kernels.reference_attention import uniforms


class Uniform(Estimator):
    """Tokens at random, without replacement, all with the probability ``p = budget / m`` of the m to choose from.

    Those with the least u are taken, u uniform and a function of the position and the key: a larger budget of the same
    key contains a smaller one. One sample for all queries; no index.
    """

    name = "uniform"
    unbiased = True
    samples = True

    def choose(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        return [with_always(always, *simple_sample(rest, budget, key))]


def simple_sample(tokens: Positions, budget: int, key: int) -> tuple[Positions, Doubles]:
    """A simple random sample of `tokens`, in any order, and the logarithms of the probabilities, all alike."""
    if budget >= len(tokens):
        return tokens, np.zeros(len(tokens))
    order = np.argsort(uniforms(tokens, key), kind="stable")[:budget]
    return tokens[order], np.full(budget, np.log(max(budget, 1) / len(tokens)))
