"""The fast scan of 4-bit codes against its references, on every instruction set (see test_levels)."""

import numpy as np
import pytest

from nearhash.index.codecs.pq4 import pack, unpack
from nearhash.kernels import reference, reference_lists
from nearhash.kernels import simd_tables as tables_of_simd
from nearhash.kernels.fastscan import Codebook
from nearhash.kernels.jit import jit
from nearhash.kernels.lists import prepare_tables
from nearhash.kernels.simd import pointer
from nearhash.kernels.simd_tables import (
    BLOCK,
    CONSTANTS,
    DISTANCE,
    LINE,
    MANY_BLOCKS,
    MANY_QUERIES,
    OFFSET,
    ONE_BLOCKS,
    SCALE,
    SHIFT,
    THRESHOLD,
)

SHAPES = {"one": (1, ONE_BLOCKS), "block": (1, 1), "many": (MANY_QUERIES, MANY_BLOCKS)}
POISON = np.float32(-77)


@jit
def scan_plain(shape, codes, groups, tables, which, bias, constants, scores, masks):
    lines, numbers = pointer(codes, 0), pointer(constants, 0)
    if shape == 0:
        return tables_of_simd.scan_one(
            lines, groups, pointer(tables, 0), pointer(which, 0), pointer(bias, 0), 0, 0, numbers, pointer(scores, 0),
            pointer(masks, 0),
        )  # fmt: skip
    if shape == 1:
        return tables_of_simd.scan_block(
            lines, groups, pointer(tables, 0), pointer(which, 0), pointer(bias, 0), 0, 0, numbers, pointer(scores, 0),
            pointer(masks, 0),
        )  # fmt: skip
    return tables_of_simd.scan_many(
        lines, groups, pointer(tables, 0), pointer(which, 0), pointer(bias, 0), 0, 0, numbers, pointer(scores, 0),
        pointer(masks, 0),
    )  # fmt: skip


@jit
def scan_scaled(shape, codes, groups, tables, which, bias, rescale, error, constants, scores, masks):
    lines, numbers = pointer(codes, 0), pointer(constants, 0)
    if shape == 0:
        return tables_of_simd.scan_one(
            lines, groups, pointer(tables, 0), pointer(which, 0), pointer(bias, 0), pointer(rescale, 0),
            pointer(error, 0), numbers, pointer(scores, 0), pointer(masks, 0),
        )  # fmt: skip
    if shape == 1:
        return tables_of_simd.scan_block(
            lines, groups, pointer(tables, 0), pointer(which, 0), pointer(bias, 0), pointer(rescale, 0),
            pointer(error, 0), numbers, pointer(scores, 0), pointer(masks, 0),
        )  # fmt: skip
    return tables_of_simd.scan_many(
        lines, groups, pointer(tables, 0), pointer(which, 0), pointer(bias, 0), pointer(rescale, 0),
        pointer(error, 0), numbers, pointer(scores, 0), pointer(masks, 0),
    )  # fmt: skip


@jit
def append(scores, mask, slots, keys, size):
    return tables_of_simd.append_keys(pointer(scores, 0), mask, pointer(slots, 0), pointer(keys, 0), size)


@jit
def keep(keys, size, bound):
    return tables_of_simd.keep_keys(pointer(keys, 0), size, bound)


@jit
def mask_of(scores, bound):
    return tables_of_simd.mask_at_most(pointer(scores, 0), bound)


@jit
def line_of(query, values, count, factor, out):
    tables_of_simd.table_line(pointer(query, 0), pointer(values, 0), count, factor, pointer(out, 0))


@jit
def quantised(line, low, inverse, out):
    tables_of_simd.quantise_line(pointer(line, 0), low, inverse, pointer(out, 0))


