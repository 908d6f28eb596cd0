"""Payloads: JSON objects beside points, checked and in one form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nearhash.errors import DtypeError, InvalidArgumentError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

# Brackets and whole strings. One that never ends goes to the end: to try again behind each quote would be quadratic.
_TOKENS = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


def as_payloads(
    payloads: Sequence[Mapping[str, Any] | bytes | str | None] | None,
    count: int,
    most_bytes: int = MAX_BYTES,
    deepest: int = MAX_DEPTH,
) -> list[bytes | None]:
    """Payloads that a user gave, as compact JSON in UTF-8; empty texts and None stand for none.

    Raises
    ------
    InvalidArgumentError, DtypeError
        One is no JSON object, too long, too deep, has NaN or infinities, or there are more or fewer than `count`.
    """
    if payloads is None:
        return [None] * count
    if isinstance(payloads, Mapping | str | bytes) or len(payloads) != count:
        got = f"{len(payloads)} of them" if isinstance(payloads, Sequence) else type(payloads).__name__
        raise InvalidArgumentError(f"payloads: expected {count}, one for each point, got {got}")
    return [_checked(one, f"payloads[{place}]", most_bytes, deepest) for place, one in enumerate(payloads)]


def _checked(payload: Any, name: str, most_bytes: int, deepest: int) -> bytes | None:
    if payload is None or (isinstance(payload, str | bytes) and not payload):
        return None
    if isinstance(payload, str | bytes):
        if len(payload) > most_bytes:
            raise InvalidArgumentError(f"{name}: expected at most {most_bytes:,} bytes, got {len(payload):,}")
        payload = _parsed(payload, name, deepest)
    if not isinstance(payload, Mapping):
        raise DtypeError(f"{name}: expected a dict or a JSON object, got {type(payload).__name__}")
    _check_values(payload, name, deepest)
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name}: expected text that UTF-8 can hold") from error
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name}: expected what JSON can hold: {error}") from error
    if len(text) > most_bytes:
        raise InvalidArgumentError(f"{name}: expected at most {most_bytes:,} bytes of JSON, got {len(text):,}")
    return text


def _parsed(payload: str | bytes, name: str, deepest: int) -> Any:
    try:  # json.loads would take UTF-16 as well, in which brackets are not seen as below
        text = payload.decode() if isinstance(payload, bytes) else payload
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{name}: not valid JSON: {error!s:.80}") from error
    # Measured before parsing, which recurses.
    if text.count("[") + text.count("{") > deepest and _deeper(text, deepest):
        raise InvalidArgumentError(f"{name}: expected JSON nested at most {deepest} deep")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refused, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{name}: not valid JSON: {error!s:.80}") from error


def _deeper(text: str, deepest: int) -> bool:
    """Whether brackets are nested deeper than that, those within strings left out."""
    depth = 0
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            if depth > deepest:
                return True
        elif token in "]}":
            depth -= 1
    return False


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 400:  # long ones take time that grows with their square
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _check_values(value: Any, name: str, deepest: int, depth: int = 1) -> None:
    """Keys are texts, and nothing is nested too deep; the rest is what `json` refuses itself."""
    if isinstance(value, Mapping | list | tuple):
        if depth > deepest:
            raise InvalidArgumentError(f"{name}: expected values nested at most {deepest} deep")
        if isinstance(value, Mapping):
            wrong = next((key for key in value if not isinstance(key, str)), None)
            if wrong is not None:
                raise InvalidArgumentError(f"{name}: expected texts as keys, got {wrong!r:.80}")
        for one in value.values() if isinstance(value, Mapping) else value:
            if isinstance(one, Mapping | list | tuple):
                _check_values(one, name, deepest, depth + 1)
