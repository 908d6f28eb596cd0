"""Collections: what they take, what they find, and what they refuse."""

import threading
import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nearhash as nh
from nearhash import where
from nearhash.errors import (
    ClosedError,
    CollectionExistsError,
    DimensionError,
    DtypeError,
    DuplicateIdError,
    InvalidArgumentError,
    LockedError,
    ReadOnlyError,
    UnknownCollectionError,
)
from nearhash.service.engine import failpoints, kinds, maintenance
from nearhash.service.engine.results import Deleted, Point, Written

DIM = 6


@pytest.fixture
def collection(tmp_path):
    with nh.Collection(tmp_path / "c", dim=DIM, metric="l2", labels=("time", "price")) as opened:
        yield opened


def vectors_of(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def recall_of(found, exact):
    """Mean share of the exact neighbours (q, k) that were found (q, k)."""
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)])


def test_a_point_is_written_read_found_replaced_and_deleted(collection):
    rows = vectors_of(3)
    assert collection.upsert([7, "seven", 0], rows, payloads=[{"a": 1}, None, {}]) == Written(3, 0, 1)
    point, missing, text = collection.get([7, 8, "seven"], vectors=True)
    assert point[:3] == (7, {}, {"a": 1})
    assert np.array_equal(point.vector, rows[0])
    assert missing is None
    assert text.id == "seven"
    found = collection.search(rows, k=2, payloads=True, vectors=True)
    assert found.ids[:, 0].tolist() == [7, "seven", 0]
    assert found.distances[:, 0].tolist() == [0, 0, 0]
    assert [row[0] for row in found.payloads] == [{"a": 1}, None, {}]
    assert np.array_equal(found.vectors[:, 0], rows)
    assert collection.upsert([7], rows[2:] + 1, labels={"price": [3.5]}) == Written(1, 1, 2)
    assert collection.get(7) == [Point(7, {"price": 3.5}, None, None)]
    assert collection.search(rows[0], k=9).ids.tolist()[0].count(7) == 1
    assert collection.delete(["seven", 7, 99]) == Deleted(2, 3)
    assert collection.search(rows, k=2).ids.tolist() == [[0, -1]] * 3
    collection.upsert(["x"], rows[:1])
    assert collection.search(rows[0], k=4).ids.tolist() == [["x", 0, None, None]]
    collection.delete("x")
    assert collection.search(rows, k=2).ids.dtype == np.int64
    assert len(collection) == 1


def test_numbers_and_texts_are_different_ids(collection):
    collection.upsert([1, "1"], vectors_of(2))
    collection.delete("1")
    assert [one is not None for one in collection.get([1, "1"])] == [True, False]


