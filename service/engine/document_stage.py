"""Documents of one commit on their way: what they are similar to in what is there and in what comes with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.hashing.sketches import Sketches
from nearhash.index.minhash_lsh import Matches, MinHashLSH
from nearhash.service.engine.document_settings import DocumentSettings
from nearhash.service.engine.document_store import DocumentTransaction
from nearhash.service.engine.results import PointId

Similar = list[tuple[int, float]]
"""Numbers of documents and their estimated similarity."""


class Verdict(NamedTuple):
    """What `Stage.check` says: which documents are new, and ids and similarities of what the others resemble."""

    added: NDArray[np.bool_]
    duplicates: list[list[tuple[PointId, float]]]


class Stage:
    """What the operations of one commit see and change. Nothing of it is in the index before `publish`.

    Parameters
    ----------
    transaction
        Of the store.
    index
        The documents there are, by number.
    names
        Their ids.
    settings
        Of the collection.
    threads
        For queries.
    """

    def __init__(
        self,
        transaction: DocumentTransaction,
        index: MinHashLSH,
        names: dict[int, PointId],
        settings: DocumentSettings,
        threads: int | None,
    ) -> None:
        self.transaction = transaction
        self._index = index
        self._names = names
        self._settings = settings
        self._threads = threads
        self._new = settings.make_index(threads)
        self._new_names: dict[int, PointId] = {}
        self._gone: set[int] = set()  # of the index

    # --- changes ---

    def put(self, ids: Sequence[PointId], sketches: Sketches) -> int:
        """Insert documents, or replace them; returns how many were there."""
        replaced = self.drop(ids)
        numbers = self.transaction.insert(ids, sketches.values)
        self._new.add(sketches, numbers)
        self._new_names.update(zip(numbers.tolist(), ids, strict=True))
        return replaced

    def drop(self, ids: Sequence[PointId]) -> int:
        """Delete those documents that there are, and return how many."""
        numbers = list(self.transaction.numbers_of(ids).values())
        self.transaction.delete(numbers)
        fresh = [number for number in numbers if self._new_names.pop(number, None) is not None]
        if fresh:
            self._new.remove(np.array(fresh, np.int64))
        self._gone.update(set(numbers).difference(fresh))
        return len(numbers)

    # --- comparisons ---

    def check(self, ids: Sequence[PointId], sketches: Sketches, threshold: float | None, limit: int) -> Verdict:
        """Insert, in their order, those that neither are there nor resemble one that is there or came before them."""
        present = self.transaction.numbers_of(ids)
        duplicates = [self._named(similar, limit) for similar in self._similar(sketches, threshold)]
        for position, own in enumerate(ids):
            number = present.get(own)
            if number is not None and all(other != own for other, _ in duplicates[position]):
                similarity = self._similarity(number, sketches[position : position + 1])
                duplicates[position] = [*duplicates[position][: limit - 1], (own, similarity)]
        added = np.array([not found for found in duplicates], np.bool_)
        candidates = np.flatnonzero(added)
        if len(candidates) > 1:
            for position, similar in self._among(sketches, candidates, threshold):
                earlier = [(ids[other], similarity) for other, similarity in similar if added[other]]
                if earlier:
                    added[position] = False
                    duplicates[position] = earlier[:limit]
        chosen = np.flatnonzero(added)
        if len(chosen):
            self.put([ids[position] for position in chosen.tolist()], sketches[chosen])
        return Verdict(added, duplicates)

    def _similar(self, sketches: Sketches, threshold: float | None) -> list[Similar]:
        """For each sketch the documents of this moment that resemble it, the most similar ones first."""
        found = [
            [one for one in similar if one[0] not in self._gone]
            for similar in split(self._index.query(sketches, threshold, threads=self._threads))
        ]
        if self._new_names:
            for similar, more in zip(found, split(self._new.query(sketches, threshold)), strict=True):
                if more:
                    similar.extend(more)
                    similar.sort(key=lambda one: (-one[1], one[0]))
        return found

    def _among(
        self, sketches: Sketches, candidates: NDArray[np.int64], threshold: float | None
    ) -> list[tuple[int, Similar]]:
        """Candidates that resemble earlier ones, in their order, each with those, the most similar ones first."""
        index = self._settings.make_index(self._threads)
        index.add(sketches[candidates], candidates)
        earlier: dict[int, Similar] = {}
        for pairs in index.pairs(threshold):
            for left, right, similarity in zip(*(column.tolist() for column in pairs), strict=True):
                earlier.setdefault(right, []).append((left, similarity))
        return [
            (position, sorted(earlier[position], key=lambda one: (-one[1], one[0]))) for position in sorted(earlier)
        ]

    def _named(self, similar: Similar, limit: int) -> list[tuple[PointId, float]]:
        return [
            (self._new_names[number] if number in self._new_names else self._names[number], similarity)
            for number, similarity in similar[:limit]
        ]

    def _similarity(self, number: int, sketch: Sketches) -> float:
        stored = np.frombuffer(self.transaction.sketch_of(number), sketch.dtype).reshape(sketch.shape)
        return float(sketch.jaccard(Sketches(stored, sketch.header))[0])

    # --- after the commit ---

    def publish(self) -> None:
        """Take everything over to the index. The caller keeps queries out."""
        if self._gone:
            self._index.remove(np.array(sorted(self._gone), np.int64))
        self._index.merge(self._new)
        for number in self._gone:
            del self._names[number]
        self._names.update(self._new_names)


def split(matches: Matches) -> list[Similar]:
    """The matches of each query."""
    pairs: list[Any] = list(zip(matches.ids.tolist(), matches.similarities.tolist(), strict=True))
    bounds = matches.indptr.tolist()
    return [pairs[first:last] for first, last in pairwise(bounds)]
