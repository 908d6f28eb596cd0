"""DocumentService: collections of documents are made, written to, and asked for near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from nearhash.errors import ClosedError, InvalidArgumentError, UnknownCollectionError
from nearhash.hashing.sketches import Sketches
from nearhash.protos.v1 import documents_pb2 as pb
from nearhash.service.calls import Call, Calls
from nearhash.service.catalog import Catalog
from nearhash.service.collection_handlers import why_not_open
from nearhash.service.config import ServerConfig
from nearhash.service.engine.document_collection import DocumentCollection
from nearhash.service.engine.names import check_collection_name
from nearhash.service.engine.registry import Registry
from nearhash.service.handlers import server_info
from nearhash.service.hash_handlers import checked_texts
from nearhash.service.hash_wire import (
    from_document_settings,
    from_sketches,
    to_document_settings,
    to_duplicates,
)
from nearhash.service.points_wire import count_ids, from_ids
from nearhash.service.queues import Queues
from nearhash.service.requests import asked_ids
from nearhash.service.security.access import visible
from nearhash.service.wire import HIT_BYTES, MESSAGE_OVERHEAD, to_tensor

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["DocumentService"].full_name

_LIMIT = 10


class _Asked(NamedTuple):
    """Documents of a request: either of the two; how many."""

    texts: list[bytes] | None
    sketches: Sketches | None
    size: int


class DocumentHandlers:
    """The RPCs of DocumentService."""

    def __init__(self, catalog: Catalog, config: ServerConfig, queues: Queues) -> None:
        self._catalog = catalog
        self._limits = config.limits
        self._queues = queues

    def generic_handler(self, calls: Calls) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        return calls.handler(
            SERVICE_NAME,
            reads={
                "ListDocuments": (pb.ListDocumentsRequest, self._list),
                "DescribeDocuments": (pb.DescribeDocumentsRequest, self._describe),
                "FindDuplicates": (pb.FindDuplicatesRequest, self._find),
            },
            writes={
                "CreateDocuments": (pb.CreateDocumentsRequest, self._create),
                "DropDocuments": (pb.DropDocumentsRequest, self._drop),
                "UpsertDocuments": (pb.UpsertDocumentsRequest, self._upsert),
                "DeleteDocuments": (pb.DeleteDocumentsRequest, self._delete),
                "CheckAndAdd": (pb.CheckAndAddRequest, self._check_and_add),
            },
        )

    # --- collections ---

    async def _create(self, request: pb.CreateDocumentsRequest, call: Call) -> bytes:
        call.check("admin", check_collection_name(request.name))
        settings = from_document_settings(request.settings)
        if "threshold" not in settings:
            raise InvalidArgumentError("threshold: expected a similarity above 0 and up to 1, got none")

        def create() -> bytes:
            made = self._registry.create(request.name, request.if_missing, settings)
            return pb.CreateDocumentsResponse(collection=_described(request.name, made)).SerializeToString()

        return await self._queues.admin.run(create, call.deadline, call.size)

    async def _list(self, request: pb.ListDocumentsRequest, call: Call) -> bytes:
        def listed() -> bytes:
            answer, failed = pb.ListDocumentsResponse(), self._registry.failed()
            for name in visible(call.principal, self._registry.names()):
                if name in failed:
                    answer.collections.append(pb.DocumentCollection(name=name, state=why_not_open(failed[name])))
                    continue
                try:
                    with self._using(name) as documents:
                        answer.collections.append(_described(name, documents))
                except UnknownCollectionError:  # dropped meanwhile
                    continue
            return answer.SerializeToString()

        return await self._queues.admin.run(listed, call.deadline, call.size)

    async def _describe(self, request: pb.DescribeDocumentsRequest, call: Call) -> bytes:
        call.check("read", request.name)

        def described() -> bytes:
            with self._using(request.name) as documents:
                collection = _described(request.name, documents)
            server = server_info(self._limits)
            return pb.DescribeDocumentsResponse(collection=collection, server=server).SerializeToString()

        return await self._queues.admin.run(described, call.deadline, call.size)

    async def _drop(self, request: pb.DropDocumentsRequest, call: Call) -> bytes:
        call.check("admin", check_collection_name(request.name))
        await self._queues.admin.run(lambda: self._registry.drop(request.name), call.deadline, call.size)
        return pb.DropDocumentsResponse().SerializeToString()

    # --- documents ---

    async def _upsert(self, request: pb.UpsertDocumentsRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        call.check("write", request.collection)
        asked = self._asked(request.documents, request.ids)
        call.rows = asked.size

        def upsert() -> pb.UpsertDocumentsResponse:
            with self._using(request.collection) as documents:
                written = documents.upsert(
                    from_ids(request.ids), asked.texts, sketches=asked.sketches, request_id=request.request_id or None
                )
            return pb.UpsertDocumentsResponse(
                written=written.written, replaced=written.replaced, sequence=written.sequence
            )

        answer = await self._queues.writes.run(upsert, call.deadline, call.size)
        call.facts["written"] = answer.written
        return answer.SerializeToString()

    async def _delete(self, request: pb.DeleteDocumentsRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        call.check("write", request.collection)
        ids = asked_ids(request.ids, self._limits)
        call.rows = len(ids)

        def delete() -> pb.DeleteDocumentsResponse:
            with self._using(request.collection) as documents:
                deleted = documents.delete(ids, request_id=request.request_id or None)
            return pb.DeleteDocumentsResponse(deleted=deleted.deleted, sequence=deleted.sequence)

        answer = await self._queues.writes.run(delete, call.deadline, call.size)
        call.facts["deleted"] = answer.deleted
        return answer.SerializeToString()

    async def _find(self, request: pb.FindDuplicatesRequest, call: Call) -> bytes:
        call.check("read", request.collection)
        asked = self._asked(request.documents, None)
        threshold, limit = _threshold(request), self._limit(request.limit, asked.size)
        call.rows, call.k = asked.size, limit

        def find() -> bytes:
            with self._using(request.collection) as documents:
                found = documents.find(asked.texts, sketches=asked.sketches, threshold=threshold, limit=limit)
            return pb.FindDuplicatesResponse(duplicates=to_duplicates(found)).SerializeToString()

        return await self._queues.searches.run(find, call.deadline, call.size)

    async def _check_and_add(self, request: pb.CheckAndAddRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        call.check("write", request.collection)
        asked = self._asked(request.documents, request.ids)
        call.rows = asked.size
        threshold, limit = _threshold(request), self._limit(request.limit, asked.size)
        call.k = limit

        def check_and_add() -> tuple[bytes, int]:
            with self._using(request.collection) as documents:
                checked = documents.check_and_add(
                    from_ids(request.ids),
                    asked.texts,
                    sketches=asked.sketches,
                    threshold=threshold,
                    limit=limit,
                    request_id=request.request_id or None,
                )
            answer = pb.CheckAndAddResponse(
                added=to_tensor(checked.added, "added"),
                duplicates=to_duplicates(checked.duplicates),
                sequence=checked.sequence,
            )
            return answer.SerializeToString(), int(checked.added.sum())

        answer, written = await self._queues.writes.run(check_and_add, call.deadline, call.size)
        call.facts["written"] = written
        return answer

    # --- arguments ---

    @property
    def _registry(self) -> Registry[DocumentCollection]:
        return self._catalog.database.documents

    @contextmanager
    def _using(self, name: str) -> Iterator[DocumentCollection]:
        """The collection of a name; one that is dropped meanwhile is not there."""
        try:
            yield self._registry.get(name)
        except ClosedError as error:
            raise UnknownCollectionError(f"collection: no collection {name!r:.80} here any more") from error

    def _asked(self, documents: pb.Documents, ids: Any) -> _Asked:
        kind = documents.WhichOneof("kind")
        if kind == "texts":
            texts = checked_texts(documents.texts, self._limits)
            asked = _Asked(texts, None, len(texts))
        elif kind == "sketches":
            sketches = from_sketches(documents.sketches)
            if len(sketches) > self._limits.max_texts:
                raise InvalidArgumentError(
                    f"max_texts: {len(sketches)} sketches in a request, the limit is {self._limits.max_texts}"
                )
            asked = _Asked(None, sketches, len(sketches))
        else:
            raise InvalidArgumentError("documents: expected texts or sketches, got none")
        if ids is not None and count_ids(ids) != asked.size:
            raise InvalidArgumentError(f"ids: expected {asked.size}, one for each document, got {count_ids(ids)}")
        return asked

    def _limit(self, limit: int, count: int) -> int:
        limit = limit or _LIMIT
        if limit > self._limits.max_k:
            raise InvalidArgumentError(f"max_k: limit is {limit}, the limit of limits is {self._limits.max_k}")
        size = count * limit * HIT_BYTES + MESSAGE_OVERHEAD
        if size > self._limits.max_message_bytes:
            raise InvalidArgumentError(
                f"max_message_bytes: {limit} duplicates of each of {count} documents may take {size} bytes, the limit "
                f"is {self._limits.max_message_bytes}; ask for less at a time"
            )
        return limit


def _threshold(request: pb.FindDuplicatesRequest | pb.CheckAndAddRequest) -> float | None:
    return request.threshold if request.HasField("threshold") else None


def _described(name: str, documents: DocumentCollection) -> pb.DocumentCollection:
    facts = documents.stats()
    return pb.DocumentCollection(
        name=name,
        settings=to_document_settings(facts),
        size=facts["size"],
        state=facts["state"],
        nbytes=facts["nbytes"],
        disk_bytes=facts["disk_bytes"],
    )
