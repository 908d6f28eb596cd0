"""Many callers, more callers than places, callers in a hurry, callers that leave."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar

import grpc
import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import ServiceError
from nearhash.protos.v1 import search_pb2, search_pb2_grpc
from nearhash.service.admission import AdmissionQueue, DeadlinePassedError, QueueFullError, _Taken
from nearhash.service.background import running_server
from nearhash.service.calls import Calls
from nearhash.service.catalog import Catalog
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.handlers import SearchHandlers
from nearhash.service.queues import Queues
from nearhash.service.wire import to_tensor

ONE_WORKER = ServerConfig(workers=1, limits=Limits(max_pending=3))
REQUEST = search_pb2.SearchRequest(queries=to_tensor(np.zeros((1, 4)), "queries"), k=1)


def wait_until(condition, seconds=10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.002)


def test_many_threads_share_a_client_and_each_gets_its_own_answer(client, index, vectors):
    expected = index.search(vectors[:240], k=5)

    def ask(i: int) -> None:
        rows = slice(i, i + 1 + i % 7)
        hits = client.search(vectors[rows], k=5)
        np.testing.assert_array_equal(hits.ids, expected.ids[rows])

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(230)))


def test_many_clients_at_once(address, index, vectors):
    def ask(i: int) -> None:
        with nh.Client(address) as own:
            for _ in range(5):
                np.testing.assert_array_equal(own.search(vectors[i]).ids, index.search(vectors[i], threads=1).ids)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(16)))


def test_beyond_the_bound_requests_are_refused_at_once_and_accepted_ones_answered(scripted, gate):
    with running_server(scripted(gate), config=ONE_WORKER) as address, grpc.insecure_channel(address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        calls = [stub.Search.future(REQUEST, timeout=20) for _ in range(9)]
        wait_until(lambda: sum(call.done() for call in calls) == 6)
        refused = [call for call in calls if call.done()]
        for call in refused:
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert call.details().startswith("max_pending: 3 requests")
            metadata = dict(call.trailing_metadata())
            assert float(metadata["retry-after"]) > 0
            assert int(metadata["grpc-retry-pushback-ms"]) > 0
        gate.open.set()
        assert all(list(call.result().ids.shape) == [1, 1] for call in calls if call not in refused)
        assert gate.calls == 3
        stub.Search(REQUEST, timeout=20)  # places are free again


def test_the_client_raises_resource_exhausted(scripted, gate):
    config = ServerConfig(workers=1, limits=Limits(max_pending=1))
    with running_server(scripted(gate), config=config) as address, nh.Client(address) as client:
        held = threading.Thread(target=client.search, args=(np.zeros(4),))
        held.start()
        assert gate.entered.acquire(timeout=10)
        with pytest.raises(ServiceError, match="max_pending") as failure:
            client.search(np.zeros(4), timeout=1.0)  # it comes again as it is told, while its time allows
        assert failure.value.code == "RESOURCE_EXHAUSTED"
        assert client.info()["kind"] == "scripted"  # questions about the server need no place
        gate.open.set()
        held.join()


def test_a_deadline_during_the_search_is_exceeded(scripted, gate):
    with running_server(scripted(gate)) as address, nh.Client(address) as client:
        client.info()
        with pytest.raises(ServiceError) as failure:
            client.search(np.zeros(4), timeout=0.15)
        assert failure.value.code == "DEADLINE_EXCEEDED"
        gate.open.set()


def test_a_search_whose_deadline_passed_in_the_queue_is_not_run(scripted, gate):
    with running_server(scripted(gate), config=ONE_WORKER) as address, grpc.insecure_channel(address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        held = stub.Search.future(REQUEST, timeout=20)
        assert gate.entered.acquire(timeout=10)
        late = stub.Search.future(REQUEST, timeout=0.1)
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.open.set()
        held.result()
        stub.Search(REQUEST, timeout=20)  # behind the late one in the queue: when it is answered, that one was dropped
        assert gate.calls == 2


def test_a_request_that_comes_after_its_deadline_is_not_run(scripted, gate):
    """As the handler sees it; gRPC itself ends most such calls before."""

    class Context:
        refusals: ClassVar[list[grpc.StatusCode]] = []

        def time_remaining(self) -> float:
            return 0.0

        async def abort(self, code: grpc.StatusCode, *_: object) -> None:
            self.refusals.append(code)
            raise grpc.aio.AbortError

    async def run() -> None:
        config = ServerConfig()
        handlers = SearchHandlers(Catalog("default", scripted(gate)), config, Queues(config))
        handlers = handlers.generic_handler(Calls(config))
        method = handlers.service(SimpleNamespace(method="/nearhash.v1.SearchService/Search"))
        with pytest.raises(grpc.aio.AbortError):
            await method.unary_unary(REQUEST.SerializeToString(), Context())
        assert Context.refusals == [grpc.StatusCode.DEADLINE_EXCEEDED]
        assert gate.calls == 0

    asyncio.run(run())


def test_a_request_may_come_without_a_deadline(channel):
    queries = to_tensor(np.zeros((1, 24)), "queries")
    answer = search_pb2_grpc.SearchServiceStub(channel).Search(search_pb2.SearchRequest(queries=queries, k=1))
    assert list(answer.ids.shape) == [1, 1]


def test_the_queue_drops_a_job_whose_deadline_has_passed():
    async def run() -> None:
        queue = AdmissionQueue(workers=1, max_pending=1)
        ran: list[int] = []
        with pytest.raises(DeadlinePassedError):
            await queue.run(lambda: ran.append(1), deadline=time.monotonic() - 1)
        assert await queue.run(lambda: 5, deadline=time.monotonic() + 60) == 5
        assert not ran
        assert queue.pending == 0
        queue.close()

    asyncio.run(run())


def test_what_would_come_too_late_is_refused_before_it_takes_a_place(gate):
    async def run() -> None:
        queue = AdmissionQueue(workers=2, max_pending=100)
        held = [asyncio.ensure_future(queue.run(lambda: gate(None), deadline=None)) for _ in range(9)]
        await asyncio.sleep(0)
        queue._mean_seconds = 10.0
        with pytest.raises(QueueFullError, match=r"^deadline: .* and 9 before it take 50.000 s, or") as refused:
            await queue.run(lambda: None, deadline=time.monotonic() + 99)
        assert (refused.value.reason, refused.value.retry_after) == ("too_late", 22.5)
        assert queue.pending == 9
        later = [asyncio.ensure_future(queue.run(lambda: 5, deadline)) for deadline in (time.monotonic() + 130, None)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(*later) == [5, 5]
        await asyncio.gather(*held)
        queue.close()

    asyncio.run(run())


def test_one_long_job_does_not_make_all_look_long():
    async def run() -> None:
        queue = AdmissionQueue(workers=1, max_pending=1)
        queue._finish([], _Taken(0.0, 1, 3600.0, 0))
        assert 0.01 < queue._mean_seconds < 0.02
        for _ in range(200):
            queue._finish([], _Taken(0.0, 1, 3600.0, 0))
        assert queue._mean_seconds > 1000

    asyncio.run(run())


def test_the_queue_drops_a_job_whose_caller_has_left(gate):
    async def run() -> None:
        queue = AdmissionQueue(workers=1, max_pending=2)
        ran: list[int] = []
        held = asyncio.ensure_future(queue.run(lambda: gate(None), deadline=None))
        left = asyncio.ensure_future(queue.run(lambda: ran.append(1), deadline=None))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await held
        await queue.run(lambda: ran.append(2), deadline=None)
        assert ran == [2]
        queue.close()

    asyncio.run(run())


def test_a_cancelled_caller_frees_its_place_only_when_the_kernel_is_done(scripted, gate):
    config = ServerConfig(workers=1, limits=Limits(max_pending=1))
    with running_server(scripted(gate), config=config) as address, grpc.insecure_channel(address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        left = stub.Search.future(REQUEST, timeout=20)
        assert gate.entered.acquire(timeout=10)
        left.cancel()
        time.sleep(0.05)
        with pytest.raises(grpc.RpcError, match="max_pending"):
            stub.Search(REQUEST, timeout=20)
        gate.open.set()

        def answered() -> bool:
            try:
                return bool(stub.Search(REQUEST, timeout=20))
            except grpc.RpcError:
                return False

        wait_until(answered)
