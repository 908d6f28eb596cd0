"""Which calls are repeated, after which pauses, for how long, and under which request ids."""

import asyncio
import threading
import time
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import (
    AccessError,
    CollectionExistsError,
    CorruptCollectionError,
    DimensionError,
    InvalidArgumentError,
    LockedError,
    NearhashError,
    ReadOnlyError,
    ServiceError,
    StorageError,
    UnknownCollectionError,
)
from nearhash.protos.v1 import collections_pb2, points_pb2, search_pb2
from nearhash.service import attempts
from nearhash.service.attempts import Backoff
from nearhash.service.engine.results import Deleted, Written
from nearhash.service.points_wire import to_ids
from nearhash.service.wire import to_tensor

HIT = search_pb2.SearchResponse(
    ids=to_tensor(np.zeros((1, 2), np.int64), "ids"), distances=to_tensor(np.zeros((1, 2), np.float32), "distances")
)
WRITTEN = points_pb2.UpsertResponse(written=1, replaced=0, sequence=7)
DELETED = points_pb2.DeleteResponse(deleted=1, sequence=8)

CALLS = {
    "search": ("Search", HIT, lambda client: client.collection("c").search(np.zeros(4), k=2), True),
    "search default": ("Search", HIT, lambda client: client.search(np.zeros(4), k=2), True),
    "get": ("Get", points_pb2.GetResponse(), lambda client: client.collection("c").get([1]), True),
    "count": ("Count", points_pb2.CountResponse(count=3), lambda client: client.collection("c").count(), True),
    "stats": (
        "GetStats",
        collections_pb2.GetStatsResponse(stats_json="{}"),
        lambda client: client.collection("c").stats(),
        True,
    ),
    "upsert": ("Upsert", WRITTEN, lambda client: client.collection("c").upsert([1], np.zeros((1, 4))), True),
    "delete": ("Delete", DELETED, lambda client: client.collection("c").delete([1]), True),
    "scroll": ("Scroll", None, lambda client: list(client.collection("c").scroll()), True),
    "info": ("GetInfo", search_pb2.GetInfoResponse(details_json="{}"), lambda client: client.info(), True),
    "collections": (
        "ListCollections",
        collections_pb2.ListCollectionsResponse(),
        lambda client: client.collections(),
        True,
    ),
    "describe": (
        "DescribeCollection",
        collections_pb2.DescribeCollectionResponse(),
        lambda client: client.describe("c"),
        True,
    ),
    "snapshots": (
        "ListSnapshots",
        collections_pb2.ListSnapshotsResponse(),
        lambda client: client.snapshots(),
        True,
    ),
    "create if missing": (
        "CreateCollection",
        collections_pb2.CreateCollectionResponse(),
        lambda client: client.create_collection("c", 4, if_missing=True),
        True,
    ),
    "create": (
        "CreateCollection",
        collections_pb2.CreateCollectionResponse(),
        lambda client: client.create_collection("c", 4),
        False,
    ),
    "drop": (
        "DropCollection",
        collections_pb2.DropCollectionResponse(),
        lambda client: client.drop_collection("c"),
        False,
    ),
    "snapshot": (
        "SnapshotCollection",
        collections_pb2.SnapshotCollectionResponse(),
        lambda client: client.snapshot("c"),
        False,
    ),
    "restore": (
        "RestoreCollection",
        collections_pb2.RestoreCollectionResponse(),
        lambda client: client.restore("s", "c"),
        False,
    ),
}


def script(method, answer, *refusals):
    """Refusals, then the answer."""
    if method == "Scroll":
        return {method: [*([refusal] for refusal in refusals), []]}
    return {method: [*refusals, answer]}


@pytest.mark.parametrize("name", CALLS)
def test_unavailable_is_repeated_only_where_that_is_safe(scripted_server, refusal, make_client, name, monkeypatch):
    monkeypatch.setattr(attempts, "FIRST_DELAY", 0.005)
    method, answer, call, safe = CALLS[name]
    unavailable = refusal("UNAVAILABLE")
    with scripted_server(**script(method, answer, unavailable, unavailable)) as server:
        client = make_client(server.address, timeout=10)
        if safe:
            call(client)
        else:
            with pytest.raises(ServiceError, match="scripted UNAVAILABLE"):
                call(client)
    assert len(server.requests[method]) == (3 if safe else 1)


