"""All vector instructions of the project, as LLVM IR behind Numba intrinsics.

LLVM does not find the good instructions by itself in a scalar Numba loop (3 to 10 times slower for integer codes), so
the innermost loops are emitted here and everything around them is plain `jit` code. The IR works on 16 float lanes
or 64 code bytes whatever the processor: LLVM cuts such vectors to the registers there are, so the order of
additions, and with it the result, is the same everywhere but for fused multiply-adds. Only integer dot products
need instructions by name; ``features.LEVEL`` chooses them.

Pointers are ``CPointer`` values from `pointer`; no intrinsic checks bounds.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nearhash.kernels.features import AVX2, AVX512, GENERIC, LEVEL, NEON

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
LANES = 16  # floats per step: one AVX-512 register, two AVX2 registers, four NEON registers
BYTES = 64  # code bytes per step, and the alignment of code rows
UNROLL = 4  # independent accumulators: enough to hide the latency of a multiply-add

Values = Sequence[Any]


def _vector(element: ir.Type, count: int) -> ir.VectorType:
    return ir.VectorType(element, count)


def _splat(vector_type: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(vector_type, [value] * vector_type.count)


def _call(builder: Any, name: str, result: ir.Type, arguments: Values) -> Any:
    """Call the LLVM or target intrinsic `name`."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _load(builder: Any, address: Any, offset: Any, vector_type: ir.VectorType) -> Any:
    """Unaligned load of a vector at `address + offset`, the offset counted in elements."""
    value = builder.load(builder.bitcast(builder.gep(address, [offset]), vector_type.as_pointer()))
    value.align = 1
    return value


def _copy(builder: Any, name: str, target: Any, source: Any, size: Any) -> None:
    """Call llvm.memcpy or llvm.memmove for `size` bytes."""
    target, source = (builder.bitcast(address, I8.as_pointer()) for address in (target, source))
    not_volatile = ir.Constant(ir.IntType(1), 0)
    _call(builder, f"llvm.{name}.p0.p0.i64", ir.VoidType(), [target, source, size, not_volatile])


