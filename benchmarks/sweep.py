"""The search for efforts that bracket given recalls."""

import math
from collections.abc import Callable, Sequence

LEAST_GAIN = 0.0005  # of recall by doubling the effort; below it the ladder ends
NARROW_EFFORT = 1.08
NARROW_RECALL = 0.003


def explore(recall_at: Callable[[int], float], low: int, high: int, targets: Sequence[float]) -> dict[int, float]:
    """Recall by effort: a ladder of doubled efforts, then bisection until each target is closely bracketed.

    Parameters
    ----------
    recall_at : callable
        Measures the recall at one effort; called once for each.
    low, high : int
        Least and greatest effort.
    targets : recalls
        Those out of reach are left open above.
    """
    known: dict[int, float] = {}
    value = low
    while True:
        known[value] = recall_at(value)
        gained = known[value] - known.get(value // 2, 0.0) if value > low else 1.0
        if value >= high or known[value] >= max(targets) or gained < LEAST_GAIN:
            break
        value = min(high, 2 * value)
    for target in targets:
        while (middle := _next(known, target)) is not None:
            known[middle] = recall_at(middle)
    return known


def bracket(known: dict[int, float], target: float) -> tuple[int | None, int | None]:
    """The greatest effort below the target and the least that reaches it; None where there is none."""
    above = min((value for value, recall in known.items() if recall >= target), default=None)
    below = max((value for value in known if above is None or value < above), default=None)
    return below, above


def _next(known: dict[int, float], target: float) -> int | None:
    below, above = bracket(known, target)
    if below is None or above is None or above - below <= 1:
        return None
    if above <= below * NARROW_EFFORT or known[above] - known[below] <= NARROW_RECALL:
        return None
    return min(above - 1, max(below + 1, round(math.sqrt(below * above))))


def confirm(recall_at: Callable[[int], float], value: int, low: int, high: int, target: float, reach: bool) -> int:
    """Move an effort that was found on a sample until it stands on its side of the target on all queries too.

    With `reach` the effort rises until recall is at least the target, without it falls until recall is below.
    """
    while reach and value < high and recall_at(value) < target:
        value = min(high, max(value + 1, round(value * 1.04)))
    while not reach and value > low and recall_at(value) >= target:
        value = max(low, min(value - 1, round(value / 1.04)))
    return value
