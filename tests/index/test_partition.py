"""Training of centroids, and which lists vectors belong to."""

import numpy as np
import pytest
from conftest import clustered, exact_distances
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearhash.index import partition as partition_module
from nearhash.index.partition import Partition, default_lists, divide, draw_sample, train_centroids
from nearhash.kernels import reference_lists

DIM = 6


def sizes_of(centroids, vectors, metric="l2"):
    return np.bincount(Partition(centroids, metric).assign(vectors, 2), minlength=len(centroids))


def distortion(centroids, vectors):
    return exact_distances(centroids, vectors, "l2").min(axis=1).mean()


@pytest.fixture
def two_levels(monkeypatch):
    monkeypatch.setattr(partition_module, "FLAT_LISTS", 8)


def test_default_lists():
    assert [default_lists(n) for n in (1, 2, 3, 100, 10_000, 10**6)] == [1, 2, 3, 25, 250, 2500]


def test_a_sample_is_distinct_rows_in_random_order():
    rows = draw_sample(1000, 300, 7, 0)
    assert len(np.unique(rows)) == len(rows) == 300
    assert rows.min() >= 0
    assert rows.max() < 1000
    assert (np.diff(rows) < 0).any()
    assert np.array_equal(rows, draw_sample(1000, 300, 7, 0))
    assert not np.array_equal(rows, draw_sample(1000, 300, 7, 1))
    assert not np.array_equal(rows, draw_sample(1000, 300, 8, 0))
    assert np.array_equal(np.sort(draw_sample(50, 300, 0, 0)), np.arange(50))


def test_every_seed_draws_a_sample_of_its_own():
    """Beyond 2**63 too, where NumPy would make floats of a list of Python integers."""
    seeds = [0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    assert len({draw_sample(50, 50, seed, 0).tobytes() for seed in seeds}) == len(seeds)


@settings(max_examples=300, deadline=None)
@given(sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=30), part=st.floats(0, 1))
@example(sizes=[0, 0, 0], part=0)
@example(sizes=[1, 1, 1, 1], part=1)
@example(sizes=[3, 0, 10**6, 3], part=1e-6)
def test_divide(sizes, part):
    sizes, total = np.array(sizes), int(part * sum(sizes))
    shares = divide(sizes, total)
    assert shares.sum() == total
    assert (shares >= 0).all()
    assert (shares <= sizes).all()
    exact = sizes * (total / max(1, sizes.sum()))
    assert (np.abs(shares - exact) <= 1 + 1e-6).all(), "in proportion"


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_training_is_the_same_at_any_number_of_threads(monkeypatch, spherical, levels):
    if levels == 2:
        monkeypatch.setattr(partition_module, "FLAT_LISTS", 8)
    sample = clustered(3000, 0, dim=DIM)
    first, *others = [train_centroids(sample, 40, spherical, 5, threads) for threads in (1, 2, 5)]
    assert first.shape == (40, DIM)
    assert first.dtype == np.float32
    assert all(np.array_equal(first, other) for other in others)
    assert not np.array_equal(first, train_centroids(sample, 40, spherical, 6, 2))
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-4)


def test_faiss_keeps_its_own_number_of_threads():
    import faiss

    before = faiss.omp_get_max_threads()
    train_centroids(clustered(50, 0, dim=DIM), 3, False, 0, before + 3)
    assert faiss.omp_get_max_threads() == before


def test_two_levels_are_about_as_good_as_one(two_levels):
    sample = clustered(4000, 0, dim=DIM)
    calls = []
    nested = train_centroids(sample, 50, False, 0, 2, lambda: calls.append(1))
    assert len(calls) == round(50**0.5)
    flat = partition_module._k_means(sample, 50, False, 0)
    assert distortion(nested, sample) < 1.15 * distortion(flat, sample)
    assert (sizes_of(nested, sample) > 0).all()
    assert sizes_of(nested, sample).max() < 5 * 4000 / 50


