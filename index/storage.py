"""The file of an index: a safetensors file with aligned tensors and a CRC32C over everything.

``docs/format.md`` describes the bytes.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from os import PathLike
from stat import S_ISREG
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, DtypeError, InvalidArgumentError
from nearhash.index.arrays import ALIGNMENT, aligned_empty
from nearhash.index.storage_header import (
    DTYPE_NAMES,
    FORMAT_VERSION,
    MAX_DIMENSIONS,
    START_BYTES,
    TENSOR_NAME,
    Contents,
    Entry,
    digits,
    encode_header,
    encode_json,
    head_size,
    parse_header,
)

# Enough to make calls rare, little enough to stay in the cache between checksum and copy.
_CHUNK_BYTES = 1 << 18


# --- write ---


@dataclass(frozen=True)
class Stream:
    """A tensor larger than memory, made while it is written.

    Attributes
    ----------
    dtype, shape
        Of the whole.
    chunks : callable
        Given the offset from the start of the file at which the tensor begins, its elements in C order, as arrays of
        this dtype. Tensors of later names are written afterwards, so what comes out of making this one may go there.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: Callable[[int], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def write_file(
    path: str | PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any] | Stream]
) -> None:
    """Write a file atomically and durably.

    The file appears under its name complete and on disk, or not at all: on any failure an older file of that name
    stays as it was. Equal input gives equal bytes.

    Parameters
    ----------
    path : path
        If it is a symbolic link, the file that it points to is replaced.
    header : dict of str to JSON values
        Finite numbers, strings, booleans, None, lists and dicts with string keys, nested at most 16 deep.
    tensors : mapping of str to arrays or streams
        bool, integers of 8 to 64 bits, float16, float32 or float64; any memory layout and byte order, at most 8
        dimensions. Names are letters, digits, ``_``, ``.`` and ``-``, and start with a letter or digit. They are
        written in the order of their names.

    Raises
    ------
    InvalidArgumentError, DtypeError
        If the header or a tensor cannot be stored. Nothing has been written then.
    OSError
        If the file cannot be written.
    """
    header_text = encode_json(header)
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    layout = {name: (array.dtype.newbyteorder("<"), array.shape) for name, array in arrays.items()}
    checksums = dict.fromkeys(arrays, 0)
    # The header does not grow when the checksums come in, so each tensor is read only once, while it is written.
    blank = encode_header(header_text, layout, checksums)

    def write(file: FileIO) -> None:
        _write_all(file, memoryview(blank))
        position = len(blank)
        for name, array in arrays.items():
            padding = -position % ALIGNMENT
            _write_all(file, memoryview(bytes(padding)))
            position += padding + array.nbytes
            for chunk in _chunks(array) if isinstance(array, np.ndarray) else _streamed(array, position - array.nbytes):
                checksums[name] = google_crc32c.extend(checksums[name], chunk)
                _write_all(file, chunk.data)
            if file.tell() != position:
                raise InvalidArgumentError(
                    f"tensors: expected {array.nbytes:,} bytes of {name!r}, the stream gave "
                    f"{file.tell() - position + array.nbytes:,}"
                )
        file.seek(0)
        _write_all(file, memoryview(encode_header(header_text, layout, checksums)))

    _replace_file(os.path.realpath(os.fsdecode(path)), write)


def _storable(name: str, tensor: NDArray[Any] | Stream) -> NDArray[Any] | Stream:
    if not isinstance(name, str) or not TENSOR_NAME.fullmatch(name):
        raise InvalidArgumentError(f"tensors: expected names of letters, digits, '_', '.' and '-', got {name!r}")
    array = tensor if isinstance(tensor, Stream) else np.asarray(tensor)
    if array.dtype.newbyteorder("<") not in DTYPE_NAMES:
        raise DtypeError(f"tensors: {name!r} has dtype {array.dtype}, expected bool, an integer or a float")
    if len(array.shape) > MAX_DIMENSIONS:
        raise InvalidArgumentError(
            f"tensors: {name!r} has {len(array.shape)} dimensions, expected at most {MAX_DIMENSIONS}"
        )
    return array


