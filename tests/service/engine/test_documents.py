"""Collections of documents: what they find, what they add, and that they lose nothing."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import nearhash as nh
from nearhash.errors import (
    ClosedError,
    CollectionExistsError,
    CorruptCollectionError,
    DuplicateIdError,
    InvalidArgumentError,
    LockedError,
    NearhashError,
    ReadOnlyError,
    SketchMismatchError,
    StorageError,
    UnknownCollectionError,
    VersionError,
)
from nearhash.hashing import MinHash
from nearhash.service.engine import document_collection, document_store, failpoints
from nearhash.service.engine.database import Database

WORDS = " ".join(f"w{i}" for i in range(60))


def text_of(number):
    """Texts of different numbers have no shingle in common."""
    return " ".join(f"{number}-{i}" for i in range(40))


def listed(duplicates):
    """Ids and similarities by document."""
    pairs = list(zip(duplicates.ids.tolist(), duplicates.similarities.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(duplicates.indptr[:-1], duplicates.indptr[1:], strict=True)]


@pytest.fixture
def documents(tmp_path):
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7) as opened:
        yield opened


def test_documents_are_added_found_replaced_and_deleted(documents):
    assert documents.upsert([1, "two"], [WORDS, text_of(2)]) == (2, 0, 1)
    assert listed(documents.find([WORDS + " more", text_of(3), text_of(2)])) == [
        [(1, pytest.approx(0.98, abs=0.05))],
        [],
        [("two", 1.0)],
    ]
    assert documents.find(WORDS).ids.dtype == np.int64
    assert documents.upsert([1, 5], [text_of(1), WORDS]) == (2, 1, 2)
    assert listed(documents.find([WORDS, text_of(1)])) == [[(5, 1.0)], [(1, 1.0)]]
    assert documents.delete([5, "unknown"]) == (1, 3)
    assert listed(documents.find([WORDS])) == [[]]
    assert len(documents) == 2


def test_of_documents_that_come_together_the_first_is_added(documents):
    documents.upsert(["old"], [text_of(0)])
    more = [text_of(1), text_of(0), text_of(1) + " x", text_of(2), text_of(1), text_of(2)]
    checked = documents.check_and_add(list("abcdef"), more)
    assert checked.added.tolist() == [True, False, False, True, False, False]
    names = [[own for own, _ in found] for found in listed(checked.duplicates)]
    assert names == [[], ["old"], ["a"], [], ["a"], ["d"]]  # "c" was not added, so "e" is no duplicate of it
    assert checked.sequence == 2
    assert len(documents) == 3


def test_a_document_whose_id_is_there_is_not_added(documents):
    documents.upsert(["a", "b"], [text_of(1), text_of(2)])
    checked = documents.check_and_add(["a", "b", "c"], [text_of(1), text_of(3), text_of(2)])
    assert not checked.added.any()
    assert listed(checked.duplicates) == [[("a", 1.0)], [("b", 0.0)], [("b", 1.0)]]
    again = documents.check_and_add(["b"], [text_of(1)], limit=1)
    assert listed(again.duplicates) == [[("b", 0.0)]], "its own id is named first of all"


def test_limit_and_threshold(documents):
    documents.upsert(range(5), [WORDS + f" {'x ' * i}" for i in range(5)])
    assert [own for own, _ in listed(documents.find(WORDS, limit=2))[0]] == [0, 1]
    assert len(listed(documents.find(WORDS))[0]) == 5
    assert [own for own, _ in listed(documents.find(WORDS, threshold=1.0))[0]] == [0]


def test_sketches_stand_for_texts(documents):
    texts = [text_of(1), text_of(2)]
    sketches = documents.sketch(texts)
    documents.upsert([1, 2], sketches=sketches)
    assert listed(documents.find(texts)) == listed(documents.find(sketches=sketches)) == [[(1, 1.0)], [(2, 1.0)]]
    tokens = MinHash(seed=1).sketch(np.array([0, 3]), np.arange(3, dtype=np.uint64))  # says nothing of shingles
    assert documents.check_and_add([3], sketches=tokens).added.all()


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_sketches_of_fewer_bits(tmp_path, bits):
    with nh.DocumentCollection(tmp_path / "d", threshold=0.9, k=256, bits=bits) as documents:
        assert documents.check_and_add([1, 2, 3], [WORDS, text_of(1), WORDS]).added.tolist() == [True, True, False]
    with nh.DocumentCollection(tmp_path / "d") as documents:
        assert listed(documents.find([WORDS, text_of(1)])) == [[(1, 1.0)], [(2, 1.0)]]
        assert documents.settings()["bits"] == bits


def test_requests_are_carried_out_once(documents, monkeypatch):
    first = documents.upsert([1], [WORDS], request_id="a")
    assert documents.upsert([2], [text_of(2)], request_id="a") == first
    assert len(documents) == 1
    checked = documents.check_and_add([1, "x"], [WORDS, text_of(3)], request_id="b")
    again = documents.check_and_add([1, "x"], [WORDS, text_of(3)], request_id="b")
    assert checked.added.tolist() == again.added.tolist() == [False, True]
    assert listed(checked.duplicates) == listed(again.duplicates) == [[(1, 1.0)], []]
    assert documents.delete([1], request_id="c") == documents.delete([1], request_id="c") == (1, 3)


def test_an_id_is_for_one_kind_of_request(documents):
    documents.upsert([1], [WORDS], request_id="a")
    documents.delete([2], request_id="b")
    for call, message in (
        (lambda: documents.check_and_add([1], [WORDS], request_id="a"), "'a' is that of an earlier upsert"),
        (lambda: documents.upsert([1], [WORDS], request_id="b"), "earlier deletion"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            call()
    results = together(  # one that is refused harms no other of the same commit
        documents,
        lambda: documents.upsert([3], [text_of(3)]),
        lambda: documents.delete([1], request_id="a"),
        lambda: documents.upsert([4], [text_of(4)]),
    )
    assert isinstance(results[1], InvalidArgumentError)
    assert len(documents) == 3


def test_nothing_is_a_valid_batch(documents):
    assert documents.upsert([], []) == (0, 0, 1)
    assert documents.check_and_add([], []).added.shape == (0,)
    assert listed(documents.find([])) == []
    assert listed(documents.find([WORDS])) == [[]]
    assert documents.check_and_add(["a", "b"], ["", ""]).added.tolist() == [True, False]  # empty texts are equal


# --- a model ---


class Model(RuleBasedStateMachine):
    """Against sketches that are compared one by one: with one value a band, every pair that shares any is compared."""

    ids = st.lists(st.sampled_from([0, 1, 2, 3, "a", "b", "c"]), min_size=1, max_size=4, unique=True)
    texts = st.lists(st.integers(0, 11), min_size=4, max_size=4)
    threshold = 0.5

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = tempfile.mkdtemp()
        self.documents = nh.DocumentCollection(
            f"{self.folder}/d", threshold=self.threshold, k=16, bands=16, rows=1, ngram=1
        )
        self.model, self.age = {}, 0

    def sketches(self, count, numbers):
        """Texts of which some are near to others: number n has the words n // 3 * 10 + 0..9, less the last n % 3."""
        texts = [" ".join(f"{n // 3}.{i}" for i in range(10 - n % 3)) for n in numbers[:count]]
        return texts, self.documents.sketch(texts)

    def similar(self, sketch):
        scored = [(-float(sketch.jaccard(other)[0]), age, own) for own, (other, age) in self.model.items()]
        return [(own, -score) for score, _, own in sorted(scored, key=lambda one: one[:2]) if -score >= self.threshold]

    def put(self, own, sketch):
        self.age += 1
        self.model[own] = (sketch, self.age)

    @rule(ids=ids, numbers=texts)
    def upsert(self, ids, numbers):
        texts, sketches = self.sketches(len(ids), numbers)
        replaced = len(set(ids) & self.model.keys())
        assert self.documents.upsert(ids, texts)[:2] == (len(ids), replaced)
        for row, own in enumerate(ids):
            self.put(own, sketches[row : row + 1])

    @rule(ids=ids, numbers=texts)
    def check_and_add(self, ids, numbers):
        texts, sketches = self.sketches(len(ids), numbers)
        before = set(self.model)
        checked = self.documents.check_and_add(ids, texts)
        for row, own in enumerate(ids):
            sketch = sketches[row : row + 1]
            found = listed(checked.duplicates)[row]
            if own in before:
                assert not checked.added[row]
                assert own in [other for other, _ in found]
                continue
            expected = self.similar(sketch)
            assert checked.added[row] == (not expected)
            stored = [one for one in expected if one[0] in before]
            assert found == (stored or expected)
            if not expected:
                self.put(own, sketch)

    @rule(ids=ids)
    def delete(self, ids):
        assert self.documents.delete(ids).deleted == len(set(ids) & self.model.keys())
        for own in ids:
            self.model.pop(own, None)

    @rule()
    def compact(self):
        self.documents.compact()

    @precondition(lambda self: self.model)
    @rule()
    def reopen(self):
        self.documents.close()
        self.documents = nh.DocumentCollection(f"{self.folder}/d")

    @invariant()
    def finds_what_the_model_has(self):
        assert len(self.documents) == len(self.model)
        texts, sketches = self.sketches(4, [0, 4, 8, 11])
        for row, found in enumerate(listed(self.documents.find(texts))):
            assert found == self.similar(sketches[row : row + 1])

    def teardown(self):
        self.documents.close()
        shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def test_of_equal_documents_from_many_threads_one_is_added(documents):
    added, errors, barrier = [], [], threading.Barrier(6)

    def bring(caller):
        try:
            barrier.wait()
            for number in range(40):
                if documents.check_and_add([f"{caller}-{number}"], [text_of(number)]).added[0]:
                    added.append(number)
                assert len(listed(documents.find([text_of(number)]))[0]) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=bring, args=(caller,)) for caller in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(added) == list(range(40))
    assert len(documents) == 40


