"""Exact scans against sorting all distances, with every kind of filter."""

import numpy as np
import pytest

from nearhash.kernels import product, reference, scan
from nearhash.kernels.pool import EMPTY_KEY
from nearhash.kernels.simd import PRODUCT_QUERIES

NO_FACTORS = np.empty(0, np.float32)


def problem(seed, dim=20, count=700, queries=9):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-3, 4, (count, dim)).astype(np.float32)  # exact sums, many ties
    asked = rng.integers(-3, 4, (queries, dim)).astype(np.float32)
    labels = rng.integers(0, 50, count).astype(np.float64)
    labels[::7] = np.nan
    windows = np.sort(rng.integers(0, 50, (queries, 2)), axis=1).astype(np.float64)
    windows[0] = -np.inf, np.inf
    windows[1:2] = 5, 5
    mask = (rng.random(count) < 0.5).astype(np.uint8)
    return rows, asked, mask, labels, windows


def truth(rows, query, allowed, k, metric):
    away = np.array([reference.squared_l2(query, r) if metric == scan.L2 else -reference.dot(query, r) for r in rows])
    slots = np.flatnonzero(allowed)
    return slots[reference.nearest(away[slots].astype(np.float32), k)], away


def allowed_rows(rows, query, mask, labels, windows):
    allowed = np.ones(len(rows), bool) if not len(mask) else mask.astype(bool)
    if len(windows):
        allowed = allowed & (labels >= windows[query, 0]) & (labels < windows[query, 1])
    return allowed


FILTERS = ["none", "mask", "window", "both"]


def chosen(kind, mask, labels, windows):
    return (
        mask if kind in ("mask", "both") else np.empty(0, np.uint8),
        labels if kind in ("window", "both") else np.empty(0),
        windows if kind in ("window", "both") else np.empty((0, 2)),
    )


def pools(queries, k):
    return np.full((queries, k), EMPTY_KEY), np.zeros(queries, np.int64)


def unpacked(keys, sizes):
    slots, distances = np.full(keys.shape, 99, np.int32), np.full(keys.shape, np.nan, np.float32)
    scan.unpack_pools(keys, sizes, slots, distances)
    return slots, distances


@pytest.mark.parametrize("metric", [scan.L2, scan.DOT])
@pytest.mark.parametrize("kind", FILTERS)
def test_scan_rows(kind, metric):
    rows, asked, *parts = problem(metric)
    filters = chosen(kind, *parts)
    offset = np.float32(0)
    whole, sizes = pools(len(asked), 12)
    for first, last in ((0, 1), (1, 300), (300, 300), (300, 700)):
        scan.scan_rows(asked, rows, first, last, metric, offset, NO_FACTORS, *filters, whole, sizes)
    found, distances = unpacked(whole, sizes)
    for query in range(len(asked)):
        allowed = allowed_rows(rows, query, *filters)
        expected, away = truth(rows, asked[query], allowed, 12, metric)
        assert found[query][: len(expected)].tolist() == expected.tolist()
        assert np.array_equal(distances[query][: len(expected)], away[expected].astype(np.float32))
        assert (found[query][len(expected) :] == -1).all()


