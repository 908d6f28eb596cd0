"""Pages of a store: memory that grows without being moved, is shared by forks until one of them writes, and is counted.

Nothing here is safe to be read while it changes: stores keep readers out.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import MemoryLimitError
from nearhash.kernels.attention_rows import PAGE

_HUGE = 2 << 20  # bytes of a huge page
_ARENA = 64 << 20  # bytes that are mapped at once, at most
_PAGE_BYTES, _DONTNEED = mmap.PAGESIZE, getattr(mmap, "MADV_DONTNEED", None)


class Budget:
    """Bytes that a store and its forks, or any number of stores, hold together.

    Parameters
    ----------
    limit
        How many there may be; None for any number.
    name
        Of the limit, for messages.
    within
        A budget that this one is a part of: what is taken here is taken there, too.
    """

    def __init__(self, limit: int | None = None, name: str = "memory_limit", within: Budget | None = None) -> None:
        self.limit = limit
        self._name = name
        self._within = within
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
                    f"{self._name}: {self._used:,} bytes are held and {count:,} more are needed, the limit is "
                    f"{self.limit:,}"
                )
            self._used += count
        if self._within is not None:
            try:
                self._within.take(count)
            except BaseException:
                with self.guard:
                    self._used -= count
                raise

    def give(self, count: int) -> None:
        """Give bytes back."""
        with self.guard:
            self._used -= count
        if self._within is not None:
            self._within.give(count)


class _Arena:
    """Memory for several blocks, mapped at once; goes when no array of it is left.

    Attention reads tokens in no order: with huge pages it misses the translation buffer less often, which makes a step
    over 65,000 tokens of 8 heads 1.05 times as fast. They are taken only where there is as much as one of them, and
    what has not been written to takes no memory.
    """

    def __init__(self, nbytes: int) -> None:
        large = nbytes >= _HUGE
        try:
            self._map = mmap.mmap(-1, nbytes + (_HUGE if large else 0), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"cannot map {nbytes:,} bytes: {error}") from error
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        if large and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._first = -self._bytes.ctypes.data % _HUGE if large else 0

    def array(self, start: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Bytes from `start` on, zeros at first."""
        first = self._first + start
        return self._bytes[first : first + shape[0] * shape[1]].reshape(shape)

    def give_back(self, start: int, size: int) -> None:
        """Tell the system that `size` bytes from `start` on are no longer needed, though others of the arena are."""
        first, last = -(-(self._first + start) // _PAGE_BYTES), (self._first + start + size) // _PAGE_BYTES
        if last > first and _DONTNEED is not None:
            self._map.madvise(_DONTNEED, first * _PAGE_BYTES, (last - first) * _PAGE_BYTES)


class _Memory(NamedTuple):
    """Where a block is."""

    arena: _Arena
    start: int
    array: NDArray[np.uint8]


def _mapped(shape: tuple[int, int], count: int) -> Iterator[_Memory]:
    """Memory for `count` blocks of a shape, in as few arenas as they fit in."""
    size = shape[0] * shape[1]
    while count > 0:
        here = min(count, max(1, _ARENA // size))
        arena = _Arena(here * size)
        yield from (_Memory(arena, i * size, arena.array(i * size, shape)) for i in range(here))
        count -= here


class _Block:
    """One page of each KV head, held by one store or by several; the last of them gives its bytes back.

    Whoever makes it has taken them from the budget.
    """

    __slots__ = ("_budget", "_holders", "_memory", "_size", "array")

    def __init__(self, memory: _Memory, budget: Budget) -> None:
        self.array = memory.array
        self._memory, self._size = memory, memory.array.nbytes
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
            self._memory.arena.give_back(self._memory.start, self._size)
            self._budget.give(self._size)


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
        self._spare: list[_Memory] = []  # mapped, but neither written to nor counted
        self._addresses: NDArray[np.int64] = np.zeros((heads, 4), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held, those that are shared with forks included."""
        return len(self._blocks) * self._shape[0] * self._shape[1]

    @property
    def count(self) -> int:
        """Pages of a head."""
        return len(self._blocks)

    @property
    def table(self) -> NDArray[np.int64]:
        """(heads, p) addresses of the pages of all heads, and after them what is no address."""
        return self._addresses

    def addresses(self, head: int) -> NDArray[np.int64]:
        """(p,) addresses of the pages of a head, as kernels take them."""
        return self._addresses[head, : len(self._blocks)]

    def memory(self, head: int) -> list[NDArray[np.uint8]]:
        """The pages of a head themselves, (page_bytes,) each."""
        return [block.array[head] for block in self._blocks]

    def open(self, first: int, last: int) -> None:
        """Make the tokens ``first <= position < last`` writable: new pages, and copies of pages that forks hold, too.

        first is at most the number of tokens that there are pages for. If memory does not suffice, this raises, and
        nothing has changed.
        """
        held, wanted = len(self._blocks), -(-last // PAGE)
        shared = [number for number in range(first // PAGE, min(wanted, held)) if self._blocks[number].shared]
        count, page = len(shared) + max(wanted - held, 0), self._shape[0] * self._shape[1]
        self._budget.take(count * page)
        try:
            fresh = [_Block(memory, self._budget) for memory in self._take(count)]
        except BaseException:
            self._budget.give(count * page)
            raise
        for number, copy in zip(shared, fresh, strict=False):
            copy.array[...] = self._blocks[number].array
            self._blocks[number].let_go()
            self._blocks[number] = copy
            self._enter(number)
        for block in fresh[len(shared) :]:
            self._blocks.append(block)
            self._enter(len(self._blocks) - 1)

    def _take(self, count: int) -> list[_Memory]:
        """Memory for so many blocks. What is mapped anew is for an eighth more than there are, or a store that grows
        token by token would have no huge pages."""
        if count > len(self._spare):
            further = max(count - len(self._spare), (len(self._blocks) + count) // 8)
            self._spare.extend(_mapped(self._shape, further))
        taken, self._spare = self._spare[:count], self._spare[count:]
        return taken

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
