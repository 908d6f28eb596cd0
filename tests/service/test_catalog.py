"""The catalog of a server while collections come and go."""

import threading

import pytest

from nearhash.errors import UnknownCollectionError
from nearhash.service.catalog import Catalog
from nearhash.service.engine.database import Database


def test_a_collection_that_is_being_dropped_is_gone_and_does_not_come_back(tmp_path, monkeypatch):
    with Database(tmp_path) as database:
        catalog = Catalog("default", database=database)
        catalog.create("a", False, {"dim": 2})
        catalog.create("b", False, {"dim": 2})
        entered, go_on = threading.Event(), threading.Event()
        drop = database.drop

        def slow(name):
            entered.set()
            assert go_on.wait(20)
            drop(name)

        monkeypatch.setattr(database, "drop", slow)
        thread = threading.Thread(target=catalog.drop, args=("a",))
        thread.start()
        assert entered.wait(20)
        for _ in range(2):
            assert catalog.names() == ["b"]
            assert catalog.known("a") is None
            for call in (catalog.find, catalog.drop):
                with pytest.raises(UnknownCollectionError):
                    call("a")
        go_on.set()
        thread.join()
        assert catalog.known("a") is None
        assert len(catalog.create("a", False, {"dim": 3})) == 0
        assert catalog.find("a").dim == 3
        assert catalog.names() == ["a", "b"]
