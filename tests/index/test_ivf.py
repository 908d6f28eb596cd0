"""What only IVFIndex has: training, lists, codecs, spilling, drift. The contract of all indexes is in other files."""

import numpy as np
import pytest
from conftest import DIM, METRICS, clustered, exact_distances, recall
from hostile import extreme

import nearhash as nh
from nearhash import where
from nearhash.errors import CorruptIndexError, DimensionError, DtypeError, InvalidArgumentError, NotTrainedError
from nearhash.index import list_index
from nearhash.index.codecs import CODECS
from nearhash.index.storage import read_file, write_file

ALL_CODECS = ["pq4", *CODECS]
COUNT = 3000
# Recall@10 with a quarter of the lists and 60 candidates, the others reach .95.
EXPECTED = {"rabitq": 0.85, "pq8": 0.88}


@pytest.fixture(scope="module")
def vectors():
    return clustered(COUNT, 0)


@pytest.fixture(scope="module")
def asked():
    return clustered(60, 1)


@pytest.fixture(scope="module")
def truth(vectors, asked):
    """truth(metric): ids of the 10 nearest, sorted by distance."""
    known = {}

    def get(metric):
        if metric not in known:
            known[metric] = np.argsort(exact_distances(vectors, asked, metric), axis=1, kind="stable")[:, :10]
        return known[metric]

    return get


@pytest.fixture(scope="module")
def index_of(vectors):
    """index_of(metric, ...): an index with labels and attributes, made once."""
    made = {}

    def get(metric="l2", **options):
        key = metric, *sorted(options.items())
        if key not in made:
            index = nh.IVFIndex(DIM, metric, seed=3, **options)
            index.add(vectors, labels=np.arange(COUNT) % 1000, attributes={"part": np.arange(COUNT) % 7})
            made[key] = index
        return made[key]

    return get


def always_by_lists(monkeypatch):
    """Filters are answered from the lists, even where measuring all that is left would be cheaper."""
    monkeypatch.setattr(nh.IVFIndex, "_lists_cost", lambda self, probes, rerank: np.full(np.shape(probes), -1.0))


def lists_of(index):
    return index.info()["trained_lists"]


# --- search ---


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codec", ALL_CODECS)
def test_every_codec_and_metric(index_of, truth, asked, vectors, codec, metric):
    index = index_of(metric, codec=codec)
    hits = index.search(asked, k=10, probes=32, rerank=60)
    assert recall(hits.ids, truth(metric)) >= EXPECTED.get(codec, 0.95)
    away = exact_distances(vectors, asked, metric)
    np.testing.assert_allclose(hits.distances, np.take_along_axis(away, hits.ids, axis=1), rtol=2e-5, atol=2e-5)
    single = index.search(asked[7], k=10, probes=32, rerank=60)
    assert np.array_equal(single.ids[0], hits.ids[7])
    assert np.array_equal(single.distances[0], hits.distances[7])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spill", [False, True])
def test_all_lists_and_all_candidates_are_exact(index_of, truth, asked, metric, spill):
    index = index_of(metric, spill=spill)
    hits = index.search(asked, k=10, probes=10**6, rerank=(1 + spill) * COUNT)
    assert np.array_equal(hits.ids, truth(metric))


@pytest.mark.parametrize("spill", [False, True])
def test_recall_grows_with_probes_and_with_rerank(index_of, truth, asked, spill):
    index, wanted = index_of("l2", spill=spill), truth("l2")
    by_probes = [recall(index.search(asked, k=10, probes=p, rerank=COUNT).ids, wanted) for p in (1, 4, 16, 200)]
    by_rerank = [recall(index.search(asked, k=10, probes=200, rerank=r).ids, wanted) for r in (1, 20, 50, 300)]
    for got in (by_probes, by_rerank):
        assert got == sorted(got)
        assert got[0] < 0.95
        assert got[-1] > 0.99
    few = index.search(asked, k=10, probes=200, rerank=1)
    assert (few.ids >= 0).all(), "at least k are measured"


