"""Payloads of a part in columns, one for each field that a filter has named, so that filters are array operations.

A column has a number for each distinct value and, for each row, the number of its value. A test looks at the distinct
values; its verdict for the rows is a look-up. Rows never change, so neither do verdicts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arrays import Growable
from nearhash.index.predicates import And, AnyBits, Combination, Eq, Exists, IsIn, Not, Predicate, Range, Test

Bools = NDArray[np.bool_]

_MISSING, _NO_VALUE = -1, -2  # codes of rows without the field, and of rows where it is a list or an object
_KEPT_VERDICTS = 32
_EXACT = 2.0**53  # integers up to it are float64


class PayloadColumns:
    """The payloads of one part. One thread appends, any number ask.

    Parameters
    ----------
    payloads : iterable of bytes or None
        JSON objects.
    """

    def __init__(self, payloads: Iterable[bytes | None] = ()) -> None:
        self._payloads = list(payloads)
        self._read: Callable[[], Iterable[bytes | None]] | None = None
        self._rows = len(self._payloads)
        self._columns: dict[str, _Column] = {}
        self._verdicts: dict[Predicate, Bools] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_source(cls, rows: int, read: Callable[[], Iterable[bytes | None]]) -> PayloadColumns:
        """Payloads that are read, all of them, whenever a field is asked for the first time."""
        columns = cls()
        columns._rows, columns._read = rows, read
        return columns

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of columns and payloads, about."""
        return sum(column.nbytes for column in self._columns.values()) + sum(len(one or b"") for one in self._payloads)

    def append(self, payloads: Iterable[bytes | None]) -> None:
        """Add rows."""
        self._payloads.extend(payloads)
        self._rows = len(self._payloads)

    def matches(self, predicate: Predicate, rows: int) -> Bools:
        """(rows,) which of the first rows satisfy a predicate; not to be written to."""
        sealed = self._read is not None
        with self._lock:
            kept = self._verdicts.get(predicate)
            if kept is not None:
                return kept[:rows]
            self._extend(set(predicate.columns()), rows)
            verdict = self._verdict(predicate, rows)
            if sealed:  # those of a buffer would have to grow; they cost little
                while len(self._verdicts) >= _KEPT_VERDICTS:
                    self._verdicts.pop(next(iter(self._verdicts)))
                self._verdicts[predicate] = verdict
        return verdict

    def _extend(self, fields: set[str], rows: int) -> None:
        """Let the columns of these fields reach to `rows`; each payload is parsed once."""
        for field in fields - self._columns.keys():
            self._columns[field] = _Column(field)
        lacking = [column for column in (self._columns[field] for field in fields) if len(column) < rows]
        if not lacking:
            return
        first = min(len(column) for column in lacking)
        payloads = islice(self._payloads if self._read is None else self._read(), first, rows)
        for row, payload in enumerate(payloads, first):
            document = None if payload is None else json.loads(payload)
            for column in lacking:
                if row >= len(column):
                    column.append(document)

    def _verdict(self, predicate: Predicate, rows: int) -> Bools:
        if isinstance(predicate, Combination):
            parts = [self._verdict(part, rows) for part in predicate.parts]
            combine = np.logical_and if isinstance(predicate, And) else np.logical_or
            return np.asarray(combine.reduce(parts))
        if isinstance(predicate, Not):
            return ~self._verdict(predicate.part, rows)
        assert isinstance(predicate, Test)
        return self._columns[predicate.column].verdict(predicate, rows)


class _Column:
    """One field of all rows."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._numbers_of: dict[Any, int] = {}  # distinct values; 1, 1.0 and True are one
        self._values: list[Any] = []
        self._codes = Growable.empty((), np.int32)
        self._owners = Growable.empty((), np.int32)  # of elements of lists: row, and code
        self._elements = Growable.empty((), np.int32)
        self._numeric = np.empty(0)  # values as float64, NaN for texts

    def __len__(self) -> int:
        return len(self._codes.view)

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + self._owners.nbytes + self._elements.nbytes + 100 * len(self._values)

    def append(self, document: dict[str, Any] | None) -> None:
        value = None if document is None else field_of(document, self._field)
        row = len(self)
        if isinstance(value, list):
            scalars = [one for one in value if isinstance(one, str | int | float)]
            self._owners.append(np.full(len(scalars), row, np.int32))
            self._elements.append(np.array([self._code(one) for one in scalars], np.int32))
        self._codes.extend(1)[0] = (
            _MISSING if value is None else self._code(value) if isinstance(value, str | int | float) else _NO_VALUE
        )

    def _code(self, value: str | float) -> int:
        code = self._numbers_of.get(value)
        if code is None:
            code = self._numbers_of[value] = len(self._values)
            self._values.append(value)
        return code

    def verdict(self, test: Test, rows: int) -> Bools:
        """(rows,) of a test of this field."""
        codes = self._codes.view[:rows]
        if isinstance(test, Exists):
            return np.asarray(codes != _MISSING)
        if isinstance(test, Eq):
            code = self._numbers_of.get(test.value)
            if code is None:
                return np.zeros(rows, np.bool_)
            verdict: Bools = np.asarray(codes == code)
            self._add_lists(verdict, lambda elements: elements == code)
            return verdict
        table = self._table(test)
        verdict = table[codes + 2]
        self._add_lists(verdict, lambda elements: table[elements + 2])
        return verdict

    def _add_lists(self, verdict: Bools, passing: Callable[[NDArray[np.int32]], Bools]) -> None:
        """A list passes if one of its elements does."""
        owners = self._owners.view
        if len(owners):
            chosen = owners[passing(self._elements.view)]
            verdict[chosen[chosen < len(verdict)]] = True

    def _table(self, test: Test) -> Bools:
        """Which distinct values pass, behind two places for rows that have none."""
        table = np.zeros(len(self._values) + 2, np.bool_)
        if isinstance(test, IsIn):
            codes = [self._numbers_of[value] for value in test.values if value in self._numbers_of]
            table[np.array(codes, np.int64) + 2] = True
        elif isinstance(test, AnyBits):
            table[2:] = [isinstance(value, int) and bool(value & test.mask) for value in self._values]
        else:
            assert isinstance(test, Range)
            table[2:] = self._within(test.lo, test.hi)
        return table

    def _within(self, lo: Any, hi: Any) -> Bools:
        """Which distinct values are in [lo, hi): numbers by numbers, texts by texts, all of either if both are None."""
        if isinstance(lo, str) or isinstance(hi, str):
            texts = [
                isinstance(value, str) and (lo is None or value >= lo) and (hi is None or value < hi)
                for value in self._values
            ]
            return np.array(texts, np.bool_)
        if len(self._numeric) < len(self._values):
            fresh = [_as_float(value) for value in self._values[len(self._numeric) :]]
            self._numeric = np.concatenate([self._numeric, fresh])
        numbers = self._numeric
        inside = (numbers >= _as_float(-np.inf if lo is None else lo)) & (
            numbers < _as_float(np.inf if hi is None else hi)
        )
        for code in np.flatnonzero(np.abs(numbers) >= _EXACT).tolist():  # float64 has rounded these
            value = self._values[code]
            inside[code] = (lo is None or value >= lo) and (hi is None or value < hi)
        return inside


def field_of(document: dict[str, Any], field: str) -> Any:
    """The value of a field, None where there is none: the key of that name, or the path that dots make of it."""
    if field in document:
        return document[field]
    value: Any = document
    if "." in field:
        for key in field.split("."):
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return value
    return None


def _as_float(value: Any) -> float:
    """A number as float64; infinite where it is beyond, NaN for a text."""
    if isinstance(value, str):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
