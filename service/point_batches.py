"""Points and ids as request messages, cut so that every request stays within the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.protos.v1 import points_pb2
from nearhash.service.batches import Capacity
from nearhash.service.engine.identifiers import as_point_ids
from nearhash.service.engine.results import PointId
from nearhash.service.points_wire import from_labels, to_ids, to_labels, to_payload
from nearhash.service.wire import MESSAGE_OVERHEAD, to_tensor

_ID_BYTES = 8
_LABEL_BYTES = 8
_COLUMN_OVERHEAD = 64  # of a column of labels besides name and data
_FIELD_OVERHEAD = 6  # tag and length of a text or payload, at most
_LONGEST_REQUEST_ID = 128  # bytes


class Cut:
    """Rows of known sizes, cut into requests.

    Parameters
    ----------
    sizes
        (n,) bytes of each row in a message.
    fixed_bytes
        Of everything else in it.
    most_rows, message_bytes
        Limits.
    what
        What a row is, for the error message.
    """

    def __init__(
        self, sizes: NDArray[np.int64], fixed_bytes: int, most_rows: int, message_bytes: int, what: str
    ) -> None:
        self.count = len(sizes)
        self._most_rows = most_rows
        self._available = message_bytes - MESSAGE_OVERHEAD - fixed_bytes
        self._ends = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=self._ends[1:])
        longest = int(sizes.max(initial=0))
        if longest > self._available:
            raise InvalidArgumentError(
                f"max_message_bytes: {what} of {longest} bytes and {fixed_bytes + MESSAGE_OVERHEAD} bytes around it "
                f"exceed the limit of {message_bytes}"
            )

    def stop(self, first: int, most: int) -> int:
        fitting = int(np.searchsorted(self._ends, self._ends[first] + self._available, side="right")) - 1
        return min(fitting, first + min(most, self._most_rows))


class UpsertBatch:
    """Points to write. A batch that fits one request is written whole or not at all, others piece by piece.

    Parameters
    ----------
    collection
        Its name.
    ids, vectors, labels, payloads
        As for `Collection.upsert`; checked as far as that is possible without the collection.
    request_id
        That of each request is derived from it, and from the rows that it holds.
    capacity
        Limits.

    Raises
    ------
    InvalidArgumentError
        And its subclasses; also if a single point does not fit a message.
    """

    def __init__(
        self,
        collection: str,
        ids: Any,
        vectors: ArrayLike,
        labels: ArrayLike | Mapping[str, ArrayLike] | None,
        payloads: Sequence[Mapping[str, Any] | bytes | str | None] | None,
        request_id: str,
        capacity: Capacity,
    ) -> None:
        self._collection = collection
        self._ids = as_point_ids(ids)
        self._vectors = _as_rows(vectors)
        count = len(self._ids)
        if len(self._vectors) != count:
            raise InvalidArgumentError(f"ids: expected {len(self._vectors)}, one for each vector, got {count}")
        self._labels = from_labels(to_labels(labels), count)
        self._payloads = _as_payloads(payloads, count)
        self._request_id = request_id
        sizes = id_sizes(self._ids) + self._vectors[:1].nbytes + _LABEL_BYTES * len(self._labels)
        if self._payloads is not None:
            sizes += np.fromiter(map(len, self._payloads), np.int64, count) + _FIELD_OVERHEAD
        columns = sum(len(name.encode()) + _COLUMN_OVERHEAD for name in self._labels)
        fixed = columns + _names_bytes(collection) + _LONGEST_REQUEST_ID
        self._cut = Cut(sizes, fixed, capacity.points, capacity.message_bytes, "one point")
        self.count = count
        self.stop = self._cut.stop
        if self.stop(0, count) < count:
            check_derivable(request_id, count)

    def request(self, first: int, stop: int) -> points_pb2.UpsertRequest:
        request = points_pb2.UpsertRequest(
            collection=self._collection,
            ids=to_ids(self._ids[first:stop]),
            vectors=to_tensor(self._vectors[first:stop], "vectors"),
            request_id=derived_request_id(self._request_id, first, stop, self.count),
        )
        for name, column in self._labels.items():
            request.labels[name].CopyFrom(to_tensor(column[first:stop], "labels"))
        if self._payloads is not None:
            request.payloads.extend(self._payloads[first:stop])
        return request


class DeleteBatch:
    """Ids of points, or of documents, to delete; see `UpsertBatch`. kind: of the requests."""

    def __init__(
        self,
        collection: str,
        ids: Any,
        request_id: str,
        capacity: Capacity,
        kind: type[Any] = points_pb2.DeleteRequest,
    ) -> None:
        self._kind = kind
        self._collection = collection
        self._ids = as_point_ids(ids)
        self._request_id = request_id
        fixed = _names_bytes(collection) + _LONGEST_REQUEST_ID
        self._cut = Cut(id_sizes(self._ids), fixed, capacity.ids, capacity.message_bytes, "one id")
        self.count = len(self._ids)
        self.stop = self._cut.stop
        if self.stop(0, self.count) < self.count:
            check_derivable(request_id, self.count)

    def request(self, first: int, stop: int) -> Any:
        return self._kind(
            collection=self._collection,
            ids=to_ids(self._ids[first:stop]),
            request_id=derived_request_id(self._request_id, first, stop, self.count),
        )


class GetBatch:
    """Ids of points to get. How long the answer is, only the server knows: `UpsertBatch` without that."""

    def __init__(self, collection: str, ids: Any, vectors: bool, payloads: bool, capacity: Capacity) -> None:
        self._template = points_pb2.GetRequest(collection=collection, with_vectors=vectors, with_payloads=payloads)
        self.ids = as_point_ids(ids)
        fixed = self._template.ByteSize()
        self._cut = Cut(id_sizes(self.ids), fixed, capacity.ids, capacity.message_bytes, "one id")
        self.count = len(self.ids)
        self.stop = self._cut.stop

    def request(self, first: int, stop: int) -> points_pb2.GetRequest:
        request = points_pb2.GetRequest(ids=to_ids(self.ids[first:stop]))
        request.MergeFrom(self._template)
        return request


def _as_rows(vectors: ArrayLike) -> NDArray[Any]:
    """(n, dim); wide numbers as float32, as which they are stored."""
    rows = np.asarray(vectors)
    if rows.dtype.kind not in "fiu":
        raise DtypeError(f"vectors: expected a float or integer dtype, got {rows.dtype}")
    if rows.ndim == 1:
        rows = rows[np.newaxis] if rows.size else rows.reshape(0, 0)
    if rows.ndim != 2:
        raise DimensionError(f"vectors: expected shape (n, dim) or (dim,), got {rows.shape}")
    if rows.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # infinities are refused where the dimension is known
            return rows.astype(np.float32)
    return rows


def _as_payloads(payloads: Sequence[Mapping[str, Any] | bytes | str | None] | None, count: int) -> list[bytes] | None:
    if payloads is None:
        return None
    if isinstance(payloads, Mapping | str | bytes) or len(payloads) != count:
        got = f"{len(payloads)} of them" if isinstance(payloads, Sequence) else type(payloads).__name__
        raise InvalidArgumentError(f"payloads: expected {count}, one for each point, got {got}")
    return [to_payload(one) for one in payloads]


def id_sizes(ids: Sequence[PointId]) -> NDArray[np.int64]:
    texts = (len(one.encode()) + _FIELD_OVERHEAD if isinstance(one, str) else 0 for one in ids)
    return np.fromiter(texts, np.int64, len(ids)) + _ID_BYTES


def _names_bytes(collection: str) -> int:
    return len(collection.encode()) + 2 * _FIELD_OVERHEAD


def derived_request_id(request_id: str, first: int, stop: int, count: int) -> str:
    """Of one request of several; the rows belong to it, as other limits may cut the same points elsewhere."""
    return request_id if stop - first == count else f"{request_id}-{first}-{stop}"


def check_derivable(request_id: str, count: int) -> None:
    longest = _LONGEST_REQUEST_ID - len(derived_request_id("", count, count, -1))
    if len(request_id.encode()) > longest:
        raise InvalidArgumentError(
            f"request_id: expected at most {longest} bytes, as {count} rows take several requests, got {request_id!r}"
        )
