"""A line in the log for each request that took long: what was asked for and where the time went, but no data."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nearhash.service.calls import Answered

log = logging.getLogger("nearhash.service.slow")

_MOST_LINES = 10  # a second: where every request is slow, further lines tell nothing new and take time themselves
_LONGEST_NAME = 80


class SlowLog:
    """Logs requests that took long.

    Parameters
    ----------
    seconds
        Shorter requests are not logged. Of a stream counts what the server has spent, not how long its reader took.
    clock
        Seconds, for tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._second = -1
        self._lines = 0
        self._passed_over = 0

    def observe(self, answered: Answered) -> None:
        """Log a request if it was slow."""
        call, spent = answered.call, answered.call.spent
        seconds = spent.waited + spent.ran if answered.stream else answered.seconds
        if seconds < self._seconds or not self._has_room():
            return
        facts = {
            "method": answered.method.rpartition("/")[2],
            "code": answered.code,
            "collection": call.collection[:_LONGEST_NAME],
            "rows": call.rows,
            "k": call.k,
            "filtered": call.filtered,
            "seconds": round(seconds, 6),
            "waited": round(spent.waited, 6),
            "ran": round(spent.ran, 6),
        }
        known = {name: value for name, value in facts.items() if value is not None}
        if self._passed_over:
            known["more"] = self._passed_over  # slow ones since the line before that have none
            self._passed_over = 0
        # Names come from callers, and must not look like further lines.
        log.warning(
            "slow request: %s", ", ".join(f"{name} {value!r}" for name, value in known.items()), extra={"slow": known}
        )

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > _MOST_LINES:
            self._passed_over += 1
            return False
        return True
