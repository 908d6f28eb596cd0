"""Attention sessions on a server, for asyncio: as `session_client`, whose arguments and results these are."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from nearhash.attention.results import Attention, Retrieval
from nearhash.errors import NearhashError
from nearhash.service.session_batches import Lengths
from nearhash.service.session_wire import to_reading

if TYPE_CHECKING:
    from nearhash.service.async_client import AsyncClient


class AsyncRemoteSession:
    """`RemoteSession` for asyncio: the same methods, to be awaited; from `AsyncClient.create_session`."""

    def __init__(self, client: AsyncClient, id: str, lengths: Lengths) -> None:
        self._client = client
        self._operations = client._sessions
        self._id = id
        self._lengths = lengths

    @property
    def id(self) -> str:
        """Under which `AsyncClient.session` finds it."""
        return self._id

    def __repr__(self) -> str:
        return f"{self._client!r}.session({self._id!r})"

    async def append(
        self, layer: int, keys: Any, values: Any, *, start: int | None = None, timeout: float | None = None
    ) -> int:
        """As `RemoteSession.append`."""
        first = self._lengths.start(layer) if start is None else start
        tokens = await self._client._run(self._operations.append(self._id, layer, first, keys, values, timeout))
        self._lengths.appended(layer, tokens)
        return tokens

    async def attend(
        self,
        layer: int,
        queries: Any,
        estimator: str = "priority",
        budget: float | int = 0.05,
        sink: int = 4,
        local: int = 16,
        scale: float | None = None,
        step: int = 0,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Attention:
        """As `RemoteSession.attend`."""
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return (await self._client._run(self._operations.attend([(self, layer, queries, step)], reading, timeout)))[0]

    async def retrieve(
        self,
        layer: int,
        queries: Any,
        estimator: str = "priority",
        budget: float | int = 0.05,
        sink: int = 4,
        local: int = 16,
        scale: float | None = None,
        step: int = 0,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> list[Retrieval]:
        """As `RemoteSession.retrieve`."""
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return (await self._client._run(self._operations.retrieve([(self, layer, queries, step)], reading, timeout)))[0]

    async def fork(
        self, length: int | None = None, *, lease: float | None = None, timeout: float | None = None
    ) -> AsyncRemoteSession:
        """As `RemoteSession.fork`."""
        id = await self._client._run(self._operations.fork(self._id, length, lease, timeout))
        return AsyncRemoteSession(self._client, id, self._lengths.forked(length))

    async def truncate(self, length: int, layer: int | None = None, *, timeout: float | None = None) -> None:
        """As `RemoteSession.truncate`."""
        await self._client._run(self._operations.truncate(self._id, length, layer, timeout))
        self._lengths.truncated(length, layer)

    async def renew(self, lease: float | None = None, *, timeout: float | None = None) -> float:
        """As `RemoteSession.renew`."""
        return await self._client._run(self._operations.renew(self._id, lease, timeout))

    async def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """As `RemoteSession.stats`."""
        return await self._client._run(self._operations.stats(self._id, timeout))

    async def free(self, *, timeout: float | None = None) -> None:
        """As `RemoteSession.free`."""
        await self._client._run(self._operations.free(self._id, timeout))

    async def __aenter__(self) -> AsyncRemoteSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.free()
        except NearhashError:
            if error is None:
                raise
