"""Request messages, checked and turned into arguments of indexes and collections.

Only what is cheap is checked here: lengths, shapes and limits, before anything is allocated or queued. What takes a
pass over the data (NaN, windows with lo > hi, ids) is the index's own business and has the same errors embedded.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.index.tuned import check_recall
from nearhash.protos.v1 import points_pb2, search_pb2, tensor_pb2
from nearhash.service.config import Limits
from nearhash.service.engine.results import PointId
from nearhash.service.points_wire import count_ids, from_ids, from_labels
from nearhash.service.wire import HIT_BYTES, MESSAGE_OVERHEAD, from_tensor

_RESERVED = frozenset(
    {"self", "queries", "k", "window", "allow", "where", "filter", "window_label", "recall", "payloads", "vectors"}
    | {"threads"}
)
_MOST_EFFORTS = 16
_LONGEST_NAME = 64


class SearchArguments(NamedTuple):
    """What is searched for; arrays are read-only views of the request, but for a single query."""

    queries: NDArray[Any]  # (rows, dim)
    k: int
    window: NDArray[np.float64] | None  # (2,) or (rows, 2)
    allow: NDArray[Any] | None  # (n,) int64 ids or bool
    effort: dict[str, int | float]
    filter: str | None
    window_label: str | None
    recall: float | None
    payloads: bool
    vectors: bool
    answer_bytes: int  # at least so many


class UpsertArguments(NamedTuple):
    """Arguments for ``Collection.upsert``; arrays are read-only views of the request."""

    ids: NDArray[np.int64] | list[PointId]
    vectors: NDArray[Any]  # (n, dim)
    labels: dict[str, NDArray[np.float64]]  # FIRST_LABEL may be among the names
    payloads: list[bytes] | None
    request_id: str | None


def parse(kind: type[Message], data: bytes) -> Any:
    """Parse a message; bytes that are none raise InvalidArgumentError."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidArgumentError(f"request: expected a {kind.DESCRIPTOR.name} message, got other bytes") from error
    return message


def search_arguments(request: search_pb2.SearchRequest, dim: int, limits: Limits) -> SearchArguments:
    """Check a request against the limits and decode it.

    Parameters
    ----------
    request
        The message.
    dim
        Dimension of the collection.
    limits
        Bounds of this server.

    Raises
    ------
    InvalidArgumentError
        And its subclasses DimensionError and DtypeError; the message names field or limit.
    """
    if not request.HasField("queries"):
        raise InvalidArgumentError("queries: expected a tensor, got none")
    k = _checked_k(request.k, limits)
    queries = _decoded_queries(request.queries, dim, limits)
    answer_bytes = len(queries) * k * (HIT_BYTES + (4 * dim if request.with_vectors else 0)) + MESSAGE_OVERHEAD
    if answer_bytes > limits.max_message_bytes:
        raise InvalidArgumentError(
            f"max_message_bytes: the answer to {len(queries)} queries with k = {k} has {answer_bytes} bytes, "
            f"the limit is {limits.max_message_bytes}; send fewer queries at a time"
        )
    window = _decoded_window(request.window, len(queries)) if request.HasField("window") else None
    allow = _decoded_allow(request.allow) if request.HasField("allow") else None
    return SearchArguments(
        queries,
        k,
        window,
        allow,
        _decoded_effort(request.effort, limits),
        request.filter_json or None,
        request.window_label or None,
        check_recall(request.recall) if request.HasField("recall") else None,
        request.with_payloads,
        request.with_vectors,
        answer_bytes,
    )


def upsert_arguments(request: points_pb2.UpsertRequest, dim: int, limits: Limits) -> UpsertArguments:
    """Check a request against the limits and decode it.

    Raises
    ------
    InvalidArgumentError
        And its subclasses DimensionError and DtypeError; the message names field or limit.
    """
    count = count_ids(request.ids)
    if count > limits.max_batch:
        raise InvalidArgumentError(f"max_batch: {count} points in a request, the limit is {limits.max_batch}")
    if not request.HasField("vectors"):
        raise InvalidArgumentError("vectors: expected a tensor, got none")
    ids = from_ids(request.ids)
    vectors = from_tensor(request.vectors, "vectors", ndim=(2,))
    if len(vectors) != count:
        raise InvalidArgumentError(f"vectors: expected {count}, one for each id, got {len(vectors)}")
    if vectors.shape[1] != dim:
        raise DimensionError(f"vectors: expected dimension {dim}, got {vectors.shape[1]}")
    if vectors.dtype.kind == "b":
        raise DtypeError("vectors: expected numbers, got bool")
    payloads = list(request.payloads)
    if payloads and len(payloads) != count:
        raise InvalidArgumentError(f"payloads: expected none or {count}, one for each id, got {len(payloads)}")
    for payload in payloads:
        if len(payload) > limits.max_payload_bytes:
            raise InvalidArgumentError(
                f"max_payload_bytes: a payload of {len(payload)} bytes, the limit is {limits.max_payload_bytes}"
            )
    labels = from_labels(request.labels, count)
    return UpsertArguments(ids, vectors, labels, payloads or None, request.request_id or None)


