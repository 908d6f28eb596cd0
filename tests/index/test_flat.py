"""What only FlatIndex has: stored types, range search, the matrix product."""

import numpy as np
import pytest
from conftest import DIM, METRICS, clustered, exact_distances

import nearhash as nh
from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.index import exact

INTEGERS = ["int8", "uint8"]


def whole_numbers(dtype, count, seed):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, (count, DIM)).astype(dtype)


@pytest.mark.parametrize("queries", [3, 60])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_stored_as_they_are(dtype, metric, queries):
    base, asked = whole_numbers(dtype, 500, 0), whole_numbers(dtype, queries, 1)
    index = nh.FlatIndex(DIM, metric, dtype=dtype)
    index.add(base.astype(np.float64))
    assert index.nbytes < 500 * (DIM + 24)
    away = exact_distances(base, asked, metric)
    for form in (asked, asked.astype(np.float32)):
        hits = index.search(form, k=10)
        np.testing.assert_allclose(hits.distances, np.sort(away, axis=1)[:, :10], rtol=1e-6, atol=1e-6)
    if metric != "cosine":
        assert np.array_equal(index.search(asked, k=10).distances, np.sort(away, axis=1)[:, :10].astype(np.float32))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_storage_takes_nothing_that_it_would_change(dtype):
    index = nh.FlatIndex(2, dtype=dtype)
    for bad in ([[0.5, 0]], [[300, 0]], [[-200, 0]], [[np.nan, 0]]):
        with pytest.raises(InvalidArgumentError, match="vectors"):
            index.add(bad)
    assert len(index) == 0
    with pytest.raises(DtypeError, match="whole numbers"):
        index.add([[1.5, 2]])


def test_float16_refuses_what_overflows():
    index = nh.FlatIndex(2, dtype="float16")
    with pytest.raises(InvalidArgumentError, match="65504"):
        index.add([[1e5, 0]])
    index.add([[65504.0, 6e-8]])
    assert index.vectors([0]).tolist() == [[65504.0, np.float32(np.float16(6e-8))]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shift", [0, 1000])
def test_matrix_product_and_scan_give_the_same(metric, shift, monkeypatch):
    """Also far from the origin, where |x|^2 - 2 <q, x> has few digits left for the difference."""
    base, asked = clustered(3000, 0) + shift, clustered(64, 1) + shift
    index = nh.FlatIndex(DIM, metric)
    index.add(base)
    product = index.search(asked, k=20)
    monkeypatch.setattr(exact, "PRODUCT_BATCH", 10**9)
    scan = index.search(asked, k=20)
    assert np.array_equal(product.distances, scan.distances)
    assert np.array_equal(product.ids, scan.ids)


def test_matrix_product_proves_its_answers_or_scans(monkeypatch):
    """Sorted out by the error bound: near the origin no query needs the scan, far from it all do."""
    scanned = []
    scan = exact._search_scan
    monkeypatch.setattr(
        exact, "_search_scan", lambda queries, *rest: scanned.append(len(queries)) or scan(queries, *rest)
    )
    for shift, expected in ((0, []), (1e4, [64])):
        index = nh.FlatIndex(DIM)
        index.add(clustered(3000, 0) + shift)
        scanned.clear()
        index.search(clustered(64, 1) + shift, k=10)
        assert scanned == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("metric", METRICS)
def test_range_search_finds_all_within_the_radius(built, base, queries, labels, metric, threads):
    index = built("flat", metric)
    away = exact_distances(base, queries, metric)
    radius = float(np.quantile(away, 0.02))
    hits = index.range_search(queries, radius, threads=threads)
    assert hits.indptr.shape == (41,)
    assert hits.indptr[-1] == len(hits.ids) == len(hits.distances)
    for i in range(40):
        found, distances = (part[hits.indptr[i] : hits.indptr[i + 1]] for part in (hits.ids, hits.distances))
        # Points within rounding of the radius may fall on either side.
        assert set(np.flatnonzero(away[i] < radius - 1e-3).tolist()) <= set(found.tolist())
        assert set(found.tolist()) <= set(np.flatnonzero(away[i] <= radius + 1e-3).tolist())
        assert (np.diff(distances) >= 0).all()
    window = index.range_search(queries, np.inf, window=(10, 300), allow=np.arange(700))
    expected = np.flatnonzero((labels >= 10) & (labels < 300) & (np.arange(1500) < 700))
    for i in range(40):
        assert np.array_equal(np.sort(window.ids[window.indptr[i] : window.indptr[i + 1]]), expected)


def test_range_search_includes_its_radius_and_may_find_nothing():
    index = nh.FlatIndex(1)
    index.add([[0], [1], [2], [3]])
    assert index.range_search([[1.0]], 1.0).ids.tolist() == [1, 0, 2]
    assert index.range_search([[1.0], [9.0]], -1.0).indptr.tolist() == [0, 0, 0]
    assert nh.FlatIndex(1).range_search([[1.0]], 5).ids.tolist() == []
    assert index.range_search(np.empty((0, 1)), 5).indptr.tolist() == [0]
    for radius in (np.nan, None, "1"):
        with pytest.raises(InvalidArgumentError, match="radius"):
            index.range_search([[1.0]], radius)


def test_memory_of_removed_vectors_comes_back():
    index = nh.FlatIndex(DIM)
    index.add(clustered(1000, 0))
    before = index.nbytes
    index.remove(np.arange(900))
    assert index.nbytes < before / 5
    assert index.info()["deleted"] == 0
