"""What all calls of a client have in common, as steps: deadlines, the server's limits, batches in several requests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import Message

from nearhash.errors import InvalidArgumentError, NearhashError
from nearhash.protos.v1 import search_pb2
from nearhash.service.attempts import Steps, attempts
from nearhash.service.batches import Batch, Capacity
from nearhash.service.client_errors import is_too_long
from nearhash.service.connection import Connection, Method, RpcError, checked_timeout

Progress = Callable[[int, int], None]

_UNTOLD = 2**31 - 1  # a limit that a server does not tell


class Piece(NamedTuple):
    """The answer to the request for some rows of a batch."""

    first: int
    stop: int
    answer: Any


class Asking:
    """Shared by all threads or tasks of a client; steps of calls do not know of each other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._capacity: Capacity | None = None

    def _read(self, method: Method, request: Message, timeout: float | None) -> Steps[Any]:
        return attempts(method, request, self._deadline(timeout), repeatable=True)

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._connection.timeout if timeout is None else checked_timeout(timeout))

    def _in_pieces(
        self, method: Method, batch: Batch, deadline: float, pieces: list[Piece], progress: Progress | None = None
    ) -> Steps[None]:
        """Send a batch in as many requests as it takes, in order; answers go into `pieces` as they come.

        All requests may be repeated: they are reads, or have ids. One whose answer turns out too long is halved.
        """
        first, most = 0, max(batch.count, 1)
        while True:
            stop = batch.stop(first, most)
            try:
                answer = yield from attempts(method, batch.request(first, stop), deadline, repeatable=True)
            except NearhashError as error:
                if isinstance(error, InvalidArgumentError) and str(error).startswith("max_"):
                    self._capacity = None  # the server may have been started anew with tighter limits
                if stop - first > 1 and isinstance(error.__cause__, RpcError) and is_too_long(error.__cause__):
                    most = (stop - first) // 2
                    continue
                raise
            pieces.append(Piece(first, stop, answer))
            if progress is not None:
                progress(stop, batch.count)
            first = stop
            if first >= batch.count:
                return

    def _capacity_of(self, limits: search_pb2.Limits) -> Capacity:
        return Capacity(
            limits.max_rows or _UNTOLD,
            min(self._connection.max_message_bytes, limits.max_message_bytes or _UNTOLD),
            limits.max_batch or _UNTOLD,
            limits.max_ids or _UNTOLD,
            limits.max_texts or _UNTOLD,
        )


def check_name(name: str, argument: str = "name") -> str:
    """A name as the caller gave it: that it names something, the server finds out."""
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"{argument}: expected a name, got {name!r:.80}")
    return name


def tell_written(error: NearhashError, written: int, count: int, what: str) -> None:
    """Let an error say how many rows of a batch are known to be written."""
    error.written = written
    error.args = (f"{error}; of {count} {what}, the first {written} are known to be written",)


def checked_request_id(given: str | None) -> str:
    """The id of a request as the caller gave it, or a new one."""
    if given is None:
        return uuid.uuid4().hex
    if not isinstance(given, str) or not given:
        raise InvalidArgumentError(f"request_id: expected a text, got {given!r:.150}")
    return given
