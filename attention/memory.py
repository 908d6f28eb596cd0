"""Pages of a store: memory that grows without being moved, is shared by forks until one of them writes, and is counted.

Nothing here is safe to be read while it changes: stores keep readers out.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import MemoryLimitError
from nearhash.index.arrays import aligned_empty
from nearhash.kernels.attention_rows import PAGE


class Budget:
    """Bytes that a store and its forks hold together.

    Parameters
    ----------
    limit
        How many there may be; None for any number.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._used = 0
        self.guard = threading.Lock()

    @property
    def used(self) -> int:
        return self._used

    def take(self, count: int) -> None:
        """Raises MemoryLimitError if there are not so many bytes left; takes none then."""
        with self.guard:
            if self.limit is not None and self._used + count > self.limit:
                raise MemoryLimitError(
                    f"memory_limit: {self._used:,} bytes are held and {count:,} more are needed, the limit is "
                    f"{self.limit:,}"
                )
            self._used += count

    def give(self, count: int) -> None:
        """Give bytes back."""
        with self.guard:
            self._used -= count


class _Block:
    """One page of each KV head, held by one store or by several; the last of them gives its bytes back."""

    __slots__ = ("_budget", "_holders", "array")

    def __init__(self, shape: tuple[int, int], budget: Budget) -> None:
        budget.take(shape[0] * shape[1])
        try:
            self.array: NDArray[np.uint8] = aligned_empty(shape, np.uint8)
        except BaseException:
            budget.give(shape[0] * shape[1])
            raise
        self._budget = budget
        self._holders = 1

    @property
    def shared(self) -> bool:
        return self._holders > 1

    def hold(self) -> _Block:
        """The block, for one more store."""
        with self._budget.guard:
            self._holders += 1
        return self

    def let_go(self) -> None:
        """For a store that held it."""
        with self._budget.guard:
            self._holders -= 1
            last = not self._holders
        if last:
            self._budget.give(self.array.nbytes)


class Pages:
    """Pages of PAGE tokens of each of some heads.

    Parameters
    ----------
    heads
        KV heads.
    page_bytes
        Bytes of a page of one of them, a multiple of 64.
    budget
        Where their bytes are counted.
    """

    def __init__(self, heads: int, page_bytes: int, budget: Budget) -> None:
        self._shape = (heads, page_bytes)
        self._budget = budget
        self._blocks: list[_Block] = []
        self._addresses: NDArray[np.int64] = np.zeros((heads, 4), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held, those that are shared with forks included."""
        return len(self._blocks) * self._shape[0] * self._shape[1]

    def addresses(self, head: int) -> NDArray[np.int64]:
        """(p,) addresses of the pages of a head, as kernels take them."""
        return self._addresses[head, : len(self._blocks)]

    def memory(self, head: int) -> list[NDArray[np.uint8]]:
        """The pages of a head themselves, (page_bytes,) each."""
        return [block.array[head] for block in self._blocks]

    def open(self, first: int, last: int) -> None:
        """Make the tokens ``first <= position < last`` writable: new pages, and copies of pages that forks hold, too.

        first is at most the number of tokens that there are pages for. If memory does not suffice, this raises, and
        what was readable is so still.
        """
        for number in range(first // PAGE, min(-(-last // PAGE), len(self._blocks))):
            block = self._blocks[number]
            if block.shared:
                copy = self._blocks[number] = _Block(self._shape, self._budget)
                copy.array[...] = block.array
                block.let_go()
                self._enter(number)
        while len(self._blocks) * PAGE < last:
            self._blocks.append(_Block(self._shape, self._budget))
            self._enter(len(self._blocks) - 1)

    def _enter(self, number: int) -> None:
        """Put a block into the table of addresses."""
        heads, room = self._addresses.shape
        if number == room:
            self._addresses = np.concatenate([self._addresses, np.zeros_like(self._addresses)], axis=1)
        start = self._blocks[number].array.ctypes.data
        self._addresses[:, number] = start + np.arange(heads) * self._shape[1]

    def truncate(self, length: int) -> None:
        """Let go of pages behind the first `length` tokens."""
        kept = -(-length // PAGE)
        for block in self._blocks[kept:]:
            block.let_go()
        del self._blocks[kept:]

    def fork(self) -> Pages:
        """The same pages for another store; whichever writes to one first gets a copy of it."""
        other = Pages(*self._shape, self._budget)
        other._blocks = [block.hold() for block in self._blocks]
        other._addresses = self._addresses.copy()
        return other

    def __del__(self) -> None:
        if hasattr(self, "_blocks"):
            self.truncate(0)
