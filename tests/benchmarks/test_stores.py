"""The benchmark of stores: ours on some of the bundled word vectors, peers where they are installed."""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks import stores
from benchmarks.record import RESULTS, read_document
from benchmarks.store_peers import STORES, base, pipes
from benchmarks.store_peers.remote import PEERS_PYTHON, StoreError, Worker, interpreter
from benchmarks.store_report import stores_part, stores_table

OWN = "nearhash"
SIZE = 2500


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("stores")
    arguments = ["glove-20k", "--size", str(SIZE), "--queries", "40", "--rounds", "2", "--seconds", "1"]
    arguments += ["--stores", f"{OWN};Chroma", "--peers-python", str(folder / "no-python")]
    assert stores.main([*arguments, "--results", str(folder)]) == 0
    return folder


def test_what_is_measured(folder):
    document = read_document(folder / "stores.json")
    (run,) = document["runs"]
    assert run["size"] == SIZE
    assert run["left_out"] == {"Chroma": "no-python: No such file or directory"}
    (one,) = run["stores"]
    assert one["name"] == OWN
    assert one["insert"]["points"] == SIZE
    assert one["insert"]["index_seconds"] > 0
    for search in one["searches"].values():
        assert search["reached"]
        assert search["recall"] >= stores.TARGET
        assert search["queries"] == 40
        assert (search["short"], search["wrong"]) == (0, 0)
        assert len(search["us"]) == 2
        assert 0 < min(search["us"]) <= search["p99_us"] * 2
    assert len(one["reopen"]) == 2
    for reopened in one["reopen"]:
        assert reopened["recall"] >= stores.TARGET
        assert 0 < reopened["seconds"] < reopened["process_seconds"]
    assert one["disk_bytes"] > SIZE * 100 * 4
    assert one["memory_bytes"] > SIZE * 100


def test_page_and_figure(folder):
    page = stores_part(read_document(folder / "stores.json"), "results")
    assert "(results/stores.png)" in page
    assert "| **nearhash** |" in page
    assert "- Chroma was left out: no-python" in page
    assert (folder / "stores.png").stat().st_size > 10_000


def test_another_size_is_added_and_the_same_is_replaced(folder, tmp_path):
    document = read_document(folder / "stores.json")
    path = tmp_path / "stores.json"
    (run,) = document["runs"]
    for size, mark in ((10, "a"), (20, "b"), (10, "c")):
        stores._write(path, {**document, "runs": [{**run, "size": size, "left_out": {"x": mark}}]})
    runs = read_document(path)["runs"]
    assert [(one["size"], one["left_out"]["x"]) for one in runs] == [(20, "b"), (10, "c")]
    stores._write(path, {**document, "settings": {**document["settings"], "k": 3}})
    assert [one["size"] for one in read_document(path)["runs"]] == [SIZE]


def test_unknown_store(capsys):
    with pytest.raises(SystemExit):
        stores.main(["--stores", "nearhash;abacus"])
    assert "got 'abacus'" in capsys.readouterr().err


