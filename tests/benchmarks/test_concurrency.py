"""The benchmark of concurrency: a short run of it, and that it notices what is wrong."""

import pytest

import nearhash as nh
from benchmarks import concurrency
from benchmarks.record import read_document


def test_writers_readers_and_compaction_at_once(tmp_path):
    result = tmp_path / "concurrency.json"
    assert concurrency.main(["--seconds", "2.5", "--indexes", "window", "ivf", "--result", str(result)]) == 0
    for run in read_document(result)["runs"]:
        counts = run["counts"]
        assert all(counts[kind] > 0 for kind in ("upserts", "deletes", "searches", "gets", "counts", "scrolls"))
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
