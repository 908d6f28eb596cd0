"""The server: its life from binding a port to draining, and ``serve``, which runs it until a signal comes."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.kernels.threads import available_threads
from nearhash.service.admission import AdmissionQueue
from nearhash.service.config import ServerConfig
from nearhash.service.handlers import SERVICE_NAME, SearchHandlers
from nearhash.service.searchable import Searchable
from nearhash.service.wire import from_tensor, to_tensor

log = logging.getLogger("nearhash.service")

DEFAULT_ADDRESS = "127.0.0.1:50051"

_BATCH = 64  # rows that make an index choose its kernels for batches
_LAST_BYTES = 1.0  # seconds for answers that are already computed to leave the machine


class Server:
    """A gRPC server over one index, within the running event loop.

    Parameters
    ----------
    index
        What is served. Its ``search`` is called from several threads at once.
    address
        ``host:port``; port 0 takes a free one.
    config
        Limits and sizes.
    """

    def __init__(self, index: Searchable, address: str = DEFAULT_ADDRESS, config: ServerConfig | None = None) -> None:
        self._index = index
        self._address = address
        self._config = config or ServerConfig()
        self._queue = AdmissionQueue(self._config.workers or available_threads(), self._config.limits.max_pending)
        self._health = health_aio.HealthServicer()
        self._server = self._built()

    async def start(self) -> str:
        """Listen, compile the kernels, report SERVING, and return the address with the port in use.

        Raises
        ------
        InvalidArgumentError
            The address is not ``host:port``.
        ServiceError
            The address cannot be listened on.
        """
        address = self._bound(self._address)
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._warm)
        except BaseException:
            await self._server.stop(None)
            raise
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        log.info("serving on %s", address)
        return address

    async def drain(self) -> None:
        """Report NOT_SERVING, accept nothing new, finish what was accepted within the grace period, and stop."""
        await self._health.enter_graceful_shutdown()
        stopped = asyncio.ensure_future(self._server.stop(self._config.grace))
        # A client that watches the health keeps its call open for ever; only searches are worth waiting for.
        while self._queue.pending and not stopped.done():
            await asyncio.wait([stopped], timeout=0.01)
        await self._server.stop(min(_LAST_BYTES, self._config.grace))
        await stopped
        await asyncio.get_running_loop().run_in_executor(None, self._queue.close)
        log.info("stopped")

    async def abort(self) -> None:
        """Stop at once: accepted requests fail with UNAVAILABLE or CANCELLED."""
        await self._server.stop(None)

    def _built(self) -> grpc.aio.Server:
        limit = self._config.limits.max_message_bytes
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it silently
            ]
        )
        handlers = SearchHandlers(self._index, self._config, self._queue)
        server.add_generic_rpc_handlers((handlers.generic_handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, HEALTH_NAME, reflection.SERVICE_NAME), server)
        return server

    def _bound(self, address: str) -> str:
        host, separator, port = address.rpartition(":")
        if not (separator and host and port.isdecimal() and int(port) < 2**16):
            raise InvalidArgumentError(f"address: expected host:port, got {address!r}")
        if host not in ("127.0.0.1", "localhost", "[::1]"):
            log.warning("no encryption, no authentication: whoever reaches %s can search", address)
        try:
            return f"{host}:{self._server.add_insecure_port(address)}"
        except RuntimeError as error:
            raise ServiceError(f"address: cannot listen on {address}; is the port in use?", "UNAVAILABLE") from error

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE_NAME):
            await self._health.set(service, status)

    def _warm(self) -> None:
        """Search in the ways that take different kernels, so that no client waits until one is compiled or loaded."""
        if not len(self._index):
            return
        window, allow = _as_received(np.array([-np.inf, np.inf])), _as_received(np.zeros(1, np.int64))
        for rows, dtype, limits in (
            (1, np.float32, {}),
            (1, np.float64, {}),
            (1, np.float32, {"window": window}),
            (1, np.float32, {"allow": allow}),
            (_BATCH, np.float32, {}),
        ):
            queries = _as_received(np.ones((rows, self._index.dim), dtype))
            self._index.search(queries, k=1, threads=self._config.search_threads, **limits)


def _as_received(array: NDArray[Any]) -> NDArray[Any]:
    """The array as a request would bring it: read-only, which is a type of its own to compiled code."""
    return from_tensor(to_tensor(array, "warm-up"), "warm-up", ndim=(1, 2))


def serve(
    index: Searchable,
    address: str = DEFAULT_ADDRESS,
    config: ServerConfig | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve an index until SIGTERM or SIGINT; then drain and return. Call it from the main thread.

    The first signal lets accepted requests finish (``config.grace`` seconds at most), a second one stops at once.

    Parameters
    ----------
    index
        What is served: any index of nearhash.
    address
        ``host:port``; port 0 takes a free one. Loopback by default: there is no encryption and no authentication yet.
    config
        Limits and sizes.
    on_ready
        Called with the address in use once the server reports SERVING.

    Raises
    ------
    InvalidArgumentError
        The address is not ``host:port``.
    ServiceError
        The address cannot be listened on.
    """
    asyncio.run(_serve(index, address, config, on_ready))


async def _serve(
    index: Searchable, address: str, config: ServerConfig | None, on_ready: Callable[[str], None] | None
) -> None:
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, None)
    server = Server(index, address, config)
    bound = await server.start()
    if on_ready is not None:
        on_ready(bound)
    await signals.get()
    drained = asyncio.ensure_future(server.drain())
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        await server.abort()
    again.cancel()
    await drained
