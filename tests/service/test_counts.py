"""What is counted: labels that stay bounded, waits, refusals, and the sums over processes."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.service.admission import (
    AdmissionQueue,
    Batchable,
    ByteBudget,
    DeadlinePassedError,
    QueueFullError,
    Spent,
    current_spent,
)
from nearhash.service.calls import Answered, Call
from nearhash.service.catalog import Catalog
from nearhash.service.config import ServerConfig
from nearhash.service.counts import MOST_COLLECTIONS, Counts
from nearhash.service.metrics import Metrics
from nearhash.service.queues import Queues
from nearhash.service.reports import Report, Reporter, samples_of, summed
from nearhash.service.security.access import ANYONE
from nearhash.service.status import refusal_of

SEARCH = "/nearhash.v1.SearchService/Search"


@pytest.fixture
def counts():
    made = Counts()
    yield made
    made.close()


def count(counts, collection, code="OK", times=1, refusal=None):
    for _ in range(times):
        call = Call(ANYONE, None, 10, collection=collection)
        counts.observe(Answered(SEARCH, code, 0.01, False, call, refusal))


def values(samples, family):
    return {tuple(value for _, value in labels): number for (_, labels), number in samples[family].items()}


def test_collections_beyond_a_bound_and_unknown_ones_share_a_label(counts):
    count(counts, "unknown", "NOT_FOUND", 2)
    for number in range(MOST_COLLECTIONS + 5):
        count(counts, f"c{number}")
    count(counts, "c0", "INTERNAL", 3)
    requests = values(samples_of(counts.registry), "nearhash_collection_requests")
    assert len({name for name, _, _ in requests}) == MOST_COLLECTIONS + 1
    assert requests["_other", "Search", "NOT_FOUND"] == 2
    assert requests["_other", "Search", "OK"] == 5
    assert requests["c0", "Search", "INTERNAL"] == 3
    assert counts.full
    counts.forget({f"c{number}" for number in range(1, 200)})  # c0 is gone
    assert not counts.full
    count(counts, "c104")
    text = generate_latest(counts.registry).decode()
    assert 'collection="c0"' not in text
    assert 'collection="c104"' in text


def test_refusals_have_reasons():
    cases = {
        QueueFullError("max_pending: 1", 1.0, "queue_full"): "queue_full",
        DeadlinePassedError(): "deadline",
        ServiceError("authorization: no", "PERMISSION_DENIED"): "permission",
        InvalidArgumentError("max_k: k is 7"): "limits",
        InvalidArgumentError("k: expected at least 1"): None,
        ServiceError("max_what: not a limit", "INTERNAL"): None,
    }
    assert [refusal_of(error) for error in cases] == list(cases.values())


def test_a_queue_tells_of_waits_rows_and_refusals():
    seen, go, held = [], threading.Event(), threading.Event()

    def hold():
        held.set()
        go.wait(10)

    async def main():
        spent, spent_late = Spent(), Spent()
        queue = AdmissionQueue(1, 4, ByteBudget(100))
        queue._mean_seconds = 1e-9  # what has so little time left is not refused for it
        queue.watch(lambda waits, rows: seen.append((waits, rows)))
        first = asyncio.ensure_future(queue.run(hold, None))
        while not held.is_set():
            await asyncio.sleep(0.001)
        current_spent.set(spent)
        batch = Batchable("key", 3, 0, lambda arguments: time.sleep(0.01) or list(arguments))
        jobs = [asyncio.ensure_future(queue.run(lambda: 0, None, 1, batch)) for _ in range(2)]
        current_spent.set(spent_late)
        late = asyncio.ensure_future(queue.run(lambda: 0, time.monotonic() + 0.01, 1, batch))
        current_spent.set(spent)
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError) as full:
            await queue.run(lambda: 0, None)
        go.set()
        await asyncio.gather(first, *jobs)
        with pytest.raises(DeadlinePassedError):
            await late
        blocked = asyncio.ensure_future(queue.run(lambda: time.sleep(0.01), None, 90))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as bytes_full:
            await queue.run(lambda: 0, None, 50)
        await blocked
        queue.close()
        return spent, spent_late, full.value.reason, bytes_full.value.reason

    spent, spent_late, *reasons = asyncio.run(main())
    assert reasons == ["queue_full", "bytes"]
    waits = [wait for some, _ in seen for wait in some]
    assert len(waits) == 5
    assert all(wait >= 0.04 for wait in waits[1:4])  # behind the one that held the thread
    assert [rows for _, rows in seen] == [0, 6, 0]  # the late one was taken along, and not run
    assert spent.waited + spent_late.waited == pytest.approx(sum(waits[1:]))
    assert spent_late.ran == 0
    assert 0.01 <= spent.ran < 5


NUMBERS = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.dictionaries(st.sampled_from([("x", ()), ("y", (("l", "1"),))]), st.integers(0, 9).map(float)),
)


@given(st.lists(NUMBERS, max_size=4))
def test_sums_are_those_of_each_sample(parts):
    total = summed(parts)
    keys = {(name, sample) for part in parts for name, samples in part.items() for sample in samples}
    assert {(name, sample) for name, samples in total.items() for sample in samples} == keys
    for name, sample in keys:
        assert total[name][sample] == sum(part.get(name, {}).get(sample, 0) for part in parts)


def test_what_processes_count_is_added_up_and_never_goes_down(counts, scripted):
    config = ServerConfig(workers=1)
    metrics = Metrics(Catalog("default", scripted(lambda _: None)), Queues(config), counts)
    reader = Counts()
    try:
        count(counts, "default", times=2)
        count(reader, "c", times=5)
        count(reader, "c", "INTERNAL")
        report = Report(samples_of(reader.registry), list(reader.failures), pending=3)

        def text():
            return metrics.text(lambda _: True).decode()

        metrics.heard("reader-0", 10, report)
        assert metrics.pending == 3
        metrics.heard("reader-1", 11, report)
        for _ in range(2):  # the second time, one of them has ended
            seen = text()
            assert 'nearhash_requests_total{code="OK",method="Search"} 12.0' in seen
            assert 'nearhash_collection_requests_total{code="OK",collection="c",method="Search"} 10.0' in seen
            assert 'nearhash_request_seconds_count{method="Search"} 14.0' in seen
            assert 'nearhash_request_seconds_bucket{le="+Inf",method="Search"} 14.0' in seen
            for process, requests in (("writer", 2), ("reader-0", 6), ("reader-1", 6)):
                assert f'nearhash_process_requests_total{{process="{process}"}} {requests}.0' in seen
            assert [failure.code for failure in metrics.failures] == ["INTERNAL"] * 2
            assert metrics.latencies()["Search"] == {"requests": 14, "p50": 0.01, "p99": 0.01}
            metrics.ended("reader-0", 10)
        assert metrics.pending == 3
        for pid in (12, 13):  # those in its place begin at nothing
            metrics.heard("reader-0", pid, report)
            metrics.ended("reader-0", pid)
        assert 'nearhash_process_requests_total{process="reader-0"} 18.0' in text()
    finally:
        reader.close()
        metrics.close()


def test_a_reader_tells_what_has_changed_until_nobody_listens(counts, monkeypatch):
    from nearhash.service import reports

    monkeypatch.setattr(reports, "_SECONDS", 0.005)
    told = []

    def tell(report):
        told.append(report)
        if len(told) == 2:
            raise BrokenPipeError

    reporter = Reporter(counts, lambda: 0, list, tell)
    count(counts, "c")
    reporter.start()
    while not told:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(told) == 1  # nothing has changed
    count(counts, "c")
    reporter._thread.join(10)
    assert not reporter._thread.is_alive()
    assert [values(one.samples, "nearhash_requests")["Search", "OK"] for one in told] == [1, 2]
