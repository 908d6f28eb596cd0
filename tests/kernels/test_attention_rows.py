"""Pages of keys and values: what is written is read back, rounded as the element type says."""

import numpy as np
import pytest
from attention_pages import Pages

from nearhash.kernels import attention_rows, reference_attention
from nearhash.kernels.attention_rows import PAGE, ROWS, rows_scheme

ROUNDED = {
    "float32": lambda rows: rows,
    "float16": lambda rows: rows.astype(np.float16).astype(np.float32),
    "bfloat16": reference_attention.bfloat16,
    "int8": reference_attention.int8,
}


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("dim", [8, 72, 128])
def test_rows_are_read_back_as_rounded(dtype, dim):
    rng = np.random.default_rng(1)
    keys, values = (rng.standard_normal((PAGE + 5, dim)).astype(np.float32) for _ in range(2))
    keys[::3] *= np.float32(1e-6)  # subnormal halves
    keys[1::5] *= np.float32(1e4)
    values[7] = 0
    pages = Pages(dtype, dim, PAGE + 9)
    assert pages.write(keys[:3], values[:3], 2) == 0
    assert pages.write(keys[3:], values[3:], 5) == 0
    found = pages.read(np.arange(2, PAGE + 7))
    for rows, expected in zip(found, (keys, values), strict=True):
        np.testing.assert_array_equal(rows, ROUNDED[dtype](expected))


@pytest.mark.parametrize("dtype", ROWS)
def test_extremes_of_the_element_types(dtype):
    # Every half float and the numbers between: ties go to even, tiny ones are subnormal or zero.
    bits = np.arange(0x7C00, dtype=np.uint16)
    halves = bits.view(np.float16).astype(np.float32)
    between = (halves[:-1].astype(np.float64) + halves[1:]) / 2
    signs = np.where(np.arange(halves.size + between.size) % 2, -1, 1)
    numbers = (np.concatenate([halves, between]) * signs).astype(np.float32)
    numbers = np.concatenate([numbers, np.zeros(-numbers.size % 64, np.float32)]).reshape(-1, 64)
    pages = Pages(dtype, 64, len(numbers))
    assert pages.write(numbers, -numbers, 0) == 0
    keys, values = pages.read(np.arange(len(numbers)))
    np.testing.assert_array_equal(keys, ROUNDED[dtype](numbers))
    np.testing.assert_array_equal(values, ROUNDED[dtype](-numbers))


def test_rows_that_overflow_are_counted():
    rows = np.zeros((4, 8), np.float32)
    rows[1, 7], rows[3, 0] = 65520, -1e38
    assert Pages("float16", 8, 4).write(rows, np.zeros_like(rows), 0) == 2
    assert Pages("float32", 8, 4).write(rows, rows, 0) == 0
    assert Pages("bfloat16", 8, 4).write(np.full((1, 8), 3.4e38, np.float32), rows[:1], 0) == 1


def test_pages_of_all_types_hold_what_the_scheme_says():
    for dtype, size in {"float32": 4, "float16": 2, "bfloat16": 2}.items():
        assert attention_rows.page_bytes(rows_scheme(dtype, 80)) == PAGE * 2 * 80 * size
    assert attention_rows.page_bytes(rows_scheme("int8", 80)) == PAGE * (2 * 80 + 8)
