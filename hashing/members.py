"""Members of Python sets as tokens."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.sets import Sets, bounds_of
from nearhash.kernels.xxh3 import SECRET, xxh3_parts


def hash_sets(sets: Iterable[Iterable[str | bytes | int]], function: str = "xxh3_64") -> Sets:
    """Members of sets as tokens, CSR: str (as UTF-8) and bytes hashed, int as it is.

    function: "xxh3_64", or "sha1_32", the first four bytes of SHA-1 as datasketch takes them.
    """
    tokens = [_hash_members(number, members, function) for number, members in enumerate(sets)]
    return bounds_of(map(len, tokens), len(tokens)), np.concatenate([np.empty(0, np.uint64), *tokens])


def _hash_members(number: int, members: Iterable[Any], function: str) -> NDArray[np.uint64]:
    if isinstance(members, str | bytes) or not isinstance(members, Iterable):
        raise InvalidArgumentError(
            f"sets: expected iterables of tokens, got {type(members).__name__} as number {number}"
        )
    listed = members if isinstance(members, list | tuple) else list(members)
    strings = _hash_strings(listed) if function == "xxh3_64" else None
    if strings is not None:
        return strings
    return np.array([_token(member, _HASHES[function]) for member in listed], np.uint64)


def _hash_strings(listed: Sequence[Any]) -> NDArray[np.uint64] | None:
    """XXH3 of strings by one kernel call; None if there is something else, or a string holds the separator."""
    try:
        joined = "\0".join(listed).encode()
    except (TypeError, UnicodeEncodeError):
        return None
    if joined.count(0) != len(listed) - 1:
        return None
    out = np.empty(len(listed), np.uint64)
    xxh3_parts(np.frombuffer(bytearray(joined), np.uint8), 0, len(joined), np.uint8(0), SECRET, out)
    return out


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
