"""What only GraphIndex has: a deterministic build, reachability, inner product, interrupted additions."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import DIM, clustered, exact_distances, make, recall

import nearhash as nh
from nearhash.errors import InvalidArgumentError
from nearhash.index.codecs import GRAPH_CODECS, make_codec
from nearhash.index.vamana import Vamana


def reachable(index) -> int:
    """Nodes that a walk from the entry point can come to."""
    graph = index._graph
    seen = np.zeros(graph.nodes, bool)
    front = np.array([graph.entry])
    while len(front):
        seen[front] = True
        links = graph.neighbours[front]
        front = np.unique(links[links >= 0])
        front = front[~seen[front]]
    return int(seen.sum())


@pytest.mark.parametrize("codec", ["lvq8", "f32", "lvq4x8"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_same_bytes_at_any_thread_count(tmp_path, codec, metric):
    files = []
    for threads in (1, 2, 5):
        index = nh.GraphIndex(DIM, metric, codec=codec, degree=12, build_beam=32, seed=9, threads=threads)
        index.add(clustered(700, 0))
        index.add(clustered(90, 1), labels=np.arange(90))
        index.remove([3, 720])
        index.save(tmp_path / "x")
        files.append((tmp_path / "x").read_bytes())
    assert files[0] == files[1] == files[2]
    other = nh.GraphIndex(DIM, metric, codec=codec, degree=12, build_beam=32, seed=10)
    other.add(clustered(700, 0))
    assert not np.array_equal(other._graph.neighbours, index._graph.neighbours[:700])


def test_codecs_are_those_of_a_graph():
    assert set(GRAPH_CODECS) == {"f32", "f16", "float8", "lvq8", "lvq4", "lvq4x8", "pq8", "rabitq"}


@pytest.mark.parametrize(
    ("codec", "metric"),
    [("f16", "l2"), ("float8", "cosine"), ("lvq4", "ip"), ("pq8", "cosine"), ("rabitq4", "l2"), ("rabitq4", "ip"),
     ("lvq4x8", "ip"), ("lvq4x8", "cosine")],
)  # fmt: skip
def test_every_codec_finds_saves_and_grows(tmp_path, codec, metric):
    """A few vectors first, which is all that a codec learns from; then many, longer ones among them.

    Of a few vectors nobody learns codewords.
    """
    base, queries = clustered(900, 0) * np.linspace(0.5, 1.5, 900)[:, None].astype(np.float32), clustered(30, 1)
    index = nh.GraphIndex(DIM, metric, codec=codec, degree=16, build_beam=48)
    for part in np.split(base, [300] if codec == "pq8" else [1, 3, 300]):
        index.add(part)
    assert reachable(index) == 900
    away = exact_distances(base, queries, metric)
    truth = np.argsort(away, axis=1, kind="stable")[:, :10]
    hits = index.search(queries, k=10, beam=400, rerank=400)
    assert recall(hits.ids, truth) >= 0.98
    inexact = 2e-2 if codec == "lvq4x8" else 2e-5
    np.testing.assert_allclose(
        hits.distances, np.take_along_axis(away, hits.ids, axis=1), rtol=inexact, atol=inexact * max(1, away.std() / 10)
    )
    index.save(tmp_path / "x")
    again = nh.load(tmp_path / "x")
    assert again.codec == codec
    loaded = again.search(queries, k=10, beam=400, rerank=400)
    np.testing.assert_array_equal(loaded.ids, hits.ids)
    np.testing.assert_array_equal(loaded.distances, hits.distances)
    for some in (index, again):
        some.add(clustered(200, 3))
        some.remove(np.arange(0, 900, 2))
        some.compact()
    assert index.search(queries, k=5).ids.tolist() == again.search(queries, k=5).ids.tolist()
    assert reachable(index) == len(index) == 650


def test_two_levels_take_a_third_of_the_memory():
    vectors = np.random.default_rng(0).standard_normal((500, 784)).astype(np.float32)
    sizes = {}
    for codec in ("lvq8", "lvq4x8"):
        index = nh.GraphIndex(784, codec=codec, degree=32, build_beam=32)
        index.add(vectors)
        sizes[codec] = index.nbytes / 500
    assert sizes["lvq4x8"] < 448 + 784 + 33 * 4 + 30
    assert sizes["lvq4x8"] < 0.35 * sizes["lvq8"]


HARD_DATA = {
    "clustered": lambda: clustered(900, 0),
    "all equal": lambda: np.ones((400, DIM), np.float32),
    "all zero": lambda: np.zeros((300, DIM), np.float32),
    "many duplicates": lambda: np.repeat(clustered(12, 0), 60, axis=0),
    "far islands": lambda: clustered(600, 0) + np.repeat(np.arange(6), 100)[:, None] * 1e4,
    "on a line": lambda: np.outer(np.arange(500), np.ones(DIM)),
    "growing norms": lambda: clustered(500, 0) * np.geomspace(1e-3, 1e3, 500)[:, None],
    "one": lambda: clustered(1, 0),
    "two": lambda: clustered(2, 0),
}


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("name", HARD_DATA)
@pytest.mark.parametrize("degree", [2, 12])
def test_every_node_is_reachable(name, metric, degree):
    values = HARD_DATA[name]().astype(np.float32)
    index = nh.GraphIndex(DIM, metric, degree=degree, build_beam=24)
    index.add(values[: len(values) // 2])
    index.add(values[len(values) // 2 :])
    assert reachable(index) == len(values)
    found = index.search(values[:1], k=len(values)).ids[0]
    assert np.array_equal(np.sort(found), np.arange(len(values)))
    neighbours = index._graph.neighbours
    for node, links in enumerate(neighbours.tolist()):
        present = [link for link in links if link >= 0]
        assert links == present + [-1] * (degree - len(present)), "links come first"
        assert node not in present
        assert len(set(present)) == len(present)


def test_duplicates_do_not_clog_a_node():
    """A thousand copies of one vector: their neighbours' lists hold few of them, and the rest is found as before."""
    values = np.concatenate([clustered(600, 0), np.repeat(clustered(1, 7), 1000, axis=0)])
    values = values[np.random.default_rng(0).permutation(1600)]
    copies = (values == clustered(1, 7)).all(axis=1)
    index = nh.GraphIndex(DIM, "l2", degree=16, build_beam=48)
    index.add(values)
    others = index._graph.neighbours[~copies]
    # A link to a copy is there once by distance, and besides only as the link of a parent.
    parents = index._graph.tensors()["parents"]
    held = np.array([sum(link >= 0 and copies[link] for link in links) for links in others.tolist()])
    owed = np.bincount(parents[copies & (parents >= 0)], minlength=1600)[~copies]
    assert (held <= owed + 1).all()
    rest = np.flatnonzero(~copies)
    queries = clustered(40, 1)
    truth = rest[np.argsort(exact_distances(values[rest], queries, "l2"), axis=1)[:, :10]]
    assert recall(index.search(queries, k=10, beam=96, allow=rest).ids, truth) > 0.95
    assert copies[index.search(clustered(1, 7), k=300, beam=300).ids].all()


