"""Predicates from JSON that anybody may have sent."""

import json
from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from typing import Any

from nearhash.errors import InvalidArgumentError
from nearhash.index.predicates import MAX_DEPTH, MAX_TERMS, AnyBits, Eq, Predicate, Range, isin

MAX_CHARACTERS = 1 << 20


def parse_predicate(text: str | bytes) -> Predicate:
    """The predicate that ``Predicate.to_json`` wrote; raises InvalidArgumentError for any other text."""
    if not isinstance(text, str | bytes):
        raise InvalidArgumentError(f"where: expected JSON as str or bytes, got {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise InvalidArgumentError(f"where: expected at most {MAX_CHARACTERS:,} characters of JSON, got {len(text):,}")
    try:
        document = json.loads(text, object_pairs_hook=_distinct, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"where: not valid JSON: {error!s:.80}") from error
    return _predicate(document, MAX_DEPTH)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _integer(digits: str) -> int:
    if len(digits) > 20:  # none of int64 is longer, and long ones take time that grows with their square
        raise ValueError(f"{digits[:40]} does not fit int64")
    return int(digits)


def _predicate(document: Any, depth: int) -> Predicate:
    if not isinstance(document, dict) or len(document) != 1:
        raise InvalidArgumentError(f"where: expected an object with one key, got {_short(document)}")
    ((name, value),) = document.items()
    if name in _TESTS:
        make, size = _TESTS[name]
        if not isinstance(value, list) or len(value) != size or not isinstance(value[0], str):
            raise InvalidArgumentError(f"where: {name!r}: expected a list of {size}, a name first, got {_short(value)}")
        _check_numbers(value[1:], name)
        return make(*value)
    if name not in ("and", "or", "not"):
        raise InvalidArgumentError(f"where: expected eq, in, range, any_bits, and, or or not, got {_short(name)}")
    if depth == 0:
        raise InvalidArgumentError(f"where: expected combinations nested at most {MAX_DEPTH} deep")
    if name == "not":
        return ~_predicate(value, depth - 1)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TERMS:
        raise InvalidArgumentError(f"where: {name!r}: expected a list of 1 to {MAX_TERMS:,}, got {_short(value)}")
    return reduce(and_ if name == "and" else or_, [_predicate(part, depth - 1) for part in value])


_TESTS: dict[str, tuple[Callable[..., Predicate], int]] = {
    "eq": (Eq, 2),
    "in": (isin, 2),
    "range": (Range, 3),
    "any_bits": (AnyBits, 2),
}


def _check_numbers(values: list[Any], name: str) -> None:
    """JSON knows more types than a test takes: only integers, null as an end of a range and the list of an "in"."""
    numbers = values[0] if name == "in" else [value for value in values if not (name == "range" and value is None)]
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise InvalidArgumentError(f"where: {name!r}: expected integers, got {_short(values)}")


def _short(value: Any) -> str:
    return f"{value!r:.80}"
