"""Ids, labels, payloads and points as ``nearhash.v1`` messages and back, for client and server. No grpc, no numba.

Functions that decode raise InvalidArgumentError for whatever is not well-formed, before they allocate anything that
depends on what a message claims. Limits and everything that needs a collection are the business of their callers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.protos.v1 import points_pb2, search_pb2, tensor_pb2
from nearhash.service.engine.identifiers import as_point_ids, encoded_ids
from nearhash.service.engine.results import Found, Point, PointId
from nearhash.service.wire import from_tensor, to_tensor

FIRST_LABEL = ""
"""On the wire: stands for the name of a collection's first label field."""

_NONE = -1


# --- ids ---


def to_ids(ids: Any, name: str = "ids") -> points_pb2.Ids:
    """Encode ids that a user gave: integers >= 0, texts, or both.

    Raises
    ------
    InvalidArgumentError
        And its subclasses, see `as_point_ids`.
    """
    return _ids_message(as_point_ids(ids, name))


def from_ids(message: points_pb2.Ids, name: str = "ids") -> NDArray[np.int64] | list[PointId]:
    """Decode ids, at least as to their form: an array if all are numbers, otherwise a list.

    Whether they are distinct, and how long texts may be, `as_point_ids` checks, which all methods of a collection call.

    Raises
    ------
    InvalidArgumentError
        A length that is no multiple of 8, an id of -1, or texts that are not referred to exactly once.
    """
    numbers = _numbers(message.numbers, name)
    if (numbers == _NONE).any():
        raise InvalidArgumentError(f"{name}.numbers: expected ids, got -1, which stands for none")
    texts = message.texts
    if not texts and (not len(numbers) or numbers.min() >= 0):
        return numbers
    references = -2 - numbers[numbers < 0]
    used = np.sort(references)
    if len(used) != len(texts) or (used != np.arange(len(texts))).any():
        raise InvalidArgumentError(
            f"{name}.texts: expected each of {len(texts)} texts to be referred to once by a number of -2 - i, "
            f"got {len(used)} such numbers" + (f" from {-2 - used[-1]} to {-2 - used[0]}" if len(used) else "")
        )
    return [number if number >= 0 else texts[-2 - number] for number in numbers.tolist()]


def to_repeated_ids(ids: Iterable[PointId]) -> points_pb2.Ids:
    """Encode ids that are known to be good, and may repeat."""
    return _ids_message(ids)


def from_repeated_ids(message: points_pb2.Ids, name: str = "ids") -> list[PointId]:
    """Decode ids that may repeat; raises as `from_ids` does."""
    found = from_ids(message, name)
    return found if isinstance(found, list) else found.tolist()


def count_ids(message: points_pb2.Ids) -> int:
    """How many ids a message has: known before they are decoded."""
    return len(message.numbers) // 8


def _numbers(data: bytes, name: str) -> NDArray[np.int64]:
    if len(data) % 8:
        raise InvalidArgumentError(f"{name}.numbers: expected 8 bytes for each id, got {len(data)} bytes")
    return np.frombuffer(data, "<i8").astype(np.int64, copy=False)


def _ids_message(ids: Iterable[PointId]) -> points_pb2.Ids:
    texts: list[str] = []
    numbers = encoded_ids(ids, texts)
    return points_pb2.Ids(numbers=numbers.astype("<i8", copy=False).tobytes(), texts=texts)


# --- labels ---


def to_labels(labels: ArrayLike | Mapping[str, ArrayLike] | None) -> dict[str, tensor_pb2.Tensor]:
    """Encode labels as a user gives them to `Collection.upsert`: numbers for the first field, or a dict by name.

    Raises
    ------
    InvalidArgumentError, DtypeError
        They are no numbers, or integers that float64 does not hold.
    """
    if labels is None:
        return {}
    given = labels if isinstance(labels, Mapping) else {FIRST_LABEL: labels}
    return {name: to_tensor(_as_column(name, values), "labels") for name, values in given.items()}


