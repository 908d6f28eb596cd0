"""Vector instructions of attention: rows of keys and values times the queries of a group.

Rows are given by addresses, so that tokens in order and tokens picked at random go through the same code, and are
widened to float32 in registers. Dimensions are a multiple of 8; the last 8 of an odd number of them are widened to a
vector of 16 with zeros. Scratch rows of queries and outputs are padded with zeros to a multiple of 16 floats.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX512, GENERIC, LEVEL
from nearhash.kernels.simd import F16, F32, I8, I16, I32, I64, LANES, _call, _load, _loop, _splat, _sum_lanes, _vector

BLOCK = 64  # tokens whose scores are taken together: one maximum and one pass of exponentials for all of them
GROUP = 4 if LEVEL == AVX512 else 2  # queries that share one load of a row
TOKENS = 4  # rows that share one load of a query
SPAN = 4 if LEVEL == AVX512 else 2  # vectors of a row of values that are summed at once

FLOAT32, FLOAT16, BFLOAT16, INT8 = "float32", "float16", "bfloat16", "int8"

_FLOATS, _WORDS = _vector(F32, LANES), _vector(I32, LANES)
_HALF = LANES // 2

_float, _address = types.CPointer(types.float32), types.CPointer(types.int64)


# --- rows ------------------------------------------------------------------------------------------------------

_ELEMENTS = {FLOAT32: F32, FLOAT16: I16, BFLOAT16: I16, INT8: I8}
_SIZES = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, INT8: 1}


def _pointer_at(element: ir.Type) -> Callable[..., Any]:
    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], element.as_pointer())

    return codegen


@intrinsic
def floats_at(typing_context, address):
    """Pointer to the float32 at an address."""
    return _float(types.int64), _pointer_at(F32)


@intrinsic
def halves_at(typing_context, address):
    """Pointer to the uint16 at an address."""
    return types.CPointer(types.uint16)(types.int64), _pointer_at(I16)


@intrinsic
def words_at(typing_context, address):
    """Pointer to the uint64 at an address."""
    return types.CPointer(types.uint64)(types.int64), _pointer_at(I64)


@intrinsic
def signed_at(typing_context, address):
    """Pointer to the int8 at an address."""
    return types.CPointer(types.int8)(types.int64), _pointer_at(I8)


_SCHEMES = {"Float32Rows": FLOAT32, "Float16Rows": FLOAT16, "BFloat16Rows": BFLOAT16, "Int8Rows": INT8}


def element_kind(rows: Any) -> str:
    """Element type of rows, from the Numba type of their scheme (attention_rows.py)."""
    return _SCHEMES[rows.instance_class.__name__]


def _half_floats(builder: Any, value: Any) -> Any:
    """IEEE half bits (i16 lanes) as float32, infinities and NaN too; see `simd._half_to_float`."""
    count = value.type.count
    floats, words = _vector(F32, count), _vector(I32, count)
    if LEVEL != GENERIC:
        return builder.fpext(builder.bitcast(value, _vector(F16, count)), floats)
    wide = builder.zext(value, words)
    magnitude = builder.shl(builder.and_(wide, _splat(words, 0x7FFF)), _splat(words, 13))
    sign = builder.shl(builder.and_(wide, _splat(words, 0x8000)), _splat(words, 16))
    scaled = builder.bitcast(builder.fmul(builder.bitcast(magnitude, floats), _splat(floats, 2.0**112)), words)
    special = builder.icmp_unsigned(">=", magnitude, _splat(words, 0x7C00 << 13))
    scaled = builder.select(special, builder.or_(magnitude, _splat(words, 0x7F800000)), scaled)
    return builder.bitcast(builder.or_(scaled, sign), floats)


def _row_lanes(builder: Any, row: Any, at: Any, kind: str, count: int) -> Any:
    """Elements `at` to `at + count` of the row at the byte pointer `row`, as 16 floats: zeros behind `count`."""
    address = builder.gep(row, [builder.mul(at, ir.Constant(I64, _SIZES[kind]))])
    raw = _vector(_ELEMENTS[kind], count)
    value = builder.load(builder.bitcast(address, raw.as_pointer()))
    value.align = 1
    floats, words = _vector(F32, count), _vector(I32, count)
    if kind == FLOAT16:
        value = _half_floats(builder, value)
    elif kind == BFLOAT16:
        value = builder.bitcast(builder.shl(builder.zext(value, words), _splat(words, 16)), floats)
    elif kind == INT8:
        value = builder.sitofp(builder.sext(value, words), floats)
    if count == LANES:
        return value
    return builder.shuffle_vector(value, _splat(floats, 0.0), ir.Constant(_WORDS, list(range(LANES))))


def _byte_pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I8.as_pointer())


def _splat_value(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, _splat(_WORDS, 0))


def _multiply_add(builder: Any, x: Any, y: Any, total: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, [x, y, total])


def _prefetch(builder: Any, row: Any, at: Any, kind: str) -> None:
    line = builder.gep(row, [builder.mul(at, ir.Constant(I64, _SIZES[kind]))])
    # Into the first-level cache: tokens out of order at 131,072 take 155 ns, 200 by way of the second alone.
    read, keep, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, read, keep, data])


def _sums(builder: Any, vectors: list[Any]) -> Any:
    """A vector with the sum of the lanes of each of a power of two, at most 16, of vectors, in order."""
    size = LANES
    while size > 1:
        # Every vector holds the partial sums of its sources, `size` each, one source after the other.
        pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0], None)]
        half, following = size // 2, []
        for left, right in pairs:
            count = left.type.count * (1 if right is None else 2)
            starts = range(0, count, size)
            low = [start + i for start in starts for i in range(half)]
            low, high = (
                builder.shuffle_vector(
                    left,
                    ir.Constant(left.type, ir.Undefined) if right is None else right,
                    ir.Constant(_vector(I32, len(starts) * half), [lane + shift for lane in low]),
                )
                for shift in (0, half)
            )
            following.append(builder.fadd(low, high))
        vectors, size = following, half
    return vectors[0]


def _score_rows(queries: int) -> Callable[..., Any]:
    """Code generator of `score_rows` for a number of queries."""
    tokens = TOKENS if queries > 1 else 4 * TOKENS

    def codegen(context, builder, signature, arguments):
        _, lines, addresses, ahead, dim, out = arguments
        kind = element_kind(signature.args[0])
        stride = builder.and_(builder.add(dim, ir.Constant(I64, LANES - 1)), ir.Constant(I64, -LANES))

        def several(first, _):
            rows, following = [], []
            for token in range(tokens):
                at = builder.add(first, ir.Constant(I64, token))
                rows.append(_byte_pointer(builder, builder.load(builder.gep(addresses, [at]))))
                following.append(_byte_pointer(builder, builder.load(builder.gep(ahead, [at]))))

            def body(count):
                def step(index, totals):
                    parts = [_row_lanes(builder, row, index, kind, count) for row in rows]
                    for row in following:
                        _prefetch(builder, row, index, kind)
                    results = []
                    for query in range(queries):
                        at = builder.add(index, builder.mul(stride, ir.Constant(I64, query)))
                        values = _load(builder, lines, at, _FLOATS)
                        for token, part in enumerate(parts):
                            results.append(_multiply_add(builder, part, values, totals[query * tokens + token]))
                    return results

                return step

            whole = builder.and_(dim, ir.Constant(I64, -LANES))
            totals = _loop(
                builder, ir.Constant(I64, 0), whole, LANES, [_splat(_FLOATS, 0.0)] * (queries * tokens), body(LANES)
            )
            totals = list(_loop(builder, whole, dim, LANES, totals, body(_HALF)))
            for query in range(queries):
                total = _sums(builder, totals[query * tokens : (query + 1) * tokens])
                target = builder.gep(out, [builder.add(first, ir.Constant(I64, BLOCK * query))])
                builder.store(total, builder.bitcast(target, total.type.as_pointer())).align = 4
            return []

        _loop(builder, ir.Constant(I64, 0), ir.Constant(I64, BLOCK), tokens, [], several)
        return context.get_dummy_value()

    return codegen


def _score_signature(rows: Any) -> Any:
    return types.void(rows, _float, _address, _address, types.int64, _float)


@intrinsic
def score_group(typing_context, rows, queries, addresses, ahead, dim, out):
    """Inner products of GROUP queries and BLOCK rows: ``out[q, i] = queries[q] . row[i]``, out (GROUP, BLOCK).

    rows: their scheme; queries float32, padded with zeros to a multiple of 16 floats each; addresses (BLOCK,) int64;
    ahead (BLOCK,): addresses of rows that are wanted next, which are asked for on the way.
    """
    return _score_signature(rows), _score_rows(GROUP)


@intrinsic
def score_one(typing_context, rows, queries, addresses, ahead, dim, out):
    """As `score_group` for one query."""
    return _score_signature(rows), _score_rows(1)


def _add_rows(queries: int) -> Callable[..., Any]:
    """Code generator of `add_group` and `add_one`."""

    def codegen(context, builder, signature, arguments):
        _, weights, addresses, ahead, count, dim, factors, out = arguments
        kind = element_kind(signature.args[0])
        stride = builder.and_(builder.add(dim, ir.Constant(I64, LANES - 1)), ir.Constant(I64, -LANES))

        def columns(vectors, width):
            def several(first, _):
                places = []
                for query in range(queries):
                    line = builder.add(first, builder.mul(stride, ir.Constant(I64, query)))
                    places.extend(builder.add(line, ir.Constant(I64, LANES * i)) for i in range(vectors))
                start = []
                for number, place in enumerate(places):
                    factor = builder.load(builder.gep(factors, [ir.Constant(I64, number // vectors)]))
                    start.append(builder.fmul(_load(builder, out, place, _FLOATS), _splat_value(builder, factor)))

                def token(index, totals):
                    row = _byte_pointer(builder, builder.load(builder.gep(addresses, [index])))
                    following = _byte_pointer(builder, builder.load(builder.gep(ahead, [index])))
                    parts = []
                    for i in range(vectors):
                        at = builder.add(first, ir.Constant(I64, LANES * i))
                        parts.append(_row_lanes(builder, row, at, kind, width))
                        _prefetch(builder, following, at, kind)
                    results = []
                    for query in range(queries):
                        at = builder.add(index, ir.Constant(I64, BLOCK * query))
                        weight = _splat_value(builder, builder.load(builder.gep(weights, [at])))
                        for i, part in enumerate(parts):
                            results.append(_multiply_add(builder, part, weight, totals[query * vectors + i]))
                    return results

                totals = _loop(builder, ir.Constant(I64, 0), count, 1, start, token)
                for place, total in zip(places, totals, strict=True):
                    target = builder.gep(out, [place])
                    builder.store(total, builder.bitcast(target, _FLOATS.as_pointer())).align = 4
                return []

            return several

        spans = builder.mul(builder.udiv(dim, ir.Constant(I64, SPAN * LANES)), ir.Constant(I64, SPAN * LANES))
        whole = builder.and_(dim, ir.Constant(I64, -LANES))
        _loop(builder, ir.Constant(I64, 0), spans, SPAN * LANES, [], columns(SPAN, LANES))
        _loop(builder, spans, whole, LANES, [], columns(1, LANES))
        _loop(builder, whole, dim, LANES, [], columns(1, _HALF))
        return context.get_dummy_value()

    return codegen


def _add_signature(rows: Any) -> Any:
    return types.void(rows, _float, _address, _address, types.int64, types.int64, _float, _float)


@intrinsic
def add_group(typing_context, rows, weights, addresses, ahead, count, dim, factors, out):
    """``out[q] = factors[q] out[q] + sum over i < count of weights[q, i] row[i]`` for GROUP queries.

    weights (GROUP, BLOCK) float32; out: rows of `dim` floats padded to a multiple of 16; the rest as in `score_group`.
    """
    return _add_signature(rows), _add_rows(GROUP)


@intrinsic
def add_one(typing_context, rows, weights, addresses, ahead, count, dim, factors, out):
    """As `add_group` for one query."""
    return _add_signature(rows), _add_rows(1)


@intrinsic
def square_rows(typing_context, rows, addresses, count, dim, out):
    """Squared Euclidean norms of the first `count` rows, to out (BLOCK,) float32."""
    signature = types.void(rows, _address, types.int64, types.int64, _float)

    def codegen(context, builder, signature, arguments):
        _, addresses, count, dim, out = arguments
        kind = element_kind(signature.args[0])
        whole = builder.and_(dim, ir.Constant(I64, -LANES))

        def one(index, _):
            row = _byte_pointer(builder, builder.load(builder.gep(addresses, [index])))

            def body(width):
                def step(at, totals):
                    part = _row_lanes(builder, row, at, kind, width)
                    return [_multiply_add(builder, part, part, totals[0])]

                return step

            totals = _loop(builder, ir.Constant(I64, 0), whole, LANES, [_splat(_FLOATS, 0.0)], body(LANES))
            totals = _loop(builder, whole, dim, LANES, totals, body(_HALF))
            builder.store(_sum_lanes(builder, totals[0]), builder.gep(out, [index]))
            return []

        _loop(builder, ir.Constant(I64, 0), count, 1, [], one)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def widen_row(typing_context, rows, address, dim, out):
    """The row at an address as `dim` float32."""
    signature = types.void(rows, types.int64, types.int64, _float)

    def codegen(context, builder, signature, arguments):
        _, address, dim, out = arguments
        kind, row = element_kind(signature.args[0]), _byte_pointer(builder, address)

        def step(at, _):
            part = _row_lanes(builder, row, at, kind, _HALF)
            part = builder.shuffle_vector(part, part, ir.Constant(_vector(I32, _HALF), list(range(_HALF))))
            target = builder.bitcast(builder.gep(out, [at]), part.type.as_pointer())
            builder.store(part, target).align = 4
            return []

        _loop(builder, ir.Constant(I64, 0), dim, _HALF, [], step)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def halves_of(typing_context, values, count, out):
    """`count` float32, a multiple of 8, as IEEE half bits, uint16, ties to even; infinity if too large."""
    signature = types.void(_float, types.int64, types.CPointer(types.uint16))

    def codegen(context, builder, signature, arguments):
        values, count, out = arguments
        floats, words = _vector(F32, _HALF), _vector(I32, _HALF)

        def step(at, _):
            value = _load(builder, values, at, floats)
            if LEVEL != GENERIC:
                half = builder.bitcast(builder.fptrunc(value, _vector(F16, _HALF)), _vector(I16, _HALF))
            else:
                bits = builder.bitcast(value, words)
                sign = builder.and_(builder.lshr(bits, _splat(words, 16)), _splat(words, 0x8000))
                size = builder.and_(bits, _splat(words, 0x7FFFFFFF))
                # Normal: the exponent moves by 112, and what is cut off rounds to even by an addition. Subnormal: the
                # sum with 1/2 has the wanted bits at its end. Infinity, NaN and what rounds beyond 65504 by choice.
                odd = builder.and_(builder.lshr(size, _splat(words, 13)), _splat(words, 1))
                normal = builder.add(builder.add(size, _splat(words, 0xFFF - (112 << 23))), odd)
                normal = builder.lshr(normal, _splat(words, 13))
                shifted = builder.bitcast(builder.fadd(builder.bitcast(size, floats), _splat(floats, 0.5)), words)
                small = builder.sub(shifted, _splat(words, 0x3F000000))
                small_ones = builder.icmp_unsigned("<", size, _splat(words, 113 << 23))
                half = builder.select(small_ones, small, normal)
                large = builder.icmp_unsigned(">=", size, _splat(words, 0x477FF000))
                half = builder.select(large, _splat(words, 0x7C00), half)
                nan = builder.icmp_unsigned(">", size, _splat(words, 0x7F800000))
                half = builder.select(nan, _splat(words, 0x7E00), half)
                half = builder.trunc(builder.or_(half, sign), _vector(I16, _HALF))
            target = builder.bitcast(builder.gep(out, [at]), half.type.as_pointer())
            builder.store(half, target).align = 2
            return []

        _loop(builder, ir.Constant(I64, 0), count, _HALF, [], step)
        return context.get_dummy_value()

    return signature, codegen