@pytest.mark.parametrize("sealed", [False, True])
def test_windows_on_any_label(collection, sealed):
    rows = vectors_of(50)
    times, prices = np.arange(50.0), np.arange(50.0) % 5
    prices[::7] = np.nan
    collection.upsert(range(50), rows, labels={"time": times, "price": prices})
    if sealed:
        collection.seal()
    found = collection.search(rows[:3], k=50, window=[(10, 20), (0, np.inf), (5, 5)])
    assert [set(row) - {-1} for row in found.ids.tolist()] == [set(range(10, 20)), set(range(50)), set()]
    wanted = [set(np.flatnonzero((prices >= lo) & (prices < hi)).tolist()) for lo, hi in ((1, 3), (4, 5), (1, 3))]
    found = collection.search(rows[:3], k=50, window=[(1, 3), (4, 5), (1, 3)], window_label="price")
    assert [set(row) - {-1} for row in found.ids.tolist()] == wanted
    assert (np.diff(np.where(np.isinf(found.distances), 1e9, found.distances), axis=1) >= 0).all()
    assert collection.count((1, 3), window_label="price") == len(wanted[0])
    assert collection.count((10, 20), where.exists("x")) == 0
    both = collection.search(rows[0], k=50, window=(10, 20), filter=~where.exists("x"))
    assert set(both.ids[0].tolist()) - {-1} == set(range(10, 20))


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", ["graph", "ivf", "window", "auto"])
def test_parts_answer_as_one_exact_scan_would(tmp_path, metric, kind, monkeypatch):
    monkeypatch.setattr(kinds, "FLAT_BELOW", 50)
    rows = vectors_of(900, 3)
    with nh.Collection(tmp_path / "c", dim=DIM, metric=metric, labels=("t",), index=kind, seal_at=10_000) as parts:
        for first in (0, 300, 600):
            ids = range(first, first + 300)
            parts.upsert(ids, rows[first : first + 300], labels=ids)
            if first < 600:
                parts.seal()
        parts.delete(range(0, 900, 9))
        parts.upsert(range(0, 900, 90), rows[:10] * 2, labels=range(0, 900, 90))
        present = {own: rows[own] for own in range(900) if own % 9}
        present.update({own: rows[place] * 2 for place, own in enumerate(range(0, 900, 90))})
        exact = nh.FlatIndex(DIM, metric=metric)
        exact.add(np.stack(list(present.values())), ids=list(present), labels=list(present))
        queries = vectors_of(20, 5)
        for window in (None, (100, 700)):
            found, expected = parts.search(queries, k=10, window=window), exact.search(queries, k=10, window=window)
            same = np.mean(
                [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), expected.ids.tolist(), strict=True)]
            )
            assert same >= 9.5
            assert np.allclose(found.distances[:, 0], expected.distances[:, 0], atol=1e-4)
        assert (
            parts.search(queries, k=10, threads=1).ids.tolist() == parts.search(queries, k=10, threads=2).ids.tolist()
        )
        everything = parts.search(queries, k=len(present) + 3)
        assert (np.sort(everything.ids, axis=1)[:, 3:] == sorted(present)).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c.upsert([1], np.zeros((2, DIM))), InvalidArgumentError, "ids: expected 2"),
        (lambda c: c.upsert([1], np.zeros((1, DIM + 1))), DimensionError, r"vectors: expected shape \(n, 6\)"),
        (lambda c: c.upsert([1], np.full((1, DIM), np.nan)), InvalidArgumentError, "vectors: expected finite"),
        (lambda c: c.upsert([-1], np.zeros((1, DIM))), InvalidArgumentError, "ids: expected ids from 0"),
        (lambda c: c.upsert([2**63], np.zeros((1, DIM))), InvalidArgumentError, "ids: expected ids from 0"),
        (lambda c: c.upsert([1.5], np.zeros((1, DIM))), DtypeError, "ids: expected integers or texts"),
        (lambda c: c.upsert([True], np.zeros((1, DIM))), DtypeError, "ids: expected integers or texts"),
        (lambda c: c.upsert([""], np.zeros((1, DIM))), InvalidArgumentError, "ids: expected texts of 1 to 512"),
        (lambda c: c.upsert(["x" * 513], np.zeros((1, DIM))), InvalidArgumentError, "ids: expected texts of 1 to 512"),
        (lambda c: c.upsert(["\ud800"], np.zeros((1, DIM))), InvalidArgumentError, "UTF-8"),
        (lambda c: c.upsert([1, 1], np.zeros((2, DIM))), DuplicateIdError, "got 1 more than once"),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), labels=[1, 2]), InvalidArgumentError, "expected 1 numbers"),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), labels=["x"]), InvalidArgumentError, "expected numbers"),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), labels=[2**53 + 1]), InvalidArgumentError, "2\\*\\*53"),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), labels={"x": [1]}), InvalidArgumentError, "expected time, price"),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), payloads=[1]), DtypeError, r"payloads\[0\]"),
        (lambda c: c.upsert([1], np.zeros((1, DIM)), request_id="x" * 129), InvalidArgumentError, "request_id"),
        (lambda c: c.delete([1, 1]), DuplicateIdError, "ids"),
        (lambda c: c.search(np.zeros(DIM), k=0), InvalidArgumentError, "k: expected"),
        (lambda c: c.search(np.zeros(DIM), beam=0), InvalidArgumentError, "beam"),
        (lambda c: c.search(np.zeros(DIM), speed=3), InvalidArgumentError, "effort: expected beam, probes, rerank"),
        (lambda c: c.search(np.zeros(DIM), recall=0.9, beam=3), InvalidArgumentError, "recall: expected no effort"),
        (lambda c: c.search(np.zeros(DIM), window=(3, 1)), InvalidArgumentError, "lo <= hi"),
        (lambda c: c.search(np.zeros(DIM), window_label="x"), InvalidArgumentError, "expected one of time, price"),
        (lambda c: c.search(np.zeros(DIM), filter=3), InvalidArgumentError, "filter: expected a predicate"),
        (lambda c: c.search(np.zeros(DIM), filter='{"eq":'), InvalidArgumentError, "not valid JSON"),
        (lambda c: c.search(np.zeros(DIM), filter={"eq": {1}}), InvalidArgumentError, "filter"),
        (lambda c: c.scroll(cursor="[1]"), InvalidArgumentError, "cursor"),
        (lambda c: c.scroll(page_size=0), InvalidArgumentError, "page_size"),
        (lambda c: c.tune(np.zeros((1001, DIM))), InvalidArgumentError, "queries: expected 1 to 1,000"),
    ],
)
def test_what_is_refused_changes_nothing(collection, call, error, message):
    collection.upsert([5], np.ones((1, DIM)), labels=[3.0])
    collection.seal()
    collection.upsert([6], np.ones((1, DIM)))
    with pytest.raises(error, match=message):
        call(collection)
    assert collection.stats()["sequence"] == 2
    assert collection.state == "ok"
    assert collection.search(np.ones(DIM), k=3).ids.tolist() == [[5, 6, -1]]


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ({"dim": 0}, "dim"),
        ({"dim": 3, "metric": "x"}, "metric"),
        ({"dim": 3, "index": "tree"}, "index: expected one of"),
        ({"dim": 3, "labels": "abc"}, "labels"),
        ({"dim": 3, "labels": ["a", "a"]}, "labels"),
        ({"dim": 3, "labels": ["a b"]}, "labels"),
        ({"dim": 3, "index_options": {"degree": 8}}, "index_options: expected none with"),
        ({"dim": 3, "index": "graph", "index_options": {"degrees": 8}}, "index_options"),
        ({"dim": 3, "index": "graph", "index_options": {"degree": 1}}, "degree"),
        ({"dim": 3, "index": "graph", "index_options": {"degree": {1}}}, "index_options"),
        ({"dim": 3, "seal_at": -1}, "seal_at"),
    ],
)
def test_settings_are_checked_before_anything_is_made(tmp_path, settings_given, message):
    with pytest.raises(InvalidArgumentError, match=message):
        nh.Collection(tmp_path / "c", **settings_given)
    assert not (tmp_path / "c").exists()
    with pytest.raises(UnknownCollectionError):
        nh.Collection(tmp_path / "c")