class Scene:
    """Blocks, tables and numbers whose scores are whole, so that float32 is exact."""

    def __init__(self, shape, groups, rng, scaled, fill=None):
        self.queries, self.blocks = SHAPES[shape]
        self.shape, self.groups = list(SHAPES).index(shape), groups
        count, subs = self.blocks * BLOCK, groups * 8
        self.plain = rng.integers(0, 16, (count, subs)).astype(np.uint8)
        self.codes = reference_lists.blocks_of(self.plain)
        self.tables = rng.integers(0, 256, (self.queries + 2, subs, 16)).astype(np.uint8)
        if fill is not None:
            self.tables[...] = fill
        self.which = rng.permutation(self.queries + 2)[: self.queries].astype(np.int32)
        self.bias = rng.integers(-500, 500, count).astype(np.float32)
        self.bias[rng.integers(0, count, 3)] = np.inf
        self.rescale = self.error = None
        if scaled:
            self.rescale = rng.choice([0.5, 1, 2, 4], count).astype(np.float32)
            self.error = rng.integers(0, 9, count).astype(np.float32)
        self.constants = np.full((self.queries, CONSTANTS), np.nan, np.float32)
        self.constants[:, SCALE] = rng.integers(1, 4, self.queries)
        self.constants[:, SHIFT] = rng.integers(-9, 9, self.queries)
        self.constants[:, OFFSET] = rng.integers(-900, 900, self.queries)
        self.constants[:, DISTANCE] = rng.integers(0, 50, self.queries)
        self.scores = np.array([self._scores(query) for query in range(self.queries)])

    def _scores(self, query):
        scale, shift, offset, distance = (
            float(self.constants[query, i]) for i in (SCALE, SHIFT, OFFSET, DISTANCE)
        )  # fmt: skip
        sums = reference_lists.look_ups(self.plain, self.tables[self.which[query]])
        if self.rescale is None:
            return self.bias + offset + scale * sums
        return self.bias + offset - self.error.astype(float) * distance + self.rescale * (shift + scale * sums)

    def scan(self, thresholds):
        """Whether something was found, scores (q, n) and masks as (q, n) booleans; poisoned where not written."""
        self.constants[:, THRESHOLD] = thresholds
        found = np.full((self.queries, self.blocks, BLOCK), POISON, np.float32)
        masks = np.full((self.queries, self.blocks), 0x5A5A, np.uint16)
        common = self.codes, self.groups, self.tables, self.which, self.bias
        if self.rescale is None:
            hit = scan_plain(self.shape, *common, self.constants, found, masks)
        else:
            hit = scan_scaled(self.shape, *common, self.rescale, self.error, self.constants, found, masks)
        bits = (masks[..., None] >> np.arange(BLOCK, dtype=np.uint16)) & 1
        return hit, found.reshape(self.queries, -1), bits.reshape(self.queries, -1).astype(bool), masks


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_scan_gives_the_scores_of_the_formula(shape, scaled):
    rng = np.random.default_rng(4)
    # Beyond 32 groups 16 bits do not hold a sum; 65 groups are three parts of it, the last one short.
    for groups in (1, 2, 7, 31, 32, 33, 64, 65):
        for fill in (None, 255, 0):
            scene = Scene(shape, groups, rng, scaled, fill)
            finite = np.where(np.isfinite(scene.scores), scene.scores, np.nan)
            # The middle score of each query: equal scores count.
            thresholds = np.nanquantile(finite, 0.5, axis=1, method="lower").astype(np.float32)
            hit, scores, bits, _ = scene.scan(thresholds)
            assert hit
            assert np.array_equal(scores, scene.scores.astype(np.float32)), (groups, fill)
            assert np.array_equal(bits, scene.scores <= thresholds[:, None])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_scan_writes_only_what_is_good_enough(shape, scaled):
    rng = np.random.default_rng(5)
    scene = Scene(shape, 3, rng, scaled)
    for query in range(scene.queries):
        best = int(scene.scores[query].argmin())
        thresholds = np.full(scene.queries, -np.inf, np.float32)
        hit, scores, _, masks = scene.scan(thresholds)
        assert not hit
        assert (scores == POISON).all()
        assert (masks == 0x5A5A).all()
        thresholds[query] = np.nextafter(np.float32(scene.scores[query, best]), np.float32(-np.inf))
        assert not scene.scan(thresholds)[0]
        thresholds[query] = scene.scores[query, best]
        hit, _, bits, _ = scene.scan(thresholds)
        assert hit
        expected = np.zeros_like(bits)
        expected[query] = scene.scores[query] == scene.scores[query, best]
        assert np.array_equal(bits, expected)


