"""Errors of parts that are merged."""

import numpy as np
import pytest

from nearhash.attention import Attention, merge


def part(value, lse, error):
    numbers = (np.full((1, 4), value), np.array([lse]), np.array([error]))
    output, sums, errors = (array.astype(np.float32) for array in numbers)
    return Attention(output, sums, np.array([1]), errors)


def test_errors_add_up_in_squares_by_the_shares_of_their_parts():
    found = merge(part(2.0, np.log(3), 0.1), part(1.0, 0.0, 0.4))
    assert found.output == pytest.approx(np.full((1, 4), 1.75))
    assert found.error == pytest.approx(np.hypot(0.1 * 2 * 0.75, 0.4 * 1 * 0.25) / 1.75)


def test_an_error_that_is_not_known_stays_so():
    assert np.isnan(merge(part(1.0, 0.0, np.nan), part(1.0, 0.0, 0.1)).error).all()
    assert merge(part(0.0, -np.inf, np.nan), part(1.0, 0.0, 0.1)).error == pytest.approx(0.1)
    assert merge(part(0.0, -np.inf, 0.0), part(0.0, -np.inf, 0.0)).error.tolist() == [0]
    assert np.isinf(merge(part(2.0, 0.0, 0.5), part(-2.0, 0.0, 0.5)).error).all()
    assert merge(part(2.0, 0.0, 0.0), part(-2.0, 0.0, 0.0)).error.tolist() == [0]
