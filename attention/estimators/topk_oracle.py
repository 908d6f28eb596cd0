"""The tokens with the greatest logits, as if they were known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nearhash.attention.estimators.base import Choice, Estimator, greatest, group_weights, with_always
from nearhash.attention.heads import Floats, KVHead, Positions


@dataclass(frozen=True)
class TopKOracle(Estimator):
    """The `budget` tokens of greatest softmax: what top-k methods with perfect knowledge would give.

    To find them all keys are read, which `reads` does not count: a yardstick, not a method. It leaves out the mass of
    all other tokens, so the log-sum-exp is too small.

    Parameters
    ----------
    shared : bool
        One choice for all queries, by the mean of their softmax, rather than one for each.
    """

    shared: bool = True

    name = "topk_oracle"

    def choose(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        logits = queries @ head.keys(rest).T
        scores = [group_weights(logits)] if self.shared else logits
        return [with_always(always, rest[greatest(line, budget)]) for line in scores]
