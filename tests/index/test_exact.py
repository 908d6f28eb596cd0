"""Exact search under selective filters: batches answer as single queries do, whatever path they take."""

import numpy as np
import pytest

import nearhash as nh
from nearhash.index import exact


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("share", [0, 1, 7, 40])
def test_a_batch_under_a_narrow_mask_gives_what_single_queries_give(metric: str, dtype: str, share: int) -> None:
    generator = np.random.default_rng(share)
    rows = generator.integers(-3, 4, (2000, 5)).astype(np.float32)  # many ties
    index = nh.FlatIndex(5, metric=metric, dtype=dtype)
    index.add(rows, ids=np.arange(2000) * 3)
    index.remove(np.arange(0, 6000, 30))
    queries = generator.integers(-3, 4, (exact.PRODUCT_BATCH + 3, 5)).astype(np.float32)
    mask = np.zeros(6000, bool)
    mask[generator.choice(6000, 3 * share, replace=False)] = True
    together = index.search(queries, k=9, allow=mask)
    for row, query in enumerate(queries):
        alone = index.search(query, k=9, allow=mask)
        assert together.ids[row].tolist() == alone.ids[0].tolist()
        assert together.distances[row].tobytes() == alone.distances[0].tobytes()
    matches = mask[index.ids].sum()
    assert ((together.ids >= 0).sum(axis=1) == min(9, matches)).all()


def test_windows_of_different_width_beside_a_mask() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((3000, 4)).astype(np.float32)
    index = nh.FlatIndex(4)
    index.add(rows, labels=np.arange(3000))
    queries = generator.standard_normal((40, 4)).astype(np.float32)
    windows = np.stack([np.zeros(40), np.geomspace(1, 3000, 40).round()], axis=1)
    allow = np.arange(0, 3000, 2)
    hits = index.search(queries, k=3, window=windows, allow=allow)
    for row in range(40):
        matching = allow[allow < windows[row, 1]]
        order = matching[np.argsort(((rows[matching] - queries[row]) ** 2).sum(axis=1))][:3]
        assert hits.ids[row, : len(order)].tolist() == order.tolist()
        assert (hits.ids[row, len(order) :] == -1).all()
