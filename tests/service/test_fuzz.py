"""Random and mutated requests: the server refuses what it does not understand, shows no traces, and lives."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash.protos.v1 import search_pb2, tensor_pb2
from nearhash.service.background import running_server
from nearhash.service.wire import to_tensor

DIM = 24
REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}

SEEDS = [
    search_pb2.SearchRequest(queries=to_tensor(np.ones((2, DIM), np.float32), ""), k=3).SerializeToString(),
    search_pb2.SearchRequest(
        collection="default",
        queries=to_tensor(np.ones((1, DIM), np.uint8), ""),
        k=3,
        window=to_tensor(np.array([1.0, 90.0]), ""),
        allow=to_tensor(np.arange(9), ""),
        effort={"beam": search_pb2.Scalar(integer=3)},
    ).SerializeToString(),
]

sizes = st.one_of(st.sampled_from([0, 1, 2, DIM, 2**31 - 1, 2**31, 2**63, 2**64 - 1]), st.integers(0, 40))
shapes = st.one_of(st.tuples(sizes, st.just(DIM)), st.lists(sizes, max_size=4))


@st.composite
def tensors(draw: st.DrawFn) -> tensor_pb2.Tensor:
    """Tensors of any shape and dtype, mostly with as many bytes as they should have."""
    shape = list(draw(shapes))
    dtype = draw(st.one_of(st.integers(0, 12), st.integers(-(2**31), 2**31 - 1)))
    elements = min(int(np.prod([float(axis) for axis in shape])), 4000)
    itemsize = draw(st.sampled_from([{1: 4, 2: 8, 3: 2, 10: 8}.get(dtype, 1), 1, 2, 4, 8]))
    fill = draw(st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\0", b"\xff"])))
    data = (fill * (elements * itemsize // len(fill) + 1))[: elements * itemsize]
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    request = search_pb2.SearchRequest(
        collection=draw(st.sampled_from(["", "", "default"]) | st.text(max_size=50)),
        queries=draw(tensors()),
        k=draw(st.integers(0, 20) | st.integers(0, 2**32 - 1)),
    )
    if draw(st.booleans()):
        request.window.CopyFrom(draw(tensors()))
    if draw(st.booleans()):
        request.allow.CopyFrom(draw(tensors()))
    if draw(st.booleans()):
        request.effort["beam"].integer = draw(st.integers(-1, 300) | st.integers(-(2**63), 2**63 - 1))
    for name in draw(st.lists(st.text(max_size=20) | st.sampled_from(["rerank", "threads", "self"]), max_size=2)):
        request.effort[name].real = draw(st.floats())
    return request.SerializeToString()


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "insert", "cut", "end"]))
        if kind == "change" and position < len(data):
            data[position] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[position:position] = draw(st.binary(max_size=8))
        elif kind == "cut":
            del data[position : position + draw(st.integers(1, 8))]
        else:
            del data[position:]
    return bytes(data)


def check(channel: grpc.Channel, data: bytes) -> None:
    call = channel.unary_unary("/nearhash.v1.SearchService/Search").future(data, timeout=20)
    if call.code() is grpc.StatusCode.OK:
        _, k = search_pb2.SearchResponse.FromString(call.result()).ids.shape
        assert k == search_pb2.SearchRequest.FromString(data).k
        return
    assert call.code() in REFUSALS, (call.code(), call.details())
    for inside in ("Traceback", ".py", "File ", "object at"):
        assert inside not in call.details()


@pytest.fixture(scope="module")
def graph_channel(graph: nh.GraphIndex) -> Iterator[grpc.Channel]:
    with running_server(graph) as address, grpc.insecure_channel(address) as connected:
        yield connected


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(requests(), mutations(), st.binary(max_size=200)))
def test_no_request_hurts_an_exact_index(channel, data):
    check(channel, data)


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(requests(), mutations()))
def test_no_request_hurts_a_graph(graph_channel, data):
    check(graph_channel, data)


def test_the_server_is_alive_after_all(client, index, vectors):
    np.testing.assert_array_equal(client.search(vectors[:3]).ids, index.search(vectors[:3]).ids)
