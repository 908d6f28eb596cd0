"""Every adapter, on few vectors: right shapes, good answers at high effort, honest -1."""

import numpy as np
import pytest

from benchmarks.contest import Contestant, Sample, UnfairError, run_rounds
from benchmarks.datasets import Dataset
from benchmarks.peers import PEERS, Lane, NotInstalledError, Peer, UnsuitableError, thread_limit
from benchmarks.peers.faiss_indexes import FaissIvfPq
from benchmarks.recall import recall_at
from benchmarks.record import index_record
from benchmarks.truth import ground_truth

K = 10


def clusters(metric: str) -> Dataset:
    """500 vectors around 20 centres, far from unit length."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((20, 16)) * 4
    points = centres[generator.integers(0, 20, 540)] + generator.standard_normal((540, 16))
    points = points.astype(np.float32)
    everything = np.tile(np.arange(500), (40, 1))
    return Dataset("clusters", points[:500], points[500:], metric, neighbors=everything)


def make(name: str) -> Peer:
    peer = PEERS[name]()
    try:
        peer.version()
    except NotInstalledError as error:
        pytest.skip(str(error))
    return peer


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("name", PEERS)
def test_adapter(name: str, metric: str) -> None:
    data = clusters(metric)
    peer = make(name)
    if (name, metric) == ("scann-soar", "l2"):
        with pytest.raises(UnsuitableError, match="spills"):
            peer.timed_build(data.base, metric, 1)
        return
    assert peer.timed_build(data.base, metric, 1) > 0
    lanes = peer.lanes(K)
    efforts = [lane.effort(min(lane.high, 400)) for lane in lanes] or [{}]
    truth = ground_truth(data)
    recalls = []
    with thread_limit(1):
        queries = peer.convert(data.queries)
        for effort in efforts:
            ids = peer.search(queries, K, effort)
            assert ids.shape == (40, K)
            assert ids.dtype == np.int64
            assert ids.min() >= -1
            assert ids.max() < 500
            recalls.append(recall_at(data, truth, ids, K))
        one = peer.search(queries[:1], K, efforts[-1])
        assert one.shape == (1, K)
    assert max(recalls) > (0.999 if not lanes else 0.9)
    size = peer.nbytes()
    assert size is None or size > 100
    assert isinstance(peer.parameters, dict)


@pytest.mark.parametrize("name", [name for name in PEERS if not name.endswith("flat")])
def test_low_effort_never_gives_ids_that_do_not_exist(name: str) -> None:
    data = clusters("ip")
    peer = make(name)
    peer.timed_build(data.base, "ip", 1)
    with thread_limit(1):
        for lane in peer.lanes(K):
            ids = peer.search(peer.convert(data.queries), K, lane.effort(lane.low))
            assert ids.min() >= -1
            assert ids.max() < 500
            found = [row[row >= 0].tolist() for row in ids]
            assert all(len(set(row)) == len(row) for row in found)


def test_a_peer_that_cannot_take_the_data_says_why() -> None:
    make("faiss-ivfpq")
    with pytest.raises(UnsuitableError, match="even dimension"):
        FaissIvfPq().timed_build(np.zeros((50, 7), np.float32), "l2", 1)


class Partial(Peer):
    """Exhaustive search of a part of the base: recall is about ``part`` in 500."""

    name = "partial"
    package = "numpy"
    reference = "none"

    def build(self, base, metric, threads):  # type: ignore[no-untyped-def]
        self.base = base

    def lanes(self, k):  # type: ignore[no-untyped-def]
        return [Lane("part", k, 500)]

    def search(self, queries, k, effort, threads=1):  # type: ignore[no-untyped-def]
        distances = ((queries[:, None] - self.base[: effort["part"]]) ** 2).sum(2)
        return np.argsort(distances, axis=1, kind="stable")[:, :k]


def partial() -> Contestant:
    data = clusters("l2")
    contestant = Contestant(Partial(), Sample(data, ground_truth(data), K), 1)
    contestant.choose_efforts([0.5, 0.9], 20)
    return contestant


def test_chosen_efforts_bracket_the_targets_on_all_queries() -> None:
    trials = partial().trials
    recalls = [trial.recall for trial in trials]
    assert recalls == sorted(recalls)
    assert trials[0].effort == {"part": K}
    for target in (0.5, 0.9):
        below = max(trial.effort["part"] for trial in trials if trial.recall < target)
        above = min(trial.effort["part"] for trial in trials if trial.recall >= target)
        assert 0 < above - below < 0.25 * above


def test_a_contest_ends_in_records() -> None:
    make("hnswlib")
    data = clusters("l2")
    graph = Contestant(PEERS["hnswlib"](), Sample(data, ground_truth(data), K), 1)
    graph.choose_efforts([0.5, 0.9], 20)
    contestants = [partial(), graph]
    run_rounds(contestants, 3, 0.0, [0.5, 0.9, 1.1])
    exact, other = (index_record(one, contestants[0], [0.5, 0.9]) for one in contestants)
    assert all(len(point["rounds"]) == 3 for point in exact["points"])
    first, last = exact["targets"][0], other["targets"][1]
    assert first["ratio"] == 1.0
    assert exact["family"] == "partial"
    assert last["latency"]["calls"] == 1998  # once where one effort serves several targets
    assert 0 < last["latency"]["p50_us"] <= last["latency"]["p99_us"]
    reaching = [point["effort"] for point in other["points"] if point["recall"] >= 0.9]
    assert last["latency"]["effort"] in reaching
    assert graph.latencies(1.1) == []
    assert other["targets"][1]["reached"]["recall"] >= 0.9


def test_thinned_queries_keep_their_neighbours() -> None:
    data = clusters("l2")
    sample = Sample(data, ground_truth(data), K)
    part = sample.thinned(10)
    assert len(part.dataset.queries) == 10
    assert recall_at(part.dataset, part.truth, part.truth.ids, K) == 1.0
    assert sample.thinned(1000) is sample


def test_a_search_on_many_cores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import contest

    contestant = partial()
    monkeypatch.setattr(contest, "MOST_CORES", 0.01)
    monkeypatch.setattr(contest, "LEAST_CPU_SECONDS", 0.0)
    with pytest.raises(UnfairError, match="partial"):
        contestant.time_trials(0.02)
