"""Hash codes of keys for several tables, and tables of them without padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.heads import Floats
from nearhash.hashing.simhash import SimHash

MOST_BITS = 16


class TableHashing:
    """`tables` codes of `bits` signs of independent normal projections each, of vectors of `dim` dimensions."""

    def __init__(self, dim: int, tables: int, bits: int, seed: int) -> None:
        self.tables, self.bits = tables, bits
        self.hashing = SimHash(dim, -(-tables * bits // 8) * 8, seed, method="gaussian")

    def codes(self, vectors: Floats) -> NDArray[np.uint16]:
        """Codes (n, tables) of vectors (n, dim); bit i of a code is the sign of its i-th projection."""
        signs = np.unpackbits(self.hashing.encode(vectors), axis=1, bitorder="little", count=self.tables * self.bits)
        powers = (1 << np.arange(self.bits)).astype(np.uint16)
        codes: NDArray[np.uint16] = signs.reshape(len(vectors), self.tables, self.bits) @ powers
        return codes

    def projections(self, vectors: Floats) -> Floats:
        """Projections (n, tables, bits) whose signs the codes are."""
        used = self.hashing._projections[: self.tables * self.bits]
        products: Floats = (vectors @ used.T).reshape(len(vectors), self.tables, self.bits)
        return products


class Tables(NamedTuple):
    """For each table the tokens in the order of their codes, and where those of each code start.

    positions (tables, n), uint16 where that is enough, else uint32; starts (tables, 2^bits + 1) int32.
    """

    positions: NDArray[Any]
    starts: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        return self.positions.nbytes + self.starts.nbytes

    def collisions(self, codes: NDArray[np.uint16], count: int) -> NDArray[np.int64]:
        """In how many tables each token has the code of a query, (count,); codes (tables,)."""
        tables = np.arange(len(codes))
        ends = zip(self.starts[tables, codes], self.starts[tables, codes.astype(np.int64) + 1], strict=True)
        found = [self.positions[table, first:last] for table, (first, last) in enumerate(ends)]
        return np.bincount(np.concatenate(found), minlength=count) if found else np.zeros(count, np.int64)


def build_tables(codes: NDArray[np.uint16], positions: NDArray[np.int64], count: int, bits: int) -> Tables:
    """Tables of tokens at `positions` (m,), less than `count`, with codes (m, tables)."""
    small = np.uint16 if count <= 1 << 16 else np.uint32
    order = np.argsort(codes, axis=0, kind="stable").T
    values = np.arange(1 << bits)
    starts = np.empty((codes.shape[1], (1 << bits) + 1), np.int32)
    for table in range(codes.shape[1]):
        starts[table, :-1] = np.searchsorted(codes[order[table], table], values)
    starts[:, -1] = len(positions)
    return Tables(positions[order].astype(small), starts)