def _chunks(array: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """The elements in C order, little-endian, as bytes; copied, if they must be, a chunk at a time."""
    stored = array.dtype.newbyteorder("<")
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    step = _CHUNK_BYTES // stored.itemsize
    for start in range(0, array.size, step):
        yield flat[start : start + step].astype(stored, copy=False).view(np.uint8)


def _streamed(stream: Stream, start: int) -> Iterator[NDArray[np.uint8]]:
    for chunk in stream.chunks(start):
        flat = np.ascontiguousarray(chunk).reshape(-1)
        yield flat.astype(stream.dtype.newbyteorder("<"), casting="equiv", copy=False).view(np.uint8)


def _write_all(file: FileIO, data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]


def _replace_file(path: str, write: Callable[[FileIO], None]) -> None:
    """Put what `write` writes at `path`, atomically and durably."""
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder, to write {os.path.basename(path)!r} into")
    temporary = os.path.join(folder, f".nearhash-{os.urandom(8).hex()}.tmp")
    file = FileIO(temporary, "xb")
    try:
        with file:
            write(file)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # A new name is durable only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- read ---


def read_file(
    path: str | PathLike[str], mmap: bool = True, verify: bool = True
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read a file that `write_file` wrote.

    Parameters
    ----------
    path : path
    mmap : bool
        Map the file: arrays over its pages, loaded as they are touched and shared between processes until one
        writes to them, which changes its own copy of the page and never the file. Otherwise arrays in memory of
        their own. Both start at multiples of 64 bytes.
    verify : bool
        Compare the checksums of the tensors, which reads all of them. Everything else is checked in any case.

    Returns
    -------
    header, tensors
        As they were given to `write_file`, the tensors by name, little-endian and in C order.

    Raises
    ------
    CorruptIndexError
        If the file is not intact.
    VersionError
        If it was written in a format version that this release does not read.
    OSError
        If it cannot be read: FileNotFoundError, IsADirectoryError, ...
    """
    with _open(path) as file, _naming(path):
        contents = _read_contents(file)
        return contents.header, _read_tensors(file, contents, contents.tensors, mmap, verify)


@dataclass(frozen=True)
class Left:
    """A tensor that was left in its file: an open descriptor, which is the caller's to close, and where it is."""

    descriptor: int
    entry: Entry

    def close(self) -> None:
        os.close(self.descriptor)


def read_file_without(
    path: str | PathLike[str], left: str, mmap: bool = True, verify: bool = True
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], Left]:
    """As `read_file`, but one tensor, named `left`, is not read, nor is its checksum compared.

    Raises
    ------
    CorruptIndexError
        Also if there is no such tensor.
    """
    with _open(path) as file, _naming(path):
        contents = _read_contents(file)
        entries = dict(contents.tensors)
        entry = entries.pop(left, None)
        if entry is None:
            raise CorruptIndexError(f"tensor {left!r}: expected one, got none")
        tensors = _read_tensors(file, contents, entries, mmap, verify)
        return contents.header, tensors, Left(os.dup(file.fileno()), entry)


def _read_tensors(
    file: FileIO, contents: Contents, entries: Mapping[str, Entry], mmap: bool, verify: bool
) -> dict[str, NDArray[Any]]:
    tensors = _mapped(file, entries) if mmap else {name: _copied(file, entry) for name, entry in entries.items()}
    for name, tensor in tensors.items():
        if verify:
            _check_checksum(name, tensor, contents.checksums[name])
        if tensor.dtype == np.bool_ and tensor.size and tensor.view(np.uint8).max() > 1:
            raise CorruptIndexError(f"tensor {name!r}: expected bytes 0 and 1 for bool")
    return tensors


@contextmanager
def refusing(path: str | PathLike[str]) -> Iterator[None]:
    """Make CorruptIndexError of what an index says to the contents of a file, with the path in front."""
    with _naming(path):
        try:
            yield
        except (InvalidArgumentError, KeyError, TypeError) as error:
            # A header that the constructor refuses.
            raise CorruptIndexError(f"header: {error}") from error


def take_tensor(
    tensors: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """A tensor of a file, of this dtype and shape (None: any size); raises CorruptIndexError if it is not there."""
    array = tensors.get(name)
    expected = f"tensor {name!r}: expected {np.dtype(dtype)} of shape {shape}".replace("None", "n")
    if array is None:
        raise CorruptIndexError(f"{expected}, got none")
    fits = array.dtype == dtype and array.ndim == len(shape)
    if not fits or any(size not in (None, own) for size, own in zip(shape, array.shape, strict=True)):
        raise CorruptIndexError(f"{expected}, got {array.dtype} of shape {array.shape}")
    return array


def inspect_file(path: str | PathLike[str]) -> dict[str, Any]:
    """What a file holds, without reading its tensors; ready for JSON.

    Returns
    -------
    dict
        ``format_version``, ``file_size`` in bytes, ``header``, and ``tensors``: by name, in the order of the file, a
        dict of ``dtype``, ``shape``, ``nbytes``, ``offset`` (from the start of the file) and ``crc32c``.

    Raises
    ------
    CorruptIndexError, VersionError, OSError
        As `read_file`, but what is inside the tensors is not looked at.
    """
    with _open(path) as file, _naming(path):
        contents = _read_contents(file)
        tensors = {
            name: {
                "dtype": entry.dtype.name,
                "shape": list(entry.shape),
                "nbytes": entry.stop - entry.start,
                "offset": entry.start,
                "crc32c": contents.checksums[name],
            }
            for name, entry in contents.tensors.items()
        }
        size = _size(file)
    return {"format_version": FORMAT_VERSION, "file_size": size, "header": contents.header, "tensors": tensors}


def _open(path: str | PathLike[str]) -> FileIO:
    # Without blocking, so that a named pipe is refused rather than waited for.
    return FileIO(os.fsdecode(path), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


@contextmanager
def _naming(path: str | PathLike[str]) -> Iterator[None]:
    """Put the path in front of what is wrong with the file."""
    try:
        yield
    except CorruptIndexError as error:
        raise type(error)(f"{os.fsdecode(path)}: {error}") from error.__cause__


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read_contents(file: FileIO) -> Contents:
    """The checked header; padding checked too, since no checksum covers it."""
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        raise CorruptIndexError("not a regular file")
    size = _size(file)
    start = _read_range(file, 0, min(size, START_BYTES))
    contents = parse_header(_read_range(file, 0, head_size(start, size)), size)
    for entry in contents.padding:
        if any(_read_range(file, entry.start, entry.stop)):
            raise CorruptIndexError(f"padding at byte {entry.start:,}: expected zeros")
    return contents


def _mapped(file: FileIO, entries: Mapping[str, Entry]) -> dict[str, NDArray[Any]]:
    """Arrays over the file's pages, which keep the map alive.

    The map is private and writable although nothing here writes to it: a read-only array is another type to Numba, and
    every kernel would be compiled once more for each combination of its arguments. Tensors next to each other share
    one, as each takes a file descriptor.
    """
    tensors: dict[str, NDArray[Any]] = {}
    ordered = sorted(entries.items(), key=lambda item: item[1].start)
    while ordered:
        size = next(
            (i for i in range(1, len(ordered)) if ordered[i][1].start - ordered[i - 1][1].stop >= ALIGNMENT),
            len(ordered),
        )
        run, ordered = ordered[:size], ordered[size:]
        base = run[0][1].start // ALLOCATIONGRANULARITY * ALLOCATIONGRANULARITY
        length = run[-1][1].stop - base
        pages = mmap(file.fileno(), length, access=ACCESS_COPY, offset=base) if length else b""
        raw = np.frombuffer(pages, np.uint8)
        for name, entry in run:
            tensors[name] = raw[entry.start - base : entry.stop - base].view(entry.dtype).reshape(entry.shape)
    return tensors


def _copied(file: FileIO, entry: Entry) -> NDArray[Any]:
    """An array in memory of its own."""
    tensor = aligned_empty(entry.shape, entry.dtype)
    _read_into(file, entry.start, tensor.reshape(-1).view(np.uint8).data)
    return tensor


def _check_checksum(name: str, tensor: NDArray[Any], expected: str) -> None:
    checksum = 0
    for chunk in _chunks(tensor):
        checksum = google_crc32c.extend(checksum, chunk)
    if digits(checksum) != expected:
        raise CorruptIndexError(f"tensor {name!r}: checksum {digits(checksum)}, expected {expected!r:.20}")


def _read_range(file: FileIO, start: int, stop: int) -> bytes:
    data = bytearray(stop - start)
    _read_into(file, start, memoryview(data))
    return bytes(data)


def _read_into(file: FileIO, start: int, target: memoryview) -> None:
    file.seek(start)
    while len(target):
        count = file.readinto(target)
        if not count:
            raise CorruptIndexError("the file shrank while it was read")
        target = target[count:]
