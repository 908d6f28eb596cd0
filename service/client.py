"""The client for threads: NumPy arrays in and out, errors of nearhash instead of status codes. Imports no numba."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
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
    RpcError,
    bound_methods,
    checked_timeout,
)

# These need gRPC as well; the import above says what to install where it is missing.
# isort: split
from nearhash.attention.results import Attention, Retrieval
from nearhash.hashing.sketches import Sketches
from nearhash.service.asking import Progress, check_name
from nearhash.service.attempts import Pause, Steps
from nearhash.service.client_errors import closed_error
from nearhash.service.document_batches import Texts
from nearhash.service.document_client import RemoteDocuments
from nearhash.service.document_operations import DocumentOperations
from nearhash.service.engine.results import Deleted, Found, Page, Point, SnapshotInfo, Written
from nearhash.service.operations import Filter, Labels, Operations, Payloads
from nearhash.service.resuming import Scrolling
from nearhash.service.session_batches import Lengths
from nearhash.service.session_client import RemoteSession
from nearhash.service.session_operations import Asked, SessionOperations
from nearhash.service.session_wire import to_reading

Result = TypeVar("Result")


class Client:
    """What a nearhash server holds, with the arguments, results and errors of the embedded index or collection.

    One client may be used from many threads. Use it as a context manager, or call `close`.

    Parameters
    ----------
    address
        ``host:port`` of the server.
    timeout
        Seconds that a call may take, attempts and all requests of a large batch together. See Notes.
    api_key
        For servers that ask for one. By default that of the environment variable NEARHASH_API_KEY, if there is one; an
        empty text stands for none.
    tls
        True for an encrypted connection to a server whose certificate comes from a public authority; a `TLS` that says
        which authority it comes from, or who the client is.
    max_message_bytes
        Longest message to send or take; batches beyond it, or beyond the server's own limits, are sent in several
        requests.
    insecure
        Whether the key may be sent without encryption to other machines, where whoever is in between can read it.

    Raises
    ------
    InvalidArgumentError
        A setting is impossible, or the key would be sent in plain text.
    MissingExtraError
        gRPC is not installed.

    Notes
    -----
    While a server cannot be reached, calls are repeated with growing pauses until their time is up. That is safe for
    what only reads, and for `upsert` and `delete`, whose requests have ids by which the server knows those that it has
    carried out. Making (unless ``if_missing``), dropping and copying a collection are not repeated. A server that is
    too busy refuses before it begins and says when to come again: all calls do, if their time allows.
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
        self._closed = threading.Event()
        self._channel = self._connection.open_channel()
        self._methods = bound_methods(self._channel)

    # --- the default collection, or the index that is served ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | None = None,
        *,
        timeout: float | None = None,
        **effort: int | float,
    ) -> Hits:
        """The k nearest neighbours of every query in the index, or default collection, of the server.

        Parameters
        ----------
        queries
            (q, dim) or (dim,), any float or integer dtype that the index takes, any memory layout.
        k
            Neighbours per query.
        window
            Half-open interval (lo, hi) of labels for all queries, or (q, 2), one for each; infinities allowed.
        allow
            Ids (n,) that may be returned, or a boolean mask (n,) whose element i speaks for id i.
        timeout
            Seconds for this call, instead of the client's.
        effort
            As for the index, e.g. ``beam=64``.

        Returns
        -------
        Hits
            ids (q, k) int64, -1 where fewer than k points match; distances (q, k) float32, ascending, inf there.

        Raises
        ------
        InvalidArgumentError
            And its subclasses DimensionError, DtypeError: as the index itself would, or a limit of the server.
        ServiceError
            The server refused or failed; ``code`` holds the gRPC status.
        """
        steps = self._operations.search("", queries, k, window, allow=allow, effort=effort, timeout=timeout)
        found = self._run(steps)
        return Hits(found.ids, found.distances)

    def info(self, *, timeout: float | None = None) -> dict[str, Any]:
        """What is served: the index's ``info()`` plus ``collection`` and ``server`` (version and limits).

        Raises
        ------
        ServiceError
            The server refused or failed; ``code`` holds the gRPC status.
        """
        return self._run(self._operations.info(timeout))

    def health(self, *, timeout: float | None = None) -> str:
        """``"SERVING"``, or ``"NOT_SERVING"`` while the server starts or stops. Asks once, without repeating.

        Raises
        ------
        ServiceError
            The server cannot be reached; ``code`` is ``"UNAVAILABLE"``.
        """
        return self._run(self._operations.health(timeout))

    # --- collections ---

    def collection(self, name: str) -> RemoteCollection:
        """A collection by name. Asks nothing: whether there is one, its methods find out."""
        return RemoteCollection(self, check_name(name))

    def create_collection(
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
    ) -> RemoteCollection:
        """Make an empty collection.

        Parameters
        ----------
        name
            1 to 64 letters, digits, "_", "-" and ".", a letter or digit first.
        dim, metric, labels, index, index_options, seal_at
            As for `nearhash.Collection`; metric "cosine" and index "auto" by default.
        if_missing
            Take the collection of that name if there is one. Settings that are given must be its own.
        timeout
            Seconds for this call, instead of the client's.

        Raises
        ------
        CollectionExistsError
            There is one of that name.
        InvalidArgumentError
            A setting is impossible, or is not that of the collection that there is.
        AccessError
            The key does not allow it.
        """
        self._run(
            self._operations.create(
                name, dim, metric, labels, index, index_options, seal_at, if_missing=if_missing, timeout=timeout
            )
        )
        return self.collection(name)

    def collections(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        """The collections that the key is for, by name, as `describe` describes them."""
        return self._run(self._operations.collections(timeout))

    def describe(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Settings of a collection, its ``size`` in points, and its ``state``: "ok", or why writes are refused.

        Raises
        ------
        UnknownCollectionError
            There is none of that name.
        """
        return self._run(self._operations.describe(name, timeout))

    def drop_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a collection and all that is in it. Snapshots stay.

        Raises
        ------
        UnknownCollectionError
            There is none of that name.
        """
        self._run(self._operations.drop(name, timeout))

    def snapshot(self, name: str, snapshot: str | None = None, *, timeout: float | None = None) -> SnapshotInfo:
        """Copy a collection, as it is at one moment, into the server's folder of snapshots.

        Parameters
        ----------
        name
            Of the collection.
        snapshot
            Name of the copy; by default the server chooses one.
        timeout
            Seconds for this call, instead of the client's.

        Raises
        ------
        UnknownCollectionError, CollectionExistsError
            There is no such collection, or there is a snapshot of that name.
        """
        return self._run(self._operations.snapshot(name, snapshot, timeout))

    def snapshots(self, *, timeout: float | None = None) -> list[SnapshotInfo]:
        """The snapshots on the server."""
        return self._run(self._operations.snapshots(timeout))

    def restore(self, snapshot: str, name: str, *, timeout: float | None = None) -> RemoteCollection:
        """Make a new collection out of a snapshot.

        Raises
        ------
        UnknownCollectionError, CollectionExistsError
            There is no such snapshot, or there is a collection of that name.
        """
        self._run(self._operations.restore(snapshot, name, timeout))
        return self.collection(name)

    # --- documents and hashes ---

    def documents(self, name: str) -> RemoteDocuments:
        """A collection of documents by name. Asks nothing: whether there is one, its methods find out."""
        return RemoteDocuments(self, check_name(name))

    def create_documents(
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
    ) -> RemoteDocuments:
        """Make an empty collection of documents.

        Parameters
        ----------
        name
            As for `create_collection`; collections of documents have names of their own.
        threshold, k, method, bits, seed, bands, rows, ngram, unit
            As for `nearhash.DocumentCollection`.
        if_missing
            Take the collection of that name if there is one. Settings that are given must be its own.
        timeout
            Seconds for this call, instead of the client's.

        Raises
        ------
        CollectionExistsError, InvalidArgumentError, AccessError
            As for `create_collection`.
        """
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
        self._run(self._documents.create(name, settings, if_missing, timeout))
        return self.documents(name)

    def document_collections(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        """The collections of documents that the key is for, by name, as `RemoteDocuments.describe` describes them."""
        return self._run(self._documents.collections(timeout))

    def drop_documents(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a collection of documents and all that is in it.

        Raises
        ------
        UnknownCollectionError
            There is none of that name.
        """
        self._run(self._documents.drop(name, timeout))

    def sketch(
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
        """MinHash sketches, made by the server: those that `nearhash.hashing.MinHash` makes, in one request.

        Parameters
        ----------
        texts : (n,) texts, optional
        indptr, tokens : (n + 1,) int64 and (m,) uint64, optional
            Instead of texts: set i has the tokens ``indptr[i]:indptr[i + 1]``.
        k, method, bits, seed, ngram, unit
            As for `nearhash.hashing.MinHash` and its ``sketch_texts``.
        timeout
            Seconds for this call, instead of the client's.
        """
        settings = {"k": k, "method": method, "bits": bits, "seed": seed, "ngram": ngram, "unit": unit}
        return self._run(self._documents.sketch(texts, indptr, tokens, settings, timeout))

    def encode(
        self, vectors: ArrayLike, bits: int = 256, seed: int = 0, *, timeout: float | None = None
    ) -> NDArray[np.uint8]:
        """Codes of signs (n, bits // 8), made by the server: those of `nearhash.hashing.SimHash`, in one request."""
        return self._run(self._documents.encode(vectors, bits, seed, timeout))

    # --- attention sessions ---

    def create_session(
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
    ) -> RemoteSession:
        """Make an empty attention session: keys and values of one sequence, kept by the server.

        Parameters
        ----------
        layers
            How many there are.
        kv_heads, head_dim, codec, dtype, seed
            Of each layer, as for `nearhash.attention.KVStore`.
        lease
            Seconds without a call after which the session ends; by default 300.
        memory_limit
            Bytes that the session and its forks may hold together; by default the limit of the server.
        timeout
            Seconds for this call, instead of the client's.

        Raises
        ------
        InvalidArgumentError
            A setting is impossible, or beyond a limit of the server.
        ServiceError
            The caller has as many sessions as there may be: ``code`` is ``"RESOURCE_EXHAUSTED"``.
        AccessError
            The key does not allow it.
        """
        settings = {
            "layers": layers,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "codec": codec,
            "dtype": dtype,
            "seed": seed,
        }
        made = self._run(self._sessions.create(settings, lease, memory_limit, timeout))
        return RemoteSession(self, made.session, Lengths())

    def session(self, id: str) -> RemoteSession:
        """An attention session by its id. Asks nothing: whether there is one, its methods find out."""
        return RemoteSession(self, check_name(id, "id"), Lengths({}))

    def sessions(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Attention sessions of the caller: ``sessions`` by id, as `RemoteSession.stats` tells them, and quotas."""
        return self._run(self._sessions.all_stats(timeout))

    def attend(
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
        """Attention over layers of several sessions in one request, such as those of a batch.

        Parameters
        ----------
        asked
            For each of them (session, layer, queries) or (session, layer, queries, step); a session may be an id.
        estimator, budget, sink, local, scale, options
            As for `RemoteSession.attend`, the same for all.
        timeout
            Seconds for this call, instead of the client's.
        """
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return self._run(self._sessions.attend(asked, reading, timeout))

    def retrieve(
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
        """Which tokens `attend` would read, with its arguments; see `RemoteSession.retrieve`."""
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return self._run(self._sessions.retrieve(asked, reading, timeout))

    # --- the connection ---

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._connection.address!r})"

    def _run(self, steps: Steps[Result]) -> Result:
        """Carry out steps."""
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                step = steps.send(answer) if failure is None else steps.throw(failure)
                answer = failure = None
                if isinstance(step, Pause):
                    self._closed.wait(step.seconds)
                    continue
                try:
                    answer = self._methods[step.method](
                        step.request, timeout=step.timeout, metadata=self._connection.metadata
                    )
                except RpcError as error:
                    failure = closed_error() if self._closed.is_set() else error
                except ValueError:
                    if not self._closed.is_set():
                        raise
                    failure = closed_error()  # what gRPC says to calls of a closed channel
        except StopIteration as done:
            result: Result = done.value
            return result

    def _pages(self, scroll: Scrolling) -> Iterator[Page]:
        while True:
            request, seconds = scroll.next_attempt()
            stream = self._stream(request, seconds)
            try:
                for message in stream:
                    yield scroll.page(message)
                return
            except RpcError as failure:
                if self._closed.is_set():
                    raise closed_error() from failure
                pause = scroll.pause_after(failure)
            finally:
                stream.cancel()  # where the caller has left
            self._closed.wait(pause)

    def _stream(self, request: Any, seconds: float) -> Any:
        try:
            return self._methods[SCROLL](request, timeout=seconds, metadata=self._connection.metadata)
        except ValueError:
            if not self._closed.is_set():
                raise
            raise closed_error() from None


class RemoteCollection:
    """A collection on a server, with the methods of `nearhash.Collection`; made by `Client.collection`.

    All methods raise UnknownCollectionError if there is no collection of that name, InvalidArgumentError and its
    subclasses as the embedded collection would, AccessError if the key does not allow the call, and ServiceError for
    whatever else keeps the server from answering.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._operations = client._operations
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"{self._client!r}.collection({self._name!r})"

    def upsert(
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
        """Insert points, and replace those whose ids are there: vector, labels and payload together.

        Points that fit one request are written all or none. More of them are sent in several requests, in order, each
        of which is written all or none; if one fails, ``error.written`` tells how many points are known to be written.

        Parameters
        ----------
        ids : (n,) integers >= 0, texts of 1 to 512 bytes, or both
            Distinct.
        vectors : (n, dim) or (dim,) array of a float or integer dtype
            Stored as float32.
        labels : (n,) numbers, or dict of label name to (n,) numbers, optional
            Without a name those of the first label field. NaN: no label, which no window holds.
        payloads : (n,) of dicts, JSON objects or None, optional
        request_id : str, optional
            At most 128 bytes (about 100 where several requests are needed): a call that is made again with the same
            one is not carried out again. By default each call has one of its own, which its attempts share.
        progress : callable, optional
            Called with the points written and all points after each request.
        timeout : float, optional
            Seconds for all requests together, instead of the client's.

        Returns
        -------
        Written
            Of all requests together; `sequence` is that of the last write.
        """
        return self._client._run(
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

    def delete(self, ids: Any, *, request_id: str | None = None, timeout: float | None = None) -> Deleted:
        """Delete points by id; ids that are not there are ignored. More than fit a request are sent in several."""
        return self._client._run(self._operations.delete(self._name, ids, request_id=request_id, timeout=timeout))

    def get(
        self, ids: Any, *, vectors: bool = False, payloads: bool = True, timeout: float | None = None
    ) -> list[Point | None]:
        """Points by id, in the order of the ids; None where there is none."""
        return self._client._run(
            self._operations.get(self._name, ids, vectors=vectors, payloads=payloads, timeout=timeout)
        )

    def count(
        self,
        window: ArrayLike | None = None,
        filter: Filter | None = None,
        *,
        window_label: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """How many points match, or how many there are."""
        return self._client._run(self._operations.count(self._name, window, filter, window_label, timeout))

    def search(
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
        """The k nearest points of each query.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array of a float or integer dtype
        k : int
            Results per query; exactly min(k, matches) are found.
        window : (lo, hi) or (q, 2), optional
            Only points with lo <= label < hi.
        filter : predicate of `nearhash.where`, or its JSON as text or dict, optional
            Only points whose payload satisfies it.
        window_label : str, optional
            Label field that the window speaks of, by default the first.
        recall : float, optional
            Instead of an effort: that which `nearhash.Collection.tune` found for such a recall.
        payloads, vectors : bool
            Whether the answer brings them.
        timeout : float, optional
            Seconds for this call, instead of the client's.
        **effort
            As for the indexes: `beam` (graph, window), `probes` (ivf), `rerank`.

        Returns
        -------
        Found
            Ids, distances and what else was asked for.
        """
        return self._client._run(
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
    ) -> Iterator[Page]:
        """All points, or those that match, in pages by id: numbers first, then texts.

        Points that are there from beginning to end come exactly once, whatever is written meanwhile, and also if the
        server cannot be reached for a while.

        Parameters
        ----------
        page_size
            Points in a page at most; fewer come where a message would be too long.
        cursor
            That of the page after which to go on.
        timeout
            Seconds that a page may take, instead of the client's.
        """
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

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Sizes, segments, background work and state, as `nearhash.Collection.stats` tells them."""
        return self._client._run(self._operations.stats(self._name, timeout))

    def describe(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Settings, size and state; see `Client.describe`."""
        return self._client._run(self._operations.describe(self._name, timeout))
