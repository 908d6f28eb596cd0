"""Vector instructions that scan the codes of keys: 16 tokens side by side, one to a lane, so no sum runs across lanes.

A block holds BLOCK tokens, a group GROUP_TOKENS. See attention_blocks.py for the layout of codes of 4 bits.
"""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX2, AVX512, LEVEL, NEON
from nearhash.kernels.simd import BYTES, F32, I8, I16, I32, I64, _call, _load, _loop, _splat, _vector
from nearhash.kernels.simd_attention import GROUP
from nearhash.kernels.simd_codes import _add_products
from nearhash.kernels.simd_tables import MANY_BLOCKS, MANY_QUERIES, ONE_BLOCKS, TABLE_LINE, _sums

BLOCK = 16  # tokens of a vector
GROUP_TOKENS = 64  # tokens that a scan takes at a time
PLANE = 256  # tokens of a page: distance of two of its numbers of a token

_BYTES, _SUMS, _FLOATS = _vector(I8, BYTES), _vector(I32, BLOCK), _vector(F32, BLOCK)
_byte, _signed, _half, _float, _key = (
    types.CPointer(kind) for kind in (types.uint8, types.int8, types.uint16, types.float32, types.uint64)
)  # fmt: skip


def _add_quads(builder: Any, total: Any, codes: Any, values: Any) -> Any:
    """``total[t] + sum over b < 4 of codes[4 t + b] values[4 t + b]`` for codes of 0 to 15 and int8."""
    if LEVEL in (AVX512, AVX2, NEON):
        return _add_products(builder, total, codes, values)  # whose sums are of neighbouring bytes there
    for byte in range(4):
        lanes = ir.Constant(_SUMS, list(range(byte, BYTES, 4)))
        left = builder.zext(builder.shuffle_vector(codes, codes, lanes), _SUMS)
        right = builder.sext(builder.shuffle_vector(values, values, lanes), _SUMS)
        total = builder.add(total, builder.mul(left, right))
    return total


def _splat_word(builder: Any, word: Any) -> Any:
    """32 bits in each of 16 lanes."""
    kind = _vector(word.type, BLOCK)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), word, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, _splat(_SUMS, 0))


def _wide_numbers(builder: Any, numbers: Any, plane: int, first: Any) -> Any:
    """Numbers of 16 tokens from `first` on, bfloat16, as floats."""
    at = builder.add(first, ir.Constant(I64, PLANE * plane))
    raw = builder.zext(_load(builder, numbers, at, _vector(I16, BLOCK)), _SUMS)
    return builder.bitcast(builder.shl(raw, _splat(_SUMS, 16)), _FLOATS)


def _prefetch_line(builder: Any, address: Any, at: Any) -> list[Any]:
    """Ask for the line of element `at` into the second-level cache; as a body of a loop it has no values."""
    line = builder.bitcast(builder.gep(address, [at]), I8.as_pointer())
    read, keep, data = ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, read, keep, data])
    return []


def _scan_nibbles(queries: int, blocks: int) -> Callable[..., Any]:
    """Code generator of `scan_nibbles` and `scan_nibbles_one`: `blocks` of the group at a time."""

    def codegen(context, builder, signature, arguments):
        codes, ahead, numbers, lines, values, constants, out, stride = arguments
        block_bytes = builder.mul(lines, ir.Constant(I64, BYTES))

        def several(first, _):
            start = builder.mul(builder.udiv(first, ir.Constant(I64, BLOCK)), block_bytes)

            def body(line, totals):
                at = builder.add(start, builder.mul(line, ir.Constant(I64, BYTES)))
                words = builder.mul(line, ir.Constant(I64, 8))
                halves = []
                for block in range(blocks):
                    place = builder.add(at, builder.mul(block_bytes, ir.Constant(I64, block)))
                    packed = _load(builder, codes, place, _BYTES)
                    _prefetch_line(builder, ahead, place)
                    pairs = builder.lshr(builder.bitcast(packed, _vector(I16, 32)), _splat(_vector(I16, 32), 4))
                    mask = _splat(_BYTES, 15)
                    halves.append((builder.and_(packed, mask), builder.and_(builder.bitcast(pairs, _BYTES), mask)))
                results = []
                for query in range(queries):
                    row = builder.add(words, builder.mul(lines, ir.Constant(I64, 8 * query)))
                    for half in range(2):
                        address = builder.gep(values, [builder.add(row, ir.Constant(I64, 4 * half))])
                        word = builder.load(builder.bitcast(address, I32.as_pointer()))
                        word.align = 1
                        spread = builder.bitcast(_splat_word(builder, word), _BYTES)
                        for block in range(blocks):
                            total = totals[len(results)]
                            results.append(_add_quads(builder, total, halves[block][half], spread))
                return results

            zero = [_splat(_SUMS, 0)] * (queries * 2 * blocks)
            sums = _loop(builder, ir.Constant(I64, 0), lines, 1, zero, body)
            for block in range(blocks):
                place = builder.add(first, ir.Constant(I64, BLOCK * block))
                lower, step = (_wide_numbers(builder, numbers, plane, place) for plane in range(2))
                for query in range(queries):
                    factors = [builder.load(builder.gep(constants, [ir.Constant(I64, 2 * query + i)])) for i in (0, 1)]
                    scale, total = (_splat_word(builder, factor) for factor in factors)
                    pair = sums[2 * query * blocks + block], sums[(2 * query + 1) * blocks + block]
                    codes_sum = builder.sitofp(builder.add(*pair), _FLOATS)
                    logit = _call(
                        builder, f"llvm.fmuladd.v{BLOCK}f32", _FLOATS,
                        [step, builder.fmul(scale, codes_sum), builder.fmul(lower, total)],
                    )  # fmt: skip
                    at = builder.add(place, builder.mul(stride, ir.Constant(I64, query)))
                    target = builder.bitcast(builder.gep(out, [at]), _FLOATS.as_pointer())
                    builder.store(logit, target).align = 4
            return []

        _loop(builder, ir.Constant(I64, 0), ir.Constant(I64, GROUP_TOKENS), BLOCK * blocks, [], several)
        return context.get_dummy_value()

    return codegen


