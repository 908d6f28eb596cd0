"""Documents as request messages, cut so that every request stays within the limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import Message

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.sketches import Sketches
from nearhash.protos.v1 import documents_pb2, hashes_pb2, points_pb2
from nearhash.service.batches import Capacity
from nearhash.service.engine.identifiers import as_point_ids
from nearhash.service.hash_wire import to_sketches
from nearhash.service.point_batches import Cut, check_derivable, derived_request_id, id_sizes
from nearhash.service.points_wire import to_ids

_FIELD_OVERHEAD = 6  # tag and length of a text, at most
_FIXED = 5000  # everything else in a request: names, request id, how sketches were made

Texts = Sequence[str] | Sequence[bytes]
Made = Callable[[documents_pb2.Documents, points_pb2.Ids | None, str], Message]


class DocumentBatch:
    """Documents to write or to look up.

    Parameters
    ----------
    texts, sketches
        Either of them.
    ids
        One for each, or None where they have none.
    request_id
        That of each request is derived from it, and from the documents in it.
    make
        Makes a request of documents, ids and request id.
    capacity
        Limits.

    Raises
    ------
    InvalidArgumentError
        And its subclasses; also if a single document does not fit a message.
    """

    def __init__(
        self,
        texts: Texts | None,
        sketches: Sketches | None,
        ids: Any,
        request_id: str,
        make: Made,
        capacity: Capacity,
    ) -> None:
        self._texts, self._sketches = _documents(texts, sketches)
        if self._texts is not None:
            sizes = np.fromiter(map(len, self._texts), np.int64, len(self._texts)) + _FIELD_OVERHEAD
        else:
            assert self._sketches is not None
            sizes = np.full(len(self._sketches), self._sketches[:1].nbytes, np.int64)
        self.count = len(sizes)
        self._ids = None if ids is None else as_point_ids(ids)
        if self._ids is not None:
            if len(self._ids) != self.count:
                raise InvalidArgumentError(f"ids: expected {self.count}, one for each document, got {len(self._ids)}")
            sizes = sizes + id_sizes(self._ids)
        self._request_id = request_id
        self._make = make
        self._cut = Cut(sizes, _FIXED, capacity.texts, capacity.message_bytes, "one document")
        self.stop = self._cut.stop
        if request_id and self.stop(0, self.count) < self.count:
            check_derivable(request_id, self.count)

    def request(self, first: int, stop: int) -> Message:
        """The request for some documents."""
        documents = documents_pb2.Documents()
        if self._texts is not None:
            documents.texts.CopyFrom(hashes_pb2.Texts(values=self._texts[first:stop]))
        elif self._sketches is not None:
            documents.sketches.CopyFrom(to_sketches(self._sketches[first:stop]))
        ids = None if self._ids is None else to_ids(self._ids[first:stop])
        request_id = derived_request_id(self._request_id, first, stop, self.count) if self._request_id else ""
        return self._make(documents, ids, request_id)


def _documents(texts: Any, sketches: Any) -> tuple[list[bytes] | None, Sketches | None]:
    if (texts is None) == (sketches is None):
        raise InvalidArgumentError("texts, sketches: expected one of them")
    if texts is None:
        if not isinstance(sketches, Sketches):
            raise InvalidArgumentError(f"sketches: expected nearhash.hashing.Sketches, got {type(sketches).__name__}")
        return None, sketches
    return [encoded_text(number, text) for number, text in enumerate(as_texts(texts))], None


def as_texts(texts: Any) -> Sequence[Any]:
    """Texts that a user gave; a single one stands for itself."""
    return [texts] if isinstance(texts, str | bytes) else list(texts)


def encoded_text(number: int, text: Any) -> bytes:
    """A text in UTF-8; bytes are taken for that."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise InvalidArgumentError(f"texts: expected str or bytes, got {type(text).__name__} as number {number}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"texts: number {number} has a lone surrogate, {text[error.start]!r}") from None
