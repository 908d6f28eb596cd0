"""Large batches become several requests within every limit, and the answers are joined."""

import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import InvalidArgumentError
from nearhash.protos.v1 import search_pb2
from nearhash.service.background import running_server
from nearhash.service.batches import Capacity, SearchBatch, allow_tensor
from nearhash.service.config import Limits, ServerConfig


def requests(queries, k=10, window=None, allow=None, effort=None, *, rows=1000, message_bytes=10_000):
    template = search_pb2.SearchRequest()
    if allow is not None:
        template.allow.CopyFrom(allow_tensor(allow))
    return cut(SearchBatch(template, queries, k, window, effort or {}, Capacity(rows, message_bytes)))


def cut(batch):
    """The requests that a client would send."""
    sent, first = [], 0
    while not sent or first < batch.count:
        stop = batch.stop(first, batch.count)
        sent.append(batch.request(first, stop))
        first = stop
    return sent


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
@pytest.mark.parametrize("k", [1, 50])
@pytest.mark.parametrize("per_query_window", [False, True])
def test_no_request_exceeds_the_message_limit_and_all_rows_are_sent_in_order(dtype, k, per_query_window):
    queries = np.arange(500 * 20).reshape(500, 20).astype(dtype)
    window = np.arange(1000.0).reshape(500, 2) if per_query_window else (3, 4)
    sent = requests(queries, k, window, np.arange(300), {"beam": 64})
    assert len(sent) > 1
    assert max(request.ByteSize() for request in sent) <= 10_000
    assert max(request.queries.shape[0] * k * 12 for request in sent) <= 10_000
    assert b"".join(request.queries.data for request in sent) == queries.tobytes()
    windows = b"".join(request.window.data for request in sent)
    assert windows == (window.tobytes() if per_query_window else np.array([3.0, 4.0]).tobytes() * len(sent))
    assert all(request.allow == sent[0].allow and request.effort == sent[0].effort for request in sent)


def test_no_request_exceeds_the_row_limit():
    sent = requests(np.zeros((25, 4)), rows=10)
    assert [request.queries.shape[0] for request in sent] == [10, 10, 5]


def test_a_batch_that_fits_is_one_request():
    assert len(requests(np.zeros((25, 4)))) == 1
    assert len(requests(np.zeros((0, 4)))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.zeros(5000)}, "one query of 40000 bytes"),
        ({"queries": np.zeros(4), "allow": np.arange(5000)}, "bytes of allow"),
        ({"queries": np.zeros(4), "k": 5000}, "5000 neighbours are 60000 bytes"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_limit(arguments, message):
    with pytest.raises(InvalidArgumentError, match=f"max_message_bytes: {message}|max_message_bytes: .*{message}"):
        requests(**arguments)


@pytest.mark.parametrize(
    ("client_bytes", "limits"),
    [
        (3000, Limits()),
        (2**20, Limits(max_message_bytes=3000)),
        (2**20, Limits(max_rows=7)),
    ],
    ids=["client's limit", "server's limit", "server's rows"],
)
def test_joined_answers_equal_the_embedded_ones(index, vectors, client_bytes, limits):
    windows = np.stack([np.arange(100.0), np.arange(100.0) + 300], 1)
    with (
        running_server(index, config=ServerConfig(limits=limits)) as address,
        nh.Client(address, max_message_bytes=client_bytes) as client,
    ):
        served = client.search(vectors[:100], k=7, window=windows, allow=np.arange(0, 1800, 7))
    embedded = index.search(vectors[:100], k=7, window=windows, allow=np.arange(0, 1800, 7))
    np.testing.assert_array_equal(served.ids, embedded.ids)
    np.testing.assert_array_equal(served.distances, embedded.distances)
