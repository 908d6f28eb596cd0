"""Documents of files as chunks of UTF-8, from any place on."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError, MissingExtraError
from nearhash.index.dedup.sources import Source

_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 4096  # of a batch


@dataclass(frozen=True)
class Columns:
    """Where a row of JSONL or Parquet holds its text and its name, and what is done about bytes that are no UTF-8.

    Attributes
    ----------
    text : str
    name : str, optional
        A row has to have it.
    errors : {"strict", "replace"}
    """

    text: str = "text"
    name: str | None = None
    errors: str = "strict"


class Cursor(NamedTuple):
    """A place between two documents: the file, the documents before it there, their bytes (uncompressed)."""

    source: int
    row: int
    offset: int


class Chunk(NamedTuple):
    """Documents that follow each other.

    Attributes
    ----------
    text : ndarray of uint8
        Their UTF-8, one after the other.
    offsets : ndarray of int64, shape (documents + 1,)
    counts : list of int
        Documents of each file that ended within this chunk, in order.
    cursor : Cursor
        The place after it.
    """

    text: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    counts: list[int]
    cursor: Cursor


def read_chunks(
    sources: Sequence[Source],
    columns: Columns,
    start: Cursor,
    most_documents: int = 8192,
    most_bytes: int = 1 << 24,
    needed: NDArray[np.bool_] | None = None,
) -> Iterator[Chunk]:
    """The documents of `sources` from `start` on; a chunk ends with the document that fills it.

    `needed`, for all documents from `start` on, tells whose text is wanted: others come as empty, without being parsed.
    """
    document = 0
    pieces: list[bytes] = []
    counts: list[int] = []
    size = 0
    cursor = start
    for number in range(start.source, len(sources)):
        source = sources[number]
        source.check_unchanged()
        begin = cursor if cursor.source == number else Cursor(number, 0, 0)
        row = begin.row
        for text, offset in read_source(source, columns, begin, None if needed is None else needed[document:]):
            row += 1
            document += 1
            pieces.append(text)
            size += len(text)
            cursor = Cursor(number, row, offset)
            if len(pieces) >= most_documents or size >= most_bytes:
                yield _chunk(pieces, counts, cursor)
                pieces, counts, size = [], [], 0
        counts.append(row)
        cursor = Cursor(number + 1, 0, 0)
    if pieces or counts:
        yield _chunk(pieces, counts, cursor)


def _chunk(pieces: list[bytes], counts: list[int], cursor: Cursor) -> Chunk:
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return Chunk(np.frombuffer(bytearray().join(pieces), np.uint8), offsets, counts, cursor)


def read_source(
    source: Source, columns: Columns, start: Cursor, needed: NDArray[np.bool_] | None = None
) -> Iterator[tuple[bytes, int]]:
    """The text of each document of a file from a place on, and the offset after it (of Parquet: the row)."""
    if source.kind == "text":
        if start.row == 0 and needed is not None and not needed[:1].any():
            yield b"", 0
        elif start.row == 0:
            with open_bytes(source) as file:
                content = file.read()
            yield _utf8(content, columns, source, 0), len(content)
    elif source.kind == "parquet":
        for row, value in enumerate(parquet_values(source, columns, start.row), start.row):
            yield _utf8(value or b"", columns, source, row), row + 1
    else:
        for place, (line, before, after) in enumerate(read_lines(source, start.offset)):
            if needed is not None and not needed[place]:
                yield b"", after
                continue
            text = line.rstrip(b"\r\n") if source.kind == "lines" else json_field(line, columns, source, before)
            yield (_utf8(text, columns, source, before) if source.kind == "lines" else text), after


def read_lines(source: Source, offset: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Lines that hold documents, line ends included, and where each begins and ends. Blank lines of JSONL hold none."""
    with open_bytes(source) as file:
        file.seek(offset)
        for line in file:
            begin, offset = offset, offset + len(line)
            if source.kind == "lines" or line.strip():
                yield line, begin, offset


@contextmanager
def open_bytes(source: Source) -> Iterator[BinaryIO]:
    """The bytes of a file, uncompressed."""
    try:
        if source.compressed:
            with gzip.open(source.path, "rb") as file:
                yield cast(BinaryIO, file)
        else:
            with open(source.path, "rb") as plain:
                yield plain
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidArgumentError(f"{source.path}: damaged gzip file: {error}") from error