def test_spilling_finds_more_in_as_many_lists(index_of, truth, asked):
    found = {
        spill: recall(index_of("l2", spill=spill).search(asked, k=10, probes=3, rerank=300).ids, truth("l2"))
        for spill in (False, True)
    }
    assert found[True] > found[False] + 0.02


def test_vectors_that_are_in_two_lists_leave_room_for_k(index_of, asked, monkeypatch):
    """Else most searches with few candidates would be answered by an exact scan."""
    monkeypatch.setattr(list_index, "exact_search", None)
    hits = index_of("l2", spill=True).search(asked, k=10, probes=30, rerank=1)
    assert (hits.ids >= 0).all()


@pytest.mark.parametrize("codec", ["pq4", "lvq8", "rabitq"])
def test_no_vector_is_found_twice(index_of, asked, codec):
    hits = index_of("l2", codec=codec, spill=True).search(asked, k=200, probes=60, rerank=500)
    for ids in hits.ids.tolist():
        found = [i for i in ids if i >= 0]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("codec", ["pq4", "lvq8", "rabitq"])
@pytest.mark.parametrize("spill", [False, True])
def test_filters_of_any_selectivity(index_of, vectors, asked, monkeypatch, codec, spill):
    """Through the lists, not by measuring what is left: as many as there are, and nearly the nearest."""
    always_by_lists(monkeypatch)
    index = index_of("l2", codec=codec, spill=spill)
    labels, parts = np.arange(COUNT) % 1000, np.arange(COUNT) % 7
    rng = np.random.default_rng(0)
    away = exact_distances(vectors, asked, "l2")
    for width in (1000, 400, 60, 9, 1, 0):
        inside = (labels >= 100) & (labels < 100 + width) if width < 1000 else np.ones(COUNT, bool)
        window = (100, 100 + width) if width < 1000 else (-np.inf, np.inf)
        mask = rng.random(COUNT) < width / 1000
        cases = [
            ({"window": window}, inside),
            ({"allow": mask}, mask),
            ({"where": where.range("part", 1, 3)}, (parts == 1) | (parts == 2)),
            ({"window": window, "allow": ~mask, "where": where.eq("part", 3)}, inside & ~mask & (parts == 3)),
            ({"window": window, "where": where.eq("part", 3)}, inside & (parts == 3)),
            ({"allow": mask, "where": where.eq("part", 3)}, mask & (parts == 3)),
        ]
        for arguments, passing in cases:
            slots = np.flatnonzero(passing)
            hits = index.search(asked, k=10, probes=24, rerank=60, **arguments)
            assert ((hits.ids >= 0).sum(axis=1) == min(10, len(slots))).all(), arguments
            assert np.isin(hits.ids, [-1, *slots.tolist()]).all()
            if len(slots):
                wanted = slots[np.argsort(away[:, slots], axis=1, kind="stable")[:, :10]]
                assert recall(hits.ids, wanted) >= (0.85 if codec == "rabitq" else 0.9), (arguments, len(slots))


def test_a_window_for_each_query(index_of, vectors, asked, monkeypatch):
    always_by_lists(monkeypatch)
    labels = np.arange(COUNT) % 1000
    windows = np.sort(np.random.default_rng(0).integers(0, 1000, (60, 2)), axis=1).astype(np.float64)
    windows[0], windows[1] = (-np.inf, np.inf), (5, 5)
    for codec in ("pq4", "lvq8"):
        index = index_of("cosine", codec=codec)
        whole = index.search(asked, k=10, window=windows)
        for i, (low, high) in enumerate(windows):
            inside = np.flatnonzero((labels >= low) & (labels < high))
            found = whole.ids[i][whole.ids[i] >= 0]
            assert len(found) == min(10, len(inside))
            assert set(found.tolist()) <= set(inside.tolist())


