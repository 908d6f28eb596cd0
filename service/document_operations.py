"""What clients do with documents and hashes, without doing it; see `operations`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError, NearhashError
from nearhash.hashing.sketches import Sketches
from nearhash.protos.v1 import documents_pb2, hashes_pb2, points_pb2
from nearhash.service import connection as methods
from nearhash.service.asking import Asking, Piece, Progress, check_name, checked_request_id, tell_written
from nearhash.service.attempts import Steps, attempts
from nearhash.service.batches import Capacity
from nearhash.service.client_errors import malformed
from nearhash.service.document_batches import DocumentBatch, Texts, as_texts, encoded_text
from nearhash.service.engine.results import Checked, Deleted, Duplicates, Written
from nearhash.service.hash_wire import (
    from_document_settings,
    from_duplicates,
    from_sketches,
    joined_duplicates,
    to_document_settings,
    to_sketch_settings,
)
from nearhash.service.point_batches import DeleteBatch
from nearhash.service.wire import from_tensor, to_tensor


class DocumentOperations(Asking):
    """The calls that have to do with documents and hashes, as steps."""

    # --- documents ---

    def upsert(
        self,
        collection: str,
        ids: Any,
        texts: Texts | None,
        sketches: Sketches | None,
        *,
        request_id: str | None,
        progress: Progress | None,
        timeout: float | None,
    ) -> Steps[Written]:
        """Insert documents, and replace those whose ids are there."""

        def make(documents: documents_pb2.Documents, own: points_pb2.Ids | None, request_id: str) -> Message:
            return documents_pb2.UpsertDocumentsRequest(
                collection=collection, ids=own, documents=documents, request_id=request_id
            )

        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = DocumentBatch(texts, sketches, ids, checked_request_id(request_id), make, capacity)
        pieces = yield from self._written(methods.UPSERT_DOCUMENTS, batch, deadline, progress)
        answers = [piece.answer for piece in pieces]
        return Written(
            sum(answer.written for answer in answers),
            sum(answer.replaced for answer in answers),
            max(answer.sequence for answer in answers),
        )

    def check_and_add(
        self,
        collection: str,
        ids: Any,
        texts: Texts | None,
        sketches: Sketches | None,
        threshold: float | None,
        limit: int,
        *,
        request_id: str | None,
        progress: Progress | None,
        timeout: float | None,
    ) -> Steps[Checked]:
        """Add what is new."""
        limit = _limit(limit)

        def make(documents: documents_pb2.Documents, own: points_pb2.Ids | None, request_id: str) -> Message:
            return documents_pb2.CheckAndAddRequest(
                collection=collection,
                ids=own,
                documents=documents,
                threshold=threshold,
                limit=limit,
                request_id=request_id,
            )

        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = DocumentBatch(texts, sketches, ids, checked_request_id(request_id), make, capacity)
        pieces = yield from self._written(methods.CHECK_AND_ADD, batch, deadline, progress)
        added = np.concatenate([_flags(piece) for piece in pieces])
        return Checked(added, _duplicates(pieces), max(piece.answer.sequence for piece in pieces))

    def find(
        self,
        collection: str,
        texts: Texts | None,
        sketches: Sketches | None,
        threshold: float | None,
        limit: int,
        timeout: float | None,
    ) -> Steps[Duplicates]:
        """Documents that resemble others."""
        limit = _limit(limit)

        def make(documents: documents_pb2.Documents, own: points_pb2.Ids | None, request_id: str) -> Message:
            return documents_pb2.FindDuplicatesRequest(
                collection=collection, documents=documents, threshold=threshold, limit=limit
            )

        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = DocumentBatch(texts, sketches, None, "", make, capacity)
        pieces: list[Piece] = []
        yield from self._in_pieces(methods.FIND_DUPLICATES, batch, deadline, pieces)
        return _duplicates(pieces)

    def delete(self, collection: str, ids: Any, *, request_id: str | None, timeout: float | None) -> Steps[Deleted]:
        """Delete documents by id."""
        deadline = self._deadline(timeout)
        capacity = yield from self._agreed(collection, deadline)
        batch = DeleteBatch(
            collection, ids, checked_request_id(request_id), capacity, documents_pb2.DeleteDocumentsRequest
        )
        pieces: list[Piece] = []
        yield from self._in_pieces(methods.DELETE_DOCUMENTS, batch, deadline, pieces)
        answers = [piece.answer for piece in pieces]
        return Deleted(sum(answer.deleted for answer in answers), max(answer.sequence for answer in answers))

    # --- collections ---

    def create(self, name: str, settings: dict[str, Any], if_missing: bool, timeout: float | None) -> Steps[None]:
        """Make a collection. Only with `if_missing` it is no matter whether it has been made before."""
        request = documents_pb2.CreateDocumentsRequest(
            name=check_name(name), settings=to_document_settings(settings), if_missing=if_missing
        )
        yield from attempts(methods.CREATE_DOCUMENTS, request, self._deadline(timeout), repeatable=if_missing)

    def collections(self, timeout: float | None) -> Steps[dict[str, dict[str, Any]]]:
        """What there is, by name."""
        answer = yield from self._read(methods.LIST_DOCUMENTS, documents_pb2.ListDocumentsRequest(), timeout)
        return {collection.name: _description(collection) for collection in answer.collections}

    def describe(self, name: str, timeout: float | None) -> Steps[dict[str, Any]]:
        """Settings, size and state of a collection."""
        request = documents_pb2.DescribeDocumentsRequest(name=check_name(name))
        answer = yield from self._read(methods.DESCRIBE_DOCUMENTS, request, timeout)
        return _description(answer.collection)

    def drop(self, name: str, timeout: float | None) -> Steps[None]:
        """Delete a collection."""
        request = documents_pb2.DropDocumentsRequest(name=check_name(name))
        yield from attempts(methods.DROP_DOCUMENTS, request, self._deadline(timeout), repeatable=False)

    # --- hashes ---

    def sketch(
        self,
        texts: Texts | None,
        indptr: ArrayLike | None,
        tokens: ArrayLike | None,
        settings: dict[str, Any],
        timeout: float | None,
    ) -> Steps[Sketches]:
        """Sketches of texts or sets, in one request."""
        request = hashes_pb2.SketchRequest(settings=to_sketch_settings(settings))
        if (texts is None) == (indptr is None) or (indptr is None) != (tokens is None):
            raise InvalidArgumentError("texts, indptr, tokens: expected either texts, or indptr and tokens")
        if texts is not None:
            values = [encoded_text(number, text) for number, text in enumerate(as_texts(texts))]
            request.texts.CopyFrom(hashes_pb2.Texts(values=values))
        elif indptr is not None and tokens is not None:
            starts, members = np.asarray(indptr, np.int64), np.asarray(tokens, np.uint64)
            sets = hashes_pb2.Sets(indptr=to_tensor(starts, "indptr"), tokens=to_tensor(members, "tokens"))
            request.sets.CopyFrom(sets)
        answer = yield from self._read(methods.SKETCH, request, timeout)
        try:
            return from_sketches(answer.sketches)
        except InvalidArgumentError as error:
            raise malformed(error) from error

    def encode(self, vectors: ArrayLike, bits: int, seed: int, timeout: float | None) -> Steps[NDArray[np.uint8]]:
        """Codes of signs of vectors, in one request."""
        try:
            request = hashes_pb2.EncodeRequest(vectors=to_tensor(vectors, "vectors"), bits=bits, seed=seed)
        except (TypeError, ValueError) as error:
            if isinstance(error, NearhashError):
                raise
            raise InvalidArgumentError(f"bits, seed: {error!s:.80}") from error
        answer = yield from self._read(methods.ENCODE, request, timeout)
        try:
            return cast("NDArray[np.uint8]", from_tensor(answer.codes, "codes", ndim=(2,)).copy())
        except InvalidArgumentError as error:
            raise malformed(error) from error

    # --- steps of several of these ---

    def _agreed(self, collection: str, deadline: float) -> Steps[Capacity]:
        """The tighter of this client's limits and the server's, which are asked for once."""
        if self._capacity is None:
            request = documents_pb2.DescribeDocumentsRequest(name=check_name(collection))
            answer = yield from attempts(methods.DESCRIBE_DOCUMENTS, request, deadline, repeatable=True)
            self._capacity = self._capacity_of(answer.server.limits)
        return self._capacity

    def _written(
        self, method: methods.Method, batch: DocumentBatch, deadline: float, progress: Progress | None
    ) -> Steps[list[Piece]]:
        pieces: list[Piece] = []
        try:
            yield from self._in_pieces(method, batch, deadline, pieces, progress)
        except NearhashError as error:
            if pieces or batch.stop(0, batch.count) < batch.count:
                tell_written(error, pieces[-1].stop if pieces else 0, batch.count, "documents")
            raise
        return pieces


def _limit(limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or not 1 <= limit < 2**32:
        raise InvalidArgumentError(f"limit: expected an integer of at least 1, got {limit!r:.80}")
    return int(limit)


def _flags(piece: Piece) -> NDArray[np.bool_]:
    try:
        added = from_tensor(piece.answer.added, "added", ndim=(1,))
    except InvalidArgumentError as error:
        raise malformed(error) from error
    if added.dtype != np.bool_ or len(added) != piece.stop - piece.first:
        raise malformed(f"added: expected {piece.stop - piece.first} flags")
    return added


def _duplicates(pieces: list[Piece]) -> Duplicates:
    try:
        return joined_duplicates(
            [from_duplicates(piece.answer.duplicates, piece.stop - piece.first) for piece in pieces]
        )
    except InvalidArgumentError as error:
        raise malformed(error) from error


def _description(collection: documents_pb2.DocumentCollection) -> dict[str, Any]:
    return {
        "name": collection.name,
        **from_document_settings(collection.settings),
        "size": collection.size,
        "state": collection.state,
        "nbytes": collection.nbytes,
        "disk_bytes": collection.disk_bytes,
    }
