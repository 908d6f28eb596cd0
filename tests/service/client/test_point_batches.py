"""No request exceeds a limit, none is smaller than it must be, and all rows are sent once, in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.errors import InvalidArgumentError
from nearhash.service.batches import Capacity
from nearhash.service.point_batches import DeleteBatch, GetBatch, UpsertBatch
from nearhash.service.points_wire import from_ids, from_labels
from nearhash.service.wire import MESSAGE_OVERHEAD, from_tensor

SLACK = MESSAGE_OVERHEAD + 300  # what is set aside for names, shapes and a request id


def cut(batch):
    sent, first = [], 0
    while not sent or first < batch.count:
        stop = batch.stop(first, batch.count)
        assert stop > first or not batch.count
        sent.append(batch.request(first, stop))
        first = stop
    return sent


def ids_of(requests):
    return [one for request in requests for one in list(from_ids(request.ids))]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 60),
    dim=st.integers(1, 20),
    message_bytes=st.integers(2500, 6000),
    points=st.integers(1, 40),
    texts=st.integers(0, 300),
    longest=st.integers(0, 800),
    labels=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_upserts(count, dim, message_bytes, points, texts, longest, labels, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    ids = [f"{row}" + "é" * int(rng.integers(texts // 2 + 1)) if texts and row % 2 else row for row in range(count)]
    payloads = [b'{"a":"%s"}' % (b"x" * int(rng.integers(longest + 1))) for _ in range(count)] if longest else None
    columns = {f"label {name}": rng.random(count) for name in range(labels)}
    sent = cut(UpsertBatch("name", ids, vectors, columns, payloads, "request", Capacity(1, message_bytes, points)))
    sizes = [request.ByteSize() for request in sent]
    assert max(sizes) <= message_bytes
    assert max(len(request.ids.numbers) // 8 for request in sent) <= points
    assert ids_of(sent) == ids
    decoded = [from_tensor(request.vectors, "vectors", (2,)) for request in sent]
    np.testing.assert_array_equal(np.concatenate(decoded), vectors)
    assert [one for request in sent for one in request.payloads] == (payloads or [])
    for name, column in columns.items():
        parts = [from_labels(request.labels, len(request.ids.numbers) // 8)[name] for request in sent]
        np.testing.assert_array_equal(np.concatenate(parts), column)
    largest_row = 4 * dim + 8 + 8 * labels + 10 + longest + 10 + 2 * texts + 20
    for request, size in zip(sent[:-1], sizes[:-1], strict=True):
        full = len(request.ids.numbers) // 8 == points
        assert full or size + largest_row + SLACK + 6 * 2 * len(request.payloads) > message_bytes
    assert len({request.request_id for request in sent}) == len(sent)


@pytest.mark.parametrize("make", [DeleteBatch, GetBatch])
def test_ids(make):
    ids = [row if row % 2 else "x" * 500 + str(row) for row in range(300)]
    options = {"request_id": "r"} if make is DeleteBatch else {"vectors": True, "payloads": False}
    sent = cut(make("name", ids, **options, capacity=Capacity(1, 5000, 1, 40)))
    assert max(request.ByteSize() for request in sent) <= 5000
    assert ids_of(sent) == ids
    assert len(sent) < 40
    small = cut(make("name", np.arange(100), **options, capacity=Capacity(1, 5000, 1, 40)))
    assert [len(request.ids.numbers) // 8 for request in small] == [40, 40, 20]


def test_a_batch_is_cut_exactly_where_it_does_not_fit_any_more():
    def requests(message_bytes, count=10):
        return cut(UpsertBatch("name", range(count), np.zeros((count, 4)), None, None, "r", Capacity(1, message_bytes)))

    fitting = next(size for size in range(300, 2000) if _fits(size) and len(requests(size)) == 1)
    assert [len(request.ids.numbers) // 8 for request in requests(fitting)] == [10]
    assert [len(request.ids.numbers) // 8 for request in requests(fitting - 1)] == [9, 1]
    assert [len(request.ids.numbers) // 8 for request in requests(fitting, 20)] == [10, 10]
    assert [len(request.ids.numbers) // 8 for request in requests(fitting, 21)] == [10, 10, 1]


def _fits(message_bytes):
    try:
        UpsertBatch("name", [1], np.zeros((1, 4)), None, None, "r", Capacity(1, message_bytes))
    except InvalidArgumentError:
        return False
    return True


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda c: UpsertBatch("n", [1], np.zeros((1, 1000)), None, None, "r", c), "one point of 4008 bytes"),
        (lambda c: UpsertBatch("n", [1, 2], np.zeros((2, 2)), None, [None, b"x" * 3000], "r", c), "one point of 30"),
        (lambda c: GetBatch("n", [1], False, False, Capacity(1, 200)), "one id of 8 bytes"),
        (lambda c: DeleteBatch("n", [1], "r", Capacity(1, 200)), "one id of 8 bytes"),
    ],
)
def test_a_row_that_fits_no_request_is_refused_before_anything_is_sent(batch, message):
    with pytest.raises(InvalidArgumentError, match=f"max_message_bytes: {message}"):
        batch(Capacity(1, 2000))


def test_wide_numbers_travel_as_they_are_stored_and_narrow_ones_as_they_are():
    for dtype, sent in (("f8", "f4"), ("i8", "f4"), ("f4", "f4"), ("f2", "f2"), ("u1", "u1"), ("i4", "i4")):
        batch = UpsertBatch("n", [1], np.ones((1, 3), dtype), None, None, "r", Capacity(1, 2000))
        assert from_tensor(batch.request(0, 1).vectors, "vectors", (2,)).dtype == np.dtype(sent)
