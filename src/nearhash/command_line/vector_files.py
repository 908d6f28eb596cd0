"""Reading vectors, ids, labels and filters from files. Nothing here unpickles: an array file may come from anywhere.

Formats of vectors: ``.npy`` (memory-mapped), ``.npz`` (its only array, or the one called ``vectors``), ``.fvecs``,
``.bvecs`` and ``.ivecs`` (TEXMEX: every vector is preceded by its dimension as a little-endian int32; memory-mapped),
and text: ``.csv``, ``.tsv``, ``.txt`` (numbers between blanks), one vector per line, with ``#`` comments and at most
one line of column names.
"""

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearhash.errors import DtypeError, InvalidArgumentError

Array = npt.NDArray[Any]

# What NumPy and zipfile raise on bytes that are not what the file name promises, found by fuzzing both (see the tests).
_MALFORMED = (
    OSError,  # the seek to a member that an archive places before its own beginning; the file is known to open by then
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_DELIMITERS: dict[str, str | None] = {".csv": ",", ".tsv": "\t", ".txt": None}
_TEXMEX: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}


def read_vectors(path: Path) -> Array:
    """Read a matrix of vectors.

    Parameters
    ----------
    path : Path
        A file in one of the formats of this module, told by its suffix.

    Returns
    -------
    ndarray, shape (n, dim)
        Float or integer, as in the file (text gives float32); read-only and mapped where the format allows it.

    Raises
    ------
    InvalidArgumentError
        The suffix is unknown, or the file is malformed, empty or not a matrix.
    DtypeError
        The file holds something other than real numbers.
    OSError
        The file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        vectors = _read_npy(path) if suffix == ".npy" else _read_npz(path, "vectors")
    elif suffix in _TEXMEX:
        vectors = _read_texmex(path, _TEXMEX[suffix])
    elif suffix in _DELIMITERS:
        vectors = _read_text(path, _DELIMITERS[suffix])
    else:
        known = ", ".join((".npy", ".npz", *_TEXMEX, *_DELIMITERS))
        raise InvalidArgumentError(f"{path}: no format of vectors has the suffix {suffix!r}; expected one of {known}")
    if vectors.dtype.kind not in "fiu":
        raise DtypeError(f"{path}: dtype is {vectors.dtype}; expected a float or integer dtype")
    if vectors.ndim != 2:
        raise InvalidArgumentError(f"{path}: shape is {vectors.shape}; expected a matrix (vectors, dimension)")
    if 0 in vectors.shape:
        raise InvalidArgumentError(f"{path}: shape is {vectors.shape}: there are no vectors")
    return vectors


def read_ids(path: Path) -> npt.NDArray[np.int64]:
    """Read integer ids, shape (n,), from ``.npy``, ``.npz`` (``ids``) or text with one id per line.

    Raises
    ------
    InvalidArgumentError
        The file is malformed, or an id is outside int64.
    DtypeError
        The ids are not integers.
    """
    values = _read_column(path, "ids", int)
    if values.dtype.kind not in "iu":
        raise DtypeError(f"{path}: ids have dtype {values.dtype}; expected an integer dtype")
    if values.dtype == np.uint64 and values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise InvalidArgumentError(f"{path}: the id {values.max()} does not fit in int64")
    return values.astype(np.int64)


def read_labels(path: Path) -> npt.NDArray[np.float64]:
    """Read labels, shape (n,), from ``.npy``, ``.npz`` (``labels``) or text with one number per line.

    Raises
    ------
    InvalidArgumentError
        The file is malformed.
    DtypeError
        The labels are not real numbers.
    """
    values = _read_column(path, "labels", float)
    if values.dtype.kind not in "fiu":
        raise DtypeError(f"{path}: labels have dtype {values.dtype}; expected a float or integer dtype")
    return values.astype(np.float64)


def read_allow(path: Path) -> npt.NDArray[np.bool_] | npt.NDArray[np.int64]:
    """Read a filter: a boolean mask (``.npy`` or ``.npz`` with a bool array called ``allow``), or ids as in `read_ids`.

    Raises
    ------
    InvalidArgumentError
        The file is malformed.
    DtypeError
        The values are neither booleans nor integers.
    """
    values = _read_column(path, "allow", int)
    if values.dtype == np.bool_:
        return values
    if values.dtype.kind not in "iu":
        raise DtypeError(f"{path}: the filter has dtype {values.dtype}; expected bool (a mask) or integers (ids)")
    return values.astype(np.int64)


def _read_column(path: Path, name: str, parse: Callable[[str], int | float]) -> Array:
    """Read one value per vector; `name` is the preferred array of an ``.npz``, `parse` reads a line of text."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        values = _read_npy(path)
    elif suffix == ".npz":
        values = _read_npz(path, name)
    elif suffix in _DELIMITERS:
        values = _read_lines(path, parse)
    else:
        known = ", ".join((".npy", ".npz", *_DELIMITERS))
        raise InvalidArgumentError(f"{path}: no format of {name} has the suffix {suffix!r}; expected one of {known}")
    if values.ndim != 1:
        raise InvalidArgumentError(f"{path}: {name} have shape {values.shape}; expected one dimension (n,)")
    return values


