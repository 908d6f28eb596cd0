"""Vector instructions of softmax: exponentials, and the steps of the online softmax of a query."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.simd import F32, I32, I64, LANES, _load, _loop, _splat, _sum_lanes, _vector
from nearhash.kernels.simd_attention import _FLOATS, _WORDS, BLOCK, _float, _multiply_add, _splat_value

LOWEST = -3.4028235e38  # greatest score of no tokens: finite, so that a difference of two is a number

# exp(r) on |r| <= ln(2) / 2: the polynomial 1 + r + r^2 P(r) of Cephes (expf.c), 1 ulp there.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_LEAST = -87.33654  # below it exp is subnormal, and taken for zero


_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which is left in the low bits of the sum


def _times_power(builder: Any, value: Any, shifted: Any) -> Any:
    """``value * 2^n`` by way of the exponent, n + _MAGIC given."""
    exponent = builder.shl(builder.bitcast(shifted, _WORDS), _splat(_WORDS, 23))
    return builder.bitcast(builder.add(builder.bitcast(value, _WORDS), exponent), _FLOATS)


def _exp(builder: Any, x: Any) -> Any:
    """exp of 16 floats x <= 0: within 2 ulp, zero below the normal numbers, NaN for NaN."""
    below = builder.fcmp_ordered("<", x, _splat(_FLOATS, _LEAST))
    magic = _splat(_FLOATS, _MAGIC)
    shifted = _multiply_add(builder, x, _splat(_FLOATS, 1.4426950408889634), magic)
    whole = builder.fsub(shifted, magic)
    r = _multiply_add(builder, whole, _splat(_FLOATS, -_LN2_HIGH), x)
    r = _multiply_add(builder, whole, _splat(_FLOATS, -_LN2_LOW), r)
    total = _splat(_FLOATS, _EXP[0])
    for coefficient in _EXP[1:]:
        total = _multiply_add(builder, total, r, _splat(_FLOATS, coefficient))
    total = _multiply_add(builder, total, builder.fmul(r, r), builder.fadd(r, _splat(_FLOATS, 1.0)))
    return builder.select(below, _splat(_FLOATS, 0.0), _times_power(builder, total, shifted))


def _greatest(builder: Any, vector: Any) -> Any:
    """The greatest lane of 16 floats; NaN loses."""
    count = LANES
    while count > 1:
        count //= 2
        parts = [
            builder.shuffle_vector(vector, vector, ir.Constant(_vector(I32, count), list(lanes)))
            for lanes in (range(count), range(count, 2 * count))
        ]
        vector = builder.select(builder.fcmp_ordered(">", *parts), *parts)
    return builder.extract_element(vector, ir.Constant(I32, 0))


def _part(index: int) -> Any:
    return ir.Constant(I64, LANES * index)


def _store(builder: Any, value: Any, address: Any, at: Any) -> None:
    target = builder.bitcast(builder.gep(address, [at]), value.type.as_pointer())
    builder.store(value, target).align = 4


# 2^f on |f| <= 1/2, interpolated at Chebyshev's points: within 4e-6 of it.
_POWER = (0.00966636852, 0.0559219758, 0.24022349, 0.693121045, 1.0)


@intrinsic
def exponentials(typing_context, values, count, top, scale):
    """Replace `count` float32, a multiple of 16, by exp((value - top) scale), scale >= 0; returns their sum.

    Within 1e-5 plus what the rounding of the exponent costs: for weights, which may be any. Values above `top` count as
    `top`, and so does NaN: nothing but 0 to 1 comes out.
    """
    signature = types.float32(_float, types.int64, types.float32, types.float32)

    def codegen(context, builder, signature, arguments):
        values, count, top, scale = arguments
        factor = builder.fmul(scale, ir.Constant(F32, 1.4426950408889634))
        top, factor, zero = _splat_value(builder, top), _splat_value(builder, factor), _splat(_FLOATS, 0.0)
        magic = _splat(_FLOATS, _MAGIC)

        def body(index, totals):
            less = builder.fmul(builder.fsub(_load(builder, values, index, _FLOATS), top), factor)
            less = builder.select(builder.fcmp_ordered("<", less, zero), less, zero)
            below = builder.fcmp_ordered("<", less, _splat(_FLOATS, -126.0))
            shifted = builder.fadd(less, magic)
            rest, power = builder.fsub(less, builder.fsub(shifted, magic)), _splat(_FLOATS, _POWER[0])
            for coefficient in _POWER[1:]:
                power = _multiply_add(builder, power, rest, _splat(_FLOATS, coefficient))
            power = builder.select(below, zero, _times_power(builder, power, shifted))
            _store(builder, power, values, index)
            return [builder.fadd(totals[0], power)]

        total = _loop(builder, ir.Constant(I64, 0), count, LANES, [zero], body)[0]
        return _sum_lanes(builder, total)

    return signature, codegen


# Numbers of a running softmax, float32: number i of query q is at [i, q] of (STATE, QUERIES).
TOP, TOTAL, FACTOR, SPREAD, SQUARES, FACTOR_SQUARED = range(6)
STATE, QUERIES = 6, 16


def _fold(sampled: bool) -> Callable[..., Any]:
    """Code generator of `fold_scores` and `fold_samples`."""

    def codegen(context, builder, signature, arguments):
        scores, state = arguments[:2]
        places = [builder.gep(state, [ir.Constant(I64, QUERIES * i)]) for i in range(STATE)]
        lines = [_load(builder, scores, _part(i), _FLOATS) for i in range(BLOCK // LANES)]
        best = lines[0]
        for line in lines[1:]:
            best = builder.select(builder.fcmp_ordered(">", line, best), line, best)
        before, best = builder.load(places[TOP]), _greatest(builder, best)
        top = builder.select(builder.fcmp_ordered(">", best, before), best, before)
        factor = _exp(builder, _splat_value(builder, builder.fsub(before, top)))
        factor = builder.extract_element(factor, ir.Constant(I32, 0))
        tops, zeros, ones = _splat_value(builder, top), _splat(_FLOATS, 0.0), _splat(_FLOATS, 1.0)
        total = spread = squares = zeros
        for i, line in enumerate(lines):
            weight = _exp(builder, builder.fsub(line, tops))
            if sampled:
                probability = _load(builder, arguments[2], _part(i), _FLOATS)
                weight = builder.fdiv(weight, probability)
                part = builder.fmul(builder.fsub(ones, probability), builder.fmul(weight, weight))
                _store(builder, part, arguments[4], _part(i))
                spread = builder.fadd(spread, part)
                norm = _load(builder, arguments[3], _part(i), _FLOATS)
                squares = _multiply_add(builder, part, norm, squares)
            _store(builder, weight, scores, _part(i))
            total = builder.fadd(total, weight)
        builder.store(top, places[TOP])
        builder.store(factor, places[FACTOR])
        square = builder.fmul(factor, factor)
        builder.store(square, places[FACTOR_SQUARED])
        for place, scale, added in ((TOTAL, factor, total), (SPREAD, square, spread), (SQUARES, square, squares)):
            value = builder.fmul(builder.load(places[place]), scale)
            builder.store(builder.fadd(value, _sum_lanes(builder, added)), places[place])
        return context.get_dummy_value()

    return codegen


@intrinsic
def fold_scores(typing_context, scores, state):
    """One step of the online softmax (Milakov and Gimelshein 2018) of a query for BLOCK scores, -inf for no token.

    The scores become weights exp(score - TOP) with TOP the greatest so far; TOTAL is their sum so far; what was summed
    with the TOP before has to be multiplied by FACTOR. state: pointer to the query's TOP in (STATE, QUERIES).
    """
    return types.void(_float, _float), _fold(False)


@intrinsic
def fold_samples(typing_context, scores, state, probabilities, norms, spread):
    """As `fold_scores` for tokens that were sampled with the given probabilities p (BLOCK,).

    With e = exp(score - TOP) the weights are e / p; ``c = (1 - p) (e / p)^2`` is written to spread (BLOCK,), SPREAD is
    the sum of c and SQUARES that of c times the squared norms (BLOCK,), both to be multiplied by FACTOR_SQUARED later.
    """
    return types.void(_float, _float, _float, _float, _float), _fold(True)