@pytest.mark.parametrize("lists", [1, 7, 30])
@pytest.mark.parametrize("levels", [1, 2])
def test_samples_without_structure(monkeypatch, lists, levels):
    """As many lists as vectors, and copies of one vector: no centroid may be lost or not a number."""
    if levels == 2:
        monkeypatch.setattr(partition_module, "FLAT_LISTS", 4)
    for sample in (clustered(lists, 0, dim=DIM), np.ones((50, DIM), np.float32), np.zeros((50, DIM), np.float32)):
        for spherical in (False, True):
            centroids = train_centroids(sample, lists, spherical, 0, 2)
            assert centroids.shape == (lists, DIM)
            assert np.isfinite(centroids).all()
            assert sizes_of(centroids, sample).sum() == len(sample)
    few = clustered(lists, 0, dim=DIM)
    assert distortion(train_centroids(few, lists, False, 0, 1), few) < 1e-3 * distortion(few[:1], few) + 1e-6


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_vectors_belong_to_the_nearest_centroid(metric):
    vectors, centroids = clustered(700, 1, dim=DIM), clustered(90, 2, dim=DIM)
    own = Partition(centroids, metric).assign(vectors, 2)
    # Under inner product too: a query's list has the vectors that are near each other.
    cosines = vectors.astype(float) @ centroids.T
    away = -cosines if metric == "cosine" else exact_distances(centroids, vectors, "l2")
    assert own.dtype == np.int32
    np.testing.assert_allclose(away[np.arange(700), own], away.min(axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_queries_read_the_lists_of_the_nearest_centroids(metric):
    queries, centroids = clustered(20, 1, dim=DIM), clustered(90, 2, dim=DIM)
    partition = Partition(centroids, metric)
    keys = partition.nearest(queries, 9)
    away = -(queries.astype(float) @ centroids.T)
    if metric == "l2":
        away = exact_distances(centroids, queries, "l2") - (queries.astype(float) ** 2).sum(axis=1)[:, None]
    for row, distances in zip(keys, away, strict=True):
        numbers = ((row & np.uint64(0xFFFFFFFF)) >> np.uint64(1)).astype(int)
        assert set(numbers.tolist()) == set(np.argsort(distances)[:9].tolist())
        scores = [reference_lists.key_distance(key) for key in row.tolist()]
        np.testing.assert_allclose(scores, distances[numbers], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("lists", [2, 3, 40])
def test_second_lists_have_the_least_loss_of_soar(metric, lists):
    vectors, centroids = clustered(200, 1, dim=DIM), clustered(lists, 2, dim=DIM)
    partition = Partition(centroids, metric)
    first, second = partition.assign_twice(vectors, 1.0, 2)
    assert np.array_equal(first, partition.assign(vectors, 1))
    assert (first != second).all()
    assert second.min() >= 0
    away = exact_distances(centroids, vectors, "l2")
    for vector, home, chosen, distances in zip(vectors, first, second, away, strict=True):
        near = np.argsort(distances, kind="stable")[:16].tolist()
        expected = reference_lists.second_list(vector, centroids, home, near, 1.0)
        losses = [reference_lists.second_list_loss(vector, centroids, home, n, 1.0) for n in (chosen, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_second_lists_are_nearer_across_than_along():
    """What SOAR is for: where one list is missed, the other residual should not point the same way."""
    vectors = clustered(1500, 1, dim=24)
    partition = Partition(clustered(60, 2, dim=24), "l2")
    angles = []
    for weight in (0.0, 4.0):
        first, second = partition.assign_twice(vectors, weight, 2)
        residuals = [vectors - partition.centroids[own] for own in (first, second)]
        lengths = [np.linalg.norm(r, axis=1) for r in residuals]
        angles.append(np.abs(np.einsum("ij,ij->i", *residuals) / (lengths[0] * lengths[1])).mean())
    assert angles[1] < angles[0] - 0.02


def test_one_list_and_no_vectors():
    partition = Partition(np.ones((1, DIM), np.float32), "l2")
    first, second = partition.assign_twice(np.zeros((3, DIM), np.float32), 1.0, 2)
    assert first.tolist() == [0, 0, 0]
    assert second.tolist() == [-1, -1, -1]
    assert partition.lists == 1
    assert partition.assign(np.empty((0, DIM), np.float32), 2).tolist() == []
    assert partition.nearest(np.empty((0, DIM), np.float32), 1).shape == (0, 1)


def test_assignment_is_the_same_at_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(partition_module, "_CHUNK", 37)
    vectors, partition = clustered(1000, 3, dim=DIM), Partition(clustered(70, 2, dim=DIM), "ip")
    expected = partition.assign_twice(vectors, 1.0, 1)
    for threads in (2, 5):
        for found, wanted in zip(partition.assign_twice(vectors, 1.0, threads), expected, strict=True):
            assert np.array_equal(found, wanted)
