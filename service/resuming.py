"""Scrolls of a client: where they are, and what happens when a stream breaks. Whoever holds one does the I/O."""

from __future__ import annotations

import time
from typing import Any

from numpy.typing import ArrayLike

from nearhash.index.arguments import check_count
from nearhash.protos.v1 import points_pb2
from nearhash.service.attempts import Backoff
from nearhash.service.client_errors import is_too_late, is_too_long
from nearhash.service.engine.results import Page
from nearhash.service.operations import Filter, decoded_points, filter_json, set_window

_MOST_POINTS = 1_000_000  # of a page, as embedded


class Scrolling:
    """A scroll that goes on after its last page when the server cannot be reached for a while.

    No deadline could cover all of it, as its reader may take any time. Instead `timeout` is how long a page may take:
    a stream that gave one within it and then ends, however it ends, is taken up again.

    Parameters
    ----------
    collection
        Its name.
    filter, window, window_label, page_size, vectors, payloads, cursor
        As for `Collection.scroll`.
    timeout
        Seconds, checked.
    """

    def __init__(
        self,
        collection: str,
        filter: Filter | None,
        window: ArrayLike | None,
        *,
        window_label: str | None,
        page_size: int,
        vectors: bool,
        payloads: bool,
        cursor: str | None,
        timeout: float,
    ) -> None:
        self._request = points_pb2.ScrollRequest(
            collection=collection,
            filter_json=filter_json(filter),
            window_label=window_label or "",
            page_size=check_count(page_size, "page_size", most=_MOST_POINTS),
            with_vectors=vectors,
            with_payloads=payloads,
            cursor=cursor or "",
        )
        set_window(self._request, window)
        self._timeout = timeout
        self._progressed = True  # since the deadline was set
        self._deadline = 0.0
        self._backoff = Backoff(0.0, repeatable=True)

    def next_attempt(self) -> tuple[points_pb2.ScrollRequest, float]:
        """What to send for the pages that are missing, and how long the stream may take."""
        if self._progressed:
            self._progressed = False
            self._deadline = time.monotonic() + self._timeout
            self._backoff = Backoff(self._deadline, repeatable=True)
        return self._request, max(self._deadline - time.monotonic(), 0.0)

    def page(self, message: points_pb2.ScrollResponse) -> Page:
        """A message of the stream."""
        page = Page(decoded_points(message.points, self._request.with_vectors), message.cursor)
        self._request.cursor = message.cursor
        self._progressed = True
        return page

    def pause_after(self, failure: Any) -> float:
        """Seconds to wait before the next attempt; raises the error of nearhash if there is none."""
        if self._progressed and is_too_late(failure):
            return 0.0  # the stream's time was up, not that of a page
        if self._request.page_size > 1 and is_too_long(failure):
            self._request.page_size //= 2
            return 0.0
        if self._progressed:
            self.next_attempt()  # what follows is measured anew
        return self._backoff.pause_after(failure)
