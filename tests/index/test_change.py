"""Adding and removing, good input and bad, for every index."""

import threading

import numpy as np
import pytest
from conftest import DIM, INEXACT, KINDS, METRICS, clustered, effort, exact_distances, make, recall
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import nearhash as nh
from nearhash import where
from nearhash.errors import (
    DimensionError,
    DtypeError,
    DuplicateIdError,
    InvalidArgumentError,
    MetricError,
    NearhashError,
    UnknownIdError,
)
from nearhash.index.points import Points


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_consecutive_or_as_given(kind):
    index = make(kind)
    assert index.add(clustered(3, 0)).tolist() == [0, 1, 2]
    assert index.add(clustered(2, 1), ids=[50, 7]).tolist() == [50, 7]
    assert index.add(clustered(1, 2)).tolist() == [51]
    assert index.ids.tolist() == [0, 1, 2, 50, 7, 51]
    assert len(index) == 6
    assert index.search(clustered(2, 1), k=1).ids[:, 0].tolist() == [50, 7]
    assert index.search(clustered(1, 2), k=1).ids.tolist() == [[51]]
    assert index.add(clustered(1, 3)[0], ids=2**63 - 1).tolist() == [2**63 - 1]
    with pytest.raises(InvalidArgumentError, match="ids"):
        index.add(clustered(1, 4))  # no default id is left
    assert len(index) == 7


