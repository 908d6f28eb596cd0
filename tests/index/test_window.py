"""WindowIndex beyond what all indexes have in common: levels, segments, labels that change."""

import itertools

import numpy as np
import pytest
from conftest import clustered, exact_distances, recall
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nearhash as nh
from nearhash.errors import InvalidArgumentError, NotTrainedError, UnknownIdError
from nearhash.index.window.levels import lists_of_levels

DIM, COUNT = 16, 6000
FRACTIONS = (0, 1, 2, 3, 4, 5, 6, 8, 10)


@pytest.fixture(scope="module")
def data():
    return clustered(COUNT, 3, DIM), clustered(40, 4, DIM)


def labels_of(kind, base):
    rng = np.random.default_rng(1)
    if kind == "uniform":
        return rng.permutation(len(base)).astype(float)
    if kind == "correlated":
        return base[:, 0].astype(float)
    centres = np.random.default_rng(99).standard_normal((20, DIM)) * 2
    cluster = ((base[:, None] - centres[None]) ** 2).sum(-1).argmin(axis=1)
    return cluster + rng.random(len(base)) if kind == "cluster" else (cluster % 5).astype(float)


@pytest.mark.parametrize("kind", ["uniform", "correlated", "cluster", "ties"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_every_window_has_its_neighbours(data, kind, metric):
    base, queries = data
    labels = labels_of(kind, base)
    index = nh.WindowIndex(DIM, metric)
    index.add(base, labels=labels)
    away, order = exact_distances(base, queries, metric), np.sort(labels)
    rng = np.random.default_rng(5)
    for fraction in FRACTIONS:
        width = max(1, COUNT >> fraction)
        first = rng.integers(0, COUNT - width + 1, len(queries))
        windows = np.stack([order[first], np.append(order, np.inf)[first + width]], axis=1)
        inside = (labels >= windows[:, :1]) & (labels < windows[:, 1:])
        hits = index.search(queries, k=10, window=windows, beam=200)
        matches = inside.sum(axis=1)
        assert (index.count(windows) == matches).all()
        assert ((hits.ids >= 0).sum(axis=1) == np.minimum(10, matches)).all()
        shares = []
        for row in range(len(queries)):
            found = hits.ids[row][hits.ids[row] >= 0]
            assert inside[row][found].all()
            allowed = np.flatnonzero(inside[row])
            truth = allowed[np.argsort(away[row][allowed], kind="stable")[:10]]
            shares.append(len(set(found) & set(truth)) / max(1, len(truth)) if len(truth) else 1.0)
        assert np.mean(shares) > 0.94


def test_open_and_empty_windows(data):
    base, queries = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT) // 3)
    assert index.count((-np.inf, np.inf)) == COUNT
    assert index.count([(5, 5), (0, 1), (-np.inf, 2)]).tolist() == [0, 3, 6]
    for window in ((5, 5), (1e9, np.inf)):
        assert (index.search(queries, window=window).ids == -1).all()
    with pytest.raises(InvalidArgumentError, match="lo <= hi"):
        index.count((7, 3))
    assert (np.sort(index.search(queries, window=(0, 1)).ids[:, :3], axis=1) == [0, 1, 2]).all()
    unlabelled = nh.WindowIndex(DIM)
    unlabelled.add(base)
    assert unlabelled.count((-np.inf, np.inf)) == 0
    assert (unlabelled.search(queries, window=(-np.inf, np.inf)).ids == -1).all()
    truth = np.argsort(exact_distances(base, queries, "l2"), axis=1)[:, :10]
    assert recall(unlabelled.search(queries, beam=200).ids, truth) > 0.95


def test_times_and_large_integers(data):
    base, queries = data
    index = nh.WindowIndex(DIM)
    days = np.datetime64("2020-01-01") + np.arange(100)
    index.add(base[:100], labels=days)
    january = (np.datetime64("2020-01-01"), np.datetime64("2020-02-01"))
    assert index.count(january) == 31
    assert (index.search(queries, k=40, window=january).ids < 31).all()
    later = days[-1].astype("datetime64[ns]") + np.timedelta64(5, "us")
    (own,) = index.add(base[100], labels=[later])
    assert index.search(queries[0], k=1, window=(later, later + np.timedelta64(1, "us"))).ids[0, 0] == own
    for bad in ([np.datetime64("NaT")], [later + np.timedelta64(1, "ns")], [2**53 + 1], ["2020"]):
        with pytest.raises(InvalidArgumentError, match="labels"):
            index.add(base[0], labels=bad)
    large = nh.WindowIndex(DIM)
    large.add(base[:4], labels=np.array([2**53, 2**53 + 2, -(2**60), 7]))
    assert large.count([(2**53, 2**53 + 1), (2**53 + 1, 2**53 + 3), (-(2**63), 0), (0, 2**63 - 1)]).tolist() == [
        1,
        1,
        1,
        3,
    ]


def test_lists_with_too_few(data):
    """One short list is read; what it lacks comes from an exact scan."""
    base, queries = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT))
    for window in (None, (0, 5000)):
        hits = index.search(queries, k=300, beam=1, window=window)
        assert (hits.ids >= 0).all()
        assert (np.diff(hits.distances, axis=1) >= 0).all()