def json_object(line: bytes, columns: Columns, source: Source, offset: int) -> dict[str, Any]:
    """A line of JSONL, which begins at `offset`."""
    try:
        row = json.loads(_utf8(line, columns, source, offset).decode())  # of bytes it would guess the encoding
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        raise InvalidArgumentError(f"{_place(source, offset)}: not a JSON value: {error}") from error
    if not isinstance(row, dict):
        raise InvalidArgumentError(f"{_place(source, offset)}: expected a JSON object, got {type(row).__name__}")
    return row


def json_field(line: bytes, columns: Columns, source: Source, offset: int) -> bytes:
    """The text of a line of JSONL as UTF-8; null is an empty document."""
    row = json_object(line, columns, source, offset)
    for column in (columns.text, columns.name):
        if column is not None and column not in row:
            names = ", ".join(sorted(row)) or "none"
            raise InvalidArgumentError(f"{_place(source, offset)}: no column {column!r} (there are: {names:.200})")
    value = row[columns.text]
    if value is None:
        return b""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InvalidArgumentError(f"{_place(source, offset)}: expected text in {columns.text!r}, got {kind}")
    try:
        return value.encode("utf-8", "strict" if columns.errors == "strict" else "replace")
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{_place(source, offset)}: half a surrogate pair in {columns.text!r}") from error


def parquet_file(source: Source) -> Any:
    """The opened Parquet file. pyarrow is an extra."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install nearhash[dedup]") from error
    with _parquet_errors(source):
        return pyarrow.parquet.ParquetFile(source.path)


@contextmanager
def _parquet_errors(source: Source) -> Iterator[None]:
    """Say which file it is that pyarrow cannot read; errors of the system have a number and say it themselves."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidArgumentError(f"{source.path}: not a Parquet file, or damaged: {error}") from error


def parquet_batches(source: Source, start: int = 0, columns: list[str] | None = None) -> Iterator[Any]:
    """Record batches of a Parquet file from a row on, some columns or all."""
    file = parquet_file(source)
    groups, first = [], None
    row = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row + rows > start:
            groups.append(group)
            first = row if first is None else first
        row += rows
    skip = start - (first or 0)
    batches = file.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=columns)
    while True:
        with _parquet_errors(source):
            batch = next(batches, None)
        if batch is None:
            return
        if skip < batch.num_rows:
            yield batch.slice(skip)
        skip = max(0, skip - batch.num_rows)


def parquet_values(source: Source, columns: Columns, start: int) -> Iterator[bytes | None]:
    """The column of text as bytes, None for null."""
    schema = parquet_file(source).schema_arrow
    import pyarrow

    for wanted in (columns.text, columns.name):
        if wanted is not None and wanted not in schema.names:
            names = ", ".join(schema.names) or "none"
            raise InvalidArgumentError(f"{source.path}: no column {wanted!r} (there are: {names:.200})")
    column = columns.text
    kind = schema.field(column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(
        test(kind)
        for test in (
            pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view,
            pyarrow.types.is_binary, pyarrow.types.is_large_binary,
        )
    ):  # fmt: skip
        raise InvalidArgumentError(f"{source.path}: expected text in column {column!r}, got {kind}")
    for batch in parquet_batches(source, start, [column]):
        yield from batch.column(0).cast(kind).cast(pyarrow.large_binary()).to_pylist()


def _utf8(content: bytes, columns: Columns, source: Source, offset: int) -> bytes:
    """Valid UTF-8 without a mark of byte order at the start of a file; `offset` is where it begins."""
    if offset == 0 and source.kind != "parquet":
        content = content.removeprefix(_BOM)
    if content.isascii():
        return content
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if columns.errors == "replace":
            return content.decode("utf-8", "replace").encode()
        place = _place(source, offset, content.count(b"\n", 0, error.start) if source.kind == "text" else 0)
        raise InvalidArgumentError(f"{place}: invalid UTF-8 ({error.reason}, byte {error.start} of it)") from error
    return content


def _place(source: Source, offset: int, lines: int = 0) -> str:
    """For messages: the file and the line or row. The file is read again to count them."""
    if source.kind == "parquet":
        return f"{source.path}, row {offset + 1}"
    with open_bytes(source) as file:
        while offset > 0 and (block := file.read(min(offset, 1 << 20))):
            lines += block.count(b"\n")
            offset -= len(block)
    return f"{source.path}, line {lines + 1}"
