"""Many groups of queries in one call: each as in a call of its own, whatever the threads."""

import threading

import numpy as np
import pytest
from attention_pages import Pages, aligned

from nearhash.kernels import (
    attention,
    attention_code_scan,
    attention_lvq4,
    attention_pq4,
    attention_priority,
    attention_sampling,
    attention_simhash,
    attention_units,
    product_codes,
)
from nearhash.kernels.attention_rows import PAGE

DIM, HEADS, COUNT = 64, 3, 700
STARTS = np.array([0, 2, 3, 7, 8])  # units of 2, 1, 4 and 1 queries
NUMBERS = np.array([0, 0, 1, 2])
UNITS, QUERIES, WIDEST = len(NUMBERS), int(STARTS[-1]), 4
FIRST, LAST, ROOM = 5, 650, -(-COUNT // PAGE) * PAGE
BUDGETS = np.array([40, 64, 700, 33])
SETTINGS = {"seed": 9, "step": 4, "layer": 2}


class Heads:
    """Keys, values and codes of some heads."""

    def __init__(self, codec):
        rng = np.random.default_rng(len(codec))
        keys, values = (rng.standard_normal((HEADS, COUNT, DIM)).astype(np.float32) for _ in range(2))
        self.queries = (rng.standard_normal((QUERIES, DIM)) * 3 / np.sqrt(DIM)).astype(np.float32)
        self.stored = [Pages.of("float32", keys[head], values[head])[0] for head in range(HEADS)]
        self.rows = self.stored[0].rows
        mean, subs, bits = np.zeros(DIM, np.float32), DIM // 2, 128
        size, self.norms_at = {
            "lvq4": (attention_lvq4.page_bytes(DIM), attention_lvq4.norms_at(DIM)),
            "pq4": (attention_pq4.page_bytes(subs), attention_pq4.norms_at(subs)),
            "simhash": (attention_simhash.page_bytes(bits), attention_simhash.norms_at(bits)),
        }[codec]
        self.memory = [[aligned(size, 0xFF) for _ in range(ROOM // PAGE)] for _ in range(HEADS)]
        codes = [np.array([page.ctypes.data for page in pages], np.int64) for pages in self.memory]
        bounds = np.tile(np.arange(0, DIM + 1, 2, dtype=np.int32), (HEADS, 1))
        words = np.zeros((HEADS, DIM, 16), np.float32)
        for head in range(HEADS):
            if codec == "lvq4":
                attention_lvq4.encode(codes[head], 0, keys[head], values[head], mean)
            elif codec == "simhash":
                signs = rng.integers(0, 2**63, (COUNT, bits // 64)).astype(np.uint64)
                attention_simhash.encode(codes[head], 0, signs, keys[head], values[head], mean)
            else:
                for sub in range(subs):
                    product_codes.train_sub_quantiser(keys[head], 2 * sub, 2 * sub + 2, 3, words[head])
                found = np.empty((COUNT, subs), np.uint8)
                product_codes.encode(keys[head], bounds[head], words[head], found)
                attention_pq4.encode(codes[head], 0, found, values[head])
        signs = rng.integers(0, 2**63, (QUERIES, bits // 64)).astype(np.uint64)
        self.asked = {
            "lvq4": attention_code_scan.LVQ4Queries(self.queries),
            "pq4": attention_code_scan.PQ4Queries(self.queries, bounds, words),
            "simhash": attention_code_scan.SimHashQueries(self.queries, signs),
        }[codec]
        # As in a store, rows of addresses have room for more, here for what is no address.
        self.pages, self.codes = (
            np.array([[*addresses, -1] for addresses in table], np.int64)
            for table in ([pages.addresses for pages in self.stored], codes)
        )

    def attend(self, tickets, found):
        outputs, lses, variances, reads = found
        scratch = np.full((WIDEST + 2) * ROOM, np.nan, np.float32)
        attention_units.attend_priority_units(
            self.rows, self.asked, tickets, NUMBERS, STARTS, self.queries, self.pages, self.codes, self.norms_at, COUNT,
            FIRST, LAST, 1.0, 0.02, *SETTINGS.values(), BUDGETS, scratch, ROOM, outputs, lses, variances, reads,
        )  # fmt: skip

    def alone(self):
        """Each unit in a call of its own."""
        found = poisoned()
        for unit, head in enumerate(NUMBERS):
            own = slice(STARTS[unit], STARTS[unit + 1])
            pages, codes = self.pages[head, :-1].copy(), self.codes[head, :-1].copy()
            lines = np.full((own.stop - own.start + 2, ROOM), np.nan, np.float32)
            key = np.uint64(attention_sampling.sampling_key(*SETTINGS.values(), unit))
            found[3][unit] = attention_priority.attend_priority(
                self.rows, self.asked, head, own.start, own.stop, self.queries[own], pages, COUNT, FIRST, LAST, lines,
                codes, self.norms_at, 1.0, 0.02, key, BUDGETS[unit], found[0][own], found[1][own], found[2][own],
            )  # fmt: skip
        return found


def poisoned():
    outputs = np.full((QUERIES, DIM), np.nan, np.float32)
    return outputs, *(np.full(QUERIES, np.nan, np.float32) for _ in range(2)), np.full(UNITS, -7)


@pytest.fixture(scope="module", params=["lvq4", "pq4", "simhash"])
def heads(request):
    return Heads(request.param)


def test_units_are_as_in_calls_of_their_own(heads):
    found = poisoned()
    heads.attend(np.array([0, UNITS]), found)
    for array, expected in zip(found, heads.alone(), strict=True):
        np.testing.assert_array_equal(array, expected)
    assert found[3].tolist() == [40 + 55, 64 + 55, COUNT, 33 + 55]


def test_units_without_a_ticket_are_left_alone(heads):
    found, expected = poisoned(), heads.alone()
    heads.attend(np.array([2, 3]), found)
    own = slice(STARTS[2], STARTS[3])
    for array, whole in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(array[own], whole[own])
        assert np.isnan(np.delete(array, np.arange(own.start, own.stop), axis=0)).all()
    assert found[3].tolist() == [-7, -7, COUNT, -7]


def test_threads_share_the_tickets(heads):
    expected = heads.alone()
    for _ in range(20):
        found, tickets = poisoned(), np.array([0, UNITS])
        threads = [threading.Thread(target=heads.attend, args=(tickets, found)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tickets[0] == UNITS + 3  # each was drawn once, and each thread found that there is none
        for array, whole in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, whole)


@pytest.mark.parametrize("count", [0, 1, 256, COUNT])
def test_dense_parts_are_as_in_calls_of_their_own(heads, count):
    size, parts = 256, max(1, -(-count // 256))
    outputs = np.full((UNITS, parts, WIDEST, DIM), np.nan, np.float32)
    lses = np.full((UNITS, parts, WIDEST), np.nan, np.float32)
    attention_units.attend_dense_units(
        heads.rows, np.array([0, UNITS * parts]), NUMBERS, STARTS, parts, size, heads.queries, heads.pages, count,
        outputs, lses,
    )  # fmt: skip
    for unit, head in enumerate(NUMBERS):
        own, pages = slice(STARTS[unit], STARTS[unit + 1]), heads.pages[head, :-1].copy()
        wide = own.stop - own.start
        for part in range(parts):
            out, lse = np.full((wide, DIM), np.nan, np.float32), np.full(wide, np.nan, np.float32)
            first = part * size
            attention.attend_dense(heads.rows, heads.queries[own], pages, first, min(first + size, count), out, lse)
            np.testing.assert_array_equal(outputs[unit, part, :wide], out)
            np.testing.assert_array_equal(lses[unit, part, :wide], lse)
            assert np.isnan(outputs[unit, part, wide:]).all()
