"""``nearhash bench-server`` and the load that it makes, on small servers."""

import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

import nearhash as nh
from nearhash.command_line.app import app
from nearhash.protos.v1 import search_pb2, search_pb2_grpc
from nearhash.service.background import running_server
from nearhash.service.engine.database import Database
from nearhash.service.load import OK, REFUSED, Load, run_load, summary
from nearhash.service.status import RETRY_AFTER_KEY
from nearhash.service.wire import to_tensor

DIM = 8
POINTS = np.random.default_rng(3).standard_normal((500, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Database(tmp_path_factory.mktemp("data")) as database:
        database.create("points", dim=DIM, metric="l2").upsert(range(500), POINTS)
        database.create("empty", dim=DIM)
        with running_server(None, database=database) as bound:
            yield bound


def test_latency_table_of_a_mix(address, run_json):
    document = run_json(
        *("bench-server", address, "--collection", "points", "--seconds", 0.8, "--warmup", 0.2, "--in-flight", 4),
        *("--batches", 0.5, "--upserts", 0.5, "--points", 7, "--effort", "beam=16", "-k", 3),
    )
    assert (document["loop"], document["size"]) == ("closed", 500)
    for kind in ("search", "batch", "upsert"):
        one = document["requests"][kind]
        assert one["codes"] == {"OK": one["answered"]}
        assert one["answered"] == one["requests"] > 0
        times = list(one["milliseconds"].values())
        assert 0 < times[0] <= times[-1] < 5000
        assert times == sorted(times)
        assert one["per_second"] == pytest.approx(one["answered"] / document["seconds"])
    with nh.Client(address) as client:
        assert client.describe("points")["size"] == 500  # what was written is deleted


def test_points_written_stay_if_asked_for(address, run_json):
    arguments = ("--searches", 0, "--upserts", 1, "--points", 10, "--seconds", 0.2, "--warmup", 0, "--keep")
    document = run_json("bench-server", address, "--collection", "empty", *arguments)
    with nh.Client(address) as client:
        assert client.describe("empty")["size"] == 10 * document["requests"]["upsert"]["answered"]


def test_processes_add_up(address, run_json):
    arguments = ("--seconds", 0.5, "--warmup", 0, "--in-flight", 2, "--processes", 2)
    document = run_json("bench-server", address, "--collection", "points", *arguments)
    assert document["requests"]["search"]["answered"] > 10


def test_table_for_people(address):
    arguments = ["bench-server", address, "--collection", "points", "--seconds", "0.3", "--warmup", "0", "--rate", "50"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.stderr
    assert all(word in result.stdout for word in ("p99.9", "refused", "search", "50 requests per second"))


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--collection", "none"], 1, "no collection 'none'"),
        (["--collection", "points", "--searches", "0"], 2, "expected one above 0"),
        (["--collection", "points", "--effort", "beam"], 2, "beam=64"),
        (["--collection", "points", "--in-flight", "1", "--processes", "2"], 2, "at least one for each"),
        (["--collection", "points", "--effort", "wings=3", "--seconds", "0.1"], 1, "no request was answered"),
    ],
)
def test_wrong_arguments(address, arguments, code, complaint):
    result = CliRunner().invoke(app, ["bench-server", address, "--timeout", "1", *arguments])
    assert result.exit_code == code
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def test_without_a_server():
    arguments = ["bench-server", "127.0.0.1:1", "--collection", "points", "--timeout", "0.3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


class Scripted(search_pb2_grpc.SearchServiceServicer):
    """Answers after a while; refuses, or lies, if told so."""

    def __init__(self):
        self.pause, self.refuse, self.k, self.lock = 0.0, False, 3, threading.Lock()

    def Search(self, request, context):
        if self.refuse:
            context.set_trailing_metadata(((RETRY_AFTER_KEY, "0.5"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        with self.lock:
            time.sleep(self.pause)
        rows = request.queries.shape[0]
        return search_pb2.SearchResponse(
            ids=to_tensor(np.zeros((rows, self.k), np.int64), "ids"),
            distances=to_tensor(np.zeros((rows, self.k), np.float32), "distances"),
        )


@pytest.fixture
def scripted():
    servicer = Scripted()
    server = grpc.server(futures.ThreadPoolExecutor(64))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, Load(f"127.0.0.1:{port}", "points", POINTS, k=3, seconds=0.6, warmup=0.0)
    server.stop(None)


def test_an_open_loop_counts_the_time_that_requests_waited(scripted):
    """20 ms each, one at a time, 100 a second: half of the requests that came in 0.6 s wait for others, up to 0.6 s.

    A closed loop, which does not ask while it waits, would see none of that.
    """
    servicer, load = scripted
    servicer.pause = 0.02
    closed = run_load(Load(**{**load.__dict__, "in_flight": 1})).kinds["search"]
    assert 2 <= len(closed.latencies) <= 31
    opened = run_load(Load(**{**load.__dict__, "rate": 100.0}))
    waited = opened.kinds["search"]
    assert 55 <= len(waited.latencies) == waited.codes[OK] <= 61
    assert waited.latencies.max() > 0.5
    assert np.median(waited.latencies) > 0.25
    assert (waited.latencies >= waited.since_sent).all()
    assert opened.seconds > 1.1


def test_warm_up_is_not_counted(scripted):
    _, load = scripted
    result = run_load(Load(**{**load.__dict__, "rate": 100.0, "warmup": 0.4, "seconds": 0.2}))
    assert 15 <= len(result.kinds["search"].latencies) <= 21


def test_refusals_deadlines_and_lies(scripted):
    servicer, load = scripted
    servicer.refuse = True
    refused = run_load(Load(**{**load.__dict__, "rate": 50.0, "seconds": 0.2})).kinds["search"]
    assert refused.codes[REFUSED] == refused.told == sum(refused.codes.values()) > 5
    facts = summary(refused, 0.2)
    assert (facts["answered"], facts["milliseconds"]["p99"]) == (0, None)
    assert facts["refused"] == facts["told_when_to_come_again"]
    servicer.refuse, servicer.k = False, 2
    assert set(run_load(Load(**{**load.__dict__, "seconds": 0.1})).kinds["search"].codes) == {"MALFORMED"}
    servicer.k, servicer.pause = 3, 0.3
    late = run_load(Load(**{**load.__dict__, "seconds": 0.1, "timeout": 0.1, "in_flight": 1})).kinds["search"]
    assert late.codes == {"DEADLINE_EXCEEDED": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_flight": 0}, {"rate": 0.0}, {"rate": float("inf")}, {"seconds": float("nan")}, {"warmup": -1.0},
        {"mix": {}}, {"mix": {"search": 0.0}}, {"mix": {"search": -1.0, "batch": 2.0}}, {"mix": {"delete": 1.0}},
        {"queries": POINTS[0]}, {"queries": POINTS[:0]}, {"timeout": 0.0},
    ],
)  # fmt: skip
def test_impossible_loads(wrong):
    with pytest.raises(nh.errors.InvalidArgumentError, match=next(iter(wrong))):
        Load(**{"address": "localhost:1", "collection": "points", "queries": POINTS, **wrong})