def test_settings_of_a_collection_stay(tmp_path):
    options = {
        "dim": 3,
        "metric": "ip",
        "labels": ["a"],
        "index": "graph",
        "index_options": {"degree": 8},
        "seal_at": 77,
    }
    nh.Collection(tmp_path / "c", **options).close()
    with nh.Collection(tmp_path / "c", **options) as again:
        assert again.settings() == options
    with pytest.raises(InvalidArgumentError, match=r"metric: the collection in .* has 'ip', got 'l2'"):
        nh.Collection(tmp_path / "c", dim=3, metric="l2")


def test_ties_go_to_the_older_point(collection):
    for own in (9, 3, 7, 1):
        collection.upsert([own], np.ones((1, DIM)))
        if own != 7:
            collection.seal()
    assert collection.search(np.ones(DIM), k=4).ids.tolist() == [[9, 3, 7, 1]]
    collection.upsert([9], np.ones((1, DIM)))
    assert collection.search(np.ones(DIM), k=3).ids.tolist() == [[3, 7, 1]]


def test_dead_rows_leave_the_database_with_the_part_that_held_them(tmp_path):
    def rows(collection):
        tables = ("points", "vectors", "deaths")
        return [collection._store._writer.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables]

    with nh.Collection(tmp_path / "c", dim=DIM) as collection:
        collection.upsert(range(20), vectors_of(20))
        collection.upsert(range(5), vectors_of(5))
        collection.delete([7, 8])
        assert rows(collection) == [25, 25, 7]
    with nh.Collection(tmp_path / "c") as collection:  # reads only those that live into its buffer
        collection.seal()
        assert rows(collection) == [18, 18, 0]
        collection.delete([9])
        assert rows(collection) == [18, 18, 1]
        collection.compact()
        assert rows(collection) == [17, 17, 0]
        collection.delete(range(30))
        collection.compact()
        assert rows(collection) == [0, 0, 0]
        assert collection.stats()["segments"] == []
        collection.upsert([1], vectors_of(1))
    with nh.Collection(tmp_path / "c") as collection:
        assert len(collection) == 1


