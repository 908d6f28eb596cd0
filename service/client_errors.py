"""What failed calls tell, as errors of nearhash: those that the embedded index or collection would raise."""

from __future__ import annotations

import math

import grpc

from nearhash.errors import AccessError, InvalidArgumentError, NearhashError, ServiceError, StorageError
from nearhash.service.status import EMBEDDED_ERRORS, ERROR_KEY, RETRY_AFTER_KEY

_ACCESS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def error_from(call: grpc.RpcError) -> NearhashError:
    """The error for a failed call."""
    code: grpc.StatusCode = call.code()
    message = call.details() or code.name
    kind = EMBEDDED_ERRORS.get(_metadata(call, ERROR_KEY) or "")
    if kind is StorageError:
        return StorageError(message, "disk full" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else "failed")
    if kind is not None:
        return kind(message)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgumentError(message)
    return (AccessError if code in _ACCESS else ServiceError)(message, code.name)


def closed_error() -> ServiceError:
    """For calls of a client that was closed."""
    return ServiceError("the client is closed", "CANCELLED")


def malformed(reason: object) -> ServiceError:
    """For an answer that does not fit its request."""
    return ServiceError(f"the server's answer is malformed: {reason}", "DATA_LOSS")


def retry_after(call: grpc.RpcError) -> float | None:
    """Seconds after which the server wants to be asked again; None if it does not say, or was not too busy."""
    told = _metadata(call, RETRY_AFTER_KEY)
    if told is None or call.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    try:
        seconds = float(told)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def is_unavailable(call: grpc.RpcError) -> bool:
    """Whether the server could not be reached, or left before it answered: the request may have been carried out."""
    return call.code() is grpc.StatusCode.UNAVAILABLE


def is_too_late(call: grpc.RpcError) -> bool:
    """Whether the deadline passed."""
    return call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def is_too_long(call: grpc.RpcError) -> bool:
    """Whether request or answer exceeds a limit on messages, the server's or this client's own."""
    message = call.details() or ""
    if call.code() is grpc.StatusCode.INVALID_ARGUMENT:
        return message.startswith("max_message_bytes:")
    # The words of gRPC itself, which has no status of its own for this.
    return call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger than max" in message


def _metadata(call: grpc.RpcError, key: str) -> str | None:
    return next((value for name, value in call.trailing_metadata() or () if name == key), None)
