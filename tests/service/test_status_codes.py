"""Every refusal has the right status code and names the argument or the limit."""

import logging
import re

import grpc
import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import CorruptIndexError, DimensionError, DtypeError, InvalidArgumentError, ServiceError
from nearhash.protos.v1 import search_pb2, search_pb2_grpc, tensor_pb2
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.wire import to_tensor

DIM = 24
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def request(**fields) -> search_pb2.SearchRequest:
    complete = {"queries": to_tensor(np.zeros((2, DIM), np.float32), "queries"), "k": 3}
    return search_pb2.SearchRequest(**{**complete, **fields})


def tensor(values, dtype=np.float32) -> tensor_pb2.Tensor:
    return to_tensor(np.asarray(values, dtype), "values")


def effort(**values) -> dict[str, search_pb2.Scalar]:
    return {name: search_pb2.Scalar(integer=value) for name, value in values.items()}


REFUSED = {
    "no queries": (search_pb2.SearchRequest(k=3), "queries: expected a tensor, got none"),
    "wrong dim": (request(queries=tensor(np.zeros((2, 3)))), "queries: expected vectors of dimension 24, got 3"),
    "three axes": (request(queries=tensor(np.zeros((1, 1, 2)))), "queries.shape"),
    "byte length": (request(queries=tensor_pb2.Tensor(dtype=1, shape=[2, DIM], data=b"abc")), "queries.data"),
    "huge shape": (request(queries=tensor_pb2.Tensor(dtype=1, shape=[2**62, 2**62])), "queries.shape"),
    "no dtype": (request(queries=tensor_pb2.Tensor(shape=[1, DIM], data=bytes(96))), "queries.dtype"),
    "unknown dtype": (request(queries=tensor_pb2.Tensor(dtype=99, shape=[1, DIM], data=bytes(96))), "got 99"),
    "bool queries": (request(queries=tensor(np.zeros((1, DIM)), bool)), "queries: expected numbers, got bool"),
    "nan": (request(queries=tensor(np.full((1, DIM), np.nan))), "queries"),
    "inf": (request(queries=tensor(np.full((1, DIM), -np.inf))), "queries"),
    "k = 0": (request(k=0), "k: expected at least 1, got 0"),
    "k too big": (request(k=10_001), "max_k: k is 10001, the limit is 10000"),
    "batch too big": (request(queries=tensor(np.zeros((8193, DIM)))), "max_rows: 8193 queries .* limit is 8192"),
    "answer too big": (request(queries=tensor(np.zeros((8192, DIM))), k=9999), "max_message_bytes: the answer to 8192"),
    "lo > hi": (request(window=tensor([2, 1], float)), "window"),
    "nan window": (request(window=tensor([np.nan, 1], float)), "window"),
    "window shape": (request(window=tensor(np.zeros((3, 2)), float)), r"window: expected shape \(2,\) or \(2, 2\)"),
    "window dtype": (request(window=tensor([1, 2], np.float32)), "window: expected float64, got float32"),
    "empty window": (request(window=tensor_pb2.Tensor()), "window.dtype"),
    "allow dtype": (request(allow=tensor([1], np.int32)), "allow: expected int64 ids or a bool mask, got int32"),
    "allow shape": (request(allow=tensor([[1]], np.int64)), "allow.shape"),
    "unknown effort": (request(effort=effort(beem=3)), "effort: this index knows none, got beem"),
    "argument as effort": (request(effort=effort(threads=9)), "effort: 'threads'"),
    "dunder effort": (request(effort=effort(**{"a b": 9})), "effort: 'a b'"),
    "endless effort": (request(effort=effort(**{"x" * 9999: 9})), r"effort: 'xxxx.*\.\.\.'"),
    "huge effort": (request(effort=effort(beam=10**9)), "max_effort: beam is 1000000000, the limit is 100000"),
    "effort without value": (request(effort={"beam": search_pb2.Scalar()}), "effort: beam has no value"),
    "nan effort": (
        request(effort={"beam": search_pb2.Scalar(real=np.nan)}),
        "effort: expected a finite number for beam, got nan",
    ),
    "many efforts": (request(effort=effort(**{f"e{i}": 1 for i in range(17)})), "effort: expected at most 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_is_an_invalid_argument(channel, name):
    bad, message = REFUSED[name]
    with pytest.raises(grpc.RpcError) as failure:
        search_pb2_grpc.SearchServiceStub(channel).Search(bad, timeout=20)
    assert failure.value.code() is INVALID
    assert re.search(message, failure.value.details())


def test_the_request_that_the_bad_ones_vary_is_good(channel):
    answer = search_pb2_grpc.SearchServiceStub(channel).Search(request(), timeout=20)
    assert list(answer.ids.shape) == [2, 3]


@pytest.mark.parametrize("method", ["Search", "GetInfo"])
def test_bytes_that_are_no_message(channel, method):
    call = channel.unary_unary(f"/nearhash.v1.SearchService/{method}")
    with pytest.raises(grpc.RpcError) as failure:
        call(b"\xff\xff\xff", timeout=20)
    assert failure.value.code() is INVALID
    assert f"expected a {method}Request message" in failure.value.details()


@pytest.mark.parametrize("method", ["Search", "GetInfo"])
def test_an_unknown_collection_is_not_found(channel, method):
    stub = search_pb2_grpc.SearchServiceStub(channel)
    bad = request(collection="words") if method == "Search" else search_pb2.GetInfoRequest(collection="words")
    with pytest.raises(grpc.RpcError, match="no collection 'words' here, only 'default'") as failure:
        getattr(stub, method)(bad, timeout=20)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_collection_may_be_named(scripted):
    config = ServerConfig(collection="words")
    with (
        running_server(scripted(lambda _: None, DIM), config=config) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = search_pb2_grpc.SearchServiceStub(channel)
        assert stub.GetInfo(search_pb2.GetInfoRequest(), timeout=20).collection == "words"
        stub.Search(request(collection="words"), timeout=20)
        stub.Search(request(collection=""), timeout=20)


def test_an_unknown_method_is_unimplemented(channel):
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary("/nearhash.v1.SearchService/Drop")(b"", timeout=20)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_oversized_message_is_refused_with_the_limit(scripted):
    config = ServerConfig(limits=Limits(max_message_bytes=5000))
    with (
        running_server(scripted(lambda _: None, DIM), config=config) as address,
        grpc.insecure_channel(address) as channel,
        pytest.raises(grpc.RpcError, match="5000") as failure,
    ):
        search_pb2_grpc.SearchServiceStub(channel).Search(request(queries=tensor(np.zeros((60, DIM)))), timeout=20)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("secret /etc/passwd"), "INTERNAL", "internal error; the server's log has it as request "),
        (ValueError("secret"), "INTERNAL", "internal error"),
        (CorruptIndexError("/secret/file.nh: bad"), "DATA_LOSS", "the index on the server is damaged"),
        (MemoryError("secret"), "RESOURCE_EXHAUSTED", "not enough memory"),
        (nh.errors.UnknownIdError("ids: 7 is not in the index"), "NOT_FOUND", "ids: 7"),
    ],
)
def test_failures_inside_show_no_traces_to_the_client(scripted, caplog, error, code, message):
    def fail(_: object) -> None:
        raise error

    with running_server(scripted(fail)) as address, nh.Client(address) as client:
        with caplog.at_level(logging.ERROR, "nearhash.service"), pytest.raises(ServiceError) as failure:
            client.search(np.zeros(4))
        assert failure.value.code == code
        assert message in str(failure.value)
        assert "secret" not in str(failure.value)
        if code == "INTERNAL":
            assert "secret" in caplog.text  # the log has it, with the reference that the client was told
            assert str(failure.value).split()[-1] in caplog.text
        with pytest.raises(ServiceError):  # and the server goes on
            client.search(np.zeros(4))


