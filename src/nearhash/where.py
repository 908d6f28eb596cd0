"""Predicates over attributes and payloads: which vectors a search may answer with.

A predicate is made of tests of single attributes, combined by ``&`` (and), ``|`` (or) and ``~`` (not)::

    from nearhash import where

    index.add(vectors, attributes={"color": colors, "price": prices, "flags": flags})
    index.search(queries, k=10, where=where.eq("color", 3) & ~where.range("price", None, 100))

Attributes of an index are integers. Payloads of a `nearhash.Collection` hold numbers, texts and lists as well::

    collection.search(queries, filter=where.eq("color", "red") & where.range("price", 9.5, None))

Predicates are immutable and hashable, print as the code that makes them, and travel as JSON (`Predicate.to_json`,
`from_json`). Python's own ``and``, ``or`` and ``not`` cannot be used on them and raise TypeError. A predicate holds at
most 1,024 tests, nested at most 16 deep.
"""

from numpy.typing import ArrayLike

from nearhash.index import predicates
from nearhash.index.predicate_json import parse_predicate
from nearhash.index.predicates import Predicate

__all__ = ["Predicate", "any_bits", "eq", "exists", "from_json", "isin", "range"]


def eq(column: str, value: int | float | str) -> Predicate:
    """The attribute `column` is `value`: an integer or bool; for payloads a number, a bool or a text.

    3.0 is 3. To an index True is 1; in payloads true and 1 are different values. A list in a payload satisfies this,
    and the tests below, if one of its elements does.
    """
    return predicates.Eq(column, value)


def isin(column: str, values: ArrayLike) -> Predicate:
    """The attribute `column` is one of `values`, (m,), at most 2**20; of none if there are none."""
    return predicates.isin(column, values)


def range(column: str, lo: float | str | None, hi: float | str | None) -> Predicate:
    """lo <= the attribute `column` < hi, with None for an open end; for payloads floats and texts, too."""
    return predicates.Range(column, lo, hi)


def exists(column: str) -> Predicate:
    """The payload has the field `column`, and it is not null. For collections only."""
    return predicates.Exists(column)


def any_bits(column: str, mask: int) -> Predicate:
    """The attribute `column`, read as 64 bits, has a bit in common with `mask`.

    All bits of a mask: ``eq`` on a column of its own, or one ``any_bits`` for each bit, combined by ``&``.
    """
    return predicates.AnyBits(column, mask)


def from_json(text: str | bytes) -> Predicate:
    """The predicate that its `to_json` wrote.

    ``{"eq": ["color", 3]}``, ``{"in": ["color", [1, 2]]}``, ``{"range": ["price", 100, null]}``,
    ``{"exists": "price"}``, ``{"any_bits": ["flags", 5]}``, ``{"and": [...]}``, ``{"or": [...]}``, ``{"not": ...}``;
    at most 2**20 characters.

    Raises
    ------
    InvalidArgumentError
        If the text is anything else.
    """
    return parse_predicate(text)
