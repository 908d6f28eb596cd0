"""Filters of the benchmark: their selectivity, the exact answers under them, and the document of results."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import filters
from benchmarks.datasets import Dataset
from benchmarks.filter_cases import FilteredTruth, allowed, cases
from benchmarks.filter_report import filter_part, plot_filters, slowest
from benchmarks.filtered_peers import FaissFiltered, NearhashFiltered
from benchmarks.record import rounded
from benchmarks.run import Sample
from benchmarks.truth import ground_truth
from nearhash.words import load_words

K = 5


def data(metric: str = "l2", count: int = 300) -> Dataset:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((count + 12, 8)).astype(np.float32)
    return Dataset("points", points[:count], points[count:], metric)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_filtered_truth_is_that_of_the_matching_vectors_alone(metric: str) -> None:
    dataset = data(metric)
    truth = FilteredTruth(dataset)
    for case in cases(dataset.base):
        for wanted in list(case.filters(len(dataset.queries)))[::3]:
            found = truth.nearest(wanted, case.labels, K)
            for query in range(len(dataset.queries)):
                ids = np.flatnonzero(allowed(wanted, case.labels, np.arange(300), query))
                assert len(ids) == max(1, round(wanted.share * 300))
                part = Dataset("part", dataset.base[ids], dataset.queries[query : query + 1], metric)
                expected = ids[ground_truth(part, min(K, len(ids))).ids[0]]
                assert found[query, : len(expected)].tolist() == expected.tolist()
                assert (found[query, len(expected) :] == -1).all()
            assert truth.recall(found, found, wanted, case) == 1.0


def test_what_the_filter_refuses_is_no_hit() -> None:
    dataset = data()
    truth = FilteredTruth(dataset)
    case = cases(dataset.base)[0]
    wanted = list(case.filters(12))[2]
    nearest = truth.nearest(wanted, case.labels, K)
    everything = truth.nearest(next(iter(case.filters(12))), case.labels, K)
    assert truth.recall(everything, nearest, wanted, case) < 0.6
    assert truth.recall(np.full((12, K), -1), nearest, wanted, case) == 0.0


def test_correlated_labels_follow_the_first_coordinate() -> None:
    base = data().base
    random, correlated = cases(base)[0].labels, cases(base)[1].labels
    assert sorted(random) == sorted(correlated) == list(range(300))
    assert (base[np.argsort(correlated), 0] == np.sort(base[:, 0])).all()


def test_efforts_rise_to_the_highest() -> None:
    ours, theirs = NearhashFiltered(), FaissFiltered()
    ours._plain.parameters = {"trained_lists": 20}
    theirs._plain.lists = 20
    efforts = list(ours.wider({"probes": 3, "rerank": 40}))
    assert efforts[0] == {"probes": 3, "rerank": 40}
    assert efforts[-1] == {"probes": 20, "rerank": 40}
    assert all(lower["probes"] < higher["probes"] for lower, higher in pairwise(efforts))
    efforts = list(theirs.wider({"nprobe": 16, "k_factor": 256}))
    assert efforts[-1] == {"nprobe": 20, "k_factor": 1024}


def test_a_run_measures_every_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    pytest.importorskip("matplotlib")
    words = load_words()[1]
    dataset = Dataset("points", np.ascontiguousarray(words[:2000]), np.ascontiguousarray(words[2000:2060]), "cosine")
    monkeypatch.setattr(NearhashFiltered, "peer", property(lambda own: _without_preparation(own._plain)))
    monkeypatch.setattr(filters, "load_sample", lambda *_: Sample(dataset, ground_truth(dataset), 10))
    document = rounded(filters.run_filters("points", 60, 2, 0.0))
    assert [case["kind"] for case in document["cases"]] == ["window", "window", "where", "allow"]
    for case in document["cases"]:
        assert len(case["points"]) == 13
        assert set(case["points"][0]["indexes"]) == (
            {"nearhash-ivf"} if case["kind"] == "window" else {"nearhash-ivf", "faiss-ivfpqr-2"}
        )
        for point in case["points"]:
            own = point["indexes"]["nearhash-ivf"]
            assert own["recall"] >= 0.95
            assert own["complete"] == 1.0
            assert own["qps"] > 0
            assert own["slower"] > 0
    part = filter_part(document, "images")
    assert "## Filters: points" in part
    assert "| 1/2 | 1,000 |" in part
    assert len(slowest(document)) == 4
    plot_filters(document, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def _without_preparation(peer: Any) -> Any:
    """Kernels need not be compiled ahead where nothing is timed."""
    peer.prepare = lambda: None
    return peer
