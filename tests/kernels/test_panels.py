"""Products with matrices in panels, and the choice of lists by them."""

import numpy as np
import pytest

from nearhash.kernels import coarse, panels, reference_lists
from nearhash.kernels.select import LARGEST
from nearhash.kernels.simd import LINE_PANELS, PRODUCT_QUERIES, PRODUCT_ROWS

NO_WINDOWS = (np.empty((0, 2)), np.empty(0), np.empty(0))


def in_panels(rows):
    filled = np.full((panels.panel_count(len(rows)), rows.shape[1], PRODUCT_ROWS), np.nan, np.float32)
    panels.fill_panels(rows, filled)
    return filled


def whole(rng, shape, most=9):
    """Whole numbers: their float32 sums are exact in any order."""
    return rng.integers(-most, most + 1, shape).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 3, 16, 100])
@pytest.mark.parametrize("rows", [1, PRODUCT_ROWS - 1, PRODUCT_ROWS, PRODUCT_ROWS * LINE_PANELS + 1, 300])
def test_products(rows, dim):
    rng = np.random.default_rng(rows + dim)
    matrix = whole(rng, (rows, dim))
    filled = in_panels(matrix)
    for count in (0, 1, PRODUCT_QUERIES - 1, PRODUCT_QUERIES, 2 * PRODUCT_QUERIES + 3):
        queries = whole(rng, (count, dim))
        out = np.full((count, len(filled) * PRODUCT_ROWS), np.nan, np.float32)
        panels.multiply(queries, filled, out)
        assert np.array_equal(out[:, :rows], queries @ matrix.T)
        assert not out[:, rows:].any()


def test_a_query_has_the_same_product_alone_as_in_a_batch():
    rng = np.random.default_rng(1)
    filled = in_panels(rng.standard_normal((400, 77)).astype(np.float32))
    queries = rng.standard_normal((2 * PRODUCT_QUERIES + 5, 77)).astype(np.float32) * np.float32(1e3)
    together = np.empty((len(queries), len(filled) * PRODUCT_ROWS), np.float32)
    panels.multiply(queries, filled, together)
    for i in range(len(queries)):
        alone = np.empty((1, together.shape[1]), np.float32)
        panels.multiply(queries[i : i + 1], filled, alone)
        assert np.array_equal(alone[0], together[i])


def nearest(queries, centroids, bias, factor, probes):
    chosen = np.full((len(queries), probes), 0xABAB, np.uint64)
    coarse.nearest_centroids(queries, in_panels(centroids), bias, np.float32(factor), *NO_WINDOWS, chosen)
    return chosen


@pytest.mark.parametrize("factor", [-1, -2])
@pytest.mark.parametrize("lists", [1, 2, 15, 16, 33, 300])
def test_nearest_centroids(lists, factor):
    rng = np.random.default_rng(lists)
    centroids = whole(rng, (lists, 6), 2)  # many ties: they go to the list of the lower number
    bias = (centroids**2).sum(axis=1) if factor == -2 else np.zeros(lists, np.float32)
    for count in (0, 1, PRODUCT_QUERIES, PRODUCT_QUERIES + 3):
        queries = whole(rng, (count, 6), 2)
        for probes in {1, 2, lists // 2, lists} - {0}:
            if probes > lists:
                continue
            chosen = nearest(queries, centroids, bias, factor, probes)
            for query in range(count):
                expected = reference_lists.nearest_centroids(queries[query], centroids, bias, factor, probes)
                assert np.sort(chosen[query]).tolist() == expected


def test_lists_of_centroids_that_are_too_far_for_float32_are_chosen_last():
    """A forged file can hold them: whatever the scores, lists that there are must come out."""
    centroids = np.zeros((20, 4), np.float32)
    centroids[:12] = 3e38
    centroids[1:4] *= -1
    bias = np.zeros(20, np.float32)
    bias[:12] = np.inf
    queries = np.array([[1e15, -1e15, 0, 1], [3e4, 3e4, 3e4, 3e4]], np.float32)
    for probes in (8, 9, 20):
        chosen = nearest(queries, centroids, bias, -2, probes)
        numbers = (chosen & np.uint64(0xFFFFFFFF)) >> np.uint64(1)
        for row in numbers.tolist():
            assert len(set(row)) == probes
            assert set(row) <= set(range(20))
            assert set(range(12, 20)) <= set(row)
    assert np.isfinite(LARGEST)


@pytest.mark.parametrize("dim", [1, 3, 20])
@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
def test_choose_spill(dim, weight):
    rng = np.random.default_rng(dim)
    centroids, vectors = whole(rng, (30, dim), 3), whole(rng, (60, dim), 3)
    vectors[0] = centroids[7]  # no residual, so no direction
    centroids[11] = centroids[12]
    first = np.array([((centroids - v) ** 2).sum(axis=1).argmin() for v in vectors], np.int32)
    near = np.array([rng.permutation(30)[:9] for _ in vectors], np.uint64)
    near[1] = first[1]  # nothing else is near
    keys = (rng.integers(0, 2**31, near.shape).astype(np.uint64) << np.uint64(32)) | (near << np.uint64(1))
    second = np.full(60, 99, np.int32)
    coarse.choose_spill(vectors, centroids, first, keys, np.float32(weight), second)
    assert second[1] == -1
    for row in range(60):
        expected = reference_lists.second_list(vectors[row], centroids, first[row], near[row].tolist(), weight)
        if second[row] != expected:  # an equal loss, but for the last digits
            losses = [
                reference_lists.second_list_loss(vectors[row], centroids, first[row], other, weight)
                for other in (second[row], expected)
            ]
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (second != first).all()


@pytest.mark.parametrize("size", [1e-18, 1e-9, 1e9, 1e12, 1e15])
def test_choose_spill_at_any_size_of_numbers(size):
    """Squares of squares would overflow or vanish: then there would be no second list."""
    rng = np.random.default_rng(3)
    centroids, vectors = rng.standard_normal((9, 5)).astype(np.float32), rng.standard_normal((40, 5)).astype(np.float32)
    first, near = np.zeros(40, np.int32), np.tile(np.arange(9, dtype=np.uint64) << np.uint64(1), (40, 1))
    expected, second = np.full(40, 99, np.int32), np.full(40, 99, np.int32)
    coarse.choose_spill(vectors, centroids, first, near, np.float32(1), expected)
    size = np.float32(2.0 ** np.round(np.log2(size)))
    coarse.choose_spill(vectors * size, centroids * size, first, near, np.float32(1), second)
    assert (expected > 0).all()
    assert np.array_equal(second, expected)


def test_no_vectors_have_no_second_list():
    coarse.choose_spill(
        np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), np.empty(0, np.int32), np.empty((0, 2), np.uint64),
        np.float32(1), np.empty(0, np.int32),
    )  # fmt: skip


def test_second_lists_of_equal_loss_go_to_the_lower_number():
    centroids = np.array([[1], [5], [5], [5]], np.float32)
    for order in ([3, 2, 1, 0], [2, 0, 3, 1], [1, 2, 3, 0]):
        keys, second = np.array([order], np.uint64) << np.uint64(1), np.full(1, 99, np.int32)
        coarse.choose_spill(np.zeros((1, 1), np.float32), centroids, np.zeros(1, np.int32), keys, np.float32(1), second)
        assert second.tolist() == [1]
