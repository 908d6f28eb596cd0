"""Lists chosen by codes of the centroids first: the same scores, bit for bit, as by the centroids themselves."""

import numpy as np
import pytest

from nearhash.index.partition import OUTLINE_DIM, Partition
from nearhash.kernels.coarse import nearest_centroids, refine_centroids
from nearhash.kernels.panels import fill_panels, panel_count
from nearhash.kernels.simd import PRODUCT_ROWS

NO_WINDOWS = (np.empty((0, 2)), np.empty(0), np.empty(0))


def problem(dim, count, seed=0):
    rng = np.random.default_rng(seed)
    centroids = rng.standard_normal((count, dim)).astype(np.float32)
    near = centroids[rng.integers(0, count, 7)]
    queries = (near + rng.standard_normal((7, dim))).astype(np.float32)
    return centroids, queries


@pytest.mark.parametrize(("dim", "count", "probes", "candidates"), [(1, 3, 1, 2), (37, 50, 5, 9), (300, 200, 20, 40)])
def test_the_best_of_the_candidates_with_the_scores_of_the_product(dim, count, probes, candidates):
    centroids, queries = problem(dim, count)
    bias = np.einsum("ij,ij->i", centroids, centroids)
    panels = np.empty((panel_count(count), dim, PRODUCT_ROWS), np.float32)
    fill_panels(centroids, panels)
    everything = np.empty((len(queries), count), np.uint64)
    nearest_centroids(queries, panels, bias, np.float32(-2.0), *NO_WINDOWS, everything)
    everything.sort(axis=1)

    numbers = np.arange(-(-count // 16) * 16, dtype=np.int32)
    # Estimates in the right order, but off: what they choose are the nearest, whose scores are then exact.
    estimates = np.full((len(queries), len(numbers)), np.inf, np.float32)
    for query, keys in enumerate(everything):
        estimates[query, (keys & np.uint64(0xFFFFFFFF)) >> np.uint64(1)] = np.arange(count) * 3.5 - 20
    chosen = np.full((len(queries), probes), 77, np.uint64)
    scratch = np.full(len(numbers) + 16, 77, np.uint64)
    refine_centroids(queries, estimates, numbers, centroids, bias, np.float32(-2.0), candidates, scratch, chosen)
    assert (np.sort(chosen, axis=1) == everything[:, :probes]).all()


def test_a_bad_estimate_is_put_right_among_the_candidates():
    centroids, queries = problem(8, 32)
    estimates = np.tile(np.arange(32, dtype=np.float32), (len(queries), 1))  # nothing to do with the distances
    bias, numbers = np.zeros(32, np.float32), np.arange(32, dtype=np.int32)
    chosen = np.empty((len(queries), 3), np.uint64)
    refine_centroids(
        queries, estimates, numbers, centroids, bias, np.float32(-1.0), 10, np.empty(48, np.uint64), chosen
    )
    expected = np.sort(np.argsort(-(queries @ centroids[:10].T), axis=1)[:, :3], axis=1)
    assert (np.sort((chosen & np.uint64(0xFFFFFFFF)) >> np.uint64(1), axis=1) == expected).all()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_query_alone_reads_the_lists_that_it_reads_in_a_batch(metric):
    centroids, _ = problem(OUTLINE_DIM, 300)
    queries = (centroids[:40] + 0.7 * problem(OUTLINE_DIM, 40, seed=1)[0]).astype(np.float32)
    if metric == "cosine":
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    partition = Partition(centroids, metric)
    batch = np.sort(partition.nearest(queries, 12), axis=1)
    alone = np.sort(np.concatenate([partition.nearest(query[None].copy(), 12) for query in queries]), axis=1)
    assert (batch == alone).all()
