"""Pages of keys and values, and the element types that they can have.

A page holds PAGE tokens of one KV head: for each token its key row and then its value row, so that reading a token
is one run of bytes. Tokens lie one after the other; a page starts at a multiple of 64 bytes. int8 rows are read back as
row * scale, and the scales follow the rows of all tokens: float32 (PAGE, 2), that of the key and that of the value.

Kernels take pages as int64 addresses, so a store can grow and share pages without copying; positions count tokens over
all pages, position p being token p % PAGE of page p // PAGE. Nothing checks them here.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from nearhash.kernels.jit import INLINE_OPTIONS, jit, jit_inline
from nearhash.kernels.simd import float_bits, pointer
from nearhash.kernels.simd_attention import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INT8,
    element_kind,
    floats_at,
    halves_at,
    halves_of,
    signed_at,
    widen_row,
)

PAGE = 256  # tokens
_SHIFT, _MASK = 8, PAGE - 1

_ONE, _LOW, _S16 = np.uint64(1), np.uint64(0x7FFF), np.uint64(16)


class Float32Rows(NamedTuple):
    """Scheme of float32 pages: what kernels need to know, and by its type they are compiled."""

    dim: int
    token_bytes: int
    value_at: int
    scales_at: int


class Float16Rows(NamedTuple):
    """Scheme of pages of IEEE half floats."""

    dim: int
    token_bytes: int
    value_at: int
    scales_at: int


class BFloat16Rows(NamedTuple):
    """Scheme of pages of bfloat16: the upper half of a float32."""

    dim: int
    token_bytes: int
    value_at: int
    scales_at: int


class Int8Rows(NamedTuple):
    """Scheme of pages of int8 with a scale for each row, which start at byte scales_at."""

    dim: int
    token_bytes: int
    value_at: int
    scales_at: int


Rows = Float32Rows | Float16Rows | BFloat16Rows | Int8Rows
ROWS: dict[str, tuple[type[Rows], int]] = {
    FLOAT32: (Float32Rows, 4),
    FLOAT16: (Float16Rows, 2),
    BFLOAT16: (BFloat16Rows, 2),
    INT8: (Int8Rows, 1),
}


def rows_scheme(dtype: str, dim: int) -> Rows:
    """Scheme of pages of a dtype - a key of ROWS - and `dim` dimensions, a multiple of 8."""
    scheme, size = ROWS[dtype]
    return scheme(dim, 2 * dim * size, dim * size, PAGE * 2 * dim if dtype == INT8 else 0)


def page_bytes(rows: Rows) -> int:
    """Bytes of a page."""
    return PAGE * rows.token_bytes + (PAGE * 2 * 4 if rows.scales_at else 0)


@jit_inline
def token_address(rows, pages, position):
    """Address of the key row of a token; its value row is `value_at` bytes further."""
    return pages[position >> _SHIFT] + (position & _MASK) * rows.token_bytes


@jit_inline
def token_scales(rows, pages, position):
    """Pointer to the two scales of a token of int8 pages."""
    return floats_at(pages[position >> _SHIFT] + rows.scales_at + (position & _MASK) * 8)


@jit_inline
def bfloat16_bits(value):
    """float32 rounded to nearest even, as uint64 with the 16 bits at its end."""
    bits = float_bits(value)
    return (bits + _LOW + ((bits >> _S16) & _ONE)) >> _S16


def _put(rows, row, address, scales, which):
    raise NotImplementedError("compiled by Numba")


@overload(_put, jit_options=INLINE_OPTIONS)
def _put_overload(rows, row, address, scales, which):

    def floats(rows, row, address, scales, which):
        target = floats_at(address)
        for i in range(rows.dim):
            target[i] = row[i]

    def halves(rows, row, address, scales, which):
        halves_of(row, rows.dim, halves_at(address))

    def brains(rows, row, address, scales, which):
        target = halves_at(address)
        for i in range(rows.dim):
            target[i] = np.uint16(bfloat16_bits(row[i]))

    def bytes_(rows, row, address, scales, which):
        largest = np.float32(0.0)
        for i in range(rows.dim):
            largest = max(largest, abs(row[i]))
        scale = largest / np.float32(127.0)
        inverse = np.float32(1.0) / scale if scale > 0 else np.float32(0.0)
        if not np.isfinite(inverse):  # the inverse of a denormal scale
            scale, inverse = np.float32(0.0), np.float32(0.0)
        target = signed_at(address)
        for i in range(rows.dim):
            target[i] = np.int8(np.floor(row[i] * inverse + np.float32(0.5)))
        scales[which] = scale

    return {FLOAT32: floats, FLOAT16: halves, BFLOAT16: brains, INT8: bytes_}[element_kind(rows)]


@jit
def write_tokens(rows, pages, first, keys, values):
    """Write keys and values (n, dim) float32 as the tokens from position `first` on, rounded to nearest.

    Returns how many rows are not finite as they are read back: half floats end at 65504.
    """
    wide, broken = np.empty(rows.dim, np.float32), 0
    for i in range(keys.shape[0]):
        position = first + i
        address = token_address(rows, pages, position)
        scales = token_scales(rows, pages, position)
        _put(rows, pointer(keys, i * rows.dim), address, scales, 0)
        _put(rows, pointer(values, i * rows.dim), address + rows.value_at, scales, 1)
        for which in range(2):
            widen_row(rows, address + which * rows.value_at, rows.dim, pointer(wide, 0))
            total = np.float32(0.0)
            for j in range(rows.dim):
                total += wide[j] * np.float32(0.0)
            broken += total != 0
    return broken


@jit
def read_tokens(rows, pages, positions, keys, values):
    """Keys and values (n, dim) float32 of the tokens at `positions` (n,), to arrays of that shape."""
    for i in range(positions.shape[0]):
        address = token_address(rows, pages, positions[i])
        key, value = pointer(keys, i * rows.dim), pointer(values, i * rows.dim)
        widen_row(rows, address, rows.dim, key)
        widen_row(rows, address + rows.value_at, rows.dim, value)
        if rows.scales_at > 0:
            scales = token_scales(rows, pages, positions[i])
            for j in range(rows.dim):
                key[j] *= scales[0]
                value[j] *= scales[1]
