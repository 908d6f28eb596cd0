"""The choice of efforts: on curves whose best effort is known, then on indexes."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import nearhash as nh
from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.storage import read_file, write_file
from nearhash.index.tune import NARROW, Measured, Outcome, Space, curve, find_effort, lower_bound
from nearhash.index.tuned import Effort, Tuned, TunedEntry

QUERIES = 500


def work(effort: Effort) -> float:
    return effort["probes"] + effort["rerank"] / 4


def space(high: int = 1000, reranks: tuple[int, ...] = (10, 20, 40, 80, 160)) -> Space:
    return Space("probes", 1, high, [{"rerank": rerank} for rerank in reranks], work)


def rising(half: float, coarse: float) -> Callable[[Effort], Outcome]:
    """Recall that rises with both parameters, the same for all queries."""

    def recalls(effort: Effort) -> Outcome:
        value = effort["probes"] / (effort["probes"] + half) * effort["rerank"] / (effort["rerank"] + coarse)
        return Outcome(np.full(QUERIES, value))

    return recalls


@settings(max_examples=40, deadline=None)
@given(half=st.floats(0.01, 20), coarse=st.floats(0.01, 3), recall=st.floats(0.3, 0.95))
def test_the_cheapest_effort_that_reaches_the_recall(half: float, coarse: float, recall: float) -> None:
    calls: list[Effort] = []
    truth = rising(half, coarse)

    def counted(effort: Effort) -> Outcome:
        assert effort not in calls
        calls.append(effort)
        return truth(effort)

    chosen, found = find_effort(counted, space(high=200), recall)
    grid = [{"rerank": lane["rerank"], "probes": probes} for lane in space().lanes for probes in range(1, 201)]
    reaching = [effort for effort in grid if lower_bound(truth(effort).recalls) >= recall]
    if not reaching:
        assert chosen is None
        return
    assert chosen is not None
    assert chosen.bound >= recall
    assert chosen in found
    assert chosen.work <= NARROW * min(map(work, reaching)) + 1
    assert len(calls) == len(found) < 90


def test_only_counted_work_decides() -> None:
    truth = rising(5, 1)
    chosen = [find_effort(truth, space(), 0.8)[0] for _ in range(2)]
    assert chosen[0] is not None
    assert chosen[1] is not None
    assert chosen[0]._replace(seconds=0) == chosen[1]._replace(seconds=0)


def test_a_lane_that_gains_nothing_is_left() -> None:
    tried: list[int] = []

    def recalls(effort: Effort) -> Outcome:
        tried.append(effort["probes"])
        return Outcome(np.full(QUERIES, 0.5))

    assert find_effort(recalls, space(reranks=(10,)), 0.9)[0] is None
    assert tried == [1, 2]


def test_the_highest_value_is_tried_and_not_exceeded() -> None:
    chosen, found = find_effort(rising(30, 0.001), space(high=100), 0.766)
    assert chosen is not None
    assert chosen.effort["probes"] == 100 == max(one.effort["probes"] for one in found)


def test_progress_counts_lanes() -> None:
    seen: list[tuple[int, int]] = []
    find_effort(rising(1, 1), space(), 0.5, lambda done, total: seen.append((done, total)))
    assert seen == [(step, 5) for step in range(6)]


def test_bound_holds_as_often_as_it_says() -> None:
    """Of many samples of queries, about 95% have a bound below the true mean: for k = 10, mean recall .95."""
    generator = np.random.default_rng(0)
    for queries in (50, 1000):
        samples = generator.binomial(10, 0.95, (2000, queries)) / 10
        held = np.mean([lower_bound(sample) <= 0.95 for sample in samples])
        assert 0.935 < held <= 1.0
    assert held < 0.97  # with many queries the bound is no wider than it must be


@pytest.mark.parametrize("queries", [1, 2, 10, 300])
def test_few_queries_are_never_certain(queries: int) -> None:
    assert lower_bound(np.ones(queries)) == pytest.approx(
        1 - 1.645 / np.sqrt(queries) * np.sqrt(1 / (queries + 1)), rel=1e-12
    )


def test_curve_keeps_what_nothing_beats() -> None:
    points = [Measured({"beam": i}, recall, recall, work, 0.0) for i, (recall, work) in enumerate(
        [(0.5, 1), (0.4, 2), (0.7, 2), (0.7, 3), (0.9, 9), (0.8, 9)]
    )]  # fmt: skip
    assert [point.effort["beam"] for point in curve(points)] == [0, 2, 4]


# --- what is stored ---

ENTRY = TunedEntry(10, 0.9, {"probes": 8, "rerank": 40}, 0.91, 1000)
PARAMETERS = {"probes": int, "rerank": int}


def test_the_nearest_entry_that_promises_enough_is_used() -> None:
    tuned = Tuned()
    for k, recall, probes in ((10, 0.9, 1), (10, 0.95, 2), (100, 0.9, 3), (50, 0.95, 4)):
        tuned = tuned.with_entry(TunedEntry(k, recall, {"probes": probes}, recall, 5))
    expected = {(10, 0.9): 1, (3, 0.9): 1, (11, 0.9): 3, (10, 0.93): 2, (20, 0.93): 4, (10, 0.1): 1, (100, 0.2): 3}
    assert {asked: tuned.effort(*asked)["probes"] for asked in expected} == expected
    for asked in ((10, 0.96), (101, 0.9), (60, 0.95)):
        with pytest.raises(InvalidArgumentError, match=r"recall: .*0\.95 at k = 50.*call tune\("):
            tuned.effort(*asked)
    with pytest.raises(InvalidArgumentError, match="none"):
        Tuned().effort(10, 0.9)


def test_an_entry_takes_the_place_of_one_for_the_same() -> None:
    tuned = Tuned().with_entry(ENTRY).with_entry(ENTRY._replace(k=5)).with_entry(ENTRY._replace(size=7))
    assert tuned == (ENTRY._replace(k=5), ENTRY._replace(size=7))


def test_stored_entries_come_back() -> None:
    tuned = Tuned().with_entry(ENTRY).with_entry(ENTRY._replace(k=100))
    assert Tuned.restored(json.loads(json.dumps(tuned.state())), PARAMETERS) == tuned
    assert Tuned.restored([], PARAMETERS) == ()


def entry(**changes: Any) -> dict[str, Any]:
    return {**ENTRY._asdict(), **changes}


@pytest.mark.parametrize(
    "state",
    [
        None, {}, "x", [1], [[]], [{}], [entry()] * 1001,
        [entry(k=0)], [entry(k=True)], [entry(k=1.5)], [entry(k="1")], [entry(k=1 << 40)], [entry(size=0)],
        [entry(recall=0)], [entry(recall=1.0)], [entry(recall=True)], [entry(recall="0.9")], [entry(recall=None)],
        [entry(measured=1.5)], [entry(measured=-0.1)], [entry(measured=[])],
        [entry(effort=None)], [entry(effort={})], [entry(effort={"probes": 1})], [entry(effort=[1, 2])],
        [entry(effort={"probes": 0, "rerank": 1})], [entry(effort={"probes": 1, "rerank": 2.0})],
        [entry(effort={"probes": 1, "rerank": 1, "beam": 1})], [entry(more=1)],
    ],
)  # fmt: skip
def test_other_states_are_refused(state: Any) -> None:
    with pytest.raises(CorruptIndexError, match="header 'tuned'"):
        Tuned.restored(state, PARAMETERS)


# --- indexes ---

KINDS: dict[str, Callable[..., Any]] = {
    "graph": lambda metric: nh.GraphIndex(12, metric, degree=8, build_beam=24),
    "graph f32": lambda metric: nh.GraphIndex(12, metric, codec="f32", degree=8, build_beam=24),
    "ivf": lambda metric: nh.IVFIndex(12, metric, lists=30),
}


def made(kind: str, metric: str = "l2", removed: bool = True) -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
    """An index over 2,600 vectors with ids 5, 8, 11, ..., some of them removed; the vectors left; 400 queries."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((3000, 12)).astype(np.float32)
    index = KINDS[kind](metric)
    ids = index.add(rows[:2600], ids=5 + 3 * np.arange(2600))
    if removed:
        index.remove(ids[::20])
    return index, np.delete(rows[:2600], np.s_[::20], axis=0), rows[2600:]


