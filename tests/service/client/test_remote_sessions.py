"""Remote sessions give what an embedded store gives: both clients against a real server, and a scripted one."""

import asyncio

import numpy as np
import pytest
import torch

import nearhash as nh
from nearhash.errors import (
    DimensionError,
    DtypeError,
    InvalidArgumentError,
    MemoryLimitError,
    ServiceError,
    UnknownSessionError,
)
from nearhash.protos.v1 import attention_pb2 as pb
from nearhash.protos.v1 import search_pb2
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.engine.database import Database

HEADS, DIM = 2, 16
RNG = np.random.default_rng(0)
KEYS, VALUES = (RNG.standard_normal((HEADS, 700, DIM)).astype(np.float32) for _ in range(2))
QUERIES = RNG.standard_normal((4, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    config = ServerConfig(limits=Limits(max_message_bytes=1 << 17, max_session_bytes=2**20, max_sessions=4))
    with (
        Database(tmp_path_factory.mktemp("database")) as database,
        running_server(None, config=config, database=database) as bound,
    ):
        yield bound


@pytest.fixture
def client(make_client, address):
    made = make_client(address)
    yield made
    for id in made.sessions()["sessions"]:
        made.session(id).free()


@pytest.fixture
def session(client):
    return client.create_session(HEADS, DIM, layers=2, seed=3)


@pytest.fixture
def store():
    with nh.attention.KVStore(HEADS, DIM, seed=3) as opened:
        opened.append(KEYS, VALUES)
        yield opened


def same(remote, local):
    for one, other in zip(remote, local, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other, equal_nan=True)


def test_what_is_attended_to_is_as_embedded(session, store):
    assert session.append(1, KEYS, VALUES) == 700, "in more than one request"
    for options in (
        {},
        {"estimator": "dense"},
        {"budget": 30, "sink": 1, "local": 2, "scale": 0.5, "step": 8},
        {"eps": 0.1, "delta": 0.2, "floor": 0.2},
        {"estimator": "vattention", "oracle": True, "eps": None},
    ):
        same(session.attend(1, QUERIES, **options), store.attend(QUERIES, layer=1, **options))
        remote, local = session.retrieve(1, QUERIES, **options), store.retrieve(QUERIES, layer=1, **options)
        assert [one[:3] for one in remote] == [one[:3] for one in local]
        for one, other in zip(remote, local, strict=True):
            same(one[3:], other[3:])


def test_parts_here_and_there_are_merged(session, store):
    session.append(0, KEYS[:, :600], VALUES[:, :600])
    with nh.attention.KVStore(HEADS, DIM) as rest:
        rest.append(KEYS[:, 600:], VALUES[:, 600:])
        merged = nh.attention.merge(session.attend(0, QUERIES, "dense"), rest.attend(QUERIES, "dense"))
    whole = store.attend(QUERIES, "dense")
    np.testing.assert_allclose(merged.output, whole.output, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(merged.lse, whole.lse, rtol=1e-5)
    assert merged.reads.tolist() == [700, 700]


def test_several_sessions_in_one_request(client, session, store):
    other = client.create_session(HEADS, DIM, seed=3)
    session.append(0, KEYS[:, :300], VALUES[:, :300])
    other.append(0, KEYS, VALUES)
    asked = [(other.id, 0, QUERIES), (session.id, 1, QUERIES), (other.id, 0, QUERIES[:2], 5)]
    found = client.attend(asked, budget=0.3)
    same(found[0], store.attend(QUERIES, budget=0.3))
    assert np.isneginf(found[1].lse).all()
    same(found[2], store.attend(QUERIES[:2], budget=0.3, step=5))
    retrieved = client.retrieve(asked[::2], budget=9)
    assert [sum(len(one.positions) for one in each) for each in retrieved] == [2 * (9 + 4 + 16)] * 2
    with pytest.raises(UnknownSessionError, match=r"asked\[1\]"):
        client.attend([(session.id, 0, QUERIES), ("unknown", 0, QUERIES)])
    with pytest.raises(InvalidArgumentError, match="asked: expected at least one"):
        client.attend([])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_torch_tensors(session, dtype):
    keys, values, queries = (torch.tensor(array).to(dtype) for array in (KEYS, VALUES, QUERIES))
    session.append(0, keys, values)
    assert session.append(0, keys.transpose(0, 1).contiguous().transpose(0, 1), values, start=0) == 700
    with nh.attention.KVStore(HEADS, DIM, seed=3) as store:
        store.append(keys, values)
        same(session.attend(0, queries), store.attend(queries))


def test_where_appends_begin(client, session):
    session.append(0, KEYS[:, :10], VALUES[:, :10])
    assert session.append(0, KEYS[:, 10:12], VALUES[:, 10:12]) == 12
    fork = session.fork(11)
    assert fork.append(0, KEYS[:, 11:20], VALUES[:, 11:20]) == 20
    session.truncate(5)
    assert session.append(0, KEYS[:, 5:7], VALUES[:, 5:7]) == 7
    same_session = client.session(session.id)
    assert same_session.append(0, KEYS[:, 7:9], VALUES[:, 7:9]) == 9, "the server is asked"
    with pytest.raises(InvalidArgumentError, match="start: layer 0 has 9 tokens, and token 7 is not"):
        session.append(0, KEYS[:, :2], VALUES[:, :2])
    with pytest.raises(InvalidArgumentError, match="layer: expected"):
        same_session.append(7, KEYS, VALUES)
    assert session.append(1, KEYS[:, :0], VALUES[:, :0]) == 0
    assert session.stats()["tokens"] == [9, 0]
    assert fork.stats()["tokens"] == [20, 0]


def test_leases_and_quotas(client, session):
    facts = session.stats()
    assert {"layers": 2, "kv_heads": HEADS, "dtype": "float32", "seed": 3, "lease": 300.0}.items() <= facts.items()
    assert 0 < facts["lease_left"] <= 300
    assert session.renew() == 300
    assert session.renew(50) == 50
    quotas = client.sessions()
    assert list(quotas["sessions"]) == [session.id]
    assert (quotas["max_sessions"], quotas["held_bytes"]) == (4, 0)
    for _ in range(3):
        client.create_session(HEADS, DIM, lease=5)
    with pytest.raises(ServiceError, match="max_sessions") as failure:
        session.fork()
    assert failure.value.code == "RESOURCE_EXHAUSTED"
    many = np.tile(KEYS, (1, 20, 1))
    with pytest.raises(
        MemoryLimitError, match=r"max_session_bytes: .*of 14000 tokens, the first \d+ are known"
    ) as full:
        session.append(0, many, many)
    assert session.stats()["tokens"] == [full.value.written, 0]
    assert full.value.written > 0


def test_the_end(client, session):
    session.append(0, KEYS, VALUES)
    fork = session.fork()
    session.free()
    session.free()
    for call in (
        session.fork,
        session.renew,
        session.stats,
        lambda: session.append(0, KEYS, VALUES),
        lambda: session.attend(0, QUERIES),
        lambda: session.truncate(0),
    ):
        with pytest.raises(UnknownSessionError, match="was freed"):
            call()
    assert fork.attend(0, QUERIES, "dense").reads.tolist() == [700, 700]
    with pytest.raises(UnknownSessionError, match="is no session of this caller"):
        client.session("nothing").free()


def test_context_managers(address):
    with nh.Client(address) as client:
        with client.create_session(HEADS, DIM) as session:
            session.append(0, KEYS, VALUES)
        with pytest.raises(UnknownSessionError):
            session.stats()

        def fail():
            with client.create_session(HEADS, DIM):
                client.close()
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fail()

    async def main():
        async with nh.AsyncClient(address) as client:
            async with await client.create_session(HEADS, DIM) as session:
                await session.append(0, KEYS, VALUES)
            with pytest.raises(UnknownSessionError):
                await session.stats()
            for id in (await client.sessions())["sessions"]:
                await client.session(id).free()

    asyncio.run(main())


def test_bad_arguments(client, session):
    for call, error, message in (
        (
            lambda: session.append(0, KEYS[0], VALUES[0]),
            DimensionError,
            r"keys: expected shape \(kv_heads, n, head_dim\)",
        ),
        (lambda: session.append(0, KEYS, VALUES[:, 1:]), InvalidArgumentError, "values: expected as many tokens"),
        (lambda: session.append(0, KEYS > 0, VALUES), DtypeError, "keys: expected a float or integer dtype, got bool"),
        (lambda: session.append(-1, KEYS, VALUES), InvalidArgumentError, "layer"),
        (lambda: session.append(2, KEYS, VALUES), InvalidArgumentError, "layer: expected 0 to 1, got 2"),
        (lambda: session.append(0, KEYS[:1], VALUES[:1]), DimensionError, r"keys: expected shape \(2, n, 16\)"),
        (lambda: session.append(0, KEYS * np.nan, VALUES), InvalidArgumentError, "keys: expected finite"),
        (lambda: session.append(0, KEYS.astype(float) * 1e300, VALUES), InvalidArgumentError, "keys: expected finite"),
        (lambda: session.attend(0, QUERIES[0]), InvalidArgumentError, "queries"),
        (lambda: session.attend(0, QUERIES[:3]), DimensionError, "queries"),
        (lambda: session.attend(0, QUERIES, budget=0), InvalidArgumentError, "budget"),
        (lambda: session.attend(0, QUERIES, budget=0.0), InvalidArgumentError, "budget"),
        (lambda: session.attend(0, QUERIES, budget="x"), InvalidArgumentError, "budget"),
        (lambda: session.attend(0, QUERIES, "quest"), InvalidArgumentError, "estimator: a server has"),
        (lambda: session.attend(0, QUERIES, 3), InvalidArgumentError, "estimator: expected a name"),
        (lambda: session.attend(0, QUERIES, sink=-1), InvalidArgumentError, "sink"),
        (lambda: session.attend(0, QUERIES, step=2**32), InvalidArgumentError, "step"),
        (lambda: session.attend(0, QUERIES, eps="x"), InvalidArgumentError, "eps"),
        (lambda: session.attend(0, QUERIES, scale=np.inf), InvalidArgumentError, "scale"),
        (lambda: client.create_session("x", DIM), InvalidArgumentError, "kv_heads"),
        (lambda: client.create_session(HEADS, DIM, seed=-1), InvalidArgumentError, "seed"),
        (lambda: client.create_session(HEADS, DIM, dtype="x"), InvalidArgumentError, "dtype"),
        (lambda: session.fork(-1), InvalidArgumentError, "length"),
        (lambda: session.truncate(1), InvalidArgumentError, "length: expected at most 0"),
        (lambda: client.session(""), InvalidArgumentError, "id"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert session.stats()["tokens"] == [0, 0]


def test_calls_are_repeated_and_carried_out_once(make_client, scripted_server, refusal):
    """An append whose answer is lost comes again as it was, and a session is asked for with the same id."""
    server = search_pb2.ServerInfo(limits=search_pb2.Limits(max_message_bytes=2000))
    scripts = {
        "CreateSession": [refusal("UNAVAILABLE"), pb.CreateSessionResponse(session="s", lease=300, server=server)],
        "AppendKV": [pb.AppendKVResponse(tokens=3), refusal("UNAVAILABLE"), pb.AppendKVResponse(tokens=5)],
        "Fork": [refusal("UNAVAILABLE"), pb.ForkResponse(session="f")],
    }
    with scripted_server(**scripts) as scripted:
        session = make_client(scripted.address).create_session(1, 64)
        tokens = np.zeros((1, 5, 64), np.float32)
        assert session.append(0, tokens, tokens) == 5
        assert session.fork().id == "f"
    for method in ("CreateSession", "Fork"):
        first, second = scripted.requests[method]
        assert first == second
        assert first.request_id
    starts = [(request.start, list(request.keys.shape)) for request in scripted.requests["AppendKV"]]
    assert starts == [(0, [1, 3, 64]), (3, [1, 2, 64]), (3, [1, 2, 64])]


def test_answers_that_fit_no_request(make_client, scripted_server):
    with scripted_server(Attend=[pb.AttendResponse(), pb.AttendResponse(results=[pb.Attended()])]) as scripted:
        session = make_client(scripted.address).session("s")
        for _ in range(2):
            with pytest.raises(ServiceError, match="the server's answer is malformed") as failure:
                session.attend(0, QUERIES)
            assert failure.value.code == "DATA_LOSS"
