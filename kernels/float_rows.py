"""Rows of floats: float32 as they are, or half floats.

Row layouts, zeros up to a cache line: ``f32``, the vector and, if there is one, the extra coordinate; ``f16``, the
vector as IEEE half bits (uint16), zeros up to 16 elements, and the extra coordinate as float32 in two elements.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from nearhash.kernels import simd
from nearhash.kernels.jit import INLINE_OPTIONS, jit_inline
from nearhash.kernels.scan import L2
from nearhash.kernels.simd_codes import as_floats

LANES = 16  # elements of a vector register


class F32(NamedTuple):
    """Scheme of float32 rows, see kernels/codes.py."""

    dim: int
    width: int
    query_bytes: int


class F16(NamedTuple):
    """Scheme of half float rows; extra_at: element where the extra coordinate stands, 0 if there is none."""

    dim: int
    width: int
    query_bytes: int
    extra_at: int


def f32_scheme(dim: int, has_extra: bool) -> F32:
    width = -(-(dim + has_extra) // LANES) * LANES
    return F32(dim, width, 4 * width)


def f16_scheme(dim: int, has_extra: bool) -> F16:
    floats = -(-dim // LANES) * LANES
    width = -(-(floats + 2 * has_extra) // 32) * 32
    return F16(dim, width, 4 * floats, floats if has_extra else 0)


@jit_inline
def _floats(scheme):
    """Elements that distances are summed over: zeros behind the vector change nothing."""
    return -(-scheme.dim // LANES) * LANES


def prepare(scheme, parameters, rows, slot, buffer, constants):
    """See kernels/codes.py."""
    raise NotImplementedError("compiled by Numba")


def distance(scheme, buffer, constants, rows, slot):
    """See kernels/codes.py."""
    raise NotImplementedError("compiled by Numba")


@overload(prepare, jit_options=INLINE_OPTIONS)
def _prepare(scheme, parameters, rows, slot, buffer, constants):
    if scheme.instance_class is F32:

        def copy(scheme, parameters, rows, slot, buffer, constants):
            query, row = as_floats(buffer), simd.offset(rows, slot * scheme.width)
            for i in range(scheme.width):
                query[i] = row[i]

        return copy

    def widen(scheme, parameters, rows, slot, buffer, constants):
        row = simd.offset(rows, slot * scheme.width)
        widen_halves(row, as_floats(buffer), _floats(scheme))
        constants[0] = as_floats(simd.offset(row, scheme.extra_at))[0] if scheme.extra_at > 0 else np.float32(0.0)

    return widen


@jit_inline
def widen_halves(row, out, count):
    """Half bits as float32, by the arithmetic of the exponents; see simd._half_to_float."""
    for i in range(count):
        bits = np.uint64(row[i])
        value = simd.bits_float((bits & np.uint64(0x7FFF)) << np.uint64(13)) * np.float32(2.0**112)
        out[i] = -value if bits & np.uint64(0x8000) else value


@overload(distance, jit_options=INLINE_OPTIONS)
def _distance(scheme, buffer, constants, rows, slot):
    if scheme.instance_class is F32:
        return lambda scheme, buffer, constants, rows, slot: simd.squared_l2(
            as_floats(buffer), simd.offset(rows, slot * scheme.width), scheme.width
        )

    def half(scheme, buffer, constants, rows, slot):
        row = simd.offset(rows, slot * scheme.width)
        result = simd.squared_l2(as_floats(buffer), row, _floats(scheme))
        if scheme.extra_at > 0:
            difference = as_floats(simd.offset(row, scheme.extra_at))[0] - constants[0]
            result += difference * difference
        return result

    return half


@jit_inline
def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """See kernels/codes.py."""
    query = as_floats(buffer)
    for i in range(scheme.query_bytes // 4):
        query[i] = vector[i] if i < scheme.dim else np.float32(0.0)
    constants[0] = np.float32(0.0)  # extra coordinate
    constants[1] = np.float32(metric)


def estimate(scheme, buffer, constants, rows, slot):
    """See kernels/codes.py."""
    raise NotImplementedError("compiled by Numba")


@overload(estimate, jit_options=INLINE_OPTIONS)
def _estimate(scheme, buffer, constants, rows, slot):
    def implementation(scheme, buffer, constants, rows, slot):
        if constants[1] == L2:
            return distance(scheme, buffer, constants, rows, slot)
        row = simd.offset(rows, slot * scheme.width)
        return -simd.dot(as_floats(buffer), row, _floats(scheme))

    return implementation