@pytest.mark.parametrize("codec", ["pq4", "rabitq", "lvq8"])
def test_same_bytes_at_any_number_of_threads(data, codec, tmp_path):
    base, queries = data
    files, answers = [], []
    for threads in (1, 2, 5):
        index = nh.WindowIndex(DIM, codec=codec, seed=7, threads=threads)
        for number, part in enumerate(np.array_split(base, 3)):
            index.add(part, labels=np.arange(len(part)) + number / 2)
        index.relabel([3, 5, 8], [-1, -2, -3])
        index.save(tmp_path / "x")
        files.append((tmp_path / "x").read_bytes())
        answers.append(index.search(queries, window=(10, 900), threads=threads).ids.tolist())
    assert files[0] == files[1] == files[2]
    assert answers[0] == answers[1] == answers[2]


def test_levels_and_segments(data):
    """Segments are merged so that each is several times as large as the next one, and learned anew while small."""
    base, _ = data
    index = nh.WindowIndex(DIM)
    for part in np.array_split(np.tile(base, (6, 1)), 24):  # 1,500 at a time
        index.add(part, labels=np.zeros(len(part)))
        facts = index.info()
        sizes = facts["segments"]
        assert sum(sizes) + facts["buffered"] == len(index)
        assert all(one >= 4 * other for one, other in itertools.pairwise(sizes))
    assert facts["levels"][0] == 1
    assert facts["levels"] == sorted(facts["levels"])
    assert lists_of_levels(1) == [1]
    assert lists_of_levels(1_000_000) == [1, 39, 312, 2500]


def test_new_vectors_are_found_at_once(data):
    base, _ = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT))
    for number, vector in enumerate(clustered(30, 9, DIM)):
        (own,) = index.add(vector, labels=[100.5 + number])
        hits = index.search(vector, k=1, window=(100, 200), threads=1)
        assert (hits.ids[0, 0], hits.distances[0, 0]) == (own, 0)
        assert index.search(vector, k=1).ids[0, 0] == own
    assert index.info()["buffered"] == 30


def test_vectors_lie_in_the_order_of_labels(data):
    """Those of the first addition, and all after `retrain`; what belongs to an id goes with it."""
    base, queries = data
    labels = np.random.default_rng(2).permutation(COUNT)
    index = nh.WindowIndex(DIM)
    given = np.arange(COUNT) * 3
    assert np.array_equal(index.add(base, ids=given, labels=labels, attributes={"part": labels % 7}), given)
    assert np.array_equal(index.ids, given[np.argsort(labels)])
    index.add(
        base[:5] + 9, ids=[1, 2, 4, 5, 7], labels=[-1, 2.5, -3, 7.5, COUNT], attributes={"part": np.zeros(5, int)}
    )
    assert index.ids[-5:].tolist() == [1, 2, 4, 5, 7]
    index.remove(given[:10])
    expected = index.search(queries, k=5, window=(100, 300)).ids
    for _ in range(2):
        assert np.array_equal(index.vectors(given[10:60]), base[10:60])
        assert np.array_equal(index.attributes(given[10:60])["part"], labels[10:60] % 7)
        assert (index.search(base[10:60], k=1).ids[:, 0] == given[10:60]).all()
        assert np.array_equal(index.search(queries, k=5, window=(100, 300), beam=300).ids, expected)
        index.retrain()
        assert index.ids[:2].tolist() == [4, 1]
        assert index.ids[-1] == 7


