"""Programs of predicates, against their reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.kernels import reference
from nearhash.kernels.jit import jit
from nearhash.kernels.predicate import (
    AND,
    BITS,
    FEW,
    NOT,
    OR,
    RANGE,
    SCRATCH,
    SORTED,
    STACK,
    TABLE,
    block_bits,
    evaluate_mask,
)
from nearhash.kernels.simd import pointer

LEAST, MOST = -(2**63), 2**63 - 1
NOTHING = np.empty(0, np.uint8)


@jit
def bits_of_block(program, operands, columns, start, count):
    stack = np.full(SCRATCH, 12345, np.uint64)
    return block_bits(
        pointer(program, 0), len(program) // 4, pointer(operands, 0), pointer(columns, 0), columns.shape[1], start,
        count, pointer(stack, 0),
    )  # fmt: skip


def signed(value):
    return value - 2**64 if value > MOST else value


# Values close to each other and to the ends of int64, so that tests hit.
numbers = st.one_of(
    st.integers(-4, 70), st.sampled_from([LEAST, LEAST + 1, MOST - 1, MOST, 2**62, -(2**62)]), st.integers(LEAST, MOST)
)


@st.composite
def steps(draw):
    """(operation, own operands)"""
    operation = draw(st.sampled_from([RANGE, BITS, FEW, TABLE, SORTED]))
    if operation == RANGE:
        low, high = sorted((draw(numbers), draw(numbers)))
        return operation, [low, signed(high - low)]
    if operation == BITS:
        return operation, [draw(numbers)]
    if operation == TABLE:
        low, size = draw(numbers), draw(st.integers(1, 130))
        words = draw(st.lists(st.integers(LEAST, MOST), min_size=-(-size // 64), max_size=-(-size // 64)))
        return operation, [min(low, MOST - size + 1), size, *words]
    return operation, sorted(draw(st.lists(numbers, min_size=operation == SORTED, max_size=20, unique=True)))


@st.composite
def programs(draw, columns):
    program, operands, depth = [], [], 0
    for _ in range(draw(st.integers(1, 8))):
        operation, own = draw(steps())
        program.append((operation, draw(st.integers(0, columns - 1)), len(operands), len(own)))
        operands += own
        depth += 1
        if draw(st.booleans()):
            program.append((NOT, 0, 0, 0))
        while depth > 1 and draw(st.booleans()):
            program.append((draw(st.sampled_from([AND, OR])), 0, 0, 0))
            depth -= 1
    program += [(draw(st.sampled_from([AND, OR])), 0, 0, 0)] * (depth - 1)
    return np.array(program, np.int64).ravel(), np.array(operands, np.int64)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), rows=st.sampled_from([0, 1, 2, 63, 64, 65, 127, 200]), columns=st.integers(1, 3))
def test_any_program_against_the_reference(data, rows, columns):
    program, operands = data.draw(programs(columns))
    pool = data.draw(st.lists(numbers, min_size=1, max_size=12))
    extra = [value for value in operands.tolist() if LEAST < value < MOST]
    pool += [value + step for value in extra[:20] for step in (-1, 0, 1)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = np.array(pool, np.int64)[rng.integers(0, len(pool), (columns, rows + 7))]  # 7 values that nobody asks for
    expected = np.array(reference.predicate_rows(program, operands, values[:, :rows]), bool)
    allowed = (rng.random(rows) < 0.7).astype(np.uint8)
    for mask_in, answer in ((NOTHING, expected), (allowed, expected & (allowed > 0))):
        mask = np.full(rows, 77, np.uint8)
        assert evaluate_mask(program, operands, values, mask_in if rows else NOTHING, mask) == answer.sum()
        assert np.array_equal(mask, answer)
    for start, count in {(0, min(64, rows)), (rows // 2, min(64, rows - rows // 2)), (rows, 0)}:
        bits = int(bits_of_block(program, operands, values, start, count))
        assert bits == sum(1 << i for i in range(count) if expected[start + i])


def test_a_stack_used_to_its_end():
    program = [(RANGE, 0, 0, 2)] * STACK + [(OR, 0, 0, 0)] * (STACK - 1)
    mask = np.full(3, 9, np.uint8)
    columns = np.array([[4, 5, 6]])
    assert evaluate_mask(np.array(program).ravel(), np.array([5, 1]), columns, NOTHING, mask) == 2
    assert mask.tolist() == [0, 1, 1]


@pytest.mark.parametrize("operation", [FEW, SORTED])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 31, 32, 33, 100])
def test_every_member_is_found_and_no_other(operation, size):
    members = np.arange(size) * 3 - 20
    columns = np.arange(-30, 3 * size)[None]
    mask = np.full(columns.shape[1], 9, np.uint8)
    evaluate_mask(np.array([operation, 0, 0, size]), members, columns, NOTHING, mask)
    assert np.array_equal(mask, np.isin(columns[0], members))
