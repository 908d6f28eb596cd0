"""Unaligned words out of bytes, and products of 64 by 64 bits, as LLVM IR behind Numba intrinsics."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.simd import I8, I32, I64, _call

_BYTES = types.CPointer(types.uint8)


def _reader(kind):
    def codegen(context, builder, signature, arguments):
        value = builder.load(builder.bitcast(arguments[0], kind.as_pointer()))
        value.align = 1
        return value if kind == I64 else builder.zext(value, I64)

    return codegen


@intrinsic
def read64(typing_context, address):
    """Eight bytes at an address of uint8, the lowest first, as uint64."""
    return types.uint64(_BYTES), _reader(I64)


@intrinsic
def read32(typing_context, address):
    """Four bytes at an address of uint8, the lowest first, as uint64."""
    return types.uint64(_BYTES), _reader(I32)


@intrinsic
def multiply_fold(typing_context, x, y):
    """Low half xor high half of the product of two uint64."""

    def codegen(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(value, wide) for value in arguments))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), I64)
        return builder.xor(builder.trunc(product, I64), high)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def swap_bytes(typing_context, value):
    """A uint64 with its bytes in reverse order."""

    def codegen(context, builder, signature, arguments):
        return _call(builder, "llvm.bswap.i64", I64, arguments)

    return types.uint64(types.uint64), codegen


@intrinsic
def copy_bytes(typing_context, target, source, count):
    """Copy `count` bytes between places that do not overlap."""

    def codegen(context, builder, signature, arguments):
        target, source = (builder.bitcast(address, I8.as_pointer()) for address in arguments[:2])
        not_volatile = ir.Constant(ir.IntType(1), 0)
        _call(builder, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [target, source, arguments[2], not_volatile])
        return context.get_dummy_value()

    return types.void(_BYTES, _BYTES, types.int64), codegen