@pytest.mark.parametrize("codec", ["pq4", "rabitq", "f16"])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_loaded_index_answers_as_before(index_of, asked, tmp_path, codec, mmap):
    index = index_of("ip", codec=codec, spill=True)
    index.save(tmp_path / "x")
    again = nh.load(tmp_path / "x", mmap=mmap)
    assert again.info() | {"nbytes": 0} == index.info() | {"nbytes": 0}
    for arguments in ({}, {"window": (5, 600)}, {"where": where.eq("part", 2)}, {"allow": np.arange(0, COUNT, 3)}):
        mine, theirs = (i.search(asked, k=10, probes=9, **arguments) for i in (index, again))
        assert np.array_equal(mine.ids, theirs.ids)
        assert np.array_equal(mine.distances, theirs.distances)
    assert again.drift() == index.drift()
    again.save(tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("options", [{"codec": "pq4", "spill": True}, {"codec": "rabitq"}, {"codec": "lvq8"}])
def test_extreme_contents_do_not_lead_a_scan_astray(tmp_path, monkeypatch, options):
    """Files with all checksums right: refused, or searched in their lists without leaving the arrays."""
    always_by_lists(monkeypatch)
    index = nh.IVFIndex(6, "l2", lists=9, **options)
    index.add(clustered(150, 0, dim=6), labels=np.arange(150) % 40, attributes={"part": np.arange(150) % 3})
    index.remove([11])
    index.save(tmp_path / "x")
    header, tensors = read_file(tmp_path / "x", mmap=False)
    queries, more = clustered(5, 1, dim=6), clustered(4, 2, dim=6)
    refused = set()
    for description, other_header, other_tensors in extreme(header, tensors):
        write_file(tmp_path / "x", other_header, other_tensors)
        try:
            index = nh.load(tmp_path / "x", mmap=False)
        except CorruptIndexError:
            refused.add(description)
            continue
        known = [*index.ids.tolist(), -1]
        for arguments in ({}, {"window": (3, 30)}, {"allow": np.arange(0, 150, 2)}, {"where": where.eq("part", 1)}):
            hits = index.search(queries, k=3, probes=6, rerank=9, **arguments)
            assert np.isin(hits.ids, known).all(), description
        index.add(more, ids=range(9001, 9005), labels=np.arange(4), attributes={"part": np.arange(4)})
        assert np.isin(index.search(more, k=3, probes=2).ids, [*known, *range(9001, 9005)]).all(), description
    for tensor in ("centroids", "origin", "radius"):
        for value in (np.nan, np.inf, -np.inf):
            assert {f"tensor '{tensor}': {where_} {value}" for where_ in ("first", "last", "everywhere")} <= refused
    for value in (np.iinfo(np.int32).min, np.iinfo(np.int32).max, len(tensors["slots"])):
        assert {f"tensor 'slots': {where_} {value}" for where_ in ("first", "last", "everywhere")} <= refused


# --- change ---


@pytest.mark.parametrize("options", [{}, {"spill": True}, {"codec": "lvq8", "metric": "ip"}, {"codec": "rabitq"}])
def test_same_bytes_at_any_thread_count(tmp_path, options):
    files = []
    for threads in (1, 2, 5):
        index = nh.IVFIndex(DIM, seed=9, threads=threads, **{"metric": "l2", **options})
        index.add(clustered(900, 0))
        index.add(clustered(90, 1), labels=np.arange(90))
        index.remove([3, 920])
        index.add(clustered(1, 2))
        index.save(tmp_path / "x")
        files.append((tmp_path / "x").read_bytes())
    assert files[0] == files[1] == files[2]
    other = nh.IVFIndex(DIM, seed=10, **{"metric": "l2", **options})
    other.add(clustered(900, 0))
    assert not np.array_equal(other._model.partition.centroids, index._model.partition.centroids)


@pytest.mark.parametrize("spill", [False, True])
def test_many_small_additions_are_as_good_as_one(index_of, vectors, asked, truth, spill):
    whole = index_of("l2", spill=spill)
    index = nh.IVFIndex(DIM, "l2", seed=3, spill=spill)
    index.train(vectors)
    assert len(index) == 0
    for first in range(0, COUNT, 150):
        part = slice(first, first + 150)
        ids = index.add(
            vectors[part], labels=np.arange(COUNT)[part] % 1000, attributes={"part": np.arange(COUNT)[part] % 7}
        )
        assert ids.tolist() == list(range(first, first + 150))
        assert index.search(vectors[first + 5], k=1, probes=1).ids[0, 0] == first + 5
    # The same sample, so the same lists and codes, whatever the order in which entries came.
    for arguments in ({}, {"window": (100, 300)}, {"where": where.eq("part", 2)}):
        mine, theirs = (i.search(asked, k=10, probes=9, **arguments) for i in (index, whole))
        assert np.array_equal(mine.ids, theirs.ids)
    assert recall(index.search(asked, k=10).ids, truth("l2")) > 0.95
    assert index.nbytes < 1.5 * whole.nbytes


def test_an_index_that_outgrows_its_training_learns_anew(vectors, asked, truth):
    index = nh.IVFIndex(DIM, "l2")
    index.add(vectors[:50], labels=np.arange(50))
    before = lists_of(index)
    index.add(vectors[50:190])
    assert lists_of(index) == before, "not yet"
    index.add(vectors[190:], labels=np.arange(190, COUNT))
    assert lists_of(index) > 4 * before
    assert recall(index.search(asked, k=10).ids, truth("l2")) > 0.95
    assert set(index.search(asked, k=60, window=(-np.inf, 50)).ids.ravel().tolist()) == {-1, *range(50)}
    fixed = nh.IVFIndex(DIM, "l2", lists=5)
    fixed.add(vectors[:50])
    centroids = fixed._model.partition.centroids.copy()
    fixed.add(vectors[50:])
    assert np.array_equal(fixed._model.partition.centroids, centroids), "lists were chosen"


@pytest.mark.parametrize("metric", METRICS)
def test_labels_and_attributes_that_come_later(metric, monkeypatch):
    always_by_lists(monkeypatch)
    values = clustered(600, 0)
    index = nh.IVFIndex(DIM, metric, lists=7)
    index.add(values[:300])
    index.add(values[300:], labels=np.arange(300))
    hits = index.search(values[:20], k=10, window=(20, 250), probes=7)
    assert ((hits.ids >= 320) & (hits.ids < 550)).all()


def test_training_on_a_sample_and_again(vectors, asked, truth):
    index = nh.IVFIndex(DIM, "cosine", lists=20)
    index.train(vectors[:500] * 3)
    assert lists_of(index) == 20
    index.add(vectors)
    model = index._model
    assert index.search(asked, k=3).ids.shape == (60, 3)
    index.remove(np.arange(100))
    index.train(vectors[1000:2000])
    assert index._model is not model
    left = index.search(asked, k=10, probes=20, rerank=COUNT)
    away = exact_distances(vectors, asked, "cosine")
    away[:, :100] = np.inf
    assert np.array_equal(left.ids, np.argsort(away, axis=1, kind="stable")[:, :10])
    fresh = nh.IVFIndex(DIM, "cosine", lists=20)
    fresh.add(vectors[100:])
    index.retrain()
    assert np.array_equal(index._model.partition.centroids, fresh._model.partition.centroids)


def test_removal_compaction_and_files(vectors, asked, tmp_path):
    away = exact_distances(vectors, asked, "l2")
    gone = np.random.default_rng(0).permutation(COUNT)[:1800]
    away[:, gone] = np.inf
    wanted = np.argsort(away, axis=1, kind="stable")[:, :10]
    for spill in (False, True):
        index = nh.IVFIndex(DIM, "l2", spill=spill)
        index.add(vectors, labels=np.arange(COUNT))
        index.remove(gone)
        effort = {"probes": 10**6, "rerank": 2 * COUNT}
        assert np.array_equal(index.search(asked, k=10, **effort).ids, wanted)
        before, size = index.search(asked, k=10, probes=8), index.nbytes
        index.compact()
        assert index.nbytes < size
        assert index._lists.entries == (1 + spill) * 1200
        assert np.array_equal(index.search(asked, k=10, **effort).ids, wanted)
        assert recall(index.search(asked, k=10, probes=8).ids, before.ids) > 0.9
        index.save(tmp_path / "x")
        again = nh.load(tmp_path / "x")
        assert np.array_equal(again.search(asked, k=10, **effort).ids, wanted)
        assert again.add(vectors[:1]).tolist() == [COUNT]
        assert again.search(vectors[0], k=1, probes=1).ids[0, 0] in (0, COUNT)
        index.remove(index.ids)
        index.compact()
        assert (index.search(asked, k=2).ids == -1).all()
        index.add(vectors[:5])
        assert index.search(vectors[:5], k=1).ids[:, 0].tolist() == list(range(COUNT, COUNT + 5))


def test_an_interrupted_addition_leaves_what_was_there(vectors, asked):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    for present in (0, 60, 900):  # before any training, before it is outgrown, and after
        index = nh.IVFIndex(DIM, "l2")
        if present:
            index.add(vectors[:present], labels=np.arange(present))
        before = index.search(asked, k=5)
        with pytest.raises(Stop):
            index.add(vectors[present:], progress=stop)
        assert len(index) == present
        after = index.search(asked, k=5)
        assert np.array_equal(before.ids, after.ids)
        index.add(vectors[present:])
        assert index.search(vectors[2500], k=1).ids[0, 0] == 2500


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spill", [False, True])
def test_data_without_structure(metric, spill):
    """Copies, zeros, one vector, and numbers so large that their squares' squares overflow."""
    sets = {
        "copies": np.repeat(clustered(5, 0), 80, axis=0),
        "zeros": np.zeros((300, DIM), np.float32),
        "one": clustered(1, 0),
        "two": clustered(2, 0),
        "large": clustered(300, 0) * np.float32(1e12),
        "small": clustered(300, 0) * np.float32(1e-15),
    }
    for name, values in sets.items():
        index = nh.IVFIndex(DIM, metric, spill=spill)
        index.add(values)
        hits = index.search(values[:3], k=len(values))
        assert (np.sort(hits.ids, axis=1) == np.arange(len(values))).all(), name
        assert np.isfinite(hits.distances).all()
        nearest = index.search(values[:7], k=1).distances[:, 0].astype(np.float64)
        exact = exact_distances(values, values[:7], metric).min(axis=1)
        scale = np.abs(exact_distances(values, values[:7], metric)).max()
        np.testing.assert_allclose(nearest, exact, atol=1e-5 * scale + 1e-6 * (metric == "cosine"), err_msg=name)
        index.add(values[:1])
        assert len(index) == len(values) + 1


# --- drift ---


@pytest.mark.parametrize("spill", [False, True])
def test_drift_is_what_it_says(spill):
    values = clustered(600, 0)
    index = nh.IVFIndex(DIM, "l2", lists=9, spill=spill)
    index.add(values)
    index.add(values[:200] + 1)
    index.remove(np.arange(50))
    live = np.concatenate([values[50:], values[:200] + 1])
    model = index._model
    away = exact_distances(model.partition.centroids, live - model.origin, "l2")
    drift = index.drift()
    assert drift.size == 750
    assert drift.trained_on == 600
    assert drift.residual == pytest.approx(away.min(axis=1).mean(), rel=1e-4)
    own = exact_distances(model.partition.centroids, values - model.origin, "l2")
    assert drift.residual_trained == pytest.approx(own.min(axis=1).mean(), rel=1e-4)
    sizes = np.bincount(own.argmin(axis=1), minlength=9).astype(float)
    assert drift.imbalance_trained == pytest.approx(9 * (sizes**2).sum() / 600**2)
    if not spill:
        sizes = np.bincount(away.argmin(axis=1), minlength=9).astype(float)
        assert drift.imbalance == pytest.approx(9 * (sizes**2).sum() / 750**2)


def test_drift_rises_with_data_from_elsewhere_and_falls_when_trained_anew():
    values = clustered(1000, 0)
    index = nh.IVFIndex(DIM, "l2")
    index.add(values)
    calm = index.drift()
    assert calm.residual == pytest.approx(calm.residual_trained, rel=1e-3)
    assert calm.imbalance == pytest.approx(calm.imbalance_trained, rel=1e-3)
    assert calm.imbalance >= 1
    index.add(clustered(800, 1) + 50)
    far = index.drift()
    assert far.residual > 10 * calm.residual
    assert far.imbalance > 1.5 * calm.imbalance
    index.retrain()
    again = index.drift()
    assert again.residual < 2 * calm.residual
    assert again.trained_on == again.size == 1800


# --- arguments ---


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("codec", ["pq5", "", None, 4, "PQ4"]),
        ("lists", [0, -1, 1.5, "many", True, 2**40]),
        ("spill", [None, 1, "yes", 0.5]),
        ("seed", [-1, 2**64, 1.5, None]),
        ("threads", [0, -1, 1.5]),
        ("metric", ["l1", None]),
        ("dim", [0, -1, 2.5]),
    ],
)
def test_bad_parameters(name, values):
    for value in values:
        with pytest.raises(InvalidArgumentError, match=name):
            nh.IVFIndex(**{"dim": DIM, name: value})


