"""The search for efforts: every reachable target ends up closely bracketed, with few measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sweep import bracket, confirm, explore

TARGETS = (0.9, 0.95, 0.97, 0.99)


class Curve:
    """A rising recall that counts how often it was measured."""

    def __init__(self, half: float, ceiling: float = 1.0) -> None:
        self.half, self.ceiling = half, ceiling
        self.measured: list[int] = []

    def __call__(self, value: int) -> float:
        self.measured.append(value)
        return self.ceiling * value / (value + self.half)


@given(half=st.floats(0.01, 100))
def test_targets_are_bracketed_closely(half: float) -> None:
    curve = Curve(half)
    known = explore(curve, 10, 1 << 20, TARGETS)
    assert len(curve.measured) == len(set(curve.measured)) < 50
    for target in TARGETS:
        below, above = bracket(known, target)
        assert above is not None
        assert known[above] >= target
        if below is None:
            assert above == 10
        else:
            assert known[below] < target
            assert above - below <= 1 or above <= 1.08 * below or known[above] - known[below] <= 0.003


def test_a_ceiling_ends_the_ladder() -> None:
    curve = Curve(10, ceiling=0.96)
    known = explore(curve, 10, 1 << 30, TARGETS)
    assert max(curve.measured) < 1 << 16
    assert bracket(known, 0.99) == (max(known), None)
    assert bracket(known, 0.95)[1] is not None


def test_the_greatest_effort_is_tried_and_not_exceeded() -> None:
    curve = Curve(1000)
    explore(curve, 1, 100, TARGETS)
    assert max(curve.measured) == 100


def test_a_single_effort() -> None:
    assert explore(lambda _: 0.5, 7, 7, TARGETS) == {7: 0.5}


@pytest.mark.parametrize("start", [5, 90, 400])
def test_confirm_moves_to_the_right_side(start: int) -> None:
    curve = Curve(10)  # recall .9 from 90 on
    up = confirm(curve, start, 1, 1000, 0.9, reach=True)
    down = confirm(curve, start, 1, 1000, 0.9, reach=False)
    assert curve(up) >= 0.9
    assert curve(down) < 0.9
    assert up == start or start < 90
    assert down == start or start >= 90


def test_confirm_stops_at_the_bounds() -> None:
    assert confirm(lambda _: 0.1, 5, 1, 8, 0.9, reach=True) == 8
    assert confirm(lambda _: 0.95, 5, 3, 8, 0.9, reach=False) == 3
