"""vAttention: the heaviest tokens, and of the others a simple random sample as large as its variance asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearhash.attention.estimators.base import (
    Choice,
    Estimator,
    check_certainty,
    greatest,
    group_weights,
    normal_quantile,
    with_always,
)
from nearhash.attention.estimators.uniform import simple_sample
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.errors import InvalidArgumentError

_LEAST = 32  # tokens of a sample from which a deviation is told


@dataclass(frozen=True)
class VAttention(Estimator):
    """vAttention (Desai et al., "Verified sparse attention via sampling", ICLR 2026).

    A share of the budget goes to the tokens of greatest logits; the rest of it is a simple random sample of the others,
    each taken with the probability ``b / m`` (there with replacement, here without). With `eps`, this sample gives the
    standard deviation sigma of ``exp(s)`` and the denominator D, and is enlarged, whatever the budget, to
    ``b = (z sigma m / (eps D))^2``, ``z = Phi^-1(1 - delta / 2)``, the greatest of the group's: by the central limit
    theorem D then has a relative error above eps with probability delta (the paper's denominator bound; numerators have
    one of the same form). Unbiased at a fixed budget; a sample that was enlarged is of a size that depends on itself.

    Parameters
    ----------
    heavy : float
        Share of the budget for the heaviest tokens, 0 to 1.
    oracle : bool
        Find them by true logits, for which all keys are read, not counted in `reads`, rather than by those of the
        codes.
    eps, delta : float
        Wished relative error of the denominator, and the probability that it is missed, at most .2.
    """

    heavy: float = 0.5
    oracle: bool = False
    eps: float | None = None
    delta: float = 0.1

    name = "vattention"
    uses_codes = True
    unbiased = True
    samples = True

    def __post_init__(self) -> None:
        number = isinstance(self.heavy, int | float) and not isinstance(self.heavy, bool)
        if not number or not 0 <= self.heavy <= 1:
            raise InvalidArgumentError(f"heavy: expected a number from 0 to 1, got {self.heavy!r:.80}")
        check_certainty(self.eps, self.delta)

    def choose(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        logits = queries @ head.keys(rest).T if self.oracle else head.logits(queries)[:, rest]
        top = rest[greatest(group_weights(logits), round(self.heavy * budget))]
        tail = np.setdiff1d(rest, top, assume_unique=True)
        size = budget - len(top)
        if self.eps is not None and len(tail):
            sample, _ = simple_sample(tail, max(size, min(_LEAST, len(tail))), key)
            size = max(len(sample), self._enough(head, queries, np.union1d(always, top), sample, len(tail)))
        sample, logs = simple_sample(tail, size, key)
        return [with_always(always, np.concatenate([top, sample]), np.concatenate([np.zeros(len(top)), logs]))]

    def _enough(self, head: KVHead, queries: Floats, exact: Positions, sample: Positions, count: int) -> int:
        """Size of the sample that the variance of a first one asks for."""
        assert self.eps is not None
        known, drawn = (queries.astype(np.float64) @ head.keys(part).T for part in (exact, sample))
        highest = np.concatenate([known, drawn], axis=1).max(axis=1, keepdims=True)
        known, drawn = np.exp(known - highest), np.exp(drawn - highest)
        total = known.sum(axis=1) + count * drawn.mean(axis=1)
        spread = drawn.std(axis=1, ddof=1) if len(sample) > 1 else np.zeros(len(queries))
        wanted = float(((normal_quantile(self.delta) * spread * count / (self.eps * total)) ** 2).max())
        return min(count, math.ceil(wanted))