def test_one_writer_many_readers(tmp_path):
    with nh.Collection(tmp_path / "c", dim=2) as writer:
        with pytest.raises(LockedError, match=r"process .* writes to this collection"):
            nh.Collection(tmp_path / "c")
        with nh.Collection(tmp_path / "c", read_only=True) as reader:
            with pytest.raises(ReadOnlyError):
                reader.upsert([1], np.zeros((1, 2)))
            assert reader.state == "read-only"
        writer.upsert([1], np.ones((1, 2)))
    with pytest.raises(ClosedError):
        writer.search(np.ones(2))
    with pytest.raises(ClosedError):
        writer.upsert([1], np.ones((1, 2)))
    writer.close()
    assert len(nh.Collection(tmp_path / "c", read_only=True)) == 1


def test_closing_waits_for_reads_and_refuses_later_ones(tmp_path):
    collection = nh.Collection(tmp_path / "c", dim=DIM)
    collection.upsert(range(3000), vectors_of(3000), payloads=[{"n": own} for own in range(3000)])
    started, outcomes = threading.Barrier(5), []

    def read():
        started.wait()
        try:
            while True:
                for page in collection.scroll(page_size=500, vectors=True):
                    assert len(page.points) == 500
        except ClosedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.05)
    collection.close()
    for thread in threads:
        thread.join()
    assert outcomes == ["refused"] * 4
    with nh.Collection(tmp_path / "c") as again:
        with again._store.reader() as connection:
            closing = threading.Thread(target=again.close)
            closing.start()
            closing.join(timeout=0.1)
            assert closing.is_alive()
            assert connection.execute("SELECT count(*) FROM ids").fetchone() == (3000,)
        closing.join()


def test_followers_see_every_acknowledged_write(tmp_path):
    rows = vectors_of(400)
    with (
        nh.Collection(tmp_path / "c", dim=DIM, metric="l2", labels=("t",), seal_at=10_000) as writer,
        nh.Collection(tmp_path / "c", read_only=True) as reader,
    ):
        for first in range(0, 400, 50):
            ids = range(first, first + 50)
            writer.upsert(ids, rows[first : first + 50], labels=ids, payloads=[{"n": own} for own in ids])
            writer.delete([first + 3])
            assert len(reader) == len(writer)
            assert reader.search(rows[first : first + 3], k=1).ids[:, 0].tolist() == [first, first + 1, first + 2]
            assert reader.count(filter=where.range("n", 0, first + 10)) == writer.count(
                filter=where.range("n", 0, first + 10)
            )
            if first in (100, 250):
                writer.seal()
            if first == 300:
                writer.compact()
            kinds_seen = [part["size"] for part in reader.stats()["segments"]]
            assert kinds_seen == [part["size"] for part in writer.stats()["segments"]]
        assert [one.id for page in reader.scroll() for one in page.points] == sorted(
            set(range(400)) - set(range(3, 400, 50))
        )


