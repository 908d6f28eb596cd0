"""How clients reach a server: address, encryption, key, and the methods that there are. Opens channels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import Message

from nearhash.errors import InvalidArgumentError, MissingExtraError
from nearhash.protos.v1 import attention_pb2, collections_pb2, documents_pb2, hashes_pb2, points_pb2, search_pb2

try:
    import grpc
    from grpc_health.v1 import health_pb2

    from nearhash.service.security.transport import is_local
except ModuleNotFoundError as error:
    if error.name not in ("grpc", "grpc_health"):
        raise
    raise MissingExtraError(f"the client needs {error.name}: pip install nearhash[serve]") from error

RpcError: type[grpc.RpcError] = grpc.RpcError

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_MESSAGE_BYTES = 64 * 2**20
KEY_VARIABLE = "NEARHASH_API_KEY"

FIRST_DELAY, LONGEST_DELAY = 0.05, 2.0
"""Seconds between attempts, of calls and of connecting."""

_LARGEST_MESSAGE = 2**31 - 1

Pem = str | PathLike[str] | bytes


class Method(NamedTuple):
    """A method of the protocol: its path, and the kind of its answers."""

    path: str
    answer: type[Message]
    streams: bool = False


SEARCH = Method("/nearhash.v1.SearchService/Search", search_pb2.SearchResponse)
GET_INFO = Method("/nearhash.v1.SearchService/GetInfo", search_pb2.GetInfoResponse)
UPSERT = Method("/nearhash.v1.PointService/Upsert", points_pb2.UpsertResponse)
DELETE = Method("/nearhash.v1.PointService/Delete", points_pb2.DeleteResponse)
GET = Method("/nearhash.v1.PointService/Get", points_pb2.GetResponse)
COUNT = Method("/nearhash.v1.PointService/Count", points_pb2.CountResponse)
SCROLL = Method("/nearhash.v1.PointService/Scroll", points_pb2.ScrollResponse, streams=True)
CREATE = Method("/nearhash.v1.CollectionService/CreateCollection", collections_pb2.CreateCollectionResponse)
LIST = Method("/nearhash.v1.CollectionService/ListCollections", collections_pb2.ListCollectionsResponse)
DESCRIBE = Method("/nearhash.v1.CollectionService/DescribeCollection", collections_pb2.DescribeCollectionResponse)
DROP = Method("/nearhash.v1.CollectionService/DropCollection", collections_pb2.DropCollectionResponse)
SNAPSHOT = Method("/nearhash.v1.CollectionService/SnapshotCollection", collections_pb2.SnapshotCollectionResponse)
LIST_SNAPSHOTS = Method("/nearhash.v1.CollectionService/ListSnapshots", collections_pb2.ListSnapshotsResponse)
RESTORE = Method("/nearhash.v1.CollectionService/RestoreCollection", collections_pb2.RestoreCollectionResponse)
GET_STATS = Method("/nearhash.v1.CollectionService/GetStats", collections_pb2.GetStatsResponse)
SKETCH = Method("/nearhash.v1.HashService/Sketch", hashes_pb2.SketchResponse)
ENCODE = Method("/nearhash.v1.HashService/Encode", hashes_pb2.EncodeResponse)
CREATE_DOCUMENTS = Method("/nearhash.v1.DocumentService/CreateDocuments", documents_pb2.CreateDocumentsResponse)
LIST_DOCUMENTS = Method("/nearhash.v1.DocumentService/ListDocuments", documents_pb2.ListDocumentsResponse)
DESCRIBE_DOCUMENTS = Method("/nearhash.v1.DocumentService/DescribeDocuments", documents_pb2.DescribeDocumentsResponse)
DROP_DOCUMENTS = Method("/nearhash.v1.DocumentService/DropDocuments", documents_pb2.DropDocumentsResponse)
UPSERT_DOCUMENTS = Method("/nearhash.v1.DocumentService/UpsertDocuments", documents_pb2.UpsertDocumentsResponse)
DELETE_DOCUMENTS = Method("/nearhash.v1.DocumentService/DeleteDocuments", documents_pb2.DeleteDocumentsResponse)
FIND_DUPLICATES = Method("/nearhash.v1.DocumentService/FindDuplicates", documents_pb2.FindDuplicatesResponse)
CHECK_AND_ADD = Method("/nearhash.v1.DocumentService/CheckAndAdd", documents_pb2.CheckAndAddResponse)
CREATE_SESSION = Method("/nearhash.v1.AttentionService/CreateSession", attention_pb2.CreateSessionResponse)
APPEND_KV = Method("/nearhash.v1.AttentionService/AppendKV", attention_pb2.AppendKVResponse)
ATTEND = Method("/nearhash.v1.AttentionService/Attend", attention_pb2.AttendResponse)
RETRIEVE = Method("/nearhash.v1.AttentionService/Retrieve", attention_pb2.RetrieveResponse)
FORK = Method("/nearhash.v1.AttentionService/Fork", attention_pb2.ForkResponse)
TRUNCATE = Method("/nearhash.v1.AttentionService/Truncate", attention_pb2.TruncateResponse)
FREE = Method("/nearhash.v1.AttentionService/Free", attention_pb2.FreeResponse)
RENEW = Method("/nearhash.v1.AttentionService/Renew", attention_pb2.RenewResponse)
SESSION_STATS = Method("/nearhash.v1.AttentionService/Stats", attention_pb2.StatsResponse)
HEALTH = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)

METHODS = (
    *(SEARCH, GET_INFO, UPSERT, DELETE, GET, COUNT, SCROLL, CREATE, LIST, DESCRIBE, DROP, SNAPSHOT, LIST_SNAPSHOTS),
    *(RESTORE, GET_STATS, SKETCH, ENCODE, CREATE_DOCUMENTS, LIST_DOCUMENTS, DESCRIBE_DOCUMENTS, DROP_DOCUMENTS),
    *(UPSERT_DOCUMENTS, DELETE_DOCUMENTS, FIND_DUPLICATES, CHECK_AND_ADD, HEALTH),
    *(CREATE_SESSION, APPEND_KV, ATTEND, RETRIEVE, FORK, TRUNCATE, FREE, RENEW, SESSION_STATS),
)


@dataclass(frozen=True)
class TLS:
    """How a client encrypts, and by what it knows the server.

    Parameters
    ----------
    ca
        Certificates of the authorities that the server's may come from: a file, or its bytes, PEM. By default those
        that gRPC brings along, which are the public ones.
    certificate, private_key
        The client's own, for servers that ask for one (mutual TLS): files, or their bytes, PEM.
    server_name
        The name in the server's certificate, where it is not the host of the address.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    private_key: Pem | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise InvalidArgumentError("certificate, private_key: expected both or neither, got one of them")

    def __repr__(self) -> str:  # bytes of a private key are not for logs
        given = [name for name in ("ca", "certificate", "private_key") if getattr(self, name) is not None]
        return f"TLS(server_name={self.server_name!r}, given: {', '.join(given) or 'nothing'})"


