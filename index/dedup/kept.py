"""What is kept, written in the format it came in; and what documents are called."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.durable import make_folder, replacing
from nearhash.index.dedup.reading import Columns, json_object, parquet_batches, parquet_file, read_lines
from nearhash.index.dedup.sources import Source

_ROW_GROUP_BYTES = 1 << 26


def write_kept(source: Source, keep: NDArray[np.bool_], target: Path) -> None:
    """Write the documents of a file that are kept: its bytes, lines or rows as they were. None: no file.

    keep: bool, one for each document.
    """
    source.check_unchanged()
    if not keep.any() and (len(keep) or source.kind == "text"):
        target.unlink(missing_ok=True)
        return
    make_folder(target.parent)
    with replacing(target) as file:
        if source.kind == "parquet":
            _write_rows(source, keep, file)
        elif keep.all() and source.kind != "jsonl":
            with open(source.path, "rb") as original:
                shutil.copyfileobj(original, file, 1 << 20)
        elif source.compressed:
            # Neither time nor name inside: equal input gives equal bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                _write_lines(source, keep, cast(BinaryIO, packed))
        else:
            _write_lines(source, keep, file)


def _write_lines(source: Source, keep: NDArray[np.bool_], file: BinaryIO) -> None:
    for (line, _, _), kept in zip(read_lines(source), keep.tolist(), strict=True):
        if kept:
            file.write(line)


def _write_rows(source: Source, keep: NDArray[np.bool_], file: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    original = parquet_file(source)
    metadata = original.metadata
    codec = (
        metadata.row_group(0).column(0).compression if metadata.num_row_groups and metadata.num_columns else "SNAPPY"
    )
    compression = "NONE" if codec == "UNCOMPRESSED" else codec
    # Row groups as large as they were, but for what is too large to have in memory.
    largest = max((metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)), default=1)
    waiting: list[Any] = []
    rows = size = first = 0
    with pyarrow.parquet.ParquetWriter(file, original.schema_arrow, compression=compression) as writer:

        def write() -> None:
            if rows:
                writer.write_table(pyarrow.Table.from_batches(waiting), row_group_size=rows)

        for batch in parquet_batches(source):
            some = batch.filter(pyarrow.array(keep[first : first + batch.num_rows]))
            first += batch.num_rows
            while some.num_rows:
                part = some.slice(0, largest - rows)
                some = some.slice(part.num_rows)
                waiting.append(part)
                rows, size = rows + part.num_rows, size + part.nbytes
                if rows == largest or size >= _ROW_GROUP_BYTES:
                    write()
                    waiting, rows, size = [], 0, 0
        write()


def names(source: Source, columns: Columns, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Any]]:
    """The rows of a file that are wanted and what they are called: by the column of names, or by file and row."""
    if not wanted.any():
        return
    rows = np.flatnonzero(wanted).tolist()
    if columns.name is None or source.kind in ("text", "lines"):
        for row in rows:
            yield row, source.name if source.kind == "text" else f"{source.name}:{row + 1}"
    elif source.kind == "jsonl":
        for row, (line, begin, _) in enumerate(read_lines(source)):
            if wanted[row]:
                yield row, plain(json_object(line, columns, source, begin)[columns.name])
    else:
        row = 0
        for batch in parquet_batches(source, columns=[columns.name]):
            values = batch.column(0)
            for place in np.flatnonzero(wanted[row : row + batch.num_rows]).tolist():
                yield row + place, plain(values[place].as_py())
            row += batch.num_rows


def plain(value: Any) -> Any:
    """A value as JSON knows it; others as text (also numbers with a point, of which JSON lacks some)."""
    return value if isinstance(value, str | int | bool | None) else str(value)


def encode_line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
