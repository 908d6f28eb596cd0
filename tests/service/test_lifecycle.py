"""Start, health, reflection, drain."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import nearhash as nh
from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.protos.v1 import search_pb2, search_pb2_grpc
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.security.transport import TransportConfig
from nearhash.service.wire import to_tensor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REQUEST = search_pb2.SearchRequest(queries=to_tensor(np.zeros((1, 4)), "queries"), k=1)


def health(channel: grpc.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status


def test_health_answers_for_the_server_and_the_service(channel, client):
    assert health(channel, "") == health(channel, "nearhash.v1.SearchService") == SERVING
    assert client.health() == "SERVING"
    with pytest.raises(grpc.RpcError) as failure:
        health(channel, "nothing")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_describes_the_services(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"nearhash.v1.SearchService", "grpc.health.v1.Health"} <= set(database.get_services())
    described = database.FindFileContainingSymbol("nearhash.v1.SearchRequest")
    assert described.SerializeToString() == search_pb2.DESCRIPTOR.serialized_pb


def test_kernels_are_warmed_before_serving_is_reported(scripted, gate):
    """The first search of a server is its own; until it has ended, health says NOT_SERVING."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    states = []

    def watch() -> None:
        assert gate.entered.acquire(timeout=10)
        with grpc.insecure_channel(address) as channel:
            states.append(health(channel, ""))
            gate.open.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with running_server(scripted(gate, size=1), address) as bound, grpc.insecure_channel(bound) as channel:
        watcher.join()
        assert states == [NOT_SERVING]
        assert health(channel, "") == SERVING
        assert gate.calls > 1  # single queries, batches, filters


def test_an_index_that_cannot_search_is_not_served(scripted):
    def fail(_: object) -> None:
        raise RuntimeError("no kernel")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RuntimeError, match="no kernel"), running_server(scripted(fail, size=1), address):
        pass
    with running_server(scripted(lambda _: None), address):  # the port is free again
        pass


def test_accepted_requests_finish_while_new_ones_are_refused(scripted, gate):
    serving = ExitStack()
    config = ServerConfig(workers=1, limits=Limits(max_pending=8))
    address = serving.enter_context(running_server(scripted(gate), config=config))
    with grpc.insecure_channel(address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        calls = [stub.Search.future(REQUEST, timeout=20) for _ in range(4)]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        assert gate.entered.acquire(timeout=10)
        stub.GetInfo(search_pb2.GetInfoRequest(), timeout=20)  # sent after the searches: they have been accepted
        leaving = threading.Thread(target=serving.close)
        leaving.start()
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as failure, grpc.insecure_channel(address) as other:
            search_pb2_grpc.SearchServiceStub(other).Search(REQUEST, timeout=20)
        # The latter where gRPC takes a call in the moment in which it closes its port.
        assert failure.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert leaving.is_alive()
        gate.open.set()
        assert [list(call.result().ids.shape) for call in calls] == [[1, 1]] * 4
        leaving.join(20)
        assert not leaving.is_alive()


def test_an_open_health_watch_does_not_delay_the_end(scripted):
    with running_server(scripted(lambda _: None)) as address:
        channel = grpc.insecure_channel(address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        start = time.monotonic()
    assert time.monotonic() - start < 15  # the grace period is 30 seconds
    channel.close()


def test_what_does_not_finish_within_the_grace_period_is_ended(scripted, gate):
    with running_server(scripted(gate), config=ServerConfig(grace=0.05)) as address:
        channel = grpc.insecure_channel(address)
        call = search_pb2_grpc.SearchServiceStub(channel).Search.future(REQUEST, timeout=20)
        assert gate.entered.acquire(timeout=10)
        threading.Timer(0.5, gate.open.set).start()
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    channel.close()


SCRIPT = """
import sys, time
import numpy as np
import nearhash as nh
from nearhash.service.server import serve

class Slow:
    dim, metric = 4, "l2"
    def __len__(self): return 0
    def info(self): return {"kind": "slow"}
    def search(self, queries, k=10, window=None, allow=None, threads=None):
        print("searching", flush=True)
        time.sleep(float(sys.argv[1]))
        return nh.Hits(np.full((len(queries), k), 7), np.zeros((len(queries), k), np.float32))

serve(Slow(), "127.0.0.1:0", on_ready=lambda address: print(address, flush=True))
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_process(number):
    command = [sys.executable, "-c", SCRIPT, "0.4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        with nh.Client(address) as client:
            client.info()
            results = []
            asking = threading.Thread(target=lambda: results.append(client.search(np.zeros(4), k=1).ids[0, 0]))
            asking.start()
            assert process.stdout.readline() == "searching\n"
            os.kill(process.pid, number)
            asking.join(20)
        assert results == [7]
        assert process.wait(20) == 0
        assert process.stdout.read() == "ended\n"


def test_a_second_signal_stops_at_once():
    command = [sys.executable, "-c", SCRIPT, "0.8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        with nh.Client(address, timeout=15) as client:
            client.info()
            failures = []

            def ask() -> None:
                try:
                    client.search(np.zeros(4), k=1)
                except ServiceError as error:
                    failures.append(error.code)

            asking = threading.Thread(target=ask)
            asking.start()
            assert process.stdout.readline() == "searching\n"
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.1)
            os.kill(process.pid, signal.SIGTERM)
            client_gone = time.monotonic() + 20
            while not failures and process.poll() is None and time.monotonic() < client_gone:
                time.sleep(0.01)
            client.close()
            asking.join(20)
        assert failures
        assert process.wait(20) == 0


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:", ":50051", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_address_that_is_none_is_refused(scripted, address):
    with (
        pytest.raises(InvalidArgumentError, match="address: expected host:port"),
        running_server(scripted(lambda _: None), address),
    ):
        pass


def test_a_port_in_use_is_refused(scripted, address):
    with (
        pytest.raises(ServiceError, match=f"cannot listen on {address}"),
        running_server(scripted(lambda _: None), address),
    ):
        pass


def test_listening_beyond_loopback_needs_tls_or_an_explicit_permission(scripted, caplog):
    with (
        pytest.raises(InvalidArgumentError, match="listen: other machines can reach"),
        running_server(scripted(lambda _: None), "0.0.0.0:0"),
    ):
        pass
    config = ServerConfig(transport=TransportConfig(insecure=True))
    with running_server(scripted(lambda _: None), "0.0.0.0:0", config):
        assert "no keys and no client_ca" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        lambda: Limits(max_k=0),
        lambda: Limits(max_rows=True),
        lambda: Limits(max_message_bytes=2**31),
        lambda: ServerConfig(workers=0),
        lambda: ServerConfig(search_threads=1.5),
        lambda: ServerConfig(grace=float("nan")),
        lambda: ServerConfig(collection=""),
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InvalidArgumentError, match="expected"):
        settings()
