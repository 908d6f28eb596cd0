"""Pages whose keys may have the greatest logits, by the least and greatest coordinates of each page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nearhash.attention.estimators.base import Choice, Estimator, group_weights, with_always
from nearhash.attention.heads import Floats, KVHead, Positions
from nearhash.index.arguments import check_count


class PageBounds(NamedTuple):
    """Least and greatest coordinates (pages, d) of the keys of each page."""

    least: Floats
    greatest: Floats
    tokens: int

    @property
    def nbytes(self) -> int:
        return self.least.nbytes + self.greatest.nbytes


@dataclass(frozen=True)
class Quest(Estimator):
    """Quest (Tang et al., ICML 2024, algorithm 1): whole pages, best bound first.

    No key of a page has a greater logit than ``sum_j max(q_j least_j, q_j greatest_j)``. Pages are taken in the order
    of these bounds, for a group of queries in that of the mean of their softmax, until the budget is spent; of the
    last one the first tokens, so that it is spent to the token. Reads the bounds of all pages: 8 d / page bytes a
    token in float32. Leaves out the mass of all other tokens, so the log-sum-exp is too small.

    Parameters
    ----------
    page : int
        Tokens of a page.
    """

    page: int = 16

    name = "quest"

    def __post_init__(self) -> None:
        check_count(self.page, "page")

    def index(self, head: KVHead, always: Positions) -> PageBounds:
        keys = head.keys(np.arange(head.n))
        starts = np.arange(0, head.n, self.page)
        if not head.n:
            return PageBounds(keys, keys, 0)
        return PageBounds(np.minimum.reduceat(keys, starts), np.maximum.reduceat(keys, starts), head.n)

    def choose(
        self, head: KVHead, index: PageBounds, queries: Floats, always: Positions, rest: Positions, budget: int,
        key: int,
    ) -> list[Choice]:  # fmt: skip
        # max(q a, q b) with a <= b takes b where q > 0 and a elsewhere
        bounds = np.maximum(queries, 0) @ index.greatest.T + np.minimum(queries, 0) @ index.least.T
        best = np.argsort(-group_weights(bounds), kind="stable")
        rank = np.empty(len(best), np.int64)
        rank[best] = np.arange(len(best))
        order = np.argsort(rank[rest // self.page], kind="stable")[:budget]
        return [with_always(always, rest[order])]