def test_followers_keep_up_while_segments_come_and_go(tmp_path):
    rows, stop, seen = vectors_of(50), threading.Event(), []
    with nh.Collection(tmp_path / "c", dim=DIM, metric="l2", seal_at=10_000) as writer:
        writer.upsert(range(50), rows)

        def follow():
            while not stop.is_set():
                with nh.Collection(tmp_path / "c", read_only=True) as reader:
                    for _ in range(20):
                        seen.append(
                            (len(reader), reader.search(rows[7], k=1).ids.tolist(), reader.stats()["recovered"])
                        )

        threads = [threading.Thread(target=follow) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(60):
            writer.upsert([turn % 5], rows[turn % 5][None])
            writer.compact()
        stop.set()
        for thread in threads:
            thread.join()
    assert len(seen) > 20
    assert all(one == (50, [[7]], []) for one in seen)


def test_a_request_is_carried_out_once(collection):
    first = collection.upsert([1, 2], vectors_of(2), request_id="a")
    collection.delete([1])
    assert collection.upsert([1, 2], vectors_of(2), request_id="a") == first
    assert collection.get([1]) == [None]
    gone = collection.delete([2], request_id="b")
    collection.upsert([2], vectors_of(1))
    assert collection.delete([2], request_id="b") == gone
    assert len(collection) == 1


def test_requests_of_long_ago_are_forgotten(collection, monkeypatch):
    monkeypatch.setattr("nearhash.service.engine.sqlite_store._REMEMBERED", 3)
    for number in range(5):
        collection.delete([1], request_id=str(number))
    rows = collection._store._writer.execute("SELECT request_id FROM requests").fetchall()
    assert rows == [("2",), ("3",), ("4",)]


def test_scroll_gives_what_is_there_throughout_exactly_once(collection):
    collection.upsert(range(100), vectors_of(100))
    collection.upsert(["a", "b"], vectors_of(2))
    seen, cursors = [], []
    for page in collection.scroll(page_size=10):
        seen += [one.id for one in page.points]
        cursors.append(page.cursor)
        if len(cursors) % 3 == 0:
            collection.upsert(range(0, 100, 2), vectors_of(50))  # new rows of points seen and not yet seen
            collection.seal()
            collection.delete([99])
    assert seen == [*range(99), "a", "b"]
    rest = [one.id for page in collection.scroll(page_size=7, cursor=cursors[4]) for one in page.points]
    assert rest == seen[50:]


def test_writes_of_many_threads_are_committed_together(collection):
    before = collection.stats()["sequence"]
    commits = []
    store = collection._store
    original = store.write
    store.write = lambda: commits.append(1) or original()
    with collection._commits.writing:  # all come while one is under way
        threads = [threading.Thread(target=collection.upsert, args=([own], vectors_of(1, own))) for own in range(20)]
        for thread in threads:
            thread.start()
        while collection._commits.pending < 20:
            pass
    for thread in threads:
        thread.join()
    assert len(commits) == 1
    assert collection.stats()["sequence"] == before + 20
    assert len(collection) == 20


def test_tuned_recall_reaches_segments_made_later(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "FLAT_BELOW", 50)
    rows, queries = vectors_of(4000, 8), vectors_of(100, 9)
    with nh.Collection(tmp_path / "c", dim=DIM, metric="l2", index="graph", seal_at=10_000) as tuned:
        tuned.upsert(range(2000), rows[:2000])
        tuned.seal()
        with pytest.raises(InvalidArgumentError, match="tune"):
            tuned.search(queries, recall=0.9)
        tuned.tune(queries, k=10, recall=0.9)
        tuned.upsert(range(2000, 4000), rows[2000:])
        tuned.seal()
        assert tuned.search(queries, recall=0.9).ids.shape == (100, 10)
    with nh.Collection(tmp_path / "c") as again:
        found = again.search(queries, recall=0.9)
        exact = ((queries[:, None] - rows[None]) ** 2).sum(axis=2).argsort(axis=1)[:, :10]
        assert (
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.ids.tolist(), exact.tolist(), strict=True)]) > 0.85
        )
        again.compact()
        again.search(queries, recall=0.9)


