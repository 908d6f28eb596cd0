"""Attributes beside the vectors and searches by predicates, for every index."""

import numpy as np
import pytest
from conftest import KINDS, METRICS, clustered, effort, exact_distances, make, recall

import nearhash as nh
from nearhash import where
from nearhash.errors import CorruptIndexError, DtypeError, InvalidArgumentError, UnknownIdError
from nearhash.index.points import Points
from nearhash.index.storage import read_file, write_file

COUNT = 700


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(3)
    return {
        "color": rng.integers(0, 10, COUNT),
        "flags": rng.integers(0, 2**8, COUNT).astype(np.uint8),
        "price": rng.integers(-(2**63), 2**63 - 1, COUNT),
        "sold": rng.random(COUNT) < 0.1,
    }


@pytest.fixture(scope="module")
def filtered(columns):
    """filtered(kind, metric): an index with attributes and labels, a few vectors removed; made once."""
    cache = {}

    def get(kind, metric="l2"):
        if (kind, metric) not in cache:
            index = make(kind, metric)
            for part in np.array_split(np.arange(COUNT), [1, 300]):
                index.add(
                    clustered(COUNT, 0)[part],
                    labels=part,
                    attributes={name: column[part] for name, column in reversed(columns.items())},
                )
            index.remove(GONE)
            cache[kind, metric] = index
        return cache[kind, metric]

    return get


GONE = np.arange(5, COUNT, 70)