def together(documents, *calls):
    """What calls return, or raise, that are committed together, in this order."""
    results = [None] * len(calls)

    def run(number, call):
        try:
            results[number] = call()
        except NearhashError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    with documents._commits.writing:
        for number, thread in enumerate(threads):
            thread.start()
            while documents._commits.pending <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    return results


def test_writes_that_are_committed_together_see_each_other(documents):
    documents.upsert(["old", "kept"], [text_of(0), text_of(9)])
    results = together(
        documents,
        lambda: documents.delete(["old"]),
        lambda: documents.check_and_add(["a"], [text_of(0)]),  # "old" is gone already
        lambda: documents.check_and_add(["b"], [text_of(0) + " more"]),  # "a" is there already
        lambda: documents.upsert(["c"], [text_of(0)]),
        lambda: documents.check_and_add(["d"], [text_of(0) + " more"], limit=1),  # "a" and "c" are alike: the older one
        lambda: documents.upsert(["a", "kept"], [text_of(1), text_of(2)]),
        lambda: documents.check_and_add(["e"], [text_of(9)]),
        lambda: documents.delete(["c"]),
    )
    assert documents._store.position.sequence == 9
    checked = [result for result in results if hasattr(result, "added")]
    assert [bool(result.added[0]) for result in checked] == [True, False, False, True]
    assert [[own for own, _ in listed(result.duplicates)[0]] for result in checked] == [[], ["a"], ["a"], []]
    texts = [text_of(number) for number in (0, 1, 2, 9)]
    expected = [[], [("a", 1.0)], [("kept", 1.0)], [("e", 1.0)]]
    assert listed(documents.find(texts)) == expected
    documents.close()
    with nh.DocumentCollection(documents.path) as again:
        assert listed(again.find(texts)) == expected


