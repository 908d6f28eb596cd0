"""Sketches in files: those of earlier batches and of this one, numbered through."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.durable import read_records
from nearhash.index.dedup.sketching import SIGNATURE

_GAP = 1 << 16  # bytes that are read along rather than skipped


class Segment(NamedTuple):
    """A file of sketches: path, number of its first document, how many it has."""

    path: Path
    first: int
    documents: int


class Signatures:
    """Sketches of any documents by their numbers. What fits in `memory` bytes is read at once and kept."""

    def __init__(self, segments: Sequence[Segment], k: int, memory: int) -> None:
        self._segments = [segment for segment in segments if segment.documents]
        self._k, self._nbytes = k, k * SIGNATURE.itemsize
        self._held: list[NDArray[np.uint16] | None] = [None] * len(self._segments)
        for number, segment in enumerate(self._segments):
            memory -= segment.documents * self._nbytes
            if memory >= 0:
                self._held[number] = self._read(segment, 0, segment.documents)

    def rows(self, documents: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Sketches (n, k) of ascending distinct documents."""
        out = np.empty((len(documents), self._k), SIGNATURE)
        for segment, held in zip(self._segments, self._held, strict=True):
            begin, end = np.searchsorted(documents, [segment.first, segment.first + segment.documents])
            if begin < end:
                self._fill(out[begin:end], documents[begin:end] - segment.first, segment, held)
        return out

    def _fill(
        self, out: NDArray[np.uint16], wanted: NDArray[np.int64], segment: Segment, held: NDArray[np.uint16] | None
    ) -> None:
        if held is not None:
            np.take(held, wanted, axis=0, out=out)
            return
        breaks = np.flatnonzero(np.diff(wanted) * self._nbytes > _GAP) + 1
        for run in np.split(np.arange(len(wanted)), breaks):
            rows = self._read(segment, int(wanted[run[0]]), int(wanted[run[-1]]) + 1)
            out[run] = rows[wanted[run] - wanted[run[0]]]

    def _read(self, segment: Segment, first: int, last: int) -> NDArray[np.uint16]:
        values: NDArray[np.uint16] = read_records(segment.path, SIGNATURE, (last - first) * self._k, first * self._k)
        return values.reshape(-1, self._k)
