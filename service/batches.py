"""Search arguments as request messages, cut so that every request and its answer stay within the limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.index.arguments import as_windows, check_count, integer_ids
from nearhash.protos.v1 import search_pb2, tensor_pb2
from nearhash.service.wire import HIT_BYTES, MESSAGE_OVERHEAD, to_tensor

_LARGEST_K = 2**32 - 1
_INT64 = np.iinfo(np.int64)
_WINDOW_BYTES = 16  # a pair of float64


@dataclass(frozen=True)
class Capacity:
    """What one request may hold: the tighter of the client's and the server's limits."""

    rows: int
    message_bytes: int


def search_requests(
    queries: ArrayLike,
    k: int,
    window: ArrayLike | None,
    allow: ArrayLike | None,
    effort: Mapping[str, object],
    capacity: Capacity,
) -> Iterator[search_pb2.SearchRequest]:
    """Requests for a batch of queries, in order; one request if the batch fits.

    Arguments are those of an index's ``search``. They are checked here as far as that is possible without the index;
    the checks happen before the first request is given.

    Raises
    ------
    InvalidArgumentError
        And its subclasses DimensionError and DtypeError; also if a single query does not fit a message.
    """
    vectors = _as_queries(queries)
    k = check_count(k, "k", most=_LARGEST_K)
    windows = None if window is None else _as_window(window, len(vectors))
    template = search_pb2.SearchRequest(k=k, effort={name: _scalar(name, value) for name, value in effort.items()})
    if allow is not None:
        template.allow.CopyFrom(_allow_tensor(allow))
    per_query = windows is not None and windows.ndim == 2
    if windows is not None and not per_query:
        template.window.CopyFrom(to_tensor(windows, "window"))
    step = _rows_per_request(vectors, k, template.ByteSize(), per_query, capacity)

    def requests() -> Iterator[search_pb2.SearchRequest]:
        for first in range(0, max(len(vectors), 1), step):
            request = search_pb2.SearchRequest()
            request.CopyFrom(template)
            request.queries.CopyFrom(to_tensor(vectors[first : first + step], "queries"))
            if windows is not None and per_query:
                request.window.CopyFrom(to_tensor(windows[first : first + step], "window"))
            yield request

    return requests()


def _as_queries(queries: ArrayLike) -> NDArray[np.generic]:
    """(q, dim), dtype and layout as they came; an empty list becomes (0), which every dimension fits."""
    vectors = np.asarray(queries)
    if vectors.dtype.kind not in "fiu":
        raise DtypeError(f"queries: expected a float or integer dtype, got {vectors.dtype}")
    if vectors.ndim == 1 and vectors.size:
        vectors = vectors[np.newaxis]
    if vectors.ndim != 2 and vectors.size:
        raise DimensionError(f"queries: expected shape (n, dim) or (dim,), got {vectors.shape}")
    return vectors


def _as_window(window: ArrayLike, rows: int) -> NDArray[np.float64]:
    """(2,) or (rows, 2)."""
    windows = as_windows(window, rows)
    return np.asarray(window, np.float64) if np.shape(window) == (2,) else windows


def _allow_tensor(allow: ArrayLike) -> tensor_pb2.Tensor:
    allowed = np.asarray(allow)
    if allowed.ndim != 1:
        raise InvalidArgumentError(f"allow: expected a mask or ids of one dimension, got shape {allowed.shape}")
    return to_tensor(allowed if allowed.dtype == np.bool_ else integer_ids(allow, "allow"), "allow")


def _scalar(name: str, value: object) -> search_pb2.Scalar:
    if isinstance(value, float | np.floating):
        return search_pb2.Scalar(real=float(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and _INT64.min <= value <= _INT64.max:
        return search_pb2.Scalar(integer=int(value))
    raise InvalidArgumentError(f"{name}: expected an int64 or a float, got {value!r}")


def _rows_per_request(
    vectors: NDArray[np.generic], k: int, fixed_bytes: int, per_query_window: bool, capacity: Capacity
) -> int:
    row_bytes = vectors[:1].nbytes + (_WINDOW_BYTES if per_query_window else 0)
    available = capacity.message_bytes - MESSAGE_OVERHEAD
    by_request = (available - fixed_bytes) // max(row_bytes, 1)
    by_answer = available // (k * HIT_BYTES)
    if by_request < 1:
        raise InvalidArgumentError(
            f"max_message_bytes: one query of {row_bytes} bytes and {fixed_bytes} bytes of allow, window and effort "
            f"exceed the limit of {capacity.message_bytes}"
        )
    if by_answer < 1:
        raise InvalidArgumentError(
            f"max_message_bytes: {k} neighbours are {k * HIT_BYTES} bytes, the limit is {capacity.message_bytes}"
        )
    return min(by_request, by_answer, capacity.rows)
