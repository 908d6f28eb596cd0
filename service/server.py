"""The server: its life from binding a port to draining, and ``serve``, which runs it until a signal comes."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.protos.v1 import attention_pb2, collections_pb2, documents_pb2, search_pb2
from nearhash.service.calls import Calls, Observer
from nearhash.service.catalog import Catalog
from nearhash.service.collection_handlers import SERVICE_NAME as COLLECTION_SERVICE
from nearhash.service.collection_handlers import CollectionHandlers
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.config_file import OperationsConfig
from nearhash.service.counts import Counts
from nearhash.service.document_handlers import SERVICE_NAME as DOCUMENT_SERVICE
from nearhash.service.document_handlers import DocumentHandlers
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.database import Database
from nearhash.service.forwarding import forwarding_handler
from nearhash.service.handlers import SERVICE_NAME as SEARCH_SERVICE
from nearhash.service.handlers import SearchHandlers
from nearhash.service.hash_handlers import SERVICE_NAME as HASH_SERVICE
from nearhash.service.hash_handlers import HashHandlers
from nearhash.service.metrics import Metrics
from nearhash.service.point_handlers import SERVICE_NAME as POINT_SERVICE
from nearhash.service.point_handlers import PointHandlers
from nearhash.service.queues import Queues
from nearhash.service.readers import Readers, ReaderTask
from nearhash.service.reports import Report, Reporter
from nearhash.service.requests import search_arguments
from nearhash.service.searchable import Searchable, ServedIndex
from nearhash.service.security.audit import AuditLog
from nearhash.service.security.interceptor import AuthInterceptor
from nearhash.service.security.keys import KeyRing
from nearhash.service.security.transport import add_port, check_listen, is_local, page_contexts
from nearhash.service.session_handlers import SERVICE_NAME as ATTENTION_SERVICE
from nearhash.service.session_handlers import SessionHandlers
from nearhash.service.sessions.registry import Sessions
from nearhash.service.slow import SlowLog
from nearhash.service.status_page import StatusServer
from nearhash.service.wire import from_tensor, to_tensor

log = logging.getLogger("nearhash.service")

DEFAULT_ADDRESS = "127.0.0.1:50051"
SERVICE_NAMES = (SEARCH_SERVICE, POINT_SERVICE, COLLECTION_SERVICE, HASH_SERVICE, DOCUMENT_SERVICE, ATTENTION_SERVICE)

_BATCH = 64  # rows that make an index choose its kernels for batches
_LOOK_SECONDS = 1.0  # between looks of a reader process for its parent and for new collections
_SOCKET = "writer.sock"
_WRITES = ("Upsert", "Delete")
_COLLECTION_METHODS = collections_pb2.DESCRIPTOR.services_by_name["CollectionService"].methods_by_name
_DOCUMENT_METHODS = documents_pb2.DESCRIPTOR.services_by_name["DocumentService"].methods_by_name
_ATTENTION_METHODS = attention_pb2.DESCRIPTOR.services_by_name["AttentionService"].methods_by_name
_STREAMS, _LEAST_STREAMS = 4, 100  # of a connection, times `max_pending`: the rest are being refused
_LAST_BYTES = 1.0  # seconds for answers that are already computed to leave the machine


class Server:
    """A gRPC server over collections, an index, or both, within the running event loop.

    Parameters
    ----------
    index
        Served for reading under the name ``config.collection``. Its ``search`` is called from several threads at once.
    address
        ``host:port``; port 0 takes a free one.
    config
        Limits, sizes and security.
    database
        The collections; whoever opened it closes it after the server has stopped.
    readers
        Processes that serve reads on the same port, see `readers.Readers`.
    writer
        In such a process: address of the one that writes. All that it does is handed on to it.
    operations
        How it is watched; by default without metrics and status page.
    tell
        In a reader process: takes what it counts, see `reports.Reporter`.

    Raises
    ------
    InvalidArgumentError
        There is nothing to serve; or readers for an index, which cannot be handed to them.
    """

    def __init__(
        self,
        index: Searchable | None,
        address: str = DEFAULT_ADDRESS,
        config: ServerConfig | None = None,
        database: Database | None = None,
        *,
        readers: int = 0,
        writer: str | None = None,
        operations: OperationsConfig | None = None,
        tell: Callable[[Report], None] | None = None,
    ) -> None:
        if readers and (database is None or index is not None):
            raise InvalidArgumentError("readers: expected 0, as not only collections are served")
        self._address = address
        self._reader_count = readers
        self._readers: Readers | None = None
        self._socket_folder: TemporaryDirectory[str] | None = None
        self._writer = None if writer is None else grpc.aio.insecure_channel(writer, options=_writer_options(config))
        self._config = config or ServerConfig()
        self._catalog = Catalog(self._config.collection, index, database)
        self._database = database
        self._queues = Queues(self._config)
        self._sessions = Sessions(self._config.limits, self._config.search_threads)
        self._health = health_aio.HealthServicer()
        self._announced: set[str] = set()
        self._ring, self._audit = _security(self._config)
        self._operations = operations or OperationsConfig()
        self._pages: list[StatusServer] = []
        self._metrics: Metrics | None = None
        self._reporter: Reporter | None = None
        self._counts: Counts | None = None
        watched = self._operations.metrics is not None or self._operations.status_page is not None
        if watched or tell is not None:
            self._counts = Counts()
            self._catalog.watch(self._counts.probe)
            self._queues.watch(self._counts.ran)
            if tell is None:
                self._metrics = Metrics(self._catalog, self._queues, self._counts, self._sessions)
            else:
                pending = partial(getattr, self._queues, "pending")
                self._reporter = Reporter(self._counts, pending, self._catalog.all_names, tell)
        self._ready = False
        if database is not None:
            database.on_event = _logged
        self._server = self._built()

    async def start(self) -> str:
        """Listen, compile the kernels, report SERVING, and return the address with the port in use.

        Raises
        ------
        InvalidArgumentError
            The address is not ``host:port``, or others could listen to what is sent there (see `check_listen`).
        ServiceError
            The address cannot be listened on.
        """
        address = self._bound(self._address)
        for service in ("", *SERVICE_NAMES, *(self._catalog.names() if self._ring is None else ())):
            await self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._reader_count:
            self._socket_folder = TemporaryDirectory(prefix="nearhash-")  # mode 700: nobody else can open the socket
            self._server.add_insecure_port(f"unix:{self._socket_folder.name}/{_SOCKET}")
        await self._server.start()
        try:
            self._start_pages()
            await asyncio.get_running_loop().run_in_executor(None, self._warm)
            if self._reader_count:
                await self._start_readers(address)  # after the kernels are compiled, which one process does best
        except BaseException:
            await self._server.stop(None)
            self._close_socket()
            self._close_pages()
            raise
        await self.report_collections()
        for service in ("", *SERVICE_NAMES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._ready = True
        if self._writer is None:
            self._sessions.start()
        if self._reporter is not None:
            self._reporter.start()
        log.info("serving on %s", address)
        return address

    async def drain(self) -> None:
        """Report NOT_SERVING, accept nothing new, finish what was accepted within the grace period, and stop."""
        self._ready = False
        await self._health.enter_graceful_shutdown()
        if self._readers is not None:
            await self._readers.stop()  # while this process still answers what they hand on
        stopped = asyncio.ensure_future(self._server.stop(self._config.grace))
        # A client that watches the health keeps its call open for ever; only requests are worth waiting for.
        while self._queues.pending and not stopped.done():
            await asyncio.wait([stopped], timeout=0.01)
        await self._server.stop(min(_LAST_BYTES, self._config.grace))
        await stopped
        await asyncio.get_running_loop().run_in_executor(None, self._queues.close)
        await asyncio.get_running_loop().run_in_executor(None, self._sessions.close)
        if self._writer is not None:
            await self._writer.close()
        self._close_socket()
        await asyncio.get_running_loop().run_in_executor(None, self._close_pages)
        if self._audit is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._audit.close)
        log.info("stopped")

    async def abort(self) -> None:
        """Stop at once: accepted requests fail with UNAVAILABLE or CANCELLED."""
        await self._server.stop(None)

    def reload(self) -> None:
        """Read the keys again, and go on in a new file of the audit log: for SIGHUP."""
        if self._ring is not None:
            self._ring.reload()
        if self._audit is not None:
            self._audit.reopen()

    def _built(self) -> grpc.aio.Server:
        limits = self._config.limits
        secured = self._ring is not None
        server = grpc.aio.server(
            # Without keys everybody is let in, and the check would cost a tenth of a short search.
            interceptors=self._interceptors(),
            options=[
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", limits.max_message_bytes),
                # Further ones wait in the client. Those of which gRPC still holds more, since callers left or Python
                # is too slow to refuse them, it refuses in its own way: UNAVAILABLE, without a time to come again.
                ("grpc.max_concurrent_streams", max(_STREAMS * limits.max_pending, _LEAST_STREAMS)),
                # A second server on the port must fail, not share it silently; readers share it.
                ("grpc.so_reuseport", int(self._reader_count > 0 or self._writer is not None)),
            ],
        )
        root = None if self._database is None else str(self._database.root)
        calls = Calls(self._config, secured, self._audit, root, self._observers())
        handlers = (
            SearchHandlers(self._catalog, self._config, self._queues).generic_handler(calls),
            PointHandlers(self._catalog, self._config, self._queues).generic_handler(calls),
            CollectionHandlers(self._catalog, self._config, self._queues, self._announce).generic_handler(calls),
            HashHandlers(self._config, self._queues).generic_handler(calls),
            DocumentHandlers(self._catalog, self._config, self._queues).generic_handler(calls),
            SessionHandlers(self._sessions, self._config, self._queues).generic_handler(calls),
        )
        if self._writer is not None:  # for a method of several handlers, the first one is called
            forwarded = (
                (POINT_SERVICE, _WRITES),
                (COLLECTION_SERVICE, tuple(_COLLECTION_METHODS)),
                (DOCUMENT_SERVICE, tuple(_DOCUMENT_METHODS)),  # one process has them in memory
                (ATTENTION_SERVICE, tuple(_ATTENTION_METHODS)),
            )
            server.add_generic_rpc_handlers(
                tuple(forwarding_handler(service, methods, self._writer) for service, methods in forwarded)
            )
        server.add_generic_rpc_handlers(handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICE_NAMES, HEALTH_NAME, reflection.SERVICE_NAME), server)
        return server

    def _observers(self) -> list[Observer]:
        observers: list[Observer] = [SlowLog(self._operations.slow_seconds).observe]
        if self._counts is not None:
            observers.append(self._counts.observe)
        if self._operations.traces:
            from nearhash.service.traces import annotate_span

            observers.append(annotate_span)
        return observers

    def _interceptors(self) -> list[Any]:
        interceptors: list[Any] = []
        if self._operations.traces:
            from nearhash.service.traces import trace_interceptor

            interceptors.append(trace_interceptor())
        if self._ring is not None:
            refused = None if self._counts is None else self._counts.refused
            interceptors.append(AuthInterceptor(self._ring, self._audit, refused=refused))
        return interceptors

    def _bound(self, address: str) -> str:
        host, separator, port = address.rpartition(":")
        if not (separator and host and port.isdecimal() and int(port) < 2**16):
            raise InvalidArgumentError(f"address: expected host:port, got {address!r}")
        check_listen(address, self._config.transport, self._ring is not None)
        if self._reader_count and int(port):
            _check_free(host, int(port))
        return f"{host}:{add_port(self._server, address, self._config.transport)}"

    async def _start_readers(self, address: str) -> None:
        assert self._database is not None
        assert self._socket_folder is not None
        writer = f"unix:{self._socket_folder.name}/{_SOCKET}"
        operations = replace(self._operations, metrics=None, status_page=None)
        counted = self._metrics is not None
        task = ReaderTask(self._database.root, address, writer, self._config, operations, counted)
        self._readers = Readers(task, self._reader_count, self._metrics)
        await self._readers.start()

    @property
    def pages(self) -> list[str]:
        """Addresses of the metrics and the status page, as far as they are served."""
        return [page.address for page in self._pages]

    def _start_pages(self) -> None:
        transport = self._config.transport
        for name in ("metrics", "status_page"):
            address = getattr(self._operations, name)
            if address is None or self._metrics is None:
                continue
            check_listen(address, transport, self._ring is not None, name)
            contexts = page_contexts(transport) if transport.encrypted and not is_local(address) else None
            ready, whole = partial(getattr, self, "_ready"), name == "status_page"
            self._pages.append(StatusServer(address, self._catalog, self._metrics, self._ring, ready, whole, contexts))
            scheme = "http" if contexts is None else "https"
            log.info("%s on %s://%s", name.replace("_", " "), scheme, self._pages[-1].address)

    def _close_pages(self) -> None:
        for page in self._pages:
            page.close()
        self._pages.clear()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._reporter is not None:
            self._reporter.stop()
        if self._counts is not None:
            self._counts.close()
            self._counts = None

    def _close_socket(self) -> None:
        if self._socket_folder is not None:
            self._socket_folder.cleanup()

    async def report_collections(self) -> None:
        """Report the health of all collections, those that other processes have made or dropped included."""
        names = set(await asyncio.get_running_loop().run_in_executor(None, self._catalog.names))
        for name in names - self._catalog.failed().keys() - self._announced:
            await self._announce(name, True)
        for name in self._announced - names:
            await self._announce(name, False)

    async def _announce(self, name: str, there: bool) -> None:
        """Report the health of a collection."""
        (self._announced.add if there else self._announced.discard)(name)
        # Health is told to everybody: where there are keys, it must not tell which collections there are.
        if name not in SERVICE_NAMES and self._ring is None:
            status = health_pb2.HealthCheckResponse
            await self._health.set(name, status.SERVING if there else status.SERVICE_UNKNOWN)

    def _warm(self) -> None:
        """Search in the ways that take different kernels, so that no client waits until one is compiled or loaded."""
        warmed: set[object] = set()
        for name in self._catalog.names():
            if name in self._catalog.failed():
                continue
            served = self._catalog.find(name)
            if not len(served):
                continue
            if isinstance(served, ServedIndex):
                _warm_index(served.index, self._config.search_threads)
                continue
            with served.use() as collection:
                kinds = tuple(sorted({segment["kind"] for segment in collection.stats()["segments"]}))
                if (collection.metric, kinds) not in warmed:
                    warmed.add((collection.metric, kinds))
                    _warm_collection(collection, self._config.search_threads)
        if self._database is not None and not self._database.read_only:
            documents = self._database.documents
            for name in documents.names():
                if name not in documents.failed():
                    documents.get(name).find("as a request would bring it, in more words than make a shingle")


def _logged(kind: str, detail: dict[str, Any]) -> None:
    """An event of a collection: what background work has done, or that writes have stopped."""
    level = logging.ERROR if kind in ("error", "stopped") else logging.INFO
    facts = ", ".join(f"{name} {value}" for name, value in detail.items() if name != "collection")
    log.log(level, "%s: %s: %s", detail.get("collection"), kind, facts, extra={"event": kind, **detail})


def _writer_options(config: ServerConfig | None) -> list[tuple[str, int]]:
    limit = (config or ServerConfig()).limits.max_message_bytes
    return [("grpc.max_send_message_length", limit), ("grpc.max_receive_message_length", limit)]


def _check_free(host: str, port: int) -> None:
    """Raise ServiceError if somebody listens on a port: sharing it with readers would also share it with strangers."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no listeners
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise ServiceError(f"address: cannot listen on {host}:{port}: {error.strerror}", "UNAVAILABLE") from error


