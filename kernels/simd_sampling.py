"""Vector instructions of priority sampling: weights from estimated logits, counter-based uniforms, keys of times."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX512, LEVEL
from nearhash.kernels.simd import I8, I16, I32, I64, _call, _load, _loop, _splat, _sum_lanes, _vector
from nearhash.kernels.simd_attention_codes import (
    _FLOATS,
    _SUMS,
    BLOCK,
    _float,
    _half,
    _key,
    _splat_word,
    _wide_numbers,
)
from nearhash.kernels.simd_tables import _store_chosen


@intrinsic
def mix_lines(typing_context, lines, stride, count, factors, norms, size, out):
    """``out[i] = norms[i] * sum over q < count of factors[q] lines[q, i]`` for i < size, a multiple of 16; the sum.

    lines: rows of `stride` floats; norms: bfloat16, of which those that are not finite count as 0.
    """
    signature = types.float32(_float, types.int64, types.int64, _float, _half, types.int64, _float)

    def codegen(context, builder, signature, arguments):
        lines, stride, count, factors, norms, size, out = arguments
        zeros = _splat(_FLOATS, 0.0)

        def several(vectors):
            def body(index, totals):
                places = [builder.add(index, ir.Constant(I64, BLOCK * i)) for i in range(vectors)]

                def query(number, sums):
                    row = builder.mul(number, stride)
                    factor = _splat_word(builder, builder.load(builder.gep(factors, [number])))
                    results = []
                    for place, total in zip(places, sums, strict=True):
                        line = _load(builder, lines, builder.add(row, place), _FLOATS)
                        results.append(_call(builder, f"llvm.fmuladd.v{BLOCK}f32", _FLOATS, [line, factor, total]))
                    return results

                mixed = _loop(builder, ir.Constant(I64, 0), count, 1, [zeros] * vectors, query)
                total = totals[0]
                for place, value in zip(places, mixed, strict=True):
                    norm = _wide_numbers(builder, norms, 0, place)
                    finite = builder.fcmp_ordered("<", norm, _splat(_FLOATS, float("inf")))
                    value = builder.fmul(value, builder.select(finite, norm, zeros))
                    builder.store(value, builder.bitcast(builder.gep(out, [place]), _FLOATS.as_pointer())).align = 4
                    total = builder.fadd(total, value)
                return [total]

            return body

        # Four vectors at a time: with one, the loop over the queries takes longer than what is in it.
        many = builder.and_(size, ir.Constant(I64, -4 * BLOCK))
        totals = _loop(builder, ir.Constant(I64, 0), many, 4 * BLOCK, [zeros], several(4))
        return _sum_lanes(builder, _loop(builder, many, size, BLOCK, totals, several(1))[0])

    return signature, codegen


_SPREAD, _ROUNDS = (
    0x9E3779B1,
    (((16, 0x21F0AAAD), (15, 0x735A2D97), (15, 1)), ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))),
)


def _uniforms(builder: Any, positions: Any, key: Any) -> Any:
    """16 numbers in (0, 1] of 16 positions and a key of 64 bits; see attention_sampling.py."""
    low, high = (
        _splat_word(builder, builder.trunc(part, I32)) for part in (key, builder.lshr(key, ir.Constant(I64, 32)))
    )
    x = builder.add(builder.mul(positions, _splat(_SUMS, _SPREAD)), low)
    for rounds, word in zip(_ROUNDS, (high, None), strict=True):
        for shift, factor in rounds:
            x = builder.xor(x, builder.lshr(x, _splat(_SUMS, shift)))
            x = builder.mul(x, _splat(_SUMS, factor)) if factor != 1 else x
        x = builder.xor(x, word) if word is not None else x
    value = builder.fadd(builder.uitofp(x, _FLOATS), _splat(_FLOATS, 0.5))
    return builder.fmul(value, _splat(_FLOATS, 2.0**-32))


def _positions(builder: Any, first: Any) -> Any:
    lanes = ir.Constant(_SUMS, list(range(BLOCK)))
    return builder.add(_splat_word(builder, builder.trunc(first, I32)), lanes)


@intrinsic
def arrive(typing_context, weights, first, size, factor, floor, key, times):
    """Weights become ``weight * factor + floor``, and times u / weight with u of the position, the key and no state.

    weights and times float32; element i has position ``first + i``; size is a multiple of 16.
    """
    signature = types.void(_float, types.int64, types.int64, types.float32, types.float32, types.uint64, _float)

    def codegen(context, builder, signature, arguments):
        weights, first, size, factor, floor, key, times = arguments
        factor, floor = _splat_word(builder, factor), _splat_word(builder, floor)

        def body(index, _):
            weight = builder.fadd(builder.fmul(_load(builder, weights, index, _FLOATS), factor), floor)
            time = builder.fdiv(_uniforms(builder, _positions(builder, builder.add(first, index)), key), weight)
            for value, out in ((weight, weights), (time, times)):
                builder.store(value, builder.bitcast(builder.gep(out, [index]), _FLOATS.as_pointer())).align = 4
            return []

        _loop(builder, ir.Constant(I64, 0), size, BLOCK, [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def append_times(typing_context, times, first, bound, keys, size):
    """Append the keys of those of 16 times >= 0 that are at most `bound`: bits of the time, then of the position.

    times float32, that of lane i for position ``first + i``; keys uint64, of which up to 16 beyond the new size, which
    is returned, may be overwritten.
    """
    signature = types.int64(_float, types.int64, types.float32, _key, types.int64)

    def codegen(context, builder, signature, arguments):
        times, first, bound, keys, size = arguments
        wide = _vector(I64, BLOCK)
        values = _load(builder, times, ir.Constant(I64, 0), _FLOATS)
        below = builder.fcmp_ordered("<=", values, _splat_word(builder, bound))
        order = builder.shl(builder.zext(builder.bitcast(values, _SUMS), wide), _splat(wide, 32))
        key = builder.or_(order, builder.zext(_positions(builder, first), wide))
        mask = builder.bitcast(below, I16)
        if LEVEL != AVX512:
            for lane in range(BLOCK):  # without branches: write always, move on if wanted
                builder.store(builder.extract_element(key, ir.Constant(I32, lane)), builder.gep(keys, [size]))
                wanted = builder.and_(builder.lshr(mask, ir.Constant(I16, lane)), ir.Constant(I16, 1))
                size = builder.add(size, builder.zext(wanted, I64))
            return size
        for part in range(2):
            lanes = ir.Constant(_vector(I32, 8), list(range(8 * part, 8 * part + 8)))
            wanted = builder.trunc(builder.lshr(mask, ir.Constant(I16, 8 * part)), I8)
            chosen = builder.shuffle_vector(key, key, lanes)
            size = builder.add(size, _store_chosen(builder, chosen, wanted, builder.gep(keys, [size])))
        return size

    return signature, codegen
