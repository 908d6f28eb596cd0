"""How many duplicates were probably missed, and how many of those named are probably none."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.candidates import estimate, least_similarity
from nearhash.index.dedup.settings import Settings


class Rates(NamedTuple):
    """Estimates for pairs of documents, before groups are formed.

    Attributes
    ----------
    false_positive : float
        Share of the pairs taken for duplicates whose similarity is below the threshold.
    false_negative : float
        Share of the pairs at or above the threshold that were not found: never compared, or estimated too low.
    """

    false_positive: float
    false_negative: float


def estimated_rates(histogram: NDArray[np.float64], settings: Settings) -> Rates:
    """Rates from how many distinct pairs were compared at each number of agreeing slots.

    A pair whose sketches give the estimate s has a similarity of about s, with the standard error of k slots: so it
    reaches the threshold with a probability q (all similarities being as likely beforehand). It was compared with the
    probability P(s) of the S-curve, so it stands for 1 / P(s) such pairs (Horvitz and Thompson, JASA 1952).
    """
    k = settings.k
    similarity = estimate(np.arange(k + 1), k)
    errors = np.sqrt(np.maximum(similarity * (1 - similarity), 1e-12) / k)
    above = np.array(
        [
            0.5 * math.erfc((settings.threshold - s) / (e * math.sqrt(2)))
            for s, e in zip(similarity, errors, strict=True)
        ]
    )
    above[-1] = 1.0  # all slots agree
    standing_for = 1 / np.maximum(settings.collision_probability(similarity), 1 / k)
    # The share that is taken for duplicates, and the share that is and is taken.
    taken = np.ones(k + 1) if settings.verify is None else (similarity >= settings.threshold).astype(np.float64)
    right = taken * above
    if settings.verify == "exact":
        taken = right = above * (similarity >= least_similarity(settings))
    named, found = float(histogram @ taken), float(histogram @ right)
    true = float(histogram @ (above * standing_for))
    return Rates(1 - found / named if named else 0.0, max(0.0, 1 - found / true) if true else 0.0)


def similarity_shares(histogram: NDArray[np.float64], bins: int = 20) -> list[dict[str, Any]]:
    """The compared pairs by estimated similarity, in bins of one width."""
    similarity = estimate(np.arange(len(histogram)), len(histogram) - 1)
    number = np.minimum((similarity * bins).astype(np.int64), bins - 1)
    counts = np.bincount(number, histogram, bins)
    return [{"from": i / bins, "to": (i + 1) / bins, "pairs": round(float(c))} for i, c in enumerate(counts)]