DTYPES = ["float64", "float32", "float16", "int8", "uint8", "int16", "int32", "int64", "uint64"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_input_of_any_real_dtype(kind, dtype):
    values = np.random.default_rng(0).integers(0, 100, (60, DIM)).astype(dtype)
    index = make(kind)
    index.add(values)
    hits = index.search(values, k=1)
    assert hits.ids[:, 0].tolist() == list(range(60))
    assert (hits.distances <= (0.1 if kind in INEXACT else 0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_any_memory_layout(kind):
    values = clustered(80, 0)
    index = make(kind)
    index.add(np.asfortranarray(values))
    wide = np.zeros((80, 2 * DIM), np.float32)
    wide[:, ::2] = values
    frozen = values.copy()
    frozen.flags.writeable = False
    swapped = values.astype(">f4")
    for queries in (values[::-1][::-1], wide[:, ::2], frozen, swapped, values.tolist(), np.asfortranarray(values)):
        assert index.search(queries, k=1).ids[:, 0].tolist() == list(range(80))
    index.add(frozen[:5], ids=np.arange(1000, 2000, 200), labels=range(5))
    index.add(wide[:3, ::2])
    values[:] = 0  # the index has its own copy
    assert index.search(frozen, k=1).distances.max() < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_refused_input_changes_nothing(kind):
    index = make(kind)
    good = clustered(30, 0)
    index.add(good, ids=np.arange(100, 130), labels=np.arange(30))
    nan, infinite, huge = good.copy(), good.copy(), good.astype(np.float64)
    nan[7, 3], infinite[8, 0], huge[2, 2] = np.nan, -np.inf, 1e300
    two = good[:2]
    cases = [
        (dict(vectors=nan), InvalidArgumentError, "row 7, column 3"),
        (dict(vectors=infinite), InvalidArgumentError, "row 8, column 0"),
        (dict(vectors=huge), InvalidArgumentError, "row 2, column 2"),
        (dict(vectors=good[:, :-1]), DimensionError, rf"\(n, {DIM}\)"),
        (dict(vectors=good[None]), DimensionError, "shape"),
        (dict(vectors=np.zeros((3, 0))), DimensionError, "shape"),
        (dict(vectors=good.astype(complex)), DtypeError, "complex"),
        (dict(vectors=good.astype(str)), DtypeError, "dtype"),
        (dict(vectors=good > 0), DtypeError, "bool"),
        (dict(vectors=[[None] * DIM]), DtypeError, "dtype"),
        (dict(vectors=two, ids=[1]), InvalidArgumentError, "ids"),
        (dict(vectors=two, ids=[1, 1]), DuplicateIdError, "1 more than once"),
        (dict(vectors=two, ids=[1, 129]), DuplicateIdError, "129 is already"),
        (dict(vectors=two, ids=[1, -1]), InvalidArgumentError, "ids >= 0"),
        (dict(vectors=two, ids=[1, 2**63]), InvalidArgumentError, "int64"),
        (dict(vectors=two, ids=[1, 2**80]), InvalidArgumentError, "int64"),
        (dict(vectors=two, ids=np.array([1, 2**63], np.uint64)), InvalidArgumentError, "int64"),
        (dict(vectors=two, ids=[1.0, 2.0]), DtypeError, "integers"),
        (dict(vectors=two, ids=["a", "b"]), DtypeError, "integers"),
        (dict(vectors=two, ids=[[1, 2]]), InvalidArgumentError, "ids"),
        (dict(vectors=two, labels=[1]), InvalidArgumentError, "labels"),
        (dict(vectors=two, labels=[1, np.nan]), InvalidArgumentError, "NaN"),
        (dict(vectors=two, labels=["a", "b"]), DtypeError, "labels"),
    ]
    before = index.search(good, k=5)
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            index.add(**arguments)
        assert isinstance(error("x"), ValueError)
        assert len(index) == 30
    after = index.search(good, k=5)
    assert np.array_equal(before.ids, after.ids)
    assert index.add(good[:1]).tolist() == [130]


@pytest.mark.parametrize("kind", KINDS)
def test_refused_queries(built, kind):
    index = built(kind)
    for bad, error in [
        (np.full((2, DIM), np.nan), InvalidArgumentError),
        (np.full(DIM, np.inf), InvalidArgumentError),
        (np.zeros((2, DIM + 1)), DimensionError),
        (np.zeros((2, 2, DIM)), DimensionError),
        (5.0, DimensionError),
        (np.zeros((2, DIM), bool), DtypeError),
        (np.zeros((2, DIM), complex), DtypeError),
        (np.full((1, DIM), 1e200), InvalidArgumentError),
    ]:
        with pytest.raises(error, match="queries"):
            index.search(bad)


@pytest.mark.parametrize("kind", KINDS)
def test_adding_nothing(kind):
    index = make(kind)
    assert index.add(np.empty((0, DIM), np.float32)).shape == (0,)
    assert index.add([], ids=[], labels=[]).shape == (0,)
    assert len(index) == 0
    index.remove([])


@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_under_cosine_are_at_distance_one(kind):
    index = make(kind, "cosine")
    index.add(np.concatenate([np.zeros((2, DIM), np.float32), clustered(50, 0)]))
    hits = index.search(clustered(3, 1), k=52, **effort(kind))
    for i in range(3):
        own = hits.distances[i][hits.ids[i] == 0]
        np.testing.assert_allclose(own, [1.0], rtol=0, atol=1e-3 if kind in INEXACT else 0)
    everything = index.search(np.zeros(DIM), k=52)
    np.testing.assert_allclose(everything.distances, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_several_adds_are_as_good_as_one(base, queries, kind, metric):
    index = make(kind, metric)
    for part in np.array_split(base, [1, 2, 500, 501, 1200]):
        index.add(part)
    truth = np.argsort(exact_distances(base, queries, metric), axis=1)[:, :10]
    assert recall(index.search(queries, k=10, **effort(kind)).ids, truth) >= 0.96


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_removed_vectors_are_gone_for_good(base, queries, tmp_path, kind, metric):
    index = make(kind, metric)
    index.add(base[:600], labels=np.arange(600))
    gone = np.random.default_rng(0).choice(600, 200, replace=False)
    index.remove(gone[:3])
    index.remove(gone[3:])
    kept = np.setdiff1d(np.arange(600), gone)
    truth = kept[np.argsort(exact_distances(base[kept], queries, metric), axis=1)[:, :10]]
    wide = effort(kind)
    index.save(tmp_path / "x")
    for current in (index, nh.load(tmp_path / "x")):
        for compacted in (False, True):
            if compacted:
                current.compact()
                assert current.info()["deleted"] == 0
            assert len(current) == 400
            assert np.array_equal(np.sort(current.ids), kept)
            hits = current.search(queries, k=10, **wide)
            assert not np.isin(hits.ids, gone).any()
            assert recall(hits.ids, truth) >= 0.96
            masked = current.search(queries[:1], k=600, allow=np.ones(600, bool))
            assert np.array_equal(np.sort(masked.ids[0][:400]), kept)
            assert (masked.ids[0][400:] == -1).all()
            everything = current.search(queries[:1], k=600, allow=np.arange(600), window=(0, 600))
            assert np.array_equal(np.sort(everything.ids[0][:400]), kept)
            assert (everything.ids[0][400:] == -1).all()
    with pytest.raises(UnknownIdError, match=str(gone[0])):
        index.remove([kept[0], gone[0]])
    assert kept[0] in index.ids, "nothing is removed if one id is unknown"
    assert index.add(base[600:601]).tolist() == [600], "ids are not used again"


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_can_come_back(kind):
    index = make(kind)
    values = clustered(20, 0)
    index.add(values[:10], ids=np.arange(10, 20))
    index.remove([12, 13])
    index.add(values[10:12], ids=[13, 12])
    assert index.search(values[10:12], k=1).ids[:, 0].tolist() == [13, 12]
    assert index.search(values[2], k=1).distances[0, 0] > 0
    np.testing.assert_allclose(index.vectors([12]), values[11:12], rtol=1e-2)
    index.remove([12])
    with pytest.raises(UnknownIdError):
        index.vectors([12])


@pytest.mark.parametrize("kind", KINDS)
def test_refused_removals(kind):
    index = make(kind)
    index.add(clustered(5, 0))
    for ids, error in [
        ([9], UnknownIdError),
        ([-1], UnknownIdError),
        ([1, 1], DuplicateIdError),
        ([0.5], DtypeError),
        ([2**64], InvalidArgumentError),
        ([[1]], InvalidArgumentError),
    ]:
        with pytest.raises(error, match="ids"):
            index.remove(ids)
    assert len(index) == 5
    assert isinstance(UnknownIdError("x"), KeyError)
    index.remove(3)
    assert index.ids.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_remove_everything_and_begin_again(kind):
    index = make(kind)
    index.add(clustered(50, 0))
    index.remove(np.arange(50))
    assert len(index) == 0
    assert (index.search(clustered(2, 1), k=3).ids == -1).all()
    index.add(clustered(5, 2))
    assert set(index.search(clustered(1, 1), k=10).ids[0].tolist()) == {50, 51, 52, 53, 54, -1}
    index.compact()
    assert set(index.search(clustered(1, 1), k=10).ids[0].tolist()) == {50, 51, 52, 53, 54, -1}
    index.remove(index.ids)
    index.compact()
    assert (index.search(clustered(1, 1), k=3).ids == -1).all()
    assert index.add(clustered(1, 1)).tolist() == [55]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_add_and_search_at_once(kind):
    """Every vector arrives once, under one id, and searches in between see only whole additions."""
    index, errors, ids = make(kind), [], []

    def add(seed):
        try:
            for step in range(5):
                ids.append(index.add(clustered(20, 100 * seed + step), labels=np.full(20, seed)).tolist())
        except BaseException as error:
            errors.append(error)

    def search():
        try:
            for _ in range(10):
                hits = index.search(clustered(3, 1), k=5, window=(0, 10))
                assert (hits.ids < 400).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(seed,)) for seed in range(4)]
    threads += [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(id_ for part in ids for id_ in part) == list(range(400))
    assert len(index) == 400
    for seed in range(4):
        for step in range(5):
            found = index.search(clustered(20, 100 * seed + step), k=1, **({"beam": 200} if "graph" in kind else {}))
            assert found.distances.max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_progress_counts_up_to_the_end(kind):
    calls = []
    make(kind).add(clustered(300, 0), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (300, 300)
    assert calls == sorted(calls)


def test_bad_constructor_arguments():
    for arguments, error in [
        (dict(dim=0), InvalidArgumentError),
        (dict(dim=2.0), InvalidArgumentError),
        (dict(dim=40000), InvalidArgumentError),
        (dict(dim=8, metric="euclid"), MetricError),
        (dict(dim=8, metric=None), MetricError),
    ]:
        for make_index in (nh.FlatIndex, nh.GraphIndex):
            with pytest.raises(error):
                make_index(**arguments)
    for arguments in [
        dict(codec="pq9"),
        dict(codec=3),
        dict(degree=1),
        dict(degree=2.5),
        dict(build_beam=0),
        dict(seed=-1),
        dict(seed=2**64),
        dict(threads=0),
    ]:
        with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
            nh.GraphIndex(8, **arguments)
    with pytest.raises(DtypeError, match="dtype"):
        nh.FlatIndex(8, dtype="float64")


class AgainstDict(RuleBasedStateMachine):
    """Any sequence of changes leaves an index that knows exactly what a dict knows."""

    kind = "flat"

    def __init__(self):
        super().__init__()
        self.index = make(self.kind, dim=3)
        self.model: dict[int, tuple[tuple[float, ...], float]] = {}
        self.colors: dict[int, int] = {}

    @rule(
        points=st.lists(
            st.tuples(st.integers(0, 30), st.integers(-3, 3), st.integers(0, 4)), max_size=6, unique_by=lambda p: p[0]
        )
    )
    def add(self, points):
        vectors = np.array([[value, id_, 1] for id_, value, _ in points], np.float32).reshape(-1, 3)
        arguments = dict(ids=[id_ for id_, _, _ in points], labels=[label for _, _, label in points])
        arguments["attributes"] = {"color": [7 * id_ % 3 + value for id_, value, _ in points]}
        if any(id_ in self.model for id_, _, _ in points):
            with pytest.raises(DuplicateIdError):
                self.index.add(vectors, **arguments)
            return
        self.index.add(vectors, **arguments)
        for (id_, _, label), vector in zip(points, vectors, strict=True):
            self.model[id_] = tuple(vector.tolist()), label
        self.colors.update(zip(arguments["ids"], arguments["attributes"]["color"], strict=True))

    @rule(ids=st.lists(st.integers(0, 30), max_size=5, unique=True))
    def remove(self, ids):
        if any(id_ not in self.model for id_ in ids):
            with pytest.raises(NearhashError):
                self.index.remove(ids)
            return
        self.index.remove(ids)
        for id_ in ids:
            del self.model[id_], self.colors[id_]

    @rule()
    def compact(self):
        self.index.compact()

    @rule(low=st.integers(-1, 4), high=st.integers(-1, 5), k=st.integers(1, 40))
    def search(self, low, high, k):
        low, high = min(low, high), max(low, high)
        found = self.index.search([0, 0, 0], k=k, window=(low, high)).ids[0]
        inside = {id_ for id_, (_, label) in self.model.items() if low <= label < high}
        assert (found >= 0).sum() == min(k, len(inside))
        assert set(found[found >= 0].tolist()) <= inside

    @rule(color=st.integers(-4, 6), low=st.integers(-1, 4), k=st.integers(1, 40))
    def search_by_color(self, color, low, k):
        for predicate, window in ((where.eq("color", color), None), (~where.range("color", None, color), (low, 4))):
            found = self.index.search([0, 0, 0], k=k, where=predicate, window=window).ids[0]
            matches = {id_ for id_, has in self.colors.items() if (has == color if window is None else has >= color)}
            if window:
                matches &= {id_ for id_, (_, label) in self.model.items() if low <= label < 4}
            assert (found >= 0).sum() == min(k, len(matches))
            assert set(found[found >= 0].tolist()) <= matches

    @invariant()
    def holds_what_the_model_holds(self):
        ids = self.index.ids.tolist()
        assert sorted(ids) == sorted(self.model)
        assert len(self.index) == len(self.model)
        colors = self.index.attributes(ids)
        assert not ids or colors["color"].tolist() == [self.colors[id_] for id_ in ids]
        assert [tuple(v) for v in self.index.vectors(ids).tolist()] == [self.model[id_][0] for id_ in ids]


class GraphAgainstDict(AgainstDict):
    kind = "graph-lvq8"


TestFlatAgainstDict = AgainstDict.TestCase
TestGraphAgainstDict = GraphAgainstDict.TestCase
TestFlatAgainstDict.settings = TestGraphAgainstDict.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None
)


def test_the_order_of_labels_after_every_addition():
    """Kept by merging: the same as sorted anew, ties by slot, whatever was asked between."""
    rng, points = np.random.default_rng(0), Points()
    for number in range(40):
        count = int(rng.integers(1, 30))
        labels = None if rng.random() < 0.3 else rng.integers(0, 12, count).astype(float)
        points.append(points.check(count, None, labels))
        if rng.random() < 0.7:
            order, bounds = points.label_order()
            own = np.full(points.slots, np.nan) if points.labels is None else points.labels
            expected = np.argsort(own, kind="stable")[: int((~np.isnan(own)).sum())]
            assert order.dtype == np.int32
            assert order.tolist() == expected.tolist()
            assert bounds.tolist() == own[expected].tolist()
        if number == 20:
            points.keep(np.arange(0, points.slots, 2))
