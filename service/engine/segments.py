"""Files of sealed segments: the index, and beside it which rows of the store it holds.

Both follow from the store: a file that is damaged or missing is made again from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.base import VectorIndex
from nearhash.index.load import load
from nearhash.index.storage import read_file, refusing, take_tensor, write_file
from nearhash.service.engine.columns import PayloadColumns
from nearhash.service.engine.identifiers import TextTable, encoded_ids
from nearhash.service.engine.kinds import make_index
from nearhash.service.engine.parts import Part, add_points
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.store import SegmentEntry, Store

FOLDER = "segments"
_KIND = "collection-rows"

Progress = Callable[[int, int], None]
PayloadReader = Callable[[NDArray[np.int64]], Iterable[bytes | None]]


class Rows(NamedTuple):
    """What belongs to the vectors of a segment: row numbers, ids, labels (f, n)."""

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    texts: TextTable
    labels: NDArray[np.float64]

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """Some of them, in that order; texts of the others stay in the table."""
        return self._replace(
            rows=self.rows[positions],
            codes=self.codes[positions],
            labels=np.ascontiguousarray(self.labels[:, positions]),
        )


def index_path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number:08d}.index"


def rows_path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number:08d}.rows"


def build(
    settings: Settings,
    kind: str,
    rows: Rows,
    vectors: NDArray[np.float32],
    threads: int,
    progress: Progress | None = None,
) -> VectorIndex:
    """The index of a segment over (n, dim) vectors; ids are positions."""
    options = settings.index_options if kind == settings.index else {}
    index = make_index(kind, settings.dim, settings.metric, options, threads)
    add_points(index, 0, vectors, rows.labels[0] if len(rows.labels) else None, progress)
    return index


def save(folder: Path, number: int, index: VectorIndex, rows: Rows) -> None:
    """Write the files of a segment, each atomically and durably."""
    index.save(index_path(folder, number))
    save_rows(folder, number, rows)


def save_rows(folder: Path, number: int, rows: Rows) -> None:
    write_file(
        rows_path(folder, number),
        {"kind": _KIND, "number": number},
        {
            "rows": rows.rows,
            "codes": rows.codes,
            "labels": rows.labels,
            "text_offsets": rows.texts.offsets,
            "text_data": rows.texts.data,
        },
    )


def open_segment(folder: Path, entry: SegmentEntry, settings: Settings, payloads: PayloadReader) -> Part:
    """The part of a segment from its files, mapped.

    Raises
    ------
    CorruptIndexError, OSError
        If a file is missing, damaged, or not what the store says it is.
    """
    rows = _open_rows(rows_path(folder, entry.number), entry, settings)
    path = index_path(folder, entry.number)
    index = load(path)
    facts = (index.kind, index.dim, index.metric, len(index))
    expected = (entry.kind, settings.dim, settings.metric, entry.size)
    if facts != expected:
        raise CorruptIndexError(f"{path}: expected kind, dim, metric and size {expected}, got {facts}")
    return as_part(index, entry, rows, payloads)


def as_part(index: VectorIndex, entry: SegmentEntry, rows: Rows, payloads: PayloadReader) -> Part:
    columns = PayloadColumns.from_source(len(rows.rows), lambda: payloads(rows.rows))
    return Part(index, entry, rows.rows, rows.codes, rows.texts, rows.labels, columns)


def _open_rows(path: Path, entry: SegmentEntry, settings: Settings) -> Rows:
    header, tensors = read_file(path)
    with refusing(path):
        size = entry.size
        rows = take_tensor(tensors, "rows", np.int64, (size,))
        codes = take_tensor(tensors, "codes", np.int64, (size,))
        labels = take_tensor(tensors, "labels", np.float64, (len(settings.labels), size))
        offsets = take_tensor(tensors, "text_offsets", np.int64, (None,))
        data = take_tensor(tensors, "text_data", np.uint8, (None,))
        if header.get("kind") != _KIND or header.get("number") != entry.number:
            raise CorruptIndexError(f"expected the rows of segment {entry.number}")
        if not size or rows[0] < entry.first_row or rows[-1] > entry.last_row or (rows[1:] <= rows[:-1]).any():
            raise CorruptIndexError("tensor 'rows': not the ascending rows of the segment")
        if not len(offsets) or offsets[0] or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise CorruptIndexError("tensor 'text_offsets': out of order")
        if codes.min() < -len(offsets) or (codes == -1).any():
            raise CorruptIndexError("tensor 'codes': values out of range")
    return Rows(rows, codes, TextTable(offsets, data), labels)


def read_rows(store: Store, connection: Any, first: int, last: int) -> Rows:
    """What the store has of the rows from `first` to `last`, both included, dead ones too."""
    rows, ids, labels = [], [], []
    missing = np.full(len(store.settings.labels), np.nan)
    for point in store.points(connection, first, last):
        rows.append(point.row)
        ids.append(point.id)
        labels.append(point.labels if len(point.labels) else missing)
    texts: list[str] = []
    codes = encoded_ids(ids, texts)
    matrix = np.array(labels, np.float64).reshape(len(rows), len(missing)).T
    return Rows(np.array(rows, np.int64), codes, TextTable.of(texts), np.ascontiguousarray(matrix))


def remove_files(folder: Path, number: int) -> None:
    for path in (index_path(folder, number), rows_path(folder, number)):
        path.unlink(missing_ok=True)


def remove_orphans(folder: Path, numbers: Iterable[int]) -> list[str]:
    """Remove files that belong to no segment, as crashes leave them; returns their names."""
    kept = {path.name for number in numbers for path in (index_path(folder, number), rows_path(folder, number))}
    gone = []
    for path in sorted((folder / FOLDER).iterdir()):
        if path.name not in kept and path.is_file():
            path.unlink()
            gone.append(path.name)
    return gone


def files_of(folder: Path, entries: Iterable[SegmentEntry]) -> list[Path]:
    return [path for entry in entries for path in (index_path(folder, entry.number), rows_path(folder, entry.number))]


def disk_bytes(folder: Path) -> int:
    """Bytes of all files of a collection."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except FileNotFoundError:  # removed meanwhile
                continue
    return total
