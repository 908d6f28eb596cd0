"""What the server needs of an index."""

from __future__ import annotations

from typing import Any, Protocol

from nearhash.index.hits import Hits


class Searchable(Protocol):
    """Any index of nearhash; its ``search`` may be called from several threads at once."""

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""

    @property
    def metric(self) -> str:
        """``"l2"``, ``"ip"`` or ``"cosine"``."""

    def __len__(self) -> int: ...

    def info(self) -> dict[str, Any]:
        """Facts about the index that JSON can hold."""

    def search(self, *args: Any, **kwargs: Any) -> Hits:
        """``search(queries, k, window, allow, threads, **effort)``: the k nearest neighbours of every query."""
