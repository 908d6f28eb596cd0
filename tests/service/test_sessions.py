"""Sessions without a server: leases on a clock of our own, quotas, owners, and appends that come twice."""

import threading

import numpy as np
import pytest

from nearhash.attention import KVStore
from nearhash.errors import (
    DimensionError,
    InvalidArgumentError,
    MemoryLimitError,
    ServiceError,
    UnknownSessionError,
)
from nearhash.service.config import Limits
from nearhash.service.sessions.registry import Sessions
from nearhash.service.sessions.session import SessionSettings

HEADS, DIM = 2, 16
SETTINGS = SessionSettings(3, HEADS, DIM)
PAGE_BYTES = 256 * HEADS * DIM * 2 * 4


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(clock):
    """Sessions with some limits, which are closed after the test."""
    made = []

    def make(**limits):
        made.append(Sessions(Limits(**limits), clock=clock))
        return made[-1]

    yield make
    for sessions in made:
        sessions.close()
        assert sessions.facts().held_bytes == 0


@pytest.fixture
def sessions(make):
    return make()


def tokens(count, seed=0, heads=HEADS):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((heads, count, DIM)).astype(np.float32) for _ in range(2)]


def parts(arrays, first, last):
    return [array[:, first:last] for array in arrays]


def kept(session, layer):
    """Everything that a layer holds."""
    store = session.store(layer)
    return [store.read(head, np.arange(len(store))) for head in range(HEADS)]


