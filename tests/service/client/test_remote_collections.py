"""Remote collections give what embedded ones give: both clients against a real server and a collection beside it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nearhash as nh
from nearhash import where
from nearhash.errors import (
    CollectionExistsError,
    DimensionError,
    DtypeError,
    DuplicateIdError,
    InvalidArgumentError,
    UnknownCollectionError,
)
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.engine.database import Database

DIM = 8
COUNT = 60
IDS = [row if row % 3 else f"text {row}" for row in range(COUNT)]
VECTORS = np.random.default_rng(3).standard_normal((COUNT, DIM)).astype(np.float32)
LABELS = {"year": np.where(np.arange(COUNT) % 5, 2000.0 + np.arange(COUNT), np.nan), "size": np.arange(COUNT)}
PAYLOADS = [
    {"color": ["red", "blue"][row % 2], "n": row, "tags": ["ä", "b"]} if row % 4 else None for row in range(COUNT)
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with Database(tmp_path_factory.mktemp("database")) as database, running_server(None, database=database) as bound:
        yield bound


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded") / "points"
    with nh.Collection(folder, dim=DIM, metric="l2", labels=("year", "size")) as collection:
        collection.upsert(IDS, VECTORS, LABELS, PAYLOADS)
        yield collection


@pytest.fixture
def client(make_client, address):
    return make_client(address)


@pytest.fixture
def filled(client):
    """A collection with the same points as the embedded one."""
    collection = client.create_collection("points", DIM, "l2", ("year", "size"), if_missing=True)
    if not collection.count():
        collection.upsert(IDS, VECTORS, LABELS, PAYLOADS)
    return collection


def assert_points_equal(got, expected):
    assert [one and one[:3] for one in got] == [one and one[:3] for one in expected]
    for one, other in zip(got, expected, strict=True):
        if one is not None:
            assert (one.vector is None) == (other.vector is None)
            np.testing.assert_array_equal(one.vector, other.vector)


def test_get(filled, embedded):
    ids = [*IDS, 999, "nobody"]
    for options in ({}, {"vectors": True}, {"payloads": False}, {"vectors": True, "payloads": False}):
        got = filled.get(ids, **options)
        assert_points_equal(got, embedded.get(ids, **options))
        assert got[-2:] == [None, None]
    assert filled.get([]) == []
    assert filled.get("text 0")[0].id == "text 0"
    assert filled.get(np.array([1, 2]))[1].id == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 70},
        {"window": (2010, 2030)},
        {"window": np.stack([np.arange(7) + 2000.0, np.arange(7) + 2020.0], 1)},
        {"window": (5, 30), "window_label": "size"},
        {"filter": where.eq("color", "red") & ~where.range("n", None, 20)},
        {"filter": {"in": ["n", [1, 2, 3]]}, "payloads": True, "vectors": True},
        {"filter": '{"exists":"nothing"}', "payloads": True},
        {"payloads": True, "k": 3},
        {"vectors": True, "k": 3},
        {"beam": 64, "recall": None},
    ],
    ids=str,
)
def test_search(filled, embedded, options):
    queries = VECTORS[:7] + 0.1
    got, expected = filled.search(queries, **options), embedded.search(queries, **options)
    assert got.ids.dtype == expected.ids.dtype
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_allclose(got.distances, expected.distances, rtol=1e-5)
    assert got.payloads == expected.payloads
    assert (got.vectors is None) == (expected.vectors is None)
    np.testing.assert_array_equal(got.vectors, expected.vectors)


def test_search_of_no_query_and_of_one(filled, embedded):
    empty = filled.search(np.zeros((0, DIM)), payloads=True, vectors=True)
    assert empty.ids.shape == (0, 10)
    assert empty.payloads == []
    assert empty.vectors.shape == (0, 10, DIM)
    assert filled.search(VECTORS[1], k=1).ids.tolist() == [[1]]


def test_count_and_scroll(filled, embedded):
    for options in (
        {},
        {"window": (2010, 2030)},
        {"window": [5, 30], "window_label": "size"},
        {"filter": where.eq("color", "red")},
        {"filter": where.eq("color", "red"), "window": (2010, np.inf)},
    ):
        assert filled.count(**options) == embedded.count(**options)
        for more in ({"vectors": True}, {"payloads": False, "page_size": 7}):
            pages = list(filled.scroll(**options, **more))
            points = [point for page in pages for point in page.points]
            assert_points_equal(points, [point for page in embedded.scroll(**options, **more) for point in page.points])
            assert max(len(page.points) for page in pages) <= more.get("page_size", 1000)
            rest = [point.id for page in filled.scroll(**options, cursor=pages[0].cursor) for point in page.points]
            assert rest == [point.id for point in points[len(pages[0].points) :]]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u2"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "list"])
def test_vectors_of_any_dtype_and_layout(client, dtype, layout):
    collection = client.create_collection("dtypes", 3, "l2", if_missing=True)
    vectors = (np.arange(12).reshape(4, 3) * 2).astype(dtype)
    given = {
        "C": vectors,
        "F": np.asfortranarray(vectors),
        "strided": np.repeat(vectors, 2, axis=0)[::2],
        "list": vectors.tolist(),
    }[layout]
    ids = np.arange(8, dtype=np.uint16)[::2]
    assert collection.upsert(ids, given).written == 4
    points = collection.get(ids, vectors=True)
    np.testing.assert_array_equal([point.vector for point in points], vectors.astype(np.float32))
    assert points[0].vector.dtype == np.float32
    assert collection.search(given, k=1).ids[:, 0].tolist() == [0, 2, 4, 6]


def test_writes(client):
    collection = client.create_collection("writes", 2, labels=["year"])
    first = collection.upsert([1, "a"], [[1, 0], [0, 1]], [2020, np.nan], [{"x": 1}, b'{"y":2}'])
    again = collection.upsert("a", [1, 1], request_id="once")
    assert (first.written, first.replaced) == (2, 0)
    assert (again.written, again.replaced) == (1, 1)
    assert again.sequence > first.sequence
    assert collection.upsert("a", [1, 1], request_id="once") == again
    assert collection.get([1, "a"]) == [(1, {"year": 2020}, {"x": 1}, None), ("a", {}, None, None)]
    deleted = collection.delete([1, 77, "b"])
    assert deleted.deleted == 1
    assert deleted.sequence > again.sequence
    assert collection.count() == 1
    assert collection.name == "writes"
    client.drop_collection("writes")


def test_collections(client, make_client):
    copy = f"copy-{make_client.kind}"
    options = {"index": "ivf", "index_options": {"lists": 8}, "seal_at": 5000}
    made = client.create_collection("made", np.int64(4), "ip", ["a", "b"], **options)
    expected = {"name": "made", "dim": 4, "metric": "ip", "labels": ["a", "b"], **options, "size": 0, "state": "ok"}
    assert made.describe() == client.describe("made") == client.collections()["made"] == expected
    assert made.stats()["metric"] == "ip"
    with pytest.raises(CollectionExistsError, match="'made'"):
        client.create_collection("made", 4)
    client.create_collection("made", 4, if_missing=True)
    with pytest.raises(InvalidArgumentError, match="metric"):
        client.create_collection("made", 4, "l2", if_missing=True)
    made.upsert([5], np.ones((1, 4)), payloads=[{"a": 1}])
    info = client.snapshot("made", copy)
    assert info[:2] == (copy, "made")
    assert info.bytes > 0
    assert info in client.snapshots()
    client.drop_collection("made")
    with pytest.raises(UnknownCollectionError, match="made"):
        made.count()
    assert client.restore(copy, "back").get([5])[0].payload == {"a": 1}
    for call in (
        lambda: client.describe("nobody"),
        lambda: client.drop_collection("nobody"),
        lambda: client.snapshot("nobody"),
        lambda: client.restore("nobody", "other"),
        lambda: list(client.collection("nobody").scroll()),
        lambda: client.collection("nobody").search(np.zeros(4)),
        lambda: client.collection("nobody").upsert([1], np.zeros((1, 4))),
    ):
        with pytest.raises(UnknownCollectionError):
            call()
    client.drop_collection("back")


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.upsert([1, 1], np.zeros((2, DIM))), DuplicateIdError),
        (lambda c: c.upsert([1], np.zeros((1, 5))), DimensionError),
        (lambda c: c.upsert([1], np.zeros((1, 1, DIM))), DimensionError),
        (lambda c: c.upsert([1, 2], np.zeros((1, DIM))), InvalidArgumentError),
        (lambda c: c.upsert([-1], np.zeros((1, DIM))), InvalidArgumentError),
        (lambda c: c.upsert([1.5], np.zeros((1, DIM))), DtypeError),
        (lambda c: c.upsert([""], np.zeros((1, DIM))), InvalidArgumentError),
        (lambda c: c.upsert([1], np.full((1, DIM), np.nan)), InvalidArgumentError),
        (lambda c: c.upsert([1], np.full((1, DIM), 1e300)), InvalidArgumentError),
        (lambda c: c.upsert([1], np.ones((1, DIM), bool)), DtypeError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), {"month": [1]}), InvalidArgumentError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), [1, 2]), InvalidArgumentError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), payloads=[{}, {}]), InvalidArgumentError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), payloads=[{"a": float("nan")}]), InvalidArgumentError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), payloads=[b"[]"]), DtypeError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), request_id=""), InvalidArgumentError),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), request_id="x" * 200), InvalidArgumentError),
        (lambda c: c.get([True]), DtypeError),
        (lambda c: c.search(np.zeros(5)), DimensionError),
        (lambda c: c.search(np.zeros(DIM), 0), InvalidArgumentError),
        (lambda c: c.search(np.zeros(DIM), filter="nonsense"), InvalidArgumentError),
        (lambda c: c.search(np.zeros(DIM), filter=7), InvalidArgumentError),
        (lambda c: c.search(np.zeros(DIM), filter={"eq": {1, 2}}), InvalidArgumentError),
        (lambda c: c.search(np.zeros(DIM), window=(2, 1)), InvalidArgumentError),
        (lambda c: c.search(np.zeros(DIM), window=(1, 2), window_label="month"), InvalidArgumentError),
        (lambda c: c.count((1, 2, 3)), InvalidArgumentError),
        (lambda c: list(c.scroll(page_size=0)), InvalidArgumentError),
        (lambda c: list(c.scroll(cursor="nonsense")), InvalidArgumentError),
    ],
)
def test_errors_are_those_of_the_embedded_collection(filled, embedded, call, kind):
    for collection in (embedded, filled):
        with pytest.raises(InvalidArgumentError) as failure:
            call(collection)
        assert type(failure.value) is kind
    assert embedded.count() == filled.count() == COUNT


def test_arguments_that_only_clients_check(client):
    for call in (
        lambda: client.collection(""),
        lambda: client.describe(7),
        lambda: client.create_collection("x", 0),
        lambda: client.create_collection("x", 2.5),
        lambda: client.create_collection("x", 4, metric=3),
        lambda: client.create_collection("x", 4, index_options={"a": object()}),
        lambda: client.create_collection("../x", 4),
        lambda: client.restore("", "x"),
        lambda: client.collection("x").count(timeout=-1),
        lambda: client.collection("x").scroll(timeout=float("nan")),
    ):
        with pytest.raises(InvalidArgumentError, match=r"(name|dim|metric|index_options|snapshot|timeout): "):
            call()


def test_large_batches_are_cut_within_the_limits_of_the_server(make_client, tmp_path):
    limits = Limits(max_message_bytes=20_000, max_batch=70, max_ids=90, max_rows=40)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((400, DIM)).astype(np.float32)
    ids = [f"point {row:04}" if row % 2 else row for row in range(400)]
    payloads = [{"text": "x" * int(size)} for size in rng.integers(0, 2000, 400)]
    with (
        Database(tmp_path) as database,
        running_server(None, config=ServerConfig(limits=limits), database=database) as address,
    ):
        client = make_client(address)
        collection = client.create_collection("large", DIM, "l2", ["year"])
        assert client.collection("large").upsert(ids, vectors, np.arange(400), payloads)[:2] == (400, 0)
        assert collection.upsert(ids, vectors, np.arange(400), payloads)[:2] == (400, 400)
        got = collection.get(ids, vectors=True)
        assert [point.payload for point in got] == payloads
        np.testing.assert_array_equal([point.vector for point in got], vectors)
        found = collection.search(vectors, k=5, payloads=True, vectors=True)
        assert found.ids[:, 0].tolist() == ids
        assert [row[0] for row in found.payloads] == payloads
        np.testing.assert_array_equal(found.vectors[:, 0], vectors)
        assert sum(len(page.points) for page in collection.scroll(vectors=True)) == 400
        assert collection.delete(ids).deleted == 400
        with pytest.raises(InvalidArgumentError, match=r"max_message_bytes: one point of 2\d{4} bytes"):
            collection.upsert([1, 2], vectors[:2], payloads=[None, {"a": "x" * 20_000}])
        assert collection.count() == 0


def test_sixteen_threads_on_one_client(address):
    with nh.Client(address) as client:
        collection = client.create_collection("threads", DIM, "l2")
        start = threading.Barrier(16)

        def work(number):
            start.wait()
            for turn in range(5):
                ids = [1000 * number + turn, f"{number}/{turn}"]
                vectors = np.random.default_rng((number, turn)).standard_normal((2, DIM)) + 10 * number
                collection.upsert(ids, vectors)
                assert collection.search(vectors, k=1).ids[:, 0].tolist() == ids
                assert [point.id for point in collection.get(ids)] == ids
            return True

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(16)))
        assert collection.count() == 160
        client.drop_collection("threads")


def test_many_tasks_on_one_asyncio_client(address):
    async def run():
        async with nh.AsyncClient(address) as client:
            collection = await client.create_collection("tasks", DIM, "l2")

            async def work(number):
                vector = np.full((1, DIM), number, np.float32)
                await collection.upsert([number], vector)
                assert (await collection.search(vector, k=1)).ids.tolist() == [[number]]

            await asyncio.gather(*map(work, range(50)))
            ids = [point.id async for page in collection.scroll(page_size=20) for point in page.points]
            assert ids == list(range(50))
            await client.drop_collection("tasks")
            assert "tasks" not in await client.collections()

    asyncio.run(run())
