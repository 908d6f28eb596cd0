"""Calls that a reader process hands on to the one that writes, over a socket that only their user can open."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

PEER_KEY = "nearhash-peer"
"""Metadata of calls that are handed on: whose they are, for the audit log."""

# Metadata by which the writer knows the caller, as the reader did, and of what trace its span is.
_PASSED = ("authorization", "x-api-key", "traceparent", "tracestate")
_STATUS_KEYS = ("nearhash-error", "retry-after", "grpc-retry-pushback-ms")


def peer_of(context: Any) -> str:
    """Who made a call: as gRPC gives it, or as a reader process says that has handed it on."""
    peer: str = context.peer()
    if not peer.startswith("unix:"):  # only readers can open the socket; others could claim anything
        return peer
    return str(dict(context.invocation_metadata()).get(PEER_KEY, peer))


def forwarding_handler(service: str, methods: Sequence[str], channel: grpc.aio.Channel) -> Any:
    """Handlers that pass bytes on and answers, or statuses, back.

    Parameters
    ----------
    service
        Full name.
    methods
        Those with one request and one answer that are to be passed on.
    channel
        To the process that writes.
    """
    handlers = {}
    for name in methods:
        method = channel.unary_unary(f"/{service}/{name}")
        handlers[name] = grpc.unary_unary_rpc_method_handler(partial(_forward, method))
    return grpc.method_handlers_generic_handler(service, handlers)


async def _forward(method: Any, data: bytes, context: Any) -> bytes:
    metadata = [(name, value) for name, value in context.invocation_metadata() if name in _PASSED]
    metadata.append((PEER_KEY, context.peer()))
    try:
        answer: bytes = await method(data, timeout=context.time_remaining(), metadata=metadata)
        return answer
    except grpc.aio.AioRpcError as error:
        status = error
    passed = [(name, value) for name, value in status.trailing_metadata() or () if name in _STATUS_KEYS]
    await context.abort(status.code(), status.details() or "", tuple(passed))
    raise AssertionError("abort does not return")