def asked_ids(message: points_pb2.Ids, limits: Limits) -> NDArray[np.int64] | list[PointId]:
    """Check ids to get or delete against the limits and decode them."""
    if count_ids(message) > limits.max_ids:
        raise InvalidArgumentError(f"max_ids: {count_ids(message)} ids in a request, the limit is {limits.max_ids}")
    return from_ids(message)


def one_window(request: points_pb2.CountRequest | points_pb2.ScrollRequest) -> tuple[float, float] | None:
    """The window of a request that has one at most."""
    if not request.HasField("window"):
        return None
    window = from_tensor(request.window, "window", ndim=(1,))
    if window.dtype != np.float64:
        raise DtypeError(f"window: expected float64, got {window.dtype}")
    if window.shape != (2,):
        raise InvalidArgumentError(f"window: expected shape (2,), got {window.shape}")
    lo, hi = window.tolist()
    return lo, hi


def _checked_k(k: int, limits: Limits) -> int:
    if k < 1:
        raise InvalidArgumentError(f"k: expected at least 1, got {k}")
    if k > limits.max_k:
        raise InvalidArgumentError(f"max_k: k is {k}, the limit is {limits.max_k}")
    return k


def _decoded_queries(tensor: tensor_pb2.Tensor, dim: int, limits: Limits) -> NDArray[Any]:
    queries = from_tensor(tensor, "queries", ndim=(1, 2))
    if queries.ndim == 1:
        queries = queries.reshape(1, -1) if len(queries) else queries.reshape(0, dim)
    if queries.shape[1] != dim:
        raise DimensionError(f"queries: expected vectors of dimension {dim}, got {queries.shape[1]}")
    if len(queries) > limits.max_rows:
        raise InvalidArgumentError(f"max_rows: {len(queries)} queries in a request, the limit is {limits.max_rows}")
    if queries.dtype.kind == "b":
        raise DtypeError("queries: expected numbers, got bool")
    # Indexes check and copy arrays that cannot be written to by slower ways: a tenth of a short search.
    return queries.copy() if len(queries) == 1 else queries


def _decoded_window(tensor: tensor_pb2.Tensor, rows: int) -> NDArray[np.float64]:
    window = from_tensor(tensor, "window", ndim=(1, 2))
    if window.dtype != np.float64:
        raise DtypeError(f"window: expected float64, got {window.dtype}")
    if window.shape not in ((2,), (rows, 2)):
        raise InvalidArgumentError(f"window: expected shape (2,) or ({rows}, 2), got {window.shape}")
    return window


def _decoded_allow(tensor: tensor_pb2.Tensor) -> NDArray[Any]:
    allow = from_tensor(tensor, "allow", ndim=(1,))
    if allow.dtype not in (np.int64, np.bool_):
        raise DtypeError(f"allow: expected int64 ids or a bool mask, got {allow.dtype}")
    return allow


def _decoded_effort(efforts: Any, limits: Limits) -> dict[str, int | float]:
    if len(efforts) > _MOST_EFFORTS:
        raise InvalidArgumentError(f"effort: expected at most {_MOST_EFFORTS} entries, got {len(efforts)}")
    return {name: _decoded_scalar(name, scalar, limits) for name, scalar in efforts.items()}


def _decoded_scalar(name: str, scalar: search_pb2.Scalar, limits: Limits) -> int | float:
    if name in _RESERVED or len(name) > _LONGEST_NAME or not name.isidentifier():
        raise InvalidArgumentError(f"effort: {_quoted(name)} is not the name of an effort")
    kind = scalar.WhichOneof("kind")
    if kind == "integer":
        if scalar.integer > limits.max_effort:
            raise InvalidArgumentError(f"max_effort: {name} is {scalar.integer}, the limit is {limits.max_effort}")
        return scalar.integer
    if kind == "real":
        if not math.isfinite(scalar.real):
            raise InvalidArgumentError(f"effort: expected a finite number for {name}, got {scalar.real}")
        return scalar.real
    raise InvalidArgumentError(f"effort: {name} has no value")


def _quoted(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")
