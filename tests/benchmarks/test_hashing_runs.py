"""The benchmarks of hashing on the bundled word vectors: small runs have their pages, and the README its rows."""

import pytest

from benchmarks import lsh, sampling, simhash
from benchmarks.highlights import hashing_table
from benchmarks.record import RESULTS, read_document
from benchmarks.sketches import _accented


def test_simhash():
    page = simhash.simhash_part(simhash.run_simhash("glove-20k", 300, 1))
    assert "nearhash hadamard" in page
    assert "1.00x" in page


def test_sampling(monkeypatch):
    monkeypatch.setattr(sampling, "BANDWIDTHS", {"gaussian": (1.0,)})
    document = sampling.run_sampling("glove-20k", 300, 2)
    assert document["cases"][0]["error"] < 1
    assert "gaussian, 1 |" in sampling.sampling_part(document)


def test_lsh(monkeypatch):
    monkeypatch.setattr(lsh, "TABLES", (4,))
    monkeypatch.setattr(lsh, "LAST_DIMS", (16,))
    monkeypatch.setattr(lsh, "SLOW_QUERIES", 20)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # without FALCONN
    page = lsh.lsh_part(lsh.run_lsh("glove-20k", 1))
    assert "FALCONN is not installed" in page
    assert "nearhash LSHIndex | 4 | 16 |" in page


def test_rows_of_the_readme():
    kinds = ("sketches", "banding", "dedup-scale", "hamming", "simhash", "lsh")
    table = hashing_table([read_document(RESULTS / f"{kind}.json") for kind in kinds])
    assert table.count("\n") >= 2 + len(kinds)
    assert "rho" not in table
    assert hashing_table([]) == ""


def test_accents():
    assert _accented("") == ""
    assert _accented("e" * 21) == "é" + "e" * 19 + "é"


@pytest.mark.parametrize("name", ["sketches", "lsh", "simhash", "sampling"])
def test_pages_of_results_are_current(name):
    module = __import__(f"benchmarks.{name}", fromlist=["x"])
    page = getattr(module, f"{name}_table")(read_document(RESULTS / f"{name}.json"))
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8").endswith(page)
