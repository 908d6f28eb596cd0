"""Vector instructions for Hamming distances: transposed blocks of codes, and their bits counted 64 rows at a time.

``llvm.ctpop`` on vectors becomes VPOPCNTQ where the processor has it, a look-up of nibbles on AVX2 and older AVX-512,
and CNT on ARM, so nothing here asks for the instruction set. All sums are of whole numbers: exact everywhere.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nearhash.kernels.simd import I32, I64, _call, _load, _loop, _splat, _vector

ROWS = 64  # of a transposed group
_GROUPS = 8  # vectors of eight uint64 that hold one word of all its rows
_WIDTHS = (4, 2, 1)  # words of a row that are loaded at once: as many as are left of the widest, then of the next

_word = types.CPointer(types.uint64)
_EIGHT = _vector(I64, 8)


def _load_rows(builder: Any, rows: Any, words: Any, first: Any, index: Any, width: int) -> list[Any]:
    """Words `index` to `index + width` of eight rows from `first` on."""
    return [
        _load(
            builder,
            rows,
            builder.add(builder.mul(builder.add(first, ir.Constant(I64, i)), words), index),
            _vector(I64, width),
        )
        for i in range(8)
    ]


def _pieces(builder: Any, words: Any) -> list[tuple[Any, Any, int]]:
    """(start, stop, width) that cover `words` words, each piece a multiple of its width long."""
    stops = [builder.and_(words, ir.Constant(I64, -width)) for width in _WIDTHS]
    return list(zip([ir.Constant(I64, 0), *stops[:-1]], stops, _WIDTHS, strict=True))


def _interleave(builder: Any, rows: list[Any]) -> Any:
    """Eight vectors of c words as one of 8 c: first word of all rows in order, second word of all rows, ..."""
    while len(rows) > 1:
        half, count = len(rows) // 2, rows[0].type.count
        lanes = [lane for i in range(count) for lane in (i, count + i)]
        mask = ir.Constant(_vector(I32, 2 * count), lanes)
        rows = [builder.shuffle_vector(rows[i], rows[half + i], mask) for i in range(half)]
    return rows[0]


@intrinsic
def transpose_rows(typing_context, rows, words, block):
    """ROWS rows of `words` uint64, one after the other, to block (words, ROWS)."""
    signature = types.void(_word, types.int64, _word)

    def codegen(context, builder, signature, arguments):
        rows, words, block = arguments

        def eight_rows(first, width):
            def body(index, _):
                columns = _interleave(builder, _load_rows(builder, rows, words, first, index, width))
                for word in range(width):
                    lanes = ir.Constant(_vector(I32, 8), list(range(8 * word, 8 * word + 8)))
                    column = builder.shuffle_vector(columns, columns, lanes)
                    row = builder.mul(builder.add(index, ir.Constant(I64, word)), ir.Constant(I64, ROWS))
                    target = builder.gep(block, [builder.add(row, first)])
                    builder.store(column, builder.bitcast(target, _EIGHT.as_pointer())).align = 8
                return []

            return body

        def group(first, _):
            for start, stop, width in _pieces(builder, words):
                _loop(builder, start, stop, width, [], eight_rows(first, width))
            return []

        _loop(builder, ir.Constant(I64, 0), ir.Constant(I64, ROWS), 8, [], group)
        return context.get_dummy_value()

    return signature, codegen


def _broadcast(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_EIGHT, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, _splat(_vector(I32, 8), 0))


def _report(builder: Any, totals: list[Any], bound: Any, out: Any) -> Any:
    """The mask of the distances in `totals` that are below the bound; where it is not zero all go to `out`."""
    bounds, below = _broadcast(builder, bound), _splat(_EIGHT, 0)
    for total in totals:
        below = builder.or_(below, builder.sub(total, bounds))  # negative where the distance is below the bound
    some = builder.bitcast(builder.icmp_signed("<", below, _splat(_EIGHT, 0)), ir.IntType(8))
    result = cgutils.alloca_once_value(builder, ir.Constant(I64, 0))
    with builder.if_then(builder.icmp_unsigned("!=", some, ir.Constant(ir.IntType(8), 0)), likely=False):
        mask = ir.Constant(I64, 0)
        for part, total in enumerate(totals):
            target = builder.gep(out, [ir.Constant(I64, 8 * part)])
            builder.store(total, builder.bitcast(target, _EIGHT.as_pointer())).align = 8
            bits = builder.bitcast(builder.icmp_signed("<", total, bounds), ir.IntType(8))
            mask = builder.or_(mask, builder.shl(builder.zext(bits, I64), ir.Constant(I64, 8 * part)))
        builder.store(mask, result)
    return builder.load(result)


def _count_bits(builder: Any, value: Any) -> Any:
    return _call(builder, "llvm.ctpop.v8i64", _EIGHT, [value])


def _block_signature() -> Any:
    return types.uint64(_word, _word, types.int64, types.int64, _word)


@intrinsic
def hamming_block(typing_context, query, block, words, bound, out):
    """Bits of a uint64: which rows of block (words, ROWS) differ from the query in fewer than `bound` bits.

    Where there are any, the distances of all ROWS rows are written to `out`, uint64. One vector test decides that, so
    that a block with nothing near costs no more than its bits.
    """

    def codegen(context, builder, signature, arguments):
        query, block, words, bound, out = arguments

        def body(index, totals):
            value = _broadcast(builder, builder.load(builder.gep(query, [index])))
            row = builder.mul(index, ir.Constant(I64, ROWS))
            following = []
            for part, total in enumerate(totals):
                codes = _load(builder, block, builder.add(row, ir.Constant(I64, 8 * part)), _EIGHT)
                following.append(builder.add(total, _count_bits(builder, builder.xor(codes, value))))
            return following

        totals = _loop(builder, ir.Constant(I64, 0), words, 1, [_splat(_EIGHT, 0)] * _GROUPS, body)
        return _report(builder, totals, bound, out)

    return _block_signature(), codegen


def _joined(builder: Any, parts: list[Any]) -> Any:
    """Vectors one after the other, as one."""
    while len(parts) > 1:
        count = parts[0].type.count
        lanes = ir.Constant(_vector(I32, 2 * count), list(range(2 * count)))
        parts = [builder.shuffle_vector(*pair, lanes) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


_EVEN, _ODD = [0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]


def _add(builder: Any, left: Any, right: Any, low: list[int], high: list[int]) -> Any:
    """Sum of two choices of lanes from both vectors."""
    parts = [builder.shuffle_vector(left, right, ir.Constant(_vector(I32, 8), lanes)) for lanes in (low, high)]
    return builder.add(parts[0], parts[1])


def _folded(builder: Any, sums: list[Any]) -> Any:
    """Sums of the bits of eight rows, in order, from c vectors of eight with c partial sums of each row, c = 4, 2 or 1.

    Vector i holds rows i, i + c, ..., each one's partial sums side by side.
    """

    if len(sums) > 1:  # neighbouring lanes of rows i and i + 1: then these two alternate
        sums = [_add(builder, *pair, _EVEN, _ODD) for pair in zip(sums[::2], sums[1::2], strict=True)]
    if len(sums) > 1:  # pairs of lanes: rows 0 1 0 1 4 5 4 5 and 2 3 2 3 6 7 6 7
        sums = [_add(builder, sums[0], sums[1], [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])]
    return sums[0]


def _folded_pairs(builder: Any, sums: list[Any]) -> Any:
    """As `_folded` for four vectors, of which vector i holds rows 2 i and 2 i + 1."""
    low, high = (_add(builder, *pair, _EVEN, _ODD) for pair in zip(sums[::2], sums[1::2], strict=True))
    # Now rows 0 2 0 2 1 3 1 3 and 4 6 4 6 5 7 5 7.
    return _add(builder, low, high, [0, 4, 1, 5, 8, 12, 9, 13], [2, 6, 3, 7, 10, 14, 11, 15])


@intrinsic
def hamming_rows(typing_context, query, rows, words, bound, out):
    """As `hamming_block` for ROWS rows of `words` uint64 as they are stored: cheaper than to transpose them once."""

    def codegen(context, builder, signature, arguments):
        query, rows, words, bound, out = arguments
        totals = []
        for group in range(_GROUPS):
            total, first = _splat(_EIGHT, 0), ir.Constant(I64, 8 * group)
            for start, stop, width in _pieces(builder, words):
                vectors = width  # that hold the eight rows

                def body(index, sums, first=first, width=width, vectors=vectors):
                    parts = _load_rows(builder, rows, words, first, index, width)
                    value = _load(builder, query, index, _vector(I64, width))
                    value = _joined(builder, [value] * (8 // width))
                    joined = [_joined(builder, parts[i::vectors]) for i in range(vectors)]
                    return [
                        builder.add(total, _count_bits(builder, builder.xor(codes, value)))
                        for total, codes in zip(sums, joined, strict=True)
                    ]

                sums = _loop(builder, start, stop, width, [_splat(_EIGHT, 0)] * vectors, body)
                total = builder.add(total, _folded(builder, sums))
            totals.append(total)
        return _report(builder, totals, bound, out)

    return _block_signature(), codegen


@intrinsic
def hamming_rows4(typing_context, query, rows, bound, out):
    """`hamming_rows` for rows of four words, two of which one load brings: twice as fast in the cache."""
    signature = types.uint64(_word, _word, types.int64, _word)

    def codegen(context, builder, signature, arguments):
        query, rows, bound, out = arguments
        value = _joined(builder, [_load(builder, query, ir.Constant(I64, 0), _vector(I64, 4))] * 2)
        totals = []
        for group in range(_GROUPS):
            sums = []
            for pair in range(4):
                codes = _load(builder, rows, ir.Constant(I64, 32 * group + 8 * pair), _EIGHT)
                sums.append(_count_bits(builder, builder.xor(codes, value)))
            totals.append(_folded_pairs(builder, sums))
        return _report(builder, totals, bound, out)

    return signature, codegen


@intrinsic
def hamming(typing_context, x, y, words):
    """Number of bits in which two codes of `words` uint64 differ."""
    signature = types.int64(_word, _word, types.int64)

    def codegen(context, builder, signature, arguments):
        x, y, words = arguments

        def four(index, totals):
            left, right = (_load(builder, p, index, _vector(I64, 4)) for p in (x, y))
            return [builder.add(totals[0], _call(builder, "llvm.ctpop.v4i64", left.type, [builder.xor(left, right)]))]

        def one(index, totals):
            left, right = (builder.load(builder.gep(p, [index])) for p in (x, y))
            return [builder.add(totals[0], _call(builder, "llvm.ctpop.i64", I64, [builder.xor(left, right)]))]

        whole = builder.and_(words, ir.Constant(I64, -4))
        total = _loop(builder, ir.Constant(I64, 0), whole, 4, [_splat(_vector(I64, 4), 0)], four)[0]
        lanes = [builder.extract_element(total, ir.Constant(I32, i)) for i in range(4)]
        start = builder.add(builder.add(lanes[0], lanes[1]), builder.add(lanes[2], lanes[3]))
        return _loop(builder, whole, words, 1, [start], one)[0]

    return signature, codegen


@intrinsic
def lowest_bit(typing_context, bits):
    """Position of the lowest set bit of a uint64 that is not zero."""
    signature = types.int64(types.uint64)

    def codegen(context, builder, signature, arguments):
        return _call(builder, "llvm.cttz.i64", I64, [arguments[0], ir.Constant(ir.IntType(1), 1)])

    return signature, codegen


@intrinsic
def count_bits(typing_context, bits):
    """How many bits of a uint64 are set."""
    signature = types.int64(types.uint64)

    def codegen(context, builder, signature, arguments):
        return _call(builder, "llvm.ctpop.i64", I64, arguments)

    return signature, codegen