def test_windows_over_lists_and_buffer(data):
    """Wide windows are looked for in lists, what came last is measured: only what is inside, and all that is there."""
    base, _ = data
    index = nh.WindowIndex(DIM)
    labels = np.random.default_rng(0).permutation(COUNT)
    for part in (slice(0, 3000), slice(3000, COUNT)):
        index.add(base[part], labels=labels[part])
    new = clustered(60, 11, DIM) + 30
    for first in (0, 20, 40):
        ids = index.add(new[first : first + 20], labels=COUNT + np.arange(first, first + 20))
        hits = index.search(new, k=1, window=(0, COUNT + first + 10))
        assert hits.ids[first : first + 10, 0].tolist() == ids[:10].tolist()
        assert not np.isin(ids[10:], hits.ids).any()
        if first == 20:
            index.remove(np.arange(50))
            index.compact()
    index.retrain()
    hits = index.search(base[:200], k=10, window=(2000, COUNT))
    assert (labels[hits.ids] >= 2000).all()
    assert (index.search(new[:5], k=1).distances[:, 0] == 0).all()


def test_a_batch_of_all_kinds_of_windows(data):
    base, queries = data
    labels = np.random.default_rng(1).permutation(COUNT)
    index = nh.WindowIndex(DIM)
    index.add(base, labels=labels)
    widths = np.array([1, 50, 400, 2000, COUNT])[np.arange(len(queries)) % 5]
    windows = np.stack([np.zeros(len(queries)), widths], axis=1)
    whole = index.search(queries, k=10, window=windows)
    for row in range(len(queries)):
        single = index.search(queries[row], k=10, window=windows[row])
        assert np.array_equal(single.ids, whole.ids[row : row + 1])
    assert (
        len(np.unique(index._plan(index._expected(index._filter(len(queries), windows, None, None)), 10, 64).models))
        > 1
    )


def test_what_no_list_nearby_holds_is_found(data):
    """Only vectors of another cluster pass: the lists that are read hold none of them."""
    rng = np.random.default_rng(0)
    far = np.repeat([0.0, 50.0], [4000, 2000])[:, None]
    base = (rng.standard_normal((6000, DIM)) + far).astype(np.float32)
    index = nh.WindowIndex(DIM)
    index.add(base, labels=rng.permutation(6000), attributes={"part": far[:, 0].astype(int)})
    hits = index.search(base[:20], k=10, window=(0, 5500), where=nh.where.eq("part", 50))
    assert (hits.ids >= 4000).all()


def test_relabel(data, tmp_path):
    base, queries = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT), attributes={"part": np.arange(COUNT) % 3})
    index.relabel([7, 9], [-5, -6])
    assert len(index) == COUNT
    assert index.count([(-10, 0), (7, 8), (0, COUNT)]).tolist() == [2, 0, COUNT - 2]
    index.save(tmp_path / "x")
    for one in (index, nh.load(tmp_path / "x")):
        assert set(one.search(queries[0], k=5, window=(-10, 0)).ids[0]) == {7, 9, -1}
        assert one.attributes([7, 9])["part"].tolist() == [1, 0]
        assert np.array_equal(one.vectors([9]), base[9:10])
    for ids, labels, error in (
        ([COUNT], [1], UnknownIdError), ([1, 2], [1], InvalidArgumentError), ([1], [np.nan], InvalidArgumentError)
    ):  # fmt: skip
        with pytest.raises(error):
            index.relabel(ids, labels)
    assert index.count((0, COUNT)) == COUNT - 2
    index.relabel([], [])