@pytest.mark.parametrize("codec", ["lvq8", "f32"])
def test_inner_product_with_longer_vectors_later(codec):
    """A vector beyond the bound on the norms changes the geometry of all: the graph is made anew."""
    values, queries = clustered(800, 0), clustered(40, 1)
    values[500:] *= np.geomspace(1, 3, 300)[:, None].astype(np.float32)
    index = nh.GraphIndex(DIM, "ip", codec=codec, degree=16, build_beam=48)
    for part in np.array_split(values, 7):
        index.add(part)
    truth = np.argsort(exact_distances(values, queries, "ip"), axis=1)[:, :10]
    assert recall(index.search(queries, k=10, beam=96).ids, truth) > 0.97
    assert reachable(index) == 800
    assert np.array_equal(index.vectors([3, 799]), values[[3, 799]])


@pytest.mark.parametrize("stop_after", [0, 1, 6])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_an_interrupted_addition_leaves_what_was_there(stop_after, metric):
    values, queries = clustered(1200, 0), clustered(40, 1)
    index = make("graph-lvq8", metric)
    index.add(values[:400], labels=np.arange(400))

    class Stop(Exception):
        pass

    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) > stop_after:
            raise Stop

    longer = values[400:] * (5 if metric == "ip" else 1)  # for ip this is the way through the rebuild
    with pytest.raises(Stop):
        index.add(longer, ids=np.arange(5000, 5800), progress=progress)
    assert len(index) == 400
    assert reachable(index) == 400
    assert index._graph.neighbours.max() < 400
    truth = np.argsort(exact_distances(values[:400], queries, metric), axis=1)[:, :10]
    assert recall(index.search(queries, k=10, beam=96).ids, truth) > 0.97
    assert index.add(values[400:]).tolist() == list(range(400, 1200))
    truth = np.argsort(exact_distances(values, queries, metric), axis=1)[:, :10]
    assert recall(index.search(queries, k=10, beam=96).ids, truth) > 0.97


