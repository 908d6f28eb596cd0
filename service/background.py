"""A server in a background thread of this process, for tests, notebooks and the demo."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nearhash.service.config import ServerConfig
from nearhash.service.config_file import OperationsConfig
from nearhash.service.engine.database import Database
from nearhash.service.searchable import Searchable
from nearhash.service.server import Server


@contextmanager
def running_server(
    index: Searchable | None,
    address: str = "127.0.0.1:0",
    config: ServerConfig | None = None,
    database: Database | None = None,
    operations: OperationsConfig | None = None,
) -> Iterator[str]:
    """Serve while the ``with`` block runs; gives the address. Leaving the block drains the server.

    Parameters
    ----------
    index
        What is served for reading; None to serve collections only.
    address
        ``host:port``; port 0 takes a free one.
    config
        Limits, sizes and security.
    database
        Collections.
    operations
        How it is watched; by default without metrics and status page.

    Raises
    ------
    InvalidArgumentError
        The address is not ``host:port``.
    ServiceError
        The address cannot be listened on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="nearhash-server", daemon=True)
    thread.start()
    try:
        server, bound = asyncio.run_coroutine_threadsafe(
            _started(index, address, config, database, operations), loop
        ).result()
        try:
            yield bound
        finally:
            asyncio.run_coroutine_threadsafe(server.drain(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _started(
    index: Searchable | None,
    address: str,
    config: ServerConfig | None,
    database: Database | None,
    operations: OperationsConfig | None,
) -> tuple[Server, str]:
    server = Server(index, address, config, database, operations=operations)
    return server, await server.start()
