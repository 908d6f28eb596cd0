"""Vector kernels against their NumPy references, on every instruction set that this machine has (see test_levels)."""

import numba
import numpy as np
import pytest

from nearhash.kernels import reference, simd

DIMS = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 784, 1000]
FLOAT_ROWS = ["float32", "float16", "uint8", "int8"]


@numba.njit
def each_dot(query, rows, dim, out):
    for i in range(out.shape[0]):
        out[i] = simd.dot(simd.pointer(query, 0), simd.pointer(rows, i * dim), dim)


@numba.njit
def each_l2(query, rows, dim, out):
    for i in range(out.shape[0]):
        out[i] = simd.squared_l2(simd.pointer(query, 0), simd.pointer(rows, i * dim), dim)


@numba.njit
def each_integer_dot(query, rows, dim, out):
    for i in range(out.shape[0]):
        out[i] = simd.integer_dot(simd.pointer(query, 0), simd.pointer(rows, i * dim), dim)


@numba.njit
def each_integer_l2(query, rows, dim, out):
    for i in range(out.shape[0]):
        out[i] = simd.integer_squared_l2(simd.pointer(query, 0), simd.pointer(rows, i * dim), dim)


@numba.njit
def each_codes(query, rows, dim, out):
    for i in range(out.shape[0]):
        out[i] = simd.dot_codes(simd.pointer(rows, i * dim), simd.pointer(query, 0), dim)


@numba.njit
def below(dots, bias, scale, threshold):
    return simd.any_below(simd.pointer(dots, 0), simd.pointer(bias, 0), scale, threshold)


@numba.njit
def shift(array, count):
    simd.shift_right(simd.pointer(array, 0), count)


@numba.njit
def touch(array, position):
    simd.prefetch(simd.offset(simd.pointer(array, 0), position))


def rows_of(dtype, count, dim, rng):
    """Rows that end exactly at the end of their allocation, half of them extreme values."""
    if dtype.startswith("float"):
        rows = rng.standard_normal((count, dim)).astype(dtype)
        rows[::3] *= np.asarray(6e-8 if dtype == "float16" else 1e-20, dtype)  # subnormal halves, tiny floats
        rows[1::3] = np.asarray(60000 if dtype == "float16" else 1e15, dtype) * np.sign(rows[1::3])
        return rows
    limits = np.iinfo(dtype)
    rows = rng.integers(limits.min, limits.max + 1, (count, dim)).astype(dtype)
    rows[0], rows[1] = limits.min, limits.max
    return rows


def as_kernel(rows):
    return rows.view(np.uint16) if rows.dtype == np.float16 else rows


@pytest.mark.parametrize("dtype", FLOAT_ROWS)
@pytest.mark.parametrize(("kernel", "specification"), [(each_dot, reference.dot), (each_l2, reference.squared_l2)])
def test_float_query(kernel, specification, dtype):
    rng = np.random.default_rng(1)
    for dim in DIMS:
        rows = rows_of(dtype, 9, dim, rng)
        query = rng.standard_normal(dim).astype(np.float32)
        out = np.full(9, np.nan, np.float32)
        kernel(query, as_kernel(rows), dim, out)
        expected = np.array([specification(query, row) for row in rows])
        # The error of a float32 sum is relative to the sum of magnitudes, not to the result.
        magnitude = np.array([specification(np.abs(query), -np.abs(row.astype(np.float64))) for row in rows])
        np.testing.assert_array_less(np.abs(out - expected), 1e-5 * np.abs(magnitude) + 1e-30, err_msg=f"dim {dim}")


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("kernel", "specification"),
    [(each_integer_dot, reference.integer_dot), (each_integer_l2, reference.integer_squared_l2)],
)
def test_integers_are_exact(kernel, specification, dtype):
    rng = np.random.default_rng(2)
    limits = np.iinfo(dtype)
    for dim in [*DIMS, 32768]:
        rows = rows_of(dtype, 5, dim, rng)
        for query in (rows[0].copy(), rows[1].copy(), rng.integers(limits.min, limits.max + 1, dim).astype(dtype)):
            out = np.full(5, -7, np.int32)
            kernel(query, rows, dim, out)
            assert out.tolist() == [specification(query, row) for row in rows], f"dim {dim}"


def test_codes_are_exact_at_their_extremes():
    rng = np.random.default_rng(3)
    for dim in (64, 128, 832, 32768):
        rows = rows_of("uint8", 5, dim, rng)
        for query in (
            np.full(dim, -128, np.int8),
            np.full(dim, 127, np.int8),
            rng.integers(-128, 128, dim).astype(np.int8),
        ):
            out = np.full(5, -7, np.int32)
            each_codes(query, rows, dim, out)
            assert out.tolist() == [reference.integer_dot(query, row) for row in rows]


def test_empty_rows_measure_nothing():
    out = np.empty(0, np.float32)
    each_dot(np.empty(0, np.float32), np.empty((0, 0), np.float32), 0, out)
    out = np.full(2, np.nan, np.float32)
    each_l2(np.empty(1, np.float32), np.empty((2, 1), np.float32), 0, out)
    assert out.tolist() == [0, 0]


def test_rows_are_not_read_beyond_their_end():
    # The NaN after each row would show in the result.
    for dim in DIMS:
        rows = np.full((4, dim + 1), np.nan, np.float32)
        rows[:, :dim] = 1
        for i in range(4):
            out = np.full(1, np.nan, np.float32)
            each_dot(np.ones(dim, np.float32), rows[i], dim, out)
            assert out[0] == dim


@pytest.mark.parametrize("place", [0, 15, 16, 40, 63])
def test_any_below_sees_every_lane(place):
    dots, bias = np.zeros(64, np.float32), np.full(64, 5, np.float32)
    assert not below(dots, bias, np.float32(-2), np.float32(1))
    dots[place] = 2
    assert below(dots, bias, np.float32(-2), np.float32(1))  # 5 - 2 * 2 = 1: the threshold itself counts
    assert not below(dots, bias, np.float32(-2), np.float32(0.99))


def test_shift_right_moves_exactly_count():
    for count in range(12):
        array = np.arange(16, dtype=np.uint64)
        shift(array, count)
        assert array.tolist() == [0, *range(count), *range(count + 1, 16)]


def test_prefetch_takes_any_address():
    array = np.zeros(8, np.float32)
    touch(array, 0)
    touch(array, 1 << 40)  # far outside: a hint, never a fault