def test_the_most_similar_of_old_and_new_come_first(documents):
    documents.upsert(["far"], [WORDS + " one two three"])
    results = together(
        documents,
        lambda: documents.upsert(["near"], [WORDS]),
        lambda: documents.check_and_add(["x"], [WORDS], limit=2),
    )
    assert [own for own, _ in listed(results[1].duplicates)[0]] == ["near", "far"]


def test_readers_never_see_half_of_a_replacement(documents):
    documents.upsert(["a"], [WORDS])
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                found = listed(documents.find([WORDS]))
            except BaseException as error:
                seen.append(error)
                return
            if found != [[("a", 1.0)]]:
                seen.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for _ in range(100):
            documents.upsert(["a"], [WORDS])
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for reader in readers:
            reader.join()
    assert not seen


# --- durability ---

CRASHING = """
import json, os, sys
from nearhash.service.engine import failpoints
import nearhash as nh
folder, result = sys.argv[1], {}
with nh.DocumentCollection(folder + "/warm", threshold=.5) as warm:
    warm.check_and_add([1], ["a b c d e f"])
for point in failpoints.COMMIT:
    for third in (1, 3):
        path, (read, write) = f"{folder}/{point}-{third}", os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            with nh.DocumentCollection(path, threshold=.7) as documents:
                documents.upsert(["first"], ["one two three four five six"])
                failpoints.arm(f"{point}@{third}")
                for number in range(9):
                    documents.check_and_add([number], [" ".join(f"{number}-{i}" for i in range(9))])
                    os.write(write, b"%d\\n" % number)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            acknowledged = [int(line) for line in pipe]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with nh.DocumentCollection(path) as documents:
            found = documents.find([" ".join(f"{number}-{i}" for i in range(9)) for number in range(9)])
            result[path.rsplit("/")[-1]] = [status, acknowledged, len(documents), found.ids.tolist()]
print(json.dumps(result))
"""


