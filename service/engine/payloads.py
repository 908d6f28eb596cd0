"""Payloads: JSON objects beside points, checked and in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nearhash.errors import DtypeError, InvalidArgumentError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


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


def _parsed(text: str | bytes, name: str, deepest: int) -> Any:
    # Counted before parsing, which recurses: more brackets than that in a row cannot be an honest payload.
    brackets = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if brackets > deepest and _depth(text) > deepest:
        raise InvalidArgumentError(f"{name}: expected JSON nested at most {deepest} deep")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refused, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{name}: not valid JSON: {error!s:.80}") from error


def _depth(text: str | bytes) -> int:
    """How deep brackets are nested, those within strings left out."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    depth = deepest = 0
    quoted = escaped = False
    for byte in data:
        if quoted:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                quoted = False
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


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


def _check_values(value: Any, name: str, left: int) -> None:
    """Keys are texts, and nothing is nested too deep; the rest is what `json` refuses itself."""
    if isinstance(value, Mapping | list | tuple):
        if not left:
            raise InvalidArgumentError(f"{name}: expected values nested at most {MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            wrong = next((key for key in value if not isinstance(key, str)), None)
            if wrong is not None:
                raise InvalidArgumentError(f"{name}: expected texts as keys, got {wrong!r:.80}")
        for one in value.values() if isinstance(value, Mapping) else value:
            if isinstance(one, Mapping | list | tuple):
                _check_values(one, name, left - 1)