def test_snapshots_are_collections_of_one_moment(collection, tmp_path):
    rows = vectors_of(60)
    collection.upsert(range(30), rows[:30], labels=range(30), payloads=[{"n": own} for own in range(30)])
    collection.seal()
    collection.upsert(range(30, 60), rows[30:])
    stop = threading.Event()

    def write():
        own = 1000
        while not stop.is_set():
            collection.upsert([own, own + 1], rows[:2])
            own += 2

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            folder = collection.snapshot(tmp_path / f"s{number}")
            with nh.Collection.restore(folder, tmp_path / f"r{number}") as restored:
                assert (len(restored) - 60) % 2 == 0
                assert restored.stats()["recovered"] == []
                assert restored.get(5) == collection.get(5)
                assert restored.search(rows[40], k=1).ids.tolist() == [[40]]
                restored.delete([5])
    finally:
        stop.set()
        thread.join()
    assert collection.get(5) != [None]
    with pytest.raises(CollectionExistsError):
        collection.snapshot(tmp_path / "s0")
    with pytest.raises(CollectionExistsError):
        nh.Collection.restore(tmp_path / "s0", tmp_path / "r0")
    with pytest.raises(UnknownCollectionError):
        nh.Collection.restore(tmp_path / "none", tmp_path / "x")