def _as_column(name: str, values: ArrayLike) -> NDArray[np.float64]:
    argument = f"labels[{name!r:.80}]" if name else "labels"
    try:
        column = np.atleast_1d(np.asarray(values))
        if column.dtype.kind == "M":
            column = column.astype("datetime64[us]").astype(np.int64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{argument}: expected numbers, got {values!r:.80}") from error
    if column.dtype.kind not in "fiu" or column.ndim != 1:
        raise DtypeError(f"{argument}: expected numbers of one dimension, got {column.dtype} {column.shape}")
    floats = column.astype(np.float64)
    if column.dtype.kind in "iu" and (floats.astype(column.dtype) != column).any():
        raise InvalidArgumentError(f"{argument}: expected integers that float64 holds, up to 2**53")
    return floats


def from_labels(labels: Mapping[str, tensor_pb2.Tensor], count: int) -> dict[str, NDArray[np.float64]]:
    """Decode labels of `count` points.

    Raises
    ------
    InvalidArgumentError, DtypeError
        A column is not float64 of shape (count,).
    """
    columns = {}
    for name, tensor in labels.items():
        argument = f"labels[{name[:40]!r}]"
        column = from_tensor(tensor, argument, ndim=(1,))
        if column.dtype != np.float64:
            raise DtypeError(f"{argument}: expected float64, got {column.dtype}")
        if len(column) != count:
            raise InvalidArgumentError(f"{argument}: expected {count} numbers, one for each point, got {len(column)}")
        columns[name] = column
    return columns


# --- payloads ---


def to_payload(payload: Mapping[str, Any] | bytes | str | None) -> bytes:
    """Encode a payload; None becomes the empty bytes.

    Raises
    ------
    InvalidArgumentError
        JSON cannot hold it.
    """
    if payload is None:
        return b""
    if isinstance(payload, bytes):
        return payload
    if not isinstance(payload, str | Mapping):
        raise InvalidArgumentError(f"payloads: expected dicts or JSON objects, got {payload!r:.80}")
    try:
        if isinstance(payload, str):
            return payload.encode()
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"payloads: expected what JSON can hold: {error!s:.200}") from error


def from_payload(data: bytes) -> dict[str, Any] | None:
    """Decode a payload that a server sent.

    Raises
    ------
    InvalidArgumentError
        It is no JSON object.
    """
    if not data:
        return None
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"payloads: not valid JSON: {error!s:.80}") from error
    if not isinstance(payload, dict):
        raise InvalidArgumentError(f"payloads: expected a JSON object, got {payload!r:.80}")
    return payload


# --- points ---


def to_points(
    points: Sequence[Point], label_names: Sequence[str], dim: int, *, vectors: bool, payloads: bool
) -> points_pb2.Points:
    """Encode points of a collection in columns."""
    message = points_pb2.Points(ids=_ids_message(point.id for point in points))
    for name in label_names:
        column = np.array([point.labels.get(name, np.nan) for point in points], np.float64)
        message.labels[name].CopyFrom(to_tensor(column, "labels"))
    if payloads:
        message.payloads.extend(to_payload(point.payload) for point in points)
    if vectors:
        matrix = np.empty((len(points), dim), np.float32)
        for row, point in enumerate(points):
            matrix[row] = point.vector
        message.vectors.CopyFrom(to_tensor(matrix, "vectors"))
    return message


def from_points(message: points_pb2.Points) -> list[Point]:
    """Decode points.

    Raises
    ------
    InvalidArgumentError
        And its subclasses: columns are not of one length, or not what they should be.
    """
    ids = from_ids(message.ids)
    columns = from_labels(message.labels, len(ids))
    vectors: NDArray[Any] | None = None
    if message.HasField("vectors"):
        vectors = from_tensor(message.vectors, "vectors", ndim=(2,))
        if len(vectors) != len(ids) or vectors.dtype != np.float32:
            raise InvalidArgumentError(
                f"vectors: expected {len(ids)} of float32, got {len(vectors)} of {vectors.dtype}"
            )
        vectors = vectors.copy()  # not views of a message
    payloads = [from_payload(one) for one in message.payloads] or [None] * len(ids)
    if len(payloads) != len(ids):
        raise InvalidArgumentError(f"payloads: expected {len(ids)}, one for each id, got {len(payloads)}")
    marks = {name: column.tolist() for name, column in columns.items()}
    own = ids.tolist() if isinstance(ids, np.ndarray) else ids
    return [
        Point(
            own[row],
            {name: column[row] for name, column in marks.items() if column[row] == column[row]},
            payloads[row],
            None if vectors is None else vectors[row],
        )
        for row in range(len(own))
    ]


