"""The Walsh-Hadamard transform against its NumPy specification, bit for bit, on every instruction set (test_levels)."""

import numpy as np
import pytest

from nearhash.kernels import reference_dense
from nearhash.kernels.hadamard import LARGEST_SIZE, hadamard_rows, signed_hadamard_rows

SIZES = [2**i for i in range(16)]


def rows(count: int, size: int) -> np.ndarray:
    """Values of very different magnitude: any other order of additions shows in the last bits."""
    rng = np.random.default_rng(size)
    return (rng.standard_normal((count, size)) * 10.0 ** rng.integers(-4, 5, (count, size))).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows(count: int, size: int) -> None:
    given = rows(count, size)
    expected = reference_dense.hadamard(given)
    hadamard_rows(given)
    np.testing.assert_array_equal(given.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("size", SIZES)
def test_signed_rows(size: int) -> None:
    given = rows(2, size)
    signs = np.where(np.random.default_rng(1).random(size) < 0.5, np.float32(-1), np.float32(1))
    expected = reference_dense.hadamard(given * signs)
    out = np.full((2, size), np.nan, np.float32)
    signed_hadamard_rows(given, signs, out)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))
    signed_hadamard_rows(given, signs, given)
    np.testing.assert_array_equal(given.view(np.uint32), expected.view(np.uint32))


def test_matrix_is_sylvesters() -> None:
    for size in (1, 2, 8, 64, 512):
        rounds = np.eye(size, dtype=np.float32)
        hadamard_rows(rounds)
        i = np.arange(size)
        parity = np.array([[bin(a & b).count("1") & 1 for b in i] for a in i])
        np.testing.assert_array_equal(rounds, 1 - 2.0 * parity)


def test_twice_is_the_size() -> None:
    given = np.random.default_rng(2).integers(-8, 8, (1, LARGEST_SIZE)).astype(np.float32)
    twice = given.copy()
    hadamard_rows(twice)
    hadamard_rows(twice)
    np.testing.assert_array_equal(twice, given * LARGEST_SIZE)


@pytest.mark.parametrize("size", [1, 4, 16, 256, 1024])
def test_nothing_beyond_the_rows_is_touched(size: int) -> None:
    around = np.full((4, size), 7.0, np.float32)
    inside = around[1:3]
    inside[:] = rows(2, size)
    hadamard_rows(inside)
    assert (around[[0, 3]] == 7.0).all()
