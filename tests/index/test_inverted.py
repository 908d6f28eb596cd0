"""Inverted lists against a dict, in any order of changes, and files that no lists have written."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nearhash.errors import CorruptIndexError
from nearhash.index import arrays, inverted
from nearhash.index.codecs.pq4 import pack
from nearhash.index.inverted import SLACK, Entries, InvertedLists, Layout
from nearhash.kernels import reference_lists
from nearhash.kernels.simd_tables import BLOCK

LISTS, WIDTH = 5, 3
BLOCKED, ROWS = Layout(WIDTH, np.uint32, True, 1), Layout(WIDTH, np.float32, False, 0)
THREE = Layout(WIDTH, np.uint32, True, 3)


def entries_of(numbers, first, rng, layout=BLOCKED, labels=None, columns=0, copies=1):
    """Entries for slots from `first` on, each in `copies` lists."""
    count = len(numbers)
    numbers = np.concatenate([(np.array(numbers, np.int32) + i) % LISTS for i in range(copies)]).astype(np.int32)
    slots = np.tile(np.arange(first, first + count, dtype=np.int32), copies)
    codes = rng.integers(0, 2**31, (len(slots), layout.width)).astype(layout.dtype)
    factors = rng.standard_normal((layout.factors, len(slots))).astype(np.float32)
    own = np.empty(0) if labels is None else np.tile(np.asarray(labels, np.float64), copies)
    return Entries(numbers, slots, codes, factors, own, rng.integers(-9, 9, (columns, len(slots))))


def rows_of(entries):
    """Everything about each entry, comparable and in any order."""
    labels = entries.labels if len(entries.labels) else np.zeros(len(entries.slots))
    return sorted(
        (int(n), int(s), codes.tobytes(), factors.tobytes(), label.tobytes(), columns.tobytes())
        for n, s, codes, factors, label, columns in zip(
            entries.numbers, entries.slots, entries.codes, entries.factors.T.copy(), labels, entries.columns.T.copy(),
            strict=True,
        )
    )  # fmt: skip


def assert_sound(lists):
    """What kernels rely on, seen through the arrays that they get."""
    view = lists.arrays
    room = len(view.slots)
    blocks = -(-view.sizes // BLOCK)
    assert ((view.starts >= 0) & (view.starts + blocks + SLACK <= room // BLOCK))[blocks > 0].all()
    taken = np.concatenate([np.arange(s, s + b) for s, b in zip(view.starts, blocks, strict=True)] or [[]])
    assert len(np.unique(taken)) == len(taken), "lists do not overlap"
    everything = lists.everything()
    own_labels = everything.labels if len(everything.labels) else np.zeros(len(everything.slots))
    order = np.lexsort((everything.slots, own_labels, everything.numbers))
    assert np.array_equal(order, np.arange(len(order))), "by list, label and slot"
    for array in (view.codes, view.slots, view.bias, view.labels, view.columns):
        assert array.flags.c_contiguous
        assert array.flags.aligned
    for number, size in enumerate(view.sizes.tolist()):
        at = view.starts[number] * BLOCK + np.arange(size)
        own = lists.entries_of(np.array([number]))
        assert np.array_equal(view.slots[at], own.slots)
        if lists.layout.factors:
            assert np.array_equal(view.bias[at], own.factors[0])
        if lists.labelled:
            assert np.array_equal(view.labels[at], own.labels, equal_nan=True)
        assert np.array_equal(view.columns[:, at], own.columns)
        if lists.layout.blocked:
            lines = view.codes[view.starts[number] : view.starts[number] + blocks[number]].view(np.uint32)
            codes = lines.reshape(blocks[number], WIDTH, BLOCK).transpose(0, 2, 1).reshape(-1, WIDTH)[:size]
        else:
            codes = view.codes[at]
        assert np.array_equal(codes, own.codes)


class ListsMachine(RuleBasedStateMachine):
    """Changes in any order; the model is all entries that there should be."""

    @initialize(blocked=st.booleans(), copies=st.integers(1, 2), columns=st.integers(0, 2), labelled=st.booleans())
    def start(self, blocked, copies, columns, labelled):
        self.layout = BLOCKED if blocked else ROWS
        self.copies, self.columns, self.labelled = copies, columns, labelled
        self.lists = InvertedLists(LISTS, self.layout, columns, labelled)
        self.model = None
        self.count = 0
        self.rng = np.random.default_rng(0)

    def _new(self, numbers, labels):
        count = len(numbers)
        own = [labels[i % len(labels)] for i in range(count)] if self.labelled else None
        return entries_of(numbers, self.count, self.rng, self.layout, own, self.columns, self.copies)

    @rule(
        numbers=st.lists(st.integers(0, LISTS - 1), max_size=40) | st.just([3] * 100),
        labels=st.lists(st.sampled_from([-np.inf, 0.0, 1.5, 1.5, 7.0, np.nan]), min_size=1, max_size=5),
    )
    def add(self, numbers, labels):
        new = self._new(numbers, labels)
        before = self.lists.arrays
        self.lists.add(new)
        if len(new.slots):
            assert self.lists.arrays is not before
        self.model = new if self.model is None else self.model.joined(new)
        self.count += len(numbers)

    @rule(share=st.floats(0, 1))
    def keep_some(self, share):
        """What `compact` does: fewer entries, with new slots."""
        if self.model is None:
            return
        slots = np.flatnonzero(self.rng.random(self.count) < share)
        places = np.full(self.count, -1, np.int32)
        places[slots] = np.arange(len(slots))
        kept = self.model.take(np.flatnonzero(places[self.model.slots] >= 0))
        self.model = kept._replace(slots=places[kept.slots])
        self.lists.replace(self.model)
        self.count = len(slots)

    @rule(columns=st.integers(0, 2), labelled=st.booleans())
    def describe(self, columns, labelled):
        if self.model is None:
            return
        labels = self.rng.integers(0, 4, self.count).astype(np.float64) if labelled else None
        values = self.rng.integers(-9, 9, (columns, self.count))
        self.lists.describe(labels, values)
        own = self.model.slots
        self.model = self.model._replace(labels=np.empty(0) if labels is None else labels[own], columns=values[:, own])
        self.columns, self.labelled = columns, labelled

    @rule()
    def save_and_load(self):
        tensors = {name: array.copy() for name, array in self.lists.tensors().items()}
        labels = np.zeros(self.count) if self.labelled else None
        columns = np.zeros((self.columns, self.count), np.int64)
        if self.model is not None:
            if labels is not None:
                labels[self.model.slots] = self.model.labels
            # Attributes belong to slots: those of a second entry are those of the first.
            columns[:, self.model.slots[::-1]] = self.model.columns[:, ::-1]
            self.model = self.model._replace(columns=columns[:, self.model.slots])
        fresh = InvertedLists(LISTS, self.layout)
        fresh.restore(tensors, self.copies, slice(0, self.count), labels, columns)
        self.lists = fresh
        assert fresh.labelled == self.labelled
        again = fresh.tensors()
        assert all(np.array_equal(again[name], tensors[name], equal_nan=True) for name in tensors)

    @invariant()
    def holds_the_entries_of_the_model(self):
        if not hasattr(self, "lists"):
            return
        expected = 0 if self.model is None else len(self.model.slots)
        assert self.lists.entries == expected
        assert self.lists.columns == self.columns
        assert self.lists.labelled == self.labelled
        if self.model is not None:
            assert rows_of(self.lists.everything()) == rows_of(self.model)
            numbers = np.array([3, 1])
            wanted = self.model.take(np.flatnonzero(np.isin(self.model.numbers, numbers)))
            assert rows_of(self.lists.entries_of(numbers)) == rows_of(wanted)
        assert_sound(self.lists)


TestLists = ListsMachine.TestCase
TestLists.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


def filled(layout=BLOCKED, labelled=False, columns=0, parts=1, copies=1):
    rng = np.random.default_rng(1)
    lists = InvertedLists(LISTS, layout, columns, labelled)
    numbers, labels = rng.integers(0, LISTS, 200), rng.integers(0, 9, 200).astype(np.float64)
    for part in np.array_split(np.arange(200), parts):
        own = labels[part] if labelled else None
        lists.add(entries_of(numbers[part], int(part[0]), np.random.default_rng(2), layout, own, columns, copies))
    return lists, labels


@pytest.mark.parametrize("layout", [BLOCKED, ROWS, THREE])
def test_files_do_not_hold_what_memory_held_before(monkeypatch, layout):
    """Same bytes, whatever fresh arrays are full of."""
    seen = []
    for poison in (0, 0xA5):

        def poisoned(shape, dtype, poison=poison):
            array = arrays.aligned_empty(shape, dtype)
            array.view(np.uint8)[...] = poison
            return array

        monkeypatch.setattr(inverted, "aligned_empty", poisoned)
        for parts in (1, 20):
            tensors = filled(layout, parts=parts)[0].tensors()
            empty = InvertedLists(LISTS, layout).tensors()
            seen.append({name: (tensors[name].tobytes(), empty[name].tobytes()) for name in tensors})
            if layout.factors:
                assert not np.isnan(tensors["factors"]).any()
    assert seen[0] == seen[2], "in one go"
    assert seen[1] == seen[3], "in parts"


def test_many_small_additions_do_not_grow_without_bound():
    rng = np.random.default_rng(3)
    lists = InvertedLists(50, BLOCKED)
    sizes = []
    for first in range(0, 6000, 20):
        lists.add(entries_of(rng.integers(0, LISTS, 20) * 10, first, rng)._replace(
            numbers=rng.integers(0, 50, 20).astype(np.int32)))  # fmt: skip
        sizes.append(lists.nbytes)
    tight = InvertedLists(50, BLOCKED)
    tight.replace(lists.everything())
    assert sizes[-1] < 4 * tight.nbytes
    assert_sound(lists)


def test_a_failed_addition_changes_nothing(monkeypatch):
    lists, _ = filled(labelled=True)
    before = rows_of(lists.everything())
    new = entries_of([1] * 300, 200, np.random.default_rng(0), labels=np.zeros(300))

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Layout, "empty", fail)
    with pytest.raises(MemoryError):
        lists.add(new)
    monkeypatch.undo()
    assert rows_of(lists.everything()) == before
    assert_sound(lists)
    lists.add(new)
    assert lists.entries == 500


def test_blocks_are_those_of_the_reference():
    """Words of a code, side by side for 16 entries, are the lines that `simd_tables` describes."""
    rng = np.random.default_rng(5)
    plain = rng.integers(0, 16, (40, 8 * WIDTH)).astype(np.uint8)
    new = entries_of([0] * 40, 0, rng)._replace(codes=pack(plain))
    lists = InvertedLists(1, BLOCKED)
    lists.add(new)
    assert np.array_equal(lists.arrays.codes[:3], reference_lists.blocks_of(plain))


@pytest.mark.parametrize("copies", [1, 2])
def test_tensors_that_no_lists_have_written(copies):
    lists, labels = filled(labelled=True, columns=1, copies=copies)
    good = lists.tensors()
    columns = np.arange(200)[None]
    sizes = good["sizes"]
    places = np.flatnonzero(np.arange(len(good["slots"])) < sizes[0])  # of the first list

    def restored(tensors, own_copies=copies, count=200, own=labels, attributes=columns):
        fresh = InvertedLists(LISTS, BLOCKED)
        fresh.restore(tensors, own_copies, slice(0, count), own, attributes)
        return fresh

    def changed(name, change):
        tensors = {key: array.copy() for key, array in good.items()}
        result = change(tensors[name])
        tensors[name] = tensors[name] if result is None else result
        return tensors

    def put(place, value):
        def change(array):
            array.reshape(-1)[place] = value

        return change

    assert_sound(restored(good))

    def swap(array):
        array[places[[0, -1]]] = array[places[[-1, 0]]]

    hostile = {
        **{f"{name} missing": {key: array for key, array in good.items() if key != name} for name in good},
        **{f"{name} shorter": changed(name, lambda array: array[..., :-1]) for name in good},
        **{f"{name} longer": changed(name, lambda a: np.concatenate([a, a[..., :1]], axis=-1)) for name in good},
        **{f"{name} of float64": changed(name, lambda array: array.astype(np.float64)) for name in good},
        "a negative size": changed("sizes", put(0, -1)),
        "a size beyond all": changed("sizes", put(0, 2**62)),
        "sizes that wrap around": changed("sizes", lambda a: np.full_like(a, 2**60)),
        "one entry too many": changed("sizes", put(0, sizes[0] + 1)),
        "one entry too few": changed("sizes", put(0, sizes[0] - 1)),
        "a negative slot": changed("slots", put(places[1], -1)),
        "a slot that is not there": changed("slots", put(places[1], 200)),
        "a negative slot behind the entries": changed("slots", put(-1, -1)),
        "a great slot behind the entries": changed("slots", put(-1, 2**31 - 1)),
        "a slot once more": changed("slots", lambda a: put(places[1], a[places[0]])(a)),
        "labels out of order": changed("slots", swap),
        "a bias that is nan": changed("factors", put(places[2], np.nan)),
        "a bias that is inf": changed("factors", put(places[2], np.inf)),
        "codes of too many blocks": changed("codes", lambda a: np.concatenate([a, a])),
    }
    if copies == 2:
        del hostile["one entry too few"]  # a slot may be in one list only
    for description, tensors in hostile.items():
        with pytest.raises(CorruptIndexError):
            print(description, restored(tensors))
    assert sum(-(-sizes // BLOCK)) + SLACK == len(good["slots"]) // BLOCK
    if copies == 2:
        with pytest.raises(CorruptIndexError, match="1 lists"):
            restored(good, own_copies=1)
    for count in (0, 199, 201):
        with pytest.raises(CorruptIndexError):
            restored(good, count=count, own=np.zeros(count), attributes=np.zeros((1, count), np.int64))