def test_nothing_acknowledged_is_lost_in_crashes(tmp_path):
    """A process dies at every step of a commit; what it had acknowledged is there, and at most the write it was at."""
    run = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for name, (status, acknowledged, size, found) in json.loads(run.stdout).items():
        point, count = name.rsplit("-", 1)
        done = int(count) - 1
        assert status == failpoints.EXIT_CODE
        assert acknowledged == list(range(done))
        durable = point in ("commit.durable", "commit.published")
        assert found == list(range(done + durable))
        assert size == 1 + done + durable


def test_damage_is_found(tmp_path):
    """A flipped bit, wherever it is, is found on opening, or in nothing that is kept."""
    folder, count = tmp_path / "d", 60
    texts = [text_of(number) for number in range(count)]
    with nh.DocumentCollection(folder, threshold=0.7) as documents:
        documents.upsert(range(count), texts)
    path = folder / document_store.FILE
    intact = path.read_bytes()
    found = 0
    for position in np.random.default_rng(0).integers(0, len(intact), 200).tolist():
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 1 << position % 8]) + intact[position + 1 :])
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            with nh.DocumentCollection(folder) as documents:
                ids = documents.find(texts).ids.tolist()
        except (CorruptCollectionError, VersionError):
            found += 1
        else:
            assert ids == list(range(count))
    assert found > 80


def test_vanished_documents_are_noticed(tmp_path):
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7) as documents:
        documents.upsert(range(3), [text_of(number) for number in range(3)])
        documents._store._writer.execute("DELETE FROM documents WHERE id = 1")
    with pytest.raises(CorruptCollectionError, match="2 documents, expected 3"):
        nh.DocumentCollection(tmp_path / "d")


