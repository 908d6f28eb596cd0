"""PointService and searches of collections, over raw calls."""

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from nearhash.protos.v1 import points_pb2, search_pb2, tensor_pb2
from nearhash.service.catalog import Catalog
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.engine import failpoints
from nearhash.service.engine.collection import Collection
from nearhash.service.points_wire import from_found, from_ids, from_points, to_ids, to_labels, to_payload
from nearhash.service.searchable import ServedCollection
from nearhash.service.wire import to_tensor

DIM = 24
CODE = grpc.StatusCode
COLORS = ("red", "green", "blue")


def tensor(values, dtype=np.float32) -> tensor_pb2.Tensor:
    return to_tensor(np.asarray(values, dtype), "values")


def refusal(call, request) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that must fail."""
    try:
        answer = call(request, timeout=20)
        if not hasattr(answer, "DESCRIPTOR"):
            list(answer)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call did not fail")


@pytest.fixture(scope="module")
def ids() -> list[int | str]:
    return [i if i % 3 else f"point {i}" for i in range(300)]


@pytest.fixture(scope="module")
def filled(stubs, vectors, ids):
    """A collection of numbers and texts, with labels, payloads, and no changes by tests."""
    stubs.create("filled", labels=["year", "price"])
    answer = stubs.upsert(
        "filled",
        ids,
        vectors[:300],
        labels=to_labels({"year": np.arange(300), "price": np.arange(300) / 2}),
        payloads=[to_payload({"color": COLORS[i % 3], "n": i}) for i in range(300)],
    )
    assert (answer.written, answer.replaced, answer.sequence) == (300, 0, 1)
    return stubs


def search(stubs, queries, k=5, **fields):
    request = search_pb2.SearchRequest(collection="filled", queries=to_tensor(queries, "queries"), k=k, **fields)
    return from_found(stubs.search.Search(request, timeout=20), len(queries), k)


def same(found, expected) -> None:
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_searches_find_what_the_collection_finds(filled, vectors):
    collection = filled.database.get("filled")
    queries = vectors[300:307]
    same(search(filled, queries), collection.search(queries, 5))
    same(
        search(filled, queries, window=tensor([10, 90], np.float64)),
        collection.search(queries, 5, window=(10, 90)),
    )
    same(
        search(filled, queries, window=tensor([3, 9], np.float64), window_label="price"),
        collection.search(queries, 5, window=(3, 9), window_label="price"),
    )
    where = {"and": [{"eq": ["color", "red"]}, {"range": ["n", 20, None]}]}
    same(search(filled, queries, filter_json=json.dumps(where)), collection.search(queries, 5, filter=where))


def test_payloads_and_vectors_come_if_asked_for(filled, vectors):
    found = search(filled, vectors[:4], k=2, with_payloads=True, with_vectors=True)
    assert [row[0] for row in found.payloads] == [{"color": COLORS[i % 3], "n": i} for i in range(4)]
    np.testing.assert_array_equal(found.vectors[:, 0], vectors[:4])
    none = search(filled, vectors[:1], k=3, filter_json='{"eq": ["n", 7]}', with_payloads=True, with_vectors=True)
    assert none.payloads == [[{"color": "green", "n": 7}, None, None]]
    assert not none.vectors[0, 1:].any()
    assert none.ids.tolist() == [[7, -1, -1]]


def test_points_are_got_by_id_in_the_order_of_the_request(filled, vectors):
    request = points_pb2.GetRequest(collection="filled", ids=to_ids(["point 3", 999, 1, "none"]), with_payloads=True)
    points = from_points(filled.points.Get(request, timeout=20).points)
    assert [point.id for point in points] == ["point 3", 1]
    assert points[0].labels == {"year": 3, "price": 1.5}
    assert points[0].payload == {"color": "red", "n": 3}
    assert points[0].vector is None
    request = points_pb2.GetRequest(collection="filled", ids=to_ids([1]), with_vectors=True)
    (point,) = from_points(filled.points.Get(request, timeout=20).points)
    np.testing.assert_array_equal(point.vector, vectors[1])
    assert point.payload is None


def test_points_are_counted(filled):
    def count(**fields) -> int:
        return filled.points.Count(points_pb2.CountRequest(collection="filled", **fields), timeout=20).count

    assert count() == 300
    assert count(filter_json='{"eq": ["color", "red"]}') == 100
    assert count(window=tensor([0, 50], np.float64), filter_json='{"eq": ["color", "red"]}') == 17
    assert count(window=tensor([0, 50], np.float64), window_label="price") == 100


def scrolled(stubs, **fields) -> Iterator[points_pb2.ScrollResponse]:
    return stubs.points.Scroll(points_pb2.ScrollRequest(collection="filled", **fields), timeout=20)


def test_a_scroll_brings_every_point_once_in_messages_of_the_size_asked_for(filled, ids):
    messages = list(scrolled(filled, page_size=90, with_payloads=True))
    sizes = [len(message.points.payloads) for message in messages]
    assert sizes == [90, 90, 90, 30]
    points = [point for message in messages for point in from_points(message.points)]
    assert [point.id for point in points] == sorted(i for i in ids if isinstance(i, int)) + sorted(
        i for i in ids if isinstance(i, str)
    )
    rest = list(scrolled(filled, page_size=90, with_payloads=True, cursor=messages[1].cursor))
    assert [message.SerializeToString() for message in rest] == [m.SerializeToString() for m in messages[2:]]


def test_a_scroll_may_be_restricted(filled):
    def found(**fields) -> set[int | str]:
        return {one for message in scrolled(filled, **fields) for one in from_ids(message.points.ids)}

    assert found(filter_json='{"eq": ["n", 8]}') == {8}
    assert found(window=tensor([8, 11], np.float64)) == {8, "point 9", 10}
    assert found(window=tensor([2, 3], np.float64), window_label="price") == {4, 5}
    assert found(filter_json='{"eq": ["n", 1000]}') == set()


def test_messages_of_a_scroll_stay_within_the_limit(serve_folder, tmp_path):
    """Few points come where they are long, and the first read is not of all that was asked for."""
    config = ServerConfig(limits=Limits(max_message_bytes=2**18))
    payload = to_payload({"text": "x" * 20_000})
    with serve_folder(tmp_path, config) as stubs:
        stubs.create("filled", dim=2)
        for first in range(0, 60, 10):
            stubs.upsert("filled", range(first, first + 10), np.ones((10, 2), np.float32), payloads=[payload] * 10)
        messages = list(scrolled(stubs, page_size=1000, with_payloads=True))
        assert [one for message in messages for one in from_ids(message.points.ids)] == list(range(60))
        assert len(messages) > 10
        assert max(message.ByteSize() for message in messages) < 2**18


def test_a_scroll_reads_no_further_than_its_reader_takes(serve_folder, tmp_path, monkeypatch):
    """One message for each that was taken and a few in buffers of the transport; none at all after a cancellation."""
    reads = []
    scroll = Collection.scroll

    def counted(self, *arguments, **options):
        reads.append(options["cursor"])
        return scroll(self, *arguments, **options)

    monkeypatch.setattr(Collection, "scroll", counted)
    with serve_folder(tmp_path) as stubs:
        stubs.create("filled", dim=2048, seal_at=1_000_000)  # no graph is built meanwhile
        vectors = np.ones((500, 2048), np.float32)
        for first in range(0, 2000, 500):
            stubs.upsert("filled", range(first, first + 500), vectors)
        call = scrolled(stubs, page_size=50, with_vectors=True)  # 400 KB each
        next(call)
        time.sleep(0.3)
        assert len(reads) < 20  # of 40
        call.cancel()
        seen, end = -1, time.monotonic() + 20
        while seen != len(reads):  # the server may take a while to notice
            assert time.monotonic() < end
            seen = len(reads)
            time.sleep(0.2)
        assert len(reads) < 30


def test_a_write_is_in_every_later_search_and_a_deletion_in_none(stubs, vectors):
    stubs.create("changing", labels=["year"])
    answer = stubs.upsert("changing", [1, "b"], vectors[:2], labels=to_labels([1.0, np.nan]))
    assert answer.written == 2
    again = stubs.upsert("changing", ["b", 3], vectors[1:3])
    assert (again.written, again.replaced, again.sequence) == (2, 1, 2)
    assert stubs.database.get("changing").get([1])[0].labels == {"year": 1.0}

    def nearest(query) -> list[int | str]:
        request = search_pb2.SearchRequest(collection="changing", queries=tensor(query), k=1)
        return from_found(stubs.search.Search(request, timeout=20), 1, 1).ids[0, 0]

    assert [nearest(vectors[i]) for i in range(3)] == [1, "b", 3]
    request = points_pb2.DeleteRequest(collection="changing", ids=to_ids(["b", "unknown"]))
    answer = stubs.points.Delete(request, timeout=20)
    assert (answer.deleted, answer.sequence) == (1, 3)
    assert nearest(vectors[1]) != "b"


def test_a_request_with_an_id_is_carried_out_once(stubs, vectors):
    stubs.create("once")
    first = stubs.upsert("once", [1], vectors[:1], request_id="a")
    assert stubs.upsert("once", [1], vectors[:1], request_id="a") == first
    assert stubs.upsert("once", [1], vectors[:1], request_id="b").replaced == 1
    request = points_pb2.DeleteRequest(collection="once", ids=to_ids([1]), request_id="c")
    assert stubs.points.Delete(request, timeout=20) == stubs.points.Delete(request, timeout=20)


def test_vectors_of_any_numeric_dtype(stubs):
    stubs.create("dtypes", dim=3)
    for number, dtype in enumerate((np.uint8, np.int16, np.float16, np.float64)):
        stubs.upsert("dtypes", [number], np.array([[1, 2, 250]], np.int64).clip(0, 120).astype(dtype))
    points = stubs.database.get("dtypes").get(range(4), vectors=True)
    assert all(point.vector.tolist() == [1, 2, 120] for point in points)


ONE = {"ids": to_ids([1, 2]), "vectors": tensor(np.zeros((2, DIM)))}
BAD_UPSERTS = {
    "batch": ({"ids": points_pb2.Ids(numbers=bytes(8 * 65_537))}, "max_batch: 65537 points in a request"),
    "no vectors": ({"vectors": None}, "vectors: expected a tensor, got none"),
    "fewer vectors": ({"vectors": tensor(np.zeros((1, DIM)))}, "vectors: expected 2, one for each id, got 1"),
    "wrong dim": ({"vectors": tensor(np.zeros((2, 5)))}, f"vectors: expected dimension {DIM}, got 5"),
    "one axis": ({"vectors": tensor(np.zeros(2 * DIM))}, "vectors.shape: expected 2 axes"),
    "bools": ({"vectors": tensor(np.zeros((2, DIM)), np.bool_)}, "vectors: expected numbers, got bool"),
    "nan": ({"vectors": tensor(np.full((2, DIM), np.nan))}, "vectors"),
    "id bytes": ({"ids": points_pb2.Ids(numbers=b"123456789")}, "ids.numbers: expected 8 bytes for each id, got 9"),
    "no id": ({"ids": points_pb2.Ids(numbers=np.array([1, -1]).tobytes())}, "ids.numbers: expected ids, got -1"),
    "no text": ({"ids": points_pb2.Ids(numbers=np.array([1, -2]).tobytes())}, "ids.texts: expected each of 0 texts"),
    "spare text": ({"ids": points_pb2.Ids(numbers=np.array([1, 2]).tobytes(), texts=["a"])}, "ids.texts"),
    "lowest int64": ({"ids": points_pb2.Ids(numbers=np.array([1, -(2**63)]).tobytes(), texts=["a"])}, "ids.texts"),
    "same numbers": ({"ids": points_pb2.Ids(numbers=np.array([1, 1]).tobytes())}, "ids: expected distinct ids, got 1"),
    "same texts": (
        {"ids": points_pb2.Ids(numbers=np.array([-2, -3]).tobytes(), texts=["a", "a"])},
        "ids: expected distinct ids, got 'a'",
    ),
    "empty text": (
        {"ids": points_pb2.Ids(numbers=np.array([1, -2]).tobytes(), texts=[""])},
        "ids: expected texts of 1",
    ),
    "long text": ({"ids": points_pb2.Ids(numbers=np.array([1, -2]).tobytes(), texts=["é" * 257])}, "ids: .* got 514"),
    "unknown label": ({"labels": to_labels({"x": [1, 2]})}, "labels: expected year, price, got 'x'"),
    "label twice": ({"labels": to_labels({"": [1, 2], "year": [1, 2]})}, "labels: expected year, price, each once"),
    "label count": ({"labels": to_labels({"year": [1]})}, r"labels\['year'\]: expected 2 numbers"),
    "label dtype": ({"labels": {"year": tensor([1, 2])}}, r"labels\['year'\]: expected float64, got float32"),
    "payload count": ({"payloads": [b"{}"]}, "payloads: expected none or 2"),
    "payload list": ({"payloads": [b"{}", b"[]"]}, r"payloads\[1\]"),
    "payload text": ({"payloads": [b"{}", b"{"]}, r"payloads\[1\]: not valid JSON"),
    "deep payload": ({"payloads": [b"{}", b'{"a":' * 40 + b"1" + b"}" * 40]}, r"payloads\[1\]: .* 32 deep"),
    "abyss": ({"payloads": [b"{}", b'{"a":' * 100_000]}, r"payloads\[1\]: .* 32 deep"),
    "long payload": ({"payloads": [b"{}", b" " * 2**21]}, "max_payload_bytes: a payload of 2097152 bytes"),
    "request id": ({"request_id": "x" * 129}, "request_id: expected 1 to 128 bytes"),
}


@pytest.mark.parametrize("name", BAD_UPSERTS)
def test_a_bad_upsert_is_refused_and_writes_nothing(filled, name):
    change, message = BAD_UPSERTS[name]
    fields = {key: value for key, value in {**ONE, **change}.items() if value is not None}
    before = filled.database.get("filled").stats()["sequence"]
    code, details = refusal(filled.points.Upsert, points_pb2.UpsertRequest(collection="filled", **fields))
    assert code is CODE.INVALID_ARGUMENT, details
    assert re.match(message, details), details
    assert filled.database.get("filled").stats()["sequence"] == before


BAD_READS = {
    "k": ("Search", search_pb2.SearchRequest(queries=tensor(np.zeros((1, DIM)))), "k: expected at least 1"),
    "allow": (
        "Search",
        search_pb2.SearchRequest(queries=tensor(np.zeros((1, DIM))), k=1, allow=tensor([1], np.int64)),
        "allow: expected none, as this is a collection",
    ),
    "filter": (
        "Search",
        search_pb2.SearchRequest(queries=tensor(np.zeros((1, DIM))), k=1, filter_json='{"or": 3}'),
        "where: 'or'",
    ),
    "label": (
        "Search",
        search_pb2.SearchRequest(queries=tensor(np.zeros((1, DIM))), k=1, window_label="x"),
        "window_label: expected one of year, price, got 'x'",
    ),
    "recall": (
        "Search",
        search_pb2.SearchRequest(queries=tensor(np.zeros((1, DIM))), k=1, recall=2.0),
        "recall",
    ),
    "effort": (
        "Search",
        search_pb2.SearchRequest(
            queries=tensor(np.zeros((1, DIM))), k=1, effort={"payloads": search_pb2.Scalar(integer=1)}
        ),
        "effort: 'payloads' is not the name of an effort",
    ),
    "vectors": (
        "Search",
        search_pb2.SearchRequest(queries=tensor(np.zeros((100, DIM))), k=10_000, with_vectors=True),
        "max_message_bytes: the answer to 100 queries",
    ),
    "get": ("Get", points_pb2.GetRequest(ids=points_pb2.Ids(numbers=b"1")), "ids.numbers"),
    "get twice": (
        "Get",
        points_pb2.GetRequest(ids=points_pb2.Ids(numbers=np.array([1, 1]).tobytes())),
        "ids: expected distinct",
    ),
    "many": ("Get", points_pb2.GetRequest(ids=points_pb2.Ids(numbers=bytes(8 * 65_537))), "max_ids: 65537 ids"),
    "delete": ("Delete", points_pb2.DeleteRequest(ids=points_pb2.Ids(numbers=b"1")), "ids.numbers"),
    "count": ("Count", points_pb2.CountRequest(window=tensor([[1, 2]], np.float64)), "window.shape"),
    "count order": ("Count", points_pb2.CountRequest(window=tensor([2, 1], np.float64)), "window"),
    "count filter": ("Count", points_pb2.CountRequest(filter_json="{"), "where: not valid JSON"),
    "scroll": ("Scroll", points_pb2.ScrollRequest(window=tensor([1, 2, 3], np.float64)), "window: expected shape"),
    "scroll filter": ("Scroll", points_pb2.ScrollRequest(filter_json="[" * 9999), "where: not valid JSON"),
    "cursor": ("Scroll", points_pb2.ScrollRequest(cursor="{}"), "cursor: expected one that a page had"),
}


@pytest.mark.parametrize("name", BAD_READS)
def test_a_bad_read_is_refused(filled, name):
    method, request, message = BAD_READS[name]
    request.collection = "filled"
    service = filled.search if method == "Search" else filled.points
    code, details = refusal(getattr(service, method), request)
    assert code is CODE.INVALID_ARGUMENT, details
    assert details.startswith(message), details


def test_bytes_that_are_no_message_are_refused(stubs):
    for method in ("Upsert", "Delete", "Get", "Count", "Scroll"):
        call = stubs.channel.unary_stream(f"/nearhash.v1.PointService/{method}")
        code, details = refusal(call, b"\xff\xff\xff")
        assert code is CODE.INVALID_ARGUMENT
        assert details == f"request: expected a {method}Request message, got other bytes"


def test_a_collection_that_is_known_is_not_looked_up_or_counted_again(stubs, vectors, monkeypatch):
    """Empty or not: its truth would be its size, which reader processes look up on the disk."""
    stubs.create("without")
    search = search_pb2.SearchRequest(collection="without", queries=tensor(vectors[:1]), k=1)
    stubs.search.Search(search, timeout=20)
    monkeypatch.setattr(ServedCollection, "__len__", lambda _: pytest.fail("counted"))
    monkeypatch.setattr(Catalog, "find", lambda *_: pytest.fail("looked up"))
    assert stubs.search.Search(search, timeout=20).ids.shape == [1, 1]
    assert stubs.points.Count(points_pb2.CountRequest(collection="without"), timeout=20).count == 0


def test_a_collection_that_is_not_there_is_not_found(stubs):
    for call, request in (
        (stubs.search.Search, search_pb2.SearchRequest),
        (stubs.search.GetInfo, search_pb2.GetInfoRequest),
        (stubs.points.Upsert, points_pb2.UpsertRequest),
        (stubs.points.Delete, points_pb2.DeleteRequest),
        (stubs.points.Get, points_pb2.GetRequest),
        (stubs.points.Count, points_pb2.CountRequest),
        (stubs.points.Scroll, points_pb2.ScrollRequest),
    ):
        for name in ("nothing", "", "../filled"):  # the empty name is that of the default one
            assert refusal(call, request(collection=name))[0] is CODE.NOT_FOUND


@pytest.fixture
def failing() -> Iterator[None]:
    yield
    failpoints.arm(None)


def test_a_full_disk_stops_writes_until_there_is_room_and_searches_go_on(serve_folder, tmp_path, vectors, failing):
    with serve_folder(tmp_path) as stubs:
        stubs.create("filled")
        stubs.upsert("filled", range(10), vectors[:10])
        failpoints.arm("commit.written=full")
        request = points_pb2.UpsertRequest(collection="filled", ids=to_ids([77]), vectors=tensor(vectors[:1]))
        code, details = refusal(stubs.points.Upsert, request)
        assert code is CODE.RESOURCE_EXHAUSTED
        assert details == "writes have stopped until there is room, as the disk is full; searches go on"
        assert search(stubs, vectors[:1], k=1).ids.tolist() == [[0]]
        failpoints.arm(None)
        stubs.points.Upsert(request, timeout=20)


def test_a_failed_disk_stops_writes_for_good_and_searches_go_on(serve_folder, tmp_path, vectors, failing):
    with serve_folder(tmp_path) as stubs:
        stubs.create("filled")
        stubs.upsert("filled", range(10), vectors[:10])
        failpoints.arm("commit.written=io")
        request = points_pb2.UpsertRequest(collection="filled", ids=to_ids([77]), vectors=tensor(vectors[:1]))
        for _ in range(2):
            code, details = refusal(stubs.points.Upsert, request)
            assert code is CODE.FAILED_PRECONDITION
            assert details.startswith("writes have stopped until the server has been started anew")
            assert str(tmp_path) not in details
            failpoints.arm(None)
        assert search(stubs, vectors[:1], k=1).ids.tolist() == [[0]]


class Held:
    """Holds every call of a method until it is let go."""

    def __init__(self, monkeypatch, name: str) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        method = getattr(Collection, name)

        def held(collection, *arguments, **options):
            self.entered.release()
            assert self.go.wait(20)
            return method(collection, *arguments, **options)

        monkeypatch.setattr(Collection, name, held)


def test_writes_do_not_wait_behind_searches(serve_folder, tmp_path, vectors, monkeypatch):
    with serve_folder(tmp_path, ServerConfig(workers=1)) as stubs:
        stubs.create("filled")
        stubs.upsert("filled", [1], vectors[:1])
        held = Held(monkeypatch, "search")
        request = search_pb2.SearchRequest(collection="filled", queries=tensor(vectors[:1]), k=1)
        waiting = stubs.search.Search.future(request, timeout=20)
        assert held.entered.acquire(timeout=20)
        assert stubs.upsert("filled", [2], vectors[:1]).written == 1
        assert not waiting.done()
        held.go.set()
        waiting.result()


def test_writes_of_many_callers_run_at_the_same_time(serve_folder, tmp_path, vectors, monkeypatch):
    with serve_folder(tmp_path) as stubs, ThreadPoolExecutor(8) as threads:
        stubs.create("filled")
        held = Held(monkeypatch, "upsert")
        calls = [threads.submit(stubs.upsert, "filled", [i], vectors[:1]) for i in range(8)]
        assert all(held.entered.acquire(timeout=20) for _ in range(8))
        held.go.set()
        assert sorted(call.result().sequence for call in calls) == list(range(1, 9))


def test_accepted_writes_are_acknowledged_while_the_server_drains(serve_folder, tmp_path, vectors, monkeypatch):
    server = serve_folder(tmp_path)
    stubs = server.__enter__()
    stubs.create("filled")
    held = Held(monkeypatch, "upsert")
    request = points_pb2.UpsertRequest(collection="filled", ids=to_ids([5]), vectors=tensor(vectors[:1]))
    accepted = stubs.points.Upsert.future(request, timeout=20)
    assert held.entered.acquire(timeout=20)
    # The channel of the fixture would be closed before the answer comes: drain in another thread, answer first.
    leaving = threading.Timer(0.2, held.go.set)
    leaving.start()
    done = threading.Event()
    accepted.add_done_callback(lambda _: done.set())
    assert done.wait(20)
    assert accepted.result().written == 1
    server.__exit__(None, None, None)
    with Collection(tmp_path / "collections" / "filled") as reopened:
        assert len(reopened) == 1


def test_a_write_whose_caller_has_left_is_whole_or_not_there(serve_folder, tmp_path, vectors, monkeypatch):
    config = ServerConfig(limits=Limits(max_pending=20))
    with serve_folder(tmp_path, config) as stubs:
        stubs.create("filled")
        held = Held(monkeypatch, "upsert")
        requests = [
            points_pb2.UpsertRequest(collection="filled", ids=to_ids([2 * i, 2 * i + 1]), vectors=tensor(vectors[:2]))
            for i in range(18)
        ]
        calls = [stubs.points.Upsert.future(request, timeout=20) for request in requests]
        assert all(held.entered.acquire(timeout=20) for _ in range(16))  # the other two wait
        for call in calls:
            call.cancel()
        for _ in range(3):  # on the same connection, and answered by the same loop, so that it knows of those who left
            stubs.points.Count(points_pb2.CountRequest(collection="filled"), timeout=20)
            time.sleep(0.05)
        held.go.set()
        end = time.monotonic() + 20
        collection = stubs.database.get("filled")
        while len(collection) < 32 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(collection) == 32
        stubs.upsert("filled", [99], vectors[:1])  # the places are free again
        assert len(collection) == 33


def test_requests_hold_no_more_bytes_than_the_budget(serve_folder, tmp_path, vectors, monkeypatch):
    config = ServerConfig(limits=Limits(max_pending_bytes=3 * 96 * 100 + 5_000))
    with serve_folder(tmp_path, config) as stubs:
        stubs.create("filled")
        held = Held(monkeypatch, "upsert")
        requests = [
            points_pb2.UpsertRequest(
                collection="filled", ids=to_ids(range(100 * i, 100 * i + 100)), vectors=tensor(vectors[:100])
            )
            for i in range(6)
        ]
        calls = [stubs.points.Upsert.future(request, timeout=20) for request in requests]
        end = time.monotonic() + 20
        while sum(call.done() for call in calls) < 3 and time.monotonic() < end:
            time.sleep(0.005)
        refused = [call for call in calls if call.done()]
        for call in refused:
            assert call.code() is CODE.RESOURCE_EXHAUSTED
            assert call.details().startswith("max_pending_bytes: requests that are being answered hold ")
            assert float(dict(call.trailing_metadata())["retry-after"]) > 0
        held.go.set()
        assert len(refused) == 3
        assert all(call.result().written == 100 for call in calls if call not in refused)
        stubs.upsert("filled", range(1000, 1600), vectors)  # one that exceeds the budget alone is served alone
