"""The benchmark of codecs: its table, and the page that quotes it."""

import numpy as np
import pytest

from benchmarks import codecs
from benchmarks.record import read_document
from benchmarks.report import RESULTS


def test_the_page_holds_what_the_script_wrote():
    page = codecs.PAGE.read_text(encoding="utf-8")
    assert codecs.with_figures(page, read_document(RESULTS / "codecs.json")) == page


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match=r"docs/codecs\.md"):
        codecs.with_figures("nothing here", {})


def test_recall_counts_what_was_found():
    truth = np.array([[1, 2], [3, 4]])
    assert codecs._recall(np.array([[2, 9], [3, 4]]), truth) == 0.75
    assert codecs._recall(np.array([[2, 9, 1], [3, 4, 0]]), truth) == 1.0


def test_measure_of_the_exact_codec():
    rng = np.random.default_rng(0)
    base, queries = (rng.standard_normal((count, 8)).astype(np.float32) for count in (50, 3))
    products = queries.astype(np.float64) @ base.T.astype(np.float64)
    truth = np.argsort(-products, axis=1)[:, : codecs.K]
    entry = codecs._measure("f32", base, queries, products, truth, rounds=1)
    assert (entry["recall"], entry["relative_error"], entry["bytes"]) == (1.0, 0.0, 64)
    assert entry["product_error"] < 1e-6
    worse = codecs._measure("rabitq1", base, queries, products, truth, rounds=1)
    assert worse["relative_error"] > 0.2
    assert worse["recall"] < 1
