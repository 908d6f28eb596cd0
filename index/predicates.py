"""Predicates over attributes, as values. `nearhash.where` is how users make them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nearhash.errors import InvalidArgumentError
from nearhash.index.attributes import integers

LEAST, MOST = -(2**63), 2**63 - 1  # what an attribute can be
MAX_DEPTH = 16
MAX_TERMS = 1024
MAX_VALUES = 1 << 20
MAX_NAME = 256  # bytes
MAX_TEXT = 4096  # characters

Value = int | float | str | bool
_KINDS: dict[type, int] = {int: 0, float: 0, bool: 1, str: 2}


class Predicate(ABC):
    """A condition on the attributes of a vector. Immutable; equal where it is written the same; combines by & | ~."""

    depth: int = 0  # of combinations
    terms: int = 1  # tests in all

    def __and__(self, other: "Predicate") -> "Predicate":
        return And(_joined(And, self, other)) if isinstance(other, Predicate) else NotImplemented

    def __or__(self, other: "Predicate") -> "Predicate":
        return Or(_joined(Or, self, other)) if isinstance(other, Predicate) else NotImplemented

    def __invert__(self) -> "Predicate":
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        # Otherwise `a and b` would quietly be b, and `1 < a < 3` something else again.
        raise TypeError("a predicate has no truth value: combine predicates by & | ~, with each in parentheses")

    def to_json(self) -> str:
        """The predicate as JSON; `nearhash.where.from_json` reads it."""
        return json.dumps(self.document(), separators=(",", ":"))

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """The predicate as JSON values."""

    @abstractmethod
    def columns(self) -> Iterator[str]:
        """Names of the attributes that it looks at."""


@dataclass(frozen=True, repr=False)
class Test(Predicate):
    """A condition on one attribute."""

    column: str

    def __post_init__(self) -> None:
        check_field(self.column)

    def columns(self) -> Iterator[str]:
        yield self.column


@dataclass(frozen=True, repr=False)
class Eq(Test):
    """The attribute is `value`."""

    value: Value

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", as_value(self.value, "where.eq"))

    def __repr__(self) -> str:
        return f"where.eq({self.column!r}, {self.value!r})"

    def document(self) -> dict[str, Any]:
        return {"eq": [self.column, self.value]}


@dataclass(frozen=True, repr=False)
class IsIn(Test):
    """The attribute is one of `values`, which are distinct and ascend: numbers, then booleans, then texts."""

    values: tuple[Value, ...]

    def __repr__(self) -> str:
        return f"where.isin({self.column!r}, {list(self.values)})"

    def document(self) -> dict[str, Any]:
        return {"in": [self.column, list(self.values)]}


@dataclass(frozen=True, repr=False)
class Range(Test):
    """lo <= attribute < hi; None stands for an open end."""

    lo: Value | None
    hi: Value | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lo", "hi"):
            bound = getattr(self, name)
            if bound is not None:
                value = as_value(bound, f"where.range {name}", MOST + 1)
                object.__setattr__(self, name, int(value) if isinstance(value, bool) else value)
        lo, hi = self.lo, self.hi
        if lo is None or hi is None:
            return
        if isinstance(lo, str) != isinstance(hi, str):
            raise InvalidArgumentError(f"where.range: expected two numbers or two texts, got {lo!r:.80} and {hi!r:.80}")
        if lo > hi:  # type: ignore[operator]  # of one kind, as was just seen
            raise InvalidArgumentError(f"where.range: expected lo <= hi, got [{lo}, {hi})")

    def __repr__(self) -> str:
        return f"where.range({self.column!r}, {self.lo!r}, {self.hi!r})"

    def document(self) -> dict[str, Any]:
        return {"range": [self.column, self.lo, self.hi]}


@dataclass(frozen=True, repr=False)
class Exists(Test):
    """The field is there and not null; for payloads of collections."""

    def __repr__(self) -> str:
        return f"where.exists({self.column!r})"

    def document(self) -> dict[str, Any]:
        return {"exists": self.column}


@dataclass(frozen=True, repr=False)
class AnyBits(Test):
    """The attribute and `mask` have a bit in common."""

    mask: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mask", as_int(self.mask, "where.any_bits", LEAST, MOST))

    def __repr__(self) -> str:
        return f"where.any_bits({self.column!r}, {self.mask})"

    def document(self) -> dict[str, Any]:
        return {"any_bits": [self.column, self.mask]}


@dataclass(frozen=True, repr=False)
class Combination(Predicate):
    """And or Or of at least two parts."""

    parts: tuple[Predicate, ...]
    depth: int = field(init=False, compare=False)
    terms: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _measure(self, self.parts)

    def columns(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.columns()


@dataclass(frozen=True, repr=False)
class And(Combination):
    """All parts hold."""

    def __repr__(self) -> str:
        return f"({' & '.join(map(repr, self.parts))})"

    def document(self) -> dict[str, Any]:
        return {"and": [part.document() for part in self.parts]}


@dataclass(frozen=True, repr=False)
class Or(Combination):
    """At least one part holds."""

    def __repr__(self) -> str:
        return f"({' | '.join(map(repr, self.parts))})"

    def document(self) -> dict[str, Any]:
        return {"or": [part.document() for part in self.parts]}


@dataclass(frozen=True, repr=False)
class Not(Predicate):
    """The part does not hold."""

    part: Predicate
    depth: int = field(init=False, compare=False)
    terms: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _measure(self, (self.part,))

    def __repr__(self) -> str:
        return f"~{self.part!r}"

    def document(self) -> dict[str, Any]:
        return {"not": self.part.document()}

    def columns(self) -> Iterator[str]:
        return self.part.columns()


def _joined(kind: type[Combination], left: Predicate, right: Predicate) -> tuple[Predicate, ...]:
    """Parts of both sides: ``a & b & c`` is one combination of three."""
    return tuple(part for side in (left, right) for part in (side.parts if isinstance(side, kind) else (side,)))


def _measure(predicate: Predicate, parts: Sequence[Predicate]) -> None:
    depth, terms = 1 + max(part.depth for part in parts), sum(part.terms for part in parts)
    if depth > MAX_DEPTH or terms > MAX_TERMS:
        raise InvalidArgumentError(
            f"where: expected at most {MAX_TERMS:,} tests nested at most {MAX_DEPTH} deep, got {terms:,} and {depth}"
        )
    object.__setattr__(predicate, "depth", depth)
    object.__setattr__(predicate, "terms", terms)


def isin(column: str, values: ArrayLike) -> IsIn:
    """The attribute is one of `values`, (m,) integers, or for payloads numbers and texts."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgumentError(f"where.isin: expected values of one dimension, got {values!r:.80}")
    given: Any = values.tolist() if isinstance(values, np.ndarray) else list(values)
    wrong = not isinstance(given, list) or any(isinstance(one, list | tuple | np.ndarray) for one in given)
    if wrong or len(given) > MAX_VALUES:
        raise InvalidArgumentError(
            f"where.isin: expected values of one dimension, at most {MAX_VALUES:,}, got shape {np.shape(values)}"
        )
    if any(isinstance(one, str | float | np.floating | bool | np.bool_) for one in given):
        own = [as_value(one, "where.isin") for one in given]
        distinct = {(_KINDS[type(one)], one) for one in own}  # by kind, too: True == 1
        return IsIn(column, tuple(value for _, value in sorted(distinct)))
    return IsIn(column, tuple(np.unique(integers(given, "where.isin")).tolist()))


