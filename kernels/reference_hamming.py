"""What the kernels of `hamming.py` and `multi_index.py` compute, in plain NumPy."""

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint64]


def distances(queries: Codes, rows: Codes) -> NDArray[np.int64]:
    """(q, n) number of bits in which codes (q, w) and (n, w) differ."""
    different = np.ascontiguousarray(queries[:, None] ^ rows[None])
    away: NDArray[np.int64] = np.unpackbits(different.view(np.uint8), axis=-1).sum(axis=-1, dtype=np.int64)
    return away


def nearest(away: NDArray[np.int64], allowed: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """The k nearest allowed rows by one row of distances, ties by slot."""
    slots = np.flatnonzero(allowed)
    return slots[np.argsort(away[slots], kind="stable")[:k]]


def within(away: NDArray[np.int64], allowed: NDArray[np.bool_], radius: int) -> NDArray[np.int64]:
    """All allowed rows within a radius, by distance and slot."""
    slots = np.flatnonzero(allowed & (away <= radius))
    return slots[np.argsort(away[slots], kind="stable")]


def transposed(rows: Codes) -> Codes:
    """(w, n) words of the rows, as a block holds them."""
    return np.ascontiguousarray(rows.T)


def substring(rows: Codes, first: int, bits: int) -> NDArray[np.int64]:
    """(n,) the number that bits `first` to `first + bits` of each row are, the lowest bit of a word first."""
    each = np.unpackbits(np.ascontiguousarray(rows).view(np.uint8), axis=1, bitorder="little")[:, first : first + bits]
    return each.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


def table(rows: Codes, first: int, bits: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Starts (2**bits + 1,) and slots (n,) of the rows sorted by a substring, ties by slot."""
    values = substring(rows, first, bits)
    starts = np.searchsorted(np.sort(values), np.arange((1 << bits) + 1)).astype(np.int32)
    return starts, np.argsort(values, kind="stable").astype(np.int32)
