"""Ids, labels, payloads and points on the wire: what goes in comes out, what is malformed is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearhash.errors import DtypeError, DuplicateIdError, InvalidArgumentError
from nearhash.protos.v1 import points_pb2, search_pb2
from nearhash.service.engine.results import Found, Point
from nearhash.service.points_wire import (
    count_ids,
    from_found,
    from_ids,
    from_labels,
    from_payload,
    from_points,
    to_found,
    to_ids,
    to_labels,
    to_payload,
    to_points,
)
from nearhash.service.wire import to_tensor

point_ids = st.lists(
    st.integers(0, 2**63 - 1) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), unique=True
)
payloads = st.none() | st.dictionaries(
    st.text(st.characters(codec="utf-8")), st.integers() | st.booleans() | st.none() | st.text(), max_size=3
)


def packed(*numbers: int) -> bytes:
    return np.array(numbers, "<i8").tobytes()


@given(ids=point_ids)
def test_ids_come_back(ids):
    message = points_pb2.Ids.FromString(to_ids(ids).SerializeToString())
    assert count_ids(message) == len(ids)
    assert list(from_ids(message)) == ids


def test_arrays_of_numbers_stay_arrays():
    decoded = from_ids(to_ids(np.array([5, 0, 2**40])))
    assert isinstance(decoded, np.ndarray)
    assert decoded.tolist() == [5, 0, 2**40]


@pytest.mark.parametrize(
    ("ids", "error"), [([1, 1], DuplicateIdError), ([-1], InvalidArgumentError), ([1.5], DtypeError)]
)
def test_ids_that_are_none_are_not_sent(ids, error):
    with pytest.raises(error, match=r"^ids: expected"):
        to_ids(ids)


@pytest.mark.parametrize(
    ("numbers", "texts", "message"),
    [
        (b"1234567", [], "8 bytes for each id, got 7"),
        (packed(3, -1), [], "got -1"),
        (packed(-2), [], "each of 0 texts"),
        (packed(-3), ["a"], "each of 1 texts"),
        (packed(-(2**63)), ["a"], "each of 1 texts"),
        (packed(1), ["a"], "got 0 such numbers"),
        (packed(-2, 4), ["a", "b"], "each of 2 texts"),
        (packed(-2, -2), ["a"], "each of 1 texts"),
        (packed(-2, -2), ["a", "b"], "each of 2 texts"),
    ],
)
def test_malformed_ids_are_refused(numbers, texts, message):
    with pytest.raises(InvalidArgumentError, match=message):
        from_ids(points_pb2.Ids(numbers=numbers, texts=texts))


def test_labels():
    sent = to_labels({"year": [1, 2], "price": np.array([0.5, np.nan], np.float32)})
    columns = from_labels(sent, 2)
    assert columns["year"].tolist() == [1, 2]
    np.testing.assert_array_equal(columns["price"], [0.5, np.nan])
    assert list(to_labels([1.0])) == [""]
    assert to_labels(None) == {}
    day = np.array(["1970-01-02"], "datetime64[D]")
    assert from_labels(to_labels({"day": day}), 1)["day"].tolist() == [86_400e6]


@pytest.mark.parametrize("values", [["a"], [[1, 2], [3]], [[1.0]], [2**53 + 1], [True]])
def test_labels_that_are_no_numbers_are_not_sent(values):
    with pytest.raises(InvalidArgumentError, match=r"^labels\['x'\]: expected"):
        to_labels({"x": values})


def test_malformed_labels_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"labels\['x'\]: expected 3 numbers"):
        from_labels({"x": to_tensor(np.zeros(2), "")}, 3)
    with pytest.raises(DtypeError, match=r"labels\['x'\]: expected float64, got float32"):
        from_labels({"x": to_tensor(np.zeros(3, np.float32), "")}, 3)
    with pytest.raises(InvalidArgumentError, match=r"labels\['x'\].shape"):
        from_labels({"x": to_tensor(np.zeros((3, 1)), "")}, 3)


@given(payload=payloads)
def test_payloads_come_back(payload):
    assert from_payload(to_payload(payload)) == payload


@pytest.mark.parametrize("payload", [5, {"a": {1, 2}}, {"a": float("nan")}, [1], {"a": "\ud800"}, '{"a": "\ud800"}'])
def test_payloads_that_json_cannot_hold_are_not_sent(payload):
    with pytest.raises(InvalidArgumentError, match=r"^payloads: expected"):
        to_payload(payload)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_malformed_payloads_are_refused(data):
    with pytest.raises(InvalidArgumentError, match=r"^payloads: "):
        from_payload(data)


POINTS = [
    Point(7, {"year": 1999.0}, {"color": "red"}, np.array([1, 2], np.float32)),
    Point("b", {}, None, np.array([3, 4], np.float32)),
]


def test_points_come_back():
    message = to_points(POINTS, ["year"], 2, vectors=True, payloads=True)
    for came, sent in zip(from_points(message), POINTS, strict=True):
        assert came[:3] == sent[:3]
        np.testing.assert_array_equal(came.vector, sent.vector)
    bare = from_points(to_points(POINTS, ["year"], 2, vectors=False, payloads=False))
    assert bare == [point._replace(payload=None, vector=None) for point in POINTS]
    assert from_points(to_points([], ["year"], 2, vectors=True, payloads=True)) == []


def test_points_of_unequal_columns_are_refused():
    message = to_points(POINTS, [], 2, vectors=True, payloads=True)
    del message.payloads[:1]
    with pytest.raises(InvalidArgumentError, match="payloads: expected 2"):
        from_points(message)
    message = to_points(POINTS, [], 2, vectors=True, payloads=False)
    message.ids.CopyFrom(to_ids([1]))
    with pytest.raises(InvalidArgumentError, match="vectors: expected 1"):
        from_points(message)


def test_what_was_found_comes_back():
    ids = np.array([["a", 3], ["a", None]], object)
    distances = np.array([[0, 1], [2, np.inf]], np.float32)
    found = Found(ids, distances, [[{"x": 1}, None], [{"x": 1}, None]], np.ones((2, 2, 3), np.float32))
    message = to_found(found)
    assert list(message.texts) == ["a"]
    came = from_found(message, 2, 2)
    assert came.ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(came.distances, distances)
    assert came.payloads == found.payloads
    np.testing.assert_array_equal(came.vectors, found.vectors)
    numbers = from_found(to_found(Found(np.array([[3, -1]]), distances[:1])), 1, 2)
    assert numbers.ids.dtype == np.int64
    assert numbers.ids.flags.writeable
    assert numbers.payloads is numbers.vectors is None


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer.texts.pop(),
        lambda answer: answer.payloads.pop(),
        lambda answer: answer.ids.CopyFrom(to_tensor(np.zeros((2, 2), np.int32), "")),
        lambda answer: answer.distances.CopyFrom(to_tensor(np.zeros((2, 1), np.float32), "")),
        lambda answer: answer.vectors.CopyFrom(to_tensor(np.zeros((1, 2, 3), np.float32), "")),
        lambda answer: answer.ids.CopyFrom(to_tensor(np.full((2, 2), -(2**63)), "")),
    ],
)
def test_answers_to_another_question_are_refused(change):
    answer = search_pb2.SearchResponse()
    found = Found(np.array([["a", 3], [4, None]], object), np.zeros((2, 2), np.float32), [[{}, None]] * 2)
    answer.CopyFrom(to_found(found))
    change(answer)
    with pytest.raises(InvalidArgumentError):
        from_found(answer, 2, 2)
