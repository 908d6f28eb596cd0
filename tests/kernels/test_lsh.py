"""Kernels of cross-polytope hashes and LSH tables against their specification."""

import numpy as np
import pytest

from nearhash.hashing import CrossPolytope
from nearhash.kernels import reference_lsh as reference
from nearhash.kernels.cross_polytope import hash_rows, probe_rows
from nearhash.kernels.lsh_tables import merge_table

SHAPES = [(1, 1, None, None), (3, 2, 2, None), (12, 2, 4, None), (16, 2, None, None), (20, 5, None, 1), (9, 3, 1, None)]


def units(count, dim, seed):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("dim", "hashes", "last_dims", "dims"), [*SHAPES, (100, 2, None, None), (300, 1, 7, None)])
@pytest.mark.parametrize("rows", ["normal", "adversarial"])
def test_keys_are_those_of_the_reference(dim, hashes, last_dims, dims, rows):
    family = CrossPolytope(dim, 3, hashes, 5, last_dims, dims)
    vectors = units(60, dim, 0)
    if rows == "adversarial":  # ties between elements, zeros, one element, tiny and large values
        vectors[:20] = np.sign(vectors[:20])
        vectors[20:30] = 0
        vectors[30:40] = np.eye(dim, dtype=np.float32)[np.arange(10) % dim]
        vectors[40:50] *= np.float32(1e-18)
        vectors[50:] *= np.float32(1e12)
    keys = np.full((60, 3), 2**64 - 1, np.uint64)
    hash_rows(vectors, family.signs, family.plan, keys)
    np.testing.assert_array_equal(keys, reference.hash_rows(vectors, family.signs, family.plan))


@pytest.mark.parametrize(("dim", "hashes", "last_dims", "dims"), SHAPES)
@pytest.mark.parametrize("want", [1, 2, 3, 7, 40, 333, 5000])
def test_probes_are_the_best_buckets(dim, hashes, last_dims, dims, want):
    family = CrossPolytope(dim, 3, hashes, 6, last_dims, dims)
    vectors = units(4, dim, 1)
    scores, tables = np.full((4, want), np.nan, np.float32), np.full((4, want), 99, np.int32)
    keys = np.full((4, want), 12345, np.uint64)
    probe_rows(vectors, family.signs, family.plan, 3, scores, tables, keys)
    for row, vector in enumerate(vectors):
        expected = reference.probe(vector, family.signs, family.plan)[:want]
        count = len(expected)
        np.testing.assert_allclose(scores[row, :count], [score for score, _, _ in expected], rtol=1e-5, atol=1e-7)
        pairs = list(zip(tables[row, :count].tolist(), keys[row, :count].tolist(), strict=True))
        assert len(set(pairs)) == count
        worst = expected[-1][0] * (1 + 1e-5) + 1e-7
        allowed = {(t, k) for s, t, k in reference.probe(vector, family.signs, family.plan) if s <= worst}
        assert set(pairs) <= allowed
        assert np.isinf(scores[row, count:]).all()
        assert (tables[row, count:] == -1).all()


@pytest.mark.parametrize(("buckets", "shift"), [(16, 0), (256, 56)])
def test_merged_tables_are_those_of_the_reference(buckets, shift):
    keys = np.random.default_rng(2).integers(0, buckets if shift == 0 else 2**63, 300).astype(np.uint64)
    starts, entries = np.zeros(buckets + 1, np.int32), np.empty(0, np.int32)
    for first, last in [(0, 0), (0, 120), (120, 121), (121, 300)]:
        grown, filled = np.full(buckets + 1, -9, np.int32), np.full(last, -9, np.int32)
        merge_table(starts, entries, keys[first:last], shift, first, grown, filled)
        starts, entries = grown, filled
        expected = reference.table(keys[:last], shift, buckets)
        np.testing.assert_array_equal(starts, expected[0])
        np.testing.assert_array_equal(entries, expected[1])