def test_a_full_disk_refuses_writes_and_loses_nothing(tmp_path):
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7) as documents:
        documents.upsert([1], [text_of(1)])
        (pages,) = documents._store._writer.execute("PRAGMA page_count").fetchone()
        documents._store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StorageError, match="full"):
            documents.upsert(range(2, 100), [text_of(number) for number in range(2, 100)])
        assert documents.state == "disk full"
        assert listed(documents.find([text_of(1), text_of(2)])) == [[(1, 1.0)], []]
        documents._store._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
        assert documents.check_and_add([2], [text_of(2)]).added.all()
        assert documents.state == "ok"
    with nh.DocumentCollection(tmp_path / "d") as documents:
        assert listed(documents.find([text_of(1), text_of(2), text_of(3)])) == [[(1, 1.0)], [(2, 1.0)], []]


@pytest.mark.parametrize(("point", "there"), [("commit.written=io", False), ("commit.durable=io", True)])
def test_after_a_failed_sync_nothing_is_written(tmp_path, point, there):
    events = []
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7) as documents:
        documents.on_event = lambda kind, detail: events.append((kind, detail["collection"]))
        documents.upsert([1], [text_of(1)])
        failpoints.arm(point)
        try:
            with pytest.raises(StorageError, match="I/O"):
                documents.upsert([2], [text_of(2)])
        finally:
            failpoints.arm(None)
        with pytest.raises(StorageError, match="writes have stopped"):
            documents.upsert([3], [text_of(3)])
        assert listed(documents.find([text_of(1)])) == [[(1, 1.0)]]
    assert events == [("stopped", "d")]
    with nh.DocumentCollection(tmp_path / "d") as documents:
        assert listed(documents.find([text_of(1), text_of(2)])) == [[(1, 1.0)], [(2, 1.0)] if there else []]


def test_what_is_on_the_disk_but_not_in_the_index_stops_writes(documents, monkeypatch):
    def failing(stage):
        raise InvalidArgumentError("a mistake of ours")

    with monkeypatch.context() as patched:
        patched.setattr("nearhash.service.engine.document_stage.Stage.publish", failing)
        with pytest.raises(InvalidArgumentError, match="of ours"):
            documents.upsert([1], [text_of(1)])
    with pytest.raises(StorageError, match="writes have stopped"):
        documents.upsert([2], [text_of(2)])


def test_the_log_is_merged_when_it_is_long(tmp_path, monkeypatch):
    monkeypatch.setattr(document_collection, "_LONG_LOG", 1 << 20)
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7) as documents:
        for first in range(0, 5000, 500):
            documents.upsert(range(first, first + 500), [text_of(number) for number in range(first, first + 500)])
            assert documents.stats()["wal_bytes"] < 1 << 20
        documents.delete(range(4990))
        before = documents.stats()["disk_bytes"]
        documents.compact()
        assert documents.stats()["disk_bytes"] < before / 10
        assert len(documents) == 10


# --- errors ---