def _security(config: ServerConfig) -> tuple[KeyRing | None, AuditLog | None]:
    permissions = config.transport.check_permissions
    ring = None if config.keys is None else KeyRing(config.keys, check_permissions=permissions)
    return ring, None if config.audit is None else AuditLog(config.audit)


def _warm_index(index: Searchable, threads: int) -> None:
    window, allow = _as_received(np.array([-np.inf, np.inf])), _as_received(np.zeros(1, np.int64))
    for rows, dtype, limits in (
        (1, np.float32, {}),
        (1, np.float64, {}),
        (1, np.float32, {"window": window}),
        (1, np.float32, {"allow": allow}),
        (_BATCH, np.float32, {}),
    ):
        queries = _as_asked(np.ones((rows, index.dim), dtype))
        index.search(queries, k=1, threads=threads, **limits)


def _warm_collection(collection: Collection, threads: int) -> None:
    windows = [None, _as_received(np.array([-np.inf, np.inf]))] if collection.label_names else [None]
    for rows in (1, _BATCH):
        for window in windows:
            queries = _as_asked(np.ones((rows, collection.dim), np.float32))
            collection.search(queries, 1, window, threads=threads)


def _as_asked(queries: NDArray[Any]) -> NDArray[Any]:
    """Queries as `search_arguments` makes them."""
    request = search_pb2.SearchRequest(queries=to_tensor(queries, "warm-up"), k=1)
    return search_arguments(request, queries.shape[1], Limits()).queries


