"""Attention over pages against its reference, on every instruction set (see test_levels)."""

import itertools

import numba
import numpy as np
import pytest
from attention_pages import Pages

from nearhash.kernels import attention, reference_attention, simd_softmax
from nearhash.kernels.attention_rows import PAGE, ROWS
from nearhash.kernels.features import LEVEL, available_levels
from nearhash.kernels.simd import pointer
from nearhash.kernels.simd_attention import BLOCK

# Compiling takes most of the time: under another level than the best, one type; reading all is in test_attention_rows.
DTYPES = list(ROWS) if available_levels()[0] == LEVEL else ["float32"]
SHAPES = [(8, 1), (64, 4), (72, 3), (80, 5), (128, 4), (256, 16)]


@numba.njit
def powers(values, top, scale):
    return simd_softmax.exponentials(pointer(values, 0), values.shape[0], top, scale)


@numba.njit
def fold_all(scores):
    """Replace each row of scores by its weights."""
    for row in range(scores.shape[0]):
        state = np.full((simd_softmax.STATE, simd_softmax.QUERIES), simd_softmax.LOWEST, np.float32)
        simd_softmax.fold_scores(pointer(scores, row * BLOCK), pointer(state, 0))


def scene(rng, dtype, dim, group, count, spread=1.0):
    """Queries, pages, and keys and values as they are read back."""
    keys, values = (rng.standard_normal((count, dim)).astype(np.float32) for _ in range(2))
    queries = (rng.standard_normal((group, dim)) * spread / np.sqrt(dim)).astype(np.float32)
    return queries, *Pages.of(dtype, keys, values)


def dense(queries, pages, first, last):
    out, lse = np.full(queries.shape, np.nan, np.float32), np.full(len(queries), np.nan, np.float32)
    attention.attend_dense(pages.rows, queries, pages.addresses, first, last, out, lse)
    return out, lse


def check(found, expected, bound=2e-6):
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=bound, atol=bound)


def arguments():
    """Numbers from -88 to 0, whole blocks of scores, each led by 0."""
    rng = np.random.default_rng(0)
    values = np.concatenate([-np.geomspace(1e-10, 87.3, 40000), -rng.uniform(0, 88, 40000), [-87.33, -87.34]])
    values = np.concatenate([values, np.full(-values.size % (BLOCK - 1), -1.0)]).reshape(-1, BLOCK - 1)
    return np.concatenate([np.zeros((len(values), 1)), values], axis=1).astype(np.float32)


def test_exponentials_of_scores_are_within_two_ulp():
    values = arguments()
    exact = np.exp(values.astype(np.float64))
    found = values.copy()
    fold_all(found)
    normal = exact >= 2.0**-126
    ulp = np.spacing(exact[normal].astype(np.float32)).astype(np.float64)
    assert np.abs((found[normal] - exact[normal]) / ulp).max() < 2
    assert (found[~normal] == 0).all()


def test_exponentials_of_weights_are_near():
    for scale in (0.25, 1.0, 3.0):
        found = arguments().ravel()
        exact = np.exp(found.astype(np.float64) * scale)
        total = powers(found, np.float32(0), np.float32(scale))
        large = exact >= 2.0**-125
        assert np.abs(found[large] / exact[large] - 1).max() < 2e-5
        assert (found[exact < 2.0**-127] == 0).all()
        assert total == pytest.approx(exact.sum(), rel=1e-5)


