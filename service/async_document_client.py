"""Collections of documents on a server, for asyncio: as `document_client`, whose arguments and results these are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearhash.hashing.sketches import Sketches
from nearhash.service.asking import Progress
from nearhash.service.document_batches import Texts
from nearhash.service.engine.results import Checked, Deleted, Duplicates, Written

if TYPE_CHECKING:
    from nearhash.service.async_client import AsyncClient


class AsyncRemoteDocuments:
    """`RemoteDocuments` for asyncio: the same methods, to be awaited; from `AsyncClient.documents`."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self._operations = client._documents
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"{self._client!r}.documents({self._name!r})"

    async def upsert(
        self,
        ids: Any,
        texts: Texts | None = None,
        *,
        sketches: Sketches | None = None,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Written:
        """As `RemoteDocuments.upsert`."""
        return await self._client._run(
            self._operations.upsert(
                self._name, ids, texts, sketches, request_id=request_id, progress=progress, timeout=timeout
            )
        )

    async def delete(self, ids: Any, *, request_id: str | None = None, timeout: float | None = None) -> Deleted:
        """As `RemoteDocuments.delete`."""
        return await self._client._run(self._operations.delete(self._name, ids, request_id=request_id, timeout=timeout))

    async def find(
        self,
        texts: Texts | None = None,
        *,
        sketches: Sketches | None = None,
        threshold: float | None = None,
        limit: int = 10,
        timeout: float | None = None,
    ) -> Duplicates:
        """As `RemoteDocuments.find`."""
        return await self._client._run(self._operations.find(self._name, texts, sketches, threshold, limit, timeout))

    async def check_and_add(
        self,
        ids: Any,
        texts: Texts | None = None,
        *,
        sketches: Sketches | None = None,
        threshold: float | None = None,
        limit: int = 10,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Checked:
        """As `RemoteDocuments.check_and_add`."""
        return await self._client._run(
            self._operations.check_and_add(
                self._name,
                ids,
                texts,
                sketches,
                threshold,
                limit,
                request_id=request_id,
                progress=progress,
                timeout=timeout,
            )
        )

    async def describe(self, *, timeout: float | None = None) -> dict[str, Any]:
        """As `RemoteDocuments.describe`."""
        return await self._client._run(self._operations.describe(self._name, timeout))
