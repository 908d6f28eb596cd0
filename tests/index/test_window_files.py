"""Files of WindowIndex that say what cannot be, and indexes of which little or nothing is left."""

import numpy as np
import pytest
from conftest import clustered
from hostile import extreme

import nearhash as nh
from nearhash import where
from nearhash.errors import CorruptIndexError
from nearhash.index.storage import read_file, write_file

DIM, COUNT = 6, 400


@pytest.fixture(params=["pq4", "lvq8"])
def saved(tmp_path, request, monkeypatch):
    """(path, header, tensors) of an index with lists and a buffer, some of it removed."""
    monkeypatch.setattr("nearhash.index.window.index.BUFFER_BYTES", 0)
    index = nh.WindowIndex(DIM, codec=request.param)
    index.add(clustered(COUNT, 0, dim=DIM), attributes={"part": np.arange(COUNT) % 3})
    index.add(clustered(40, 1, dim=DIM), labels=np.arange(40), attributes={"part": np.arange(40) % 3})
    index.relabel(np.arange(COUNT), np.arange(COUNT) % 50)
    index.add(clustered(30, 2, dim=DIM), labels=np.arange(30), attributes={"part": np.zeros(30, int)})
    index.remove(np.arange(0, 60, 7))
    assert index.info()["segments"]
    assert index.info()["buffered"]
    index.save(tmp_path / "x")
    return tmp_path / "x", *read_file(tmp_path / "x", mmap=False)


def test_extreme_contents_do_not_lead_a_scan_astray(saved):
    path, header, tensors = saved
    queries, more = clustered(5, 1, dim=DIM), clustered(4, 2, dim=DIM)
    refused = set()
    for description, other_header, other_tensors in extreme(header, tensors):
        write_file(path, other_header, other_tensors)
        try:
            index = nh.load(path, mmap=False)
        except CorruptIndexError:
            refused.add(description)
            continue
        known = [*index.ids.tolist(), -1]
        for arguments in ({}, {"window": (3, 30)}, {"allow": np.arange(0, 150, 2)}, {"where": where.eq("part", 1)}):
            hits = index.search(queries, k=3, beam=9, **arguments)
            assert np.isin(hits.ids, known).all(), description
        index.add(more, ids=range(9001, 9005), labels=np.arange(4), attributes={"part": np.arange(4)})
        assert np.isin(index.search(more, k=3, beam=2).ids, [*known, *range(9001, 9005)]).all(), description
    for tensor in ("level0.centroids", "level0.origin", "level0.radius"):
        for value in (np.nan, np.inf, -np.inf):
            assert {f"tensor '{tensor}': {where_} {value}" for where_ in ("first", "last", "everywhere")} <= refused


def test_headers_that_cannot_be(saved):
    path, header, tensors = saved
    models, segments = header["models"], header["segments"]
    assert len(models) >= 1
    bad = [
        {"segments": None}, {"segments": [0, *segments]}, {"segments": [-1, *segments[1:]]}, {"segments": [True]},
        {"segments": [*segments, 10**6]}, {"segments": ["1"]}, {"models": None}, {"models": []}, {"models": [None]},
        {"models": [{**models[0], "calibration": None}, *models[1:]]}, {"models": [*models, {}]},
        {"models": [{name: value for name, value in models[0].items() if name != "calibration"}, *models[1:]]},
        {"models": [[], *models[1:]]},
    ]  # fmt: skip
    for change in bad:
        write_file(path, {**header, **change}, tensors)
        with pytest.raises(CorruptIndexError):
            nh.load(path)


def test_a_living_vector_must_be_in_the_lists(saved):
    """Dead ones may be missing, living ones not: they would never be found."""
    path, header, tensors = saved
    entries = int(tensors["segment0.level0.sizes"][0])
    slots = tensors["segment0.level0.slots"].copy()
    live = tensors["live"]
    living = int(np.flatnonzero(live[slots[:entries]] == 1)[-1])
    slots[living] = slots[living - 1]
    write_file(path, header, {**tensors, "segment0.level0.slots": slots})
    with pytest.raises(CorruptIndexError, match="slots"):
        nh.load(path)


def test_nothing_left_and_more_again(tmp_path):
    base = clustered(3000, 0, dim=DIM)
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(3000))
    index.remove(np.arange(3000))
    index.save(tmp_path / "x")
    for one in (index, nh.load(tmp_path / "x")):
        assert len(one) == 0
        assert one.count((-np.inf, np.inf)) == 0
        assert (one.search(base[:3]).ids == -1).all()
        assert (one.search(base[:3], window=(5, 9)).ids == -1).all()
        ids = one.add(base[:2000] + 1, labels=np.arange(2000))
        hits = one.search(base[:50] + 1, k=1, window=(0, 100))
        assert (hits.ids[:, 0] == ids[:50]).all()
        one.compact()
        hits = one.search(base[:50] + 1, k=1, window=(0, 100))
        assert (hits.ids[:, 0] == ids[:50]).all()
        assert one.info()["deleted"] == 0
