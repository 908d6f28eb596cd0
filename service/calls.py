"""The frame of every RPC: bytes become a request, failures become statuses, writes and refusals are recorded."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.service.admission import DeadlinePassedError, Spent, current_spent
from nearhash.service.config import ServerConfig
from nearhash.service.forwarding import peer_of
from nearhash.service.requests import parse
from nearhash.service.security.access import ANYONE, Action, Principal, check, current_principal
from nearhash.service.security.audit import AuditLog
from nearhash.service.status import Status, refusal_of, status_of

log = logging.getLogger("nearhash.service")

_ARGUMENT = re.compile(r"([a-z_.0-9\[\]]{1,40}):")

Request = TypeVar("Request", bound=Message)


@dataclass(slots=True)
class Call:
    """What a handler knows of a call besides its request.

    Attributes
    ----------
    principal
        Who calls.
    deadline
        On ``time.monotonic()``; None for none.
    size
        Bytes of the request.
    started
        When it came, on ``time.monotonic()``.
    collection
        What it is about, once the handler has found out: for the audit log.
    facts
        Further fields of the line in the audit log.
    rows, k, filtered
        What was asked for, once the handler has found out: queries, points, ids or texts; neighbours of each; and
        whether there was a filter. For traces and the log of slow requests.
    spent
        Where the time went.
    """

    principal: Principal
    deadline: float | None
    size: int
    started: float = 0.0
    collection: str = ""
    facts: dict[str, Any] | None = None
    rows: int | None = None
    k: int | None = None
    filtered: bool | None = None
    spent: Spent = field(default_factory=Spent)

    def check(self, action: Action, collection: str) -> None:
        """Raise ServiceError unless the caller may do that to the collection. Comes before it is looked up."""
        self.collection = collection
        check(self.principal, action, collection)


Unary = Callable[[Any, Call], Awaitable[bytes]]
Stream = Callable[[Any, Call], AsyncIterator[bytes]]


class Answered(NamedTuple):
    """A call that has been answered.

    Attributes
    ----------
    method
        ``/package.Service/Method``.
    code
        Name of the gRPC status.
    seconds
        From parsing the request to its answer, or the last one of a stream.
    stream
        Whether it had several answers, and waited for their reader.
    call
        What is known of it.
    refusal
        Why it was refused, see `refusal_of`.
    """

    method: str
    code: str
    seconds: float
    stream: bool
    call: Call
    refusal: str | None


Observer = Callable[[Answered], None]


class Calls:
    """Makes gRPC's handlers of functions from a request to the bytes of its answer.

    Requests arrive as bytes and are parsed here: where gRPC parses them itself, bytes that are no message end in
    UNKNOWN with the text of a Python exception.

    Parameters
    ----------
    config
        Limits.
    secured
        Whether callers were authenticated, so that a call without a principal is a defect.
    audit
        Where writes and refusals are recorded.
    root
        Folder of the server that messages of errors may name and callers need not see.
    observers
        Told of each request, within the call's task and span.
    """

    def __init__(
        self,
        config: ServerConfig,
        secured: bool = False,
        audit: AuditLog | None = None,
        root: str | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._longest = config.limits.max_message_bytes
        self._secured = secured
        self._audit = audit
        self._root = root
        self._observers = tuple(observers)

    def handler(
        self,
        service: str,
        *,
        reads: Mapping[str, tuple[type[Message], Unary]],
        writes: Mapping[str, tuple[type[Message], Unary]] = MappingProxyType({}),
        streams: Mapping[str, tuple[type[Message], Stream]] = MappingProxyType({}),
    ) -> Any:
        """The handlers of a service as ``grpc.aio.Server.add_generic_rpc_handlers`` takes them.

        Parameters
        ----------
        service
            Full name.
        reads, writes, streams
            By name of the method: kind of request, and function. Writes are recorded in the audit log.
        """
        handlers = {}
        for recorded, unary in ((False, reads), (True, writes)):
            for name, (kind, answer) in unary.items():
                call = partial(self._unary, f"/{service}/{name}", kind, answer, recorded)
                handlers[name] = grpc.unary_unary_rpc_method_handler(call)
        for name, (kind, stream) in streams.items():
            handlers[name] = grpc.unary_stream_rpc_method_handler(
                partial(self._stream, f"/{service}/{name}", kind, stream)
            )
        return grpc.method_handlers_generic_handler(service, handlers)

    async def _unary(
        self, method: str, kind: type[Message], answer: Unary, recorded: bool, data: bytes, context: Any
    ) -> bytes:
        call = self._call(data, context)
        try:
            if call.deadline is not None and call.deadline <= time.monotonic():
                raise DeadlinePassedError
            message = await answer(parse(kind, data), call)
            self._check_length(message)
        except Exception as error:
            status, refusal = self._status(error), refusal_of(error)
        else:
            self._seen(method, grpc.StatusCode.OK, call)
            if recorded:
                self._record(method, grpc.StatusCode.OK, call, context)
            return message
        self._seen(method, status.code, call, refusal)
        if recorded or status.code is grpc.StatusCode.PERMISSION_DENIED:
            self._record(method, status.code, call, context, _reason(status))
        await context.abort(status.code, status.message, status.metadata)
        raise AssertionError("abort does not return")

    async def _stream(self, method: str, kind: type[Message], answer: Stream, data: bytes, context: Any) -> None:
        call = self._call(data, context)
        try:
            async for message in answer(parse(kind, data), call):
                self._check_length(message)
                await context.write(message)  # returns when the peer has room for more
            self._seen(method, grpc.StatusCode.OK, call, stream=True)
            return
        except Exception as error:
            status, refusal = self._status(error), refusal_of(error)
        self._seen(method, status.code, call, refusal, stream=True)
        if status.code is grpc.StatusCode.PERMISSION_DENIED:
            self._record(method, status.code, call, context, _reason(status))
        await context.abort(status.code, status.message, status.metadata)

    def _seen(
        self, method: str, code: grpc.StatusCode, call: Call, refusal: str | None = None, stream: bool = False
    ) -> None:
        answered = Answered(method, code.name, time.monotonic() - call.started, stream, call, refusal)
        for observe in self._observers:
            observe(answered)

    def _call(self, data: bytes, context: Any) -> Call:
        principal = current_principal.get() if self._secured else ANYONE
        remaining = context.time_remaining()
        now = time.monotonic()
        call = Call(principal, None if remaining is None else now + remaining, len(data), now)
        current_spent.set(call.spent)  # gRPC answers each call in a task of its own
        return call

    def _check_length(self, message: bytes) -> None:
        if len(message) > self._longest:
            raise InvalidArgumentError(
                f"max_message_bytes: the answer has {len(message)} bytes, the limit is {self._longest}; "
                "ask for less at a time"
            )

    def _status(self, error: Exception) -> Status:
        status = status_of(error)
        if status is None:
            reference = uuid.uuid4().hex[:12]
            log.error("request %s failed", reference, exc_info=error)
            message = f"internal error; the server's log has it as request {reference}"
            return Status(grpc.StatusCode.INTERNAL, message)
        if isinstance(error, CorruptIndexError):
            log.error("damaged: %s", error)
        if self._root is not None and self._root in status.message:
            return status._replace(message=status.message.replace(self._root, "..."))
        return status

    def _record(self, method: str, code: grpc.StatusCode, call: Call, context: Any, reason: str = "") -> None:
        if self._audit is None:
            return
        facts = call.facts or {}
        self._audit.record(
            method,
            code,
            principal=call.principal.name,
            peer=peer_of(context),
            collection=call.collection,
            reason=reason,
            **facts,
        )


def _reason(status: Status) -> str:
    """What the audit log may hold of a message: which argument or limit was wrong, but not what came, which is data."""
    if status.code is grpc.StatusCode.PERMISSION_DENIED:
        return status.message
    argument = _ARGUMENT.match(status.message)
    return "" if argument is None else argument[1]
