"""A small server behind the interceptor, and certificates of every kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from nearhash.errors import ServiceError
from nearhash.protos.v1 import collections_pb2, collections_pb2_grpc, points_pb2, points_pb2_grpc
from nearhash.service.security.access import Action, check, current_principal, visible
from nearhash.service.security.attempts import FailedAttempts
from nearhash.service.security.interceptor import AuthInterceptor
from nearhash.service.security.key_file import add_key
from nearhash.service.security.keys import KeyRing
from nearhash.service.security.transport import TransportConfig, add_port


class Points(points_pb2_grpc.PointServiceServicer):
    """Checks grants as handlers should, and answers with the name of the principal where there is room for it."""

    async def Upsert(self, request: Any, context: Any) -> Any:
        await self._check("write", request.collection, context)
        return points_pb2.UpsertResponse(written=len(request.payloads))

    async def Count(self, request: Any, context: Any) -> Any:
        await self._check("read", request.collection, context)
        return points_pb2.CountResponse(count=7)

    async def Scroll(self, request: Any, context: Any) -> Any:
        for _ in range(3):
            yield points_pb2.ScrollResponse(cursor=current_principal.get().name)

    async def _check(self, action: Action, collection: str, context: Any) -> None:
        try:
            check(current_principal.get(), action, collection)
        except ServiceError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))


class Collections(collections_pb2_grpc.CollectionServiceServicer):
    def ListCollections(self, request: Any, context: Any) -> Any:  # on a thread, as gRPC does with such handlers
        return collections_pb2.ListCollectionsResponse()

    async def DropCollection(self, request: Any, context: Any) -> Any:
        return collections_pb2.DropCollectionResponse()

    async def DescribeCollection(self, request: Any, context: Any) -> Any:
        names = visible(current_principal.get(), ["team-a", "team-b", "other"])
        return collections_pb2.DescribeCollectionResponse(
            collection=collections_pb2.Collection(name=",".join(names), state=current_principal.get().name)
        )


@contextmanager
def running(
    ring: KeyRing | None = None,
    transport: TransportConfig | None = None,
    options: list[tuple[str, int]] | None = None,
    **interceptor: Any,
) -> Iterator[int]:
    """Serve in a thread; gives the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(interceptors=[AuthInterceptor(ring, **interceptor)], options=options)
        points_pb2_grpc.add_PointServiceServicer_to_server(Points(), server)
        collections_pb2_grpc.add_CollectionServiceServicer_to_server(Collections(), server)
        health = health_aio.HealthServicer()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection(("nearhash.v1.PointService", reflection.SERVICE_NAME), server)
        port = add_port(server, "127.0.0.1:0", transport or TransportConfig())
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., int]]:
    """Start servers that live as long as the test."""
    with ExitStack() as servers:
        yield lambda *arguments, **options: servers.enter_context(running(*arguments, **options))


class Keys(NamedTuple):
    path: Path
    read: str
    write: str
    admin: str
    team: str


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """One key of every role for all collections, and one to read those of a team."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    tokens = [add_key(path, f"the-{role}-key", role) for role in ("read", "write", "admin")]
    return Keys(path, *tokens, add_key(path, "team", "read", ["team-*"]))


@pytest.fixture(scope="session")
def guarded(keys: Keys) -> Iterator[grpc.Channel]:
    """A channel to a server that knows the keys."""
    with running(KeyRing(keys.path), attempts=FailedAttempts(10**6)) as port, plain_channel(port) as channel:
        yield channel


def plain_channel(port: int) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])


@pytest.fixture
def plain() -> Iterator[Callable[[int], grpc.Channel]]:
    """Connect to a port without encryption."""
    with ExitStack() as channels:
        yield lambda port: channels.enter_context(plain_channel(port))


class Failure(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    message: str
    metadata: dict[str, str]


@pytest.fixture(scope="session")
def outcome() -> Callable[..., Any]:
    """Make a call with a key; gives its answer, or the failure."""

    def call(method: Any, request: Any, token: str | None = None, **options: Any) -> Any:
        metadata = options.pop("metadata", [] if token is None else [("authorization", f"Bearer {token}")])
        try:
            return method(request, metadata=metadata, **{"timeout": 10, **options})
        except grpc.RpcError as error:
            return Failure(error.code(), error.details(), dict(error.trailing_metadata() or ()))

    return call


class Certificates:
    """Files of certificates by one authority, in a folder."""

    def __init__(self, folder: Path, authority: trustme.CA | None = None) -> None:
        self.folder = folder
        self.authority = authority or trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, expired: bool = False, host: str = "localhost") -> tuple[Path, Path]:
        """A certificate and its key, in new files or in place of those of that name."""
        past = datetime.now(timezone.utc) - timedelta(days=1)
        times = {"not_before": past - timedelta(days=1), "not_after": past} if expired else {}
        issued = self.authority.issue_cert(host, common_name=name, key_type=trustme.KeyType.ECDSA, **times)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        return certificate, key


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Certificates:
    """Those of an authority that nobody here trusts."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    return Certificates(folder)


@pytest.fixture
def tls_channel() -> Iterator[Callable[..., grpc.Channel]]:
    """Connect to a port by TLS, as somebody who trusts one authority and may have a certificate."""
    with ExitStack() as channels:

        def connect(port: int, ca: Path, identity: tuple[Path, Path] | None = None) -> grpc.Channel:
            certificate, key = (None, None) if identity is None else (path.read_bytes() for path in identity)
            credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, certificate)
            options = [("grpc.enable_http_proxy", 0)]
            return channels.enter_context(grpc.secure_channel(f"localhost:{port}", credentials, options=options))

        yield connect
