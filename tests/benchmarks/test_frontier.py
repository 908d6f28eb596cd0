"""Speed at a recall, from points measured around it, and comparison over rounds."""

import math

import pytest

from benchmarks.comparison import Trial, compare
from benchmarks.frontier import Point, frontier, interpolated, reached

POINTS = [Point(0.99, 100), Point(0.80, 1000), Point(0.90, 400), Point(0.85, 300), Point(0.90, 350)]


def test_frontier_keeps_what_nothing_beats() -> None:
    assert frontier(POINTS) == [Point(0.80, 1000), Point(0.90, 400), Point(0.99, 100)]


def test_reached_is_the_fastest_at_or_above_the_target() -> None:
    assert reached(POINTS, 0.85) == Point(0.90, 400)
    assert reached(POINTS, 0.95) == Point(0.99, 100)
    assert reached(POINTS, 0.999) is None


def test_interpolation_is_linear_in_recall_and_log_speed() -> None:
    assert interpolated(POINTS, 0.945) == pytest.approx(math.sqrt(400 * 100))
    assert interpolated(POINTS, 0.825) == pytest.approx(1000**0.75 * 400**0.25)


def test_interpolation_at_a_point_is_that_point() -> None:
    assert interpolated(POINTS, 0.90) == 400


def test_below_the_least_recall_the_speed_is_that_of_the_fastest_point() -> None:
    assert interpolated(POINTS, 0.5) == 1000


def test_out_of_reach_is_none() -> None:
    assert interpolated(POINTS, 0.995) is None
    assert interpolated([], 0.5) is None


def test_compare_gives_the_ratio_of_medians_and_its_range() -> None:
    slow = [Trial({"ef": 10}, 0.95, [100.0, 110.0, 50.0])]
    fast = [Trial({"beam": 10}, 0.95, [220.0, 200.0, 200.0])]
    entry = compare(slow, fast, 0.95)
    assert entry["reached"] == {"effort": {"ef": 10}, "recall": 0.95, "qps": 100.0}
    assert entry["interpolated_qps"] == 100.0
    assert entry["ratio"] == 2.0
    assert entry["ratio_range"] == [pytest.approx(200 / 110), 4.0]


def test_compare_with_a_target_out_of_reach_of_either() -> None:
    low, high = [Trial({}, 0.5, [100.0])], [Trial({}, 0.99, [10.0])]
    assert compare(low, high, 0.9) == {
        "recall": 0.9,
        "reached": None,
        "interpolated_qps": None,
        "ratio": None,
        "ratio_range": None,
    }
    entry = compare(high, low, 0.9)
    assert entry["interpolated_qps"] == 10.0
    assert entry["ratio"] is None
