"""Attributes: named columns of integers beside the vectors, for `nearhash.where`."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, DtypeError, InvalidArgumentError
from nearhash.index.arrays import aligned_empty
from nearhash.index.storage import take_tensor

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,47}")
MAX_COLUMNS = 64
_PREFIX = "attribute."  # of the names of tensors in files


def check_name(name: Any, argument: str) -> str:
    """A name that a column may have."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{argument}: expected names of 1 to 48 letters, digits, '_', '.' or '-' that start with none of '.-', "
            f"got {name!r:.80}"
        )
    return name


def as_attributes(attributes: Mapping[str, ArrayLike], count: int) -> dict[str, NDArray[np.int64]]:
    """(count,) int64 columns by name, in the order of the names."""
    if not isinstance(attributes, Mapping):
        raise InvalidArgumentError(f"attributes: expected a dict of columns by name, got {type(attributes).__name__}")
    if len(attributes) > MAX_COLUMNS:
        raise InvalidArgumentError(f"attributes: expected at most {MAX_COLUMNS} columns, got {len(attributes)}")
    for name in attributes:
        check_name(name, "attributes")
    columns = {}
    for name in sorted(attributes):
        column = integers(attributes[name], f"attributes[{name!r}]")
        column = column[None] if column.ndim == 0 else column
        if column.shape != (count,):
            raise InvalidArgumentError(
                f"attributes[{name!r}]: expected shape ({count},), one per vector, got {column.shape}"
            )
        columns[name] = column
    return columns


def integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Integers or bools of any dtype as int64; what it cannot hold raises."""
    array = np.asarray(values)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(values, np.ndarray):
        return np.zeros(array.shape, np.int64)
    if array.dtype.kind == "f" and isinstance(values, np.ndarray):
        raise DtypeError(f"{name}: expected integers or bools, got dtype {array.dtype}; ranges of numbers are labels")
    if array.dtype.kind in "fO":
        # NumPy makes floats or objects of Python integers that no integer dtype holds together.
        given = np.asarray(values, dtype=object)
        for value in given.flat:
            if not isinstance(value, int | np.integer | np.bool_):
                hint = "; ranges of numbers are labels" if isinstance(value, float) else ""
                raise DtypeError(f"{name}: expected integers or bools, got {value!r:.80}{hint}")
        raise InvalidArgumentError(f"{name}: expected integers that fit int64, got {max(given.flat, key=abs)}")
    if array.dtype.kind not in "iub":
        raise DtypeError(f"{name}: expected integers or bools, got dtype {array.dtype}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidArgumentError(f"{name}: expected integers that fit int64, got {array.max()}")
    return array.astype(np.int64)


class Columns:
    """The attributes of all slots, in the order of their names.

    Parameters
    ----------
    columns : mapping of names to (n,) int64
    """

    def __init__(self, columns: Mapping[str, NDArray[np.int64]]) -> None:
        self.names = tuple(sorted(columns))
        self._count = len(columns[self.names[0]])
        self._buffer = aligned_empty((len(self.names), self._count), np.int64)
        for row, name in zip(self._buffer, self.names, strict=True):
            row[:] = columns[name]

    @property
    def buffer(self) -> NDArray[np.int64]:
        """(c, m) int64, C-ordered, m at least the number of slots: what kernels take."""
        return self._buffer

    @property
    def nbytes(self) -> int:
        return int(self._buffer.nbytes)

    def append(self, columns: Mapping[str, NDArray[np.int64]]) -> None:
        """Add slots; `columns` holds all names."""
        first, total = self._count, self._count + len(columns[self.names[0]])
        if total > self._buffer.shape[1]:
            larger = aligned_empty((len(self.names), max(total, min(2 * first, first + (1 << 20)))), np.int64)
            larger[:, :first] = self._buffer[:, :first]
            self._buffer = larger
        for row, name in zip(self._buffer, self.names, strict=True):
            row[first:total] = columns[name]
        self._count = total

    def take(self, slots: NDArray[Any] | slice) -> dict[str, NDArray[np.int64]]:
        """Columns of some slots: copies for an array of slots, views for a slice."""
        values = self._buffer[:, : self._count][:, slots]
        return dict(zip(self.names, values, strict=True))

    # --- storage ---

    def tensors(self) -> dict[str, NDArray[np.int64]]:
        return {_PREFIX + name: column for name, column in self.take(slice(None)).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], slots: int) -> "Columns | None":
        """Columns from a file, None if it has none."""
        names = [name.removeprefix(_PREFIX) for name in tensors if name.startswith(_PREFIX)]
        wrong = [name for name in names if not NAME.fullmatch(name)]
        if wrong or len(names) > MAX_COLUMNS:
            got = repr(wrong[0]) if wrong else f"{len(names)} columns"
            raise CorruptIndexError(f"tensors '{_PREFIX}*': expected at most {MAX_COLUMNS} valid names, got {got:.80}")
        return (
            cls({name: take_tensor(tensors, _PREFIX + name, np.int64, (slots,)) for name in names}) if names else None
        )
