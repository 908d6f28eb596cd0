"""A KV head of a store, as estimators see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nearhash.attention.heads import Floats, Positions
from nearhash.index.arrays import aligned_empty
from nearhash.kernels.attention_code_scan import scan
from nearhash.kernels.attention_rows import PAGE

if TYPE_CHECKING:
    from nearhash.attention.store import KVStore


class StoreHead:
    """A `KVHead` over one KV head of a store, which must not change meanwhile.

    Tokens that have no codes yet, those of the local window, are told exactly.
    """

    def __init__(self, store: KVStore, head: int) -> None:
        self._store, self.head = store, head
        self.n, self.d = len(store), store.head_dim

    def keys(self, positions: Positions) -> Floats:
        return self._store._read(self.head, np.asarray(positions, np.int64))[0]

    def values(self, positions: Positions) -> Floats:
        return self._store._read(self.head, np.asarray(positions, np.int64))[1]

    def value_norms(self, positions: Positions) -> Floats:
        store, norms = self._store, np.empty(self.n, np.float32)
        coded, start = store._codes.coded, store._key_codes.norms_at
        pages = [page[start : start + 2 * PAGE].view(np.uint16) for page in store._code_pages.memory(self.head)]
        if coded:
            bits = np.concatenate(pages)[:coded].astype(np.uint32) << np.uint32(16)
            norms[:coded] = bits.view(np.float32)
        norms[coded:] = np.linalg.norm(self.values(np.arange(coded, self.n)), axis=1)
        taken: Floats = norms[positions]
        return taken

    def logits(self, queries: Floats) -> Floats:
        store, coded = self._store, self._store._codes.coded
        logits = np.empty((len(queries), self.n), np.float32)
        if coded:
            pages = store._code_pages.addresses(self.head)
            room = aligned_empty((len(queries), len(pages) * PAGE), np.float32)
            common, floats = store._codes.common[self.head], np.ascontiguousarray(queries, np.float32)
            asked = store._key_codes.ask(store._key_codes.join([common]), floats)
            scan(asked, 0, 0, len(queries), pages, 0, coded, room)
            # Codes leave out a number that all tokens share: here it is that of the mean key.
            logits[:, :coded] = room[:, :coded] + queries @ store._key_codes.mean(common)[:, None]
        logits[:, coded:] = queries @ self.keys(np.arange(coded, self.n)).T
        return logits
