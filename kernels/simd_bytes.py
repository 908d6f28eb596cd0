"""Bytes: unaligned numbers, products of 64 by 64 bits, classes and copies of text; LLVM IR behind intrinsics."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.simd import I8, I32, I64, _call, _load, _loop, _splat, _vector

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


@intrinsic
def bytes_at(typing_context, address):
    """Pointer to the bytes at an address."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], I8.as_pointer())

    return _BYTES(types.intp), codegen


# --- text ---

BLOCK = 64  # bytes classed at once
WORD_STEP = 16  # bytes of a word copied at once


def _below(builder, bytes_, first, count):
    """Which bytes are one of `count` from `first` on."""
    kind = bytes_.type
    return builder.icmp_unsigned("<", builder.sub(bytes_, _splat(kind, first)), _splat(kind, count))


def _folded(builder, bytes_):
    upper = _below(builder, bytes_, ord("A"), 26)
    return builder.or_(bytes_, builder.select(upper, _splat(bytes_.type, 32), _splat(bytes_.type, 0)))


def _block_mask(choose):
    """An intrinsic's code: bit i says what `choose` does of byte i of a block."""

    def codegen(context, builder, signature, arguments):
        block = _load(builder, arguments[0], ir.Constant(I64, 0), _vector(I8, BLOCK))
        return builder.bitcast(choose(builder, block), I64)

    return codegen


@intrinsic
def ascii_words(typing_context, source):
    """Mask of the letters, digits and underscores of ASCII among 64 bytes."""

    def choose(builder, block):
        kind = block.type
        letter = _below(builder, builder.or_(block, _splat(kind, 32)), ord("a"), 26)
        line = builder.icmp_unsigned("==", block, _splat(kind, ord("_")))
        return builder.or_(builder.or_(letter, line), _below(builder, block, ord("0"), 10))

    return types.uint64(_BYTES), _block_mask(choose)


@intrinsic
def first_bytes(typing_context, source):
    """Mask of the first bytes of characters of UTF-8 that have several, among 64 bytes."""

    def choose(builder, block):
        return builder.icmp_unsigned(">=", block, _splat(block.type, 0xC0))

    return types.uint64(_BYTES), _block_mask(choose)


@intrinsic
def high_bytes(typing_context, source):
    """Mask of what is not ASCII among 64 bytes."""

    def choose(builder, block):
        return builder.icmp_signed("<", block, _splat(block.type, 0))

    return types.uint64(_BYTES), _block_mask(choose)


@intrinsic
def copy_word(typing_context, target, source, size, fold):
    """Copy bytes in steps of 16, at least `size` and at least one step; fold: lower-case letters of ASCII."""

    def codegen(context, builder, signature, arguments):
        target, source, size, fold = arguments
        kind = _vector(I8, WORD_STEP)

        def step(at, _):
            word = _load(builder, source, at, kind)
            word = builder.select(fold, _folded(builder, word), word)
            place = builder.bitcast(builder.gep(target, [at]), kind.as_pointer())
            builder.store(word, place).align = 1
            return []

        step(ir.Constant(I64, 0), [])
        more = ir.Constant(I64, WORD_STEP - 1)
        whole = builder.and_(builder.add(size, more), ir.Constant(I64, -WORD_STEP))
        _loop(builder, ir.Constant(I64, WORD_STEP), whole, WORD_STEP, [], step)
        return context.get_dummy_value()

    return types.void(_BYTES, _BYTES, types.int64, types.boolean), codegen
