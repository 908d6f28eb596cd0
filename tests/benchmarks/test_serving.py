"""The benchmark of the service on the bundled word vectors."""

import pytest

from benchmarks import serving
from benchmarks.record import read_document
from nearhash.service.load import OK


@pytest.fixture(scope="module")
def folder(tmp_path_factory, monkeypatch_module):
    folder = tmp_path_factory.mktemp("serving")
    arguments = ["glove-20k", "--queries", "200", "--rounds", "1", "--seconds", "0.3", "--overload-seconds", "1"]
    assert serving.main([*arguments, "--remote-points", "3000", "--results", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "load", lambda name: _some(serving_load(name)))
        yield patch


serving_load = serving.load


def _some(dataset):
    """4,000 of the words: graphs are built in a second."""
    from dataclasses import replace

    return replace(dataset, base=dataset.base[:4000], labels=None)


def test_what_is_measured(folder):
    document = read_document(folder / "serving.json")
    assert [one["index"] for one in document["batches"]] == ["ivf", "graph"]
    for one in document["batches"]:
        assert one["effort"]["recall"] >= serving.TARGET
        assert one["ratio"] == pytest.approx(one["rounds"]["grpc"][0] / one["rounds"]["embedded"][0], rel=1e-3)
    assert [one["in_flight"] for one in document["single"]["closed"]] == [8, 16, 32, 64]
    half = document["single"]["half"]
    best = max(one["per_second"] for one in document["single"]["closed"])
    assert half["rate"] == pytest.approx(best / 2, rel=1e-3)
    overload = document["overload"]
    assert overload["written"] == overload["written_there"] > 0
    assert overload["memory_most"] >= overload["memory_before"] > 1 << 20
    for one in overload["kinds"].values():
        assert one["requests"] == sum(one["codes"].values())
        assert one["answered"] == one["codes"].get(OK, 0)
        assert one["told_when_to_come_again"] == one["refused"]
    assert document["inserted"]["grpc_points"] == 3000
    assert set(document["reopen"]["embedded_seconds"]) == {"ivf", "graph"}


def test_page(folder):
    page = serving.serving_part(read_document(folder / "serving.json"))
    assert (folder / "serving.md").read_text() == page
    assert page.startswith("## The service")
    assert all(word in page for word in ("open loop", "Overload", "points per second embedded", "4,000 vectors"))