def _loop(
    builder: Any, start: Any, stop: Any, step: int, initial: Values, body: Callable[[Any, Values], Values]
) -> Values:
    """``for i in range(start, stop, step): values = body(i, values)``; `stop - start` is a multiple of `step`."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(start, before)
    values = [builder.phi(value.type) for value in initial]
    for phi, value in zip(values, initial, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
    builder.position_at_end(inside)
    results = body(index, values)
    index.add_incoming(builder.add(index, ir.Constant(I64, step)), builder.block)
    for phi, value in zip(values, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def _sum_lanes(builder: Any, vector: Any) -> Any:
    """Sum of all lanes by halving: a fixed order, so the same result on every processor."""
    add = builder.fadd if vector.type.element == F32 else builder.add
    undefined = ir.Constant(vector.type, ir.Undefined)
    count = vector.type.count
    while count > 1:
        count //= 2
        low, high = (
            builder.shuffle_vector(vector, undefined, ir.Constant(_vector(I32, count), list(lanes)))
            for lanes in (range(count), range(count, 2 * count))
        )
        vector = add(low, high)
        undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.extract_element(vector, ir.Constant(I32, 0))


# --- addresses -------------------------------------------------------------------------------------------------


@intrinsic
def pointer(typing_context, array, offset):
    """Address of element `offset` of a C-contiguous array, counted over the flattened array."""
    signature = types.CPointer(array.dtype)(array, types.int64)

    def codegen(context, builder, signature, arguments):
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return signature, codegen


@intrinsic
def offset(typing_context, address, count):
    """`address` moved by `count` elements."""
    signature = address(address, types.int64)

    def codegen(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return signature, codegen


@intrinsic
def exchange_if(typing_context, address, expected, value):
    """Store `value` at `address` if `expected` is there, in one step that no other thread can come between.

    Returns whether it was.
    """
    signature = types.boolean(address, address.dtype, address.dtype)

    def codegen(context, builder, signature, arguments):
        found = builder.cmpxchg(*arguments, ordering="monotonic", failordering="monotonic")
        return builder.extract_value(found, 1)

    return signature, codegen


@intrinsic
def fetch_add(typing_context, address, value):
    """Add `value` to what is at `address`, in one step that no other thread can come between.

    Returns what was there before.
    """
    signature = address.dtype(address, address.dtype)

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", *arguments, ordering="monotonic")

    return signature, codegen


@intrinsic
def prefetch(typing_context, address):
    """Ask the processor to bring the cache line at `address` for reading."""
    signature = types.void(address)

    def codegen(context, builder, signature, arguments):
        line = builder.bitcast(arguments[0], I8.as_pointer())
        read, keep, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, read, keep, data])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def shift_right(typing_context, address, count):
    """Move `count` uint64 at `address` one place up: room for an insertion into a sorted array."""
    signature = types.void(types.CPointer(types.uint64), types.int64)

    def codegen(context, builder, signature, arguments):
        source, count = arguments
        target = builder.gep(source, [ir.Constant(I64, 1)])
        size = builder.shl(count, ir.Constant(I64, 3))
        _copy(builder, "memmove", target, source, size)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def float_bits(typing_context, value):
    """Bits of a float32 as uint64 (upper half zero); for values >= 0 they sort like the values."""
    signature = types.uint64(types.float32)

    def codegen(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], I32), I64)

    return signature, codegen


@intrinsic
def bits_float(typing_context, bits):
    """Inverse of `float_bits`."""
    signature = types.float32(types.uint64)

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(builder.trunc(arguments[0], I32), F32)

    return signature, codegen


# --- float queries against rows of any type --------------------------------------------------------------------


def _half_to_float(builder: Any, value: Any) -> Any:
    """IEEE half bits (uint16 lanes) to float32; finite values only.

    Without conversion instructions LLVM would call a library function that a JIT process may lack, hence the
    arithmetic form: the exponent moves by 112, which also normalises subnormals.
    """
    if LEVEL != GENERIC:
        return builder.fpext(builder.bitcast(value, _vector(F16, LANES)), _vector(F32, LANES))
    wide, vector_type = builder.zext(value, _vector(I32, LANES)), _vector(I32, LANES)
    magnitude = builder.shl(builder.and_(wide, _splat(vector_type, 0x7FFF)), _splat(vector_type, 13))
    sign = builder.shl(builder.and_(wide, _splat(vector_type, 0x8000)), _splat(vector_type, 16))
    scaled = builder.fmul(builder.bitcast(magnitude, _vector(F32, LANES)), _splat(_vector(F32, LANES), 2.0**112))
    bits = builder.or_(builder.bitcast(scaled, vector_type), sign)
    return builder.bitcast(bits, _vector(F32, LANES))


def _widen(builder: Any, value: Any, element: types.Type) -> Any:
    """16 lanes of a stored row as float32: float32, uint16 (IEEE half bits), uint8 or int8."""
    if element == types.float32:
        return value
    if element == types.uint16:
        return _half_to_float(builder, value)
    wide = (builder.zext if element == types.uint8 else builder.sext)(value, _vector(I32, LANES))
    return builder.sitofp(wide, _vector(F32, LANES))


def _float_step(builder: Any, operation: str, query: Any, row: Any, total: Any) -> Any:
    factor = (query, row)
    if operation == "l2":
        difference = builder.fsub(query, row)
        factor = (difference, difference)
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", total.type, [*factor, total])


def _float_reduction(operation: str) -> Callable[..., Any]:
    """Code generator of ``sum over i < count of step(query[i], row[i])`` for a float query and any row type."""

    def codegen(context, builder, signature, arguments):
        query, row, count = arguments
        element = signature.args[1].dtype
        floats, raw = _vector(F32, LANES), _vector(context.get_value_type(element), LANES)
        zero = _splat(floats, 0.0)

        def step(offset, total):
            wide = _widen(builder, _load(builder, row, offset, raw), element)
            return _float_step(builder, operation, _load(builder, query, offset, floats), wide, total)

        def unrolled(index, totals):
            return [
                step(builder.add(index, ir.Constant(I64, LANES * lane)), total) for lane, total in enumerate(totals)
            ]

        long = builder.and_(count, ir.Constant(I64, -LANES * UNROLL))
        whole = builder.and_(count, ir.Constant(I64, -LANES))
        totals = _loop(builder, ir.Constant(I64, 0), long, LANES * UNROLL, [zero] * UNROLL, unrolled)
        pair = builder.fadd(totals[0], totals[1]), builder.fadd(totals[2], totals[3])
        total = _loop(builder, long, whole, LANES, [builder.fadd(*pair)], lambda i, t: [step(i, t[0])])[0]

        # The rest, fewer than 16 elements: read by a vector that ends with the row and mask what was counted before.
        # A row shorter than one vector has nothing before it that may be read: there it is copied to the stack.
        rest = builder.sub(count, whole)
        result = cgutils.alloca_once_value(builder, total)
        with builder.if_then(builder.icmp_signed(">", rest, ir.Constant(I64, 0))):  # noqa: SIM117 - two IR blocks
            with builder.if_else(builder.icmp_signed(">=", count, ir.Constant(I64, LANES))) as (overlapping, short):
                with overlapping:
                    offset = builder.sub(count, ir.Constant(I64, LANES))
                    lanes = ir.Constant(_vector(I64, LANES), list(range(LANES)))
                    first = builder.insert_element(
                        ir.Constant(_vector(I64, LANES), ir.Undefined),
                        builder.sub(ir.Constant(I64, LANES), rest),
                        ir.Constant(I32, 0),
                    )
                    first = builder.shuffle_vector(first, first, _splat(_vector(I32, LANES), 0))
                    fresh = builder.icmp_signed(">=", lanes, first)
                    masked_query = builder.select(fresh, _load(builder, query, offset, floats), zero)
                    wide = _widen(builder, _load(builder, row, offset, raw), element)
                    masked_row = builder.select(fresh, wide, zero)
                    builder.store(_float_step(builder, operation, masked_query, masked_row, total), result)
                with short:
                    buffers = []
                    for source, kind in ((query, floats), (row, raw)):
                        buffer = cgutils.alloca_once(builder, kind)
                        builder.store(ir.Constant(kind, None), buffer)
                        size = builder.mul(count, ir.Constant(I64, context.get_abi_sizeof(kind.element)))
                        _copy(builder, "memcpy", buffer, source, size)
                        buffers.append(builder.load(buffer))
                    wide = _widen(builder, buffers[1], element)
                    builder.store(_float_step(builder, operation, buffers[0], wide, total), result)
        return _sum_lanes(builder, builder.load(result))

    return codegen


def _float_signature(row: Any) -> Any:
    return types.float32(types.CPointer(types.float32), row, types.int64)


@intrinsic
def dot(typing_context, query, row, count):
    """Inner product of a float32 query and a row of float32, uint16 (half bits), uint8 or int8."""
    return _float_signature(row), _float_reduction("dot")


@intrinsic
def squared_l2(typing_context, query, row, count):
    """Squared Euclidean distance of a float32 query and a row of float32, uint16 (half bits), uint8 or int8."""
    return _float_signature(row), _float_reduction("l2")


# --- integer queries against integer rows ----------------------------------------------------------------------


def _multiply_pairs(builder: Any, x: Any, y: Any) -> Any:
    """``<32 x i16>`` twice -> ``<16 x i32>``: products of neighbouring lanes, added in pairs."""
    result = _vector(I32, 16)
    if LEVEL == AVX512:
        return _call(builder, "llvm.x86.avx512.pmaddw.d.512", result, [x, y])
    if LEVEL == AVX2:
        halves = []
        for lanes in (range(16), range(16, 32)):
            mask = ir.Constant(_vector(I32, 16), list(lanes))
            parts = [builder.shuffle_vector(v, v, mask) for v in (x, y)]
            halves.append(_call(builder, "llvm.x86.avx2.pmadd.wd", _vector(I32, 8), parts))
        return builder.shuffle_vector(*halves, ir.Constant(result, list(range(16))))
    products = []
    for lanes in (range(0, 32, 2), range(1, 32, 2)):
        mask = ir.Constant(result, list(lanes))
        parts = [builder.sext(builder.shuffle_vector(v, v, mask), result) for v in (x, y)]
        products.append(builder.mul(*parts))
    return builder.add(*products)


def _integer_reduction(operation: str) -> Callable[..., Any]:
    """Code generator for rows of uint8 or int8; exact for up to 32,768 dimensions."""

    def codegen(context, builder, signature, arguments):
        x, y, count = arguments
        widen = builder.zext if signature.args[0].dtype == types.uint8 else builder.sext
        raw, words, sums = _vector(I8, 32), _vector(I16, 32), _vector(I32, 16)

        def combine(left, right, total):
            if operation == "l2":
                left = right = builder.sub(left, right)
            return builder.add(total, _multiply_pairs(builder, left, right))

        def body(index, totals):
            left, right = (widen(_load(builder, pointer_, index, raw), words) for pointer_ in (x, y))
            return [combine(left, right, totals[0])]

        whole = builder.and_(count, ir.Constant(I64, -32))
        total = _loop(builder, ir.Constant(I64, 0), whole, 32, [_splat(sums, 0)], body)[0]

        def one(index, totals):
            left, right = (widen(builder.load(builder.gep(p, [index])), I32) for p in (x, y))
            if operation == "l2":
                left = right = builder.sub(left, right)
            return [builder.add(totals[0], builder.mul(left, right))]

        return _loop(builder, whole, count, 1, [_sum_lanes(builder, total)], one)[0]

    return codegen


def _integer_signature(element: Any) -> Any:
    return types.int32(element, element, types.int64)


@intrinsic
def integer_dot(typing_context, x, y, count):
    """Inner product of two uint8 or two int8 rows, exact in int32 for count <= 32,768."""
    return _integer_signature(x), _integer_reduction("dot")


@intrinsic
def integer_squared_l2(typing_context, x, y, count):
    """Squared Euclidean distance of two uint8 or two int8 rows, exact in int32 for count <= 32,768."""
    return _integer_signature(x), _integer_reduction("l2")


@intrinsic
def dot_codes(typing_context, codes, query, count):
    """Inner product of uint8 codes and an int8 query, exact in int32; `count` is a multiple of 64.

    The innermost step of an LVQ distance. With VNNI one instruction multiplies and adds 64 pairs. ARM's equivalent
    wants both sides signed: codes - 128 goes in, and 128 * sum(query) is added by a second one. Elsewhere
    both sides are widened to 16 bits first, because the 8-bit multiply-add of older x86 saturates.
    """
    signature = types.int32(types.CPointer(types.uint8), types.CPointer(types.int8), types.int64)

    def codegen(context, builder, signature, arguments):
        codes, query, count = arguments
        sums = _vector(I32, 16)

        def neon(index, totals):
            quads = _vector(I32, 4)
            following = []
            for part, total in enumerate(totals):
                offset = builder.add(index, ir.Constant(I64, 16 * part))
                code, values = (_load(builder, p, offset, _vector(I8, 16)) for p in (codes, query))
                for factor in (
                    builder.xor(code, _splat(code.type, 0x80)),
                    _splat(code.type, 64),
                    _splat(code.type, 64),
                ):
                    total = _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", quads, [total, factor, values])
                following.append(total)
            return following

        if LEVEL == NEON:
            start = [_splat(_vector(I32, 4), 0)] * 4
            quads = _loop(builder, ir.Constant(I64, 0), count, BYTES, start, neon)
            pairs = builder.add(quads[0], quads[1]), builder.add(quads[2], quads[3])
            return _sum_lanes(builder, builder.add(*pairs))

        def body(index, totals):
            if LEVEL == AVX512:
                pair = [_load(builder, p, index, _vector(I8, 64)) for p in (codes, query)]
                return [_call(builder, "llvm.x86.avx512.vpdpbusd.512", sums, [totals[0], *pair])]
            total = totals[0]
            for half in (0, 32):
                offset = builder.add(index, ir.Constant(I64, half))
                left = builder.zext(_load(builder, codes, offset, _vector(I8, 32)), _vector(I16, 32))
                right = builder.sext(_load(builder, query, offset, _vector(I8, 32)), _vector(I16, 32))
                total = builder.add(total, _multiply_pairs(builder, left, right))
            return [total]

        total = _loop(builder, ir.Constant(I64, 0), count, BYTES, [_splat(sums, 0)], body)[0]
        return _sum_lanes(builder, total)

    return signature, codegen


# --- matrix products -------------------------------------------------------------------------------------------

# Shape of the register tile: queries by groups of 16 rows. AVX-512 has 32 registers of 16 floats, and 24 sums, two
# loads of rows and broadcasts fit them; elsewhere 16 floats take two registers of 16 (AVX2) or four of 32 (NEON).
PRODUCT_QUERIES, PRODUCT_GROUPS = (12, 2) if LEVEL == AVX512 else (6, 1)
PRODUCT_ROWS = PRODUCT_GROUPS * LANES


@intrinsic
def product_tile(typing_context, queries, stride, panel, dim, out, out_stride):
    """Inner products of PRODUCT_QUERIES queries and PRODUCT_ROWS rows.

    queries: pointer to rows of `stride` floats, the first `dim` of which count; panel (dim, PRODUCT_ROWS), the rows
    transposed; out: pointer to rows of `out_stride` floats, PRODUCT_ROWS of which are written. Each sum is taken in the
    order of the dimensions.
    """
    floats = types.CPointer(types.float32)
    signature = types.void(floats, types.int64, floats, types.int64, floats, types.int64)

    def codegen(context, builder, signature, arguments):
        queries, stride, panel, dim, out, out_stride = arguments
        vector_type = _vector(F32, LANES)
        undefined, zeros = ir.Constant(vector_type, ir.Undefined), _splat(_vector(I32, LANES), 0)
        starts = [builder.gep(queries, [builder.mul(stride, ir.Constant(I64, i))]) for i in range(PRODUCT_QUERIES)]

        def body(index, sums):
            row = builder.mul(index, ir.Constant(I64, PRODUCT_ROWS))
            groups = [
                _load(builder, panel, builder.add(row, ir.Constant(I64, LANES * group)), vector_type)
                for group in range(PRODUCT_GROUPS)
            ]
            following = []
            for i, start in enumerate(starts):
                value = builder.load(builder.gep(start, [index]))
                first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
                spread = builder.shuffle_vector(first, undefined, zeros)
                for j, group in enumerate(groups):
                    total = sums[i * PRODUCT_GROUPS + j]
                    following.append(_call(builder, f"llvm.fmuladd.v{LANES}f32", vector_type, [spread, group, total]))
            return following

        nothing = [_splat(vector_type, 0.0)] * (PRODUCT_QUERIES * PRODUCT_GROUPS)
        sums = _loop(builder, ir.Constant(I64, 0), dim, 1, nothing, body)
        for i in range(PRODUCT_QUERIES):
            line = builder.gep(out, [builder.mul(out_stride, ir.Constant(I64, i))])
            for j in range(PRODUCT_GROUPS):
                target = builder.gep(line, [ir.Constant(I64, LANES * j)])
                value = sums[i * PRODUCT_GROUPS + j]
                builder.store(value, builder.bitcast(target, vector_type.as_pointer())).align = 4
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def multiply_add(typing_context, x, y, total):
    """``x * y + total`` of float32, rounded as the products above round."""
    signature = types.float32(types.float32, types.float32, types.float32)

    def codegen(context, builder, signature, arguments):
        return _call(builder, "llvm.fmuladd.f32", F32, arguments)

    return signature, codegen


LINE_PANELS = 4  # panels at a time for a single query: eight sums hide the latency of a multiply-add


def _product_line(panels: int) -> Callable[..., Any]:
    """Code generator of `product_line` and `product_panel`."""

    def codegen(context, builder, signature, arguments):
        query, panel, dim, out = arguments
        vector_type, undefined = _vector(F32, LANES), ir.Constant(_vector(F32, LANES), ir.Undefined)
        zeros = _splat(_vector(I32, LANES), 0)
        size = builder.mul(dim, ir.Constant(I64, PRODUCT_ROWS))
        starts = [builder.gep(panel, [builder.mul(size, ir.Constant(I64, i))]) for i in range(panels)]

        def body(index, sums):
            value = builder.load(builder.gep(query, [index]))
            first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
            spread = builder.shuffle_vector(first, undefined, zeros)
            row, following = builder.mul(index, ir.Constant(I64, PRODUCT_ROWS)), []
            for i, total in enumerate(sums):
                start, lane = starts[i // PRODUCT_GROUPS], LANES * (i % PRODUCT_GROUPS)
                group = _load(builder, start, builder.add(row, ir.Constant(I64, lane)), vector_type)
                following.append(_call(builder, f"llvm.fmuladd.v{LANES}f32", vector_type, [spread, group, total]))
            return following

        nothing = [_splat(vector_type, 0.0)] * (panels * PRODUCT_GROUPS)
        for i, total in enumerate(_loop(builder, ir.Constant(I64, 0), dim, 1, nothing, body)):
            target = builder.gep(out, [ir.Constant(I64, LANES * i)])
            builder.store(total, builder.bitcast(target, vector_type.as_pointer())).align = 4
        return context.get_dummy_value()

    return codegen


def _line_signature() -> Any:
    floats = types.CPointer(types.float32)
    return types.void(floats, floats, types.int64, floats)


@intrinsic
def product_line(typing_context, query, panel, dim, out):
    """Inner products of one query and the rows of LINE_PANELS consecutive panels, as `product_tile` would give them."""
    return _line_signature(), _product_line(LINE_PANELS)


@intrinsic
def product_panel(typing_context, query, panel, dim, out):
    """As `product_line` for one panel."""
    return _line_signature(), _product_line(1)


# --- counting --------------------------------------------------------------------------------------------------


def _counting(lanes: int, unsigned: bool) -> Callable[..., Any]:
    """Code generator of ``sum over i < size of values[i] <= bound``."""

    def codegen(context, builder, signature, arguments):
        values, size, bound = arguments
        element = bound.type
        compare = builder.icmp_unsigned if unsigned else builder.fcmp_ordered
        vector_type, sums = _vector(element, lanes), _vector(I64 if unsigned else I32, lanes)
        first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), bound, ir.Constant(I32, 0))
        bounds = builder.shuffle_vector(first, first, _splat(_vector(I32, lanes), 0))

        def body(index, totals):
            following = []
            for part, total in enumerate(totals):
                at = builder.add(index, ir.Constant(I64, lanes * part))
                below = compare("<=", _load(builder, values, at, vector_type), bounds)
                following.append(builder.sub(total, builder.sext(below, sums)))
            return following

        def one(index, totals):
            below = compare("<=", builder.load(builder.gep(values, [index])), bound)
            return [builder.add(totals[0], builder.zext(below, I64))]

        step = UNROLL * lanes
        whole = builder.and_(size, ir.Constant(I64, -step))
        totals = _loop(builder, ir.Constant(I64, 0), whole, step, [_splat(sums, 0)] * UNROLL, body)
        pair = builder.add(totals[0], totals[1]), builder.add(totals[2], totals[3])
        total = _sum_lanes(builder, builder.add(*pair))
        total = total if unsigned else builder.sext(total, I64)
        return _loop(builder, whole, size, 1, [total], one)[0]

    return codegen


@intrinsic
def count_floats(typing_context, values, size, bound):
    """How many of `size` float32 are at most `bound`."""
    return types.int64(types.CPointer(types.float32), types.int64, types.float32), _counting(LANES, False)


@intrinsic
def count_keys(typing_context, values, size, bound):
    """How many of `size` uint64 are at most `bound`."""
    return types.int64(types.CPointer(types.uint64), types.int64, types.uint64), _counting(LANES // 2, True)


def _extreme(lanes: int, unsigned: bool, relation: str) -> Callable[..., Any]:
    """Code generator of the least (relation "<") or greatest (">") of at least one value."""

    def codegen(context, builder, signature, arguments):
        values, size = arguments
        compare = builder.icmp_unsigned if unsigned else builder.fcmp_ordered
        vector_type = _vector(context.get_value_type(signature.args[0].dtype), lanes)
        start = builder.load(values)
        first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), start, ir.Constant(I32, 0))
        splat = builder.shuffle_vector(first, first, _splat(_vector(I32, lanes), 0))

        def better(left, right):
            return builder.select(compare(relation, left, right), left, right)

        def body(index, best):
            parts = [builder.add(index, ir.Constant(I64, lanes * part)) for part in range(len(best))]
            return [better(_load(builder, values, at, vector_type), old) for at, old in zip(parts, best, strict=True)]

        long = builder.and_(size, ir.Constant(I64, -lanes * UNROLL))
        whole = builder.and_(size, ir.Constant(I64, -lanes))
        several = _loop(builder, ir.Constant(I64, 0), long, lanes * UNROLL, [splat] * UNROLL, body)
        best = better(better(several[0], several[1]), better(several[2], several[3]))
        best = _loop(builder, long, whole, lanes, [best], body)[0]
        undefined, count = ir.Constant(vector_type, ir.Undefined), lanes
        while count > 1:
            count //= 2
            low, high = (
                builder.shuffle_vector(best, undefined, ir.Constant(_vector(I32, count), list(part)))
                for part in (range(count), range(count, 2 * count))
            )
            best = better(low, high)
            undefined = ir.Constant(best.type, ir.Undefined)
        best = builder.extract_element(best, ir.Constant(I32, 0))
        return _loop(
            builder, whole, size, 1, [best], lambda i, b: [better(builder.load(builder.gep(values, [i])), b[0])]
        )[0]

    return codegen


@intrinsic
def least_float(typing_context, values, size):
    """The least of `size` > 0 float32."""
    return types.float32(types.CPointer(types.float32), types.int64), _extreme(LANES, False, "<")


@intrinsic
def greatest_float(typing_context, values, size):
    """The greatest of `size` > 0 float32."""
    return types.float32(types.CPointer(types.float32), types.int64), _extreme(LANES, False, ">")


@intrinsic
def least_key(typing_context, values, size):
    """The least of `size` > 0 uint64."""
    return types.uint64(types.CPointer(types.uint64), types.int64), _extreme(LANES // 2, True, "<")


@intrinsic
def greatest_key(typing_context, values, size):
    """The greatest of `size` > 0 uint64."""
    return types.uint64(types.CPointer(types.uint64), types.int64), _extreme(LANES // 2, True, ">")


# --- selection -------------------------------------------------------------------------------------------------


@intrinsic
def any_below(typing_context, dots, bias, scale, threshold):
    """Whether ``bias[i] + scale * dots[i] <= threshold`` for any of 64 floats.

    The filter in front of a top-k: once the k-th best is known almost every group of 64 fails it at once.
    """
    floats = types.CPointer(types.float32)
    signature = types.boolean(floats, floats, types.float32, types.float32)

    def codegen(context, builder, signature, arguments):
        dots, bias, scale, threshold = arguments
        vector_type = _vector(F32, LANES)
        undefined, zeros = ir.Constant(vector_type, ir.Undefined), _splat(_vector(I32, LANES), 0)

        def broadcast(value):
            first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
            return builder.shuffle_vector(first, undefined, zeros)

        scale, threshold = broadcast(scale), broadcast(threshold)
        found = None
        for part in range(UNROLL):
            offset = ir.Constant(I64, LANES * part)
            pair = [_load(builder, p, offset, vector_type) for p in (dots, bias)]
            score = _call(builder, f"llvm.fmuladd.v{LANES}f32", vector_type, [scale, *pair])
            below = builder.fcmp_ordered("<=", score, threshold)
            found = below if found is None else builder.or_(found, below)
        bits = builder.bitcast(found, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return signature, codegen
