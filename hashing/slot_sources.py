"""How often two slots of a sketch have their values from the same element: what variances depend on.

`same_source` is p in the variance of `MinHash`. Elements are exchangeable, so given that two slots have different
sources, those are two different elements drawn at random, whatever the method.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=256)
def same_source(method: str, union: int, k: int) -> float:
    """Probability that two different slots of the sketch of `union` elements have the same source."""
    if k == 1 or union == 1:
        return 1.0
    if method in ("classic", "affine32"):
        return 1 / union
    if method == "fss":
        return _fast_similarity(union, k)
    pairs = {"oph-optimal": _optimal, "oph-reverse": _reverse, "oph-rotation": _rotation}[method]
    occupied = _occupied(union, k)
    expected = sum(share * pairs(k - full, full, k) for full, share in enumerate(occupied) if full and share > 0)
    return float(expected) / (k * (k - 1))


def _fast_similarity(union: int, k: int) -> float:
    """Two slots that are filled in the same round have different sources; in different rounds sources are drawn anew.

    In a round each of the elements hits one slot. Rounds from k on fill one slot each.
    """
    neither, one = (1 - 2 / k) ** union, (1 - 1 / k) ** union
    both = 1 - 2 * one + neither
    together = both * (1 - neither**k) / (1 - neither) if neither < 1 else 0.0
    return (1 - together) / union


def _occupied(balls: int, k: int) -> NDArray[np.float64]:
    """(k + 1,) distribution of the number of slots that `balls` balls hit."""
    share = np.zeros(k + 1)
    share[0] = 1.0
    slots = np.arange(k + 1)
    for _ in range(balls):
        share[1:] = share[1:] * (slots[1:] / k) + share[:-1] * (1 - slots[:-1] / k)
        share[0] = 0.0
        if share[k] > 1 - 1e-13:
            break
    return share


# Expected number of ordered pairs of slots that have the same source, given how many are empty and full: an empty slot
# and the full one it copies make two, two empty slots that copy the same full one two more.


def _optimal(empty: int, full: int, k: int) -> float:
    return 2 * empty + empty * (empty - 1) / full


def _rotation(empty: int, full: int, k: int) -> float:
    """Runs of empty slots in front of the full ones are a random composition of `empty` into `full` parts."""
    return 2 * empty + 2 * empty * (empty - 1) / (full + 1)


def _reverse(empty: int, full: int, k: int) -> float:
    """In a round each full slot, in order, offers its value to one slot; an empty one keeps the first that it gets.

    Two empty slots are served in the same round, then by different ones, or in different rounds: the donor of the
    first, in a round in which nobody hits the second, and the donor of the second are then independent.
    """
    if not empty:
        return 0.0
    neither, one = (1 - 2 / k) ** full, (1 - 1 / k) ** full
    together = (1 - 2 * one + neither) / (1 - neither)
    order = np.arange(full)
    first = (1 - 2 / k) ** order * (1 - 1 / k) ** (full - 1 - order)
    second = (1 - 1 / k) ** order
    same = float(first @ second / (first.sum() * second.sum()))
    return 2 * empty + empty * (empty - 1) * (1 - together) * same
