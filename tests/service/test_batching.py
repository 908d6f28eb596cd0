"""Searches that wait are run as one, and each gets the answer that it would get alone."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nearhash as nh
from nearhash.protos.v1 import search_pb2, search_pb2_grpc
from nearhash.service.admission import BATCH_ROWS, AdmissionQueue, Batchable
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.requests import search_arguments
from nearhash.service.searchable import ServedCollection, ServedIndex
from nearhash.service.wire import to_tensor


class Recorder:
    """Jobs that say in which company they ran."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.alone: list[int] = []
        self.wrong = -1

    def together(self, arguments: Sequence[int]) -> list[int]:
        self.batches.append(list(arguments))
        if self.wrong in arguments:
            raise ValueError("one of them")
        return [10 * argument for argument in arguments]

    def job(self, argument: int):
        def run() -> int:
            self.alone.append(argument)
            if argument == self.wrong:
                raise ValueError(f"{argument} is to blame")
            return 10 * argument

        return run


async def started(queue: AdmissionQueue, recorder: Recorder, jobs: list[tuple[int, object, int]]) -> list[object]:
    """Results of jobs (argument, key, rows) that come while the only thread is held."""
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go.wait(20)

    held = asyncio.ensure_future(queue.run(hold, None))
    while not entered.is_set():
        await asyncio.sleep(0.001)
    calls = [
        asyncio.ensure_future(
            queue.run(recorder.job(argument), None, 0, Batchable(key, rows, argument, recorder.together))
        )
        for argument, key, rows in jobs
    ]
    await asyncio.sleep(0.01)
    go.set()
    await held
    return list(await asyncio.gather(*calls, return_exceptions=True))


def run(jobs: list[tuple[int, object, int]], recorder: Recorder) -> list[object]:
    async def main() -> list[object]:
        queue = AdmissionQueue(workers=1, max_pending=100)
        results = await started(queue, recorder, jobs)
        assert queue.pending == 0
        assert not queue._batches
        queue.close()
        return results

    return asyncio.run(main())


def test_waiting_jobs_of_one_key_run_as_one_and_others_do_not():
    recorder = Recorder()
    jobs = [(1, "a", 1), (2, "b", 1), (3, "a", 1), (4, "a", 1), (5, "c", 1), (6, "b", 1)]
    assert run(jobs, recorder) == [10, 20, 30, 40, 50, 60]
    assert recorder.batches == [[1, 3, 4], [2, 6]]
    assert recorder.alone == [5]


def test_batches_are_bounded_by_rows():
    recorder = Recorder()
    assert run([(i, "a", 20) for i in range(7)], recorder) == [10 * i for i in range(7)]
    assert recorder.batches == [[0, 1, 2], [3, 4, 5]]
    assert recorder.alone == [6]
    assert BATCH_ROWS == 64


def test_the_error_of_one_is_not_that_of_the_others():
    recorder = Recorder()
    recorder.wrong = 2
    results = run([(i, "a", 1) for i in range(4)], recorder)
    assert results[:2] + results[3:] == [0, 10, 30]
    assert str(results[2]) == "2 is to blame"


def test_one_that_comes_alone_does_not_wait():
    async def main() -> None:
        queue, recorder = AdmissionQueue(workers=2, max_pending=100), Recorder()
        await queue.run(recorder.job(0), None)
        assert await queue.run(recorder.job(1), None, 0, Batchable("a", 1, 1, recorder.together)) == 10
        assert recorder.batches == []
        queue.close()

    asyncio.run(main())


def test_those_who_left_and_those_who_are_late_are_left_out():
    async def main() -> None:
        queue, recorder = AdmissionQueue(workers=1, max_pending=100), Recorder()
        entered, go = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            assert go.wait(20)

        held = asyncio.ensure_future(queue.run(hold, None))
        while not entered.is_set():
            await asyncio.sleep(0.001)

        def call(argument: int, deadline: float | None) -> asyncio.Future[int]:
            batch = Batchable("a", 1, argument, recorder.together)
            return asyncio.ensure_future(queue.run(recorder.job(argument), deadline, 0, batch))

        late, left, first, second = call(1, time.monotonic()), call(2, None), call(3, None), call(4, None)
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(held, first, second) == [None, 30, 40]
        assert recorder.batches == [[3, 4]]
        assert "DeadlinePassedError" in repr((await asyncio.gather(late, return_exceptions=True))[0])
        assert queue.pending == 0
        queue.close()

    asyncio.run(main())