def test_predicates_masks_and_windows_together(data):
    base, queries = data
    index = nh.WindowIndex(DIM)
    index.add(base, labels=np.arange(COUNT), attributes={"part": np.arange(COUNT) % 7})
    index.add(base[:50] + 0.01, labels=np.arange(50), attributes={"part": np.full(50, 3)})
    every = np.concatenate([base, base[:50] + 0.01])
    labels, part = (
        np.concatenate([np.arange(COUNT), np.arange(50)]),
        np.concatenate([np.arange(COUNT) % 7, np.full(50, 3)]),
    )
    allow = np.arange(0, COUNT + 50, 2)
    wanted = (labels < 3000) & (part == 3) & (np.arange(COUNT + 50) % 2 == 0)
    hits = index.search(queries, window=(0, 3000), allow=allow, where=nh.where.eq("part", 3), beam=200)
    matches = np.flatnonzero(wanted)
    truth = matches[np.argsort(exact_distances(every[matches], queries, "l2"), axis=1)[:, :10]]
    assert np.isin(hits.ids, matches).all()
    assert recall(hits.ids, truth) > 0.95


def test_tune_and_bad_arguments(data):
    base, queries = data
    index = nh.WindowIndex(DIM)
    with pytest.raises(NotTrainedError):
        index.retrain()
    index.add(base, labels=np.arange(COUNT))
    tuning = index.tune(queries, recall=0.8)
    assert set(tuning.chosen.effort) == {"beam"}
    index.search(queries, recall=0.8)
    index.retrain()
    assert index.info()["segments"] == [COUNT]
    for arguments in ({"codec": "x"}, {"store": "f64"}, {"seed": -1}, {"metric": "hamming"}):
        with pytest.raises(InvalidArgumentError):
            nh.WindowIndex(DIM, **arguments)
    with pytest.raises(InvalidArgumentError, match="window"):
        index.count((1, 2, 3))
    with pytest.raises(InvalidArgumentError, match="beam"):
        index.search(queries, beam=0)


class Life(RuleBasedStateMachine):
    """Additions, removals, other labels, compaction, saving: every window has exactly what a plain table says."""

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("nearhash.index.window.index.BUFFER_BYTES", 0)  # segments of 64 vectors and more
        self.index = nh.WindowIndex(4, seed=seed)
        self.labels = {}
        self.rng = np.random.default_rng(seed)

    @rule(count=st.sampled_from([1, 3, 40, 700, 1100]))
    def add(self, count):
        labels = self.rng.integers(0, 50, count).astype(float)
        ids = self.index.add(self.rng.standard_normal((count, 4)), labels=labels)
        self.labels.update(zip(ids.tolist(), labels.tolist(), strict=True))

    @precondition(lambda self: self.labels)
    @rule(share=st.floats(0, 0.6))
    def remove(self, share):
        gone = self.rng.permutation(list(self.labels))[: int(share * len(self.labels))]
        self.index.remove(gone)
        for one in gone.tolist():
            del self.labels[one]

    @precondition(lambda self: self.labels)
    @rule(share=st.floats(0, 0.3))
    def relabel(self, share):
        chosen = self.rng.permutation(list(self.labels))[: int(share * len(self.labels))]
        labels = self.rng.integers(0, 50, len(chosen)).astype(float)
        self.index.relabel(chosen, labels)
        self.labels.update(zip(chosen.tolist(), labels.tolist(), strict=True))

    @rule()
    def compact(self):
        self.index.compact()

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()

    @invariant()
    def every_window_is_whole(self):
        if not hasattr(self, "index"):
            return
        own = np.array(list(self.labels.values()))
        windows = np.array([(0, 50), (10, 12), (7, 7), (-np.inf, 25), (30, np.inf)], float)
        matches = [int(((own >= low) & (own < high)).sum()) for low, high in windows]
        assert self.index.count(windows).tolist() == matches
        hits = self.index.search(np.zeros((5, 4)), k=20, window=windows, threads=1)
        assert ((hits.ids >= 0).sum(axis=1) == np.minimum(20, matches)).all()
        for row, (low, high) in enumerate(windows):
            assert all(low <= self.labels[one] < high for one in hits.ids[row].tolist() if one >= 0)


Life.TestCase.settings = settings(
    max_examples=12, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
