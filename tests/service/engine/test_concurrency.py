"""Reads while others write: what the benchmark of concurrency looks for, and the defects that it has found."""

import numpy as np
import pytest

import nearhash as nh
from benchmarks import concurrency
from benchmarks.record import read_document
from nearhash.service.engine import collection as module

UNIT = np.eye(4, dtype=np.float32)


def fill(collection):
    collection.upsert(range(4), UNIT, payloads=[{"n": own} for own in range(4)])


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen once, when a search has found its points and not yet looked up what belongs to them."""

    def arrange(action):
        search = module.search_views

        def search_and_act(*arguments):
            found = search(*arguments)
            monkeypatch.setattr(module, "search_views", search)
            action()
            return found

        monkeypatch.setattr(module, "search_views", search_and_act)

    return arrange


def test_writers_readers_and_compaction_at_once(tmp_path):
    result = tmp_path / "concurrency.json"
    assert concurrency.main(["--seconds", "2.5", "--indexes", "window", "ivf", "--result", str(result)]) == 0
    for run in read_document(result)["runs"]:
        counts = run["counts"]
        assert all(counts[kind] > 3 for kind in ("upserts", "deletes", "searches", "gets", "counts", "scrolls"))
        assert counts["compactions"] + run["merges"] > 0


def forgetful_delete(delete):
    def some(self, ids, **more):
        there = sum(point is not None for point in self.get(ids))
        return delete(self, ids[:-1], **more)._replace(deleted=there)

    return some


def late_views(current):
    def views(self):
        earlier = getattr(self, "earlier", None)
        self.earlier = current(self)
        return self.earlier if earlier is None else earlier

    return views


@pytest.mark.parametrize(
    ("method", "spoil", "complaint"),
    [("delete", forgetful_delete, "there after"), ("_current", late_views, "no state after|missing|among at least")],
)
def test_the_benchmark_notices_what_is_wrong(tmp_path, monkeypatch, method, spoil, complaint):
    """A deletion that is not carried out; reads that lag behind by one read, of which only readers are asked."""
    monkeypatch.setattr(nh.Collection, method, spoil(getattr(nh.Collection, method)))
    if method == "_current":
        for check in ("_check_written", "_check_gone"):
            monkeypatch.setattr(concurrency.Trial, check, lambda *arguments: None)
    with pytest.raises(concurrency.Wrong, match=complaint):
        concurrency.run_trial("ivf", 20, seed=1)


@pytest.mark.parametrize("wanted", ["payloads", "vectors"])
def test_what_was_found_may_be_deleted_and_compacted_away_before_it_is_looked_up(tmp_path, meanwhile, wanted):
    with nh.Collection(tmp_path / "points", dim=4, metric="l2") as collection:
        fill(collection)

        def remove():
            collection.delete([0])
            collection.compact()

        meanwhile(remove)
        found = collection.search(UNIT[0], k=2, **{wanted: True})
        assert found.ids.tolist() == [[1, 2]]
        if wanted == "payloads":
            assert found.payloads == [[{"n": 1}, {"n": 2}]]
        else:
            assert np.array_equal(found.vectors[0], UNIT[1:3])


def test_a_filter_may_meet_points_that_have_left_the_store(tmp_path, meanwhile):
    """The payloads of a segment are read when the first filter asks for them."""
    with nh.Collection(tmp_path / "points", dim=4, metric="l2") as collection:
        fill(collection)
        collection.seal()
        views = collection._views
        collection.delete([0])
        collection.compact()
        assert collection._views is not views
        collection._views, present = views, collection._views
        current = iter([views, present, present])
        collection._current = lambda: next(current)
        assert collection.search(UNIT[0], k=2, filter={"range": ["n", 0, 2]}).ids.tolist() == [[1, -1]]
        del collection._current
        collection._views = present


def test_scroll_with_a_filter_reads_the_payloads_of_segments(tmp_path):
    with nh.Collection(tmp_path / "points", dim=4) as collection:
        fill(collection)
        collection.seal()
    with nh.Collection(tmp_path / "points") as collection:
        (page,) = collection.scroll({"eq": ["n", 2]})
        assert [point.id for point in page.points] == [2]


def test_a_follower_scrolls_over_one_moment(tmp_path, monkeypatch):
    """Though the writer goes on between its look at the store and its read transaction."""
    with (
        nh.Collection(tmp_path / "points", dim=4) as collection,
        nh.Collection(tmp_path / "points", read_only=True) as follower,
    ):
        fill(collection)
        refresh, pending = follower._refresh, [lambda: collection.delete([0]), lambda: fill(collection)]

        def refresh_and_write():
            refresh()
            if pending:
                pending.pop()()

        monkeypatch.setattr(follower, "_refresh", refresh_and_write)
        pages = list(follower.scroll({"range": ["n", 0, 4]}))
        assert [point.id for page in pages for point in page.points] == [1, 2, 3]
