"""Collections of documents on a server, for threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearhash.hashing.sketches import Sketches
from nearhash.service.asking import Progress
from nearhash.service.document_batches import Texts
from nearhash.service.engine.results import Checked, Deleted, Duplicates, Written

if TYPE_CHECKING:
    from nearhash.service.client import Client


class RemoteDocuments:
    """A collection of documents on a server, with the methods of `nearhash.DocumentCollection`; see `Client.documents`.

    All methods raise UnknownCollectionError if there is no collection of that name, InvalidArgumentError and its
    subclasses as the embedded collection would, AccessError if the key does not allow the call, and ServiceError for
    whatever else keeps the server from answering.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._operations = client._documents
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"{self._client!r}.documents({self._name!r})"

    def upsert(
        self,
        ids: Any,
        texts: Texts | None = None,
        *,
        sketches: Sketches | None = None,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Insert documents, and replace those whose ids are there.

        Documents that fit one request are written all or none. More of them are sent in several requests, in order; if
        one fails, ``error.written`` tells how many documents are known to be written.

        Parameters
        ----------
        ids : (n,) integers >= 0, texts of 1 to 512 bytes, or both
            Distinct.
        texts : (n,) texts, optional
            Either these or sketches. The server makes sketches of them and forgets them.
        sketches : Sketches of n sets, optional
            Made as the collection makes them: the texts need not leave this machine.
        request_id : str, optional
            As for `RemoteCollection.upsert`.
        progress : callable, optional
            Called with the documents written and all documents after each request.
        timeout : float, optional
            Seconds for all requests together, instead of the client's.
        """
        return self._client._run(
            self._operations.upsert(
                self._name, ids, texts, sketches, request_id=request_id, progress=progress, timeout=timeout
            )
        )

    def delete(self, ids: Any, *, request_id: str | None = None, timeout: float | None = None) -> Deleted:
        """Delete documents by id; ids that are not there are ignored."""
        return self._client._run(self._operations.delete(self._name, ids, request_id=request_id, timeout=timeout))

    def find(
        self,
        texts: Texts | None = None,
        *,
        sketches: Sketches | None = None,
        threshold: float | None = None,
        limit: int = 10,
        timeout: float | None = None,
    ) -> Duplicates:
        """Documents of the collection that resemble each of some others, see `nearhash.DocumentCollection.find`."""
        return self._client._run(self._operations.find(self._name, texts, sketches, threshold, limit, timeout))

    def check_and_add(
        self,
        ids: Any,
        texts: Texts | None = None,
        *,
        sketches: Sketches | None = None,
        threshold: float | None = None,
        limit: int = 10,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Checked:
        """Add those documents that are new, see `nearhash.DocumentCollection.check_and_add`; and `upsert`."""
        return self._client._run(
            self._operations.check_and_add(
                self._name,
                ids,
                texts,
                sketches,
                threshold,
                limit,
                request_id=request_id,
                progress=progress,
                timeout=timeout,
            )
        )

    def describe(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Settings of the collection, its ``size`` in documents, ``state``, and bytes of memory and on the disk."""
        return self._client._run(self._operations.describe(self._name, timeout))
