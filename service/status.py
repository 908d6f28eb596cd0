"""Errors of nearhash as gRPC statuses on the server; `client_errors` makes errors of them again."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import grpc

from nearhash.errors import (
    ClosedError,
    CollectionExistsError,
    CorruptCollectionError,
    CorruptIndexError,
    DimensionError,
    DtypeError,
    DuplicateIdError,
    InvalidArgumentError,
    LockedError,
    MemoryLimitError,
    MetricError,
    NearhashError,
    ReadOnlyError,
    ServiceError,
    SketchMismatchError,
    StorageError,
    UnknownCollectionError,
    UnknownIdError,
    UnknownSessionError,
)
from nearhash.service.admission import DeadlinePassedError, QueueFullError
from nearhash.service.config import Limits

ERROR_KEY = "nearhash-error"
"""Trailing metadata: name of the error class, so that the client raises what the embedded index would raise."""

RETRY_AFTER_KEY = "retry-after"
"""Trailing metadata of RESOURCE_EXHAUSTED: seconds after which another try makes sense."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""The same in the form that gRPC's own retry policies understand."""

_Code = grpc.StatusCode
_ARGUMENT_ERRORS = {
    kind.__name__: kind
    for kind in (InvalidArgumentError, DimensionError, DtypeError, MetricError, DuplicateIdError, SketchMismatchError)
}
EMBEDDED_ERRORS: dict[str, type[NearhashError]] = {
    **_ARGUMENT_ERRORS,
    **{
        kind.__name__: kind
        for kind in (
            UnknownCollectionError,
            UnknownSessionError,
            CollectionExistsError,
            MemoryLimitError,
            LockedError,
            ReadOnlyError,
            StorageError,
            CorruptCollectionError,
        )
    },
}
"""Errors that a client raises as the embedded index or collection would, by the name that ERROR_KEY brings."""

_LIMITS = frozenset(bound.name for bound in fields(Limits))
_LONGEST_MESSAGE = 2_000  # bytes of metadata are limited; past a few kilobytes peers drop the whole status


class Status(NamedTuple):
    """What a failed call tells its caller."""

    code: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


def status_of(error: Exception) -> Status | None:
    """The status for an error that the caller may know about; None for one that only the server's log should see."""
    if isinstance(error, InvalidArgumentError):
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ARGUMENT_ERRORS)
        return Status(_Code.INVALID_ARGUMENT, _shortened(str(error)), ((ERROR_KEY, name),))
    if isinstance(error, ServiceError):
        return Status(_Code[error.code], _shortened(str(error)))
    if isinstance(error, QueueFullError):
        return Status(
            _Code.RESOURCE_EXHAUSTED,
            f"{error}; try again in {error.retry_after:.3f} s",
            (
                (RETRY_AFTER_KEY, f"{error.retry_after:.3f}"),
                (PUSHBACK_KEY, str(max(round(error.retry_after * 1000), 1))),
            ),
        )
    if isinstance(error, DeadlinePassedError):
        return Status(_Code.DEADLINE_EXCEEDED, "the deadline passed before the request's turn had come")
    if isinstance(error, MemoryLimitError):
        return _embedded(_Code.RESOURCE_EXHAUSTED, error, _shortened(str(error)))
    if isinstance(error, MemoryError):
        return Status(_Code.RESOURCE_EXHAUSTED, "the server has not enough memory for this request")
    return _status_of_collection(error)


def refusal_of(error: Exception) -> str | None:
    """Why a request was refused without a look at the data: for the metrics. None for any other error."""
    if isinstance(error, QueueFullError):
        return error.reason
    if isinstance(error, DeadlinePassedError):
        return "deadline"
    if isinstance(error, ServiceError) and error.code == "PERMISSION_DENIED":
        return "permission"
    return "limits" if str(error).partition(":")[0] in _LIMITS else None  # messages begin with the limit's name


def _status_of_collection(error: Exception) -> Status | None:
    """Messages of most of these name folders of the server, no business of callers: others take their place."""
    if isinstance(error, UnknownCollectionError | UnknownIdError | UnknownSessionError):
        return _embedded(_Code.NOT_FOUND, error, _shortened(str(error)))
    if isinstance(error, CollectionExistsError):
        return _embedded(_Code.ALREADY_EXISTS, error, _shortened(str(error)))
    if isinstance(error, StorageError):
        full = error.reason == "disk full"
        code = _Code.RESOURCE_EXHAUSTED if full else _Code.FAILED_PRECONDITION
        until = "until there is room" if full else "until the server has been started anew"
        reason = "the disk is full" if full else "the disk has failed"
        return _embedded(code, error, f"writes have stopped {until}, as {reason}; searches go on")
    if isinstance(error, LockedError):
        return _embedded(_Code.FAILED_PRECONDITION, error, "another process writes to the collection")
    if isinstance(error, ReadOnlyError):
        return _embedded(_Code.FAILED_PRECONDITION, error, "this cannot be written to: it is served for reading only")
    if isinstance(error, ClosedError):
        return Status(_Code.FAILED_PRECONDITION, "the collection is being dropped, or the server stops")
    if isinstance(error, CorruptIndexError):
        return _embedded(_Code.DATA_LOSS, error, "the index on the server is damaged; its log has the details")
    return None


def _embedded(code: grpc.StatusCode, error: Exception, message: str) -> Status:
    name = type(error).__name__
    return Status(code, message, ((ERROR_KEY, name),) if name in EMBEDDED_ERRORS else ())


def _shortened(message: str) -> str:
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
