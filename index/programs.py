"""Predicates as programs for ``kernels/predicate.py``."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.predicates import (
    LEAST,
    MOST,
    And,
    AnyBits,
    Combination,
    Eq,
    Exists,
    IsIn,
    Not,
    Predicate,
    Range,
    Test,
    Value,
)
from nearhash.kernels.predicate import AND, BITS, FEW, NOT, OR, RANGE, SORTED, TABLE

# How many values are compared one by one: 0.15 ns a row for each, where a binary search takes 2.5 ns for 32 and 5 ns
# for 1,000, and a table of bits in the first-level cache 0.5 ns.
FEW_VALUES = 4
MORE_VALUES = 16
TABLE_BITS = 1 << 15


class Program(NamedTuple):
    """A predicate as kernels evaluate it: steps (4 s,) and operands, int64 each."""

    steps: NDArray[np.int64]
    operands: NDArray[np.int64]


@lru_cache(maxsize=64)
def compiled(predicate: Predicate, names: tuple[str, ...]) -> Program:
    """The program of a predicate over columns of these names, not to be changed; raises if it looks at another one."""
    places = {name: place for place, name in enumerate(names)}
    unknown = next((column for column in predicate.columns() if column not in places), None)
    if unknown is not None:
        known = f"has {', '.join(map(repr, names))}" if names else "has none"
        raise InvalidArgumentError(f"where: expected attributes of the index, which {known}; got {unknown!r}")
    steps: list[tuple[int, int, int, int]] = []
    operands: list[int] = []
    _write(predicate, places, steps, operands)
    return Program(np.array(steps, np.int64).ravel(), np.array(operands, np.int64))


def _write(
    predicate: Predicate, places: dict[str, int], steps: list[tuple[int, int, int, int]], operands: list[int]
) -> None:
    """Append the steps of a predicate, in postfix order.

    The stack never holds more than one result for each level of nesting and one more.
    """
    if isinstance(predicate, Combination):
        _write(predicate.parts[0], places, steps, operands)
        for part in predicate.parts[1:]:
            _write(part, places, steps, operands)
            steps.append((AND if isinstance(predicate, And) else OR, 0, 0, 0))
    elif isinstance(predicate, Not):
        _write(predicate.part, places, steps, operands)
        steps.append((NOT, 0, 0, 0))
    else:
        assert isinstance(predicate, Test)
        operation, own = _test(predicate)
        steps.append((operation, places[predicate.column], len(operands), len(own)))
        operands.extend(own)


def _test(test: Test) -> tuple[int, list[int]]:
    """(operation, operands) of a test of one column, which holds integers."""
    if isinstance(test, AnyBits):
        return BITS, [test.mask]
    if isinstance(test, Eq):
        return RANGE, [_integer(test.value), 0]
    if isinstance(test, Range):
        first = LEAST if test.lo is None else _integer(test.lo)
        last = MOST if test.hi is None else _integer(test.hi) - 1
        return (RANGE, _range(first, last)) if first <= last else (FEW, [])
    if isinstance(test, Exists):
        raise InvalidArgumentError("where: every vector of an index has all its attributes; exists is for payloads")
    assert isinstance(test, IsIn)
    values = tuple(map(_integer, test.values))
    # True is 1 to an index, and stands behind all numbers.
    mixed = any(isinstance(value, bool) for value in test.values)
    return _members(tuple(sorted(set(values))) if mixed else values)


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise InvalidArgumentError(
            f"where: attributes of an index are integers, got {value!r:.80}; texts are for payloads"
        )
    return value


def _range(first: int, last: int) -> list[int]:
    """Operands of RANGE; the width as int64 with the bits of the uint64 that it is."""
    width = last - first
    return [first, width if width <= MOST else width - 2**64]


def _members(values: tuple[int, ...]) -> tuple[int, list[int]]:
    """How to look for values that are distinct and ascend."""
    if len(values) <= 1:
        return FEW, list(values)
    low, span = values[0], values[-1] - values[0] + 1
    if span == len(values):
        return RANGE, _range(low, values[-1])
    if len(values) <= FEW_VALUES:
        return FEW, list(values)
    if span <= max(TABLE_BITS, 64 * len(values)):  # no more memory than the values themselves
        bits = np.zeros(-(-span // 64) * 64, np.uint8)
        bits[[value - low for value in values]] = 1
        words = np.packbits(bits, bitorder="little").view("<i8")
        return TABLE, [low, span, *words.tolist()]
    return (FEW if len(values) <= MORE_VALUES else SORTED), list(values)
