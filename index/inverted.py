"""Inverted lists: the entries of a partition index in runs of blocks that all share a few arrays."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.arrays import aligned_empty
from nearhash.index.storage import take_tensor
from nearhash.kernels.lists import Lists
from nearhash.kernels.simd_tables import BLOCK, LINE, MANY_BLOCKS, ONE_BLOCKS

# Blocks behind the last list, so that a step over several blocks may reach beyond it; the most of any instruction set,
# so that files are the same everywhere.
SLACK = 8
assert max(MANY_BLOCKS, ONE_BLOCKS) <= SLACK
ROOM = 1.25  # how much larger a list becomes than it must when it moves

Positions = NDArray[np.int64]


class Entries(NamedTuple):
    """Entries of lists, one a row of each array.

    numbers (n,) int32, list; slots (n,) int32; codes (n, width) of the dtype of the lists; factors (f, n) float32:
    bias, and rescale and error where the codes have them; labels (n,) float64 or (0,); columns (a, n) int64.
    """

    numbers: NDArray[np.int32]
    slots: NDArray[np.int32]
    codes: NDArray[Any]
    factors: NDArray[np.float32]
    labels: NDArray[np.float64]
    columns: NDArray[np.int64]

    def take(self, chosen: Positions) -> "Entries":
        labels = self.labels[chosen] if len(self.labels) else self.labels
        return Entries(
            self.numbers[chosen], self.slots[chosen], self.codes[chosen], self.factors[:, chosen], labels,
            self.columns[:, chosen],
        )  # fmt: skip

    def joined(self, other: "Entries") -> "Entries":
        return Entries(
            *(
                np.concatenate([mine, theirs], axis=axis)
                for mine, theirs, axis in zip(self, other, (0, 0, 0, 1, 0, 1), strict=True)
            )
        )

    def sorted(self) -> "Entries":
        """By list, label and slot: the order of every list."""
        keys = (self.slots, self.labels, self.numbers) if len(self.labels) else (self.slots, self.numbers)
        return self.take(np.lexsort(keys))


class Layout(NamedTuple):
    """How codes lie in lists.

    width: elements of dtype of a code; blocked: codes of 16 entries are interleaved, element by element (``kernels.
    simd_tables``), rather than one behind the other; factors: float32 numbers of an entry.
    """

    width: int
    dtype: Any
    blocked: bool
    factors: int

    def empty(self, blocks: int) -> NDArray[Any]:
        """Uninitialised codes of so many blocks."""
        shape = (blocks, self.width, BLOCK) if self.blocked else (blocks * BLOCK, self.width)
        return aligned_empty(shape, self.dtype)


class InvertedLists:
    """Lists that grow: each has a run of blocks of its own, and moves behind all others when that is full.

    Parameters
    ----------
    lists : int
        How many.
    layout : Layout
    columns : int
        Attribute columns.
    labelled : bool
        Whether entries have labels. Lists are sorted by them.
    """

    def __init__(self, lists: int, layout: Layout, columns: int = 0, labelled: bool = False) -> None:
        self.layout = layout
        self.labelled = labelled
        self.sizes: NDArray[np.int64] = np.zeros(lists, np.int64)
        self._starts: NDArray[np.int64] = np.zeros(lists, np.int64)
        self._room: NDArray[np.int64] = np.zeros(lists, np.int64)  # blocks
        self._used = 0  # blocks
        self._codes = layout.empty(SLACK)
        self._codes[...] = 0  # lanes without an entry go to files too
        self._slots: NDArray[np.int32] = np.zeros(SLACK * BLOCK, np.int32)
        self._factors: NDArray[np.float32] = np.full((layout.factors, SLACK * BLOCK), np.inf, np.float32)
        self._labels: NDArray[np.float64] = np.zeros(SLACK * BLOCK if labelled else 0)
        self._columns: NDArray[np.int64] = np.zeros((columns, SLACK * BLOCK), np.int64)
        self._view: Lists | None = None
        self._bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def entries(self) -> int:
        return int(self.sizes.sum())

    @property
    def columns(self) -> int:
        """Number of attribute columns."""
        return len(self._columns)

    @property
    def nbytes(self) -> int:
        arrays = (self._codes, self._slots, self._factors, self._labels, self._columns, self.sizes)
        return int(sum(array.nbytes for array in arrays))

    @property
    def arrays(self) -> Lists:
        """The lists as kernels take them; valid until the next change."""
        if self._view is None:
            codes = self._codes
            if self.layout.blocked:
                codes = codes.view(np.uint8).reshape(len(codes), self.layout.width * LINE)
            bias = self._factors[0] if len(self._factors) else np.empty(0, np.float32)
            rescale, error = (self._factors[1], self._factors[2]) if len(self._factors) > 1 else (None, None)
            self._view = Lists(
                self._starts, self.sizes, self._slots, codes, bias, rescale, error, self._labels, self._columns
            )
        return self._view

    @property
    def label_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest label of each list, inf and -inf where it has none; empty arrays without labels."""
        if self._bounds is None:
            self._bounds = self._find_bounds()
        return self._bounds

    def _find_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if not self.labelled:
            return np.empty(0), np.empty(0)
        lows, highs = np.full(len(self.sizes), np.inf), np.full(len(self.sizes), -np.inf)
        at = self._places()
        own, numbers = self._labels[at], np.repeat(np.arange(len(self.sizes)), self.sizes)
        known = ~np.isnan(own)
        np.minimum.at(lows, numbers[known], own[known])
        np.maximum.at(highs, numbers[known], own[known])
        return lows, highs

    # --- change ---

    def add(self, new: Entries) -> None:
        """Add entries. If it raises, nothing has changed."""
        if not len(new.slots):
            return
        touched = np.unique(new.numbers).astype(np.int64)
        sizes = self.sizes + np.bincount(new.numbers, minlength=len(self.sizes))
        if 4 * int(self.sizes[touched].sum()) >= self.entries:
            self._write_all(self.entries_of(np.arange(len(sizes))).joined(new).sorted(), sizes)
            return
        merged = self.entries_of(touched).joined(new).sorted()
        grown = touched[_blocks(sizes[touched]) > self._room[touched]]
        room = np.ceil(_blocks(sizes[grown]) * ROOM).astype(np.int64)
        used = self._used + int(room.sum())
        if used > 2 * int(_blocks(sizes).sum()):  # too much was left behind by lists that moved
            rest = np.setdiff1d(np.arange(len(sizes)), touched)
            self._write_all(self.entries_of(rest).joined(merged).sorted(), sizes)
            return
        self._reserve(used)
        self._starts[grown] = self._used + np.cumsum(room) - room
        self._room[grown] = room
        self._used, self.sizes = used, sizes
        self._write(merged)

    def replace(self, entries: Entries) -> None:
        """Hold these entries instead of all others."""
        sizes = np.bincount(entries.numbers, minlength=len(self.sizes))
        self._write_all(entries.sorted(), sizes)

    def _write_all(self, entries: Entries, sizes: NDArray[np.int64]) -> None:
        """Write sorted entries to arrays of their own, without a gap between lists."""
        room = _blocks(sizes)
        fresh = InvertedLists(len(sizes), self.layout, len(self._columns), self.labelled)
        fresh._reserve(int(room.sum()))
        fresh._starts, fresh._room, fresh.sizes = np.cumsum(room) - room, room, sizes.astype(np.int64)
        fresh._used = int(room.sum())
        fresh._write(entries)
        self.__dict__.update(fresh.__dict__)

    def _write(self, entries: Entries) -> None:
        """Write sorted entries, all of each list, to their lists."""
        counts = np.bincount(entries.numbers, minlength=len(self.sizes))
        within = np.arange(len(entries.slots)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = self._starts[entries.numbers] * BLOCK + within
        if self.layout.blocked:
            self._codes[at // BLOCK, :, at % BLOCK] = entries.codes
        else:
            self._codes[at] = entries.codes
        self._slots[at] = entries.slots
        self._factors[:, at] = entries.factors
        if self.labelled:
            self._labels[at] = entries.labels
        self._columns[:, at] = entries.columns
        self._view = self._bounds = None

    def _reserve(self, blocks: int) -> None:
        """Make room for so many blocks in all."""
        present = len(self._slots) // BLOCK
        if blocks + SLACK <= present:
            return
        capacity = blocks + SLACK if not self._used else max(blocks + SLACK, present + present // 4)
        more = (capacity - present) * BLOCK
        codes, filled = self.layout.empty(capacity), len(self._codes)
        codes[:filled], codes[filled:] = self._codes, 0
        slots = np.concatenate([self._slots, np.zeros(more, np.int32)])
        factors = np.concatenate([self._factors, np.full((len(self._factors), more), np.inf, np.float32)], axis=1)
        labels = np.concatenate([self._labels, np.zeros(more)]) if self.labelled else self._labels
        columns = np.concatenate([self._columns, np.zeros((len(self._columns), more), np.int64)], axis=1)
        self._codes, self._slots, self._factors, self._labels, self._columns = codes, slots, factors, labels, columns
        self._view = self._bounds = None

    # --- look ---

    def entries_of(self, numbers: Positions) -> Entries:
        """All entries of some lists, in the order of the lists as they are given."""
        counts = self.sizes[numbers]
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self._starts[numbers] * BLOCK, counts) + within
        labels = self._labels[at] if self.labelled else self._labels
        return Entries(
            np.repeat(numbers, counts).astype(np.int32), self._slots[at], self._codes_at(at), self._factors[:, at],
            labels, self._columns[:, at],
        )  # fmt: skip

    def _codes_at(self, places: Positions) -> NDArray[Any]:
        if self.layout.blocked:
            return np.ascontiguousarray(self._codes[places // BLOCK, :, places % BLOCK])
        return self._codes[places]

    def everything(self) -> Entries:
        """All entries, in the order of the lists."""
        return self.entries_of(np.arange(len(self.sizes)))

    # --- storage ---

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Arrays for a file: lists without gaps, whatever happened to them before."""
        tight = self
        if (int(_blocks(self.sizes).sum()) + SLACK) * BLOCK != len(self._slots) or (np.diff(self._starts) < 0).any():
            tight = InvertedLists(len(self.sizes), self.layout, len(self._columns), self.labelled)
            tight.replace(self.everything())
        codes = tight._codes.reshape(len(tight._codes), -1) if self.layout.blocked else tight._codes
        return {"sizes": tight.sizes, "slots": tight._slots, "codes": codes, "factors": tight._factors}

    def restore(
        self,
        tensors: dict[str, NDArray[Any]],
        copies: int,
        held: slice,
        labels: NDArray[np.float64] | None,
        columns: NDArray[np.int64],
        needed: NDArray[np.uint8] | None = None,
    ) -> None:
        """Take back what `tensors` gave, for the slots `held`, which have at most `copies` entries each.

        labels (n,) and columns (a, n) are those of all slots; needed (n,): 0 for slots that may have none. Raises
        CorruptIndexError if it cannot be that.
        """
        count = held.stop - held.start
        sizes = take_tensor(tensors, "sizes", np.int64, (len(self.sizes),))
        if len(sizes) and (sizes.min() < 0 or sizes.max() > count * copies):
            raise CorruptIndexError("tensor 'sizes': values out of range")
        room = _blocks(sizes)
        total = int(room.sum())
        capacity = total + SLACK
        slots = take_tensor(tensors, "slots", np.int32, (capacity * BLOCK,))
        shape = (capacity, self.layout.width * BLOCK) if self.layout.blocked else (capacity * BLOCK, self.layout.width)
        codes = take_tensor(tensors, "codes", self.layout.dtype, shape)
        if self.layout.blocked:
            codes = codes.reshape(capacity, self.layout.width, BLOCK)
        factors = take_tensor(tensors, "factors", np.float32, (len(self._factors), capacity * BLOCK))
        self._starts, self._room, self.sizes, self._used = np.cumsum(room) - room, room, sizes, total
        self._slots, self._codes, self._factors = slots, codes, factors
        self._view = self._bounds = None
        at = self._places()
        own = slots[at]
        # Steps of a scan read slots behind the entries too, though nothing comes of it.
        if (
            slots.min(initial=0) < 0
            or slots.max(initial=0) >= max(1, held.stop)
            or own.min(initial=held.start) < held.start
        ):
            raise CorruptIndexError("tensor 'slots': values out of range")
        entries = np.bincount(own - held.start, minlength=count)
        least = 1 if needed is None else needed[held]
        if count and ((entries < least).any() or entries.max() > copies):
            raise CorruptIndexError(f"tensor 'slots': expected each slot in 1 to {copies} lists")
        if not np.isfinite(factors[:, at]).all():
            raise CorruptIndexError("tensor 'factors': expected finite numbers")
        self._columns = np.zeros((len(columns), capacity * BLOCK), np.int64)
        self._columns[:, at] = columns[:, own] if len(columns) else self._columns[:, at]
        self.labelled = labels is not None
        if labels is not None:
            self._labels = np.zeros(capacity * BLOCK)
            self._labels[at] = labels[own]
            numbers = np.repeat(np.arange(len(sizes)), sizes)
            if (np.lexsort((labels[own], numbers)) != np.arange(len(own))).any():
                raise CorruptIndexError("tensor 'slots': expected every list in the order of its labels")

    def _places(self) -> Positions:
        """Place of every entry, list after list."""
        within = np.arange(self.entries) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        return np.repeat(self._starts * BLOCK, self.sizes) + within

    def describe(self, labels: NDArray[np.float64] | None, columns: NDArray[np.int64]) -> None:
        """Set labels and attributes of all entries from those of the slots (n,) and (a, n), and sort the lists anew."""
        entries = self.everything()
        own = np.empty(0) if labels is None else labels[entries.slots]
        entries = entries._replace(labels=own, columns=columns[:, entries.slots])
        fresh = InvertedLists(len(self.sizes), self.layout, len(columns), labels is not None)
        fresh.replace(entries)
        self.__dict__.update(fresh.__dict__)


def _blocks(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Blocks that hold so many entries."""
    return -(-sizes // BLOCK)