def test_exponentials_of_what_is_no_difference():
    values = np.full(16, -np.inf, np.float32)
    values[:5] = 3, 4, np.inf, np.nan, 2
    assert powers(values, np.float32(3), np.float32(0.5)) == pytest.approx(4 + np.exp(-0.5), rel=1e-5)
    assert values[:4].tolist() == [1, 1, 1, 1]
    assert (values[5:] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dim", "group"), SHAPES)
def test_dense_is_softmax_attention(dtype, dim, group):
    rng = np.random.default_rng(dim)
    for count in (1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * PAGE + 77):
        queries, pages, keys, values = scene(rng, dtype, dim, group, count)
        check(dense(queries, pages, 0, count), reference_attention.attend(queries, keys, values))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_of_a_range_and_of_nothing(dtype):
    rng = np.random.default_rng(1)
    queries, pages, keys, values = scene(rng, dtype, 64, 3, 600)
    for first, last in ((0, 600), (1, 2), (250, 260), (255, 513), (599, 600)):
        expected = reference_attention.attend(queries, keys[first:last], values[first:last])
        check(dense(queries, pages, first, last), expected)
    for place in (0, 300):
        out, lse = dense(queries, pages, place, place)
        assert (out == 0).all()
        assert (lse == -np.inf).all()


def test_dense_of_no_pages():
    out, lse = dense(np.ones((2, 64), np.float32), Pages("float32", 64, 0), 0, 0)
    assert (out == 0).all()
    assert (lse == -np.inf).all()


def test_dense_with_huge_scores():
    rng = np.random.default_rng(2)
    for scale in (1e3, 1e17):
        queries, pages, keys, values = scene(rng, "float32", 64, 4, 300, scale)
        if scale > 1e10:
            keys *= np.float32(1e17)
            pages.write(keys, values, 0)
        out, lse = dense(queries, pages, 0, 300)
        expected, level = reference_attention.attend(queries, keys, values)
        np.testing.assert_allclose(lse, level, rtol=1e-5)
        # A score's own rounding error decides among close ones: only clear winners are compared.
        logits = np.sort(queries.astype(np.float64) @ keys.T.astype(np.float64), axis=1)
        clear = logits[:, -1] - logits[:, -2] > 1e-5 * np.abs(logits[:, -1]) + 20
        assert clear.sum() >= 2
        np.testing.assert_allclose(out[clear], expected[clear], rtol=1e-4, atol=1e-5)


def test_scores_that_overflow_downwards_count_nothing():
    rng = np.random.default_rng(3)
    queries, pages, keys, values = scene(rng, "float32", 16, 2, 100)
    queries[:] = 1e30
    keys[:] = -1e30
    pages.write(keys, values, 0)
    out, lse = dense(queries, pages, 0, 100)
    assert (out == 0).all()
    assert (lse == -np.inf).all()
    keys[41] = 0
    pages.write(keys, values, 0)
    out, lse = dense(queries, pages, 0, 100)
    assert (out == values[41]).all()
    assert (lse == 0).all()


def test_weights_of_very_many_tokens():
    rng = np.random.default_rng(4)
    queries, pages, keys, values = scene(rng, "float32", 64, 4, 60000, 3.0)
    out, lse = dense(queries, pages, 0, 60000)
    expected, level = reference_attention.attend(queries, keys, values)
    assert np.linalg.norm(out - expected) < 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(lse, level, atol=1e-5)


def test_merge_of_parts_is_the_whole():
    rng = np.random.default_rng(5)
    queries, pages, keys, values = scene(rng, "float32", 80, 5, 700, 4.0)
    cuts = [0, 0, 10, 300, 300, 699, 700]
    parts = [dense(queries, pages, *cut) for cut in itertools.pairwise(cuts)]
    outputs, lses = (np.stack([part[i] for part in parts]) for i in range(2))
    out, lse = np.full((5, 80), np.nan, np.float32), np.full(5, np.nan, np.float32)
    attention.merge(outputs, lses, out, lse)
    check((out, lse), reference_attention.merge(outputs, lses))
    check((out, lse), reference_attention.attend(queries, keys, values))
    attention.merge(outputs[:1], lses[:1], out, lse)  # no tokens at all
    assert (out == 0).all()
    assert (lse == -np.inf).all()


def sampled(queries, pages, positions, probabilities):
    """Output, log-sum-exp and moments of one part."""
    group, dim = queries.shape
    out, lse = np.full((group, dim), np.nan, np.float32), np.full(group, np.nan, np.float32)
    moments = np.full((group, dim + 2), np.nan, np.float32)
    positions, probabilities = np.asarray(positions, np.int32), np.asarray(probabilities, np.float32)
    attention.attend_tokens(pages.rows, queries, pages.addresses, positions, probabilities, out, lse, moments)
    return out, lse, moments


def merged(parts):
    out, lse = np.full(parts[0][0].shape, np.nan, np.float32), np.full(len(parts[0][1]), np.nan, np.float32)
    variance = np.full(len(lse), np.nan, np.float32)
    attention.merge_samples(*(np.stack([part[i] for part in parts]) for i in range(3)), out, lse, variance)
    return out, lse, variance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dim", "group"), SHAPES)
def test_sample_gives_the_estimates_of_horvitz_and_thompson(dtype, dim, group):
    rng = np.random.default_rng(dim)
    queries, pages, keys, values = scene(rng, dtype, dim, group, 2 * PAGE + 77, 3.0)
    values += np.float32(0.5)
    pages.write(keys, values, 0)
    keys, values = pages.read(np.arange(len(keys)))
    for count in (1, BLOCK, BLOCK + 1, 300):
        positions = np.sort(rng.choice(len(keys), count, replace=False))
        probabilities = rng.uniform(1e-3, 1.3, count).clip(max=1).astype(np.float32)
        probabilities[: count // 3] = 1
        found = merged([sampled(queries, pages, positions, probabilities)])
        expected = reference_attention.attend_sample(queries, keys[positions], values[positions], probabilities)
        check(found[:2], expected[:2], 1e-5)
        # The variance is a difference of sums: its error is relative to these.
        logits = queries.astype(np.float64) @ keys[positions].T
        shares = np.exp(logits - expected[1][:, None]) / probabilities
        spread = ((1 - probabilities) * shares**2).sum(axis=1)
        bound = 1e-5 * spread * (values.astype(np.float64) ** 2).sum(axis=1).max() + 1e-12
        assert (np.abs(found[2] - expected[2]) < bound).all()


def test_sample_of_all_tokens_is_dense():
    rng = np.random.default_rng(6)
    queries, pages, _, _ = scene(rng, "float32", 64, 4, 300, 3.0)
    found = merged([sampled(queries, pages, np.arange(300), np.ones(300))])
    check(found[:2], dense(queries, pages, 0, 300))
    assert (found[2] == 0).all()


def test_sample_of_nothing():
    pages = Pages("float32", 64, 300)
    out, lse, variance = merged([sampled(np.ones((3, 64), np.float32), pages, [], [])] * 2)
    assert (out == 0).all()
    assert (lse == -np.inf).all()
    assert (variance == 0).all()


def test_parts_of_a_sample_merge_to_the_whole():
    rng = np.random.default_rng(7)
    queries, pages, keys, values = scene(rng, DTYPES[-1], 80, 5, 900, 3.0)
    positions = np.sort(rng.choice(900, 500, replace=False))
    probabilities = rng.uniform(0.01, 1, 500).astype(np.float32)
    cuts = [0, 0, 100, 101, 500]
    parts = [sampled(queries, pages, positions[a:b], probabilities[a:b]) for a, b in itertools.pairwise(cuts)]
    expected = reference_attention.attend_sample(queries, keys[positions], values[positions], probabilities)
    for found, wanted in zip(merged(parts), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_sample_with_one_winner_far_above():
    rng = np.random.default_rng(8)
    queries, pages, keys, values = scene(rng, "float32", 64, 2, 200)
    keys[150] = queries[0] * 1e4
    pages.write(keys, values, 0)
    probabilities = np.full(200, 0.25, np.float32)
    found = merged([sampled(queries, pages, np.arange(200), probabilities)])
    expected = reference_attention.attend_sample(queries, keys, values, probabilities)
    check(found[:2], expected[:2], 1e-5)
    assert found[2][0] == pytest.approx(0, abs=1e-6)
