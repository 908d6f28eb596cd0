"""Calls that are repeated, as steps: what to send and how long to pause. Whoever takes the steps does the I/O.

The same steps serve a client of threads and one of asyncio, which differ only in how they wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from nearhash.service.client_errors import error_from, is_unavailable, retry_after
from nearhash.service.connection import FIRST_DELAY, LONGEST_DELAY, Method, RpcError

Result = TypeVar("Result")

_SHORTEST_PAUSE = 0.001  # seconds


class Send(NamedTuple):
    """Send this, and go on with the answer, or throw the RpcError in."""

    method: Method
    request: Message
    timeout: float


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


Steps = Generator[Send | Pause, Any, Result]


class Backoff:
    """Decides whether, and after which pause, a call that failed is made again.

    Parameters
    ----------
    deadline
        On ``time.monotonic()``; no attempt begins after it.
    repeatable
        Whether the request may be carried out twice, so that it may be sent again when it is not known whether it was.
    """

    def __init__(self, deadline: float, repeatable: bool) -> None:
        self._deadline = deadline
        self._repeatable = repeatable
        self._delay = FIRST_DELAY
        self._growth = 1.0

    def pause_after(self, failure: Any) -> float:
        """Seconds to wait before the next attempt; raises the error of nearhash if there is none.

        A server that is too busy says so before it begins, and when to come again: that is safe for every request.
        """
        told = retry_after(failure)
        if told is not None:
            told = max(told, _SHORTEST_PAUSE)
            pause = max(told, min(told * self._growth, LONGEST_DELAY)) * random.uniform(1.0, 1.25)
            self._growth *= 2  # told again: more clients wait than the server thinks
        elif self._repeatable and is_unavailable(failure):
            pause = self._delay * random.uniform(0.5, 1.0)  # clients of a restarted server must not come in step
            self._delay = min(2 * self._delay, LONGEST_DELAY)
        else:
            raise error_from(failure) from failure
        if time.monotonic() + pause >= self._deadline:
            raise error_from(failure) from failure
        return pause


def attempts(method: Method, request: Message, deadline: float, repeatable: bool) -> Steps[Any]:
    """Call until it succeeds, fails for a reason that repeating does not help, or the deadline comes."""
    backoff: Backoff | None = None
    while True:
        try:
            return (yield Send(method, request, max(deadline - time.monotonic(), 0.0)))
        except RpcError as failure:
            backoff = backoff or Backoff(deadline, repeatable)
            pause = backoff.pause_after(failure)
        yield Pause(pause)
