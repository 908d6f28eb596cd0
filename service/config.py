"""What a server is told when it starts: limits and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from nearhash.errors import InvalidArgumentError
from nearhash.index.arguments import MAX_DIM
from nearhash.service.security.transport import TransportConfig

_LARGEST_MESSAGE = 2**31 - 1  # gRPC keeps message lengths in an int32
_LARGEST_MEMORY = 2**60
_HIGHEST = {
    "max_dim": MAX_DIM,  # collections take no more, of this and the next two
    "max_payload_bytes": 2**20,
    "max_payload_depth": 32,
    **dict.fromkeys(("max_session_bytes", "max_caller_bytes", "max_attention_bytes"), _LARGEST_MEMORY),
}
_LOWEST = {"max_sessions": 0}


@dataclass(frozen=True)
class Limits:
    """Bounds on one request, and on what it may make; beyond them it is refused with a message that names the bound.

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
    max_pending_bytes
        Bytes that they and their answers hold together.
    max_effort
        Any integer effort, such as ``beam``: it sizes a buffer per query.
    max_dim
        Dimension of a new collection.
    max_collections
        Collections of a server.
    max_batch
        Points of an upsert.
    max_ids
        Ids of a request to get or delete.
    max_payload_bytes
        Bytes of one point's payload.
    max_payload_depth
        Objects and lists within each other in a payload.
    max_texts
        Texts of a request to sketch or look up.
    max_text_bytes
        Bytes of one of them, in UTF-8.
    max_sessions
        Attention sessions of one caller; 0 for none.
    max_session_bytes
        Bytes of keys, values and codes that a session and its forks hold together.
    max_caller_bytes
        Those of all sessions of one caller.
    max_attention_bytes
        Those of all sessions.
    max_lease
        Seconds without a call that a session may ask to be kept for.
    """

    max_k: int = 10_000
    max_rows: int = 8_192
    max_message_bytes: int = 64 * 2**20
    max_pending: int = 256
    max_pending_bytes: int = 512 * 2**20
    max_effort: int = 100_000
    max_dim: int = MAX_DIM
    max_collections: int = 1_000
    max_batch: int = 65_536
    max_ids: int = 65_536
    max_payload_bytes: int = 2**20
    max_payload_depth: int = 32
    max_texts: int = 8_192
    max_text_bytes: int = 2**20
    max_sessions: int = 256
    max_session_bytes: int = 4 * 2**30
    max_caller_bytes: int = 8 * 2**30
    max_attention_bytes: int = 8 * 2**30
    max_lease: int = 86_400

    def __post_init__(self) -> None:
        for bound in fields(self):
            lowest, highest = _LOWEST.get(bound.name, 1), _HIGHEST.get(bound.name, _LARGEST_MESSAGE)
            _check_integer(bound.name, getattr(self, bound.name), lowest, highest)


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
    transport
        How connections are encrypted.
    keys
        File of API keys; None lets everybody in. `transport.check_permissions` speaks of it, too.
    audit
        File for the audit log; None for no such log.
    """

    limits: Limits = field(default_factory=Limits)
    workers: int | None = None
    search_threads: int = 1
    grace: float = 30.0
    collection: str = "default"
    transport: TransportConfig = field(default_factory=TransportConfig)
    keys: Path | None = None
    audit: Path | None = None

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
