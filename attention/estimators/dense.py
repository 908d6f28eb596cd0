"""All tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearhash.attention.estimators.base import Choice, Estimator
from nearhash.attention.heads import Floats, KVHead, Positions


class Dense(Estimator):
    """Softmax attention over all tokens, whatever the budget; no index."""

    name = "dense"
    unbiased = True

    def choose(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        return [Choice(np.arange(head.n), np.zeros(head.n))]
