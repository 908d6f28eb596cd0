"""Checks and forms of rows, against their reference."""

import numpy as np
import pytest

from nearhash.kernels import reference
from nearhash.kernels.rows import all_within, unit_rows

SHAPES = [(0, 1), (1, 1), (1, 2), (3, 7), (5, 16), (4, 33), (2, 100), (1, 1000)]
LIMIT = np.float32(1e15)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_value_beyond_the_limit_is_found(shape):
    rows = (np.random.default_rng(0).standard_normal(shape) * 1e14).astype(np.float32)
    assert all_within(rows, LIMIT)
    beyond = np.nextafter(LIMIT, np.float32(np.inf))
    for place in np.random.default_rng(1).permutation(rows.size)[:60]:
        for value, good in [(LIMIT, True), (-LIMIT, True), (beyond, False), (-beyond, False), (np.nan, False)]:
            changed = rows.copy()
            changed.flat[place] = value
            assert all_within(changed, LIMIT) == reference.all_within(changed, LIMIT) == good
        changed.flat[place] = -np.inf
        assert not all_within(changed, LIMIT)


@pytest.mark.parametrize("scale", [1.0, 1e-22, 1e15, 1e-38])
@pytest.mark.parametrize("shape", SHAPES)
def test_unit_rows(shape, scale):
    rows = (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)
    rows[1::3] = 0
    units = np.full(shape, np.nan, np.float32)
    unit_rows(rows, units)
    np.testing.assert_allclose(units, reference.unit_rows(rows), rtol=3e-7)
    assert not units[1::3].any()