@pytest.mark.parametrize("name", CALLS)
def test_a_busy_server_is_asked_again_when_it_says(scripted_server, refusal, make_client, name):
    method, answer, call, _ = CALLS[name]
    busy = refusal("RESOURCE_EXHAUSTED", retry_after="0.010")
    with scripted_server(**script(method, answer, busy, busy)) as server:
        client = make_client(server.address, timeout=10)
        began = time.monotonic()
        call(client)
        assert time.monotonic() - began >= 0.03  # 0.01, and then twice that: others wait, too
    assert len(server.requests[method]) == 3


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "ABORTED", "DATA_LOSS", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"])
@pytest.mark.parametrize("name", ["upsert", "count", "scroll"])
def test_other_statuses_end_a_call(scripted_server, refusal, make_client, name, code):
    method, answer, call, _ = CALLS[name]
    with scripted_server(**script(method, answer, refusal(code))) as server:
        with pytest.raises(ServiceError, match=f"scripted {code}") as failure:
            call(make_client(server.address, timeout=10))
        assert failure.value.code == code
        assert type(failure.value) is ServiceError
    assert len(server.requests[method]) == 1


@pytest.mark.parametrize("name", ["upsert", "count", "scroll"])
@pytest.mark.parametrize("status", [("UNAVAILABLE", {}), ("RESOURCE_EXHAUSTED", {"retry_after": "0.01"})])
def test_attempts_end_with_the_deadline(scripted_server, refusal, make_client, name, status):
    method, _, call, _ = CALLS[name]
    code, metadata = status
    step = refusal(code, **metadata)
    with scripted_server(**{method: [[step]] if method == "Scroll" else [step]}) as server:
        client = make_client(server.address, timeout=0.4)
        # An attempt that begins just before the deadline may be cut off by it, and it is not known what came of it.
        with pytest.raises(ServiceError, match=f"scripted {code}|Deadline Exceeded"):
            call(client)
    assert 1 <= len(server.requests[method]) < 20


def test_a_pause_that_the_deadline_does_not_allow_is_not_begun(scripted_server, refusal, make_client):
    with scripted_server(Count=[refusal("RESOURCE_EXHAUSTED", retry_after="60")]) as server:
        began = time.monotonic()
        with pytest.raises(ServiceError, match="scripted"):
            make_client(server.address, timeout=40).collection("c").count()
        assert time.monotonic() - began < 30


def test_the_deadline_is_that_of_all_attempts_and_pieces_together(scripted_server, make_client):
    left = []

    def slow(request, context):
        left.append(context.time_remaining())
        time.sleep(0.3)
        return WRITTEN

    with scripted_server(Upsert=[slow]) as server:
        with pytest.raises(ServiceError) as failure:
            make_client(server.address).collection("c").upsert(np.arange(1000), np.zeros((1000, 4)), timeout=0.8)
        assert failure.value.code == "DEADLINE_EXCEEDED"
    assert len(left) == 3
    assert 0.9 > left[0] > left[1] + 0.2 > left[2] + 0.4
    assert failure.value.written == 200  # of two requests of 100
    assert "of 1000 points, the first 200 are known to be written" in str(failure.value)


def test_attempts_share_a_request_id_and_pieces_do_not(scripted_server, refusal, make_client):
    unavailable = refusal("UNAVAILABLE")
    with scripted_server(Upsert=[unavailable, WRITTEN, unavailable, unavailable, WRITTEN]) as server:
        collection = make_client(server.address).collection("c")
        steps = []
        ids = np.arange(250)
        written = collection.upsert(ids, np.zeros((250, 4)), progress=lambda *step: steps.append(step))
        first = [(request.request_id, request.ids.numbers) for request in server.requests["Upsert"]]
        collection.upsert([1], np.zeros((1, 4)))
        collection.upsert([1], np.zeros((1, 4)), request_id="mine")
        single = [request.request_id for request in server.requests["Upsert"][6:]]
    assert written == Written(3, 0, 7)
    assert steps == [(100, 250), (200, 250), (250, 250)]
    assert [first.index(one) for one in first] == [0, 0, 2, 2, 2, 5]
    assert len({request_id for request_id, _ in first}) == 3
    base = first[0][0].split("-")[0]
    assert [request_id for request_id, _ in first[::2]] == [f"{base}-0-100", f"{base}-100-200", f"{base}-100-200"]
    assert len(base) == 32
    assert base not in single[0]
    assert single[1] == "mine"