def measured_recall(
    index: Any, rows: NDArray[np.float32], queries: NDArray[np.float32], k: int, **effort: Any
) -> float:
    ids = np.delete(5 + 3 * np.arange(2600), np.s_[::20])
    if index.metric == "l2":
        scores = ((queries[:, None] - rows[None]) ** 2).sum(axis=2)
    else:
        scores = (
            -(queries / np.linalg.norm(queries, axis=1)[:, None]) @ (rows / np.linalg.norm(rows, axis=1)[:, None]).T
        )
    truth = ids[np.argsort(scores, axis=1)[:, :k]]
    found = index.search(queries, k, **effort).ids
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_index_finds_the_effort_for_a_recall(kind: str, metric: str, tmp_path: Path) -> None:
    index, rows, queries = made(kind, metric)
    tuning = index.tune(queries, k=5, recall=0.9)
    assert (tuning.k, tuning.recall) == (5, 0.9)
    assert tuning.chosen.bound >= 0.9
    assert tuning.chosen.recall == pytest.approx(
        measured_recall(index, rows, queries, 5, **tuning.chosen.effort), abs=1e-9
    )
    assert all(a.recall < b.recall and a.work < b.work for a, b in pairwise(tuning.curve))
    assert all(point.seconds > 0 for point in tuning.curve)
    by_recall = index.search(queries, 5, recall=0.9)
    by_effort = index.search(queries, 5, **tuning.chosen.effort)
    assert by_recall.ids.tobytes() == by_effort.ids.tobytes()
    index.save(tmp_path / "a")
    loaded = nh.load(tmp_path / "a")
    assert loaded.search(queries, 5, recall=0.9).ids.tobytes() == by_effort.ids.tobytes()
    assert loaded.info()["tuned"] == index.info()["tuned"]
    assert loaded.info()["tuned"][0]["size"] == 2470
    again = made(kind, metric)[0]
    again.tune(queries, k=5, recall=0.9)
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_recall_costs_more(kind: str) -> None:
    index, _, queries = made(kind, removed=False)
    low, high = (index.tune(queries, k=10, recall=recall).chosen for recall in (0.7, 0.97))
    assert low.work < high.work
    assert low.recall < high.recall


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_tunings_are_refused_and_store_nothing(kind: str) -> None:
    index, _, queries = made(kind, removed=False)
    for arguments, match in (
        ({"recall": 0.9999}, r"recall: expected at most 0\.\d+, of which 400 queries make sure"),
        ({"recall": 1.0}, "above 0 and below 1"),
        ({"recall": 0}, "above 0 and below 1"),
        ({"recall": "0.9"}, "above 0 and below 1"),
        ({"k": 0}, "k:"),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            index.tune(queries, **arguments)
    with pytest.raises(InvalidArgumentError, match="queries: expected at least one"):
        index.tune(queries[:0])
    with pytest.raises(InvalidArgumentError, match="queries"):
        index.tune(queries[:, :3])
    with pytest.raises(InvalidArgumentError, match="index is empty"):
        KINDS[kind]("l2").tune(queries)
    assert "tuned" not in index.info()
    with pytest.raises(InvalidArgumentError, match=r"recall: .*none.*call tune"):
        index.search(queries, recall=0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_smaller_than_k(kind: str) -> None:
    index = KINDS[kind]("l2")
    generator = np.random.default_rng(1)
    index.add(generator.standard_normal((7, 12)))
    chosen = index.tune(generator.standard_normal((300, 12)), k=10, recall=0.9).chosen
    assert chosen.recall == 1.0
    assert (index.search(np.zeros(12), 10, recall=0.9).ids >= 0).sum() == 7


def test_other_lists_forget_what_was_found_for_the_old(tmp_path: Path) -> None:
    index, _, queries = made("ivf")
    index.tune(queries, recall=0.8)
    index.add(queries[:5], ids=[0, 1, 2, 3, 4])
    assert index.search(queries, recall=0.8).ids.shape == (400, 10)
    index.retrain()
    with pytest.raises(InvalidArgumentError, match="call tune"):
        index.search(queries, recall=0.8)


@pytest.mark.parametrize("tuned", [[{"k": 10}], "x", [entry()]])
def test_a_file_with_another_state_is_refused(tuned: Any, tmp_path: Path) -> None:
    index, _, _ = made("graph")
    index.save(tmp_path / "index")
    header, tensors = read_file(tmp_path / "index", mmap=False)
    write_file(tmp_path / "bad", {**header, "tuned": tuned}, tensors)
    with pytest.raises(CorruptIndexError, match="header 'tuned'"):
        nh.load(tmp_path / "bad")


def test_one_of_several_equally_far_is_as_right_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    index = nh.GraphIndex(12, "l2", degree=8, build_beam=24)
    index.add(np.ones((50, 12)))
    queries = np.zeros((300, 12))

    def others(rows: NDArray[Any], k: int, *_: Any) -> tuple[NDArray[Any], NDArray[Any], float]:
        slots = np.tile(np.arange(30, 30 + k, dtype=np.int32), (len(rows), 1))
        return slots, np.full(slots.shape, distance, np.float32), 1.0

    monkeypatch.setattr(index, "_counted_search", others)
    distance = 12.0
    assert index.tune(queries, recall=0.9).chosen.recall == 1.0
    distance = 12.5
    with pytest.raises(InvalidArgumentError, match=r"reached 0\.0000"):
        index.tune(queries, recall=0.9)