# --- what a search found ---


def to_found(found: Found) -> search_pb2.SearchResponse:
    """Encode the answer to a search."""
    texts: list[str] = []
    ids = found.ids if found.ids.dtype == np.int64 else _encoded(found.ids, texts)
    response = search_pb2.SearchResponse(
        ids=to_tensor(ids, "ids"), distances=to_tensor(found.distances, "distances"), texts=texts
    )
    if found.payloads is not None:
        response.payloads.extend(to_payload(one) for row in found.payloads for one in row)
    if found.vectors is not None:
        response.vectors.CopyFrom(to_tensor(found.vectors, "vectors"))
    return response


def from_found(response: search_pb2.SearchResponse, rows: int, k: int) -> Found:
    """Decode the answer to a search of `rows` queries for k neighbours each; arrays are its own, not views.

    Raises
    ------
    InvalidArgumentError
        And its subclasses: it is not an answer to such a search.
    """
    ids = from_tensor(response.ids, "ids", ndim=(2,))
    distances = from_tensor(response.distances, "distances", ndim=(2,))
    if ids.dtype != np.int64 or distances.dtype != np.float32 or not ids.shape == distances.shape == (rows, k):
        raise InvalidArgumentError(
            f"ids, distances: expected int64 and float32 of shape {(rows, k)}, "
            f"got {ids.dtype} {ids.shape} and {distances.dtype} {distances.shape}"
        )
    vectors = None
    if response.HasField("vectors"):
        vectors = from_tensor(response.vectors, "vectors", ndim=(3,))
        if vectors.dtype != np.float32 or vectors.shape[:2] != (rows, k):
            raise InvalidArgumentError(
                f"vectors: expected float32 of shape ({rows}, {k}, dim), got {vectors.dtype} {vectors.shape}"
            )
        vectors = vectors.copy()
    payloads = None
    if response.payloads:
        if len(response.payloads) != rows * k:
            raise InvalidArgumentError(f"payloads: expected {rows * k}, got {len(response.payloads)}")
        flat = [from_payload(one) for one in response.payloads]
        payloads = [flat[start : start + k] for start in range(0, len(flat), k)]
    return Found(_decoded(ids, response.texts), distances.copy(), payloads, vectors)


def _encoded(ids: NDArray[Any], texts: list[str]) -> NDArray[np.int64]:
    """Objects int, str and None as numbers; a text that several queries found is sent once."""
    places: dict[str, int] = {}
    numbers = []
    for one in ids.reshape(-1).tolist():
        if one is None:
            numbers.append(_NONE)
        elif isinstance(one, str):
            if one not in places:
                places[one] = -2 - len(texts)
                texts.append(one)
            numbers.append(places[one])
        else:
            numbers.append(one)
    return np.array(numbers, np.int64).reshape(ids.shape)


def _decoded(ids: NDArray[np.int64], texts: Sequence[str]) -> NDArray[Any]:
    lowest = int(ids.min()) if ids.size else 0
    if lowest < -1 - len(texts):
        raise InvalidArgumentError(f"ids: expected numbers from {-1 - len(texts)}, got {lowest}")
    if lowest >= _NONE:
        return ids.copy()
    objects = ids.astype(object)
    objects[ids == _NONE] = None
    for place in zip(*np.nonzero(ids < _NONE), strict=True):
        objects[place] = texts[-2 - int(ids[place])]
    return objects
