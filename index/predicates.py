"""Predicates over attributes, as values. `nearhash.where` is how users make them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nearhash.errors import InvalidArgumentError
from nearhash.index.attributes import check_name, integers

LEAST, MOST = -(2**63), 2**63 - 1  # what an attribute can be
MAX_DEPTH = 16
MAX_TERMS = 1024
MAX_VALUES = 1 << 20


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
        check_name(self.column, "where")

    def columns(self) -> Iterator[str]:
        yield self.column


@dataclass(frozen=True, repr=False)
class Eq(Test):
    """The attribute is `value`."""

    value: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", as_int(self.value, "where.eq", LEAST, MOST))

    def __repr__(self) -> str:
        return f"where.eq({self.column!r}, {self.value})"

    def document(self) -> dict[str, Any]:
        return {"eq": [self.column, self.value]}


@dataclass(frozen=True, repr=False)
class IsIn(Test):
    """The attribute is one of `values`, which are distinct and ascend."""

    values: tuple[int, ...]

    def __repr__(self) -> str:
        return f"where.isin({self.column!r}, {list(self.values)})"

    def document(self) -> dict[str, Any]:
        return {"in": [self.column, list(self.values)]}


@dataclass(frozen=True, repr=False)
class Range(Test):
    """lo <= attribute < hi; None stands for an open end."""

    lo: int | None
    hi: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lo", "hi"):
            bound = getattr(self, name)
            if bound is not None:
                object.__setattr__(self, name, as_int(bound, f"where.range {name}", LEAST, MOST + 1))
        if self.lo is not None and self.hi is not None and self.lo > self.hi:
            raise InvalidArgumentError(f"where.range: expected lo <= hi, got [{self.lo}, {self.hi})")

    def __repr__(self) -> str:
        return f"where.range({self.column!r}, {self.lo}, {self.hi})"

    def document(self) -> dict[str, Any]:
        return {"range": [self.column, self.lo, self.hi]}


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
    """The attribute is one of `values`, (m,) integers."""
    array = integers(values, "where.isin")
    if array.ndim != 1 or len(array) > MAX_VALUES:
        raise InvalidArgumentError(
            f"where.isin: expected values of one dimension, at most {MAX_VALUES:,}, got shape {array.shape}"
        )
    return IsIn(column, tuple(np.unique(array).tolist()))


def as_int(value: Any, name: str, least: int, most: int) -> int:
    """An integer or bool as int."""
    if not isinstance(value, int | np.integer | np.bool_):
        raise InvalidArgumentError(f"{name}: expected an integer, got {value!r:.80}")
    if not least <= int(value) <= most:
        raise InvalidArgumentError(f"{name}: expected an integer from {least} to {most}, got {int(value)}")
    return int(value)
