"""Parts of a collection: rows that are searched together, by one index.

A part's rows never change, and what a search sees of it is a `View`: how many of its rows, and which of them live.
Views are replaced, not changed, so a search goes on with what it has seen first while writes go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arrays import Growable
from nearhash.index.base import VectorIndex
from nearhash.index.flat import FlatIndex
from nearhash.index.points import SlotMask
from nearhash.index.predicates import Predicate
from nearhash.service.engine.columns import PayloadColumns
from nearhash.service.engine.identifiers import TextTable, encoded_ids
from nearhash.service.engine.results import PointId
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.store import NewPoints, SegmentEntry

_KEPT_MASKS = 16
Bools = NDArray[np.bool_]


class Wanted(NamedTuple):
    """Which points a search may answer with, apart from a window on the first label, which indexes know themselves.

    predicate: on the payload; bounds: (label number, lo, hi) of labels.
    """

    predicate: Predicate | None = None
    bounds: tuple[tuple[int, float, float], ...] = ()

    @property
    def everything(self) -> bool:
        return self.predicate is None and not self.bounds


class Part:
    """Rows of a sealed segment, or of the buffer.

    Parameters
    ----------
    index
        Its ids are positions in `rows`.
    entry
        The segment's entry in the store; None for a buffer.
    rows : (n,) int64
        Row numbers in the store, ascending.
    codes : (n,) int64
        Ids, see `identifiers`.
    labels : (f, n) float64
    columns
        Payloads.
    """

    def __init__(
        self,
        index: VectorIndex,
        entry: SegmentEntry | None,
        rows: NDArray[np.int64],
        codes: NDArray[np.int64],
        texts: TextTable | list[str],
        labels: NDArray[np.float64],
        columns: PayloadColumns,
    ) -> None:
        self.index = index
        self.entry = entry
        self.rows = rows
        self.codes = codes
        self.texts = texts
        self.labels = labels
        self.columns = columns

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kind(self) -> str:
        return self.index.kind

    @property
    def nbytes(self) -> int:
        arrays = self.rows.nbytes + self.codes.nbytes + self.labels.nbytes + self.columns.nbytes
        return int(self.index.nbytes + arrays)

    def id_at(self, position: int) -> PointId:
        code = int(self.codes[position])
        return code if code >= 0 else self.texts[-2 - code]

    def positions_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows stand, those that are here."""
        places = np.searchsorted(self.rows, rows)
        inside = places < len(self.rows)
        inside[inside] = self.rows[places[inside]] == rows[inside]
        return places[inside]


class Buffer(Part):
    """The newest rows, measured exactly. One thread appends; views have seen a prefix."""

    def __init__(self, settings: Settings) -> None:
        self._columns_of = (Growable.empty((), np.int64), Growable.empty((), np.int64))
        self._labels = Growable.empty((len(settings.labels),), np.float64)
        super().__init__(
            FlatIndex(settings.dim, settings.metric),
            None,
            self._columns_of[0].view,
            self._columns_of[1].view,
            [],
            self._labels.view.T,
            PayloadColumns(),
        )

    def append(self, rows: NDArray[np.int64], new: NewPoints) -> None:
        """Take new rows, whose numbers rise."""
        texts = self.texts
        assert isinstance(texts, list)
        codes = encoded_ids(new.ids, texts)
        add_points(self.index, len(self.rows), new.vectors, new.labels[0] if len(new.labels) else None)
        self.columns.append(new.payloads)
        for growable, values in zip(self._columns_of, (rows, codes), strict=True):
            growable.append(values)
        self._labels.append(new.labels.T)
        self.codes, self.labels = self._columns_of[1].view, self._labels.view.T
        self.rows = self._columns_of[0].view


def add_points(
    index: VectorIndex,
    first: int,
    vectors: NDArray[np.float32],
    labels: NDArray[np.float64] | None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Add vectors to an index under ids from `first` on; those whose label is NaN without one."""
    ids = np.arange(first, first + len(vectors))
    if labels is None or np.isnan(labels).all():
        index.add(vectors, ids, progress=progress)
        return
    missing = np.isnan(labels)
    if not missing.any():
        index.add(vectors, ids, labels, progress=progress)
        return
    index.add(vectors[~missing], ids[~missing], labels[~missing], progress=progress)
    index.add(vectors[missing], ids[missing])


class View:
    """What a search sees of a part: its first `size` rows, without the dead ones.

    Parameters
    ----------
    live : (size,) bool, optional
        None: all of them.
    """

    def __init__(self, part: Part, size: int, live: Bools | None = None) -> None:
        self.part = part
        self.size = size
        self.live = live
        self.dead = 0 if live is None else size - int(np.count_nonzero(live))
        self._masks: dict[Wanted, SlotMask] = {}
        self._guard = threading.Lock()

    @property
    def count(self) -> int:
        """Live rows."""
        return self.size - self.dead

    def without(self, rows: NDArray[np.int64]) -> View:
        """The view after rows have died; the same one if none of them is here."""
        if not len(rows) or not self.size:
            return self
        positions = self.part.positions_of(rows)
        positions = positions[positions < self.size]
        if not len(positions):
            return self
        live = np.ones(self.size, np.bool_) if self.live is None else self.live.copy()
        live[positions] = False
        return View(self.part, self.size, live)

    def grown(self) -> View:
        """The view after its part, a buffer, has grown."""
        size = len(self.part)
        live = self.live
        if live is not None:
            live = np.concatenate([live, np.ones(size - self.size, np.bool_)])
        return View(self.part, size, live)

    def live_positions(self) -> NDArray[np.int64]:
        return np.arange(self.size) if self.live is None else np.flatnonzero(self.live)

    def matching(self, wanted: Wanted) -> Bools:
        """(size,) which rows live and are wanted."""
        passing = np.ones(self.size, np.bool_) if self.live is None else self.live.copy()
        for number, lo, hi in wanted.bounds:
            labels = self.part.labels[number][: self.size]
            passing &= (labels >= lo) & (labels < hi)
        if wanted.predicate is not None:
            passing &= self.part.columns.matches(wanted.predicate, self.size)
        return passing

    def allow(self, wanted: Wanted) -> Any:
        """For `search` of the part's index: None where everything is wanted."""
        if isinstance(self.part, Buffer):
            # Rows may be added at any time: a mask of this length hides them.
            return self.matching(wanted)
        if wanted.everything and self.live is None:
            return None
        with self._guard:
            mask = self._masks.get(wanted)
        if mask is None:
            mask = self.part.index.mask(self.matching(wanted))
            with self._guard:
                while len(self._masks) >= _KEPT_MASKS:
                    self._masks.pop(next(iter(self._masks)))
                self._masks[wanted] = mask
        return mask


def id_values(views: Iterable[View]) -> bool:
    """Whether any part of them has ids that are texts."""
    return any(len(view.part.texts) for view in views)
