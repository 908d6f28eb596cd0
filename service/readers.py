"""Reader processes: searches on more cores than one Python process can use.

The process that writes starts them, and starts them anew when they die. They listen on its port as well (the kernel
deals out connections), search in the same mapped files, and see every write that was acknowledged before a call.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import NamedTuple, Protocol

from nearhash.errors import MissingExtraError, ServiceError
from nearhash.service.config import ServerConfig
from nearhash.service.config_file import OperationsConfig
from nearhash.service.logs import configure_logs
from nearhash.service.reports import Report

log = logging.getLogger("nearhash.service")

_START_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a process that died is started anew
_STEADY_SECONDS = 30.0  # one that lived so long begins with the first pause again
_PATIENCE = 5.0  # seconds beyond the grace period


class ReaderTask(NamedTuple):
    """What a reader process is told.

    Attributes
    ----------
    root
        Of the database.
    address
        ``host:port``, the writer's.
    writer
        ``unix:path`` of the writer's socket.
    config
        As the writer's.
    operations
        How it logs and traces; it has no pages.
    counted
        Whether it tells what it counts.
    """

    root: Path
    address: str
    writer: str
    config: ServerConfig
    operations: OperationsConfig
    counted: bool


class Listener(Protocol):
    """Who wants to know what reader processes count. Called from threads."""

    def heard(self, name: str, pid: int, report: Report) -> None:
        """A process has told what it has counted since it started."""

    def ended(self, name: str, pid: int) -> None:
        """A process tells no more."""


class Readers:
    """Reader processes and who looks after them, in the writer's event loop.

    Parameters
    ----------
    task
        What each of them is told.
    count
        How many.
    listener
        For what they count.
    """

    def __init__(self, task: ReaderTask, count: int, listener: Listener | None = None) -> None:
        self._listener = listener
        self._task = task
        self._count = count
        self._processes: dict[int, BaseProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def pids(self) -> list[int]:
        """Processes that run."""
        return [process.pid for process in self._processes.values() if process.pid is not None]

    async def start(self) -> None:
        """Start all, and return once all of them serve.

        Raises
        ------
        ServiceError
            One of them ended, or took too long.
        """
        try:
            await asyncio.gather(*(self._started(number) for number in range(self._count)))
        except BaseException:
            await self.stop()
            raise
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._count)]

    async def stop(self) -> None:
        """Let all drain, and wait until they have ended; kill those that do not end."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        processes = list(self._processes.values())
        for process in processes:
            if process.is_alive():
                process.terminate()
        await asyncio.gather(*(_ended(process, self._task.config.grace + _PATIENCE) for process in processes))

    async def _started(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy gRPC's threads without the threads
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(
            target=_read, args=(self._task, sending), name=f"nearhash-reader-{number}", daemon=True
        )
        await asyncio.get_running_loop().run_in_executor(None, process.start)
        self._processes[number] = process
        sending.close()
        ready = await asyncio.get_running_loop().run_in_executor(None, _ready, receiving)
        if not ready or self._listener is None:
            receiving.close()
        if not ready:
            process.kill()
            raise ServiceError(f"reader process {number} did not start; stderr has its last words", "INTERNAL")
        log.info("reader %d serves as process %s", number, process.pid)
        if self._listener is not None:
            assert process.pid is not None
            arguments = (receiving, f"reader-{number}", process.pid, self._listener)
            Thread(target=_listen, args=arguments, name=f"nearhash-reports-{number}", daemon=True).start()

    async def _keep(self, number: int) -> None:
        """Start a process anew whenever it dies, less and less often."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while not self._stopping:
            since = loop.time()
            await _ended(self._processes[number], None)
            pause = _FIRST_PAUSE if loop.time() - since > _STEADY_SECONDS else min(2 * pause, _LONGEST_PAUSE)
            log.error(
                "reader %d ended with code %s; starting it anew in %.1f s",
                number,
                self._processes[number].exitcode,
                pause,
            )
            await asyncio.sleep(pause)
            try:
                await self._started(number)
            except (ServiceError, OSError) as error:
                log.error("reader %d: %s", number, error)


async def _ended(process: BaseProcess, seconds: float | None) -> None:
    """Wait until a process has ended; one that does not within a time is killed."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    while process.is_alive():
        if end is not None and loop.time() >= end:
            process.kill()
            end = None
        await asyncio.sleep(0.05)


def _ready(receiving: Connection) -> bool:
    """Whether a process says that it serves, within some time."""
    try:
        return bool(receiving.poll(_START_SECONDS) and receiving.recv())
    except (EOFError, OSError):
        return False


def _listen(receiving: Connection, name: str, pid: int, listener: Listener) -> None:
    """Pass on what a process tells, until it ends."""
    with receiving:
        while True:
            try:
                report = receiving.recv()
            except (EOFError, OSError):
                listener.ended(name, pid)
                return
            listener.heard(name, pid, report)


def _read(task: ReaderTask, sending: Connection) -> None:
    """What a reader process does. It ends with its parent: the end of the pipe would not tell, a lost parent does."""
    from nearhash.service.engine.database import Database
    from nearhash.service.server import serve_reader

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    configure_logs(task.operations.log_format, task.operations.log_level)
    if task.operations.traces:
        _export_traces()

    def announce(_: str) -> None:
        sending.send(True)
        if not task.counted:
            sending.close()

    with Database(task.root, read_only=True) as database:
        tell = sending.send if task.counted else None
        serve_reader(database, task, announce, orphaned=_parent_gone(os.getppid()), tell=tell)


def _export_traces() -> None:
    """As ``nearhash serve`` does. A program that has a tracer provider of its own may not have what that takes."""
    from nearhash.service.traces import export_traces

    try:
        export_traces()
    except MissingExtraError as error:
        log.warning("spans of this reader process go nowhere: %s", error)


def _parent_gone(parent: int) -> Callable[[], bool]:
    return lambda: os.getppid() != parent
