"""Scroll: all points of a collection, a message at a time."""

from __future__ import annotations

from nearhash.protos.v1 import points_pb2
from nearhash.service.config import Limits
from nearhash.service.engine.results import Point
from nearhash.service.points_wire import to_payload, to_points
from nearhash.service.requests import one_window
from nearhash.service.searchable import ServedCollection

_DEFAULT_SIZE = 1_000
_FIRST_READ = 64  # points: nothing is known yet about how long their payloads are
_SHARE = 4  # a part of the longest message, which a message should not exceed and a read aims below
_POINT_BYTES = 64  # besides vector, labels and payload


class Scroll:
    """The messages of one scroll. Each is made when it is asked for; nothing is read ahead or held meanwhile.

    Parameters
    ----------
    served
        The collection.
    request
        What is asked for.
    limits
        ``max_message_bytes`` bounds messages, and what is held to make one.

    Raises
    ------
    InvalidArgumentError
        The window is not of two float64.
    """

    def __init__(self, served: ServedCollection, request: points_pb2.ScrollRequest, limits: Limits) -> None:
        self._served = served
        self._request = request
        self._window = one_window(request)
        self._cursor = request.cursor or None
        self._page_size = min(request.page_size or _DEFAULT_SIZE, limits.max_batch)
        self._most_bytes = limits.max_message_bytes // _SHARE
        fixed = _POINT_BYTES + 8 * len(served.label_names) + (4 * served.dim if request.with_vectors else 0)
        self._fixed_bytes = fixed
        self._read_size = max(1, min(_FIRST_READ, self._most_bytes // fixed))
        self._ended = False

    def next_message(self) -> bytes | None:
        """The next message; None at the end. Runs on a thread."""
        points: list[Point] = []
        size = 0
        while not self._ended and len(points) < self._page_size and size < self._most_bytes:
            before = self._cursor
            more, more_bytes = self._read(self._page_size - len(points))
            if len(more) > 1 and size + more_bytes > 2 * self._most_bytes:  # much longer than those before
                self._cursor, self._read_size = before, max(1, len(more) // 4)
                if points:
                    break
                continue
            points += more
            size += more_bytes
            mean = size / len(points) if points else self._fixed_bytes
            room = max(self._most_bytes - size, self._most_bytes / 2)
            self._read_size = int(max(1, min(2 * self._read_size, room / mean)))
        if not points:
            return None
        message = points_pb2.ScrollResponse(
            points=to_points(
                points,
                self._served.label_names,
                self._served.dim,
                vectors=self._request.with_vectors,
                payloads=self._request.with_payloads,
            ),
            cursor=self._cursor,
        )
        return message.SerializeToString()

    def _read(self, most: int) -> tuple[list[Point], int]:
        """Some points after the cursor, and about how many bytes they take in a message."""
        request = self._request
        with self._served.use() as collection:
            pages = collection.scroll(
                request.filter_json or None,
                self._window,
                window_label=request.window_label or None,
                page_size=min(most, self._read_size),
                vectors=request.with_vectors,
                payloads=request.with_payloads,
                cursor=self._cursor,
            )
            page = next(pages, None)
        if page is None:
            self._ended = True
            return [], 0
        self._cursor = page.cursor
        free_bytes = sum(len(to_payload(point.payload)) for point in page.points)
        free_bytes += sum(len(point.id.encode()) for point in page.points if isinstance(point.id, str))
        return page.points, len(page.points) * self._fixed_bytes + free_bytes
