"""Vector instructions of the codecs: casts of addresses, and inner products of packed codes with a query.

Of integer codes and queries every sum is exact, so it is the same on every instruction set.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX2, AVX512, LEVEL, NEON
from nearhash.kernels.simd import (
    BYTES,
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    UNROLL,
    _call,
    _half_to_float,
    _load,
    _loop,
    _splat,
    _sum_lanes,
    _vector,
)

_BYTES, _SUMS = _vector(I8, BYTES), _vector(I32, 16)
_byte, _signed, _float = (types.CPointer(kind) for kind in (types.uint8, types.int8, types.float32))


# --- addresses -------------------------------------------------------------------------------------------------


def _cast(target: Any) -> Callable[..., Any]:
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], target.as_pointer())

    return codegen


@intrinsic
def as_floats(typing_context, address):
    """The same address, as a pointer to float32."""
    return _float(address), _cast(F32)


@intrinsic
def as_signed(typing_context, address):
    """The same address, as a pointer to int8."""
    return _signed(address), _cast(I8)


@intrinsic
def as_bytes(typing_context, address):
    """The same address, as a pointer to uint8."""
    return _byte(address), _cast(I8)


# --- packed codes ----------------------------------------------------------------------------------------------


def _part(builder: Any, vector: Any, first: int, count: int) -> Any:
    return builder.shuffle_vector(vector, vector, ir.Constant(_vector(I32, count), list(range(first, first + count))))


def _join(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        lanes = ir.Constant(_vector(I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
        parts = [builder.shuffle_vector(*pair, lanes) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _add_products(builder: Any, total: Any, codes: Any, values: Any) -> Any:
    """``total + products of 64 codes of 0 to 15 and 64 int8``, spread over 16 sums.

    So small codes cannot saturate the 8-bit multiply-add of AVX2, and are signed bytes to ARM.
    """
    if LEVEL == AVX512:
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _SUMS, [total, codes, values])
    if LEVEL == AVX2:
        sums, words = [], _vector(I16, 16)
        for first in (0, 32):
            pair = [_part(builder, vector, first, 32) for vector in (codes, values)]
            products = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", words, pair)
            sums.append(_call(builder, "llvm.x86.avx2.pmadd.wd", _vector(I32, 8), [products, _splat(words, 1)]))
        return builder.add(total, _join(builder, sums))
    if LEVEL == NEON:
        quads, sums = _vector(I32, 4), []
        for quarter in range(4):
            pair = [_part(builder, vector, 16 * quarter, 16) for vector in (codes, values)]
            start = _part(builder, total, 4 * quarter, 4)
            sums.append(_call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", quads, [start, *pair]))
        return _join(builder, sums)
    for quarter in range(4):
        left = builder.zext(_part(builder, codes, 16 * quarter, 16), _SUMS)
        right = builder.sext(_part(builder, values, 16 * quarter, 16), _SUMS)
        total = builder.add(total, builder.mul(left, right))
    return total


@intrinsic
def dot_nibbles(typing_context, codes, low, high, count):
    """``sum of (codes & 15) * low + (codes >> 4) * high`` for `count` bytes, a multiple of 64; exact in int32.

    codes uint8, two codes of 4 bits a byte; low and high int8.
    """
    signature = types.int32(_byte, _signed, _signed, types.int64)

    def codegen(context, builder, signature, arguments):
        codes, low, high, count = arguments

        def body(index, totals):
            line, values = _load(builder, codes, index, _BYTES), [_load(builder, p, index, _BYTES) for p in (low, high)]
            lower = builder.and_(line, _splat(_BYTES, 15))
            words = builder.lshr(builder.bitcast(line, _vector(I16, 32)), _splat(_vector(I16, 32), 4))
            upper = builder.and_(builder.bitcast(words, _BYTES), _splat(_BYTES, 15))
            return [
                _add_products(builder, total, half, value)
                for total, half, value in zip(totals, (lower, upper), values, strict=True)
            ]

        totals = _loop(builder, ir.Constant(I64, 0), count, BYTES, [_splat(_SUMS, 0)] * 2, body)
        return _sum_lanes(builder, builder.add(*totals))

    return signature, codegen


@intrinsic
def dot_planes(typing_context, planes, values, words, bits):
    """``sum over i < 64 words of code[i] * values[i]`` for codes of `bits` bits in bit planes; exact in int32.

    planes: for each bit, the most significant first, `words` little-endian uint64, bit i of a plane being that of code
    i; values int8.
    """
    signature = types.int32(_byte, _signed, types.int64, types.int64)

    def codegen(context, builder, signature, arguments):
        planes, values, words, bits = arguments
        zero, one = ir.Constant(I64, 0), _splat(_BYTES, 1)
        plane_bytes = builder.mul(words, ir.Constant(I64, 8))

        def plane(number, totals):
            start = builder.gep(planes, [builder.mul(number, plane_bytes)])

            def word(index, total):
                address = builder.gep(start, [builder.mul(index, ir.Constant(I64, 8))])
                mask = builder.load(builder.bitcast(address, I64.as_pointer()))
                mask.align = 1
                line = _load(builder, values, builder.mul(index, ir.Constant(I64, BYTES)), _BYTES)
                chosen = builder.select(builder.bitcast(mask, _vector(ir.IntType(1), BYTES)), line, _splat(_BYTES, 0))
                return _add_products(builder, total, one, chosen)

            def pair(index, totals):
                return [word(index, totals[0]), word(builder.add(index, ir.Constant(I64, 1)), totals[1])]

            # Horner's rule over the planes: one sum over all lanes at the end. Two sums at a time, because each waits
            # for the instruction before it.
            doubled = [builder.add(total, total) for total in totals]
            even = builder.and_(words, ir.Constant(I64, -2))
            first, second = _loop(builder, zero, even, 2, doubled, pair)
            (first,) = _loop(builder, even, words, 1, [first], lambda i, t: [word(i, t[0])])
            return [first, second]

        totals = _loop(builder, zero, bits, 1, [_splat(_SUMS, 0)] * 2, plane)
        return _sum_lanes(builder, builder.add(*totals))

    return signature, codegen


@intrinsic
def dot_float8(typing_context, query, codes, count):
    """Inner product of float32 and ``2**-8 e4m3`` for `count` elements, a multiple of 64.

    With the exponent moved to the place where half floats have it, e4m3 reads as a half float that is 2**8 too small;
    that holds for subnormals too, so no table and no special case is needed. The two NaN codes read as 480.
    """
    signature = types.float32(_float, _byte, types.int64)

    def codegen(context, builder, signature, arguments):
        query, codes, count = arguments
        floats, shorts = _vector(F32, LANES), _vector(I16, LANES)

        def body(index, totals):
            following = []
            for part, total in enumerate(totals):
                at = builder.add(index, ir.Constant(I64, LANES * part))
                wide = builder.zext(_load(builder, codes, at, _vector(I8, LANES)), shorts)
                sign = builder.shl(builder.and_(wide, _splat(shorts, 0x80)), _splat(shorts, 8))
                magnitude = builder.shl(builder.and_(wide, _splat(shorts, 0x7F)), _splat(shorts, 7))
                value = _half_to_float(builder, builder.or_(sign, magnitude))
                pair = [_load(builder, query, at, floats), value]
                following.append(_call(builder, f"llvm.fmuladd.v{LANES}f32", floats, [*pair, total]))
            return following

        start = [_splat(floats, 0.0)] * UNROLL
        totals = _loop(builder, ir.Constant(I64, 0), count, LANES * UNROLL, start, body)
        pair = builder.fadd(totals[0], totals[1]), builder.fadd(totals[2], totals[3])
        return _sum_lanes(builder, builder.fadd(*pair))

    return signature, codegen