def test_what_idle_threads_could_do_at_once_is_left_to_them(monkeypatch):
    """White-box, as which thread wakes first is chance: this one takes a job while another one is about to."""

    async def main() -> None:
        queue, recorder = AdmissionQueue(workers=1, max_pending=100), Recorder()
        monkeypatch.setattr(queue, "_start_thread", lambda: None)
        calls = [
            asyncio.ensure_future(queue.run(recorder.job(i), None, 0, Batchable("a", 1, i, recorder.together)))
            for i in range(22)
        ]
        await asyncio.sleep(0)
        shares = []
        for _ in range(22):
            queue._idle = 2  # this thread and another one
            shares.append([job.batch.argument for job in queue._take(queue._jobs.get_nowait())])
        # Half of 22, then of 11 no fewer than eight, then the rest.
        assert [share for share in shares if share] == [[*range(11)], [*range(11, 19)], [19, 20, 21]]
        for call in calls:
            call.cancel()

    asyncio.run(main())


@pytest.fixture(scope="module")
def kinds(vectors, graph, index, tmp_path_factory):
    """Everything that is searched in batches."""
    many = np.random.default_rng(3).standard_normal((4000, 24)).astype(np.float32)
    window = nh.WindowIndex(24, metric="l2")
    window.add(many, labels=np.arange(len(many)))
    lists = nh.IVFIndex(24, metric="cosine", lists=16)
    lists.add(many)
    collection = nh.Collection(tmp_path_factory.mktemp("collection") / "c", dim=24, metric="cosine", index="graph")
    collection.upsert(range(3000), many[:3000])
    collection.seal()
    collection.upsert(range(2900, 3500), many[2900:3500])
    collection.delete(range(100))
    yield {
        "flat": ServedIndex("x", index),
        "graph": ServedIndex("x", graph),
        "ivf": ServedIndex("x", lists),
        "window": ServedIndex("x", window),
        "collection": ServedCollection("x", collection),
    }
    collection.close()


@pytest.mark.parametrize("kind", ["flat", "graph", "ivf", "window", "collection"])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_every_kind_gives_the_answers_of_single_searches_bit_by_bit(kinds, vectors, kind, dtype):
    sizes = [1, 1, 7, 3, 1, 16, 1, 2, 32]
    queries = (vectors[: sum(sizes)] * 40).astype(dtype)
    parts = np.split(queries, np.cumsum(sizes)[:-1])
    prepared = [
        kinds[kind].prepared(
            search_arguments(search_pb2.SearchRequest(queries=to_tensor(part, "queries"), k=9), 24, Limits()), 1
        )
        for part in parts
    ]
    assert len({one.batch.key for one in prepared}) == 1
    together = prepared[0].batch.together([one.batch.argument for one in prepared])
    for one, found in zip(prepared, together, strict=True):
        alone = one.run()
        np.testing.assert_array_equal(found.ids, alone.ids)
        np.testing.assert_array_equal(found.distances, alone.distances)


def batch_of(served, **fields):
    complete = {"queries": to_tensor(np.ones((1, 24), np.float32), "queries"), "k": 3, **fields}
    return served.prepared(search_arguments(search_pb2.SearchRequest(**complete), 24, Limits()), 1).batch


def test_only_searches_that_ask_the_same_are_joined(kinds):
    served = kinds["collection"]
    key = batch_of(served).key
    assert batch_of(served).key == key
    assert batch_of(served, k=4).key != key
    assert batch_of(served, effort={"beam": search_pb2.Scalar(integer=9)}).key != key
    assert batch_of(served, recall=0.9).key != key
    assert batch_of(served, queries=to_tensor(np.ones((1, 24)), "queries")).key != key
    assert batch_of(kinds["graph"]).key != key
    assert batch_of(served, filter_json="{}") is batch_of(served, with_payloads=True) is None
    assert batch_of(served, with_vectors=True) is None
    assert batch_of(kinds["graph"], window=to_tensor(np.array([0.0, 1.0]), "")) is None
    assert batch_of(kinds["graph"], allow=to_tensor(np.array([1]), "")) is None
    assert batch_of(served, queries=to_tensor(np.ones((33, 24), np.float32), "queries")) is None  # a batch already


def test_over_the_wire(serve_folder, tmp_path, vectors, monkeypatch):
    """Many callers at once: batches are run, and everybody gets his own answer."""
    sizes = []
    search = nh.Collection.search

    def counted(self, queries, *arguments, **options):
        sizes.append(len(queries))
        time.sleep(0.005)
        return search(self, queries, *arguments, **options)

    with serve_folder(tmp_path, ServerConfig(workers=1)) as stubs:
        stubs.create("c")
        stubs.upsert("c", range(len(vectors)), vectors)
        monkeypatch.setattr(nh.Collection, "search", counted)

        def ask(i: int) -> None:
            request = search_pb2.SearchRequest(collection="c", queries=to_tensor(vectors[i], "queries"), k=1)
            answer = search_pb2_grpc.SearchServiceStub(stubs.channel).Search(request, timeout=20)
            assert int.from_bytes(answer.ids.data, "little") == i

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(ask, range(200)))
    assert sum(sizes) == 200
    assert len(sizes) < 150
    assert max(sizes) > 2
