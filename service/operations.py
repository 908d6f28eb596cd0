"""What clients do, without doing it: each method gives the steps that `Client` and `AsyncClient` carry out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from grpc_health.v1 import health_pb2
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError, NearhashError
from nearhash.index.predicates import Predicate
from nearhash.protos.v1 import collections_pb2, points_pb2, search_pb2
from nearhash.service import connection as methods
from nearhash.service.asking import Asking, Piece, Progress, check_name, checked_request_id, tell_written
from nearhash.service.attempts import Send, Steps, attempts
from nearhash.service.batches import Capacity, SearchBatch, allow_tensor, as_request_window
from nearhash.service.client_errors import error_from, malformed
from nearhash.service.connection import RpcError, checked_timeout
from nearhash.service.engine.results import Deleted, Found, Point, SnapshotInfo, Written
from nearhash.service.point_batches import DeleteBatch, GetBatch, UpsertBatch
from nearhash.service.points_wire import from_found, from_points
from nearhash.service.wire import to_tensor

Filter = Predicate | str | Mapping[str, Any]
Labels = ArrayLike | Mapping[str, ArrayLike]
Payloads = Sequence[Mapping[str, Any] | bytes | str | None]


class Operations(Asking):
    """The calls of a client, as steps. Shared by all its threads or tasks; steps of calls do not know of each other."""

    # --- points ---

    def search(
        self,
        collection: str,
        queries: ArrayLike,
        k: int,
        window: ArrayLike | None,
        *,
        allow: ArrayLike | None = None,
        filter: Filter | None = None,
        window_label: str | None = None,
        recall: float | None = None,
        payloads: bool = False,
        vectors: bool = False,
        effort: Mapping[str, object],
        timeout: float | None,
    ) -> Steps[Found]:
        """The k nearest points of each query."""
        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        template = search_pb2.SearchRequest(
            collection=collection,
            filter_json=filter_json(filter),
            window_label=window_label or "",
            recall=recall,
            with_payloads=payloads,
            with_vectors=vectors,
        )
        if allow is not None:
            template.allow.CopyFrom(allow_tensor(allow))
        batch = SearchBatch(template, queries, k, window, effort, capacity)
        pieces: list[Piece] = []
        yield from self._in_pieces(methods.SEARCH, batch, deadline, pieces)
        return _joined([_found(piece, template) for piece in pieces])

    def upsert(
        self,
        collection: str,
        ids: Any,
        vectors: ArrayLike,
        labels: Labels | None,
        payloads: Payloads | None,
        *,
        request_id: str | None,
        progress: Progress | None,
        timeout: float | None,
    ) -> Steps[Written]:
        """Insert points, and replace those whose ids are there."""
        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = UpsertBatch(collection, ids, vectors, labels, payloads, checked_request_id(request_id), capacity)
        pieces: list[Piece] = []
        try:
            yield from self._in_pieces(methods.UPSERT, batch, deadline, pieces, progress)
        except NearhashError as error:
            if pieces or batch.stop(0, batch.count) < batch.count:
                tell_written(error, pieces[-1].stop if pieces else 0, batch.count, "points")
            raise
        answers = [piece.answer for piece in pieces]
        return Written(
            sum(answer.written for answer in answers),
            sum(answer.replaced for answer in answers),
            max(answer.sequence for answer in answers),
        )

    def delete(self, collection: str, ids: Any, *, request_id: str | None, timeout: float | None) -> Steps[Deleted]:
        """Delete points by id."""
        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = DeleteBatch(collection, ids, checked_request_id(request_id), capacity)
        pieces: list[Piece] = []
        yield from self._in_pieces(methods.DELETE, batch, deadline, pieces)
        answers = [piece.answer for piece in pieces]
        return Deleted(sum(answer.deleted for answer in answers), max(answer.sequence for answer in answers))

    def get(
        self, collection: str, ids: Any, *, vectors: bool, payloads: bool, timeout: float | None
    ) -> Steps[list[Point | None]]:
        """Points by id."""
        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = GetBatch(collection, ids, vectors, payloads, capacity)
        pieces: list[Piece] = []
        yield from self._in_pieces(methods.GET, batch, deadline, pieces)
        found = {point.id: point for piece in pieces for point in decoded_points(piece.answer.points, vectors)}
        if not found.keys() <= set(batch.ids):
            raise malformed("points that were not asked for")
        return [found.get(one) for one in batch.ids]

    def count(
        self,
        collection: str,
        window: ArrayLike | None,
        filter: Filter | None,
        window_label: str | None,
        timeout: float | None,
    ) -> Steps[int]:
        """How many points there are, or match."""
        request = points_pb2.CountRequest(
            collection=collection, filter_json=filter_json(filter), window_label=window_label or ""
        )
        set_window(request, window)
        answer = yield from self._read(methods.COUNT, request, timeout)
        return int(answer.count)

    # --- collections ---

    def create(
        self,
        name: str,
        dim: int,
        metric: str | None,
        labels: Sequence[str],
        index: str | None,
        index_options: Mapping[str, Any] | None,
        seal_at: int | None,
        if_missing: bool,
        timeout: float | None,
    ) -> Steps[None]:
        """Make a collection. Only with `if_missing` it is no matter whether it has been made before."""
        request = collections_pb2.CreateCollectionRequest(name=check_name(name), if_missing=if_missing)
        settings = request.settings
        settings.dim = _unsigned(dim, "dim")
        settings.metric = _text(metric, "metric")
        settings.labels.extend([labels] if isinstance(labels, str) else labels)
        settings.index = _text(index, "index")
        settings.index_options_json = "" if index_options is None else _as_json(index_options, "index_options")
        settings.seal_at = 0 if seal_at is None else _unsigned(seal_at, "seal_at")
        yield from attempts(methods.CREATE, request, self._deadline(timeout), repeatable=if_missing)

    def collections(self, timeout: float | None) -> Steps[dict[str, dict[str, Any]]]:
        """What there is, by name."""
        answer = yield from self._read(methods.LIST, collections_pb2.ListCollectionsRequest(), timeout)
        return {collection.name: _description(collection) for collection in answer.collections}

    def describe(self, name: str, timeout: float | None) -> Steps[dict[str, Any]]:
        """Settings, size and state of a collection."""
        request = collections_pb2.DescribeCollectionRequest(name=check_name(name))
        answer = yield from self._read(methods.DESCRIBE, request, timeout)
        return _description(answer.collection)

    def drop(self, name: str, timeout: float | None) -> Steps[None]:
        """Delete a collection."""
        request = collections_pb2.DropCollectionRequest(name=check_name(name))
        yield from attempts(methods.DROP, request, self._deadline(timeout), repeatable=False)

    def snapshot(self, name: str, snapshot: str | None, timeout: float | None) -> Steps[SnapshotInfo]:
        """Copy a collection on the server."""
        request = collections_pb2.SnapshotCollectionRequest(
            name=check_name(name), snapshot="" if snapshot is None else check_name(snapshot, "snapshot")
        )
        answer = yield from attempts(methods.SNAPSHOT, request, self._deadline(timeout), repeatable=False)
        return _snapshot_info(answer.snapshot)

    def snapshots(self, timeout: float | None) -> Steps[list[SnapshotInfo]]:
        """The copies that there are."""
        answer = yield from self._read(methods.LIST_SNAPSHOTS, collections_pb2.ListSnapshotsRequest(), timeout)
        return [_snapshot_info(one) for one in answer.snapshots]

    def restore(self, snapshot: str, name: str, timeout: float | None) -> Steps[None]:
        """Make a collection of a copy."""
        request = collections_pb2.RestoreCollectionRequest(
            snapshot=check_name(snapshot, "snapshot"), name=check_name(name)
        )
        yield from attempts(methods.RESTORE, request, self._deadline(timeout), repeatable=False)

    def stats(self, collection: str, timeout: float | None) -> Steps[dict[str, Any]]:
        """What a collection tells about itself."""
        request = collections_pb2.GetStatsRequest(collection=collection)
        answer = yield from self._read(methods.GET_STATS, request, timeout)
        return _json_object(answer.stats_json)

    # --- the server ---

    def info(self, timeout: float | None) -> Steps[dict[str, Any]]:
        """What the default collection and the server tell about themselves."""
        answer = yield from self._read(methods.GET_INFO, search_pb2.GetInfoRequest(), timeout)
        limits = {bound.name: value for bound, value in answer.server.limits.ListFields()}
        return {
            **_json_object(answer.details_json),
            "collection": answer.collection,
            "server": {"version": answer.server.version, "limits": limits},
        }

    def health(self, timeout: float | None) -> Steps[str]:
        """Whether the server serves; asked once."""
        request = health_pb2.HealthCheckRequest()
        timeout = self._connection.timeout if timeout is None else checked_timeout(timeout)
        try:
            answer = yield Send(methods.HEALTH, request, timeout)
        except RpcError as failure:
            raise error_from(failure) from failure
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def _agreed(self, collection: str, deadline: float) -> Steps[Capacity]:
        """The tighter of this client's limits and the server's, which are asked for once."""
        if self._capacity is None:
            request = search_pb2.GetInfoRequest(collection=collection)
            answer = yield from attempts(methods.GET_INFO, request, deadline, repeatable=True)
            self._capacity = self._capacity_of(answer.server.limits)
        return self._capacity


def filter_json(filter: Filter | None) -> str:
    """A filter in the form that requests have; its meaning is the server's business."""
    if filter is None:
        return ""
    if isinstance(filter, Predicate):
        return filter.to_json()
    if isinstance(filter, str) and filter:
        return filter
    if isinstance(filter, Mapping):
        return _as_json(filter, "filter")
    raise InvalidArgumentError(f"filter: expected a predicate of nearhash.where or its JSON, got {filter!r:.80}")


def set_window(request: points_pb2.CountRequest | points_pb2.ScrollRequest, window: ArrayLike | None) -> None:
    """Put a window (lo, hi) into a request."""
    if window is not None:
        request.window.CopyFrom(to_tensor(as_request_window(window, 1).reshape(2), "window"))


def decoded_points(message: points_pb2.Points, vectors: bool) -> list[Point]:
    """Points of an answer; one that does not have what was asked for is not passed on."""
    try:
        points = from_points(message)
    except InvalidArgumentError as error:
        raise malformed(error) from error
    if points and vectors and points[0].vector is None:
        raise malformed("vectors are missing")
    return points


def _found(piece: Piece, asked: search_pb2.SearchRequest) -> Found:
    rows = piece.stop - piece.first
    try:
        found = from_found(piece.answer, rows, asked.k)
    except InvalidArgumentError as error:
        raise malformed(error) from error
    if asked.with_payloads and found.payloads is None:
        if rows:
            raise malformed("payloads are missing")
        found = found._replace(payloads=[])
    if asked.with_vectors and found.vectors is None:
        raise malformed("vectors are missing")
    return found


def _joined(parts: Sequence[Found]) -> Found:
    if len(parts) == 1:
        return parts[0]
    texts = any(part.ids.dtype == object for part in parts)
    first = parts[0]
    return Found(
        np.concatenate([_as_objects(part.ids) if texts else part.ids for part in parts]),
        np.concatenate([part.distances for part in parts]),
        None if first.payloads is None else [row for part in parts for row in part.payloads or ()],
        None if first.vectors is None else np.concatenate([part.vectors for part in parts if part.vectors is not None]),
    )


