"""How a WindowIndex finds out how far to read, and what it makes of it."""

import numpy as np
import pytest
from conftest import clustered, exact_distances

import nearhash as nh
from nearhash.errors import CorruptIndexError
from nearhash.index.list_index import Expected, Plan
from nearhash.index.partition import Partition
from nearhash.index.window import calibration
from nearhash.index.window.calibration import SHARE, Calibration
from nearhash.index.window.levels import BEAM
from nearhash.kernels import reference_lists

DIM, COUNT = 24, 9000


@pytest.fixture(scope="module")
def data():
    return clustered(COUNT, 3, DIM), clustered(150, 4, DIM)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_limit_reads_the_lists_of_the_neighbours(data, metric):
    """Beside a count, list by list, of what the rule would read."""
    base, queries = data
    if metric == "cosine":
        base, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (base, queries))
    centroids = np.ascontiguousarray(base[:40])
    partition = Partition(centroids, metric)
    away = exact_distances(base, queries, metric)
    near = np.argsort(away, axis=1)[:, :11]
    homes = exact_distances(centroids, base, metric).argmin(axis=1).astype(np.int32)[near]
    farthest = np.take_along_axis(away, near[:, -1:], axis=1)[:, 0].astype(np.float32)
    limit, number = calibration._reach(partition, queries, homes, farthest)
    inside, read = [], []
    for query, own, distance in zip(queries, homes, farthest, strict=True):
        scores = partition.bias + partition.factor * (centroids @ query)
        order = np.argsort(scores, kind="stable")
        count = reference_lists.lists_in_reach(scores[order].tolist(), 1, limit * (1 + 1e-5), distance)
        read.append(count)
        inside.append(np.isin(own[1:], order[:count]).mean())
    assert np.mean(inside) >= SHARE - 1e-6
    assert abs(np.mean(inside) - SHARE) < 0.01
    assert np.mean(read) == pytest.approx(number, rel=0.02)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("codec", ["pq4", "rabitq", "lvq8"])
