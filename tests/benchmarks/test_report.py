"""The page of results from fixed documents, and the files that a run writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.families import families, fastest
from benchmarks.record import read_document, rounded, write_document
from benchmarks.report import main, report, summary
from benchmarks.run import parse, write_results
from benchmarks.tables import family_table, figure, speed_table

MACHINE = {
    "cpu": "Some Processor",
    "architecture": "x86_64",
    "features": ["avx2"],
    "cores": 2,
    "l2_bytes": 1 << 20,
    "l3_bytes": 32 << 20,
    "memory_gib": 8.0,
    "system": "Linux",
    "python": "3.11.0",
    "versions": {"numpy": "2.0.0"},
}


def index(name: str, qps: float, ratio: float | None, family: str = "") -> dict[str, Any]:
    entry = {
        "recall": 0.9,
        "reached": {"effort": {"beam": 20}, "recall": 0.91, "qps": qps},
        "interpolated_qps": qps * 1.01,
        "ratio": ratio,
        "ratio_range": None if ratio is None else [ratio * 0.9, ratio * 1.1],
        "latency": {"effort": {"beam": 20}, "calls": 1000, "p50_us": 50.0, "p99_us": 200.0},
    }
    missed = {
        "recall": 0.99,
        "reached": None,
        "interpolated_qps": None,
        "ratio": None,
        "ratio_range": None,
        "latency": None,
    }
    return {
        "name": name,
        "family": family or name,
        "version": "1.0",
        "parameters": {"M": 16},
        "reference": "https://example.org/guide",
        "build_seconds": 12.3,
        "index_bytes": 1 << 20,
        "resident_bytes": None,
        "points": [
            {"effort": {"beam": 10}, "recall": 0.85, "qps": 2 * qps, "rounds": [2 * qps]},
            {"effort": {"beam": 20}, "recall": 0.91, "qps": qps, "rounds": [qps]},
        ],
        "targets": [entry, missed],
    }


def dataset_document() -> dict[str, Any]:
    return {
        "kind": "dataset",
        "date": "2024-01-02",
        "machine": MACHINE,
        "dataset": {"name": "tiny", "base": [1000, 8], "queries": 10, "metric": "l2"},
        "settings": {"k": 10, "targets": [0.9, 0.99], "rounds": 1, "build_threads": 2, "search_threads": 1},
        "subject": "ours",
        "indexes": [index("ours", 12345.6, 1.0), index("theirs", 6000.0, 2.06)],
        "skipped": {"absent": "absent is not installed"},
    }


def flat_document() -> dict[str, Any]:
    search = {
        "version": "1",
        "threads": 1,
        "batch_seconds": 0.5,
        "batch_ratio": 1.5,
        "batch_ratio_range": [1.4, 1.6],
        "single_seconds": 0.01,
        "single_ratio": 1.1,
        "bandwidth_share": {"base": 0.81, "beyond caches": 0.9},
    }
    return {
        "kind": "flat",
        "date": "2024-01-02",
        "machine": MACHINE,
        "dataset": {"name": "normal", "base": [300000, 100], "queries": 1000, "metric": "l2"},
        "settings": {"k": 10, "rounds": 3, "singles": 5},
        "agreement": 0.9999,
        "searches": [{"name": "nearhash-flat", **search}],
        "memory": [{"array": "base", "bytes": 1 << 27, "threads": 2, "bytes_per_second": 2e10}],
    }


def startup_document() -> dict[str, Any]:
    return {
        "kind": "startup",
        "date": "2024-01-02",
        "machine": MACHINE,
        "settings": {"repeats": 3, "index": [19000, 100], "built": 1000},
        "warm_seconds": {"interpreter": 0.01, "import": 0.02, "load_and_answer": 0.6, "build_and_answer": 0.7},
        "cold": {
            "load_and_answer": {"seconds": 4.0, "said": "compiling"},
            "build_and_answer": {"seconds": 8.0, "said": "compiling"},
        },
        "imported": [],
    }


def test_the_page_quotes_the_documents() -> None:
    page = report([flat_document(), dataset_document(), startup_document()], "../benchmarks/results")
    for text in (
        "| **ours** | 12,500 | – |",
        "| theirs | 6,060 (2.06x, 1.85–2.27) | – |",
        "| ours | 12,300 at 0.9100 (beam 20) | – |",
        "| theirs | 50, 200 | – |",
        "| theirs | 1.0 | 12.3 | 1 | 1,050 | – |",
        "| theirs | M 16 | <https://example.org/guide> |",
        "![recall against queries per second](../benchmarks/results/tiny.png)",
        "- absent was left out: absent is not installed.",
        "| nearhash-flat, 1 thread | 500 | 1.50x | 10 | 1.10x | 81% | 90% |",
        "| base, 2 threads | 128 | 20 |",
        "| build a graph of 1,000 and answer one query | 0.7 | 8 |",
        "Some Processor (avx2), 2 cores, L3 32 MiB",
    ):
        assert text in page
    assert page.index("## tiny") < page.index("## Exact search") < page.index("## Start of a process")


def test_the_fastest_of_a_family_stands_for_it() -> None:
    document = dataset_document()
    assert family_table(document) == ""
    document["indexes"] += [index("theirs-2", 8000.0, 1.54, family="theirs")]
    assert "| theirs | theirs-2, 8,080 (1.54x, 1.39–1.69) | – |" in family_table(document)
    assert list(families(document)) == ["ours", "theirs"]
    assert fastest(families(document)["theirs"], 0.99) is None
    document["dataset"]["name"] = "glove-100"
    document["indexes"][-1]["build_seconds"] = 45.6
    document["settings"]["targets"] = [0.9, 0.95, 0.99]
    assert "| theirs | 8,080 | – | – | 45.6 |" in summary([document])


def test_the_subject_has_no_ratio_to_itself() -> None:
    assert "x" not in speed_table(dataset_document()).splitlines()[2]


def test_report_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = tmp_path / "results", tmp_path / "docs" / "benchmarks.md"
    arguments = ["--results", str(results), "--output", str(page)]
    write_document(results / "tiny.json", dataset_document())
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert "(../results/tiny.png)" in page.read_text(encoding="utf-8")
    assert main([*arguments, "--check"]) == 0
    page.write_text("something else", encoding="utf-8")
    assert main([*arguments, "--check"]) == 1
    assert "python -m benchmarks.report" in capsys.readouterr().err


def test_a_run_writes_json_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write_results(dataset_document(), tmp_path)
    assert read_document(tmp_path / "tiny.json")["subject"] == "ours"
    assert (tmp_path / "tiny.md").read_text(encoding="utf-8").startswith("# tiny\n")
    image = (tmp_path / "tiny.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) < 200_000
    assert "theirs" in capsys.readouterr().out


def test_documents_of_another_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="expected format 1, got 0"):
        read_document(path)


def test_rounding_and_figures() -> None:
    assert rounded({"a": [1.23456789, 12], "b": None}) == {"a": [1.2346, 12], "b": None}
    figures = [figure(value) for value in (None, 0, 0.01234, 5.0, 99.96, 123.4, 123456.0)]
    assert figures == ["–", "0", "0.0123", "5", "100", "123", "123,000"]


@pytest.mark.parametrize(
    "arguments",
    [["--flat", "--startup"], ["glove-20k", "--flat"], ["glove-20k", "--peers", "nobody"], ["x", "--rounds", "0"]],
)
def test_impossible_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)


def test_without_arguments_the_bundled_slice_is_measured() -> None:
    options = parse([])
    assert options.dataset == ["glove-20k"]
    assert options.subject == "nearhash-ivf"
    assert parse(["--flat"]).dataset == []
