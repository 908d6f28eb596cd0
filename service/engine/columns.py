"""Payloads of a part in columns, one for each field that a filter has named, so that filters are array operations.

A column has a number for each distinct value and, for each row, the number of its value. A test looks at the distinct
values; its verdict for the rows is a look-up. Rows never change, so neither do verdicts; those of later rows are
added to them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arrays import Growable
from nearhash.index.predicates import And, AnyBits, Combination, Eq, Exists, IsIn, Not, Predicate, Range, Test

Bools = NDArray[np.bool_]

_MISSING, _NO_VALUE = -1, -2  # codes of rows without the field, and of rows where it is a list or an object
_KEPT_BYTES = 32 << 20  # of verdicts
_AT_ONCE = 1 << 20  # bytes of payloads that are parsed as one JSON text
_EXACT = 2.0**53  # integers up to it are float64


class PayloadColumns:
    """The payloads of one part. One thread appends, any number ask.

    Parameters
    ----------
    payloads : iterable of bytes or None
        JSON objects.
    """

    def __init__(self, payloads: Iterable[bytes | None] = ()) -> None:
        self._payloads: list[bytes | None] = []
        self._payload_bytes = 0
        self._read: Callable[[], Iterable[bytes | None]] | None = None
        self._rows = 0
        self._columns: dict[str, _Column] = {}
        self._verdicts: dict[str, Bools] = {}  # by predicate, as JSON: == takes True for 1; least recently used first
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self.append(payloads)

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
        """Bytes of payloads, columns and kept verdicts, about."""
        return self._payload_bytes + self._kept_bytes + sum(column.nbytes for column in list(self._columns.values()))

    def append(self, payloads: Iterable[bytes | None]) -> None:
        """Add rows."""
        own = list(payloads)
        self._payloads.extend(own)
        self._payload_bytes += sum(len(one) for one in own if one is not None)
        self._rows = len(self._payloads)

    def matches(self, predicate: Predicate, rows: int) -> Bools:
        """(rows,) which of the first rows satisfy a predicate; cannot be written to."""
        key = predicate.to_json()
        with self._lock:
            verdict = self._verdicts.pop(key, np.zeros(0, np.bool_))
            self._kept_bytes -= len(key) + len(verdict) if len(verdict) else 0
            if len(verdict) < rows:
                self._extend(set(predicate.columns()), rows)
                fresh = self._verdict(predicate, len(verdict), rows)
                verdict = np.concatenate([verdict, fresh]) if len(verdict) else fresh
                verdict.setflags(write=False)
            self._keep(key, verdict)
        return verdict[:rows]

    def _keep(self, key: str, verdict: Bools) -> None:
        """Keep a verdict as the one used last; those not used for longest make room."""
        size = len(key) + len(verdict)
        if not len(verdict) or size > _KEPT_BYTES:
            return
        while self._kept_bytes + size > _KEPT_BYTES:
            oldest = next(iter(self._verdicts))
            self._kept_bytes -= len(oldest) + len(self._verdicts.pop(oldest))
        self._verdicts[key] = verdict
        self._kept_bytes += size

    def _extend(self, fields: set[str], rows: int) -> None:
        """Let the columns of these fields reach to `rows`; each payload is parsed once."""
        columns = [self._columns.get(field, _Column(field)) for field in fields]
        lacking = [column for column in columns if len(column) < rows]
        if lacking:
            first = min(len(column) for column in lacking)
            payloads = self._payloads[first:rows] if self._read is None else islice(self._read(), first, rows)
            for documents in _parsed(payloads):
                for column in lacking:
                    column.extend(documents[max(len(column) - first, 0) :])
                first += len(documents)
            short = next((column for column in lacking if len(column) < rows), None)
            if short is not None:
                raise ValueError(f"payloads: expected {rows}, the source had {len(short)}")
        self._columns.update(zip(fields, columns, strict=True))

    def _verdict(self, predicate: Predicate, first: int, last: int) -> Bools:
        if isinstance(predicate, Combination):
            parts = [self._verdict(part, first, last) for part in predicate.parts]
            combine = np.logical_and if isinstance(predicate, And) else np.logical_or
            return np.asarray(combine.reduce(parts))
        if isinstance(predicate, Not):
            return ~self._verdict(predicate.part, first, last)
        assert isinstance(predicate, Test)
        return self._columns[predicate.column].verdict(predicate, first, last)


class _Column:
    """One field of all rows."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._numbers_of: dict[Any, int] = {}  # distinct values; 1 and 1.0 are one
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

    def extend(self, documents: list[dict[str, Any] | None]) -> None:
        """Add rows."""
        codes, owners, elements = [], [], []
        for row, document in enumerate(documents, len(self)):
            value = None if document is None else field_of(document, self._field)
            if value is None:
                codes.append(_MISSING)
            elif isinstance(value, str | int | float):
                codes.append(self._code(value))
            else:
                codes.append(_NO_VALUE)
                if isinstance(value, list):
                    own = [self._code(one) for one in value if isinstance(one, str | int | float)]
                    owners.extend([row] * len(own))
                    elements.extend(own)
        self._owners.append(np.array(owners, np.int32))
        self._elements.append(np.array(elements, np.int32))
        self._codes.append(np.array(codes, np.int32))

    def _code(self, value: str | float) -> int:
        key = _key(value)
        code = self._numbers_of.get(key)
        if code is None:
            code = self._numbers_of[key] = len(self._values)
            self._values.append(value)
        return code

    def verdict(self, test: Test, first: int, last: int) -> Bools:
        """(last - first,) of a test of this field."""
        codes = self._codes.view[first:last]
        if isinstance(test, Exists):
            return np.asarray(codes != _MISSING)
        if isinstance(test, Eq):
            code = self._numbers_of.get(_key(test.value))
            if code is None:
                return np.zeros(len(codes), np.bool_)
            verdict: Bools = np.asarray(codes == code)
            self._add_lists(verdict, first, lambda elements: elements == code)
            return verdict
        table = self._table(test)
        verdict = table[codes + 2]
        self._add_lists(verdict, first, lambda elements: table[elements + 2])
        return verdict

    def _add_lists(self, verdict: Bools, first: int, passing: Callable[[NDArray[np.int32]], Bools]) -> None:
        """A list passes if one of its elements does. The verdict is of rows from `first` on."""
        owners = self._owners.view
        begin, end = np.searchsorted(owners, [first, first + len(verdict)])
        verdict[owners[begin:end][passing(self._elements.view[begin:end])] - first] = True

    def _table(self, test: Test) -> Bools:
        """Which distinct values pass, behind two places for rows that have none."""
        table = np.zeros(len(self._values) + 2, np.bool_)
        if isinstance(test, IsIn):
            codes = [self._numbers_of[key] for key in map(_key, test.values) if key in self._numbers_of]
            table[np.array(codes, np.int64) + 2] = True
        elif isinstance(test, AnyBits):
            table[2:] = [_is_whole(value) and bool(int(value) & test.mask) for value in self._values]
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


def _parsed(payloads: Iterable[bytes | None]) -> Iterator[list[dict[str, Any] | None]]:
    """The documents, some at a time: many small JSON texts take longer than one that holds them."""
    texts: list[bytes] = []
    size = 0
    for one in payloads:
        texts.append(b"null" if one is None else one)
        size += len(texts[-1])
        if size >= _AT_ONCE:
            yield json.loads(b"[" + b",".join(texts) + b"]")
            texts, size = [], 0
    if texts:
        yield json.loads(b"[" + b",".join(texts) + b"]")


def _key(value: Any) -> Any:
    """What stands for a value in a dict, to which True would be 1."""
    return (value,) if isinstance(value, bool) else value


def _is_whole(value: Any) -> bool:
    return not isinstance(value, str | bool) and value % 1 == 0  # 3.0 is 3


def _as_float(value: Any) -> float:
    """A number as float64; infinite where it is beyond, NaN for what is none."""
    if isinstance(value, str | bool):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
