"""Attention sessions on a server, for threads."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from nearhash.attention.results import Attention, Retrieval
from nearhash.errors import NearhashError
from nearhash.service.session_batches import Lengths
from nearhash.service.session_wire import to_reading

if TYPE_CHECKING:
    from nearhash.service.client import Client


class RemoteSession:
    """Keys and values of one sequence on a server; see `Client.create_session`.

    Arguments and results are those of `nearhash.attention.KVStore`, the layer before them. All methods raise
    UnknownSessionError if the session has ended, InvalidArgumentError and its subclasses as an embedded store would,
    MemoryLimitError beyond a quota, AccessError if the key does not allow the call, and ServiceError for whatever else
    keeps the server from answering. Arrays may be NumPy's or Torch's, bfloat16 included; results are NumPy's.

    As a context manager it frees the session at the end.
    """

    def __init__(self, client: Client, id: str, lengths: Lengths) -> None:
        self._client = client
        self._operations = client._sessions
        self._id = id
        self._lengths = lengths

    @property
    def id(self) -> str:
        """Under which `Client.session` finds it. Whoever has it and the key may use it."""
        return self._id

    def __repr__(self) -> str:
        return f"{self._client!r}.session({self._id!r})"

    def append(
        self, layer: int, keys: Any, values: Any, *, start: int | None = None, timeout: float | None = None
    ) -> int:
        """Append tokens to a layer and return how many it has then.

        More than fit one request are sent in several, in order; if one fails, ``error.written`` tells how many tokens
        are known to be there. Tokens that are there already change nothing: an append that failed may be made again.

        Parameters
        ----------
        layer : int
            From 0 on.
        keys, values : (kv_heads, n, head_dim) arrays of a float dtype
            Finite, also as the session's dtype holds them.
        start : int, optional
            Position of the first token. By default behind those that this object has appended, or, of a session that
            it has not made, behind those that are there.
        timeout : float, optional
            Seconds for all requests together, instead of the client's.
        """
        first = self._lengths.start(layer) if start is None else start
        tokens = self._client._run(self._operations.append(self._id, layer, first, keys, values, timeout))
        self._lengths.appended(layer, tokens)
        return tokens

    def attend(
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
        """Attention of the queries of one step over all tokens of a layer, see `nearhash.attention.KVStore.attend`.

        Estimators are "priority", "dense", "uniform", "vattention" and "topk_oracle".
        """
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return self._client._run(self._operations.attend([(self, layer, queries, step)], reading, timeout))[0]

    def retrieve(
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
        """Which tokens `attend` would read, and with what probability; see `nearhash.attention.KVStore.retrieve`."""
        reading = to_reading(estimator, budget, sink, local, scale, options)
        return self._client._run(self._operations.retrieve([(self, layer, queries, step)], reading, timeout))[0]

    def fork(
        self, length: int | None = None, *, lease: float | None = None, timeout: float | None = None
    ) -> RemoteSession:
        """Another session with the same tokens, at most `length` of each layer; memory is shared until one writes.

        Its lease is that of this session, unless another one is given.
        """
        id = self._client._run(self._operations.fork(self._id, length, lease, timeout))
        return RemoteSession(self._client, id, self._lengths.forked(length))

    def truncate(self, length: int, layer: int | None = None, *, timeout: float | None = None) -> None:
        """Forget all tokens but the first `length` of a layer, or of all layers that have more; one at least must."""
        self._client._run(self._operations.truncate(self._id, length, layer, timeout))
        self._lengths.truncated(length, layer)

    def renew(self, lease: float | None = None, *, timeout: float | None = None) -> float:
        """Keep the session although it is not used, for another lease or one of so many seconds; returns them."""
        return self._client._run(self._operations.renew(self._id, lease, timeout))

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Settings, ``tokens`` of each layer, bytes, ``lease`` and ``lease_left`` in seconds. Renews no lease."""
        return self._client._run(self._operations.stats(self._id, timeout))

    def free(self, *, timeout: float | None = None) -> None:
        """End the session and give its memory back; once more is no error."""
        self._client._run(self._operations.free(self._id, timeout))

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.free()
        except NearhashError:
            if error is None:
                raise  # otherwise there is something else to tell, and the lease ends the session