def check_field(name: Any) -> str:
    """A name that an attribute or a field of a payload may have."""
    if not isinstance(name, str) or not 1 <= len(name.encode(errors="replace")) <= MAX_NAME or not name.isprintable():
        raise InvalidArgumentError(f"where: expected printable names of 1 to {MAX_NAME} bytes, got {name!r:.80}")
    return name


def as_value(value: Any, name: str, most: int = MOST) -> Value:
    """A value to compare with: an integer, a finite float, as int where it is whole, a bool, or a text."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise InvalidArgumentError(
                f"{name}: expected a text of at most {MAX_TEXT:,} characters, got {len(value):,}"
            )
        return str(value)
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            raise InvalidArgumentError(f"{name}: expected a finite number, got {value}")
        whole = float(value).is_integer() and LEAST <= value <= MOST
        return int(value) if whole else float(value)
    return as_int(value, name, LEAST, most)


def as_int(value: Any, name: str, least: int, most: int) -> int:
    """An integer or bool as int."""
    if not isinstance(value, int | np.integer | np.bool_):
        raise InvalidArgumentError(f"{name}: expected a number or a text, got {value!r:.80}")
    if not least <= int(value) <= most:
        raise InvalidArgumentError(f"{name}: expected an integer from {least} to {most}, got {int(value)}")
    return int(value)
