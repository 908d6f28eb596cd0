"""Speed of an index at given recalls, and the subject's advantage over it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.frontier import Point, interpolated, reached


@dataclass
class Trial:
    """One effort, the recall it has, and the queries per second it had in each round."""

    effort: dict[str, int]
    recall: float
    qps: list[float] = field(default_factory=list)

    @property
    def point(self) -> Point:
        return Point(self.recall, median(self.qps))


def compare(trials: Sequence[Trial], subject: Sequence[Trial], target: float) -> dict[str, Any]:
    """Speed at one recall.

    Returns
    -------
    dict
        ``reached``: the fastest effort measured whose recall is at least the target, with its recall and QPS.
        ``interpolated_qps``: at exactly the target. ``ratio``: the subject's interpolated QPS over this index's, each
        the median over the rounds. ``ratio_range``: least and greatest ratio within a round. All None where the
        target is out of reach.
    """
    points = [trial.point for trial in trials]
    best = reached(points, target)
    own, theirs = _by_round(trials, target), _by_round(subject, target)
    comparable = own is not None and theirs is not None
    ratios = [b / a for a, b in zip(own or [], theirs or [], strict=True)] if comparable else []
    return {
        "recall": target,
        "reached": None if best is None else _describe(trials[points.index(best)]),
        "interpolated_qps": interpolated(points, target),
        "ratio": median(theirs or []) / median(own or []) if ratios else None,
        "ratio_range": [min(ratios), max(ratios)] if ratios else None,
    }


def _by_round(trials: Sequence[Trial], target: float) -> list[float] | None:
    """Interpolated QPS in each round, or None where the target is out of reach."""
    rounds = len(trials[0].qps)
    speeds = [interpolated([Point(t.recall, t.qps[r]) for t in trials], target) for r in range(rounds)]
    return None if None in speeds else [speed for speed in speeds if speed is not None]


def _describe(trial: Trial) -> dict[str, Any]:
    return {"effort": trial.effort, "recall": trial.recall, "qps": trial.point.qps}