def test_interrupted_first_addition_leaves_an_empty_index():
    index = make("graph-f32")

    def progress(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add(clustered(100, 0), progress=progress)
    assert len(index) == 0
    index.add(clustered(100, 1))
    assert index.search(clustered(100, 1), k=1, beam=100).ids[:, 0].tolist() == list(range(100))


def test_recall_grows_with_the_beam(base, queries, built):
    truth = np.argsort(exact_distances(base, queries, "l2"), axis=1)[:, :10]
    index = built("graph-lvq8")
    got = [recall(index.search(queries, k=10, beam=beam).ids, truth) for beam in (10, 30, 300)]
    assert got[0] < got[2]
    assert got[2] > 0.995


def test_rerank_bounds_what_is_measured_exactly(base, queries, built):
    index = built("graph-lvq8")
    few, many = (index.search(queries, k=10, beam=100, rerank=rerank) for rerank in (1, 100))
    assert (many.distances <= few.distances).all()
    assert (few.ids >= 0).all(), "at least k are measured"


def test_visited_marks_survive_many_searches(base, built):
    """The set of visited nodes counts epochs in one byte: beyond 255 searches it starts again."""
    index = built("graph-f32")
    whole = index.search(base[:600], k=3, threads=1)
    for i in (0, 254, 255, 256, 599):
        assert np.array_equal(index.search(base[i], k=3).ids[0], whole.ids[i])


def test_info_and_bytes(built):
    info = built("graph-lvq8").info()
    assert info["kind"] == "graph"
    assert info["size"] == 1500
    # codes 64, vectors 96, links 64, parent 4, id 8, live 1, label 8 bytes a vector
    assert info["nbytes"] < 1500 * 245 * 1.2
    assert built("graph-f32").nbytes < 1500 * (128 + 64 + 21) * 1.2


def test_pruned_links_are_never_those_of_a_parent():
    graph = Vamana(4, 16, 0)
    rows = np.zeros((500, 16), np.float32)
    rows[:, :4] = np.random.default_rng(0).standard_normal((500, 4))
    graph.grow(make_codec("f32", 4, has_extra=False).model, rows, 0, 1)
    parents = graph.tensors()["parents"]
    children = np.flatnonzero(parents >= 0)
    assert len(children) == 499
    assert (graph.neighbours[parents[children]] == children[:, None]).any(axis=1).all()
    assert np.bincount(parents[children]).max() <= 2


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_slack_ends_walks_early(metric):
    """More slack finds more and measures more, up to what the beam alone would; easy queries cost less."""
    base, queries = clustered(3000, 0), clustered(60, 1)
    index = nh.GraphIndex(DIM, metric, degree=16, build_beam=48)
    index.add(base, labels=np.arange(3000))
    truth = np.argsort(exact_distances(base, queries, metric), axis=1, kind="stable")[:, :10]
    prepared = index._queries_of(queries)
    everything = index._points.filter(len(queries), None, None)
    recalls, work = [], []
    for slack in (0.001, 0.05, 0.2, 1e6, None):
        recalls.append(recall(index.search(queries, beam=200, slack=slack).ids, truth))
        work.append(index._found(prepared, 10, everything, index._effort_of({"beam": 200, "slack": slack}), 1).measured)
    assert recalls == sorted(recalls)
    assert all((less <= more).all() for less, more in pairwise(work))
    assert (work[0] < work[2]).mean() > 0.9
    np.testing.assert_array_equal(work[3], work[4])
    whole = index.search(queries, beam=200)
    np.testing.assert_array_equal(index.search(queries, beam=200, slack=1e6).ids, whole.ids)
    hits = index.search(queries, window=(0, 2000), beam=200, slack=0.2)
    inside = np.argsort(exact_distances(base[:2000], queries, metric), axis=1, kind="stable")[:, :10]
    assert recall(hits.ids, inside) >= 0.95
    for wrong in (0, -1.0, np.nan, np.inf, "1", True):
        with pytest.raises(InvalidArgumentError, match="slack"):
            index.search(queries, slack=wrong)
