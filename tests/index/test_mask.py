"""`VectorIndex.mask`: an ``allow`` that is looked up once gives what the ``allow`` gives."""

import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import InvalidArgumentError

DIM = 6
KINDS = {
    "flat": lambda: nh.FlatIndex(DIM, metric="l2"),
    "graph": lambda: nh.GraphIndex(DIM, metric="l2", degree=8, build_beam=16),
    "ivf": lambda: nh.IVFIndex(DIM, metric="l2", lists=8),
    "window": lambda: nh.WindowIndex(DIM, metric="l2"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["consecutive", "own ids"])
def index(kind, request):
    made, own_ids = KINDS[kind](), request.param
    rng = np.random.default_rng(3)
    ids = rng.permutation(3000)[:700] if own_ids else None
    made.add(rng.standard_normal((700, DIM)), ids, labels=rng.permutation(700))
    return made


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_a_mask_finds_what_its_allow_finds(index, share):
    rng = np.random.default_rng(4)
    queries = rng.standard_normal((5, DIM))
    windows = np.sort(rng.integers(0, 700, (5, 2)), axis=1)
    flags = rng.random(3000) < share
    for allow in (flags, flags[:700], np.flatnonzero(flags)):
        for removed in (0, 20):
            if removed:
                index.remove(index.ids[rng.permutation(len(index))[:removed]])
            mask, ids = index.mask(allow), np.flatnonzero(allow) if allow.dtype == np.bool_ else allow
            for window in (None, windows, (100, 600)):
                for _ in range(2):  # the second time with what the first has kept
                    found = index.search(queries, k=7, allow=mask, window=window)
                    expected = index.search(queries, k=7, allow=ids, window=window)
                    assert np.array_equal(found.ids, expected.ids)
                    assert np.array_equal(found.distances, expected.distances)


def test_vectors_removed_after_the_mask_was_made_are_in_no_result(index):
    mask = index.mask(index.ids)
    gone = index.ids[::3]
    index.search(np.zeros(DIM), k=700, allow=mask, window=(0, 500))
    try:
        index.remove(gone)
        found = index.search(np.zeros(DIM), k=700, allow=mask, window=(0, 500)).ids
    except InvalidArgumentError:
        return  # the index has put itself in order meanwhile, and says so
    assert not np.isin(gone, found).any()
    assert np.array_equal(found, index.search(np.zeros(DIM), k=700, window=(0, 500)).ids)


def test_masks_of_another_index_or_an_older_one_are_refused(index):
    mask = index.mask(np.arange(10))
    other = KINDS["flat"]()
    other.add(np.zeros((700, DIM)))
    with pytest.raises(InvalidArgumentError, match="of another, or older"):
        other.search(np.zeros(DIM), allow=mask)
    index.add(np.zeros((1, DIM)), labels=[3])
    with pytest.raises(InvalidArgumentError, match="of another, or older"):
        index.search(np.zeros(DIM), allow=mask)
