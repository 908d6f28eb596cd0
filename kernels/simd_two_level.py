"""Vector instructions of codes of two levels: 4 bits a dimension, and 8 more for what these leave."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.simd import F32, I8, I32, I64, LANES, _call, _load, _loop, _splat, _sum_lanes, _vector

FINE = 255  # steps of the second level to one of the first

_FLOATS, _WORDS, _PACKED = _vector(F32, LANES), _vector(I32, LANES), _vector(I8, LANES)
_byte, _float = types.CPointer(types.uint8), types.CPointer(types.float32)


def _fused(builder: Any, x: Any, y: Any, total: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, [x, y, total])


def _spread(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, _splat(_WORDS, 0))


def _reduction(squares: bool) -> Callable[..., Any]:
    """Code generator of `dot_two_level` and `squares_two_level`."""

    def codegen(context, builder, signature, arguments):
        query, codes, fine, dim, base, step = arguments
        half = builder.lshr(builder.add(dim, ir.Constant(I64, 1)), ir.Constant(I64, 1))
        wide_base, wide_step = _spread(builder, base), _spread(builder, step)

        def add(total: Any, vector: Any, level: Any) -> Any:
            if squares:
                vector = value = builder.fsub(builder.fsub(vector, wide_base), builder.fmul(wide_step, level))
            else:
                value = _fused(builder, wide_step, level, wide_base)
            return _fused(builder, vector, value, total)

        def sixteen(index, totals):
            packed, results = _load(builder, codes, index, _PACKED), []
            for upper, total in enumerate(totals):
                at = builder.add(index, half) if upper else index
                nibbles = (
                    builder.lshr(packed, _splat(_PACKED, 4)) if upper else builder.and_(packed, _splat(_PACKED, 15))
                )
                coarse = builder.mul(builder.zext(nibbles, _WORDS), _splat(_WORDS, FINE))
                level = builder.add(coarse, builder.zext(_load(builder, fine, at, _PACKED), _WORDS))
                vector = _load(builder, query, at, _FLOATS)
                results.append(add(total, vector, builder.uitofp(level, _FLOATS)))
            return results

        # The upper half is as long as the lower one or one shorter: whole vectors of both are taken together.
        upper = builder.sub(dim, half)
        whole = builder.and_(upper, ir.Constant(I64, -LANES))
        totals = _loop(builder, ir.Constant(I64, 0), whole, LANES, [_splat(_FLOATS, 0.0)] * 2, sixteen)
        total = _sum_lanes(builder, builder.fadd(*totals))

        def single(shift: Any, high: bool) -> Callable[..., Any]:
            def body(index, sums):
                at = builder.add(index, shift)
                byte = builder.load(builder.gep(codes, [index]))
                nibble = builder.lshr(byte, ir.Constant(I8, 4)) if high else builder.and_(byte, ir.Constant(I8, 15))
                coarse = builder.mul(builder.zext(nibble, I32), ir.Constant(I32, FINE))
                level = builder.add(coarse, builder.zext(builder.load(builder.gep(fine, [at])), I32))
                level, value = builder.uitofp(level, F32), builder.load(builder.gep(query, [at]))
                if squares:
                    value = level = builder.fsub(builder.fsub(value, base), builder.fmul(step, level))
                else:
                    level = builder.fadd(builder.fmul(step, level), base)
                return [_call(builder, "llvm.fmuladd.f32", F32, [value, level, sums[0]])]

            return body

        (total,) = _loop(builder, whole, half, 1, [total], single(ir.Constant(I64, 0), False))
        (total,) = _loop(builder, whole, upper, 1, [total], single(half, True))
        return total

    return codegen


def _signature() -> Any:
    return types.float32(_float, _byte, _byte, types.int64, types.float32, types.float32)


@intrinsic
def dot_two_level(typing_context, query, codes, fine, dim, base, step):
    """``sum over j < dim of query[j] (base + step (FINE c[j] + f[j]))``, float32.

    query float32; codes: c, 4 bits each, j in the low half of byte j and ``half + j`` in its high half, half = ceil(dim
    / 2); fine: f, a byte each.
    """
    return _signature(), _reduction(False)


@intrinsic
def squares_two_level(typing_context, query, codes, fine, dim, base, step):
    """``sum over j < dim of (query[j] - base - step (FINE c[j] + f[j]))^2``; the rest as in `dot_two_level`."""
    return _signature(), _reduction(True)
