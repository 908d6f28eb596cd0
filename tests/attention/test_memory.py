"""Pages are taken all at once or not at all, from all budgets or from none."""

import mmap

import numpy as np
import pytest

from nearhash.attention import memory
from nearhash.attention.memory import Budget, Pages
from nearhash.errors import MemoryLimitError
from nearhash.kernels.attention_rows import PAGE

HEADS, PAGE_BYTES = 2, 64
BYTES = HEADS * PAGE_BYTES


def test_budgets_within_others():
    whole = Budget(4 * BYTES, "whole")
    part, other = Budget(3 * BYTES, "part", within=whole), Budget(None, "other", within=whole)
    part.take(2 * BYTES)
    for budget, count, name in ((part, 2, "part"), (other, 3, "whole")):
        with pytest.raises(MemoryLimitError, match=f"{name}: 256 bytes are held and"):
            budget.take(count * BYTES)
    assert (whole.used, part.used, other.used) == (2 * BYTES, 2 * BYTES, 0)
    other.take(2 * BYTES)
    with pytest.raises(MemoryLimitError, match="whole"):
        part.take(BYTES)
    part.give(2 * BYTES)
    assert (whole.used, part.used) == (2 * BYTES, 0)


@pytest.mark.parametrize("error", [MemoryLimitError, MemoryError])
def test_pages_that_cannot_be_had_change_nothing(monkeypatch, error):
    budget = Budget(5 * BYTES if error is MemoryLimitError else None)
    pages = Pages(HEADS, PAGE_BYTES, budget)
    pages.open(0, 2 * PAGE)
    fork = pages.fork()
    before = [fork.addresses(head).copy() for head in range(HEADS)]
    if error is MemoryError:

        def full(*arguments, **options):
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(memory.mmap, "mmap", full)
    with pytest.raises(error):
        fork.open(PAGE, 5 * PAGE)  # a copy of the shared page, and three new ones
    assert budget.used == 2 * BYTES
    assert fork.nbytes == 2 * BYTES
    for head in range(HEADS):
        assert np.array_equal(fork.addresses(head), before[head])
        assert np.array_equal(fork.addresses(head), pages.addresses(head)), "still shared"


def test_memory_that_is_let_go_goes_back_to_the_system():
    size = 1 << 20
    pages = Pages(1, size, Budget())
    pages.open(0, 40 * PAGE)
    for block in pages.memory(0):
        assert block.ctypes.data % 64 == 0
        block[:] = 1
    kept, before = pages.memory(0)[0], resident()
    pages.truncate(PAGE)  # the first page is still there, in the same map as others
    assert before - resident() > 30 * size
    assert (kept == 1).all()
    for _ in range(100):
        pages.open(PAGE, 3 * PAGE)
        pages.truncate(PAGE)
    assert resident() < before


def test_pages_that_grow_one_by_one_are_zeros_at_first():
    pages = Pages(2, 640, Budget())
    for count in range(1, 60):
        pages.open((count - 1) * PAGE, count * PAGE)
        newest = [pages.memory(head)[-1] for head in range(2)]
        for head, page in enumerate(newest):
            assert page.ctypes.data == pages.addresses(head)[-1]
            assert not page.any()
            page[:] = count
    assert [int(page[0]) for page in pages.memory(1)] == list(range(1, 60))


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE
