"""Search in lists, blocked or in rows, against measuring every entry; and the exact measurement of what it leaves.

Vectors, centroids, codewords and queries are small whole numbers, and tables have steps of exactly 1 or 2. So every
score is exact, many are equal, and results must be those of the reference to the bit.
"""

import copy
from itertools import product

import numpy as np
import pytest

from nearhash.kernels import codes, float_rows, reference, reference_lists
from nearhash.kernels.fastscan import Codebook
from nearhash.kernels.jit import jit
from nearhash.kernels.lists import (
    POOL_SLACK,
    Centroids,
    Lists,
    Reach,
    Restriction,
    label_range,
    passing_share,
    search_lists,
)
from nearhash.kernels.predicate import RANGE
from nearhash.kernels.rerank import rerank
from nearhash.kernels.row_lists import search_row_lists
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.simd import pointer
from nearhash.kernels.simd_tables import BLOCK, CONSTANTS

DIM, SUBS = 20, 16
SIZES = [0, 1, 16, 17, 70, 130, 1000, 0, 33, 5, 64, 15, 2, 48]
NOTHING = np.empty(0, np.int64)
NO_MASK, NO_WINDOWS = np.empty(0, np.uint8), np.empty((0, 2))
GARBAGE = np.float32(-1e9)  # between the lists: better than every entry


class Scene:
    """Entries of lists that lie apart in the arrays, in another order than their numbers."""

    def __init__(self, metric, seed=0, scaled=False):
        rng = np.random.default_rng(seed)
        self.metric, self.scaled = metric, scaled
        self.factor = -2.0 if metric == L2 else -1.0
        bounds = np.sort(rng.integers(1, DIM + 1, SUBS + 1)).astype(np.int32)
        bounds[0], bounds[1], bounds[-1] = 0, 1, DIM
        values = rng.integers(-2, 3, (DIM, 16)).astype(np.float32)
        values[0] = 17 * rng.permutation(16)  # the widest table: 255 steps
        self.codebook = Codebook(bounds, values)
        self.sizes, count = np.array(SIZES, np.int64), sum(SIZES)
        self.numbers = np.repeat(np.arange(len(SIZES)), SIZES).astype(np.int32)
        self.slots = rng.permutation(count).astype(np.int32)
        self.labels = rng.integers(0, 30, count).astype(np.float64)
        self.labels[::5] = np.nan
        order = np.lexsort((self.slots, self.labels, self.numbers))
        self.slots, self.labels = self.slots[order], self.labels[order]
        self.columns = rng.integers(0, 10, (2, count))
        self.plain = rng.integers(0, 16, (count, SUBS)).astype(np.uint8)
        self.centroids = rng.integers(-12, 13, (len(SIZES), DIM)).astype(np.float32)
        residuals = reference_lists.decoded(self.plain, *self.codebook)
        self.vectors = self.centroids[self.numbers] + residuals
        squares = (self.vectors**2).sum(axis=1)
        self.bias = squares if metric == L2 else rng.integers(-5, 6, count).astype(np.float32)
        self.rescale, self.error = rng.choice([0.5, 1, 2], count).astype(np.float32), rng.random(count, np.float32)
        own = (self.centroids**2).sum(axis=1)
        self.radius = np.full(len(SIZES), 1e6, np.float32)
        self.facts = own, own if metric == L2 else np.zeros(len(SIZES), np.float32)
        self._lay_out(rng)

    def _lay_out(self, rng):
        blocks = -(-self.sizes // BLOCK)
        starts = np.zeros(len(blocks), np.int64)
        place = 1
        for number in rng.permutation(len(blocks)):
            starts[number] = place
            place += blocks[number] + rng.integers(0, 3)
        room = (int(place) + 8) * BLOCK
        within = np.arange(len(self.numbers)) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        at = starts[self.numbers] * BLOCK + within

        def spread(values, fill):
            spaced = np.full((room, *values.shape[1:]), fill, values.dtype)
            spaced[at] = values
            return spaced

        plain = spread(self.plain, 3)
        self.common = starts, self.sizes, spread(self.slots, 0)
        self.rest = spread(self.labels, 1.0), np.ascontiguousarray(spread(self.columns.T, 1).T)
        self.blocked = reference_lists.blocks_of(plain)
        self.factors = spread(self.bias, GARBAGE), spread(self.rescale, 1.0), spread(self.error, 0.0)
        self.rows = np.zeros((room, 32), np.float32)
        self.rows[at, :DIM] = self.vectors

    def queries(self, count, seed=0):
        asked = np.random.default_rng(seed).integers(-1, 2, (count, DIM)).astype(np.float32)
        asked[:, 0] = 1
        return asked

    def chosen(self, queries, probes):
        """Keys of `probes` lists of each query in any order, and their numbers by nearness."""
        _, bias = self.facts
        order = [reference_lists.nearest_centroids(q, self.centroids, bias, self.factor, probes) for q in queries]
        shuffled = np.array(order, np.uint64).reshape(len(queries), probes)
        shuffled = np.random.default_rng(0).permuted(shuffled, axis=1)
        numbers = [[(key & 0xFFFFFFFF) >> 1 for key in keys] for keys in order]
        return shuffled, numbers

    def search(self, kind, queries, probes, near, restriction, want, limit=np.inf, k=1, parts=None):
        """(keys in ascending order) of each query, as the kernels find them.

        parts: masks of entries, which are laid out as lists of their own and scanned one after the other.
        """
        if parts is not None:
            return self._search_parts(kind, queries, probes, near, restriction, want, limit, k, parts)
        state = self._state(queries, probes, want)
        self._scan(kind, queries, near, restriction, want, limit, k, state, fresh=True)
        return self._found(state)

    def _found(self, state):
        return [np.sort(keys[:size]).tolist() for keys, size in zip(state["keys"], state["sizes"], strict=True)]

    def _state(self, queries, probes, want):
        count = len(queries)
        chosen, _ = self.chosen(queries, probes)
        return {
            "chosen": chosen,
            "keys": np.full((count, 2 * want + POOL_SLACK), 0xDEAD, np.uint64),
            "sizes": np.full(count, -9, np.int64),
            "constants": np.full((count, CONSTANTS), np.nan, np.float32),
            "squares": np.full(count, np.nan, np.float32),
            "stops": np.full(count, -9, np.int64),
            "numbers": np.full((count, codes.CONSTANTS), np.nan, np.float32),
            "buffers": np.full((count, 128), 0xEE, np.uint8),
            "tables": np.full((count, SUBS * 16), 0xEE, np.uint8),
        }

    def _search_parts(self, kind, queries, probes, near, restriction, want, limit, k, parts):
        state = self._state(queries, probes, want)
        for number, part in enumerate(parts):
            self._only(part)._scan(kind, queries, near, restriction, want, limit, k, state, fresh=number == 0)
        return self._found(state)

    def _only(self, part):
        """The scene with some of its entries."""
        scene = copy.copy(self)
        for name in ("numbers", "slots", "labels", "plain", "vectors", "bias", "rescale", "error"):
            setattr(scene, name, getattr(self, name)[part])
        scene.columns = self.columns[:, part]
        scene.sizes = np.bincount(scene.numbers, minlength=len(SIZES)).astype(np.int64)
        scene._lay_out(np.random.default_rng(5))
        return scene

    def _scan(self, kind, queries, near, restriction, want, limit, k, state, fresh):
        limits = np.full(len(queries), limit, np.float32)
        # Distances are above 0 where they are compared with; where they are not, inner products may be anything.
        offset = np.float32(1000 if np.isfinite(limit) else 0)
        reach = Reach(limits, offset, k, state["stops"], fresh)
        centroids = Centroids(*self.facts, self.radius)
        if kind == "rows":
            lists = Lists(*self.common, self.rows, np.empty(0, np.float32), None, None, *self.rest)
            model = codes.Model(float_rows.f32_scheme(DIM, False), np.zeros(0, np.float32))
            search_row_lists(
                queries, model, lists, centroids, self.metric, state["chosen"], near, reach, restriction, want,
                state["numbers"], state["buffers"], state["constants"], state["squares"], state["keys"], state["sizes"],
            )  # fmt: skip
        else:
            bias, rescale, error = self.factors
            lists = Lists(
                *self.common, self.blocked, bias, rescale if self.scaled else None, error if self.scaled else None,
                *self.rest,
            )  # fmt: skip
            search_lists(
                queries, queries, self.codebook, lists, centroids, self.metric, state["chosen"], near, reach,
                restriction, want, state["tables"], state["constants"], state["squares"], state["keys"], state["sizes"],
            )  # fmt: skip

    def scores(self, kind, query):
        if kind == "rows" and self.metric == L2:
            return ((self.vectors - query) ** 2).sum(axis=1)
        if kind == "rows":
            return -(self.vectors @ query)
        if self.scaled:
            residuals = reference_lists.decoded(self.plain, *self.codebook).astype(float)
            away = np.linalg.norm(self.centroids - query, axis=1)
            own, coded = self.centroids[self.numbers] @ query, residuals @ query
            slack = self.error * away[self.numbers]
            return (self.bias + self.factor * (own + self.rescale * coded) - slack).astype(np.float32)
        return (self.bias + self.factor * (self.vectors @ query)).astype(np.float32)

    def expected(self, kind, queries, probes, near, restriction, want, limit=np.inf, k=1):
        _, order = self.chosen(queries, probes)
        found = []
        for i, query in enumerate(queries):
            passing = np.ones(len(self.numbers), bool)
            if len(restriction.allowed):
                passing &= restriction.allowed[self.slots] == 1
            if len(restriction.windows):
                passing &= (self.labels >= restriction.windows[i, 0]) & (self.labels < restriction.windows[i, 1])
            if len(restriction.program):
                low, width = restriction.operands.tolist()
                passing &= (self.columns[1] >= low) & (self.columns[1] <= low + width)
            least = reference_lists.least_scores(query, self.centroids, self.radius, self.metric == L2)
            if kind == "rows" and self.metric == L2:
                least = least + query @ query
            scores = self.scores(kind, query)
            entries = scores, self.slots, self.numbers, passing
            first = reference_lists.scan(*entries, (order[i][:near],), least, want)
            distance = reference_lists.key_distance(first[k - 1]) if len(first) >= k else np.inf
            if self.metric == DOT:
                distance += 1000
            elif kind == "blocked":
                distance += query @ query
            of_lists = self.facts[1][order[i]] + self.factor * (self.centroids[order[i]] @ query)
            stop = reference_lists.lists_in_reach(of_lists.tolist(), near, limit, distance)
            rounds = order[i][:near], order[i][near:stop]
            found.append(reference_lists.scan(*entries, rounds, least, want))
        return found

    def restrictions(self, queries):
        """Every kind of filter alone and with every other."""
        rng = np.random.default_rng(3)
        masks = NO_MASK, (rng.random(len(self.slots)) < 0.5).astype(np.uint8)
        ends = np.sort(rng.integers(0, 31, (len(queries), 2)), axis=1).astype(np.float64)
        ends[:1], ends[1:2] = (-np.inf, np.inf), (7, 7)
        programs = (NOTHING, NOTHING), (np.array([RANGE, 1, 0, 2]), np.array([2, 5]))
        for mask, windows, (program, operands) in product(masks, (NO_WINDOWS, ends), programs):
            for sparse in (False, True) if len(mask) else (False,):
                yield Restriction(mask, windows, program, operands, sparse)


NO_FILTER = Restriction(NO_MASK, NO_WINDOWS, NOTHING, NOTHING, False)
CASES = [("blocked", L2), ("blocked", DOT), ("rows", L2), ("rows", DOT)]


@pytest.fixture(scope="module")
def scenes():
    return {metric: Scene(metric) for metric in (L2, DOT)}


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_every_filter(scenes, kind, metric):
    scene = scenes[metric]
    for count in (1, 9):
        queries = scene.queries(count)
        for restriction in scene.restrictions(queries):
            for want in (3, 60):
                found = scene.search(kind, queries, 12, 4, restriction, want)
                assert found == scene.expected(kind, queries, 12, 4, restriction, want), restriction


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_any_number_of_queries_probes_and_results(scenes, kind, metric):
    scene = scenes[metric]
    whole = {}
    for count in (0, 1, 2, 3, 4, 5, 13):  # scanned one by one, or four at once with one or two to spare
        queries = scene.queries(13)[:count]
        for probes, near in ((1, 1), (5, 4), (14, 3), (14, 14)):
            for want in (1, 20, 5000):
                found = scene.search(kind, queries, probes, near, NO_FILTER, want)
                key = probes, near, want
                if key not in whole:
                    whole[key] = scene.expected(kind, scene.queries(13), probes, near, NO_FILTER, want)
                assert found == whole[key][:count], (count, key)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_lists_that_cannot_win_are_left_out(scenes, kind, metric):
    """Radii that say less than the truth: whether an entry is found tells whether its list was read."""
    scene = scenes[metric]
    rng = np.random.default_rng(1)
    before, left_out = scene.radius, 0
    try:
        for high in (1, 30, 120, 260):
            scene.radius = rng.integers(0, high, len(SIZES)).astype(np.float32)
            queries = scene.queries(11, seed=high)
            found = scene.search(kind, queries, 14, 4, NO_FILTER, 15)
            assert found == scene.expected(kind, queries, 14, 4, NO_FILTER, 15)
            scene.radius = before
            left_out += found != scene.search(kind, queries, 14, 4, NO_FILTER, 15)
    finally:
        scene.radius = before
    assert left_out


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_reading_stops_where_the_next_list_is_too_far(scenes, kind, metric):
    scene = scenes[metric]
    answers = []
    for limit in (0, 0.002, 0.01, 0.05, 0.3, 1, 3, np.inf):
        for count in (1, 11):
            queries = scene.queries(11, seed=3)[:count]
            for near, k in ((1, 1), (4, 10), (3, 15), (14, 2)):
                found = scene.search(kind, queries, 14, near, NO_FILTER, 200, limit, k)
                assert found == scene.expected(kind, queries, 14, near, NO_FILTER, 200, limit, k)
                if near == 4 and count == 11:
                    answers.append(found)
    everything = scene.search(kind, queries, 14, 14, NO_FILTER, 200)
    assert answers[-1] == everything
    assert len({str(found) for found in answers}) >= 3, "every limit is the same"


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_lists_in_several_parts(scenes, kind, metric):
    """Other entries under the same numbers, scanned after the first ones, as if all were in the same lists."""
    scene = scenes[metric]
    queries = scene.queries(9)
    of = np.random.default_rng(1).integers(0, 3, len(scene.numbers))
    for parts in ((of == 0, of > 0), (of == 0, of == 1, of == 2), (of >= 0, of < 0)):
        for restriction in scene.restrictions(queries):
            found = scene.search(kind, queries, 12, 4, restriction, 20, parts=parts)
            assert found == scene.expected(kind, queries, 12, 14, restriction, 20), restriction
    # What the first part decided holds for the others.
    for limit in (0, 0.3, 1):
        found = scene.search(kind, queries, 14, 3, NO_FILTER, 20, limit, 4, parts=(of >= 0, of < 0))
        assert found == scene.expected(kind, queries, 14, 3, NO_FILTER, 20, limit, 4)
        near = scene._only(of == 0).expected(kind, queries, 14, 3, NO_FILTER, 20, limit, 4)
        found = scene.search(kind, queries, 14, 3, NO_FILTER, 20, limit, 4, parts=(of == 0, of < 0))
        assert found == near


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_true_radii_lose_nothing(scenes, kind, metric):
    scene = scenes[metric]
    if kind == "blocked" and metric == DOT:
        pytest.skip("this bias is not part of an inner product")
    before = scene.radius
    away = np.linalg.norm(scene.vectors - scene.centroids[scene.numbers], axis=1)
    queries = scene.queries(11, seed=5)
    everything = scene.search(kind, queries, 14, 4, NO_FILTER, 15)
    try:
        scene.radius = np.zeros(len(SIZES), np.float32)
        np.maximum.at(scene.radius, scene.numbers, (away * 1.00001).astype(np.float32))
        assert scene.search(kind, queries, 14, 4, NO_FILTER, 15) == everything
    finally:
        scene.radius = before


@pytest.mark.parametrize("metric", [L2, DOT])
def test_codes_with_factors_of_their_own(metric):
    """Scores hold distances of queries and centroids, so they are rounded: what is found may differ at the edge."""
    scene = Scene(metric, seed=2, scaled=True)
    for count in (1, 7):
        queries = scene.queries(count)
        for want in (10, 300):
            for probes in (5, 14):
                found = scene.search("blocked", queries, probes, 4, NO_FILTER, want)
                expected = scene.expected("blocked", queries, probes, 4, NO_FILTER, want)
                for mine, theirs in zip(found, expected, strict=True):
                    assert len(mine) == len(theirs)
                    scores = [[reference_lists.key_distance(key) for key in keys] for keys in (mine, theirs)]
                    np.testing.assert_allclose(scores[0], scores[1], atol=2e-3, rtol=1e-5)
                    sure = {key & 0xFFFFFFFF for key, s in zip(theirs, scores[1], strict=True) if s < scores[1][-1] - 1}
                    assert sure <= {key & 0xFFFFFFFF for key in mine}


def test_a_query_finds_the_same_alone_as_in_a_batch():
    """Not only for whole numbers."""
    scene = Scene(L2, seed=4)
    rng = np.random.default_rng(4)
    scene.codebook.values[...] = rng.standard_normal((DIM, 16))
    for name in ("rows", "blocked"):
        queries = rng.standard_normal((13, DIM)).astype(np.float32)
        together = scene.search(name, queries, 9, 4, NO_FILTER, 30)
        for parts in ([1] * 13, [4, 5, 4], [12, 1]):
            ends = np.cumsum(parts)
            chunks = [queries[end - size : end] for end, size in zip(ends, parts, strict=True)]
            alone = [keys for chunk in chunks for keys in scene.search(name, chunk, 9, 4, NO_FILTER, 30)]
            assert alone == together


def test_all_lists_empty(scenes):
    scene = Scene(L2)
    scene.common = scene.common[0], np.zeros(len(SIZES), np.int64), scene.common[2]
    for kind in ("blocked", "rows"):
        assert scene.search(kind, scene.queries(5), 14, 4, NO_FILTER, 10) == [[]] * 5


@jit
def range_of(labels, size, low, high):
    return label_range(pointer(labels, 0), size, low, high)


def test_label_range():
    labels = np.array([-np.inf, -1, 0, 0, 0, 2, 7, 7, np.inf, np.nan, np.nan])
    bounds = [-np.inf, -2, -1, -0.5, 0, 1, 2, 6.9, 7, 8, 1e300, np.inf]
    for size in range(len(labels) + 1):
        own = labels[:size]
        for low, high in product(bounds, bounds):
            first, last = range_of(labels, size, low, high)
            inside = np.flatnonzero((own >= low) & (own < high)).tolist()
            assert list(range(first, last)) == inside, (size, low, high)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 30_000])
def test_passing_share(count):
    rng = np.random.default_rng(count)
    columns = rng.integers(0, 100, (1, count + 5))
    program = np.array([RANGE, 0, 0, 2])
    for width in (0, 9, 49, 99):
        share = passing_share(program, np.array([0, width]), columns, count)
        truth = (columns[0, :count] <= width).mean()
        if count <= 64 * 128:
            assert share == max(0.5, truth * count) / count or share == pytest.approx(truth)
        assert abs(share - truth) < 0.5 / count + 4 * np.sqrt((truth * (1 - truth) + 1e-9) / min(count, 64 * 128))
        assert share > 0


# --- exact measurement ---


def reranked(queries, vectors, metric, base, keys, want, bounded, margin, k):
    held = np.full((len(queries), max(map(len, keys), default=0) + 20), 0xDEAD, np.uint64)
    sizes = np.array([len(own) for own in keys], np.int64)
    for row, own in zip(held, keys, strict=True):
        row[: len(own)] = own
    slots, distances = np.full((len(queries), k), -9, np.int32), np.full((len(queries), k), np.nan, np.float32)
    rerank(queries, vectors, metric, np.float32(base), held, sizes, want, bounded, margin, slots, distances)
    return slots, distances


@pytest.mark.parametrize(("metric", "base"), [(L2, 0.0), (DOT, 0.0), (DOT, 1.0)])
def test_rerank_measures_the_best_candidates_once(metric, base):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (200, 9)).astype(np.float32)
    vectors[50:60] = vectors[60:70]  # equal distances: the lower slot comes first
    queries = rng.integers(-3, 4, (6, 9)).astype(np.float32)
    exact = (((vectors[None] - queries[:, None]) ** 2).sum(-1) if metric == L2 else base - queries @ vectors.T).astype(
        np.float32
    )
    no_margin = np.zeros(6, np.float32)
    for candidates in (0, 1, 5, 80):
        keys = []
        for query in range(6):
            slots = rng.permutation(200)[:candidates]
            scores = exact[query, slots] + rng.integers(-4, 5, candidates)
            twice = slots[::3]  # in a second list, with another score
            slots, scores = np.concatenate([slots, twice]), np.concatenate([scores, scores[::3] + 1])
            order = rng.permutation(len(slots))
            keys.append([reference.make_key(scores[i], int(slots[i])) for i in order])
        for want, k in product((1, 7, 40, 500), (1, 5, 12)):
            if want < k:
                continue
            found, distances = reranked(queries, vectors, metric, base, keys, want, False, no_margin, k)
            for query in range(6):
                best = sorted({(key & 0xFFFFFFFF) >> 1 for key in sorted(keys[query])[:want]})
                best = sorted(best, key=lambda slot: (exact[query, slot], slot))[:k]
                padding = k - len(best)
                assert found[query].tolist() == best + [-1] * padding
                assert distances[query].tolist() == exact[query, best].tolist() + [np.inf] * padding


def test_rerank_with_bounds_finds_the_same_and_stops_early():
    rng = np.random.default_rng(1)
    vectors, queries = (
        rng.integers(-9, 10, (500, 6)).astype(np.float32),
        rng.integers(-9, 10, (8, 6)).astype(np.float32),
    )
    exact = ((vectors[None] - queries[:, None]) ** 2).sum(-1).astype(np.float32)
    margin = (queries**2).sum(axis=1)
    bounds = exact - margin[:, None] - rng.integers(0, 30, exact.shape)
    keys = [[reference.make_key(bounds[q, s], s) for s in rng.permutation(500).tolist()] for q in range(8)]
    no_margin = np.zeros(8, np.float32)
    plain = reranked(queries, vectors, L2, 0, keys, 500, False, no_margin, 10)
    bounded = reranked(queries, vectors, L2, 0, keys, 500, True, margin, 10)
    assert np.array_equal(plain[0], bounded[0])
    assert np.array_equal(plain[1], bounded[1])
    # Bounds that say too much: it must believe them and leave the rest unmeasured.
    early = reranked(queries, vectors, L2, 0, keys, 500, True, margin + 1000, 10)
    first = [[(key & 0xFFFFFFFF) >> 1 for key in sorted(own)[:10]] for own in keys]
    assert np.array_equal(np.sort(early[0], axis=1), np.sort(first, axis=1))
