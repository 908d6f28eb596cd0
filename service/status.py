"""Errors of nearhash as gRPC statuses on the server, and back into errors in the client."""

from __future__ import annotations

from typing import NamedTuple

import grpc

from nearhash.errors import (
    CorruptIndexError,
    DimensionError,
    DtypeError,
    InvalidArgumentError,
    MetricError,
    NearhashError,
    ServiceError,
    UnknownIdError,
)
from nearhash.service.admission import DeadlinePassedError, QueueFullError

ERROR_KEY = "nearhash-error"
"""Trailing metadata: name of the error class, so that the client raises what the embedded index would raise."""

RETRY_AFTER_KEY = "retry-after"
"""Trailing metadata of RESOURCE_EXHAUSTED: seconds after which another try makes sense."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""The same in the form that gRPC's own retry policies understand."""

_ARGUMENT_ERRORS = {kind.__name__: kind for kind in (InvalidArgumentError, DimensionError, DtypeError, MetricError)}
_LONGEST_MESSAGE = 2_000  # bytes of metadata are limited; past a few kilobytes peers drop the whole status


class Status(NamedTuple):
    """What a failed call tells its caller."""

    code: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


def status_of(error: Exception, max_pending: int) -> Status | None:
    """The status for an error that the caller may know about; None for one that only the server's log should see."""
    if isinstance(error, InvalidArgumentError):
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ARGUMENT_ERRORS)
        return Status(grpc.StatusCode.INVALID_ARGUMENT, _shortened(str(error)), ((ERROR_KEY, name),))
    if isinstance(error, ServiceError):
        return Status(grpc.StatusCode[error.code], _shortened(str(error)))
    if isinstance(error, UnknownIdError):
        return Status(grpc.StatusCode.NOT_FOUND, _shortened(str(error)))
    if isinstance(error, CorruptIndexError):
        return Status(grpc.StatusCode.DATA_LOSS, "the index on the server is damaged; its log has the details")
    if isinstance(error, QueueFullError):
        seconds = max(error.retry_after, 0.001)
        return Status(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"max_pending: {max_pending} requests are being answered already; try again in {seconds:.3f} s",
            ((RETRY_AFTER_KEY, f"{seconds:.3f}"), (PUSHBACK_KEY, str(round(seconds * 1000)))),
        )
    if isinstance(error, DeadlinePassedError):
        return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the search started")
    if isinstance(error, MemoryError):
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server has not enough memory for this request")
    return None


def error_from(call: grpc.RpcError) -> NearhashError:
    """The error for a failed call."""
    code: grpc.StatusCode = call.code()
    message = call.details() or code.name
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        metadata = dict(call.trailing_metadata() or ())
        return _ARGUMENT_ERRORS.get(metadata.get(ERROR_KEY, ""), InvalidArgumentError)(message)
    return ServiceError(message, code.name)


def _shortened(message: str) -> str:
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