def same(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# --- appends ---


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_an_append_that_came_already_changes_nothing(sessions, dtype):
    session = sessions.create("me", SETTINGS._replace(dtype=dtype)).session
    given = tokens(300)
    assert session.append(1, 0, *parts(given, 0, 200)) == 200
    assert session.append(1, 200, *parts(given, 200, 300)) == 300
    before = kept(session, 1)
    for first, last in ((0, 200), (200, 300), (0, 300), (17, 280), (299, 300), (5, 5), (300, 300)):
        assert session.append(1, first, *parts(given, first, last)) == 300
    assert same(kept(session, 1), before)
    assert session.lengths == [0, 300, 0]


def test_gaps_and_other_contents_are_refused(sessions):
    session = sessions.create("me", SETTINGS).session
    given, other = tokens(100), tokens(100)
    other[1][1, 40, 3] += 1
    session.append(0, 0, *given)
    before = kept(session, 0)
    for start, pair, message in (
        (101, given, r"start: expected 100, the tokens that layer 0 has.* got 100 from 101 on"),
        (50, given, r"start: expected 100.* got 100 from 50 on"),
        (0, other, "token 40 is not the one that was given"),
        (30, parts(other, 30, 60), "token 40 is not the one that was given"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            session.append(0, start, *pair)
    with pytest.raises(InvalidArgumentError, match="layer: expected 0 to 2, got 3"):
        session.append(3, 0, *given)
    for layer in (0, 1):
        with pytest.raises(DimensionError, match=r"keys: expected shape \(2, n, 16\)"):
            session.append(layer, 0, *tokens(5, heads=3))
        broken = tokens(5)
        broken[0][0, 1, 2] = np.nan
        with pytest.raises(InvalidArgumentError, match="keys: expected finite numbers"):
            session.append(layer, 100 if layer == 0 else 0, *broken)
    assert same(kept(session, 0), before)
    assert session.lengths == [100, 0, 0]


def test_the_same_append_at_the_same_time_is_carried_out_once(sessions):
    session = sessions.create("me", SETTINGS).session
    given, lengths = tokens(500), []
    barrier = threading.Barrier(4)

    def append():
        barrier.wait(20)
        lengths.append(session.append(0, 0, *given))

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [500] * 4


def test_truncate_and_fork(sessions):
    held = sessions.create("me", SETTINGS)
    session, given = held.session, tokens(600)
    session.append(0, 0, *given)
    session.append(1, 0, *parts(given, 0, 10))
    fork = sessions.fork("me", held, 300).session
    assert (fork.lengths, session.lengths) == ([300, 10, 0], [600, 10, 0])
    assert session.budget is fork.budget
    changed = tokens(50, 1)
    fork.append(0, 300, *changed)
    assert same(kept(session, 0), [[array[head] for array in given] for head in range(HEADS)])
    session.truncate(5, 1)
    session.truncate(100)
    assert session.lengths == [100, 5, 0]
    assert session.append(0, 100, *changed) == 150, "other tokens, where some were taken back"
    for length, layer in ((151, None), (151, 0), (6, 1), (1, 2)):
        with pytest.raises(InvalidArgumentError, match=f"length: expected at most .* got {length}"):
            session.truncate(length, layer)
    assert session.lengths == [150, 5, 0]
    assert fork.lengths == [350, 10, 0]


# --- leases ---


def test_leases_run_out_unless_they_are_renewed(sessions, clock):
    short, long = sessions.create("me", SETTINGS, lease=10), sessions.create("me", SETTINGS, lease=100)
    short.session.append(0, 0, *tokens(10))
    clock.now += 9
    assert sessions.sweep() == 0
    with sessions.using("me", short.id):
        clock.now += 50
        assert sessions.sweep() == 0, "it is being used"
    clock.now += 9
    assert sessions.renew("me", short.id) == 10
    clock.now += 9
    assert sessions.renew("me", short.id, 20) == 20
    clock.now += 19
    assert [(held.id, left) for held, left in sessions.of("me")] == [(short.id, 1.0), (long.id, 4.0)]
    clock.now += 1
    with pytest.raises(UnknownSessionError, match=r"session: '\w{8}'\.\.\. ended, as its lease of 20 s ran out"):
        sessions.renew("me", short.id)
    assert [held.id for held, _ in sessions.of("me")] == [long.id]
    assert sessions.facts().held_bytes == PAGE_BYTES
    assert sessions.sweep() == 1
    assert sessions.facts() == (1, 0, {"expired": 1})
    clock.now += 2
    with pytest.raises(UnknownSessionError, match=r"lease of 20 s ran out, 2 s ago"), sessions.using("me", short.id):
        pass
    sessions.free("me", short.id)
    clock.now += 10
    assert sessions.sweep() == 1


@pytest.mark.parametrize(
    ("lease", "message"),
    [(-1, "lease: expected seconds"), (float("nan"), "lease"), (61, "max_lease: the lease is 61 s, the limit is 60")],
)
def test_leases_that_are_none(make, lease, message):
    sessions = make(max_lease=60)
    held = sessions.create("me", SETTINGS)
    assert held.lease == 60, "the default is no longer than leases may be"
    for call in (
        lambda: sessions.create("me", SETTINGS, lease=lease),
        lambda: sessions.renew("me", held.id, lease),
        lambda: sessions.fork("me", held, lease=lease),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            call()
    assert len(sessions.of("me")) == 1


def test_the_sweeper_needs_nobody_to_ask(make, clock, monkeypatch):
    monkeypatch.setattr("nearhash.service.sessions.registry._SWEEP_SECONDS", 0.001)
    sessions = make()
    held = sessions.create("me", SETTINGS, lease=10)
    swept = threading.Event()
    monkeypatch.setattr(held.session, "close", swept.set)
    sessions.start()
    clock.now += 10
    assert swept.wait(20)


# --- quotas ---


def test_what_exceeds_a_quota_changes_nothing(make):
    sessions = make(
        max_session_bytes=2 * PAGE_BYTES, max_caller_bytes=3 * PAGE_BYTES, max_attention_bytes=4 * PAGE_BYTES
    )
    given = tokens(1000)
    first, second, third = (sessions.create(owner, SETTINGS) for owner in ("me", "me", "you"))

    def refused(held, count, limit):
        before = held.session.lengths, sessions.facts().held_bytes, kept(held.session, 0)
        start = held.session.lengths[0]
        with pytest.raises(MemoryLimitError, match=limit):
            held.session.append(0, start, *parts(given, start, start + count))
        assert (held.session.lengths, sessions.facts().held_bytes) == before[:2]
        assert same(kept(held.session, 0), before[2])

    refused(first, 600, "max_session_bytes: 0 bytes are held and")
    assert first.session.append(0, 0, *parts(given, 0, 500)) == 500
    refused(first, 100, "max_session_bytes")
    assert second.session.append(0, 0, *parts(given, 0, 10)) == 10
    refused(second, 300, "max_caller_bytes")
    assert third.session.append(0, 0, *parts(given, 0, 10)) == 10
    refused(third, 300, "max_attention_bytes")
    with pytest.raises(MemoryLimitError, match="max_"):  # codes need room as well
        first.session.store(0).attend(np.ones((2, DIM)), budget=10)
    assert sessions.facts().held_bytes == 4 * PAGE_BYTES
    fork = sessions.fork("me", first)
    refused(fork, 1, "max_session_bytes")  # its last page would be copied
    sessions.free("me", second.id)
    sessions.free("me", fork.id)
    assert third.session.append(0, 10, *parts(given, 10, 300)) == 300


def test_a_memory_limit_of_its_own(make):
    sessions = make(max_session_bytes=10 * PAGE_BYTES)
    held = sessions.create("me", SETTINGS, memory_limit=PAGE_BYTES)
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        held.session.append(0, 0, *tokens(257))
    assert held.session.append(0, 0, *tokens(256)) == 256
    with pytest.raises(InvalidArgumentError, match="max_session_bytes: memory_limit is"):
        sessions.create("me", SETTINGS, memory_limit=11 * PAGE_BYTES)


def test_how_many_sessions_a_caller_may_have(make, clock):
    sessions = make(max_sessions=2)
    first, _ = (sessions.create("me", SETTINGS, lease=10) for _ in range(2))
    for make_another in (lambda: sessions.create("me", SETTINGS), lambda: sessions.fork("me", first)):
        with pytest.raises(ServiceError, match="max_sessions: the caller has 2 sessions, the limit is 2") as failure:
            make_another()
        assert failure.value.code == "RESOURCE_EXHAUSTED"
    sessions.create("you", SETTINGS)
    sessions.free("me", first.id)
    sessions.create("me", SETTINGS, lease=10)
    clock.now += 10
    sessions.create("me", SETTINGS)
    with pytest.raises(ServiceError, match="max_sessions"):
        make(max_sessions=0).create("me", SETTINGS)


# --- owners ---


def test_sessions_belong_to_who_made_them(sessions):
    held = sessions.create("me", SETTINGS)

    def use():
        with sessions.using("you", held.id):
            pass

    calls = (use, lambda: sessions.free("you", held.id), lambda: sessions.renew("you", held.id))
    for _ in range(2):
        for call in (*calls, lambda: sessions.of("you", held.id)):
            with pytest.raises(UnknownSessionError, match="is no session of this caller on this server"):
                call()
        assert sessions.of("you") == []
        sessions.free("me", held.id)  # that it was freed, others do not learn, either
    with pytest.raises(UnknownSessionError, match="was freed, 0 s ago"):
        sessions.of("me", held.id)


def test_a_session_that_is_freed_while_it_is_used(sessions):
    held = sessions.create("me", SETTINGS)

    def use():
        with sessions.using("me", held.id):
            sessions.free("me", held.id)
            held.session.append(0, 0, *tokens(1))

    with pytest.raises(UnknownSessionError, match="was freed meanwhile"):
        use()
    with pytest.raises(UnknownSessionError, match="was freed"), sessions.using("me", held.id):
        pass


def test_a_request_makes_one_session_however_often_it_comes(sessions, clock):
    first = sessions.create("me", SETTINGS, 10, request_id="a", request=b"1")
    assert sessions.create("me", SETTINGS, 10, request_id="a", request=b"1") is first
    with pytest.raises(InvalidArgumentError, match=r"request_id: .* got that of another request"):
        sessions.create("me", SETTINGS, 10, request_id="a", request=b"2")
    with pytest.raises(InvalidArgumentError, match="request_id: expected 1 to 128 bytes"):
        sessions.create("me", SETTINGS, request_id="a" * 129)
    assert sessions.create("you", SETTINGS, 10, request_id="a", request=b"2") is not first
    fork = sessions.fork("me", first, request_id="b", request=b"3")
    assert sessions.fork("me", first, request_id="b", request=b"3") is fork
    assert len(sessions.of("me")) == 2
    clock.now += 10
    assert sessions.create("me", SETTINGS, request_id="a", request=b"2").id != first.id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 4097}, "layers"),
        ({"kv_heads": 0}, "kv_heads"),
        ({"head_dim": 12}, "head_dim"),
        ({"codec": "x"}, "codec"),
        ({"dtype": "float8"}, "dtype"),
    ],
)
def test_impossible_settings(sessions, settings, message):
    with pytest.raises(InvalidArgumentError, match=f"{message}: expected"):
        sessions.create("me", SETTINGS._replace(**settings))
    assert sessions.of("me") == []


def test_layers_without_tokens_take_no_memory_and_attend_to_nothing(sessions):
    held = sessions.create("me", SETTINGS)
    found = held.session.store(2).attend(np.ones((4, DIM)))
    assert np.isneginf(found.lse).all()
    assert not found.output.any()
    assert (held.session.nbytes, held.session.index_nbytes) == (0, 0)


def test_what_is_attended_to_is_as_in_an_embedded_store(sessions):
    session = sessions.create("me", SETTINGS._replace(seed=5)).session
    given, queries = tokens(700), np.random.default_rng(3).standard_normal((4, DIM))
    session.append(2, 0, *given)
    with KVStore(HEADS, DIM, seed=5) as store:
        store.append(*given)
        for options in ({}, {"estimator": "dense"}, {"eps": 0.2, "step": 9, "layer": 2}):
            for one, other in zip(
                session.store(2).attend(queries, **options), store.attend(queries, **options), strict=True
            ):
                assert np.array_equal(one, other)
