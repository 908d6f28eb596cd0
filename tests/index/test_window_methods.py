"""The methods that WindowIndex is compared with, against exact search."""

import numpy as np
import pytest
from conftest import clustered, exact_distances

from nearhash.errors import DimensionError, InvalidArgumentError, MetricError
from nearhash.index.window.methods import METHODS, search
from nearhash.index.window.range_graphs import RangeGraphs

DIM, COUNT, LEAF, K = 16, 1501, 100, 10
NAMES = list(METHODS)


@pytest.fixture(scope="module")
def data():
    return clustered(COUNT, 3, DIM), clustered(30, 4, DIM)


@pytest.fixture(scope="module")
def graphs(data):
    """graphs(labels, metric), made once."""
    made = {}

    def get(kind, metric="l2"):
        if (kind, metric) not in made:
            rng = np.random.default_rng(1)
            labels = rng.permutation(COUNT) * 2.0 if kind == "permuted" else rng.integers(0, 7, COUNT).astype(float)
            one = RangeGraphs(data[0], labels, metric, degree=16, build_beam=48, threads=2)
            for method in METHODS.values():
                one.build(method(COUNT, LEAF).ranges)
            made[kind, metric] = one, labels
        return made[kind, metric]

    return get


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "metric"), [("permuted", "l2"), ("ties", "l2"), ("permuted", "cosine")])
def test_as_exact_search(data, graphs, name, kind, metric):
    base, queries = data
    (own, labels), method = graphs(kind, metric), METHODS[name](COUNT, LEAF)
    away, rng, order = (
        exact_distances(base, queries, metric),
        np.random.default_rng(5),
        np.append(np.sort(labels), np.inf),
    )
    for width in (1, 3, 12, 99, 101, 400, 1100, COUNT):
        first = rng.integers(0, COUNT - width + 1, len(queries))
        first[:2] = 0, COUNT - width
        windows = np.stack([order[first], order[first + width]], axis=1)
        inside = (labels >= windows[:, :1]) & (labels < windows[:, 1:])
        hits = search(own, method, queries, K, windows, beam=40)
        assert ((hits.ids >= 0).sum(axis=1) == np.minimum(K, inside.sum(axis=1))).all()
        shares = []
        for row in range(len(queries)):
            found = hits.ids[row][hits.ids[row] >= 0]
            assert inside[row][found].all()
            assert len(set(found)) == len(found)
            assert np.isinf(hits.distances[row, len(found) :]).all()
            assert np.allclose(hits.distances[row, : len(found)], away[row, found], rtol=1e-4, atol=1e-5)
            assert (np.diff(hits.distances[row, : len(found)]) >= 0).all()
            allowed = np.flatnonzero(inside[row])
            truth = allowed[np.argsort(away[row, allowed], kind="stable")[:K]]
            shares.append(len(set(found) & set(truth)) / len(truth) if len(truth) else 1.0)
        assert np.mean(shares) > (0.999 if name == "prefilter" else 0.93)


@pytest.mark.parametrize("name", NAMES)
def test_pieces(name):
    """The pieces of a window are the window, each inside a range that there is."""
    for count in (1, 5, 99, 100, 101, 1000, 1501):
        method = METHODS[name](count, 100)
        assert len(set(method.ranges)) == len(method.ranges)
        edges = sorted({0, count, *(edge for node in method.ranges for edge in node)})
        tried = sorted({min(max(edge + by, 0), count) for edge in edges for by in (-1, 0, 1)})
        for first in tried:
            for last in tried:
                if first < last:
                    pieces = sorted(method.pieces(first, last))
                    assert [first] + [piece.last for piece in pieces] == [piece.first for piece in pieces] + [last]
                    for piece in pieces:
                        assert piece.node is None or piece.node in method.ranges
                        assert piece.node is None or piece.node[0] <= piece.first < piece.last <= piece.node[1]


