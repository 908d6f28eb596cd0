"""SearchService: what is found near queries."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import nearhash
from nearhash.protos.v1 import search_pb2
from nearhash.service.calls import Call, Calls
from nearhash.service.catalog import Catalog
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.points_wire import to_found
from nearhash.service.queues import Queues
from nearhash.service.requests import search_arguments
from nearhash.service.searchable import Served

SERVICE_NAME: str = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name


class SearchHandlers:
    """The RPCs of SearchService."""

    def __init__(self, catalog: Catalog, config: ServerConfig, queues: Queues) -> None:
        self._catalog = catalog
        self._config = config
        self._queues = queues

    def generic_handler(self, calls: Calls) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        return calls.handler(
            SERVICE_NAME,
            reads={
                "Search": (search_pb2.SearchRequest, self._search),
                "GetInfo": (search_pb2.GetInfoRequest, self._get_info),
            },
        )

    async def _search(self, request: search_pb2.SearchRequest, call: Call) -> bytes:
        name = request.collection or self._catalog.default
        call.check("read", name)
        served = await self._queues.find(self._catalog, name)
        asked = search_arguments(request, served.dim, self._config.limits)
        call.rows, call.k, call.filtered = len(asked.queries), asked.k, asked.filter is not None
        search = served.prepared(asked, self._config.search_threads)
        size = call.size + asked.answer_bytes
        found = await self._queues.searches.run(search.run, call.deadline, size, search.batch)
        return to_found(found).SerializeToString()

    async def _get_info(self, request: search_pb2.GetInfoRequest, call: Call) -> bytes:
        name = request.collection or self._catalog.default
        call.check("read", name)
        served = await self._queues.find(self._catalog, name)
        return await self._queues.admin.run(lambda: self._info(served), call.deadline)

    def _info(self, served: Served) -> bytes:
        facts = served.info()
        return search_pb2.GetInfoResponse(
            collection=served.name,
            kind=str(facts["kind"]),
            dim=served.dim,
            metric=served.metric,
            size=len(served),
            details_json=json.dumps(facts, default=plain),
            server=server_info(self._config.limits),
        ).SerializeToString()


def server_info(limits: Limits) -> search_pb2.ServerInfo:
    """Version and limits of this server."""
    names = [bound.name for bound in search_pb2.Limits.DESCRIPTOR.fields]
    return search_pb2.ServerInfo(
        version=nearhash.__version__,
        limits=search_pb2.Limits(**{name: getattr(limits, name) for name in names}),
    )


def plain(value: object) -> object:
    """For `json.dumps`: what facts of indexes may hold besides what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"info() of an index holds {type(value).__name__}, which JSON cannot")
