"""Codes of keys: what a store knows of tokens that it does not read."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.kernels import attention_lvq4

Floats = NDArray[np.float32]


class KeyCodes(Protocol):
    """Codes of a kind, for keys of some dimension.

    Attributes
    ----------
    page_bytes : int
        Of a page of PAGE tokens of one head, a multiple of 64.
    norms_at : int
        Byte of a page from which on the bfloat16 norms of the values lie.
    """

    page_bytes: int
    norms_at: int

    def train(self, keys: Floats) -> Any:
        """What all codes of one head have in common, from its first keys (n, d); it stays so."""

    def encode(self, common: Any, pages: NDArray[np.int64], first: int, keys: Floats, values: Floats) -> None:
        """Write the codes of the tokens from position `first` on."""

    def scan(
        self, common: Any, pages: NDArray[np.int64], queries: Floats, first: int, last: int, logits: Floats
    ) -> None:
        """Estimate logits (g, room) of queries (g, d), times their scale, up to a number that all tokens share.

        Columns are positions; groups of 64 tokens that hold one of ``first <= position < last`` are written.
        """


class LVQ4Codes:
    """4 bits a dimension and a range for each key, less the mean of the first keys; dim / 2 + 6 bytes a token."""

    def __init__(self, dim: int) -> None:
        self.page_bytes = attention_lvq4.page_bytes(dim)
        self.norms_at = attention_lvq4.norms_at(dim)

    def train(self, keys: Floats) -> Floats:
        mean: Floats = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def encode(self, common: Floats, pages: NDArray[np.int64], first: int, keys: Floats, values: Floats) -> None:
        attention_lvq4.encode(pages, first, keys, values, common)

    def scan(
        self, common: Floats, pages: NDArray[np.int64], queries: Floats, first: int, last: int, logits: Floats
    ) -> None:
        attention_lvq4.scan(pages, queries, first, last, logits)


CODECS: dict[str, Any] = {"lvq4": LVQ4Codes}


def make_codes(codec: str, dim: int) -> KeyCodes:
    """Codes by name."""
    if codec not in CODECS:
        raise InvalidArgumentError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r:.80}")
    codes: KeyCodes = CODECS[codec](dim)
    return codes
