"""Reads while others write, at the moments at which the benchmark of concurrency has found defects."""

import threading

import numpy as np
import pytest

import nearhash as nh
from nearhash.service.engine import collection as module
from nearhash.service.engine import maintenance

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
        collection.upsert([0], UNIT[0], payloads=[{"n": 0}])
        collection.compact()
        assert collection._views is not views
        collection._views, present = views, collection._views
        current = iter([views, present, present])
        collection._current = lambda: next(current)
        assert collection.search(UNIT[0], k=2, filter={"range": ["n", 0, 2]}).ids.tolist() == [[0, 1]]
        del collection._current
        collection._views = present


def test_points_may_have_left_the_store_while_the_views_still_show_them(tmp_path, monkeypatch):
    """Between the moment when a compaction is on the disk and the one when searches see it."""
    with nh.Collection(tmp_path / "points", dim=4, metric="l2") as collection:
        fill(collection)
        collection.seal()
        collection.delete([0])
        durable, answers = threading.Event(), []

        def search():
            durable.wait()
            answers.append(collection.search(UNIT[0], k=2, filter={"range": ["n", 0, 3]}).ids.tolist())

        def hold(step):
            if step == "seal.durable":
                durable.set()
                thread.join(0.3)

        thread = threading.Thread(target=search)
        thread.start()
        monkeypatch.setattr(maintenance, "reach", hold)
        collection.compact()
        thread.join()
        assert answers == [[[1, 2]]]


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
