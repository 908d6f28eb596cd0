"""Throughput at a given recall, from points measured at several efforts."""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Point(NamedTuple):
    """Recall reached and queries per second, at one effort."""

    recall: float
    qps: float


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both recall and speed, by rising recall (and falling speed)."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall, -p.qps)):
        if not best or point.qps > best[-1].qps:
            best.append(point)
    return best[::-1]


def reached(points: Iterable[Point], target: float) -> Point | None:
    """The fastest point whose recall is at least `target`."""
    return max((p for p in points if p.recall >= target), key=lambda p: (p.qps, p.recall), default=None)


def interpolated(points: Iterable[Point], target: float) -> float | None:
    """Queries per second at exactly `target`: linear in recall and in log(QPS) between the points on either side.

    Where even the fastest point exceeds the target, that point's speed; None where none reaches it.
    """
    line = frontier(points)
    above = next((i for i, p in enumerate(line) if p.recall >= target), None)
    if above is None:
        return None
    right = line[above]
    if above == 0 or right.recall == target:
        return right.qps
    left = line[above - 1]
    share = (target - left.recall) / (right.recall - left.recall)
    return math.exp((1 - share) * math.log(left.qps) + share * math.log(right.qps))