def test_deletions_in_pieces_add_up(scripted_server, make_client):
    with scripted_server(Delete=[DELETED]) as server:
        collection = make_client(server.address).collection("c")
        deleted = collection.delete(np.arange(250), request_id="mine")
        with pytest.raises(InvalidArgumentError, match="request_id: expected at most 120 bytes, as 250 rows"):
            collection.delete(np.arange(250), request_id="x" * 121)
    assert deleted == Deleted(3, 8)
    sent = [request.request_id for request in server.requests["Delete"]]
    assert sent == ["mine-0-100", "mine-100-200", "mine-200-250"]


def test_an_upsert_that_fails_in_the_middle_tells_what_is_written(scripted_server, refusal, make_client):
    full = refusal("RESOURCE_EXHAUSTED", "writes have stopped", nearhash_error="StorageError")
    with scripted_server(Upsert=[WRITTEN, WRITTEN, full]) as server:
        with pytest.raises(StorageError, match="writes have stopped; of 250 points, the first 200 are") as failure:
            make_client(server.address).collection("c").upsert(np.arange(250), np.zeros((250, 4)))
        assert failure.value.written == 200
        assert failure.value.reason == "disk full"
        with pytest.raises(StorageError) as failure:
            make_client(server.address).collection("c").upsert([1], np.zeros((1, 4)))
        assert failure.value.written is None  # a single request: nothing is in between
        assert str(failure.value) == "writes have stopped"


@pytest.mark.parametrize(
    ("code", "name", "kind"),
    [
        ("NOT_FOUND", "UnknownCollectionError", UnknownCollectionError),
        ("ALREADY_EXISTS", "CollectionExistsError", CollectionExistsError),
        ("FAILED_PRECONDITION", "StorageError", StorageError),
        ("FAILED_PRECONDITION", "LockedError", LockedError),
        ("FAILED_PRECONDITION", "ReadOnlyError", ReadOnlyError),
        ("INVALID_ARGUMENT", "DimensionError", DimensionError),
        ("INVALID_ARGUMENT", "", InvalidArgumentError),
        ("DATA_LOSS", "CorruptCollectionError", CorruptCollectionError),
        ("UNAUTHENTICATED", "", AccessError),
        ("PERMISSION_DENIED", "", AccessError),
        ("FAILED_PRECONDITION", "", ServiceError),
        ("INTERNAL", "KeyboardInterrupt", ServiceError),
        ("INTERNAL", "MemoryError", ServiceError),
    ],
)
def test_errors_are_those_of_the_embedded_collection(scripted_server, refusal, make_client, code, name, kind):
    step = refusal(code, "the message", **({"nearhash_error": name} if name else {}))
    with scripted_server(Count=[step], Scroll=[[step]]) as server:
        collection = make_client(server.address).collection("c")
        for call in (collection.count, lambda: list(collection.scroll())):
            with pytest.raises(NearhashError) as failure:
                call()
            assert type(failure.value) is kind
            assert str(failure.value) == "the message"
            assert getattr(failure.value, "code", code) == code


def test_a_scroll_goes_on_where_it_was(scripted_server, refusal, make_client, page_of):
    unavailable = refusal("UNAVAILABLE")
    busy = refusal("RESOURCE_EXHAUSTED", retry_after="0.01")
    streams = [[unavailable], [page_of(1, 2), page_of(3), unavailable], [busy], [page_of(4), unavailable], [page_of(5)]]
    with scripted_server(Scroll=streams) as server:
        pages = list(make_client(server.address).collection("c").scroll(page_size=7, cursor="begin"))
    assert [point.id for one in pages for point in one.points] == [1, 2, 3, 4, 5]
    assert [one.cursor for one in pages] == ["after 2", "after 3", "after 4", "after 5"]
    assert [one.cursor for one in server.requests["Scroll"]] == ["begin", "begin", "after 3", "after 3", "after 4"]
    assert {one.page_size for one in server.requests["Scroll"]} == {7}


