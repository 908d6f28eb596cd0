"""Selection by counting against sorting: exact sets, whatever the numbers."""

import numpy as np
import pytest

from nearhash.kernels import coarse, reference_lists, select, simd
from nearhash.kernels.jit import jit
from nearhash.kernels.simd import pointer

POISON = np.uint64(0xDEADBEEF)
SIZES = [0, 1, 2, 7, 8, 15, 16, 17, 31, 64, 65, 200, 1000]


@jit
def keep(keys, size, want, most):
    return select.keep_least(pointer(keys, 0), size, want, most)


@jit
def collect(scores, numbers, size, want, keys):
    return select.collect_least(pointer(scores, 0), pointer(numbers, 0), size, want, pointer(keys, 0))


@jit
def lead(keys, size, want):
    coarse.lead_least(pointer(keys, 0), size, want)


@jit
def count_floats(values, size, bound):
    return simd.count_floats(pointer(values, 0), size, bound)


@jit
def count_keys(values, size, bound):
    return simd.count_keys(pointer(values, 0), size, bound)


@jit
def float_ends(values, size):
    return simd.least_float(pointer(values, 0), size), simd.greatest_float(pointer(values, 0), size)


@jit
def key_ends(values, size):
    return simd.least_key(pointer(values, 0), size), simd.greatest_key(pointer(values, 0), size)


def key_sets(size, rng):
    """Distinct keys: spread, all close together, at both ends of uint64, and in order."""
    spread = rng.integers(0, 2**64, size, np.uint64)
    yield np.unique(spread)[rng.permutation(len(np.unique(spread)))]
    yield np.uint64(2**63) + rng.permutation(size).astype(np.uint64)
    ends = np.arange(size, dtype=np.uint64)
    ends[::2] = np.uint64(2**64 - 1) - ends[::2]
    yield rng.permutation(ends)
    yield np.arange(size, dtype=np.uint64)


@pytest.mark.parametrize("size", SIZES)
def test_keep_least(size):
    rng = np.random.default_rng(size)
    for keys in key_sets(size, rng):
        for want in {1, 2, size // 2, size - 1, size, size + 1, 3 * size + 5} - {0, -1}:
            for most in (want, want + (want >> 2), want + 7):
                held = np.full(size + 8, POISON)
                held[:size] = keys
                kept = keep(held, size, want, most)
                assert min(size, want) <= kept <= min(size, most)
                last = np.sort(keys)[kept - 1 : kept]
                assert np.array_equal(held[:kept], keys[keys <= last]), "the least, in their order"
                assert (held[size:] == POISON).all()


def test_keep_least_of_keys_that_stand_twice():
    """A spilled vector can have the same score in both lists: no key that is wanted may be lost."""
    keys = np.repeat(np.random.default_rng(0).permutation(40).astype(np.uint64), 2)
    for want in (1, 2, 3, 40, 79):
        held = keys.copy()
        kept = keep(held, 80, want, want)
        assert want <= kept <= want + 1
        assert np.sort(held[:kept]).tolist() == np.sort(keys)[:kept].tolist()


def score_sets(size, rng):
    normal = rng.standard_normal(size).astype(np.float32)
    yield normal
    yield np.round(normal)  # many ties
    yield np.zeros(size, np.float32)
    yield np.where(normal > 0.5, np.float32(3.4e38), -np.abs(normal) * np.float32(5e37))
    outlier = normal.copy()
    outlier[size // 3 : size // 3 + 1] = -1e30  # bisection by value finds nothing in 24 steps
    yield outlier
    far = normal.copy()
    far[1::4] = -np.inf
    yield far
    yield np.linspace(-1, 1, size, dtype=np.float32) * np.float32(1e-42)


@pytest.mark.parametrize("size", SIZES)
def test_collect_least(size):
    rng = np.random.default_rng(size)
    padded = -(-size // 16) * 16
    numbers = np.arange(padded + 16, dtype=np.int32)
    for scores in score_sets(size, rng):
        held = np.full(padded + 1, np.inf, np.float32)
        held[:size], held[padded] = scores, -np.inf
        for want in {1, 2, 5, size // 2, size - 1, size, size + 1, 2 * size + 3} - {0, -1}:
            keys = np.full(size + 24, POISON)
            found = collect(held, numbers, size, want, keys)
            expected = reference_lists.least_keys(scores, numbers[:size], want)
            assert np.sort(keys[:found]).tolist() == expected, (size, want)
            assert (keys[size + 16 :] == POISON).all()


@pytest.mark.parametrize("size", [size for size in SIZES if size])
def test_lead_least(size):
    rng = np.random.default_rng(size)
    for keys in key_sets(size, rng):
        for want in {1, min(2, size), max(1, size // 2), max(1, size - 1), size}:
            held = np.concatenate([keys, [POISON]])
            lead(held, size, want)
            assert np.array_equal(np.sort(held[:want]), np.sort(keys)[:want])
            assert np.array_equal(np.sort(held[:size]), np.sort(keys)), "none is lost"
            assert held[size] == POISON


@pytest.mark.parametrize("size", SIZES)
def test_counts_and_ends(size):
    rng = np.random.default_rng(size)
    floats = np.append(rng.integers(-9, 9, size).astype(np.float32), np.float32(-np.inf))
    keys = np.append(rng.integers(0, 2**64, size, np.uint64), np.uint64(0))
    for bound in (-10, -3, 0, 4, 9, np.inf, -np.inf, np.nan):
        assert count_floats(floats, size, np.float32(bound)) == (floats[:size] <= np.float32(bound)).sum()
    for bound in [0, 2**63, 2**64 - 1, *keys[:2].tolist()]:
        assert count_keys(keys, size, np.uint64(bound)) == (keys[:size] <= np.uint64(bound)).sum()
    if size:
        assert float_ends(floats, size) == (floats[:size].min(), floats[:size].max())
        assert key_ends(keys, size) == (keys[:size].min(), keys[:size].max())


def test_a_nan_is_in_no_count():
    floats = np.array([np.nan, 1, np.nan] * 30, np.float32)
    assert count_floats(floats, 90, np.float32(np.inf)) == 30
