"""Pages are taken all at once or not at all, from all budgets or from none."""

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
        left = iter(range(3))
        allocate = memory.aligned_empty

        def sparing(*arguments):
            if next(left, None) is None:
                raise MemoryError
            return allocate(*arguments)

        monkeypatch.setattr(memory, "aligned_empty", sparing)
    with pytest.raises(error):
        fork.open(PAGE, 5 * PAGE)  # a copy of the shared page, and three new ones
    assert budget.used == 2 * BYTES
    assert fork.nbytes == 2 * BYTES
    for head in range(HEADS):
        assert np.array_equal(fork.addresses(head), before[head])
        assert np.array_equal(fork.addresses(head), pages.addresses(head)), "still shared"