def _as_objects(ids: NDArray[Any]) -> NDArray[Any]:
    if ids.dtype == object:
        return ids
    objects = ids.astype(object)
    objects[ids == -1] = None
    return objects


def _description(collection: collections_pb2.Collection) -> dict[str, Any]:
    settings = collection.settings
    return {
        "name": collection.name,
        "dim": settings.dim,
        "metric": settings.metric,
        "labels": list(settings.labels),
        "index": settings.index,
        "index_options": _json_object(settings.index_options_json or "{}"),
        "seal_at": settings.seal_at,
        "size": collection.size,
        "state": collection.state,
    }


def _snapshot_info(snapshot: collections_pb2.Snapshot) -> SnapshotInfo:
    return SnapshotInfo(snapshot.name, snapshot.collection, snapshot.bytes, snapshot.created)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise malformed(f"not valid JSON: {error!s:.80}") from error
    if not isinstance(value, dict):
        raise malformed(f"expected a JSON object, got {value!r:.80}")
    return value


def _as_json(value: Mapping[str, Any], name: str) -> str:
    try:
        return json.dumps(dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{name}: expected what JSON can hold: {error!s:.200}") from error


def _unsigned(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < 2**32:
        raise InvalidArgumentError(f"{name}: expected an integer of at least 1, got {value!r:.80}")
    return int(value)


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name}: expected a text, got {value!r:.80}")
    return value