def small_task():
    """Points on a circle, queries at two of them, every second one in bucket 1."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    buckets = np.arange(60) % 2
    task = stores.Task(points, points[[0, 1]], "cosine", buckets, np.array([0, 1]))
    for kind in stores.KINDS:
        task.cuts[kind] = stores._cuts(task, task.asked(kind)) + 1e-5
    return task


def around(centre, step=1):
    return (centre + step * np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 5])) % 60


def test_answers_are_judged():
    task = small_task()
    right = np.array([around(0), around(1)])
    assert stores.judge(task, "all", right) == {"recall": 1.0, "queries": 2, "short": 0, "wrong": 0}
    assert stores.judge(task, "all", right[:1])["queries"] == 1
    far = right.copy()
    far[0, :5] = np.arange(20, 25)
    assert stores.judge(task, "all", far)["recall"] == 0.75
    far[0, :5] = -1
    assert stores.judge(task, "all", far) == {"recall": 0.75, "queries": 2, "short": 1, "wrong": 0}
    twice = right.copy()
    twice[1, 1:] = twice[1, 0]
    assert stores.judge(task, "all", twice)["recall"] == pytest.approx(0.55)


def test_answers_outside_the_filter_are_wrong_and_do_not_count():
    task = small_task()
    right = np.array([around(0, 2), around(1, 2)])
    assert stores.judge(task, "filtered", right) == {"recall": 1.0, "queries": 2, "short": 0, "wrong": 0}
    unfiltered = np.array([around(0, 2), around(1)])
    found = stores.judge(task, "filtered", unfiltered)
    assert (found["short"], found["wrong"]) == (1, 1)
    assert found["recall"] == pytest.approx(0.75)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_distances(metric):
    rng = np.random.default_rng(0)
    queries, rows = rng.standard_normal((2, 5)).astype("f4"), rng.standard_normal((3, 5)).astype("f4")
    found = stores.pair_matrix(queries, rows, metric)
    for i, q in enumerate(queries.astype(float)):
        for j, x in enumerate(rows.astype(float)):
            away = {"l2": ((q - x) ** 2).sum(), "ip": -q @ x}
            away["cosine"] = 1 - q @ x / np.sqrt((q @ q) * (x @ x))
            assert found[i, j] == pytest.approx(away[metric], abs=1e-4)


@given(st.integers(1, 40), st.integers(0, 45))
def test_least_step_that_reaches(steps, first):
    assert stores._least(lambda step: step >= first, steps) == min(first, steps - 1)


def test_ladder():
    efforts = base.ladder("ef", 1, 100, refine=2)
    steps = [effort["ef"] for effort in efforts]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (1, 100)
    assert all(effort["refine"] == 2 for effort in efforts)


array = arrays.arrays(
    st.sampled_from(["<f4", "<i8", "|u1"]), arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)
)


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.dictionaries(st.sampled_from("abc"), array))
def test_messages_come_back(message, sent):
    message.pop("arrays", None)
    stream = io.BytesIO()
    pipes.send(stream, message, **sent)
    pipes.send(stream, {"next": 1})
    stream.seek(0)
    found, received = pipes.receive(stream)
    assert found == message
    assert received.keys() == sent.keys()
    for name, one in received.items():
        assert (one.dtype, one.shape) == (sent[name].dtype, sent[name].shape)
        assert one.tobytes() == sent[name].tobytes()
    assert pipes.receive(stream) == ({"next": 1}, {})
    with pytest.raises(EOFError):
        pipes.receive(stream)


def test_message_that_is_cut_off():
    stream = io.BytesIO()
    pipes.send(stream, {"do": "search"}, queries=np.zeros((3, 4), np.float32))
    whole = stream.getvalue()
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            pipes.receive(io.BytesIO(whole[:length]))


def test_failure_of_a_worker_is_told(tmp_path):
    with Worker(OWN, sys.executable, tmp_path / "store") as worker:
        with pytest.raises(StoreError, match="MetricError"):
            worker.open(4, "manhattan", 10)
        worker.open(4, "l2", 10)  # it goes on
        worker._process.kill()
        with pytest.raises(StoreError, match="the process ended with -9"):
            worker.memory()


@pytest.mark.parametrize("name", STORES)
def test_each_store_keeps_what_it_was_given(name):
    with tempfile.TemporaryDirectory(prefix="nearhash-store-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        _keeps(name, Path(folder))


def _keeps(name, folder):
    python = interpreter(name, PEERS_PYTHON)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 16)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "buckets.npy", np.arange(500) % 5)
    try:
        worker = Worker(name, python, folder / "store")
    except StoreError as error:
        pytest.skip(str(error))
    with worker:
        ladder = worker.facts["ladders"][0]
        worker.open(16, "cosine", 500)
        inserted, seconds = worker.insert(folder / "vectors.npy", folder / "buckets.npy", 100, 60)
        assert (inserted, len(seconds)) == (500, 5)
        worker.finish()
        before, _ = worker.search(vectors[:20], 5, ladder[-1], None, 10)
        assert worker.close() >= 0
    with Worker(name, python, folder / "store") as worker:
        worker.open(16, "cosine", 500)
        ids, _ = worker.search(vectors[:20], 5, ladder[-1], None, 10)
        assert (ids[:, 0] == np.arange(20)).all()
        assert (ids == before).all()
        filtered, _ = worker.search(vectors[:20], 5, ladder[-1], np.full(20, 3), 10)
        assert (filtered[filtered >= 0] % 5 == 3).all()
        assert (filtered >= 0).mean() > 0.5
        assert worker.memory() > 1 << 20
        worker.close()


def test_insertion_stops_when_the_budget_is_spent(tmp_path):
    np.save(tmp_path / "vectors.npy", np.eye(30, dtype=np.float32))
    np.save(tmp_path / "buckets.npy", np.zeros(30, np.int64))
    with Worker(OWN, sys.executable, tmp_path / "store") as worker:
        worker.open(30, "l2", 30)
        assert worker.insert(tmp_path / "vectors.npy", tmp_path / "buckets.npy", 10, 0.0)[0] == 10
        assert worker.insert(tmp_path / "vectors.npy", tmp_path / "buckets.npy", 10, 60.0)[0] == 30


def test_slow_stores_are_asked_less(tmp_path):
    np.save(tmp_path / "vectors.npy", np.eye(30, dtype=np.float32))
    np.save(tmp_path / "buckets.npy", np.zeros(30, np.int64))
    with Worker(OWN, sys.executable, tmp_path / "store") as worker:
        worker.open(30, "l2", 30)
        worker.insert(tmp_path / "vectors.npy", tmp_path / "buckets.npy", 10, 60)
        assert len(worker.search(np.eye(30, dtype=np.float32), 3, {"beam": 10}, None, 0.0)[0]) == 20
        assert len(worker.search(np.eye(30, dtype=np.float32), 3, {"beam": 10}, None, 60.0)[0]) == 30


@pytest.mark.parametrize("path", [path for path in [RESULTS / "stores.json"] if path.is_file()])
def test_pages_of_results_are_current(path):
    assert path.with_suffix(".md").read_text(encoding="utf-8").endswith(stores_table(read_document(path), "."))
    assert path.with_suffix(".png").is_file()
