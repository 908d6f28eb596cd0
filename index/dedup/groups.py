"""What deduplication finds: documents in groups."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.rates import Rates
from nearhash.index.dedup.settings import Settings
from nearhash.kernels.threads import run_chunks
from nearhash.kernels.union_find import unite

_EDGES = 1 << 15  # of a task


def join(labels: NDArray[np.int64], edges: NDArray[np.int64], threads: int) -> None:
    """Join the groups of both ends of each edge (m, 2); labels as for `nearhash.kernels.union_find.unite`."""
    run_chunks(lambda first, last: unite(labels, edges[first:last]), len(edges), threads, _EDGES)


@dataclass(frozen=True, eq=False)
class Groups:
    """Documents in groups of near-duplicates.

    Two documents are in one group if a chain of duplicate pairs leads from one to the other.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
        The lowest document of each document's group.
    pairs : ndarray of int64, shape (m, 2)
        The duplicate pairs found, in order, the lower document first. In large groups not all pairs are looked at.
    similarities : ndarray of float32, shape (m,)
        Of the pairs: exact or estimated, as was asked for.
    empty : ndarray of bool, shape (n,)
        Documents without a shingle, which are nobody's duplicates.
    rates : Rates
        Estimated rates of false pairs and of missed ones.
    settings : Settings
    """

    labels: NDArray[np.int64]
    pairs: NDArray[np.int64]
    similarities: NDArray[np.float32]
    empty: NDArray[np.bool_]
    rates: Rates
    settings: Settings

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def groups(self) -> list[NDArray[np.int64]]:
        """Ascending documents of each group of two or more, by lowest document."""
        order = np.argsort(self.labels, kind="stable")
        starts = np.flatnonzero(np.diff(self.labels[order], prepend=-1))
        return [group for group in np.split(order, starts[1:]) if len(group) > 1] if len(order) else []

    @property
    def keep(self) -> NDArray[np.bool_]:
        """True for the first document of each group, and for all that are in none."""
        kept: NDArray[np.bool_] = self.labels == np.arange(len(self.labels))
        return kept

    @property
    def statistics(self) -> dict[str, Any]:
        """Counts, and the estimated rates."""
        kept = int(self.keep.sum())
        return {
            "documents": len(self.labels),
            "empty": int(self.empty.sum()),
            "clusters": len(self.groups),
            "largest_cluster": max(map(len, self.groups), default=0),
            "kept": kept,
            "removed": len(self.labels) - kept,
            "pairs": len(self.pairs),
            "false_positive_rate": self.rates.false_positive,
            "false_negative_rate": self.rates.false_negative,
        }

    def __repr__(self) -> str:
        facts = self.statistics
        return f"Groups(documents={facts['documents']}, clusters={facts['clusters']}, removed={facts['removed']})"