def _as_received(array: NDArray[Any]) -> NDArray[Any]:
    """The array as a request would bring it: read-only, which is a type of its own to compiled code."""
    return from_tensor(to_tensor(array, "warm-up"), "warm-up", ndim=(1, 2))


def serve(
    index: Searchable | None,
    address: str = DEFAULT_ADDRESS,
    config: ServerConfig | None = None,
    on_ready: Callable[[str], None] | None = None,
    database: Database | None = None,
    readers: int = 0,
    operations: OperationsConfig | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then drain and return. Call it from the main thread.

    The first signal lets accepted requests finish (``config.grace`` seconds at most), a second one stops at once.
    SIGHUP reads the keys again and begins a new file for the audit log.

    Parameters
    ----------
    index
        Any index of nearhash; None to serve collections only.
    address
        ``host:port``; port 0 takes a free one. Loopback by default.
    config
        Limits, sizes and security.
    on_ready
        Called with the address in use once the server reports SERVING.
    database
        Collections.
    readers
        Processes that serve reads on the same port beside this one, which writes. For collections only; the main module
        of the program must be one that can be imported (``if __name__ == "__main__":``).
    operations
        How it is watched; by default without metrics and status page.

    Raises
    ------
    InvalidArgumentError
        The address is not ``host:port``, or others could listen to what is sent there.
    ServiceError
        The address cannot be listened on.
    """

    async def run() -> None:
        await _serve(Server(index, address, config, database, readers=readers, operations=operations), on_ready)

    asyncio.run(run())


def serve_reader(
    database: Database,
    task: ReaderTask,
    on_ready: Callable[[str], None],
    orphaned: Callable[[], bool],
    tell: Callable[[Report], None] | None = None,
) -> None:
    """What `serve` is in a reader process; also ends when `orphaned` says so, and gives its counts to `tell`."""

    async def run() -> None:
        server = Server(
            None, task.address, task.config, database, writer=task.writer, operations=task.operations, tell=tell
        )
        await _serve(server, on_ready, orphaned)

    asyncio.run(run())


async def _serve(
    server: Server, on_ready: Callable[[str], None] | None, orphaned: Callable[[], bool] | None = None
) -> None:
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, None)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    bound = await server.start()
    if on_ready is not None:
        on_ready(bound)
    stopping = asyncio.ensure_future(signals.get())
    while not stopping.done():
        await asyncio.wait([stopping], timeout=_LOOK_SECONDS if orphaned is not None else None)
        if orphaned is not None and not stopping.done():
            if orphaned():
                stopping.cancel()
                break
            await server.report_collections()
    drained = asyncio.ensure_future(server.drain())
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        await server.abort()
    again.cancel()
    await drained