def test_bad_effort(index_of, asked):
    index = index_of("l2")
    for name in ("probes", "rerank"):
        for value in (0, -1, 1.5, None, "all", True):
            with pytest.raises(InvalidArgumentError, match=name):
                index.search(asked, **{name: value})
    with pytest.raises(TypeError):
        index.search(asked, beam=3)


def test_bad_samples():
    index = nh.IVFIndex(DIM)
    for sample, error in [
        (np.empty((0, DIM)), InvalidArgumentError),
        (np.full((3, DIM), np.nan), InvalidArgumentError),
        (np.zeros((3, DIM + 1)), DimensionError),
        (np.array([["a"] * DIM]), DtypeError),
    ]:
        with pytest.raises(error):
            index.train(sample)
    assert lists_of(index) == 0


def test_nothing_to_learn_from():
    index = nh.IVFIndex(DIM)
    for call in (index.retrain, index.drift):
        with pytest.raises(NotTrainedError, match="empty"):
            call()
    index.train(clustered(30, 0))
    for call in (index.retrain, index.drift):
        with pytest.raises(NotTrainedError, match="empty"):
            call()
    assert (index.search(clustered(2, 0), k=3).ids == -1).all()


def test_only_what_was_learned_from_few_vectors_by_the_way_is_learned_anew(tmp_path):
    def lists(index):
        return index.info()["trained_lists"]

    outgrown = nh.IVFIndex(DIM)
    outgrown.add(clustered(100, 0))
    few = lists(outgrown)
    outgrown.add(clustered(200, 1))
    assert lists(outgrown) == few  # three times as many do not outgrow them
    outgrown.add(clustered(300, 2))
    assert lists(outgrown) > few

    given = nh.IVFIndex(DIM)
    given.train(clustered(100, 0))
    given.save(tmp_path / "x")
    for index in (given, nh.load(tmp_path / "x")):
        index.add(clustered(800, 1))
        assert lists(index) == few

    wished = nh.IVFIndex(DIM, lists=50)
    wished.add(clustered(20, 0))
    assert lists(wished) == 20
    wished.add(clustered(400, 1))
    assert lists(wished) == 50
    assert (wished.search(clustered(400, 1)[:20], k=1, probes=50).ids[:, 0] == np.arange(20, 40)).all()