def test_bad_arguments_change_nothing(documents):
    other = MinHash(k=64, seed=1).sketch_texts([WORDS])
    for call, error, message in (
        (lambda: documents.upsert([1], [WORDS, WORDS]), InvalidArgumentError, "ids: expected 2"),
        (lambda: documents.upsert([1, 1], [WORDS, WORDS]), DuplicateIdError, "distinct"),
        (lambda: documents.upsert([1]), InvalidArgumentError, "expected one of them"),
        (lambda: documents.upsert([1], [WORDS], sketches=other), InvalidArgumentError, "expected one of them"),
        (lambda: documents.upsert([1], sketches=other), SketchMismatchError, "k"),
        (lambda: documents.upsert([1], sketches=other.values), InvalidArgumentError, "Sketches"),
        (lambda: documents.upsert([1], [3]), InvalidArgumentError, "texts: expected str or bytes"),
        (lambda: documents.upsert([-1], [WORDS]), InvalidArgumentError, "ids"),
        (lambda: documents.upsert([1], [WORDS], request_id="x" * 129), InvalidArgumentError, "request_id"),
        (lambda: documents.check_and_add([1], [WORDS], threshold=1.5), InvalidArgumentError, "threshold"),
        (lambda: documents.check_and_add([1], [WORDS], limit=0), InvalidArgumentError, "limit"),
        (lambda: documents.find(), InvalidArgumentError, "expected one of them"),
        (lambda: documents.find(WORDS, limit=10**6), InvalidArgumentError, "limit"),
        (lambda: documents.delete([2.5]), NearhashError, "ids"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert len(documents) == 0
    assert documents.stats()["sequence"] == 0


def test_settings(tmp_path):
    folder = tmp_path / "d"
    with pytest.raises(UnknownCollectionError, match="give its threshold"):
        nh.DocumentCollection(folder)
    for bad in ({"threshold": 2}, {"threshold": 0.5, "method": "affine32"}, {"threshold": 0.5, "k": 0}):
        with pytest.raises(InvalidArgumentError):
            nh.DocumentCollection(folder, **bad)
    assert not folder.exists()
    with nh.DocumentCollection(folder, threshold=0.6, ngram=3, unit="char") as documents:
        assert documents.settings() == documents.settings() | {"threshold": 0.6, "ngram": 3, "unit": "char", "k": 128}
        with pytest.raises(LockedError, match="writes to this collection"):
            nh.DocumentCollection(folder)
    with pytest.raises(InvalidArgumentError, match=r"threshold: the collection in .* has 0\.6, got 0\.7"):
        nh.DocumentCollection(folder, threshold=0.7)
    nh.DocumentCollection(folder, threshold=0.6, k=128).close()
    with pytest.raises(ClosedError):
        documents.find(WORDS)
    connection = sqlite3.connect(folder / document_store.FILE)
    connection.execute(f"PRAGMA user_version = {document_store.FORMAT + 1}")
    connection.close()
    with pytest.raises(VersionError, match="use a newer one"):
        nh.DocumentCollection(folder)


def test_progress_of_opening(tmp_path, monkeypatch):
    monkeypatch.setattr(document_store, "_AT_ONCE", 4)
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7) as documents:
        documents.upsert(range(10), [text_of(number) for number in range(10)])
    seen = []
    with nh.DocumentCollection(tmp_path / "d", progress=lambda done, total: seen.append((done, total))) as documents:
        assert seen == [(4, 10), (8, 10), (10, 10)]
        assert len(documents) == 10


# --- in a database ---


def test_a_database_has_collections_of_documents(tmp_path):
    with Database(tmp_path / "db", most=2) as database:
        made = database.documents.create("texts", False, {"threshold": 0.7})
        made.upsert([1], [WORDS])
        with pytest.raises(CollectionExistsError):
            database.documents.create("texts", False, {"threshold": 0.7})
        assert database.documents.create("texts", True, {"threshold": 0.7}) is made
        with pytest.raises(InvalidArgumentError, match="threshold"):
            database.documents.create("texts", True, {"threshold": 0.8})
        with pytest.raises(InvalidArgumentError, match="settings"):
            database.documents.create("other", False, {"threshold": 0.8, "dim": 3})
        database.documents.create("more", False, {"threshold": 0.7})
        with pytest.raises(InvalidArgumentError, match="max_collections"):
            database.documents.create("most", False, {"threshold": 0.7})
        database.documents.drop("more")
        assert database.names() == []
    with pytest.raises(ClosedError):
        database.documents.create("after", False, {"threshold": 0.7})
    path = tmp_path / "db" / "documents" / "texts" / document_store.FILE
    with Database(tmp_path / "db") as database:
        assert database.documents.names() == ["texts"]
        assert listed(database.documents.get("texts").find(WORDS)) == [[(1, 1.0)]]
        with pytest.raises(UnknownCollectionError):
            database.documents.get("more")
        with pytest.raises(ReadOnlyError):
            _ = Database(tmp_path / "db", read_only=True).documents
    path.write_bytes(b"no database")
    with Database(tmp_path / "db") as database:
        assert list(database.documents.failed()) == ["texts"]
        with pytest.raises(CorruptCollectionError):
            database.documents.get("texts")
        database.documents.drop("texts")