def test_the_default_effort_finds_most_in_every_window(data, metric, codec):
    base, queries = data
    labels = np.random.default_rng(1).permutation(COUNT)
    index = nh.WindowIndex(DIM, metric, codec=codec)
    index.add(base, labels=labels)
    away = exact_distances(base, queries, metric)
    for width in (COUNT, COUNT // 3, 900, 200):
        first = np.random.default_rng(width).integers(0, COUNT - width + 1, len(queries))
        windows = np.stack([first, first + width], axis=1)
        inside = (labels >= windows[:, :1]) & (labels < windows[:, 1:])
        truth = np.argsort(np.where(inside, away, np.inf), axis=1)[:, :10]
        found = index.search(queries, k=10, window=windows).ids
        shares = [len(set(one) & set(other)) / 10 for one, other in zip(found.tolist(), truth.tolist(), strict=True)]
        assert np.mean(shares) > 0.9
        assert np.sort(shares)[: len(shares) // 50].mean() > 0.3


def test_queries_between_the_clusters_are_answered_too():
    """Calibration asks for vectors of the index, whose neighbours are all in one list; those of others are in many."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 48)) * 2
    base = (centres[rng.integers(0, 40, 3000)] + rng.standard_normal((3000, 48))).astype(np.float32)
    others = np.random.default_rng(1).standard_normal((100, 48)).astype(np.float32) * np.float32(5**0.5)
    index = nh.WindowIndex(48)
    index.add(base, labels=np.arange(3000))
    away = exact_distances(base, others, "l2")
    for low, high in ((0, 3000), (100, 1500), (100, 800)):
        truth = low + np.argsort(away[:, low:high], axis=1)[:, :10]
        found = index.search(others, k=10, window=(low, high)).ids
        shares = [len(set(one) & set(other)) / 10 for one, other in zip(found.tolist(), truth.tolist(), strict=True)]
        assert np.mean(shares) > 0.9


def test_effort_and_scarcity_grow_what_is_read(data):
    base, _ = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT))
    counts = np.array([COUNT, COUNT // 4, 600])
    expected = Expected(counts, counts.astype(float))
    plans = [index._plan(expected, k, beam) for k, beam in ((10, BEAM), (10, 4 * BEAM), (100, BEAM))]
    assert (plans[1].wants >= 3 * plans[0].wants).all()
    assert (plans[1].limits > 2 * plans[0].limits)[np.isfinite(plans[0].limits)].all()
    assert (plans[2].wants >= 250).all()
    assert (plans[1].costs > plans[0].costs).all()
    assert (np.diff(plans[0].costs) < 0).all(), "fewer points take less time"
    assert (np.diff(plans[0].models) <= 0).all(), "fewer points are in fewer lists"


def test_calibration_does_not_depend_on_how_vectors_are_kept(data):
    base, _ = data
    found = {}
    for store in ("f32", "f16"):
        index = nh.WindowIndex(DIM, store=store)
        index.add(base)
        found[store] = index._levels.calibrations
    for one, other in zip(found["f32"], found["f16"], strict=True):
        assert one.limit == pytest.approx(other.limit, rel=0.2)
        assert one.want == pytest.approx(other.want, rel=0.3)
        assert one.want < 200
    precise = nh.WindowIndex(DIM, codec="lvq8")
    precise.add(base)
    assert max(one.want for one in precise._levels.calibrations) < 40


def test_queries_of_one_plan_are_searched_together():
    plan = Plan(
        np.array([1, 0, 1, 1]), np.array([8, 1, 8, 4]), np.ones(4, np.float32), np.array([20, 20, 20, 20]), np.ones(4)
    )
    found = [(*group[:3], group[3].tolist()) for group in plan.groups()]
    assert sorted(found) == [(0, 1, 20, [1]), (1, 4, 20, [3]), (1, 8, 20, [0, 2])]
    alone = plan.of(np.array([True, False, True, False]))
    assert [group[3].tolist() for group in alone.groups()] == [[0, 1]]
    assert plan.of(np.zeros(4, bool)).groups() == []


def test_calibrations_in_files():
    for found in (Calibration(np.inf, 20, 1.0, 100), Calibration(0.5, 300, 7.25, 60_000)):
        assert Calibration.restored(found.state()) == found
    good = Calibration(0.5, 20, 2.0, 100).state()
    bad = [None, [], {}, {**good, "more": 1}, *({**good, name: value} for name in good for value in (0, -1, "1", True))]
    for state in [*bad, {**good, "want": None}, {**good, "lists": float("nan")}, {**good, "points": 1e300}]:
        with pytest.raises(CorruptIndexError, match="calibration"):
            Calibration.restored(state)


def test_dead_points_leave_the_lists(data, tmp_path):
    base, queries = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT))
    gone = np.random.default_rng(0).permutation(COUNT)
    index.remove(gone[:500])
    assert index._segments[0].entries == COUNT, "a few may stay"
    index.remove(gone[500:3000])
    assert index._segments[0].entries == COUNT - 3000
    live = np.setdiff1d(np.arange(COUNT), gone[:3000])
    index.save(tmp_path / "x")
    away = exact_distances(base[live], queries, "l2")
    truth = live[np.argsort(away, axis=1)[:, :10]]
    for one in (index, nh.load(tmp_path / "x")):
        for allow in (None, np.arange(0, COUNT, 2)):
            found = one.search(queries, k=10, allow=allow).ids
            wanted = truth if allow is None else None
            assert np.isin(found, live).all()
            if wanted is not None:
                shares = [len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
                assert np.mean(shares) > 9
        one.add(base[gone[:2000]], labels=np.arange(2000))
        assert len(one) == COUNT - 1000
        assert (one.search(base[gone[:50]], k=1).distances[:, 0] == 0).all()
    first = index._segments[0]
    assert first.last - first.first >= first.entries
