"""Predicates over integer attributes, 64 rows at a time.

A predicate comes as a program in postfix form: instructions of `WORDS` int64 each, (operation, column, first operand,
number of operands), over one array of int64 operands. A test pushes one uint64 onto a stack, bit i of which says
whether row i of the 64 passes; AND, OR and NOT work on the top of the stack. Every test is a plain loop over 64 values
of one column, which LLVM turns into vector code: about 0.2 ns a row for RANGE and BITS, 0.15 ns for each value of FEW.

    operation  operands               row passes if its value x
    RANGE      low, width             low <= x <= low + width (width: the bits of a uint64; low + width fits int64)
    BITS       mask                   has a bit in common with the mask
    FEW        v_0, ..., v_(m-1)      is one of m >= 0 values, by comparing with each
    TABLE      low, size, words ...   has bit x - low, below size, set in the words
    SORTED     v_0 < ... < v_(m-1)    is one of m >= 1 values, by binary search

``index/programs.py`` writes programs; kernels trust them.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import offset, pointer

RANGE, BITS, FEW, TABLE, SORTED, AND, OR, NOT = range(8)
WORDS = 4
STACK = 32  # programs must not need more of the stack
ROWS = 64
SCRATCH = STACK + ROWS  # uint64 that an evaluation needs

_ONE = np.uint64(1)
_NO_ROW = np.uint64(0)
_EVERY_ROW = np.uint64(2**64 - 1)


@jit_inline
def _range_bits(values, count, low, width):
    bits, limit = _NO_ROW, np.uint64(width)
    for i in range(count):
        # One comparison for two: what is below `low` wraps around to large numbers.
        bits |= np.uint64(np.uint64(values[i] - low) <= limit) << np.uint64(i)
    return bits


@jit_inline
def _any_bits(values, count, mask):
    bits = _NO_ROW
    for i in range(count):
        bits |= np.uint64((values[i] & mask) != 0) << np.uint64(i)
    return bits


@jit_inline
def _few_bits(values, count, few, size):
    bits = _NO_ROW
    for j in range(size):
        bits |= _range_bits(values, count, few[j], 0)
    return bits


@jit_inline
def _table_bits(values, count, low, size, words):
    bits, limit = _NO_ROW, np.uint64(size)
    for i in range(count):
        place = np.uint64(values[i] - low)
        inside = place < limit
        place = place if inside else _NO_ROW
        word = np.uint64(words[np.int64(place >> np.uint64(6))])
        bits |= ((word >> (place & np.uint64(63))) & np.uint64(inside)) << np.uint64(i)
    return bits


@jit_inline
def _sorted_bits(values, count, members, size, places):
    # All rows take the same steps, so the rows are the inner loop: vector code, where a search for one row after the
    # other mispredicts a branch at every second step (47 ns a row for 1,000 members).
    for i in range(count):
        places[i] = _NO_ROW
    length = size
    while length > 1:  # places: the last member that is not above the value, if any is not
        half = length >> 1
        for i in range(count):
            place = np.int64(places[i])
            places[i] = np.uint64(place + half * np.int64(members[place + half] <= values[i]))
        length -= half
    bits = _NO_ROW
    for i in range(count):
        bits |= np.uint64(members[np.int64(places[i])] == values[i]) << np.uint64(i)
    return bits


@jit_inline
def block_bits(program, length, operands, columns, stride, start, count, stack):
    """Which of the rows start ... start + count - 1 pass, count <= 64: bit i for row start + i, 0 from bit `count` on.

    All by pointer: program (length * WORDS,) int64, length at least 1; operands int64; columns int64, column c starting
    at ``columns + c * stride``, of which only these rows are read; stack (SCRATCH,) uint64, overwritten.
    """
    every = _EVERY_ROW if count >= ROWS else (_ONE << np.uint64(count)) - _ONE
    top = -1
    for i in range(length):
        operation, first, size = program[i * WORDS], program[i * WORDS + 2], program[i * WORDS + 3]
        if operation == AND:
            top -= 1
            stack[top] = stack[top] & stack[top + 1]
        elif operation == OR:
            top -= 1
            stack[top] = stack[top] | stack[top + 1]
        elif operation == NOT:
            stack[top] = stack[top] ^ every
        else:
            top += 1
            values = offset(columns, program[i * WORDS + 1] * stride + start)
            own = offset(operands, first)
            if operation == RANGE:
                stack[top] = _range_bits(values, count, own[0], own[1])
            elif operation == BITS:
                stack[top] = _any_bits(values, count, own[0])
            elif operation == FEW:
                stack[top] = _few_bits(values, count, own, size)
            elif operation == TABLE:
                stack[top] = _table_bits(values, count, own[0], own[1], offset(own, 2))
            else:
                stack[top] = _sorted_bits(values, count, own, size, offset(stack, STACK))
    return stack[0]


@jit
def evaluate_mask(program, operands, columns, allowed, mask):
    """Write which of the first n rows pass, 1 or 0, to mask (n,) uint8; returns how many do.

    program, operands (.,) int64, see above; columns (c, m >= n) int64; allowed (n,) uint8, where 0 forbids a row
    whatever its attributes, or (0,).
    """
    total, stride = mask.shape[0], columns.shape[1]
    stack, passing = np.empty(SCRATCH, np.uint64), 0
    steps, own, values = pointer(program, 0), pointer(operands, 0), pointer(columns, 0)
    length, limited = program.shape[0] // WORDS, allowed.shape[0] > 0
    for start in range(0, total, ROWS):
        count = min(ROWS, total - start)
        bits = block_bits(steps, length, own, values, stride, start, count, pointer(stack, 0))
        target = pointer(mask, start)
        for i in range(count):
            target[i] = np.uint8((bits >> np.uint64(i)) & _ONE)
        if limited:
            other = pointer(allowed, start)
            for i in range(count):
                target[i] &= other[i]
        for i in range(count):
            passing += target[i]
    return passing