def test_the_time_of_a_scroll_is_that_of_a_page(scripted_server, make_client, page_of):
    def late(seconds, *ids):
        def step(request, context):
            time.sleep(seconds)
            return page_of(*ids)

        return step

    streams = [[page_of(1), late(0.8, 2), late(1.6, 3)], [page_of(3)]]
    with scripted_server(Scroll=streams) as server:
        scroll = make_client(server.address).collection("c").scroll(timeout=2.0)
        assert [point.id for one in scroll for point in one.points] == [1, 2, 3]  # all of it takes longer than 2 s
    assert [one.cursor for one in server.requests["Scroll"]] == ["", "after 2"]
    with scripted_server(Scroll=[[late(0.6, 1)]]) as server:
        with pytest.raises(ServiceError) as failure:
            list(make_client(server.address).collection("c").scroll(timeout=0.3))
        assert failure.value.code == "DEADLINE_EXCEEDED"
    assert len(server.requests["Scroll"]) == 1


def test_a_scroll_that_is_left_is_cancelled(scripted_server, make_client, page_of):
    ended = threading.Event()

    def endless(request, context):
        context.add_callback(ended.set)
        return page_of(1)

    with scripted_server(Scroll=[[endless] + [page_of(2)] * 100_000]) as server:
        pages = make_client(server.address).collection("c").scroll()
        next(pages)
        pages.close()
        assert ended.wait(5)


def test_answers_too_long_are_asked_for_in_halves(scripted_server, refusal, make_client):
    too_long = "max_message_bytes: the answer has 99999 bytes, the limit is 10000; ask for less at a time"
    sizes = []

    def get(request, context):
        count = len(request.ids.numbers) // 8
        sizes.append(count)
        if count > 30:
            return refusal("INVALID_ARGUMENT", too_long, nearhash_error="InvalidArgumentError")
        return points_pb2.GetResponse(points=points_pb2.Points(ids=request.ids))

    with scripted_server(Get=[get]) as server:
        points = make_client(server.address).collection("c").get(np.arange(110))
    assert [point.id for point in points] == list(range(110))
    assert sizes == [100, 50, 25, 25, 25, 25, 10]


def test_answers_beyond_the_clients_own_limit_are_asked_for_in_halves(scripted_server, make_client, page_of):
    def get(request, context):
        ids = np.frombuffer(request.ids.numbers, "<i8").tolist()
        payloads = [b'{"a":"%900d"}' % one for one in ids]
        return points_pb2.GetResponse(points=points_pb2.Points(ids=request.ids, payloads=payloads))

    def scroll(request, context):
        last = int(request.cursor.removeprefix("after ") or 0)
        return page_of(*range(last + 1, last + 1 + request.page_size), payload={"a": "b" * 900})

    with scripted_server(Get=[get], Scroll=[[scroll], [scroll], [scroll], [scroll], []]) as server:
        collection = make_client(server.address, max_message_bytes=3000).collection("c")
        assert [point.id for point in collection.get(np.arange(5))] == list(range(5))
        pages = list(collection.scroll(page_size=8))
    assert [len(one.points) for one in pages] == [2]
    assert [one.page_size for one in server.requests["Scroll"]][:3] == [8, 4, 2]


def test_limits_are_asked_for_again_when_they_have_changed(scripted_server, refusal, make_client):
    def info(rows):
        limits = search_pb2.Limits(max_rows=rows, max_message_bytes=10_000)
        return search_pb2.GetInfoResponse(server=search_pb2.ServerInfo(limits=limits))

    answers = [refusal("INVALID_ARGUMENT", "max_rows: 1 queries in a request, the limit is 0"), HIT]
    with scripted_server(GetInfo=[info(5), info(1)], Search=answers) as server:
        collection = make_client(server.address).collection("c")
        with pytest.raises(InvalidArgumentError, match="max_rows"):
            collection.search(np.zeros((2, 4)), k=2)
        assert collection.search(np.zeros((2, 4)), k=2).ids.shape == (2, 2)
        collection.search(np.zeros((2, 4)), k=2)
    assert len(server.requests["GetInfo"]) == 2
    assert [request.collection for request in server.requests["GetInfo"]] == ["c", "c"]


