"""The client for asyncio: as `client`, whose arguments, results and errors these are. Imports no numba."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.index.hits import Hits
from nearhash.service.connection import (
    DEFAULT_ADDRESS,
    DEFAULT_MESSAGE_BYTES,
    SCROLL,
    TLS,
    Connection,
    Method,
    RpcError,
    bound_methods,
    checked_timeout,
)

# These need gRPC as well; the import above says what to install where it is missing.
# isort: split
from nearhash.attention.results import Attention, Retrieval
from nearhash.hashing.sketches import Sketches
from nearhash.service.asking import Progress, check_name
from nearhash.service.async_document_client import AsyncRemoteDocuments
from nearhash.service.async_session_client import AsyncRemoteSession
from nearhash.service.attempts import Pause, Steps
from nearhash.service.client_errors import closed_error
from nearhash.service.document_batches import Texts
from nearhash.service.document_operations import DocumentOperations
from nearhash.service.engine.results import Deleted, Found, Page, Point, SnapshotInfo, Written
from nearhash.service.operations import Filter, Labels, Operations, Payloads
from nearhash.service.resuming import Scrolling
from nearhash.service.session_batches import Lengths
from nearhash.service.session_operations import Asked, SessionOperations
from nearhash.service.session_wire import to_reading

Result = TypeVar("Result")


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited.

    Belongs to the event loop in which it is first used. Any number of tasks may use it; cancelling one cancels its
    request on the server. Use it as an async context manager, or await `close`.

    Parameters
    ----------
    address, timeout, api_key, tls, max_message_bytes, insecure
        As for `Client`.

    Raises
    ------
    InvalidArgumentError
        A setting is impossible, or the key would be sent in plain text.
    MissingExtraError
        gRPC is not installed.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = 30.0,
        api_key: str | None = None,
        tls: bool | TLS | None = None,
        max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
        insecure: bool = False,
    ) -> None:
        self._connection = Connection(
            address,
            timeout=timeout,
            api_key=api_key,
            tls=tls,
            max_message_bytes=max_message_bytes,
            insecure=insecure,
        )
        self._operations = Operations(self._connection)
        self._documents = DocumentOperations(self._connection)
        self._sessions = SessionOperations(self._connection)
        self._closed = False
        self._channel: Any = None  # opened within the event loop, to which it belongs
        self._methods: dict[Method, Any] = {}

    # --- the default collection, or the index that is served ---

    async def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | None = None,
        *,
        timeout: float | None = None,
        **effort: int | float,
    ) -> Hits:
        """See `Client.search`."""
        steps = self._operations.search("", queries, k, window, allow=allow, effort=effort, timeout=timeout)
        found = await self._run(steps)
        return Hits(found.ids, found.distances)

    async def info(self, *, timeout: float | None = None) -> dict[str, Any]:
        """See `Client.info`."""
        return await self._run(self._operations.info(timeout))

    async def health(self, *, timeout: float | None = None) -> str:
        """See `Client.health`."""
        return await self._run(self._operations.health(timeout))

    # --- collections ---

    def collection(self, name: str) -> AsyncRemoteCollection:
        """A collection by name. Asks nothing: whether there is one, its methods find out."""
        return AsyncRemoteCollection(self, check_name(name))

    async def create_collection(
        self,
        name: str,
        dim: int,
        metric: str | None = None,
        labels: Sequence[str] = (),
        index: str | None = None,
        index_options: Mapping[str, Any] | None = None,
        seal_at: int | None = None,
        if_missing: bool = False,
        *,
        timeout: float | None = None,
    ) -> AsyncRemoteCollection:
        """See `Client.create_collection`."""
        await self._run(
            self._operations.create(
                name, dim, metric, labels, index, index_options, seal_at, if_missing=if_missing, timeout=timeout
            )
        )
        return self.collection(name)

    async def collections(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        """See `Client.collections`."""
        return await self._run(self._operations.collections(timeout))

    async def describe(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """See `Client.describe`."""
        return await self._run(self._operations.describe(name, timeout))

    async def drop_collection(self, name: str, *, timeout: float | None = None) -> None:
        """See `Client.drop_collection`."""
        await self._run(self._operations.drop(name, timeout))

    async def snapshot(self, name: str, snapshot: str | None = None, *, timeout: float | None = None) -> SnapshotInfo:
        """See `Client.snapshot`."""
        return await self._run(self._operations.snapshot(name, snapshot, timeout))

    async def snapshots(self, *, timeout: float | None = None) -> list[SnapshotInfo]:
        """See `Client.snapshots`."""
        return await self._run(self._operations.snapshots(timeout))

    async def restore(self, snapshot: str, name: str, *, timeout: float | None = None) -> AsyncRemoteCollection:
        """See `Client.restore`."""
        await self._run(self._operations.restore(snapshot, name, timeout))
        return self.collection(name)

    # --- the connection ---

    # --- documents and hashes ---

    def documents(self, name: str) -> AsyncRemoteDocuments:
        """A collection of documents by name. Asks nothing: whether there is one, its methods find out."""
        return AsyncRemoteDocuments(self, check_name(name))

    async def create_documents(
        self,
        name: str,
        threshold: float,
        *,
        k: int | None = None,
        method: str | None = None,
        bits: int | None = None,
        seed: int | None = None,
        bands: int | None = None,
        rows: int | None = None,
        ngram: int | None = None,
        unit: str | None = None,
        if_missing: bool = False,
        timeout: float | None = None,
    ) -> AsyncRemoteDocuments:
        """As `Client.create_documents`."""
        settings = {
            "threshold": threshold,
            "k": k,
            "method": method,
            "bits": bits,
            "seed": seed,
            "bands": bands,
            "rows": rows,
            "ngram": ngram,
            "unit": unit,
        }
        await self._run(self._documents.create(name, settings, if_missing, timeout))
        return self.documents(name)

    async def document_collections(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        """As `Client.document_collections`."""
        return await self._run(self._documents.collections(timeout))

    async def drop_documents(self, name: str, *, timeout: float | None = None) -> None:
        """As `Client.drop_documents`."""
        await self._run(self._documents.drop(name, timeout))

    async def sketch(
        self,
        texts: Texts | None = None,
        *,
        indptr: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        k: int | None = None,
        method: str | None = None,
        bits: int | None = None,
        seed: int | None = None,
        ngram: int | None = None,
        unit: str | None = None,
        timeout: float | None = None,
    ) -> Sketches:
        """As `Client.sketch`."""
        settings = {"k": k, "method": method, "bits": bits, "seed": seed, "ngram": ngram, "unit": unit}
        return await self._run(self._documents.sketch(texts, indptr, tokens, settings, timeout))

    async def encode(
        self, vectors: ArrayLike, bits: int = 256, seed: int = 0, *, timeout: float | None = None
    ) -> NDArray[np.uint8]:
        """As `Client.encode`."""
        return await self._run(self._documents.encode(vectors, bits, seed, timeout))

    # --- attention sessions ---

    async def create_session(
        self,
        kv_heads: int,
        head_dim: int,
        layers: int = 1,
        *,
        codec: str = "lvq4",
        dtype: str = "float32",
        seed: int = 0,
        lease: float | None = None,
        memory_limit: int | None = None,
        timeout: float | None = None,
    ) -> AsyncRemoteSession:
        """As `Client.create_session`."""
        settings = {
            "layers": layers,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "codec": codec,
            "dtype": dtype,
            "seed": seed,
        }
        made = await self._run(self._sessions.create(settings, lease, memory_limit, timeout))
        return AsyncRemoteSession(self, made.session, Lengths())

    def session(self, id: str) -> AsyncRemoteSession:
        """An attention session by its id. Asks nothing: whether there is one, its methods find out."""
        return AsyncRemoteSession(self, check_name(id, "id"), Lengths({}))

    async def sessions(self, *, timeout: float | None = None) -> dict[str, Any]:
        """As `Client.sessions`."""
        return await self._run(self._sessions.all_stats(timeout))

    async def attend(
        self,
        asked: Sequence[Asked],
        estimator: str = "priority",
        budget: float | int = 0.05,
        sink: int = 4,
        local: int = 16,
        scale: float | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> list[Attention]:
        """As `Client.attend`."""
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return await self._run(self._sessions.attend(asked, reading, timeout))

    async def retrieve(
        self,
        asked: Sequence[Asked],
        estimator: str = "priority",
        budget: float | int = 0.05,
        sink: int = 4,
        local: int = 16,
        scale: float | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> list[list[Retrieval]]:
        """As `Client.retrieve`."""
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return await self._run(self._sessions.retrieve(asked, reading, timeout))

    async def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._connection.address!r})"

    def _method(self, method: Method) -> Any:
        if self._closed:
            raise closed_error()
        if self._channel is None:
            self._channel = self._connection.open_async_channel()
            self._methods = bound_methods(self._channel)
        return self._methods[method]

    async def _run(self, steps: Steps[Result]) -> Result:
        """Carry out steps."""
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                step = steps.send(answer) if failure is None else steps.throw(failure)
                answer = failure = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    continue
                try:
                    method = self._method(step.method)
                    answer = await method(step.request, timeout=step.timeout, metadata=self._connection.metadata)
                except RpcError as error:
                    failure = closed_error() if self._closed else error
                except (Exception, asyncio.CancelledError):
                    self._check_closed()
                    failure = closed_error()
        except StopIteration as done:
            result: Result = done.value
            return result

    async def _pages(self, scroll: Scrolling) -> AsyncIterator[Page]:
        while True:
            request, seconds = scroll.next_attempt()
            stream = None
            try:
                stream = self._method(SCROLL)(request, timeout=seconds, metadata=self._connection.metadata)
                async for message in stream:
                    yield scroll.page(message)
                return
            except RpcError as failure:
                if self._closed:
                    raise closed_error() from failure
                pause = scroll.pause_after(failure)
            except asyncio.CancelledError:
                self._check_closed()
                raise closed_error() from None
            finally:
                if stream is not None:
                    stream.cancel()  # where the caller has left
            await asyncio.sleep(pause)

    def _check_closed(self) -> None:
        """Raise what is being handled again unless it comes of closing: gRPC cancels the calls of a closed channel."""
        task = asyncio.current_task()
        # Before Python 3.11 nobody can tell whether it was the task that was cancelled, or both.
        cancelled = sys.version_info >= (3, 11) and task is not None and task.cancelling() > 0
        if cancelled or not self._closed:
            raise


class AsyncRemoteCollection:
    """`RemoteCollection` for asyncio: the same methods, to be awaited; made by `AsyncClient.collection`."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self._operations = client._operations
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"{self._client!r}.collection({self._name!r})"

    async def upsert(
        self,
        ids: Any,
        vectors: ArrayLike,
        labels: Labels | None = None,
        payloads: Payloads | None = None,
        *,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Written:
        """See `RemoteCollection.upsert`. If it is cancelled, the request under way may have been carried out."""
        return await self._client._run(
            self._operations.upsert(
                self._name,
                ids,
                vectors,
                labels,
                payloads,
                request_id=request_id,
                progress=progress,
                timeout=timeout,
            )
        )

    async def delete(self, ids: Any, *, request_id: str | None = None, timeout: float | None = None) -> Deleted:
        """See `RemoteCollection.delete`."""
        return await self._client._run(self._operations.delete(self._name, ids, request_id=request_id, timeout=timeout))

    async def get(
        self, ids: Any, *, vectors: bool = False, payloads: bool = True, timeout: float | None = None
    ) -> list[Point | None]:
        """See `RemoteCollection.get`."""
        return await self._client._run(
            self._operations.get(self._name, ids, vectors=vectors, payloads=payloads, timeout=timeout)
        )

    async def count(
        self,
        window: ArrayLike | None = None,
        filter: Filter | None = None,
        *,
        window_label: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `RemoteCollection.count`."""
        return await self._client._run(self._operations.count(self._name, window, filter, window_label, timeout))

    async def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        filter: Filter | None = None,
        *,
        window_label: str | None = None,
        recall: float | None = None,
        payloads: bool = False,
        vectors: bool = False,
        timeout: float | None = None,
        **effort: int | float,
    ) -> Found:
        """See `RemoteCollection.search`."""
        return await self._client._run(
            self._operations.search(
                self._name,
                queries,
                k,
                window,
                filter=filter,
                window_label=window_label,
                recall=recall,
                payloads=payloads,
                vectors=vectors,
                effort=effort,
                timeout=timeout,
            )
        )

    def scroll(
        self,
        filter: Filter | None = None,
        window: ArrayLike | None = None,
        *,
        window_label: str | None = None,
        page_size: int = 1000,
        vectors: bool = False,
        payloads: bool = True,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Page]:
        """See `RemoteCollection.scroll`; for ``async for``."""
        return self._client._pages(
            Scrolling(
                self._name,
                filter,
                window,
                window_label=window_label,
                page_size=page_size,
                vectors=vectors,
                payloads=payloads,
                cursor=cursor,
                timeout=self._client._connection.timeout if timeout is None else checked_timeout(timeout),
            )
        )

    async def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """See `RemoteCollection.stats`."""
        return await self._client._run(self._operations.stats(self._name, timeout))

    async def describe(self, *, timeout: float | None = None) -> dict[str, Any]:
        """See `Client.describe`."""
        return await self._client._run(self._operations.describe(self._name, timeout))
