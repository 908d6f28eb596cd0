"""What a search returns, for every index and metric."""

import numpy as np
import pytest
from conftest import DIM, KINDS, METRICS, clustered, effort, exact_distances, make, recall

import nearhash as nh
from nearhash.errors import InvalidArgumentError

# A half keeps 11 bits, two levels keep 12 of the range of a vector.
TOLERANCE = {"flat-f16": 2e-2, "ivf-f16": 2e-2, "window-f16": 2e-2, "graph-lvq4x8": 2e-2}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_nearest_with_their_exact_distances(built, base, queries, kind, metric):
    away = exact_distances(base, queries, metric)
    truth = np.argsort(away, axis=1, kind="stable")[:, :10]
    hits = built(kind, metric).search(queries, k=10, **effort(kind))
    assert hits.ids.shape == hits.distances.shape == (40, 10)
    assert hits.ids.dtype == np.int64
    assert hits.distances.dtype == np.float32
    assert (np.diff(hits.distances, axis=1) >= 0).all()
    assert recall(hits.ids, truth) >= (0.97 if kind != "flat" else 1.0)
    np.testing.assert_allclose(
        hits.distances,
        np.take_along_axis(away, hits.ids, axis=1),
        rtol=TOLERANCE.get(kind, 2e-5),
        atol=TOLERANCE.get(kind, 2e-5),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_threads_and_batching_do_not_change_results(built, queries, kind, metric):
    index = built(kind, metric)
    whole = index.search(queries, k=7, threads=1)
    for threads in (2, 5):
        again = index.search(queries, k=7, threads=threads)
        assert np.array_equal(again.ids, whole.ids)
        assert np.array_equal(again.distances, whole.distances)
    for i in (0, 17):
        single = index.search(queries[i], k=7)
        assert np.array_equal(single.ids, whole.ids[i : i + 1])
        assert np.array_equal(single.distances, whole.distances[i : i + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_more_wanted_than_there_is(built, queries, kind):
    hits = built(kind).search(queries[:2], k=1600)
    assert (np.sort(hits.ids[:, :1500], axis=1) == np.arange(1500)).all(), "k = n returns everything"
    assert (hits.ids[:, 1500:] == -1).all()
    assert np.isinf(hits.distances[:, 1500:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_index_and_empty_batch(built, kind):
    hits = make(kind).search(np.zeros(DIM), k=3)
    assert hits.ids.tolist() == [[-1, -1, -1]]
    assert np.isinf(hits.distances).all()
    for empty in (np.empty((0, DIM), np.float32), []):
        hits = built(kind).search(empty, k=3)
        assert hits.ids.shape == hits.distances.shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [0, 1, 3, 9, 60, 400, 1100, 1500])
def test_windows_return_all_they_can(built, base, queries, labels, kind, metric, width, threads):
    """min(k, matches) results at every width, from the scan, the widened walk and the plain walk."""
    index = built(kind, metric)
    low = 200.0 if width < 1300 else 0.0
    inside = np.flatnonzero((labels >= low) & (labels < low + width))
    hits = index.search(queries, k=10, window=(low, low + width), threads=threads, **effort(kind))
    assert ((hits.ids >= 0).sum(axis=1) == min(10, width)).all()
    assert set(hits.ids[hits.ids >= 0].tolist()) <= set(inside.tolist())
    if width:
        away = exact_distances(base[inside], queries, metric)
        truth = inside[np.argsort(away, axis=1, kind="stable")[:, :10]]
        assert recall(hits.ids, truth) >= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_for_each_query(built, base, queries, labels, kind):
    rng = np.random.default_rng(0)
    windows = np.sort(rng.integers(0, 1500, (40, 2)), axis=1).astype(np.float64)
    windows[0], windows[1], windows[2] = (-np.inf, np.inf), (-np.inf, 7), (1490, np.inf)
    hits = built(kind).search(queries, k=10, window=windows)
    for i, (low, high) in enumerate(windows):
        inside = np.flatnonzero((labels >= low) & (labels < high))
        found = hits.ids[i][hits.ids[i] >= 0]
        assert len(found) == min(10, len(inside))
        assert set(found.tolist()) <= set(inside.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_half_open_and_labels_may_repeat(kind):
    index = make(kind)
    index.add(clustered(40, 3), labels=np.repeat([1.0, 2.0, 3.0, -np.inf], 10))
    assert set(index.search(clustered(1, 4), k=40, window=(1, 2)).ids[0].tolist()) == {*range(10), -1}
    assert set(index.search(clustered(1, 4), k=40, window=(2, 2)).ids[0].tolist()) == {-1}
    assert set(index.search(clustered(1, 4), k=40, window=(-np.inf, 2)).ids[0].tolist()) == {
        *range(10),
        *range(30, 40),
        -1,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_without_labels_match_no_window(kind):
    index = make(kind)
    index.add(clustered(10, 3))
    everywhere = (-np.inf, np.inf)
    assert (index.search(clustered(1, 4), k=5, window=everywhere).ids == -1).all()
    index.add(clustered(10, 5), labels=np.arange(10))
    index.add(clustered(10, 6))
    assert set(index.search(clustered(1, 4), k=30, window=everywhere).ids[0].tolist()) == {*range(10, 20), -1}


@pytest.mark.parametrize("kind", KINDS)
def test_allow_as_mask_and_as_ids(built, base, queries, labels, kind):
    index = built(kind)
    rng = np.random.default_rng(0)
    for share in (0.003, 0.2, 0.9):
        mask = rng.random(1500) < share
        allowed = np.flatnonzero(mask)
        by_mask = index.search(queries, k=10, allow=mask)
        by_ids = index.search(queries, k=10, allow=allowed)
        assert np.array_equal(by_mask.ids, by_ids.ids)
        assert set(by_ids.ids[by_ids.ids >= 0].tolist()) <= set(allowed.tolist())
        assert ((by_ids.ids >= 0).sum(axis=1) == min(10, len(allowed))).all()
        truth = allowed[np.argsort(exact_distances(base[allowed], queries, "l2"), axis=1)[:, :10]]
        assert recall(by_ids.ids, truth) >= 0.95
        both = index.search(queries, k=10, allow=mask, window=(0, 300))
        assert ((both.ids >= 0).sum(axis=1) == min(10, (mask & (labels < 300)).sum())).all()


@pytest.mark.parametrize("kind", KINDS)
def test_allow_is_forgiving_about_ids_that_are_not_there(built, queries, kind):
    index = built(kind)
    hits = index.search(queries[:1], k=5, allow=[7, 7, 10**12, -5, 8])
    assert set(hits.ids[0].tolist()) == {7, 8, -1}
    assert (index.search(queries[:1], k=5, allow=[]).ids == -1).all()
    assert (index.search(queries[:1], k=5, allow=np.zeros(0, bool)).ids == -1).all()
    assert set(index.search(queries[:1], k=5, allow=np.ones(2, bool)).ids[0].tolist()) == {0, 1, -1}


def test_window_far_from_the_query_falls_back_to_the_scan():
    """The nearest 2,000 of 4,000 vectors do not match: a walk that only filters its pool would come back empty."""
    rng = np.random.default_rng(0)
    near = rng.standard_normal((2000, 8)).astype(np.float32)
    index = nh.GraphIndex(8, "l2", degree=8, build_beam=24)
    index.add(np.concatenate([near, near + 100]), labels=np.repeat([0.0, 1.0], 2000))
    hits = index.search(near[:20], k=10, window=(1, 2), beam=10)
    assert (hits.ids >= 2000).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", None, True, np.nan])
def test_bad_k(built, queries, kind, bad):
    with pytest.raises(InvalidArgumentError, match="k: expected"):
        built(kind).search(queries, k=bad)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_filters(built, queries, kind):
    index = built(kind)
    for window, message in [
        ((3, 2), "lo <= hi"),
        ((np.nan, 2), "NaN"),
        ((1, 2, 3), "shape"),
        (np.zeros((3, 2)), "shape"),
        (("a", "b"), "numbers"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            index.search(queries, window=window)
    for allow in ([0.5], ["a"], np.zeros((2, 2), int), 2**70):
        with pytest.raises(InvalidArgumentError, match="allow"):
            index.search(queries, allow=allow)
    for threads in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="threads"):
            index.search(queries, threads=threads)
    with pytest.raises(TypeError):
        index.search(queries, no_such_effort=3)


@pytest.mark.parametrize("bad", [0, -3, 1.5, None, "many"])
def test_bad_beam(built, queries, bad):
    with pytest.raises(InvalidArgumentError, match="beam"):
        built("graph-lvq8").search(queries, beam=bad)


@pytest.mark.parametrize("kind", KINDS)
def test_ties_go_to_the_vector_added_first(kind):
    index = make(kind)
    index.add(np.repeat(clustered(3, 0), 4, axis=0), ids=np.arange(12)[::-1])
    hits = index.search(clustered(1, 0), k=4, **effort(kind))
    assert hits.ids.tolist() == [[11, 10, 9, 8]]
    assert (hits.distances == hits.distances[0, 0]).all()
