"""The client's own behaviour: retries, deadlines, closing, malformed answers, what it imports."""

import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.protos.v1 import search_pb2, tensor_pb2
from nearhash.service.background import running_server
from nearhash.service.wire import to_tensor

IDS = to_tensor(np.zeros((1, 2), np.int64), "ids")
DISTANCES = to_tensor(np.zeros((1, 2), np.float32), "distances")


class ScriptedServer:
    """Answers Search with the given answers or status codes in turn, the last one again and again."""

    def __init__(self, *script):
        self.script = list(script)
        self.calls = 0

    def search(self, request, context):
        self.calls += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, grpc.StatusCode):
            context.abort(step, f"scripted {step.name}")
        return step

    def __enter__(self) -> nh.Client:
        limits = search_pb2.Limits(max_k=10, max_rows=10, max_message_bytes=10_000)
        info = search_pb2.GetInfoResponse(server=search_pb2.ServerInfo(limits=limits))
        handlers = {
            "Search": grpc.unary_unary_rpc_method_handler(
                self.search, search_pb2.SearchRequest.FromString, search_pb2.SearchResponse.SerializeToString
            ),
            "GetInfo": grpc.unary_unary_rpc_method_handler(
                lambda *_: info, response_serializer=search_pb2.GetInfoResponse.SerializeToString
            ),
        }
        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("nearhash.v1.SearchService", handlers),)
        )
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.client = nh.Client(f"127.0.0.1:{port}", timeout=10)
        return self.client

    def __exit__(self, *_):
        self.client.close()
        self.server.stop(None)


GOOD = search_pb2.SearchResponse(ids=IDS, distances=DISTANCES)


def test_unavailable_is_retried_until_it_is_not():
    server = ScriptedServer(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, GOOD)
    with server as client:
        assert client.search(np.zeros(4), k=2).ids.tolist() == [[0, 0]]
    assert server.calls == 3


def test_unavailable_is_retried_no_longer_than_the_deadline():
    server = ScriptedServer(grpc.StatusCode.UNAVAILABLE)
    with server as client, pytest.raises(ServiceError, match="scripted UNAVAILABLE") as failure:
        client.search(np.zeros(4), k=2, timeout=1.0)
    assert failure.value.code == "UNAVAILABLE"
    assert server.calls > 1


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "INTERNAL", "DATA_LOSS", "UNKNOWN", "NOT_FOUND", "CANCELLED"])
def test_other_codes_are_not_retried(code):
    server = ScriptedServer(grpc.StatusCode[code], GOOD)
    with server as client, pytest.raises(ServiceError, match=f"scripted {code}") as failure:
        client.search(np.zeros(4), k=2)
    assert failure.value.code == code
    assert server.calls == 1


def test_an_invalid_argument_is_a_value_error():
    with (
        ScriptedServer(grpc.StatusCode.INVALID_ARGUMENT) as client,
        pytest.raises(ValueError, match="scripted") as failure,
    ):
        client.search(np.zeros(4), k=2)
    assert type(failure.value) is InvalidArgumentError


def test_no_server():
    with nh.Client("127.0.0.1:1", timeout=0.3) as client:
        for call in (lambda: client.search(np.zeros(4)), client.info, client.health):
            with pytest.raises(ServiceError) as failure:
                call()
            assert failure.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_a_server_that_comes_later_is_found(scripted):
    with running_server(scripted(lambda _: None)) as address:
        pass  # the port is free again
    results = []
    with nh.Client(address, timeout=15) as client:
        asking = threading.Thread(target=lambda: results.append(client.search(np.zeros(4), k=1)))
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
        with running_server(scripted(lambda _: None), address):
            asking.join(15)
    assert results[0].ids.tolist() == [[-1]]


@pytest.mark.parametrize(
    "answer",
    [
        search_pb2.SearchResponse(),
        search_pb2.SearchResponse(ids=IDS),
        search_pb2.SearchResponse(ids=DISTANCES, distances=DISTANCES),
        search_pb2.SearchResponse(ids=IDS, distances=tensor_pb2.Tensor(dtype=1, shape=[1, 2], data=b"x")),
        search_pb2.SearchResponse(
            ids=to_tensor(np.zeros((2, 1), np.int64), ""), distances=to_tensor(np.zeros((2, 1), np.float32), "")
        ),
    ],
)
def test_a_malformed_answer_is_not_passed_on(answer):
    with ScriptedServer(answer) as client, pytest.raises(ServiceError, match="answer is malformed") as failure:
        client.search(np.zeros(4), k=2)
    assert failure.value.code == "DATA_LOSS"


def test_a_closed_client_says_so(address):
    client = nh.Client(address)
    client.close()
    client.close()
    for call in (lambda: client.search(np.zeros(4)), client.info, client.health):
        with pytest.raises(ServiceError, match="the client is closed"):
            call()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_be_positive(client, timeout):
    with pytest.raises(InvalidArgumentError, match="timeout: expected"):
        nh.Client("localhost:50051", timeout=timeout)
    with pytest.raises(InvalidArgumentError, match="timeout: expected"):
        client.search(np.zeros(24), timeout=timeout)


@pytest.mark.parametrize("size", [0, -5, 2**31])
def test_a_message_limit_must_be_possible(size):
    with pytest.raises(InvalidArgumentError, match="max_message_bytes: expected"):
        nh.Client("localhost:50051", max_message_bytes=size)


def test_the_client_imports_no_numba():
    program = "import sys, nearhash as nh; nh.Client; sys.exit(bool({'numba', 'torch', 'llvmlite'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_without_grpc_the_extra_is_named():
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "import nearhash as nh\n"
        "try: nh.Client\n"
        "except nh.errors.MissingExtraError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install nearhash[serve]" in result.stdout, result.stderr
