"""Vector instructions that scan the codes of keys: 16 tokens side by side, one to a lane, so no sum runs across lanes.

A block holds BLOCK tokens, a group GROUP_TOKENS. See attention_lvq4.py for the layout.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX2, AVX512, LEVEL, NEON
from nearhash.kernels.simd import BYTES, F32, I8, I16, I32, I64, _call, _load, _loop, _splat, _vector
from nearhash.kernels.simd_attention import GROUP
from nearhash.kernels.simd_codes import _add_products

BLOCK = 16  # tokens of a vector
GROUP_TOKENS = 64  # tokens that a scan takes at a time
PLANE = 256  # tokens of a page: distance of two of its numbers of a token

_BYTES, _SUMS, _FLOATS = _vector(I8, BYTES), _vector(I32, BLOCK), _vector(F32, BLOCK)
_byte, _signed, _half, _float = (
    types.CPointer(kind) for kind in (types.uint8, types.int8, types.uint16, types.float32)
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


def _scan_nibbles(queries: int, blocks: int) -> Callable[..., Any]:
    """Code generator of `scan_nibbles` and `scan_nibbles_one`: `blocks` of the group at a time."""

    def codegen(context, builder, signature, arguments):
        codes, numbers, lines, values, constants, out, stride = arguments
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
    return types.void(_byte, _half, types.int64, _signed, _float, _float, types.int64)


@intrinsic
def scan_nibbles(typing_context, codes, numbers, lines, values, constants, out, stride):
    """Logits of GROUP queries and GROUP_TOKENS tokens: ``lower total + step scale <k, c>`` with 4-bit codes c.

    codes: blocks of `lines` cache lines, see attention_lvq4.py; numbers: bfloat16, lower and PLANE further step of each
    token; values: k, `8 lines` int8 for each query; constants: scale and total of each query; out: logits, a row of
    `stride` floats for each query.
    """
    return _nibbles_signature(), _scan_nibbles(GROUP, 1)


@intrinsic
def scan_nibbles_one(typing_context, codes, numbers, lines, values, constants, out, stride):
    """As `scan_nibbles` for one query."""
    return _nibbles_signature(), _scan_nibbles(1, GROUP_TOKENS // BLOCK if LEVEL == AVX512 else 1)
