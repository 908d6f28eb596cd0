"""The demonstration, whole."""

from typing import Any

import pytest

from nearhash.command_line import demo
from nearhash.command_line.demo_report import print_report

from .conftest import Run


@pytest.fixture(scope="module")
def document(run_json: Run) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "MEASURED_SECONDS", 0.05)
        return run_json("demo")


def test_demo_finds_the_neighbours(document: dict[str, Any]) -> None:
    assert document["words"] == document["index"]["size"] == 20_000
    assert document["recall_at_10"] >= 0.9
    assert [answer["word"] for answer in document["answers"]] == list(demo.ASKED)
    for answer in document["answers"]:
        for column in ("neighbours", "neighbours_in_window"):
            assert len(answer[column]) == demo.NEIGHBOURS
            assert answer["word"] not in [neighbour["word"] for neighbour in answer[column]]
        assert all(neighbour["rank"] < 3000 for neighbour in answer["neighbours_in_window"])
    assert "snake" in [neighbour["word"] for neighbour in document["answers"][0]["neighbours"]]


def test_demo_measures(document: dict[str, Any]) -> None:
    assert document["bytes_per_vector"] == document["file_bytes"] / 20_000
    assert all(rate > 0 for rate in document["queries_per_second"].values())


def test_demo_report_fits_a_narrow_screen(document: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_report(document)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert f"{document['recall_at_10']:.3f}" in text
    for answer in document["answers"]:
        assert answer["word"] in text
    assert "…" not in text