def test_the_client_raises_what_the_index_would(client, index, vectors):
    for kind, arguments in [
        (DimensionError, (vectors[:2, :5],)),
        (DimensionError, (np.zeros((1, 2, 3)),)),
        (DtypeError, (np.array(["a"]),)),
        (DtypeError, (np.ones((1, DIM), bool),)),
        (InvalidArgumentError, (vectors[:2] * np.nan,)),
        (InvalidArgumentError, (vectors[:2], 0)),
        (InvalidArgumentError, (vectors[:2], 2.5)),
        (InvalidArgumentError, (vectors[:2], 3, (2, 1))),
        (InvalidArgumentError, (vectors[:2], 3, np.zeros((5, 2)))),
        (DtypeError, (vectors[:2], 3, None, np.array([0.5]))),
        (InvalidArgumentError, (vectors[:2], 3, None, np.array([[1]]))),
    ]:
        with pytest.raises(kind) as embedded:
            index.search(*arguments)
        with pytest.raises(kind) as served:
            client.search(*arguments)
        assert type(served.value) is type(embedded.value)
        assert str(served.value).split(":")[0] == str(embedded.value).split(":")[0]


@pytest.mark.parametrize("value", [True, "64", None, 2**64, [1]])
def test_the_client_refuses_efforts_that_are_no_numbers(client, vectors, value):
    with pytest.raises(InvalidArgumentError, match="beam: expected an int64 or a float"):
        client.search(vectors[:1], beam=value)


def test_the_client_names_limits_of_the_server(client, vectors):
    with pytest.raises(InvalidArgumentError, match="max_k"):
        client.search(vectors[:1], k=20_000)
    with pytest.raises(InvalidArgumentError, match="k: expected an integer"):
        client.search(vectors[:1], k=2**32)
