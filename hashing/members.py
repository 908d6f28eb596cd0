"""Members of Python sets as tokens."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xxhash

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.sets import Sets, bounds_of
from nearhash.kernels.strings import hash_lists
from nearhash.kernels.xxh3 import SECRET


def as_lists(sets: Iterable[Iterable[str | bytes | int]]) -> list[list[Any]]:
    """Sets as lists, which kernels read; raises for what has no members."""
    return [_as_list(number, members) for number, members in enumerate(sets)]


def _as_list(number: int, members: Any) -> list[Any]:
    if isinstance(members, list):
        return members
    if isinstance(members, str | bytes) or not isinstance(members, Iterable):
        raise InvalidArgumentError(
            f"sets: expected iterables of tokens, got {type(members).__name__} as number {number}"
        )
    return list(members)


def hash_members(lists: list[list[Any]], function: str = "xxh3_64") -> Sets:
    """Members of lists as tokens, CSR: str (as UTF-8) and bytes hashed, int as it is.

    function: "xxh3_64", or "sha1_32", the first four bytes of SHA-1 as datasketch takes them.
    """
    bounds = bounds_of(map(len, lists), len(lists))
    tokens, row = np.empty(int(bounds[-1]), np.uint64), 0
    while row < len(lists):
        if function == "xxh3_64":
            row = hash_lists(id(lists), row, bounds, SECRET, tokens)
        if row < len(lists):  # there is something that is not a string
            tokens[bounds[row] : bounds[row + 1]] = [_token(member, _HASHES[function]) for member in lists[row]]
            row += 1
    return bounds, tokens


def _sha1_32(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:4], "little")


_HASHES: dict[str, Callable[[bytes], int]] = {"xxh3_64": xxhash.xxh3_64_intdigest, "sha1_32": _sha1_32}


def _token(member: Any, function: Callable[[bytes], int]) -> int:
    if isinstance(member, str):
        return function(_utf8(member))
    if isinstance(member, bytes):
        return function(member)
    if isinstance(member, int | np.integer) and not isinstance(member, bool) and 0 <= member < 1 << 64:
        return int(member)
    raise InvalidArgumentError(f"sets: expected str, bytes or int from 0 to 2**64 - 1, got {member!r:.80}")


def _utf8(member: str) -> bytes:
    try:
        return member.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"sets: a lone surrogate, {member[error.start]!r}, in {member!r:.80}") from None
