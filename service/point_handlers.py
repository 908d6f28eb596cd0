"""PointService: points are written, read and counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from nearhash.errors import InvalidArgumentError, ReadOnlyError
from nearhash.protos.v1 import points_pb2
from nearhash.service.calls import Call, Calls
from nearhash.service.catalog import Catalog
from nearhash.service.config import ServerConfig
from nearhash.service.engine.payloads import MAX_BYTES, MAX_DEPTH, as_payloads
from nearhash.service.points_wire import FIRST_LABEL, to_points
from nearhash.service.queues import Queues
from nearhash.service.requests import UpsertArguments, asked_ids, one_window, upsert_arguments
from nearhash.service.scrolling import Scroll
from nearhash.service.searchable import ServedCollection, ServedIndex

SERVICE_NAME: str = points_pb2.DESCRIPTOR.services_by_name["PointService"].full_name


class PointHandlers:
    """The RPCs of PointService."""

    def __init__(self, catalog: Catalog, config: ServerConfig, queues: Queues) -> None:
        self._catalog = catalog
        self._limits = config.limits
        self._queues = queues

    def generic_handler(self, calls: Calls) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        return calls.handler(
            SERVICE_NAME,
            reads={
                "Get": (points_pb2.GetRequest, self._get),
                "Count": (points_pb2.CountRequest, self._count),
            },
            writes={
                "Upsert": (points_pb2.UpsertRequest, self._upsert),
                "Delete": (points_pb2.DeleteRequest, self._delete),
            },
            streams={"Scroll": (points_pb2.ScrollRequest, self._scroll)},
        )

    async def _upsert(self, request: points_pb2.UpsertRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        served = await self._collection(request.collection, "write", call)
        asked = upsert_arguments(request, served.dim, self._limits)
        call.rows = len(asked.vectors)
        written = await self._queues.writes.run(lambda: self._written(served, asked), call.deadline, call.size)
        call.facts["written"] = written.written
        return written.SerializeToString()

    def _written(self, served: ServedCollection, asked: UpsertArguments) -> points_pb2.UpsertResponse:
        payloads = asked.payloads
        limits = self._limits
        if payloads is not None and (limits.max_payload_depth < MAX_DEPTH or limits.max_payload_bytes < MAX_BYTES):
            as_payloads(payloads, len(payloads), limits.max_payload_bytes, limits.max_payload_depth)
        labels: dict[str, Any] = dict(asked.labels)
        if FIRST_LABEL in labels:
            if not served.label_names or served.label_names[0] in labels:
                raise InvalidArgumentError(
                    f"labels: expected {', '.join(served.label_names) or 'none'}, each once, got one without a name"
                )
            labels[served.label_names[0]] = labels.pop(FIRST_LABEL)
        with served.use() as collection:
            written = collection.upsert(asked.ids, asked.vectors, labels or None, payloads, request_id=asked.request_id)
        return points_pb2.UpsertResponse(written=written.written, replaced=written.replaced, sequence=written.sequence)

    async def _delete(self, request: points_pb2.DeleteRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        served = await self._collection(request.collection, "write", call)
        ids = asked_ids(request.ids, self._limits)
        call.rows = len(ids)

        def delete() -> points_pb2.DeleteResponse:
            with served.use() as collection:
                deleted = collection.delete(ids, request_id=request.request_id or None)
            return points_pb2.DeleteResponse(deleted=deleted.deleted, sequence=deleted.sequence)

        answer = await self._queues.writes.run(delete, call.deadline, call.size)
        call.facts["deleted"] = answer.deleted
        return answer.SerializeToString()

    async def _get(self, request: points_pb2.GetRequest, call: Call) -> bytes:
        served = await self._collection(request.collection, "read", call)
        ids = asked_ids(request.ids, self._limits)
        call.rows = len(ids)
        vector_bytes = 4 * served.dim if request.with_vectors else 0
        if len(ids) * vector_bytes > self._limits.max_message_bytes:
            raise InvalidArgumentError(
                f"max_message_bytes: {len(ids)} vectors have {len(ids) * vector_bytes} bytes, the limit is "
                f"{self._limits.max_message_bytes}; ask for fewer points at a time"
            )

        def get() -> bytes:
            with served.use() as collection:
                found = collection.get(ids, vectors=request.with_vectors, payloads=request.with_payloads)
            points = to_points(
                [point for point in found if point is not None],
                served.label_names,
                served.dim,
                vectors=request.with_vectors,
                payloads=request.with_payloads,
            )
            return points_pb2.GetResponse(points=points).SerializeToString()

        return await self._queues.searches.run(get, call.deadline, call.size + len(ids) * vector_bytes)

    async def _count(self, request: points_pb2.CountRequest, call: Call) -> bytes:
        served = await self._collection(request.collection, "read", call)
        window = one_window(request)
        call.filtered = bool(request.filter_json)

        def count() -> int:
            with served.use() as collection:
                return collection.count(window, request.filter_json or None, window_label=request.window_label or None)

        number = await self._queues.searches.run(count, call.deadline, call.size)
        return points_pb2.CountResponse(count=number).SerializeToString()

    async def _scroll(self, request: points_pb2.ScrollRequest, call: Call) -> AsyncIterator[bytes]:
        served = await self._collection(request.collection, "read", call)
        scroll = Scroll(served, request, self._limits)
        call.filtered = bool(request.filter_json)
        while (message := await self._queues.scrolls.run(scroll.next_message, call.deadline, call.size)) is not None:
            yield message

    async def _collection(self, name: str, action: Any, call: Call) -> ServedCollection:
        name = name or self._catalog.default
        call.check(action, name)
        served = await self._queues.find(self._catalog, name)
        if isinstance(served, ServedIndex):
            raise ReadOnlyError(f"{name!r} is an index, not a collection")
        return served
