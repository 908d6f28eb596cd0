"""What a server is told when it starts: limits and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from nearhash.errors import InvalidArgumentError

_LARGEST_MESSAGE = 2**31 - 1  # gRPC keeps message lengths in an int32


@dataclass(frozen=True)
class Limits:
    """Bounds on one request; beyond them it is refused with a message that names the bound.

    Parameters
    ----------
    max_k
        Neighbours per query.
    max_rows
        Queries per request.
    max_message_bytes
        Bytes of a request, and of its answer.
    max_pending
        Requests accepted and not yet answered, running ones included; further ones get RESOURCE_EXHAUSTED.
    max_effort
        Any integer effort, such as ``beam``: it sizes a buffer per query.
    """

    max_k: int = 10_000
    max_rows: int = 8_192
    max_message_bytes: int = 64 * 2**20
    max_pending: int = 256
    max_effort: int = 100_000

    def __post_init__(self) -> None:
        for bound in fields(self):
            _check_integer(bound.name, getattr(self, bound.name), 1, _LARGEST_MESSAGE)


@dataclass(frozen=True)
class ServerConfig:
    """Settings of a server.

    Parameters
    ----------
    limits
        Bounds on one request.
    workers
        Searches that run at the same time; None stands for one per core.
    search_threads
        Threads of one search. With 1, a batch runs on one core and other requests on the others.
    grace
        Seconds that accepted requests get to finish when the server is told to stop.
    collection
        Name of what is served; requests may name it or leave the name empty.
    """

    limits: Limits = field(default_factory=Limits)
    workers: int | None = None
    search_threads: int = 1
    grace: float = 30.0
    collection: str = "default"

    def __post_init__(self) -> None:
        if self.workers is not None:
            _check_integer("workers", self.workers, 1, 1024)
        _check_integer("search_threads", self.search_threads, 1, 1024)
        if not self.grace >= 0:
            raise InvalidArgumentError(f"grace: expected seconds >= 0, got {self.grace!r}")
        if not self.collection:
            raise InvalidArgumentError("collection: expected a name, got an empty string")


def _check_integer(name: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidArgumentError(f"{name}: expected an integer from {lowest} to {highest}, got {value!r}")
