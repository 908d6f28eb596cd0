"""The clocks around a search: nothing of it changes, and all of its time is accounted for."""

import numpy as np
import pytest

from benchmarks import breakdown
from benchmarks.breakdown import PHASES, breakdown_part, clocks, phases, run_breakdown
from benchmarks.datasets import Dataset
from benchmarks.peers.nearhash_indexes import NearhashIvf
from benchmarks.record import rounded
from benchmarks.run import Sample
from benchmarks.truth import ground_truth
from nearhash.index import list_codes, list_scan
from nearhash.index.partition import Partition
from nearhash.words import load_words


def data(metric: str) -> Dataset:
    words = load_words()[1]
    return Dataset("words", np.ascontiguousarray(words[:2000]), np.ascontiguousarray(words[2000:2100]), metric)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_clocks_change_nothing(metric: str) -> None:
    dataset, peer, effort = data(metric), NearhashIvf(), {"probes": 9, "rerank": 40}
    peer.build(dataset.base, metric, 1)
    before = (list_codes.search_lists, list_scan.rerank, Partition.nearest)
    expected = peer.search(dataset.queries, 10, effort)
    with clocks() as spent:
        found = peer.search(dataset.queries, 10, effort)
    assert found.tolist() == expected.tolist()
    assert all(seconds > 0 for seconds in spent.values())
    assert (list_codes.search_lists, list_scan.rerank, Partition.nearest) == before
    assert set(phases(peer, dataset.queries, effort)) == set(PHASES)
    with clocks(want=1):
        fewer = peer.search(dataset.queries, 10, effort)
    assert fewer.tolist() != expected.tolist()
    assert peer.search(dataset.queries, 10, effort).tolist() == expected.tolist()


def test_a_run_gives_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = data("cosine")
    monkeypatch.setattr(NearhashIvf, "prepare", lambda _: None)  # nothing is timed in earnest
    monkeypatch.setattr(breakdown, "load_sample", lambda *_: Sample(dataset, ground_truth(dataset), 10))
    monkeypatch.setattr("benchmarks.bandwidth.LEAST_BYTES", 1 << 24)
    document = rounded(run_breakdown("words", 100, 1))
    assert [point["target"] for point in document["points"]] == [0.9, 0.95, 0.99]
    for point in document["points"]:
        assert point["recall"] >= point["target"]
        assert set(point["phases"]) == set(PHASES)
        assert all(phase["us"] >= 0 for phase in point["phases"].values())
        assert point["phases"]["scan"]["floor_us"] > 0
    part = breakdown_part(document)
    assert "## Where the time of nearhash-ivf goes: words" in part
    assert "| recall | effort | coarse, us |" in part