@pytest.mark.parametrize(
    ("method", "answer", "call"),
    [
        ("Get", points_pb2.GetResponse(points=points_pb2.Points(ids=to_ids([9]))), lambda c: c.get([1])),
        ("Get", points_pb2.GetResponse(points=points_pb2.Points(ids=to_ids([1]))), lambda c: c.get([1], vectors=True)),
        ("Get", points_pb2.GetResponse(points=points_pb2.Points(ids={"numbers": b"abc"})), lambda c: c.get([1])),
        ("Search", HIT, lambda c: c.search(np.zeros(4), k=2, payloads=True)),
        ("Search", HIT, lambda c: c.search(np.zeros(4), k=2, vectors=True)),
        ("Search", HIT, lambda c: c.search(np.zeros(4), k=3)),
        ("GetStats", collections_pb2.GetStatsResponse(stats_json="{"), lambda c: c.stats()),
        ("GetStats", collections_pb2.GetStatsResponse(stats_json="[]"), lambda c: c.stats()),
    ],
)
def test_malformed_answers_are_not_passed_on(scripted_server, make_client, method, answer, call):
    with scripted_server(**{method: [answer]}) as server:
        with pytest.raises(ServiceError, match="answer is malformed") as failure:
            call(make_client(server.address).collection("c"))
        assert failure.value.code == "DATA_LOSS"


def test_closing_ends_calls_and_pauses(scripted_server, refusal, make_client):
    entered = threading.Event()

    def held(request, context):
        entered.set()
        time.sleep(1)
        return points_pb2.CountResponse()

    def paused(request, context):
        entered.set()
        return refusal("RESOURCE_EXHAUSTED", retry_after="0.3")

    for step in (held, paused):
        with scripted_server(Count=[step]) as server:
            client = make_client(server.address)
            failures = []

            def count(client=client, failures=failures):
                try:
                    client.collection("c").count()
                except ServiceError as error:
                    failures.append(str(error))

            entered.clear()
            calling = threading.Thread(target=count)
            calling.start()
            assert entered.wait(5)
            client.close()
            calling.join(5)
            assert failures == ["the client is closed"]
            for call in (client.health, client.info, lambda c=client: next(c.collection("c").scroll())):
                with pytest.raises(ServiceError, match="the client is closed"):
                    call()


def test_cancelling_a_task_cancels_its_request(scripted_server):
    entered, cancelled = threading.Event(), threading.Event()

    def held(request, context):
        context.add_callback(cancelled.set)
        entered.set()
        cancelled.wait(5)
        time.sleep(0.2)
        return points_pb2.CountResponse()

    async def run(address):
        async with nh.AsyncClient(address) as client:
            task = asyncio.create_task(client.collection("c").count())
            assert await asyncio.to_thread(entered.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cancelled.wait, 5)
            with pytest.raises((asyncio.TimeoutError, TimeoutError)):
                await asyncio.wait_for(client.collection("c").count(), 0.05)

    with scripted_server(Count=[held]) as server:
        asyncio.run(run(server.address))


def test_pauses_grow_and_differ():
    failure = SimpleNamespace(code=lambda: grpc.StatusCode.UNAVAILABLE, trailing_metadata=lambda: None)
    sequences = []
    for _ in range(20):
        backoff = Backoff(time.monotonic() + 1000, repeatable=True)
        sequences.append([backoff.pause_after(failure) for _ in range(8)])
    highest = np.array([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert (np.array(sequences) <= highest).all()
    assert (np.array(sequences) >= highest / 2).all()
    assert len({sequence[3] for sequence in sequences}) == 20


@pytest.mark.parametrize("told", ["0", "0.000", "nonsense", "nan", "-1", "inf"])
def test_a_strange_time_to_come_again_does_not_make_a_busy_loop(scripted_server, refusal, make_client, told):
    step = refusal("RESOURCE_EXHAUSTED", retry_after=told)
    with scripted_server(Count=[step]) as server, pytest.raises(ServiceError, match="scripted"):
        make_client(server.address, timeout=0.2).collection("c").count()
    assert len(server.requests["Count"]) < 12