def _nibbles_signature() -> Any:
    return types.void(_byte, _byte, _half, types.int64, _signed, _float, _float, types.int64)


@intrinsic
def scan_nibbles(typing_context, codes, ahead, numbers, lines, values, constants, out, stride):
    """Logits of GROUP queries and GROUP_TOKENS tokens: ``lower total + step scale <k, c>`` with 4-bit codes c.

    codes: blocks of `lines` cache lines, see attention_blocks.py; ahead: those that are wanted next; numbers: bfloat16,
    lower and PLANE further step of each token; values: k, `8 lines` int8 for each query; constants: scale and total of
    each query; out: logits, a row of `stride` floats for each query.
    """
    return _nibbles_signature(), _scan_nibbles(GROUP, 1)


@intrinsic
def scan_nibbles_one(typing_context, codes, ahead, numbers, lines, values, constants, out, stride):
    """As `scan_nibbles` for one query."""
    return _nibbles_signature(), _scan_nibbles(1, GROUP_TOKENS // BLOCK if LEVEL == AVX512 else 1)


# sin(pi y) on |y| <= 1/2: y times this polynomial of y^2, Taylor's, within 6e-8.
_SINE = [(-1) ** i * math.pi ** (2 * i + 1) / math.factorial(2 * i + 1) for i in range(6)]


def _cosine_of_turns(builder: Any, x: Any) -> Any:
    """cos(pi x) of 16 floats from 0 to 1."""
    y = builder.fsub(_splat(_FLOATS, 0.5), x)
    square, total = builder.fmul(y, y), _splat(_FLOATS, _SINE[-1])
    for coefficient in _SINE[-2::-1]:
        total = _call(
            builder, f"llvm.fmuladd.v{BLOCK}f32", _FLOATS, [total, square, _splat(_FLOATS, coefficient)]
        )  # fmt: skip
    return builder.fmul(y, total)


def _scan_signs(queries: int) -> Callable[..., Any]:
    """Code generator of `scan_signs` and `scan_signs_one`."""
    eight, lanes = _vector(I64, 8), ir.Constant(_SUMS, list(range(BLOCK)))

    def codegen(context, builder, signature, arguments):
        codes, ahead, norms, words, values, lengths, out, stride = arguments
        bits = builder.uitofp(builder.mul(words, ir.Constant(I64, 64)), F32)
        turn = _splat_word(builder, builder.fdiv(ir.Constant(F32, 1.0), bits))

        def sixteen(first, _):
            def body(word, totals):
                at = builder.add(first, builder.mul(word, ir.Constant(I64, PLANE)))
                places = [builder.add(at, ir.Constant(I64, 8 * i)) for i in range(2)]
                parts = [_load(builder, codes, place, eight) for place in places]
                for place in places:
                    _prefetch_line(builder, ahead, place)
                results = []
                for query in range(queries):
                    place = builder.add(word, builder.mul(words, ir.Constant(I64, query)))
                    value = builder.load(builder.gep(values, [place]))
                    start = builder.insert_element(ir.Constant(eight, ir.Undefined), value, ir.Constant(I32, 0))
                    spread = builder.shuffle_vector(start, start, _splat(_vector(I32, 8), 0))
                    for part in parts:
                        differ = _call(builder, "llvm.ctpop.v8i64", eight, [builder.xor(part, spread)])
                        results.append(builder.add(totals[len(results)], differ))
                return results

            sums = _loop(builder, ir.Constant(I64, 0), words, 1, [_splat(eight, 0)] * (2 * queries), body)
            norm = _wide_numbers(builder, norms, 0, first)
            for query in range(queries):
                wide = builder.shuffle_vector(*sums[2 * query : 2 * query + 2], lanes)
                count = builder.sitofp(builder.trunc(wide, _SUMS), _FLOATS)
                length = _splat_word(builder, builder.load(builder.gep(lengths, [ir.Constant(I64, query)])))
                logit = builder.fmul(builder.fmul(norm, length), _cosine_of_turns(builder, builder.fmul(count, turn)))
                at = builder.add(first, builder.mul(stride, ir.Constant(I64, query)))
                builder.store(logit, builder.bitcast(builder.gep(out, [at]), _FLOATS.as_pointer())).align = 4
            return []

        _loop(builder, ir.Constant(I64, 0), ir.Constant(I64, GROUP_TOKENS), BLOCK, [], sixteen)
        return context.get_dummy_value()

    return codegen


def _signs_signature() -> Any:
    return types.void(_key, _key, _half, types.int64, _key, _float, _float, types.int64)


@intrinsic
def scan_signs(typing_context, codes, ahead, norms, words, values, lengths, out, stride):
    """Logits of GROUP queries and GROUP_TOKENS tokens: ``|q| |k| cos(pi h / B)``, h of B bits different.

    codes: uint64, word w of token i at ``w PLANE + i``; ahead: those that are wanted next; norms: |k|, bfloat16; words
    = B / 64; values: `words` uint64 of each query; lengths: |q| of each; out: logits, a row of `stride` floats for each
    query.
    """
    return _signs_signature(), _scan_signs(GROUP)


@intrinsic
def scan_signs_one(typing_context, codes, ahead, norms, words, values, lengths, out, stride):
    """As `scan_signs` for one query."""
    return _signs_signature(), _scan_signs(1)


def _scan_products(queries: int, blocks: int) -> Callable[..., Any]:
    """Code generator of `scan_products` and `scan_products_one`: `blocks` of the group at a time."""

    def codegen(context, builder, signature, arguments):
        codes, ahead, groups, tables, constants, out, stride = arguments
        block_bytes, table_bytes = (builder.mul(groups, ir.Constant(I64, size)) for size in (BYTES, TABLE_LINE))
        starts = [builder.gep(tables, [builder.mul(table_bytes, ir.Constant(I64, i))]) for i in range(queries)]

        def several(first, _):
            start = builder.mul(builder.udiv(first, ir.Constant(I64, BLOCK)), block_bytes)
            stop = builder.add(start, builder.mul(block_bytes, ir.Constant(I64, blocks)))
            _loop(builder, start, stop, BYTES, [], lambda at, _: _prefetch_line(builder, ahead, at))
            here = builder.gep(codes, [start])
            sums = _sums(builder, here, block_bytes, groups, starts, blocks)
            for query in range(queries):
                pair = [builder.load(builder.gep(constants, [ir.Constant(I64, 2 * query + i)])) for i in (0, 1)]
                scale, base = (_splat_word(builder, value) for value in pair)
                for block in range(blocks):
                    total = builder.sitofp(sums[query * blocks + block], _FLOATS)
                    logit = _call(builder, f"llvm.fmuladd.v{BLOCK}f32", _FLOATS, [total, scale, base])
                    at = builder.add(first, builder.mul(stride, ir.Constant(I64, query)))
                    at = builder.add(at, ir.Constant(I64, BLOCK * block))
                    builder.store(logit, builder.bitcast(builder.gep(out, [at]), _FLOATS.as_pointer())).align = 4
            return []

        _loop(builder, ir.Constant(I64, 0), ir.Constant(I64, GROUP_TOKENS), BLOCK * blocks, [], several)
        return context.get_dummy_value()

    return codegen


def _products_signature() -> Any:
    return types.void(_byte, _byte, types.int64, _byte, _float, _float, types.int64)


@intrinsic
def scan_products(typing_context, codes, ahead, groups, tables, constants, out, stride):
    """Logits of MANY_QUERIES queries and GROUP_TOKENS tokens: ``base + scale * sum of look-ups`` of product codes.

    codes: blocks of `groups` cache lines; ahead: those that are wanted next; tables: those of each query, see
    simd_tables.py; constants: scale and base of each query; out: logits, a row of `stride` floats for each query.
    """
    return _products_signature(), _scan_products(MANY_QUERIES, MANY_BLOCKS)


@intrinsic
def scan_products_one(typing_context, codes, ahead, groups, tables, constants, out, stride):
    """As `scan_products` for one query."""
    return _products_signature(), _scan_products(1, ONE_BLOCKS)