def _read_npy(path: Path) -> Array:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":  # or np.load would take it for a zip archive or a pickle
            raise InvalidArgumentError(f"{path}: not a .npy file: it does not begin with NumPy's magic bytes")
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _MALFORMED as error:
        raise InvalidArgumentError(f"{path}: malformed .npy file: {error}") from error
    return array


def _read_npz(path: Path, name: str) -> Array:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise InvalidArgumentError(f"{path}: not a .npz file: it is not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            if name not in names and len(names) != 1:
                raise InvalidArgumentError(
                    f"{path}: has the arrays {', '.join(names) or '(none)'}; expected one, or one called {name!r}"
                )
            array = archive[name if name in names else names[0]]
    except InvalidArgumentError:
        raise
    except _MALFORMED as error:
        raise InvalidArgumentError(f"{path}: malformed .npz file: {error}") from error
    if not isinstance(array, np.ndarray):  # NumPy hands back the raw bytes of a member that is not a .npy file
        raise InvalidArgumentError(f"{path}: the member {name!r} is not an array")
    return array


def _read_texmex(path: Path, dtype: np.dtype[Any]) -> Array:
    size = path.stat().st_size
    if size < 4:
        raise InvalidArgumentError(f"{path}: holds {size} bytes; a {path.suffix} file begins with a 4-byte dimension")
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    dim = int(raw[:4].view("<i4")[0])
    record = 4 + dim * dtype.itemsize
    if dim < 1 or record > size:
        raise InvalidArgumentError(f"{path}: the first vector declares dimension {dim} in a file of {size} bytes")
    if size % record:
        raise InvalidArgumentError(
            f"{path}: truncated or ragged: {size} bytes are no multiple of {record}, a vector of dimension {dim}"
        )
    records = raw.reshape(-1, record)
    dims = np.ascontiguousarray(records[:, :4]).view("<i4")[:, 0]
    wrong = np.flatnonzero(dims != dim)
    if wrong.size:
        raise InvalidArgumentError(f"{path}: vector {wrong[0]} has dimension {dims[wrong[0]]}, the first one {dim}")
    return records[:, 4:].view(dtype)


def _read_text(path: Path, delimiter: str | None) -> Array:
    try:
        with path.open(encoding="utf-8-sig") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # loadtxt warns of an empty file, which is an error of our own
            lines = (line for _, line in _matrix_lines(file, delimiter))
            vectors: Array = np.loadtxt(lines, dtype=np.float32, delimiter=delimiter, comments=None, ndmin=2)
    except ValueError as error:  # a UnicodeDecodeError too
        raise InvalidArgumentError(f"{path}: {_first_bad_line(path, delimiter) or error}") from error
    return vectors


def _read_lines(path: Path, parse: Callable[[str], int | float]) -> Array:
    """Read one value per line, integers exactly: through float64 an id above 2**53 would change."""
    values: list[int | float] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in _significant_lines(file):
                try:
                    values.append(parse(line))
                except ValueError as error:
                    expected = "an integer" if parse is int else "a number"
                    raise InvalidArgumentError(f"{path}: line {number}: {line!r} is not {expected}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not UTF-8 text: {error}") from error
    try:
        return np.array(values, dtype=np.int64 if parse is int else np.float64)
    except OverflowError as error:
        worst = max(values, key=abs)
        raise InvalidArgumentError(f"{path}: the id {worst} does not fit in int64") from error


def _significant_lines(file: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) without comments and blank lines."""
    for number, line in enumerate(file, start=1):
        text = line.partition("#")[0].strip(" \r\n")
        if text.strip():
            yield number, text


def _matrix_lines(file: Iterable[str], delimiter: str | None) -> Iterator[tuple[int, str]]:
    """Yield the significant lines without a line of column names: a first line in which nothing is a number."""
    lines = _significant_lines(file)
    for number, text in lines:
        if any(_is_number(field) for field in text.split(delimiter)):
            yield number, text
        break
    yield from lines


def _first_bad_line(path: Path, delimiter: str | None) -> str | None:
    """Say where a text stops being a matrix of numbers. Slow; runs only after the fast reader gave up."""
    width = start = None
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in _matrix_lines(file, delimiter):
                fields = text.split(delimiter)
                for column, field in enumerate(fields, start=1):
                    if not _is_number(field):
                        return f"line {number}, column {column}: {field!r} is not a number"
                if width is None:
                    width, start = len(fields), number
                elif len(fields) != width:
                    return f"line {number} has {len(fields)} numbers, line {start} has {width}"
    except UnicodeDecodeError as error:
        return f"not UTF-8 text: {error}"
    return None


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