@pytest.mark.parametrize("metric", [scan.L2, scan.DOT])
@pytest.mark.parametrize("masked", [False, True])
def test_scan_spans(masked, metric):
    """Slots in no order, of which each query has a range of its own: none, one, a few more than are asked for ahead."""
    rows, asked, mask, _, _ = problem(metric)
    slots = np.random.default_rng(0).permutation(700).astype(np.int32)
    spans = np.array([(5, 5), (0, 1), (690, 700), (30, 38), (0, 700), (100, 109), (700, 700)])
    spans = spans[np.arange(len(asked)) % len(spans)]
    keys, sizes = pools(len(asked), 12)
    own_mask = mask if masked else np.empty(0, np.uint8)
    scan.scan_spans(asked, rows, slots, spans, metric, np.float32(0), NO_FACTORS, own_mask, keys, sizes)
    found, distances = unpacked(keys, sizes)
    again, again_sizes = np.full_like(keys, 0xDEAD), np.full_like(sizes, -9)
    scan.pack_pools(found, distances, again, again_sizes)
    assert again_sizes.tolist() == sizes.tolist()
    assert all((again[query, :size] == keys[query, :size]).all() for query, size in enumerate(sizes))
    for query, (first, last) in enumerate(spans):
        allowed = np.zeros(700, bool)
        allowed[slots[first:last]] = True
        expected, away = truth(rows, asked[query], allowed & (mask > 0 if masked else True), 12, metric)
        assert found[query][: len(expected)].tolist() == expected.tolist()
        assert np.array_equal(distances[query][: len(expected)], away[expected].astype(np.float32))
        assert (found[query][len(expected) :] == -1).all()


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("metric", [scan.L2, scan.DOT])
@pytest.mark.parametrize("dim", [1, 20, 65])
@pytest.mark.parametrize(("count", "asking"), [(1, 1), (63, 5), (64, 12), (255, 13), (256, 24), (701, 9)])
def test_select_by_product(kind, metric, dim, count, asking):
    rows, asked, *parts = problem(5, dim=dim, count=count, queries=asking)
    filters = chosen(kind, *parts)
    queries = np.full((-(-asking // PRODUCT_QUERIES) * PRODUCT_QUERIES, dim), np.nan, np.float32)
    queries[:asking] = asked  # what the others are must not matter
    keys, sizes = pools(asking, 9)
    longest = product.select_by_product(queries, asking, rows, 0, metric, *filters, keys, sizes)
    assert longest == np.sqrt((rows**2).sum(axis=1).max())
    found, scores = unpacked(keys, sizes)
    for query in range(asking):
        expected, away = truth(rows, asked[query], allowed_rows(rows, query, *filters), 9, metric)
        assert found[query][: len(expected)].tolist() == expected.tolist()
        assert (found[query][len(expected) :] == -1).all()
        shift = (asked[query] ** 2).sum() if metric == scan.L2 else 0
        assert np.array_equal(scores[query][: len(expected)], (away[expected] - shift).astype(np.float32))


def test_product_of_no_rows():
    keys, sizes = pools(1, 3)
    empty = np.empty(0, np.uint8), np.empty(0), np.empty((0, 2))
    queries = np.ones((PRODUCT_QUERIES, 4), np.float32)
    assert product.select_by_product(queries, 1, np.empty((0, 4), np.float32), 0, scan.L2, *empty, keys, sizes) == 0
    assert sizes.tolist() == [0]


def test_factors_and_offset_make_a_cosine():
    rng = np.random.default_rng(3)
    rows = rng.integers(1, 255, (50, 33)).astype(np.uint8)
    query = rng.standard_normal((1, 33)).astype(np.float32)
    query /= np.linalg.norm(query)
    factors = (1 / np.linalg.norm(rows.astype(np.float64), axis=1)).astype(np.float32)
    keys, sizes = pools(1, 50)
    empty = np.empty(0, np.uint8), np.empty(0), np.empty((0, 2))
    scan.scan_rows(query, rows, 0, 50, scan.DOT, np.float32(1), factors, *empty, keys, sizes)
    slots, distances = unpacked(keys, sizes)
    expected = 1 - (rows @ query[0].astype(np.float64)) * factors
    np.testing.assert_allclose(distances[0], expected[slots[0]], atol=1e-6)
    assert (np.diff(distances[0]) >= 0).all()


def test_radius_fills_outputs_and_goes_on():
    rows, asked, mask, labels, windows = problem(8)
    radius = np.float32(100)
    for query in range(2):
        expected = [i for i in range(len(rows)) if mask[i] and reference.squared_l2(asked[query], rows[i]) <= radius]
        found, row = [], 0
        while row < len(rows):
            slots, distances = np.full(7, -9, np.int32), np.full(7, np.nan, np.float32)
            row, count = scan.scan_radius(
                asked, query, rows, row, scan.L2, np.float32(0), NO_FACTORS, mask, labels, np.empty((0, 2)), radius,
                slots, distances,
            )  # fmt: skip
            found += slots[:count].tolist()
        assert found == expected
    assert len(windows)