def test_what_the_paper_says_of_pieces():
    """At most two covered ranges a level; ranges at most 4 times as wide as the window; at most three searches."""
    count, leaf = 5000, 50
    tree, smallest, split, overlapping = (METHODS[name](count, leaf) for name in NAMES[2:])
    for node in split.ranges:
        assert split.pieces(*node) == tree.pieces(*node) == [(*node, node)]
    for first, last in np.sort(np.random.default_rng(0).integers(0, count, (500, 2)), axis=1).tolist():
        if last - first >= leaf:
            sizes = [round(np.log2(piece.last - piece.first)) for piece in tree.pieces(first, last) if piece.node]
            assert max(map(sizes.count, sizes), default=0) <= 2
            assert sum(piece.last - piece.first for piece in tree.pieces(first, last) if not piece.node) < 4 * leaf
            ((_, _, node),) = overlapping.pieces(first, last)
            assert node[1] - node[0] <= 4 * (last - first)
            assert len(split.pieces(first, last)) <= 3
            ((_, _, node),) = smallest.pieces(first, last)
            around = [one for one in smallest.ranges if one[0] <= first and last <= one[1]]
            assert node == min(around, key=lambda one: one[1] - one[0])
    assert METHODS["super-postfilter"](1000, 100).ranges[:3] == ((0, 100), (50, 150), (100, 200))


@pytest.mark.parametrize("name", NAMES)
def test_empty_windows_and_few_points(data, graphs, name):
    base, queries = data
    own, _ = graphs("permuted")
    for window in ((5, 5), (1e9, np.inf), (0.5, 0.75)):
        hits = search(own, METHODS[name](COUNT, LEAF), queries, K, window)
        assert (hits.ids == -1).all()
        assert np.isinf(hits.distances).all()
    assert search(own, METHODS[name](COUNT, LEAF), queries[:0], K).ids.shape == (0, K)
    for count in (0, 1, 7):
        few, method = RangeGraphs(base[:count], np.zeros(count)), METHODS[name](count, 1)
        few.build(method.ranges)
        hits = search(few, method, queries, K)
        assert (np.sort(hits.ids, axis=1)[:, K - count :] == np.arange(count)).all()
        assert (hits.ids[:, count:] == -1).all()


def test_same_graphs_at_any_number_of_threads(data):
    base, queries = data
    answers = []
    for threads in (1, 2, 5):
        own = RangeGraphs(base, np.arange(COUNT), degree=8, build_beam=16, threads=threads)
        method = METHODS["three-split"](COUNT, 500)
        own.build(method.ranges)
        answers.append(search(own, method, queries, K, (100, 1400), beam=10).ids.tolist())
    assert answers[0] == answers[1] == answers[2]


def test_memory_counts_what_a_method_needs(graphs):
    own, _ = graphs("permuted")
    sizes = {name: own.nbytes(method(COUNT, LEAF).ranges) for name, method in METHODS.items()}
    raw, links = 4 * COUNT * DIM, 4 * COUNT * (16 + 1)
    assert sizes["postfilter"] >= sizes["prefilter"] + COUNT * DIM + links
    assert raw < sizes["prefilter"] < sizes["postfilter"] < sizes["2-WST"] < sizes["super-postfilter"]
    assert sizes["2-WST"] == sizes["three-split"] == sizes["optimized postfilter"]


def test_bad_arguments(data):
    base, queries = data
    with pytest.raises(MetricError, match="metric"):
        RangeGraphs(base, np.zeros(COUNT), "ip")
    with pytest.raises(DimensionError, match="vectors"):
        RangeGraphs(base[0], [0])
    with pytest.raises(InvalidArgumentError, match="labels"):
        RangeGraphs(base, np.zeros(3))
    with pytest.raises(InvalidArgumentError, match="leaf"):
        METHODS["2-WST"](10, 0)
    own, method = RangeGraphs(base, np.zeros(COUNT)), METHODS["prefilter"](COUNT)
    for arguments in ({"k": 0}, {"beam": 0}, {"window": (3, 1)}):
        with pytest.raises(InvalidArgumentError):
            search(own, method, queries, **arguments)
