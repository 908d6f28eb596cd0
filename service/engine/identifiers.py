"""Ids of points: numbers and texts, and the form of one number each in which they are kept in columns.

A number stands for itself, -1 for none, and -2 - i for text i of a table beside the column.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import DtypeError, DuplicateIdError, InvalidArgumentError
from nearhash.service.engine.results import PointId

MAX_BYTES = 512
_MOST = 2**63 - 1


def as_point_ids(ids: Any, name: str = "ids") -> list[PointId]:
    """Ids that a user gave, checked: integers from 0 to 2**63 - 1 or texts of 1 to 512 bytes, of one dimension.

    Raises
    ------
    InvalidArgumentError, DtypeError, DuplicateIdError
        If they are anything else, or one stands twice.
    """
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        if ids.ndim > 1:
            raise InvalidArgumentError(f"{name}: expected one dimension, got shape {ids.shape}")
        given: list[Any] = np.atleast_1d(ids).tolist()
    elif isinstance(ids, str | int | np.integer):
        given = [ids]
    elif isinstance(ids, np.ndarray) and ids.dtype.kind not in "OU":
        raise DtypeError(f"{name}: expected integers or texts, got dtype {ids.dtype}")
    else:
        given = list(ids)
    checked = [_checked(one, name) for one in given]
    if len(set(checked)) < len(checked):
        seen: set[PointId] = set()
        for one in checked:
            if one in seen:
                raise DuplicateIdError(f"{name}: expected distinct ids, got {one!r:.80} more than once")
            seen.add(one)
    return checked


def _checked(one: Any, name: str) -> PointId:
    if type(one) is int or isinstance(one, np.integer):
        if not 0 <= one <= _MOST:
            raise InvalidArgumentError(f"{name}: expected ids from 0 to 2**63 - 1, got {one}")
        return int(one)
    if isinstance(one, str):
        try:
            size = len(one.encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"{name}: expected text that UTF-8 can hold, got {one!r:.80}") from None
        if not 1 <= size <= MAX_BYTES:
            raise InvalidArgumentError(f"{name}: expected texts of 1 to {MAX_BYTES} bytes, got {size}")
        return str(one)
    raise DtypeError(f"{name}: expected integers or texts, got {one!r:.80}")


class TextTable:
    """Texts one behind the other, as bytes: a tenth of what Python's own strings take."""

    def __init__(self, offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        self.offsets = offsets  # (n + 1,)
        self.data = data

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TextTable":
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(one) for one in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> str:
        return bytes(self.data[self.offsets[number] : self.offsets[number + 1]]).decode()


def encoded_ids(ids: Iterable[PointId], texts: list[str]) -> NDArray[np.int64]:
    """Ids as numbers; texts are appended to `texts`."""
    codes = []
    for one in ids:
        if isinstance(one, str):
            codes.append(-2 - len(texts))
            texts.append(one)
        else:
            codes.append(one)
    return np.array(codes, np.int64)