CASES = [
    (where.eq("color", 3), lambda c: c["color"] == 3),
    (where.isin("color", [1, 2, 20]) & ~where.eq("sold", True), lambda c: np.isin(c["color"], [1, 2]) & ~c["sold"]),
    (where.range("price", None, 0) | where.any_bits("flags", 6), lambda c: (c["price"] < 0) | (c["flags"] & 6 > 0)),
    (where.any_bits("flags", 1) & where.any_bits("flags", 2), lambda c: c["flags"] & 3 == 3),
    (~where.range("color", 0, 10), lambda c: np.zeros(COUNT, bool)),
    (~where.isin("color", []), lambda c: np.ones(COUNT, bool)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_predicates_alone_and_with_other_filters(filtered, columns, kind, metric, case):
    index, (predicate, says) = filtered(kind, metric), CASES[case]
    queries = clustered(12, 1)
    live = ~np.isin(np.arange(COUNT), GONE)
    away = exact_distances(clustered(COUNT, 0), queries, metric)
    allow, window = np.random.default_rng(case).random(COUNT) < 0.5, (100, 600)
    inside = (np.arange(COUNT) >= 100) & (np.arange(COUNT) < 600)
    for arguments, also in (
        ({}, live),
        ({"allow": allow}, live & allow),
        ({"window": window}, live & inside),
        ({"window": window, "allow": allow}, live & inside & allow),
    ):
        matches = np.flatnonzero(says(columns) & also)
        hits = index.search(queries, k=10, where=predicate, **arguments, **effort(kind))
        assert ((hits.ids >= 0).sum(axis=1) == min(10, len(matches))).all()
        assert np.isin(hits.ids, [*matches, -1]).all()
        truth = matches[np.argsort(away[:, matches], axis=1, kind="stable")[:, :10]]
        assert not len(matches) or recall(hits.ids, truth) >= 0.95
        one = index.search(queries[3], k=10, where=predicate, threads=1, **arguments, **effort(kind))
        assert np.array_equal(one.ids[0], hits.ids[3])
        everything = index.search(queries[:2], k=COUNT, where=predicate, **arguments)
        assert np.array_equal(np.sort(everything.ids[:, : len(matches)]), [matches] * 2)
        assert (everything.ids[:, len(matches) :] == -1).all()


@pytest.mark.parametrize("kind", ["flat", "flat-f16"])
def test_range_search_with_a_predicate(filtered, columns, kind):
    query = clustered(1, 1)
    hits = filtered(kind).range_search(query, np.inf, where=where.eq("color", 3), window=(50, 500))
    matches = np.setdiff1d(np.flatnonzero(columns["color"] == 3), GONE)
    assert np.array_equal(np.sort(hits.ids), matches[(matches >= 50) & (matches < 500)])
    with pytest.raises(InvalidArgumentError, match="where"):
        filtered(kind).range_search(query, 1.0, where=where.eq("colour", 3))


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_come_back_and_live_through_change_and_files(columns, tmp_path, kind):
    index = make(kind)
    assert index.attributes([]) == {}
    index.add(clustered(COUNT, 0), ids=np.arange(COUNT) * 2, attributes=columns)
    assert index.info()["attributes"] == sorted(columns)
    bytes_before = index.nbytes
    assert bytes_before >= 4 * 8 * COUNT
    index.remove(2 * GONE)
    index.save(tmp_path / "x")
    for mmap in (True, False):
        for current in (index, nh.load(tmp_path / "x", mmap=mmap)):
            chosen = [1, 2, 650, 3]
            found = current.attributes(np.array(chosen) * 2)
            assert list(found) == sorted(columns)
            for name, column in found.items():
                assert column.dtype == np.int64
                assert column.tolist() == columns[name][chosen].astype(np.int64).tolist()
            with pytest.raises(UnknownIdError):
                current.attributes([2 * GONE[0]])
    again = nh.load(tmp_path / "x")
    again.save(tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    for current in (index, again):
        current.compact()
        assert current.attributes([1300])["price"].tolist() == [columns["price"][650]]
        current.add(clustered(3, 9), attributes={**{name: [0] * 3 for name in columns}, "color": [4, 5, 4]})
        assert current.attributes(current.ids[-3:])["color"].tolist() == [4, 5, 4]
        hits = current.search(clustered(5, 1), k=COUNT, where=where.eq("color", 4))
        assert ((hits.ids >= 0).sum(axis=1) == 2 + len(np.setdiff1d(np.flatnonzero(columns["color"] == 4), GONE))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_predicate_sees_every_change(kind):
    """The answer to a predicate is kept from search to search: not beyond a change."""
    index, predicate = make(kind), where.eq("a", 1)
    assert (index.search(clustered(1, 0), k=3, where=predicate).ids == -1).all(), "an empty index matches nothing"
    index.add(clustered(20, 0), attributes={"a": np.arange(20) % 2})

    def found():
        hits = index.search(clustered(2, 1), k=50, where=predicate).ids
        assert np.array_equal(np.sort(hits[0]), np.sort(hits[1]))
        return set(hits[0][hits[0] >= 0].tolist())

    assert found() == found() == set(range(1, 20, 2))
    index.remove([3, 4])
    assert found() == set(range(1, 20, 2)) - {3}
    index.add(clustered(2, 3), attributes={"a": [1, 0]})
    assert found() == set(range(1, 20, 2)) - {3} | {20}
    index.compact()
    assert found() == set(range(1, 20, 2)) - {3} | {20}
    assert len(index.search(clustered(1, 1), k=50, where=~predicate).ids[0]) == 50
    assert found() == set(range(1, 20, 2)) - {3} | {20}
    index.remove(index.ids)
    assert found() == set()
    index.compact()
    assert found() == set()
    with pytest.raises(InvalidArgumentError, match="has 'a'; got 'b'"):
        index.search(clustered(1, 1), where=where.eq("b", 1))


@pytest.mark.parametrize("kind", KINDS)
def test_refused_attributes_change_nothing(kind):
    index, two = make(kind), clustered(2, 0)
    for attributes, error, message in [
        ([1, 2], InvalidArgumentError, "dict of columns by name, got list"),
        ({"a": [1]}, InvalidArgumentError, r"attributes\['a'\]: expected shape \(2,\).*got \(1,\)"),
        ({"a": 1}, InvalidArgumentError, "shape"),
        ({"a": [[1], [2]]}, InvalidArgumentError, "shape"),
        ({"a": [1.0, 2.0]}, DtypeError, "got 1.0; ranges of numbers are labels"),
        ({"a": np.ones(2)}, DtypeError, "float64; ranges of numbers are labels"),
        ({"a": np.empty(0)}, DtypeError, "float64"),
        ({"a": ["x", "y"]}, DtypeError, "integers or bools"),
        ({"a": [None, 1]}, DtypeError, "got None"),
        ({"a": [1, 2**63]}, InvalidArgumentError, "int64, got 9223372036854775808"),
        ({"a": [1, 2**80]}, InvalidArgumentError, "int64"),
        ({"a": np.array([1, 2**63], np.uint64)}, InvalidArgumentError, "int64"),
        ({"a b": [1, 2]}, InvalidArgumentError, "attributes: expected names"),
        ({3: [1, 2]}, InvalidArgumentError, "attributes: expected names"),
        ({f"a{i}": [1, 2] for i in range(65)}, InvalidArgumentError, "at most 64 columns, got 65"),
    ]:
        with pytest.raises(error, match=message):
            index.add(two, attributes=attributes)
        assert len(index) == 0
    index.add(two, attributes={"a": [1, 2], "b": [True, False]})
    for attributes, got in [(None, "none"), ({}, "none"), ({"a": [1, 2]}, "a$"), ({"a": [1, 2], "c": [1, 2]}, "a, c")]:
        with pytest.raises(InvalidArgumentError, match=f"expected those of the index, a, b; got {got}"):
            index.add(two, attributes=attributes)
    index.add([], attributes=None)
    with pytest.raises(InvalidArgumentError, match="has 'a', 'b'; got 'c'"):
        index.search(two, where=where.eq("c", 1) | where.eq("a", 1))
    for wrong in ("a == 1", {"eq": ["a", 1]}, True, np.ones(2, bool)):
        with pytest.raises(InvalidArgumentError, match=r"where: expected a predicate of nearhash.where"):
            index.search(two, where=wrong)
    assert len(index) == 2
    plain = make(kind)
    plain.add(two)
    with pytest.raises(InvalidArgumentError, match="expected none, as the vectors of the index have none, got a"):
        plain.add(two, attributes={"a": [1, 2]})
    with pytest.raises(InvalidArgumentError, match="has none; got 'a'"):
        plain.search(two, where=where.eq("a", 1))
    assert plain.attributes([1]) == {}
    assert len(plain) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_addition_that_fails_leaves_the_choice_of_attributes_open(kind):
    index = make(kind)

    def stop(done, total):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            index.add(clustered(200, 0), attributes={"a": np.arange(200)}, progress=stop)
        assert len(index) == 0
        assert index.info()["attributes"] == []
    index.add(clustered(200, 0), attributes={"b": np.arange(200)})
    with pytest.raises(KeyboardInterrupt):
        index.add(clustered(200, 1), attributes={"b": np.arange(200)}, progress=stop)
    assert index.search(clustered(1, 0), k=1, where=where.eq("b", 7)).ids.tolist() == [[7]]
    assert index.add(clustered(1, 7), attributes={"b": 1000}).tolist() == [200]
    np.testing.assert_allclose(
        index.vectors([200, 0]), [clustered(1, 7)[0], clustered(200, 0)[0]], rtol=1e-2, atol=1e-2
    )
    assert index.attributes([200, 0])["b"].tolist() == [1000, 0]


@pytest.mark.parametrize("kind", ["flat", "graph-f32"])
def test_files_with_attributes_that_no_index_has_written(tmp_path, kind):
    index = make(kind)
    index.add(clustered(40, 0), attributes={"a": np.arange(40), "_b": np.arange(40)})
    index.save(tmp_path / "x")
    header, tensors = read_file(tmp_path / "x", mmap=False)
    good = tensors["attribute.a"]
    assert good.tolist() == list(range(40))
    for name, wrong in [
        ("attribute.a", good[:-1]),
        ("attribute.a", np.append(good, 1)),
        ("attribute.a", good.astype(np.int32)),
        ("attribute.a", good.astype(np.float64)),
        ("attribute.a", good.reshape(40, 1)),
        ("attribute.a", good.reshape(1, 40)),
        ("attribute.a", np.empty((0,), np.int64)),
        ("attribute.", good),
        ("attribute..c", good),
        ("attribute.-c", good),
        ("attribute." + "c" * 49, good),
    ]:
        write_file(tmp_path / "y", header, {**tensors, name: wrong})
        with pytest.raises(CorruptIndexError, match="attribute"):
            nh.load(tmp_path / "y")
    write_file(tmp_path / "y", header, {**tensors, **{f"attribute.c{i}": good for i in range(63)}})
    with pytest.raises(CorruptIndexError, match="65 columns"):
        nh.load(tmp_path / "y")
    write_file(tmp_path / "y", header, {**tensors, **{f"attribute.c{i}": good for i in range(62)}})
    assert nh.load(tmp_path / "y").search(clustered(1, 0), k=1, where=where.eq("c61", 7)).ids.tolist() == [[7]]


@pytest.mark.parametrize("removed", [0, 1, 30, 100])
def test_counts_of_filters_are_exact(removed):
    rng = np.random.default_rng(removed)
    points, count = Points(), 100
    labels, color = rng.integers(0, 20, count).astype(float), rng.integers(0, 4, count)
    points.append(points.check(60, None, None, {"color": color[:60]}))
    points.append(points.check(40, None, labels[60:], {"color": color[60:]}))
    labels[:60] = np.nan
    live = np.ones(count, bool)
    gone = rng.choice(count, removed, replace=False).astype(np.int32)
    allow = rng.random(count) < 0.5
    for step in np.array_split(gone, 2):
        points.remove(step)
        live[step] = False
        windows = np.sort(rng.integers(-1, 22, (9, 2)), axis=1).astype(float)
        windows[0], windows[1] = (-np.inf, np.inf), (5, 5)
        inside = (labels >= windows[:, :1]) & (labels < windows[:, 1:])
        for arguments, says in (
            ({}, live),
            ({"allow": allow}, live & allow),
            ({"where": where.eq("color", 2)}, live & (color == 2)),
            ({"where": where.eq("color", 2), "allow": np.flatnonzero(allow)}, live & (color == 2) & allow),
        ):
            assert points.filter(9, **arguments).counts.tolist() == [says.sum()] * 9
            assert points.filter(9, window=windows, **arguments).counts.tolist() == (inside & says).sum(axis=1).tolist()
            assert points.filter(0, window=(1, 2), **arguments).counts.shape == (0,)
            assert points.filter(1, window=(7, 7), **arguments).counts.tolist() == [0]
