"""What the server does for each RPC: decode, admit, search on a thread, encode; failures become statuses."""

from __future__ import annotations

import inspect
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

import nearhash
from nearhash.errors import InvalidArgumentError
from nearhash.protos.v1 import search_pb2
from nearhash.service.admission import AdmissionQueue, DeadlinePassedError
from nearhash.service.config import ServerConfig
from nearhash.service.requests import check_collection, parse, search_arguments
from nearhash.service.searchable import Searchable
from nearhash.service.status import Status, status_of
from nearhash.service.wire import to_tensor

log = logging.getLogger("nearhash.service")

SERVICE_NAME: str = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


class SearchHandlers:
    """The RPCs of SearchService over one index."""

    def __init__(self, index: Searchable, config: ServerConfig, queue: AdmissionQueue) -> None:
        self._index = index
        self._config = config
        self._queue = queue
        self._efforts = _effort_names(index)

    def generic_handler(self) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes.

        Requests arrive as bytes and are parsed here: where gRPC parses them itself, bytes that are no message end in
        UNKNOWN with the text of a Python exception.
        """
        calls = {
            "Search": partial(self._call, search_pb2.SearchRequest, self._search),
            "GetInfo": partial(self._call, search_pb2.GetInfoRequest, self._get_info),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(call, response_serializer=_serialize)
            for name, call in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    async def _call(
        self,
        kind: type[Request],
        answer: Callable[[Request, float | None], Awaitable[Answer]],
        data: bytes,
        context: Any,
    ) -> Answer:
        """Parse the request, answer it, and end the call with the right status if that raises."""
        try:
            remaining = context.time_remaining()
            if remaining is not None and remaining <= 0:
                raise DeadlinePassedError
            deadline = None if remaining is None else time.monotonic() + remaining
            return await answer(parse(kind, data), deadline)
        except Exception as error:
            status = status_of(error, self._config.limits.max_pending) or _internal(error)
        return await _abort(context, status)

    async def _search(self, request: search_pb2.SearchRequest, deadline: float | None) -> search_pb2.SearchResponse:
        check_collection(request.collection, self._config.collection)
        arguments = search_arguments(request, self._index.dim, self._config.limits)
        if self._efforts is not None:
            _check_efforts(arguments.effort, self._efforts)
        search = partial(
            self._index.search,
            arguments.queries,
            k=arguments.k,
            window=arguments.window,
            allow=arguments.allow,
            threads=self._config.search_threads,
            **arguments.effort,
        )
        hits = await self._queue.run(search, deadline)
        return search_pb2.SearchResponse(
            ids=to_tensor(hits.ids, "ids"), distances=to_tensor(hits.distances, "distances")
        )

    async def _get_info(self, request: search_pb2.GetInfoRequest, _: float | None) -> search_pb2.GetInfoResponse:
        check_collection(request.collection, self._config.collection)
        facts = self._index.info()
        limits = self._config.limits
        return search_pb2.GetInfoResponse(
            collection=self._config.collection,
            kind=str(facts["kind"]),
            dim=self._index.dim,
            metric=self._index.metric,
            size=len(self._index),
            details_json=json.dumps(facts, default=_plain),
            server=search_pb2.ServerInfo(
                version=nearhash.__version__,
                limits=search_pb2.Limits(
                    max_k=limits.max_k,
                    max_rows=limits.max_rows,
                    max_message_bytes=limits.max_message_bytes,
                    max_pending=limits.max_pending,
                    max_effort=limits.max_effort,
                ),
            ),
        )


async def _abort(context: Any, status: Status) -> NoReturn:
    await context.abort(status.code, status.message, status.metadata)
    raise AssertionError("abort does not return")


def _internal(error: Exception) -> Status:
    """Log an error that is no fault of the caller, and tell him only where to find it."""
    reference = uuid.uuid4().hex[:12]
    log.error("request %s failed", reference, exc_info=error)
    return Status(grpc.StatusCode.INTERNAL, f"internal error; the server's log has it as request {reference}")


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _effort_names(index: Searchable) -> frozenset[str] | None:
    """Names of the efforts that the index takes; None if its ``search`` takes any name and checks it itself."""
    parameters = inspect.signature(index.search).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(p.name for p in parameters) - {"queries", "k", "window", "allow", "where", "threads"}


def _check_efforts(efforts: dict[str, int | float], known: frozenset[str]) -> None:
    unknown = sorted(efforts.keys() - known)
    if unknown:
        expected = ", ".join(sorted(known)) or "none"
        raise InvalidArgumentError(f"effort: this index knows {expected}, got {', '.join(unknown)}")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"info() of an index holds {type(value).__name__}, which JSON cannot")
