"""The benchmark of windows on some of the bundled word vectors: what it measures, its page, its figure."""

import numpy as np
import pytest

from benchmarks import windows
from benchmarks.highlights import window_table
from benchmarks.record import RESULTS, read_document
from benchmarks.window_report import windows_part, windows_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("faiss")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("windows")
    arguments = ["glove-20k", "--limit", "4000", "--queries", "30", "--rounds", "1", "--fractions", "0,2,7"]
    arguments += ["--methods", "prefilter,three-split", "--results", str(folder)]
    windows.main([*arguments, "--labels", "uniform", "--bound", "--churn"])
    windows.main([*arguments, "--labels", "cluster"])
    return folder


def test_what_is_measured(folder):
    document = read_document(folder / "windows-glove-20k.json")
    assert [entry["kind"] for entry in document["labels"]] == ["uniform", "cluster"]
    for entry in document["labels"]:
        names = [one["name"] for one in entry["contestants"]]
        assert names[0] == "nearhash WindowIndex"
        assert names[-2:] == ["paper: prefilter", "paper: three-split"]
        assert [case["fraction"] for case in entry["cases"]] == [0, 2, 7, None]
        for case in entry["cases"]:
            own = case["found"][0]
            assert own["recall"] >= windows.TARGET
            assert own["short"] == 0
            for name, one in zip(names, case["found"], strict=True):
                assert not name.startswith("paper") or one["short"] == 0
                assert name not in ("exact slice, BLAS", "paper: prefilter") or one["recall"] == 1
    bounds = [case["bound"]["windows"] for case in document["labels"][0]["cases"] if "bound" in case]
    assert bounds == [1, 4]
    churn = document["churn"]
    assert churn["found"] == churn["inserted"]
    assert all(case["changed"]["recall"] > case["fresh"]["recall"] - 0.1 for case in churn["cases"])


def test_page_and_figure(folder):
    page = windows_part(read_document(folder / "windows-glove-20k.json"), "results")
    assert "(results/windows-glove-20k-cluster.png)" in page
    assert "| mix of all |" in page
    assert "after changes" in page
    for kind in ("uniform", "cluster"):
        assert (folder / f"windows-glove-20k-{kind}.png").stat().st_size > 10_000


def test_rows_of_the_readme(folder):
    document = read_document(folder / "windows-glove-20k.json")
    table = window_table([{"kind": "lsh"}, document])
    assert table.count("\n") == 2 + 2  # 2^0 and the mix
    assert "paper: prefilter" in table
    assert "**" in table.splitlines()[2]
    assert window_table([]) == ""


@pytest.mark.parametrize("kind", windows.LABELS)
def test_labels_are_ranks(kind):
    pytest.importorskip("faiss")
    base = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
    assert (np.sort(windows.rank_labels(kind, base)) == np.arange(700)).all()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("windows-*.json")), ids=lambda path: path.stem)
def test_pages_of_results_are_current(path):
    document = read_document(path)
    assert path.with_suffix(".md").read_text(encoding="utf-8").endswith(windows_table(document, "."))
    for entry in document["labels"]:
        assert path.with_name(f"{path.stem}-{entry['kind']}.png").is_file()