class Connection:
    """Everything that is decided before a client calls: checked settings, and how channels are opened with them.

    Raises
    ------
    InvalidArgumentError
        A setting is impossible, or the key would be sent for others to read.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float,
        api_key: str | None,
        tls: bool | TLS | None,
        max_message_bytes: int,
        insecure: bool,
    ) -> None:
        if not 0 < max_message_bytes <= _LARGEST_MESSAGE:
            raise InvalidArgumentError(
                f"max_message_bytes: expected 1 to {_LARGEST_MESSAGE}, got {max_message_bytes!r}"
            )
        if tls is not None and not isinstance(tls, bool | TLS):
            raise InvalidArgumentError(f"tls: expected None, True or a nearhash.TLS, got {type(tls).__name__}")
        self.address = address
        self.timeout = checked_timeout(timeout)
        self.max_message_bytes = max_message_bytes
        self._tls = TLS() if tls is True else tls or None
        self._credentials = None if self._tls is None else _credentials(self._tls)
        key, origin = (os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE) if api_key is None else (api_key, "api_key")
        self.metadata = _key_metadata(key, origin)
        if self.metadata and self._tls is None and not is_local(address) and not insecure:
            raise InvalidArgumentError(
                f"{origin}: would be sent in plain text to {address}, where others can read it; give tls=True, or "
                "allow it by insecure=True"
            )

    def open_channel(self) -> Any:
        """A channel for threads."""
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options=self._options())
        return grpc.secure_channel(self.address, self._credentials, options=self._options())

    def open_async_channel(self) -> Any:
        """A channel for the running event loop."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, options=self._options())
        return grpc.aio.secure_channel(self.address, self._credentials, options=self._options())

    def _options(self) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # By default gRPC's own pauses grow to two minutes, and no call of ours could make it try earlier.
            ("grpc.initial_reconnect_backoff_ms", round(1000 * FIRST_DELAY)),
            ("grpc.max_reconnect_backoff_ms", round(1000 * LONGEST_DELAY)),
        ]
        if is_local(self.address):
            options.append(("grpc.enable_http_proxy", 0))  # a proxy's own loopback is another machine
        if self._tls is not None and self._tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        return options


def bound_methods(channel: Any) -> dict[Method, Any]:
    """The methods as functions of a channel, whichever kind it is."""
    return {
        method: (channel.unary_stream if method.streams else channel.unary_unary)(
            method.path, request_serializer=_serialized, response_deserializer=method.answer.FromString
        )
        for method in METHODS
    }


def checked_timeout(timeout: float) -> float:
    """A timeout that a user gave; raises InvalidArgumentError unless it is a positive number of seconds."""
    if not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidArgumentError(f"timeout: expected a positive number of seconds, got {timeout!r}")
    return timeout


def _serialized(request: Message) -> bytes:
    return request.SerializeToString()


def _key_metadata(key: str, origin: str) -> tuple[tuple[str, str], ...]:
    if not key:
        return ()
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or " " in key:
        # Without the key itself: messages of errors end in logs.
        raise InvalidArgumentError(f"{origin}: expected an API key, which is of printable ASCII without spaces")
    return (("authorization", f"Bearer {key}"),)


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_pem(tls.ca, "ca"),
        private_key=_pem(tls.private_key, "private_key"),
        certificate_chain=_pem(tls.certificate, "certificate"),
    )


def _pem(source: Pem | None, name: str) -> bytes | None:
    if source is None:
        return None
    try:
        data = source if isinstance(source, bytes) else Path(fspath(source)).read_bytes()
    except (OSError, TypeError) as error:
        raise InvalidArgumentError(f"{name}: cannot read {source!r:.200}: {error}") from error
    if b"-----BEGIN " not in data:  # gRPC would fail with every call, and not say why
        raise InvalidArgumentError(f"{name}: expected PEM, with a line of '-----BEGIN ...-----', got other bytes")
    return data
