"""Predicates from JSON that anybody may have sent."""

import json
from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from typing import Any

from nearhash.errors import InvalidArgumentError
from nearhash.index.predicates import MAX_DEPTH, MAX_TERMS, AnyBits, Eq, Exists, Predicate, Range, isin

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
        if name == "exists":
            value = [value]
        if not isinstance(value, list) or len(value) != size or not isinstance(value[0], str):
            raise InvalidArgumentError(f"where: {name!r}: expected a list of {size}, a name first, got {_short(value)}")
        _check_values(value[1:], name)
        return make(*value)
    if name not in ("and", "or", "not"):
        raise InvalidArgumentError(
            f"where: expected eq, in, range, exists, any_bits, and, or or not, got {_short(name)}"
        )
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
    "exists": (Exists, 1),
}


def _check_values(values: list[Any], name: str) -> None:
    """JSON knows more types than a test takes: only numbers, texts, booleans; null as an end of a range."""
    own = values[0] if name == "in" else [value for value in values if not (name == "range" and value is None)]
    kinds = (int,) if name == "any_bits" else (int, float, str, bool)
    if not isinstance(own, list) or not all(type(value) in kinds for value in own):
        raise InvalidArgumentError(f"where: {name!r}: expected numbers or texts, got {_short(values)}")


def _short(value: Any) -> str:
    return f"{value!r:.80}"