def test_scan_never_takes_an_entry_of_infinite_bias():
    scene = Scene("one", 2, np.random.default_rng(6), False)
    scene.bias[:] = np.inf
    assert not scene.scan(np.full(1, 3.4e38, np.float32))[0]


@pytest.mark.parametrize("dim", [1, 7, 8, 20, 100])
def test_packed_codes_are_blocks(dim):
    """`pack` gives the four bytes of a vector for each group; 16 of them side by side are a line of a block."""
    rng = np.random.default_rng(dim)
    codes = rng.integers(0, 16, (dim, 8 * -(-dim // 8))).astype(np.uint8)
    words = pack(codes)
    assert np.array_equal(unpack(words), codes)
    padded = np.zeros((-(-dim // BLOCK) * BLOCK, words.shape[1]), np.uint32)
    padded[:dim] = words
    blocks = np.ascontiguousarray(padded.reshape(-1, BLOCK, words.shape[1]).transpose(0, 2, 1))
    assert np.array_equal(blocks.view(np.uint8).reshape(len(blocks), -1), reference_lists.blocks_of(codes))
    assert blocks.nbytes == len(blocks) * words.shape[1] * LINE


def test_no_codes_pack_to_nothing():
    assert pack(np.empty((0, 16), np.uint8)).shape == (0, 2)
    assert unpack(np.empty((0, 2), np.uint32)).shape == (0, 16)


SCORES = np.array(
    [0.0, -0.0, 1.5, -1.5, 3.4e38, -3.4e38, 1e-45, -1e-45, np.inf, -np.inf, 7, 7, -7, 1e-20, -1e20, 2], np.float32
)
SLOTS = np.array([0, 1, 2**31 - 1, 2**30, *range(100, 112)], np.int32)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 20])
def test_append_keys(size):
    rng = np.random.default_rng(7)
    masks = [0, 1, 0x8000, 0x00FF, 0xFF00, 0xFFFF, 0x8001, 0x0180, *rng.integers(0, 1 << 16, 30).tolist()]
    for mask in masks:
        order = rng.permutation(16)
        scores, slots = SCORES[order], SLOTS[order]
        keys = np.full(64, 0xABABABAB, np.uint64)
        expected = [reference.make_key(scores[i], int(slots[i])) for i in range(16) if mask >> i & 1]
        after = append(scores, mask, slots, keys, size)
        assert after == size + len(expected)
        assert keys[size:after].tolist() == expected
        assert (keys[:size] == 0xABABABAB).all()
        assert (keys[after + 16 :] == 0xABABABAB).all()


def test_keep_keys():
    rng = np.random.default_rng(8)
    for size in (0, 1, 7, 8, 9, 16, 40, 41):
        keys = rng.integers(0, 2**64, size, np.uint64, endpoint=False)
        for bound in [0, 2**64 - 1, 2**63, *keys[:3].tolist(), *(keys[:3] - np.uint64(1)).tolist()]:
            held = np.full(size + 8, 99, np.uint64)
            held[:size] = keys
            kept = keep(held, size, np.uint64(bound))
            assert held[:kept].tolist() == [key for key in keys.tolist() if key <= bound]
            assert (held[size:] == 99).all()


def test_mask_at_most():
    scores = SCORES.copy()
    scores[3] = np.nan
    for bound in (*SCORES, np.float32(np.nan)):
        expected = sum(1 << i for i in range(16) if scores[i] <= bound)
        assert mask_of(scores, bound) == expected


def test_table_line():
    rng = np.random.default_rng(9)
    for count in (0, 1, 2, 5, 33):
        query, values = rng.integers(-5, 6, count + 1), rng.integers(-5, 6, (count + 1, 16))
        out = np.full(17, np.nan, np.float32)
        line_of(query.astype(np.float32), values.astype(np.float32), count, np.float32(-2), out)
        assert out[:16].tolist() == (-2 * query[:count] @ values[:count]).tolist()
        assert np.isnan(out[16])


def test_quantise_line():
    line = np.array([0, 0.24, 0.25, 0.74, 0.75, 1, 100, 127, 127.24, 127.25, 127.5, 128, 1e9, 1e30, 3, 5], np.float32)
    out = np.full(17, 9, np.uint8)
    quantised(line - np.float32(8), np.float32(-8), np.float32(2), out)
    expected = np.minimum(255, np.floor(((line - np.float32(8)) + np.float32(8)).astype(float) * 2 + 0.5))
    assert out.tolist() == [*expected.tolist(), 9]


def codebook_of(dim, subs, rng, exact):
    bounds = np.sort(rng.integers(0, dim + 1, subs + 1)).astype(np.int32)  # some sub-quantisers have no dimension
    bounds[0], bounds[-1] = 0, dim
    values = rng.integers(-3, 4, (dim, 16)) if exact else rng.standard_normal((dim, 16))
    return Codebook(bounds, values.astype(np.float32))


def tables_for(queries, codebook, factor):
    subs, count = len(codebook.bounds) - 1, len(queries)
    tables = np.full((count, subs * 16), 0xEE, np.uint8)
    constants, squares = np.full((count, CONSTANTS), np.nan, np.float32), np.full(count, np.nan, np.float32)
    prepare_tables(queries, queries, codebook, np.float32(factor), tables, constants, squares)
    return tables.reshape(count, subs, 16), constants[:, SCALE], constants[:, SHIFT], squares


@pytest.mark.parametrize(("dim", "subs"), [(1, 8), (5, 8), (16, 8), (40, 24), (300, 144)])
@pytest.mark.parametrize("factor", [-1, -2])
def test_tables_of_queries(dim, subs, factor):
    rng = np.random.default_rng(dim)
    codebook = codebook_of(dim, subs, rng, exact=False)
    queries = rng.standard_normal((5, dim)).astype(np.float32)
    queries[4] = 0
    tables, scales, shifts, squares = tables_for(queries, codebook, factor)
    np.testing.assert_allclose(squares, (queries.astype(float) ** 2).sum(axis=1), rtol=1e-5)
    codes = rng.integers(0, 16, (40, subs)).astype(np.uint8)
    for query in range(5):
        expected, scale, shift = reference_lists.quantised_tables(queries[query], *codebook, factor)
        np.testing.assert_allclose([scales[query], shifts[query]], [scale, shift], rtol=1e-5, atol=1e-5)
        assert np.abs(tables[query].astype(int) - expected).max() <= 1  # halves, in another precision
        assert (tables[query] != expected).mean() < 0.01
        # The bound that kernels/fastscan.py states.
        estimate = shifts[query] + scales[query] * reference_lists.look_ups(codes, tables[query]).astype(float)
        exact = factor * reference_lists.decoded(codes, *codebook).astype(float) @ queries[query]
        assert (np.abs(estimate - exact) <= subs * scale / 2 + 1e-4 * subs).all()
    assert not tables[4].any()
    assert scales[4] == shifts[4] == 0


def test_tables_use_all_255_steps_and_are_exact_where_they_can_be():
    rng = np.random.default_rng(0)
    codebook = codebook_of(20, 16, rng, exact=True)
    codebook.bounds[:2] = 0, 1
    codebook.values[0] = 17 * rng.permutation(16)  # of 0 to 255: steps of 1
    queries = rng.integers(-2, 3, (4, 20)).astype(np.float32)
    queries[:, 0] = 1
    tables, scales, shifts, _ = tables_for(queries, codebook, -2)
    assert (scales == 2).all()
    for query in range(4):
        expected, _, shift = reference_lists.quantised_tables(queries[query], *codebook, -2)
        assert np.array_equal(tables[query], expected)
        assert shifts[query] == shift
        assert {int(tables[query].min()), int(tables[query].max())} == {0, 255}
