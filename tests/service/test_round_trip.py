"""What comes over the wire is exactly what the embedded index answers."""

import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import InvalidArgumentError
from nearhash.service.background import running_server


def assert_same(served: nh.Hits, embedded: nh.Hits) -> None:
    np.testing.assert_array_equal(served.ids, embedded.ids)
    np.testing.assert_array_equal(served.distances, embedded.distances)
    assert (served.ids.dtype, served.distances.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("k", [1, 10, 700])  # 700: more than there are
def test_hits_equal_the_embedded_ones(client, index, vectors, rows, k):
    assert_same(client.search(vectors[:rows], k=k), index.search(vectors[:rows], k=k))


def test_one_vector_gives_one_row(client, index, vectors):
    hits = client.search(vectors[3])
    assert hits.ids.shape == (1, 10)
    assert_same(hits, index.search(vectors[3]))


@pytest.mark.parametrize("queries", [[], np.empty((0, 24), np.float32)])
def test_an_empty_batch_gives_no_rows(client, queries):
    hits = client.search(queries, k=4)
    assert hits.ids.shape == hits.distances.shape == (0, 4)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", ">f8", "int8", "uint8", "int32", "int64", ">i2"])
def test_queries_of_any_dtype(client, index, vectors, dtype):
    queries = (vectors[:5] * 10).astype("f4" if dtype[0] != "u" else "u1").astype(dtype)
    assert_same(client.search(queries), index.search(queries))


def test_lists_strided_and_read_only_queries(client, index, vectors):
    strided = np.asfortranarray(vectors[:40])[::-3]
    strided.flags.writeable = False
    assert_same(client.search(strided), index.search(strided))
    assert_same(client.search(vectors[:2].tolist()), index.search(vectors[:2]))


def test_windows(client, index, vectors):
    per_query = np.array([[0, 50], [-np.inf, np.inf], [7, 7], [590, np.inf]])
    assert_same(client.search(vectors[:4], window=(100, 200)), index.search(vectors[:4], window=(100, 200)))
    assert_same(client.search(vectors[:4], window=per_query), index.search(vectors[:4], window=per_query))
    assert_same(client.search(vectors[:2], window=[[0, 9], [3, 5]]), index.search(vectors[:2], window=[[0, 9], [3, 5]]))


@pytest.mark.parametrize(
    "allow",
    [
        np.array([1, 4, 31, 31, 999_999, -5]),
        np.array([1, 4], np.uint8),
        [7, 1],
        [],
        np.arange(900) % 2 == 0,
        np.zeros(3, bool),
    ],
    ids=["ids", "uint8 ids", "list", "nothing", "mask", "short mask"],
)
def test_allow(client, index, vectors, allow):
    assert_same(client.search(vectors[:3], k=4, allow=allow), index.search(vectors[:3], k=4, allow=allow))


def test_everything_at_once(client, index, vectors):
    arguments = {"k": 5, "window": (10, 400), "allow": np.arange(0, 1800, 2)}
    assert_same(client.search(vectors[:9], **arguments), index.search(vectors[:9], **arguments))


def test_hits_may_be_changed(client, vectors):
    hits = client.search(vectors[:2])
    hits.ids[0, 0] = 5
    hits.distances[:] *= 2  # numpy would refuse for a view of the message


def test_info_is_that_of_the_index(client, index):
    facts = client.info()
    server = facts.pop("server")
    assert facts.pop("collection") == "default"
    assert facts == index.info()
    assert server["version"] == nh.__version__
    assert server["limits"]["max_k"] == 10_000


def test_a_graph_over_the_wire(graph, vectors):
    windows = np.stack([np.arange(50.0), np.arange(50.0) + 80], 1)
    with running_server(graph) as address, nh.Client(address) as client:
        assert client.info()["kind"] == "graph"
        assert_same(client.search(vectors[:50]), graph.search(vectors[:50]))
        for arguments in ({"beam": 16}, {"beam": 200, "k": 3}, {"beam": 30, "window": windows}, {"allow": [4, 5, 6]}):
            assert_same(client.search(vectors[:50], **arguments), graph.search(vectors[:50], **arguments))
        for bad in ({"beam": 0}, {"beam": 3.5}):
            with pytest.raises(InvalidArgumentError, match="beam: expected"):
                client.search(vectors[:1], **bad)
        with pytest.raises(InvalidArgumentError, match=r"effort: this index knows beam.* got probes"):
            client.search(vectors[:1], probes=9)


def test_effort_reaches_the_index(scripted):
    class Effortful(scripted):
        def search(self, queries, k=10, window=None, allow=None, threads=None, beam=64, slack=0.5):
            seen.append((beam, slack, threads))
            return super().search(queries, k)

    seen: list[tuple] = []
    with running_server(Effortful(lambda _: None)) as address, nh.Client(address) as other:
        other.search(np.zeros(4), beam=np.int32(99), slack=np.float32(0.25))
        other.search(np.zeros(4))
    assert seen == [(99, 0.25, 1), (64, 0.5, 1)]
