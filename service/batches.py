"""Arguments of searches as request messages, cut so that every request and its answer stay within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from google.protobuf.message import Message
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

    rows: int  # queries of a search
    message_bytes: int
    points: int = 2**31 - 1  # of an upsert
    ids: int = 2**31 - 1  # to get or delete
    texts: int = 2**31 - 1  # of a request


class Batch(Protocol):
    """Rows that are sent in one request, or in several."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    def stop(self, first: int, most: int) -> int:
        """End of the request that begins with a row: within all limits that are known, and `most` rows."""

    def request(self, first: int, stop: int) -> Message:
        """The request for some rows."""


class SearchBatch:
    """A batch of queries.

    Arguments are those of a ``search``. They are checked here as far as that is possible without index or collection.

    Parameters
    ----------
    template
        A request that holds everything that is the same for all queries, except k, window and effort.
    queries, k, window, effort
        As for ``search``.
    capacity
        Limits.

    Raises
    ------
    InvalidArgumentError
        And its subclasses DimensionError and DtypeError; also if a single query does not fit a message.
    """

    def __init__(
        self,
        template: search_pb2.SearchRequest,
        queries: ArrayLike,
        k: int,
        window: ArrayLike | None,
        effort: Mapping[str, object],
        capacity: Capacity,
    ) -> None:
        self._vectors = _as_queries(queries)
        template.k = check_count(k, "k", most=_LARGEST_K)
        windows = None if window is None else as_request_window(window, len(self._vectors))
        for name, value in effort.items():
            template.effort[name].CopyFrom(_scalar(name, value))
        self._windows = windows if windows is not None and windows.ndim == 2 else None  # one for each query
        if windows is not None and self._windows is None:
            template.window.CopyFrom(to_tensor(windows, "window"))
        self._template = template
        self._step = _rows_per_request(self._vectors, template, self._windows is not None, capacity)

    @property
    def count(self) -> int:
        return len(self._vectors)

    def stop(self, first: int, most: int) -> int:
        return min(first + min(self._step, most), self.count)

    def request(self, first: int, stop: int) -> search_pb2.SearchRequest:
        request = search_pb2.SearchRequest()
        request.CopyFrom(self._template)
        request.queries.CopyFrom(to_tensor(self._vectors[first:stop], "queries"))
        if self._windows is not None:
            request.window.CopyFrom(to_tensor(self._windows[first:stop], "window"))
        return request


def as_request_window(window: ArrayLike, rows: int) -> NDArray[np.float64]:
    """(2,) or (rows, 2); raises InvalidArgumentError for anything else."""
    windows = as_windows(window, max(rows, 1)) if np.shape(window) == (2,) else as_windows(window, rows)
    return np.ascontiguousarray(windows[0]) if np.shape(window) == (2,) else windows


def allow_tensor(allow: ArrayLike) -> tensor_pb2.Tensor:
    """Encode ids (n,) or a mask (n,)."""
    allowed = np.asarray(allow)
    if allowed.ndim != 1:
        raise InvalidArgumentError(f"allow: expected a mask or ids of one dimension, got shape {allowed.shape}")
    return to_tensor(allowed if allowed.dtype == np.bool_ else integer_ids(allow, "allow"), "allow")


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


def _scalar(name: str, value: object) -> search_pb2.Scalar:
    if isinstance(value, float | np.floating):
        return search_pb2.Scalar(real=float(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and _INT64.min <= value <= _INT64.max:
        return search_pb2.Scalar(integer=int(value))
    raise InvalidArgumentError(f"{name}: expected an int64 or a float, got {value!r}")


def _rows_per_request(
    vectors: NDArray[np.generic], template: search_pb2.SearchRequest, per_query_window: bool, capacity: Capacity
) -> int:
    fixed_bytes = template.ByteSize()
    row_bytes = vectors[:1].nbytes + (_WINDOW_BYTES if per_query_window else 0)
    hit_bytes = HIT_BYTES + (4 * vectors.shape[-1] if template.with_vectors else 0)
    available = capacity.message_bytes - MESSAGE_OVERHEAD
    by_request = (available - fixed_bytes) // max(row_bytes, 1)
    by_answer = available // (template.k * hit_bytes)
    if by_request < 1:
        raise InvalidArgumentError(
            f"max_message_bytes: one query of {row_bytes} bytes and {fixed_bytes} bytes of allow, window, filter and "
            f"effort exceed the limit of {capacity.message_bytes}"
        )
    if by_answer < 1:
        raise InvalidArgumentError(
            f"max_message_bytes: {template.k} neighbours are {template.k * hit_bytes} bytes, the limit is "
            f"{capacity.message_bytes}"
        )
    return min(by_request, by_answer, capacity.rows)
