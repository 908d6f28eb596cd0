"""Vector instructions of the fast scan: many 4-bit look-ups at once, and what follows when a score is good enough.

Codes lie in blocks of BLOCK = 16 vectors. A block holds, for each group of GROUP = 8 sub-quantisers, one cache line:
byte ``4 v + j`` has the code of sub-quantiser j of the group for vector v in its low half and that of sub-quantiser
4 + j in its high half. So the four bytes of a 32-bit lane belong to one vector, and with AVX-512 VBMI eight
instructions do 128 look-ups *and* their sums: `vpermb` looks all four tables of 16 bytes up in one register of 64,
`vpdpbusd` adds the four values of each vector to its 32-bit sum, which cannot overflow. Elsewhere the bytes are brought
into the order of the sub-quantisers first (one `ld4` on ARM), and each looks its own table up.

Look-up tables of a query: 64 bytes for the low halves of a group, then 64 for the high ones, 16 for each sub-quantiser.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from nearhash.kernels.features import AVX2, AVX512, LEVEL, NEON
from nearhash.kernels.simd import F32, I8, I16, I32, I64, _call, _load, _loop, _splat, _vector

BLOCK = 16  # vectors
GROUP = 8  # sub-quantisers
LINE = 64  # bytes of a block for a group
TABLE_LINE = 2 * LINE  # bytes of a query's tables for a group

BYTE_PERMUTE = LEVEL == AVX512 and bool(binding.get_host_cpu_features().get("avx512vbmi"))
# Queries that scan a list together, and blocks per step: as many sums as fit the registers. Codes are loaded and
# taken apart once for all queries of a step.
MANY_QUERIES, MANY_BLOCKS = 4, 2
ONE_BLOCKS = 4 if BYTE_PERMUTE else 2

_EXACT_GROUPS = 32  # whose sums of bytes fit 16 bits: 32 * 8 * 255 < 2^16

_BYTES, _SUMS = _vector(I8, LINE), _vector(I32, BLOCK)
_FLOATS = _vector(F32, BLOCK)


def _halves(builder: Any, line: Any) -> tuple[Any, Any]:
    """Low and high halves of 64 bytes, each byte 0 to 15."""
    high = builder.bitcast(builder.lshr(builder.bitcast(line, _vector(I16, 32)), _splat(_vector(I16, 32), 4)), _BYTES)
    return builder.and_(line, _splat(_BYTES, 15)), builder.and_(high, _splat(_BYTES, 15))


def _look_up(builder: Any, table: Any, codes: Any) -> Any:
    """``table[codes]`` for 16 bytes each."""
    raw = _vector(I8, 16)
    if LEVEL in (AVX512, AVX2):
        return _call(builder, "llvm.x86.ssse3.pshuf.b.128", raw, [table, codes])
    if LEVEL == NEON:
        return _call(builder, "llvm.aarch64.neon.tbl1.v16i8", raw, [table, codes])
    result = ir.Constant(raw, ir.Undefined)
    for lane in range(16):
        position = ir.Constant(I32, lane)
        value = builder.extract_element(table, builder.zext(builder.extract_element(codes, position), I32))
        result = builder.insert_element(result, value, position)
    return result


# Vectors of two blocks (16 to 31 those of the second) in the order in which `_columns` has them.
_COLUMN_ORDER = [
    16 * block + 8 * part + 4 * lane + v for lane in (0, 1) for block in (0, 1) for part in (0, 1) for v in range(4)
]


def _columns(builder: Any, first: Any, second: Any) -> list[Any]:
    """64 bytes each of two blocks as four times 32 bytes, one for each sub-quantiser, in `_COLUMN_ORDER`.

    Every step is one AVX2 instruction: bytes are gathered within lanes of 16, then 4 x 4 double words transposed.
    """
    quarters = []
    for line in (first, second):
        for part in (0, 32):
            lanes = [part + 16 * lane + 4 * v + j for lane in (0, 1) for j in range(4) for v in range(4)]
            chosen = builder.shuffle_vector(line, line, ir.Constant(_vector(I32, 32), lanes))
            quarters.append(builder.bitcast(chosen, _vector(I32, 8)))
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    pairs = [
        builder.bitcast(
            builder.shuffle_vector(*quarters[i : i + 2], ir.Constant(_vector(I32, 8), order)), _vector(I64, 4)
        )
        for order in (low, high)
        for i in (0, 2)
    ]
    columns = []
    for i in (0, 2):
        for order in ([0, 4, 2, 6], [1, 5, 3, 7]):
            column = builder.shuffle_vector(pairs[i], pairs[i + 1], ir.Constant(_vector(I32, 4), order))
            columns.append(builder.bitcast(column, _vector(I8, 32)))
    return columns


def _sums(builder: Any, codes: Any, stride: Any, groups: Any, tables: list[Any], blocks: int) -> list[Any]:
    """Sums of the look-ups of all sub-quantisers, a vector of 16 for each query and block, queries first."""
    sub_tables = ir.Constant(_BYTES, [16 * (lane % 4) for lane in range(LINE)])
    undefined, columns = ir.Constant(_BYTES, ir.Undefined), []
    for column in range(4):
        columns.append(ir.Constant(_vector(I32, 16), [4 * lane + column for lane in range(16)]))

    def permuted(group, sums):
        sums = list(sums)
        at = builder.mul(group, ir.Constant(I64, LINE))
        parts = []
        for block in range(blocks):
            offset = builder.add(at, builder.mul(stride, ir.Constant(I64, block)))
            parts.append(
                [builder.or_(half, sub_tables) for half in _halves(builder, _load(builder, codes, offset, _BYTES))]
            )
        at = builder.mul(group, ir.Constant(I64, TABLE_LINE))
        for query, table in enumerate(tables):
            for half in range(2):
                values = _load(builder, table, builder.add(at, ir.Constant(I64, LINE * half)), _BYTES)
                for block in range(blocks):
                    found = _call(builder, "llvm.x86.avx512.permvar.qi.512", _BYTES, [values, parts[block][half]])
                    slot = query * blocks + block
                    sums[slot] = _call(
                        builder, "llvm.x86.avx512.vpdpbusd.512", _SUMS, [sums[slot], found, _splat(_BYTES, 1)]
                    )
        return sums

    def separate(group, sums):
        sums, words = list(sums), _vector(I16, 16)
        at = builder.mul(group, ir.Constant(I64, LINE))
        table_at = builder.mul(group, ir.Constant(I64, TABLE_LINE))
        for block in range(blocks):
            offset = builder.add(at, builder.mul(stride, ir.Constant(I64, block)))
            halves = _halves(builder, _load(builder, codes, offset, _BYTES))
            for query, table in enumerate(tables):
                total = _splat(words, 0)  # eight bytes cannot overflow 16 bits
                for half in range(2):
                    for column in range(4):
                        wanted = builder.shuffle_vector(halves[half], undefined, columns[column])
                        where = builder.add(table_at, ir.Constant(I64, LINE * half + 16 * column))
                        found = _look_up(builder, _load(builder, table, where, _vector(I8, 16)), wanted)
                        total = builder.add(total, builder.zext(found, words))
                slot = query * blocks + block
                sums[slot] = builder.add(sums[slot], builder.zext(total, _SUMS))
        return sums

    def paired(begin, sums):
        # Two blocks side by side: a register of 32 bytes looks the same table up for both. Pairs of bytes are summed as
        # 16-bit numbers, `both`, and the upper bytes of the pairs once more, `odd`: up to 32 groups fit 16 bits.
        sums, words, pair = list(sums), _vector(I16, 16), _vector(I8, 32)
        limit = builder.add(begin, ir.Constant(I64, _EXACT_GROUPS))
        end = builder.select(builder.icmp_signed("<", limit, groups), limit, groups)

        def one(group, totals):
            totals = list(totals)
            at = builder.mul(group, ir.Constant(I64, LINE))
            table_at = builder.mul(group, ir.Constant(I64, TABLE_LINE))
            lines = [
                _halves(
                    builder,
                    _load(builder, codes, builder.add(at, builder.mul(stride, ir.Constant(I64, block))), _BYTES),
                )
                for block in range(2)
            ]
            for half in range(2):
                for column, wanted in enumerate(_columns(builder, lines[0][half], lines[1][half])):
                    where = builder.add(table_at, ir.Constant(I64, LINE * half + 16 * column))
                    for query, table in enumerate(tables):
                        values = _load(builder, table, where, _vector(I8, 16))
                        twice = builder.shuffle_vector(
                            values, values, ir.Constant(_vector(I32, 32), 2 * list(range(16)))
                        )
                        found = builder.bitcast(_call(builder, "llvm.x86.avx2.pshuf.b", pair, [twice, wanted]), words)
                        both, odd = totals[2 * query : 2 * query + 2]
                        totals[2 * query] = builder.add(both, found)
                        totals[2 * query + 1] = builder.add(odd, builder.lshr(found, _splat(words, 8)))
            return totals

        totals = _loop(builder, begin, end, 1, [_splat(words, 0)] * (2 * len(tables)), one)
        for query in range(len(tables)):
            both, odd = totals[2 * query : 2 * query + 2]
            even = builder.sub(both, builder.shl(odd, _splat(words, 8)))
            for block in range(2):
                places = [_COLUMN_ORDER.index(16 * block + vector) for vector in range(16)]
                order = ir.Constant(_vector(I32, 16), [place // 2 + 16 * (place % 2) for place in places])
                total = builder.zext(builder.shuffle_vector(even, odd, order), _SUMS)
                sums[query * 2 + block] = builder.add(sums[query * 2 + block], total)
        return sums

    if LEVEL in (AVX512, AVX2) and not BYTE_PERMUTE and blocks == 2:
        rounds = builder.and_(
            builder.add(groups, ir.Constant(I64, _EXACT_GROUPS - 1)), ir.Constant(I64, -_EXACT_GROUPS)
        )
        return list(
            _loop(builder, ir.Constant(I64, 0), rounds, _EXACT_GROUPS, [_splat(_SUMS, 0)] * (2 * len(tables)), paired)
        )
    step = permuted if BYTE_PERMUTE else separate
    return list(_loop(builder, ir.Constant(I64, 0), groups, 1, [_splat(_SUMS, 0)] * (len(tables) * blocks), step))


def _broadcast(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, _splat(_vector(I32, BLOCK), 0))


# Numbers of a query during the scan of a list, float32, CONSTANTS of them: see `scan_one`.
SCALE, SHIFT, OFFSET, DISTANCE, THRESHOLD, CUTOFF = range(6)
CONSTANTS = 8

_byte, _float, _word, _index, _key = (
    types.CPointer(kind) for kind in (types.uint8, types.float32, types.uint16, types.int32, types.uint64)
)


def _scan_signature(rescale: Any) -> Any:
    factors = _float if isinstance(rescale, types.CPointer) else types.int64
    return types.boolean(_byte, types.int64, _byte, _index, _float, factors, factors, _float, _float, _word)


def _scan(queries: int, blocks: int) -> Callable[..., Any]:
    """Code generator of `scan_one` and `scan_many`."""
    multiply_add = f"llvm.fmuladd.v{BLOCK}f32"

    def codegen(context, builder, signature, arguments):
        codes, groups, tables, which, bias, rescale, error, constants, scores, masks = arguments
        table_bytes, starts = builder.mul(groups, ir.Constant(I64, TABLE_LINE)), []
        for query in range(queries):
            number = builder.sext(builder.load(builder.gep(which, [ir.Constant(I64, query)])), I64)
            starts.append(builder.gep(tables, [builder.mul(number, table_bytes)]))
        block_bytes = builder.mul(groups, ir.Constant(I64, LINE))
        sums = _sums(builder, codes, block_bytes, groups, starts, blocks)
        found, results = None, []
        for query in range(queries):
            numbers = [
                _broadcast(builder, builder.load(builder.gep(constants, [ir.Constant(I64, CONSTANTS * query + i)])))
                for i in range(5)
            ]
            for block in range(blocks):
                at = ir.Constant(I64, BLOCK * block)
                total = builder.uitofp(sums[query * blocks + block], _FLOATS)
                base = builder.fadd(_load(builder, bias, at, _FLOATS), numbers[OFFSET])
                if signature.args[5] == _float:
                    total = _call(builder, multiply_add, _FLOATS, [total, numbers[SCALE], numbers[SHIFT]])
                    factor = _load(builder, rescale, at, _FLOATS)
                    slack = builder.fmul(_load(builder, error, at, _FLOATS), numbers[DISTANCE])
                    base = builder.fsub(base, slack)
                else:
                    factor = numbers[SCALE]
                score = _call(builder, multiply_add, _FLOATS, [total, factor, base])
                mask = builder.bitcast(builder.fcmp_ordered("<=", score, numbers[THRESHOLD]), I16)
                results.append((score, mask))
                found = mask if found is None else builder.or_(found, mask)
        some = builder.icmp_unsigned("!=", found, ir.Constant(I16, 0))
        with builder.if_then(some, likely=False):
            for position, (score, mask) in enumerate(results):
                target = builder.gep(scores, [ir.Constant(I64, BLOCK * position)])
                builder.store(score, builder.bitcast(target, _FLOATS.as_pointer())).align = 4
                builder.store(mask, builder.gep(masks, [ir.Constant(I64, position)]))
        return some

    return codegen


@intrinsic
def scan_one(
    typing_context, codes, groups, tables, which, bias, rescale, error, constants, scores, masks
):  # fmt: skip
    """Score ONE_BLOCKS consecutive blocks for a query; True if any score is at most the query's threshold.

    codes, `groups` lines a block; tables of several queries and `which` (1,) int32 of them; bias: a float for each
    vector; constants: SCALE, SHIFT, OFFSET, DISTANCE, THRESHOLD. With s the sum of look-ups the score of vector i is
    ``bias[i] + OFFSET + SCALE s`` if rescale and error are 0, and if they are pointers
    ``bias[i] + OFFSET - error[i] DISTANCE + rescale[i] (SHIFT + SCALE s)``.
    Only if True: scores (ONE_BLOCKS, 16) float32 and masks (ONE_BLOCKS,) uint16, bit v for vector v, are written.
    """
    return _scan_signature(rescale), _scan(1, ONE_BLOCKS)


@intrinsic
def scan_block(
    typing_context, codes, groups, tables, which, bias, rescale, error, constants, scores, masks
):  # fmt: skip
    """As `scan_one` for a single block."""
    return _scan_signature(rescale), _scan(1, 1)


@intrinsic
def scan_many(
    typing_context, codes, groups, tables, which, bias, rescale, error, constants, scores, masks
):  # fmt: skip
    """As `scan_one` for MANY_QUERIES queries and MANY_BLOCKS blocks.

    which (MANY_QUERIES,), constants (MANY_QUERIES, CONSTANTS), scores (MANY_QUERIES, MANY_BLOCKS, 16), masks
    (MANY_QUERIES, MANY_BLOCKS).
    """
    return _scan_signature(rescale), _scan(MANY_QUERIES, MANY_BLOCKS)


def _store_chosen(builder: Any, values: Any, wanted: Any, target: Any) -> Any:
    """Store those of 8 uint64 whose bit is set in `wanted` (i8), packed; returns their number. AVX-512 only.

    They are compressed in a register and stored whole: the instruction that does both is very slow on some processors.
    """
    half, bits = values.type, builder.bitcast(wanted, _vector(ir.IntType(1), 8))
    packed = _call(builder, "llvm.x86.avx512.mask.compress.v8i64", half, [values, _splat(half, 0), bits])
    builder.store(packed, builder.bitcast(target, half.as_pointer())).align = 8
    return builder.zext(_call(builder, "llvm.ctpop.i8", I8, [wanted]), I64)


@intrinsic
def append_keys(typing_context, scores, mask, slots, keys, size):
    """Append the keys (see pool.py) of those of 16 scores whose bit is set in `mask`; returns the new size.

    scores float32, slots int32, keys uint64, of which up to 16 beyond the new size may be overwritten.
    """
    signature = types.int64(_float, types.int64, _index, _key, types.int64)

    def codegen(context, builder, signature, arguments):
        scores, mask, slots, keys, size = arguments
        words, wide = _SUMS, _vector(I64, BLOCK)
        bits = builder.bitcast(_load(builder, scores, ir.Constant(I64, 0), _FLOATS), words)
        flip = builder.or_(builder.ashr(bits, _splat(words, 31)), _splat(words, -(2**31)))
        ordered = builder.shl(builder.zext(builder.xor(bits, flip), wide), _splat(wide, 32))
        slot = builder.zext(_load(builder, slots, ir.Constant(I64, 0), words), wide)
        key = builder.or_(ordered, builder.shl(slot, _splat(wide, 1)))
        if LEVEL != AVX512:
            for lane in range(BLOCK):  # without branches: write always, move on if wanted
                value = builder.extract_element(key, ir.Constant(I32, lane))
                builder.store(value, builder.gep(keys, [size]))
                wanted = builder.and_(builder.lshr(mask, ir.Constant(I64, lane)), ir.Constant(I64, 1))
                size = builder.add(size, wanted)
            return size
        for part in range(2):
            lanes = ir.Constant(_vector(I32, 8), list(range(8 * part, 8 * part + 8)))
            wanted = builder.trunc(builder.lshr(mask, ir.Constant(I64, 8 * part)), I8)
            values = builder.shuffle_vector(key, key, lanes)
            size = builder.add(size, _store_chosen(builder, values, wanted, builder.gep(keys, [size])))
        return size

    return signature, codegen


@intrinsic
def keep_keys(typing_context, keys, size, bound):
    """Move those of `size` uint64 that are at most `bound` to the front, in order; returns how many they are."""
    signature = types.int64(_key, types.int64, types.uint64)

    def codegen(context, builder, signature, arguments):
        keys, size, bound = arguments
        zero, wide = ir.Constant(I64, 0), _vector(I64, 8)
        whole = builder.and_(size, ir.Constant(I64, -8)) if LEVEL == AVX512 else zero
        first = builder.insert_element(ir.Constant(wide, ir.Undefined), bound, ir.Constant(I32, 0))
        bounds = builder.shuffle_vector(first, first, _splat(_vector(I32, 8), 0))

        def eight(index, front):
            values = _load(builder, keys, index, wide)
            wanted = builder.bitcast(builder.icmp_unsigned("<=", values, bounds), I8)
            # What is overwritten behind the kept ones has been read: they are never more than were read.
            return [builder.add(front[0], _store_chosen(builder, values, wanted, builder.gep(keys, [front[0]])))]

        def one(index, front):
            value = builder.load(builder.gep(keys, [index]))
            builder.store(value, builder.gep(keys, [front[0]]))
            wanted = builder.icmp_unsigned("<=", value, bound)
            return [builder.add(front[0], builder.zext(wanted, I64))]

        front = _loop(builder, zero, whole, 8, [zero], eight)[0]
        return _loop(builder, whole, size, 1, [front], one)[0]

    return signature, codegen


@intrinsic
def mask_at_most(typing_context, scores, bound):
    """Bits of those of 16 float32 that are at most `bound`."""
    signature = types.int64(_float, types.float32)

    def codegen(context, builder, signature, arguments):
        below = builder.fcmp_ordered(
            "<=", _load(builder, arguments[0], ir.Constant(I64, 0), _FLOATS), _broadcast(builder, arguments[1])
        )
        return builder.zext(builder.bitcast(below, I16), I64)

    return signature, codegen


@intrinsic
def table_line(typing_context, query, values, count, factor, out):
    """``out[c] = sum over i < count of factor query[i] values[i, c]`` for 16 codewords c; all float32."""
    signature = types.void(_float, _float, types.int64, types.float32, _float)

    def codegen(context, builder, signature, arguments):
        query, values, count, factor, out = arguments

        def body(index, totals):
            weight = _broadcast(builder, builder.fmul(factor, builder.load(builder.gep(query, [index]))))
            row = _load(builder, values, builder.mul(index, ir.Constant(I64, BLOCK)), _FLOATS)
            return [_call(builder, f"llvm.fmuladd.v{BLOCK}f32", _FLOATS, [weight, row, totals[0]])]

        total = _loop(builder, ir.Constant(I64, 0), count, 1, [_splat(_FLOATS, 0.0)], body)[0]
        builder.store(total, builder.bitcast(out, _FLOATS.as_pointer())).align = 4
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def quantise_line(typing_context, line, low, inverse, out):
    """``out[c] = min(255, floor((line[c] - low) inverse + 1/2))`` for 16 float32 not below `low`, as uint8."""
    signature = types.void(_float, types.float32, types.float32, _byte)

    def codegen(context, builder, signature, arguments):
        line, low, inverse, out = arguments
        raised = builder.fsub(_load(builder, line, ir.Constant(I64, 0), _FLOATS), _broadcast(builder, low))
        half, most = _splat(_FLOATS, 0.5), _splat(_FLOATS, 255.0)
        scaled = _call(builder, f"llvm.fmuladd.v{BLOCK}f32", _FLOATS, [raised, _broadcast(builder, inverse), half])
        scaled = builder.select(builder.fcmp_ordered("<", scaled, most), scaled, most)
        codes = builder.trunc(builder.fptosi(scaled, _SUMS), _vector(I8, BLOCK))
        builder.store(codes, builder.bitcast(out, codes.type.as_pointer())).align = 1
        return context.get_dummy_value()

    return signature, codegen
