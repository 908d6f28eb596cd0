"""CollectionService: collections are made, listed, described, dropped, copied and brought back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nearhash.errors import CorruptIndexError, InvalidArgumentError, LockedError, UnknownCollectionError
from nearhash.protos.v1 import collections_pb2 as pb
from nearhash.service.calls import Call, Calls
from nearhash.service.catalog import Catalog
from nearhash.service.config import ServerConfig
from nearhash.service.engine.names import check_collection_name
from nearhash.service.engine.results import SnapshotInfo
from nearhash.service.handlers import plain
from nearhash.service.queues import Queues
from nearhash.service.searchable import Served, ServedCollection
from nearhash.service.security.access import check, visible

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["CollectionService"].full_name

Answer = TypeVar("Answer")
Announce = Callable[[str, bool], Awaitable[None]]


class CollectionHandlers:
    """The RPCs of CollectionService.

    Parameters
    ----------
    announce
        Told the name of a collection, and whether there is one now.
    """

    def __init__(self, catalog: Catalog, config: ServerConfig, queues: Queues, announce: Announce) -> None:
        self._catalog = catalog
        self._limits = config.limits
        self._queues = queues
        self._announce = announce

    def generic_handler(self, calls: Calls) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        return calls.handler(
            SERVICE_NAME,
            reads={
                "ListCollections": (pb.ListCollectionsRequest, self._list),
                "DescribeCollection": (pb.DescribeCollectionRequest, self._describe),
                "ListSnapshots": (pb.ListSnapshotsRequest, self._list_snapshots),
                "GetStats": (pb.GetStatsRequest, self._get_stats),
            },
            writes={
                "CreateCollection": (pb.CreateCollectionRequest, self._create),
                "DropCollection": (pb.DropCollectionRequest, self._drop),
                "SnapshotCollection": (pb.SnapshotCollectionRequest, self._snapshot),
                "RestoreCollection": (pb.RestoreCollectionRequest, self._restore),
            },
        )

    async def _create(self, request: pb.CreateCollectionRequest, call: Call) -> bytes:
        call.check("admin", check_collection_name(request.name))
        settings = self._settings(request.settings)

        def create() -> pb.Collection:
            return _described(self._catalog.create(request.name, request.if_missing, settings))

        described = await self._run(create, call)
        await self._announce(request.name, True)
        return pb.CreateCollectionResponse(collection=described).SerializeToString()

    def _settings(self, given: pb.CollectionSettings) -> dict[str, Any]:
        """Arguments for a collection; what was not given is left to it."""
        if given.dim > self._limits.max_dim:
            raise InvalidArgumentError(f"max_dim: the dimension is {given.dim}, the limit is {self._limits.max_dim}")
        settings = {
            "dim": given.dim or None,
            "metric": given.metric or None,
            "labels": list(given.labels) or None,
            "index": given.index or None,
            "index_options": _json_object(given.index_options_json, "index_options_json"),
            "seal_at": given.seal_at or None,
        }
        return {name: value for name, value in settings.items() if value is not None}

    async def _list(self, request: pb.ListCollectionsRequest, call: Call) -> bytes:
        def listed() -> bytes:
            failed = self._catalog.failed()
            answer = pb.ListCollectionsResponse()
            for name in visible(call.principal, self._catalog.names()):
                if name in failed:
                    answer.collections.append(pb.Collection(name=name, state=why_not_open(failed[name])))
                    continue
                try:
                    answer.collections.append(_described(self._catalog.find(name)))
                except UnknownCollectionError:  # dropped meanwhile
                    continue
            return answer.SerializeToString()

        return await self._run(listed, call)

    async def _describe(self, request: pb.DescribeCollectionRequest, call: Call) -> bytes:
        name = self._named(request.name)
        call.check("read", name)
        described = await self._run(lambda: _described(self._catalog.find(name)), call)
        return pb.DescribeCollectionResponse(collection=described).SerializeToString()

    async def _drop(self, request: pb.DropCollectionRequest, call: Call) -> bytes:
        call.check("admin", check_collection_name(request.name))  # never the default: dropping asks for a name
        await self._run(lambda: self._catalog.drop(request.name), call)
        await self._announce(request.name, False)
        return pb.DropCollectionResponse().SerializeToString()

    async def _snapshot(self, request: pb.SnapshotCollectionRequest, call: Call) -> bytes:
        name = self._named(request.name)
        call.check("admin", name)
        if request.snapshot:
            check_collection_name(request.snapshot, "snapshot")

        def snapshot() -> SnapshotInfo:
            with self._catalog.collection(name).use():
                return self._catalog.database.snapshot(name, request.snapshot or None)

        info = await self._run(snapshot, call)
        return pb.SnapshotCollectionResponse(snapshot=_snapshot_message(info)).SerializeToString()

    async def _list_snapshots(self, request: pb.ListSnapshotsRequest, call: Call) -> bytes:
        infos = await self._run(lambda: self._catalog.database.snapshots(), call)
        visible_ones = [_snapshot_message(info) for info in infos if call.principal.granted(info.collection)]
        return pb.ListSnapshotsResponse(snapshots=visible_ones).SerializeToString()

    async def _restore(self, request: pb.RestoreCollectionRequest, call: Call) -> bytes:
        call.check("admin", check_collection_name(request.name))
        check_collection_name(request.snapshot, "snapshot")

        def restore() -> pb.Collection:
            origins = {info.name: info.collection for info in self._catalog.database.snapshots()}
            if request.snapshot in origins:
                check(call.principal, "admin", origins[request.snapshot])
            return _described(self._catalog.restore(request.snapshot, request.name))

        described = await self._run(restore, call)
        await self._announce(request.name, True)
        return pb.RestoreCollectionResponse(collection=described).SerializeToString()

    async def _get_stats(self, request: pb.GetStatsRequest, call: Call) -> bytes:
        name = self._named(request.collection)
        call.check("read", name)
        facts = await self._run(lambda: self._catalog.find(name).stats(), call)
        return pb.GetStatsResponse(stats_json=json.dumps(facts, default=plain)).SerializeToString()

    async def _run(self, job: Callable[[], Answer], call: Call) -> Answer:
        return await self._queues.admin.run(job, call.deadline, call.size)

    def _named(self, name: str) -> str:
        return name or self._catalog.default


def _described(served: Served) -> pb.Collection:
    if not isinstance(served, ServedCollection):
        settings = pb.CollectionSettings(
            dim=served.dim, metric=served.metric, index=str(served.info().get("kind", "")), index_options_json="{}"
        )
        return pb.Collection(name=served.name, settings=settings, size=len(served), state=served.state)
    with served.use() as collection:
        given = collection.settings()
        return pb.Collection(
            name=served.name,
            settings=pb.CollectionSettings(
                dim=given["dim"],
                metric=given["metric"],
                labels=given["labels"],
                index=given["index"],
                index_options_json=json.dumps(given["index_options"]),
                seal_at=given["seal_at"],
            ),
            size=len(collection),
            state=collection.state,
        )


def why_not_open(error: Exception) -> str:
    """Why a collection is not open, without the server's paths."""
    if isinstance(error, LockedError):
        return "locked by another process"
    return "damaged" if isinstance(error, CorruptIndexError) else "cannot be opened"


def _snapshot_message(info: SnapshotInfo) -> pb.Snapshot:
    return pb.Snapshot(name=info.name, collection=info.collection, bytes=info.bytes, created=info.created)


def _json_object(text: str, name: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{name}: not valid JSON: {error!s:.80}") from error
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{name}: expected a JSON object, got {value!r:.80}")
    return value
