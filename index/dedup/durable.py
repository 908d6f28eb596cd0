"""Files that survive a kill: written whole or not at all, or appended to up to a length that is committed elsewhere."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, with those it is in, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A binary file that takes its name once it is complete and on disk; on failure nothing is left of it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptIndexError(f"{path}: not a JSON document: {error}") from error
    if not isinstance(document, dict):
        raise CorruptIndexError(f"{path}: expected a JSON object, got {type(document).__name__}")
    return document


def write_array(path: Path, array: NDArray[Any]) -> None:
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


def write_parts(path: Path, parts: Iterator[NDArray[Any]]) -> None:
    """The bytes of arrays, one after the other."""
    with replacing(path) as file:
        for part in parts:
            file.write(np.ascontiguousarray(part).view(np.uint8).data)


def checksum(path: Path) -> int:
    """CRC-32C of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = google_crc32c.extend(value, block)
    return value


def read_records(path: Path, dtype: Any, count: int, first: int = 0) -> NDArray[Any]:
    """`count` records of a file of records, from the record `first` on."""
    dtype = np.dtype(dtype)
    records = np.fromfile(path, dtype, count, offset=first * dtype.itemsize)
    if len(records) != count:
        raise CorruptIndexError(f"{path}: expected {first + count:,} records of {dtype.itemsize} bytes, it is shorter")
    return records


class AppendFile:
    """A file that is appended to. What lies beyond `length`, written before a kill, is cut off when it is opened."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.length = path, length
        if not path.exists():
            path.touch()
            sync_folder(path.parent)
        self._file = path.open("r+b")
        size = self._file.seek(0, os.SEEK_END)
        if size < length:
            self._file.close()
            raise CorruptIndexError(f"{path}: expected at least {length:,} bytes, it has {size:,}")
        self._file.truncate(length)
        self._file.seek(length)

    def append(self, array: NDArray[Any]) -> None:
        data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        self._file.write(data.data)
        self.length += data.nbytes

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "AppendFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder alone: another process that wants the same is refused at once."""
    import fcntl  # POSIX only, unlike `nearhash.deduplicate`, which comes by here

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidArgumentError(f"{folder}: another process is working in it") from error
        yield