def test_of_two_snapshots_of_one_name_one_is_refused(collection, tmp_path):
    collection.upsert(range(500), vectors_of(500))
    collection.seal()
    start, outcomes = threading.Barrier(4), []

    def copy():
        start.wait()
        try:
            outcomes.append(collection.snapshot(tmp_path / "s"))
        except CollectionExistsError:
            outcomes.append(None)

    threads = [threading.Thread(target=copy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(tmp_path / "s") == 1
    assert outcomes.count(None) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "s"]
    with nh.Collection(tmp_path / "s") as copied:
        assert len(copied) == 500


ids = st.integers(0, 25) | st.sampled_from(["a", "b", "c"])


class Life(RuleBasedStateMachine):
    """A collection against a dict of id to (version, label)."""

    @initialize(kind=st.sampled_from(["auto", "ivf", "flat"]))
    def make(self, kind):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = self.folder.name + "/c"
        self.collection = nh.Collection(self.path, dim=3, metric="l2", labels=("t",), index=kind, seal_at=12)
        self.follower = nh.Collection(self.path, read_only=True)
        self.model = {}
        self.version = 0

    def vector(self, own, version):
        number = own if isinstance(own, int) else 100 + ord(own)
        return np.array([number, version % 7, version // 7], np.float32)

    @rule(chosen=st.lists(ids, min_size=1, max_size=8, unique=True), labelled=st.booleans())
    def upsert(self, chosen, labelled):
        self.version += 1
        labels = [float(place) for place in range(len(chosen))] if labelled else None
        replaced = sum(own in self.model for own in chosen)
        written = self.collection.upsert(
            chosen,
            np.stack([self.vector(own, self.version) for own in chosen]),
            labels,
            [{"v": self.version}] * len(chosen),
        )
        assert written[:2] == (len(chosen), replaced)
        for place, own in enumerate(chosen):
            self.model[own] = (self.version, labels[place] if labelled else None)

    @rule(chosen=st.lists(ids, max_size=6, unique=True))
    def delete(self, chosen):
        present = [own for own in chosen if own in self.model]
        assert self.collection.delete(chosen).deleted == len(present)
        for own in present:
            del self.model[own]

    @rule()
    def seal(self):
        self.collection.seal()

    @rule()
    def compact(self):
        self.collection.compact()

    @rule()
    def reopen(self):
        self.collection.close()
        self.collection = nh.Collection(self.path)
        assert self.collection.stats()["recovered"] == []

    @precondition(lambda self: self.model)
    @rule(data=st.data(), lo=st.integers(0, 8), width=st.integers(0, 8))
    def search(self, data, lo, width):
        own = data.draw(st.sampled_from(sorted(self.model, key=str)))
        version, _ = self.model[own]
        query = self.vector(own, version)
        for searched in (self.collection, self.follower):
            assert searched.search(query, k=1).distances.tolist() == [[0.0]]
            found = searched.search(query, k=40, filter={"eq": ["v", version]})
            matching = {one for one, (other, _) in self.model.items() if other == version}
            assert {one for one in found.ids[0].tolist() if one is not None and one != -1} == matching
            found = searched.search(query, k=40, window=(lo, lo + width))
            inside = {one for one, (_, label) in self.model.items() if label is not None and lo <= label < lo + width}
            assert {one for one in found.ids[0].tolist() if one is not None and one != -1} == inside

    @invariant()
    def everything_is_there(self):
        if not hasattr(self, "collection"):
            return
        for read in (self.collection, self.follower):
            assert len(read) == len(self.model)
            points = [one for page in read.scroll(page_size=5) for one in page.points]
            assert {one.id: (one.payload["v"], one.labels.get("t")) for one in points} == self.model
            assert len(points) == len(self.model)

    def teardown(self):
        if hasattr(self, "collection"):
            self.follower.close()
            self.collection.close()
            self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_auto_makes_graphs_for_single_queries_once_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "FLAT_BELOW", 50)
    monkeypatch.setattr(kinds, "GRAPH_FROM", 200)
    monkeypatch.setattr(kinds, "ENOUGH_QUERIES", 100)
    monkeypatch.setattr(maintenance, "IDLE_SECONDS", 0.05)
    rows = vectors_of(400, 2)

    def segment_kinds(collection):
        return [segment["kind"] for segment in collection.stats()["segments"]]

    with nh.Collection(tmp_path / "c", dim=DIM, seal_at=300) as collection:
        collection.upsert(range(400), rows)
        for _ in range(20):
            collection.search(rows[:10])
        collection.compact()
        assert segment_kinds(collection) == ["ivf"]
        monkeypatch.setattr(maintenance, "IDLE_SECONDS", 1000.0)  # as if it were written to all the time
        for row in rows[:300]:
            collection.search(row)
        collection.delete([300])
        collection.compact()
        assert segment_kinds(collection) == ["ivf"]
        monkeypatch.setattr(maintenance, "IDLE_SECONDS", 0.05)
        collection._maintenance._segments_changed.set()  # its thread would look again in 500 seconds
        for _ in range(1500):
            if segment_kinds(collection) == ["graph"]:
                break
            time.sleep(0.02)
        assert segment_kinds(collection) == ["graph"]
        assert collection.search(rows[7], k=1).ids.tolist() == [[7]]


def test_background_work_reports_its_failure_and_tries_again(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "_FIRST_PAUSE", 0.02)
    events = []
    with nh.Collection(tmp_path / "c", dim=DIM, seal_at=10) as collection:
        collection.on_event = lambda kind, detail: events.append((kind, detail))
        failpoints.arm("seal.saved=full")
        collection.upsert(range(20), vectors_of(20))
        for _ in range(1500):
            if collection.stats()["background"]["last_error"]:
                break
            time.sleep(0.02)
        assert "full" in collection.stats()["background"]["last_error"]
        assert list((tmp_path / "c" / "segments").iterdir()) == []
        assert collection.state == "ok"
        assert collection.search(vectors_of(1), k=1).ids.tolist() == [[0]]
        failpoints.arm(None)
        for _ in range(1500):
            if collection.stats()["segments"]:
                break
            time.sleep(0.02)
        assert collection.stats()["segments"][0]["size"] == 20
    assert "error" in [kind for kind, _ in events]
    assert events[-1] == ("sealing", {"collection": "c", "rows": 20, "segment": 2})


def test_a_request_id_is_for_one_kind_of_request(collection):
    collection.upsert([1], vectors_of(1), request_id="a")
    with pytest.raises(InvalidArgumentError, match="'a' is that of an earlier upsert"):
        collection.delete([1], request_id="a")
    collection.delete([2], request_id="b")
    with pytest.raises(InvalidArgumentError, match="earlier deletion"):
        collection.upsert([1], vectors_of(1), request_id="b")
    assert len(collection) == 1
    assert collection.state == "ok"


def test_compaction_gives_space_back(tmp_path):
    with nh.Collection(tmp_path / "c", dim=64) as collection:
        collection.upsert(range(3000), np.random.default_rng(0).standard_normal((3000, 64)))
        collection.delete(range(2990))
        before = collection.stats()["disk_bytes"]
        collection.compact()
        assert collection.stats()["disk_bytes"] < before / 5
