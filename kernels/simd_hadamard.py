"""Vector instructions of the Walsh-Hadamard transform: rounds inside registers, and several rounds at once.

A round adds and subtracts elements that are a stride apart. Where the stride is less than a register, a lane and its
partner are in the same one: a permutation brings the partner, and one multiply-add by +1 or -1 gives the sum in
one lane and the difference in the other. The product is exact, so the result is rounded once, like a plain
addition, whether or not the processor fuses the two. Wider strides add and subtract whole registers.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX512, LEVEL
from nearhash.kernels.simd import F32, I16, I32, I64, LANES, _call, _load, _splat, _vector

# Floats transformed at once in registers: 16 of the 32 registers of AVX-512, 8 of the 16 of AVX2, 16 of 32 on ARM.
BLOCK = 256 if LEVEL == AVX512 else 64

_FLOATS = _vector(F32, LANES)
_float = types.CPointer(types.float32)


def _store(builder: Any, value: Any, address: Any, offset: Any) -> None:
    target = builder.bitcast(builder.gep(address, [offset]), value.type.as_pointer())
    builder.store(value, target).align = 1


def _round_of_lanes(builder: Any, value: Any, stride: int) -> Any:
    """Round of a stride below LANES: ``x + y`` in the lane of x, ``x - y`` in that of y."""
    partner = ir.Constant(_vector(I32, LANES), [lane ^ stride for lane in range(LANES)])
    turned = builder.shuffle_vector(value, value, partner)
    factor = ir.Constant(_FLOATS, [-1.0 if lane & stride else 1.0 for lane in range(LANES)])
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, [value, factor, turned])


def _rounds_of_registers(builder: Any, values: list[Any]) -> list[Any]:
    """All rounds between whole registers, the least stride first."""
    stride = 1
    while stride < len(values):
        following = list(values)
        for i in range(len(values)):
            if not i & stride:
                following[i] = builder.fadd(values[i], values[i + stride])
                following[i + stride] = builder.fsub(values[i], values[i + stride])
        values, stride = following, 2 * stride
    return values


def _block(registers: int, signed: bool) -> Callable[..., Any]:
    """Code generator of the transform of LANES * registers floats, `signed` of their products with signs."""

    def codegen(context, builder, signature, arguments):
        source, target = arguments[0], arguments[-1]
        values = []
        for i in range(registers):
            value = _load(builder, source, ir.Constant(I64, LANES * i), _FLOATS)
            if signed:
                value = builder.fmul(value, _load(builder, arguments[1], ir.Constant(I64, LANES * i), _FLOATS))
            for stride in (1, 2, 4, 8):
                value = _round_of_lanes(builder, value, stride)
            values.append(value)
        for i, value in enumerate(_rounds_of_registers(builder, values)):
            _store(builder, value, target, ir.Constant(I64, LANES * i))
        return context.get_dummy_value()

    return codegen


def _block_intrinsic(size: int) -> Any:
    @intrinsic
    def block(typing_context, values):
        return types.void(_float), _block(size // LANES, False)

    return block


def _signed_block_intrinsic(size: int) -> Any:
    @intrinsic
    def signed_block(typing_context, source, signs, values):
        return types.void(_float, _float, _float), _block(size // LANES, True)

    return signed_block


# Transforms in place of 16 to 256 floats at a pointer, and transforms of ``source * signs`` into `values`.
block_16, block_32, block_64, block_128, block_256 = map(_block_intrinsic, (16, 32, 64, 128, 256))
signed_block_16, signed_block_32, signed_block_64, signed_block_128, signed_block_256 = map(
    _signed_block_intrinsic, (16, 32, 64, 128, 256)
)


def _columns(count: int) -> Callable[..., Any]:
    """Code generator of all rounds between `count` registers whose addresses are `stride` floats apart."""

    def codegen(context, builder, signature, arguments):
        address, stride = arguments
        places = [builder.mul(stride, ir.Constant(I64, i)) for i in range(count)]
        values = [_load(builder, address, place, _FLOATS) for place in places]
        for value, place in zip(_rounds_of_registers(builder, values), places, strict=True):
            _store(builder, value, address, place)
        return context.get_dummy_value()

    return codegen


@intrinsic
def columns_2(typing_context, values, stride):
    """The round of a stride of at least LANES, for LANES columns."""
    return types.void(_float, types.int64), _columns(2)


@intrinsic
def columns_4(typing_context, values, stride):
    """The rounds of `stride` and twice it, for LANES columns."""
    return types.void(_float, types.int64), _columns(4)


@intrinsic
def columns_8(typing_context, values, stride):
    """The rounds of one, two and four times `stride`, for LANES columns."""
    return types.void(_float, types.int64), _columns(8)


@intrinsic
def sign_mask(typing_context, values):
    """Bit i: whether values[i] >= 0, for 16 float32 (-0 counts as 0, NaN as negative)."""
    signature = types.uint64(_float)

    def codegen(context, builder, signature, arguments):
        value = _load(builder, arguments[0], ir.Constant(I64, 0), _FLOATS)
        mask = builder.fcmp_ordered(">=", value, _splat(_FLOATS, 0.0))
        return builder.zext(builder.bitcast(mask, I16), I64)

    return signature, codegen
