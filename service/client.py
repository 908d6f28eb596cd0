"""The client: NumPy arrays in and out, errors of nearhash instead of status codes. Imports no numba."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nearhash.errors import InvalidArgumentError, MissingExtraError, ServiceError
from nearhash.index.hits import Hits
from nearhash.protos.v1 import search_pb2
from nearhash.service.batches import Capacity, search_requests
from nearhash.service.wire import from_tensor

try:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from nearhash.protos.v1 import search_pb2_grpc
    from nearhash.service.status import error_from
except ModuleNotFoundError as error:
    if error.name not in ("grpc", "grpc_health"):
        raise
    raise MissingExtraError(f"the client needs {error.name}: pip install nearhash[serve]") from error

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0  # seconds between attempts
_LARGEST_MESSAGE = 2**31 - 1


class Client:
    """Searches an index that a nearhash server holds, with the same arguments and results as the index itself.

    One client may be used from many threads. Use it as a context manager, or call `close`.

    Parameters
    ----------
    address
        ``host:port`` of the server.
    timeout
        Seconds that a call may take, attempts and all requests of a large batch together. While the server cannot be
        reached, the call is repeated until then: a search changes nothing, so repeating it is safe.
    max_message_bytes
        Longest message to send or take; batches beyond it, or beyond the server's own limit, are sent in several
        requests.
    """

    def __init__(
        self, address: str = "localhost:50051", timeout: float = 30.0, max_message_bytes: int = 64 * 2**20
    ) -> None:
        if not 0 < max_message_bytes <= _LARGEST_MESSAGE:
            raise InvalidArgumentError(
                f"max_message_bytes: expected 1 to {_LARGEST_MESSAGE}, got {max_message_bytes!r}"
            )
        self._timeout = _checked_timeout(timeout)
        self._max_message_bytes = max_message_bytes
        self._address = address
        self._capacity: Capacity | None = None
        self._closed = False
        self._channel = grpc.insecure_channel(address, options=_channel_options(address, max_message_bytes))
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self._channel)

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
        """The k nearest neighbours of every query.

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
        deadline = self._deadline(timeout)
        if self._capacity is None:
            self._capacity = self._agreed_capacity(deadline)
        requests = search_requests(queries, k, window, allow, effort, self._capacity)
        parts = [_hits(self._call(self._search.Search, request, deadline), request) for request in requests]
        if len(parts) == 1:
            return parts[0]
        return Hits(np.concatenate([part.ids for part in parts]), np.concatenate([part.distances for part in parts]))

    def info(self) -> dict[str, Any]:
        """What is served: the index's ``info()`` plus ``collection`` and ``server`` (version and limits).

        Raises
        ------
        ServiceError
            The server refused or failed; ``code`` holds the gRPC status.
        """
        answer = self._call(self._search.GetInfo, search_pb2.GetInfoRequest(), self._deadline(None))
        limits = {bound.name: value for bound, value in answer.server.limits.ListFields()}
        facts: dict[str, Any] = json.loads(answer.details_json)
        return {
            **facts,
            "collection": answer.collection,
            "server": {"version": answer.server.version, "limits": limits},
        }

    def health(self) -> str:
        """``"SERVING"``, or ``"NOT_SERVING"`` while the server starts or stops. Asks once, without repeating.

        Raises
        ------
        ServiceError
            The server cannot be reached; ``code`` is ``"UNAVAILABLE"``.
        """
        self._check_open()
        try:
            answer = self._health.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
        except grpc.RpcError as error:
            raise error_from(error) from error
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r})"

    def _agreed_capacity(self, deadline: float) -> Capacity:
        """The tighter of this client's limits and the server's, asked for once."""
        limits = self._call(self._search.GetInfo, search_pb2.GetInfoRequest(), deadline).server.limits
        return Capacity(limits.max_rows, min(self._max_message_bytes, limits.max_message_bytes))

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else _checked_timeout(timeout))

    def _check_open(self) -> None:
        if self._closed:
            raise ServiceError("the client is closed", "CANCELLED")

    def _call(self, method: Callable[..., Answer], request: Request, deadline: float) -> Answer:
        """Call until it succeeds, fails for a reason other than UNAVAILABLE, or the deadline comes."""
        delay = _FIRST_DELAY
        while True:
            self._check_open()
            try:
                return method(request, timeout=max(deadline - time.monotonic(), 0.0))
            except grpc.RpcError as error:
                pause = delay * random.uniform(0.5, 1.0)  # clients of a restarted server must not come in step
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + pause >= deadline:
                    raise error_from(error) from error
            time.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY)


def _channel_options(address: str, max_message_bytes: int) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # By default gRPC's own pauses grow to two minutes, and no call of ours could make it try earlier.
        ("grpc.initial_reconnect_backoff_ms", round(1000 * _FIRST_DELAY)),
        ("grpc.max_reconnect_backoff_ms", round(1000 * _LONGEST_DELAY)),
    ]
    if address.startswith(("localhost:", "127.", "[::1]:")):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy's own loopback is another machine
    return options


def _checked_timeout(timeout: float) -> float:
    if not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidArgumentError(f"timeout: expected a positive number of seconds, got {timeout!r}")
    return timeout


def _hits(answer: search_pb2.SearchResponse, request: search_pb2.SearchRequest) -> Hits:
    """Decode an answer; one that does not fit its request is not passed on."""
    shape = (request.queries.shape[0], request.k)
    try:
        ids = from_tensor(answer.ids, "ids", ndim=(2,))
        distances = from_tensor(answer.distances, "distances", ndim=(2,))
    except InvalidArgumentError as error:
        raise ServiceError(f"the server's answer is malformed: {error}", "DATA_LOSS") from error
    if ids.dtype != np.int64 or distances.dtype != np.float32 or not ids.shape == distances.shape == shape:
        raise ServiceError(
            f"the server's answer is malformed: expected int64 and float32 of shape {shape}, "
            f"got {ids.dtype} {ids.shape} and {distances.dtype} {distances.shape}",
            "DATA_LOSS",
        )
    return Hits(ids.copy(), distances.copy())  # decoded arrays are read-only views of the message
