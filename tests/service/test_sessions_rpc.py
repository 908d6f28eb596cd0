"""AttentionService on the wire: what is answered, what is refused and how, keys and roles, audit, metrics, drain."""

import json
import re
import threading
import urllib.request
from functools import partial

import grpc
import numpy as np
import pytest

import nearhash.service.server
from nearhash.attention import KVStore
from nearhash.protos.v1 import attention_pb2 as pb
from nearhash.protos.v1 import attention_pb2_grpc, tensor_pb2
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.config_file import OperationsConfig
from nearhash.service.engine.database import Database
from nearhash.service.security.key_file import add_key
from nearhash.service.session_wire import from_attended, from_retrieved, to_floats
from nearhash.service.sessions.registry import Sessions
from nearhash.service.wire import to_tensor

CODE = grpc.StatusCode
INVALID = CODE.INVALID_ARGUMENT
HEADS, DIM = 2, 16
SETTINGS = pb.SessionSettings(layers=2, kv_heads=HEADS, head_dim=DIM)
RNG = np.random.default_rng(0)
KEYS, VALUES = (RNG.standard_normal((HEADS, 400, DIM)).astype(np.float32) for _ in range(2))
QUERIES = RNG.standard_normal((4, DIM)).astype(np.float32)


class Caller:
    """A key's view of a server."""

    def __init__(self, channel, token=None):
        self._stub = attention_pb2_grpc.AttentionServiceStub(channel)
        self._metadata = [("x-api-key", token)] if token else []

    def __getattr__(self, name):
        return partial(getattr(self._stub, name), metadata=self._metadata, timeout=60)

    def make(self, **fields):
        return self.CreateSession(pb.CreateSessionRequest(**{"settings": SETTINGS, **fields})).session

    def append(self, session, keys=KEYS, values=VALUES, layer=0, start=0):
        tensors = {"keys": to_tensor(keys, "keys"), "values": to_tensor(values, "values")}
        return self.AppendKV(pb.AppendKVRequest(session=session, layer=layer, start=start, **tensors)).tokens

    def refusal(self, method, request):
        """Code and message of a call that fails."""
        with pytest.raises(grpc.RpcError) as failure:
            getattr(self, method)(request)
        return failure.value.code(), failure.value.details()


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    limits = Limits(max_rows=64, max_session_bytes=2**21, max_sessions=8)
    with (
        Database(tmp_path_factory.mktemp("database")) as database,
        running_server(None, config=ServerConfig(limits=limits), database=database) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield channel


@pytest.fixture
def caller(channel):
    caller = Caller(channel)
    yield caller
    for one in caller.Stats(pb.StatsRequest()).sessions:
        caller.Free(pb.FreeRequest(session=one.session))


@pytest.fixture
def session(caller):
    made = caller.make()
    caller.append(made)
    return made


def asked(session, queries=QUERIES, **fields):
    return pb.Asked(session=session, queries=to_floats(queries, "queries"), **fields)


def test_answers_are_those_of_an_embedded_store(caller, session):
    caller.append(session, KEYS[:, :100], VALUES[:, :100], layer=1)
    options = {"eps": pb.ReadingOption(real=0.1), "delta": pb.ReadingOption(real=0.2)}
    readings = {
        "default": (pb.Reading(), {}),
        "dense": (pb.Reading(estimator="dense"), {"estimator": "dense"}),
        "count": (
            pb.Reading(count=40, sink=0, scale=0.5),
            {"budget": 40, "sink": 0, "scale": 0.5},
        ),
        "share": (pb.Reading(share=0.9, options=options), {"budget": 0.9, "eps": 0.1, "delta": 0.2}),
        "oracle": (
            pb.Reading(estimator="topk_oracle", options={"shared": pb.ReadingOption(flag=False)}),
            {"estimator": "topk_oracle", "shared": False},
        ),
    }
    with KVStore(HEADS, DIM) as first, KVStore(HEADS, DIM) as second:
        first.append(KEYS, VALUES)
        second.append(KEYS[:, :100], VALUES[:, :100])
        for name, (reading, arguments) in readings.items():
            both = [asked(session, step=7), asked(session, QUERIES[:2], layer=1)]
            results = caller.Attend(pb.AttendRequest(asked=both, reading=reading)).results
            embedded = (
                first.attend(QUERIES, step=7, **arguments),
                second.attend(QUERIES[:2], layer=1, **arguments),
            )
            for message, store in zip(results, embedded, strict=True):
                for one, other in zip(from_attended(message), store, strict=True):
                    assert np.array_equal(one, other, equal_nan=True), name
            (result,) = caller.Retrieve(pb.RetrieveRequest(asked=both[:1], reading=reading)).results
            for one, other in zip(from_retrieved(result), first.retrieve(QUERIES, step=7, **arguments), strict=True):
                assert one[:3] == other[:3]
                assert np.array_equal(one.positions, other.positions)
                assert np.array_equal(one.log_probabilities, other.log_probabilities)


def test_an_empty_session(caller):
    made = caller.make()
    found = from_attended(caller.Attend(pb.AttendRequest(asked=[asked(made, layer=1)])).results[0])
    assert np.isneginf(found.lse).all()
    assert not found.output.any()
    assert found.reads.tolist() == [0, 0]
    retrieved = from_retrieved(caller.Retrieve(pb.RetrieveRequest(asked=[asked(made)])).results[0])
    assert sum(len(one.positions) for one in retrieved) == 0
    assert caller.append(made, KEYS[:, :0], VALUES[:, :0]) == 0


@pytest.mark.parametrize("dtype", ["<f8", "<f2", "<f4", "i1"])
def test_tensors_of_all_kinds(caller, dtype):
    made = caller.make()
    keys, values = (4 * KEYS).astype(dtype), (4 * VALUES).astype(dtype)
    assert caller.append(made, keys, values) == 400
    queries = (4 * QUERIES).astype(dtype)
    request = pb.AttendRequest(asked=[asked(made, queries)], reading=pb.Reading(estimator="dense"))
    found = from_attended(caller.Attend(request).results[0])
    with KVStore(HEADS, DIM) as store:
        store.append(keys, values)
        assert np.array_equal(found.output, store.attend(queries, "dense").output)


def test_bfloat16_is_the_upper_half_of_float32(caller):
    made = caller.make()
    upper = {name: (array.view(np.uint32) >> 16) for name, array in (("keys", KEYS), ("values", VALUES))}
    tensors = {
        name: tensor_pb2.Tensor(dtype=13, shape=KEYS.shape, data=bits.astype("<u2").tobytes())
        for name, bits in upper.items()
    }
    assert caller.AppendKV(pb.AppendKVRequest(session=made, **tensors)).tokens == 400
    widened = [(bits << 16).astype(np.uint32).view(np.float32) for bits in upper.values()]
    assert caller.append(made, *widened) == 400, "the same tokens"


def test_refusals(caller, session):
    tensor = to_tensor(KEYS, "keys")
    whole = {"session": session, "keys": tensor, "values": to_tensor(VALUES, "values")}
    infinite = KEYS.copy()
    infinite[1, 3, 2] = np.inf
    question, unknown = asked(session), asked("nothing")
    for method, request, code, message in (
        ("AppendKV", pb.AppendKVRequest(session=session), INVALID, "keys: expected a tensor, got none"),
        ("AppendKV", pb.AppendKVRequest(**whole, start=401), INVALID, "start: expected 400"),
        (
            "AppendKV",
            pb.AppendKVRequest(**{**whole, "values": tensor}),
            INVALID,
            "start: .*token 0 is not",
        ),
        ("AppendKV", pb.AppendKVRequest(**whole, layer=2), INVALID, "layer: expected 0 to 1, got 2"),
        (
            "AppendKV",
            pb.AppendKVRequest(**{**whole, "keys": to_tensor(KEYS[:1], "keys")}, layer=1),
            INVALID,
            r"keys: expected shape \(2, n, 16\), got \(1, 400, 16\)",
        ),
        (
            "AppendKV",
            pb.AppendKVRequest(**{**whole, "values": to_tensor(VALUES[:, 1:], "values")}, layer=1),
            INVALID,
            "values: expected as many tokens as keys, 400, got 399",
        ),
        (
            "AppendKV",
            pb.AppendKVRequest(**{**whole, "keys": to_tensor(infinite, "keys")}, layer=1),
            INVALID,
            "keys: expected finite numbers",
        ),
        (
            "AppendKV",
            pb.AppendKVRequest(session=session, layer=1, keys=to_tensor(KEYS[0], ""), values=tensor),
            INVALID,
            "keys.shape: expected 3 axes, got 2",
        ),
        (
            "AppendKV",
            pb.AppendKVRequest(
                session=session, layer=1, keys=to_tensor(KEYS > 0, ""), values=to_tensor(VALUES > 0, "")
            ),
            INVALID,
            "keys: expected a float or integer dtype, got bool",
        ),
        ("Attend", pb.AttendRequest(), INVALID, "asked: expected at least one"),
        ("Attend", pb.AttendRequest(asked=[pb.Asked(session=session)]), INVALID, "queries: expected a t"),
        ("Attend", pb.AttendRequest(asked=[question, unknown]), CODE.NOT_FOUND, r"session: 'nothing'.*asked\[1\]"),
        (
            "Attend",
            pb.AttendRequest(asked=[question, asked(session, QUERIES[:3])]),
            INVALID,
            r"queries: expected shape \(q_heads, 16\), q_heads a multiple of 2.*asked\[1\]",
        ),
        ("Attend", pb.AttendRequest(asked=[question] * 17), INVALID, "max_rows: 68 queries in a request"),
        *(
            (method, kind(asked=[question], reading=reading), INVALID, message)
            for method, kind in (("Attend", pb.AttendRequest), ("Retrieve", pb.RetrieveRequest))
            for reading, message in (
                (pb.Reading(count=0), "budget: expected"),
                (pb.Reading(share=0.0), "budget: expected"),
                (pb.Reading(share=float("nan")), "budget: expected"),
                (pb.Reading(scale=-1.0), "scale: expected"),
                (pb.Reading(estimator="magicpig"), "estimator: a server has priority, dense"),
                (pb.Reading(options={"x": pb.ReadingOption(flag=True)}), "x: the estimator 'priority' has"),
                (pb.Reading(options={"threads": pb.ReadingOption(integer=9)}), "options: 'threads' is not the name"),
                (pb.Reading(options={"eps": pb.ReadingOption()}), "options: eps has no value"),
                (pb.Reading(options={"eps": pb.ReadingOption(real=-1)}), "eps: expected"),
            )
        ),
        ("CreateSession", pb.CreateSessionRequest(), INVALID, "kv_heads: expected"),
        (
            "CreateSession",
            pb.CreateSessionRequest(settings=SETTINGS, lease=-1),
            INVALID,
            "lease: expected",
        ),
        ("CreateSession", pb.CreateSessionRequest(settings=SETTINGS, lease=1e9), INVALID, "max_lease: "),
        (
            "CreateSession",
            pb.CreateSessionRequest(settings=SETTINGS, memory_limit=2**22),
            INVALID,
            "max_session_bytes: ",
        ),
        (
            "Truncate",
            pb.TruncateRequest(session=session, length=401),
            INVALID,
            "length: expected at most",
        ),
        ("Renew", pb.RenewRequest(session=session, lease=float("nan")), INVALID, "lease: expected"),
        *(
            (method, kind(session="nothing"), CODE.NOT_FOUND, "session: 'nothing'... is no session of this caller")
            for method, kind in (
                ("AppendKV", pb.AppendKVRequest),
                ("Fork", pb.ForkRequest),
                ("Truncate", pb.TruncateRequest),
                ("Free", pb.FreeRequest),
                ("Renew", pb.RenewRequest),
                ("Stats", pb.StatsRequest),
            )
        ),
    ):
        found = caller.refusal(method, request)
        assert found[0] is code, (method, found)
        assert re.search(message, found[1]), (method, found)
    (facts,) = caller.Stats(pb.StatsRequest(session=session)).sessions
    assert list(facts.tokens) == [400, 0]
    assert caller.append(session) == 400


def test_forks_truncations_and_the_end(caller, session):
    fork = caller.Fork(pb.ForkRequest(session=session, length=300, lease=5)).session
    (facts,) = caller.Stats(pb.StatsRequest(session=fork)).sessions
    assert (list(facts.tokens), facts.lease) == ([300, 0], 5)
    assert caller.append(fork, KEYS[:, :7], VALUES[:, :7], start=300) == 307
    caller.Truncate(pb.TruncateRequest(session=session, length=10, layer=0))
    assert caller.append(session, KEYS[:, 10:11], VALUES[:, 10:11], start=10) == 11
    both = caller.Stats(pb.StatsRequest())
    assert [list(one.tokens) for one in both.sessions] == [[11, 0], [307, 0]]
    assert (both.caller_sessions, both.max_sessions) == (2, 8)
    assert both.caller_bytes == both.sessions[0].held_bytes == both.sessions[1].held_bytes > 0
    for _ in range(2):
        caller.Free(pb.FreeRequest(session=session))
    for method, request in (
        ("Fork", pb.ForkRequest(session=session)),
        ("Attend", pb.AttendRequest(asked=[asked(session)])),
        ("Renew", pb.RenewRequest(session=session)),
    ):
        code, message = caller.refusal(method, request)
        assert (code, message.split("... ")[1]) == (CODE.NOT_FOUND, "was freed, 0 s ago")
    assert caller.Renew(pb.RenewRequest(session=fork, lease=9)).lease == 9


def test_beyond_a_quota(caller, session):
    def append(layer):
        return caller.append(session, KEYS, VALUES, layer=layer)

    many = np.repeat(KEYS, 50, axis=1)
    request = pb.AppendKVRequest(session=session, layer=1, keys=to_tensor(many, ""), values=to_tensor(many, ""))
    before = caller.Stats(pb.StatsRequest(session=session)).sessions[0]
    code, message = caller.refusal("AppendKV", request)
    assert code is CODE.RESOURCE_EXHAUSTED
    assert message.startswith("max_session_bytes: ")
    after = caller.Stats(pb.StatsRequest(session=session)).sessions[0]
    assert (after.tokens, after.held_bytes) == (before.tokens, before.held_bytes)
    assert append(1) == 400
    for _ in range(7):
        caller.make()
    code, message = caller.refusal("CreateSession", pb.CreateSessionRequest(settings=SETTINGS))
    assert (code, message.partition(":")[0]) == (CODE.RESOURCE_EXHAUSTED, "max_sessions")


def test_a_request_with_an_id_makes_one_session(caller):
    request = pb.CreateSessionRequest(settings=SETTINGS, request_id="r")
    made = {caller.CreateSession(request).session for _ in range(3)}
    assert len(made) == 1
    fork = pb.ForkRequest(session=made.pop(), request_id="f")
    assert len({caller.Fork(fork).session for _ in range(3)}) == 1
    assert caller.Stats(pb.StatsRequest()).caller_sessions == 2
    fork.length = 1
    assert caller.refusal("Fork", fork)[1].startswith("request_id: ")


def test_leases_on_the_wire(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(nearhash.service.server, "Sessions", partial(Sessions, clock=lambda: now[0]))
    with (
        Database(tmp_path) as database,
        running_server(None, database=database) as address,
        grpc.insecure_channel(address) as channel,
    ):
        caller = Caller(channel)
        made = caller.make(lease=60)
        for _ in range(3):
            now[0] += 59
            caller.append(made)
        now[0] += 59
        (facts,) = caller.Stats(pb.StatsRequest(session=made)).sessions
        assert facts.lease_left == 1.0
        now[0] += 1
        code, message = caller.refusal("Attend", pb.AttendRequest(asked=[asked(made)]))
        assert code is CODE.NOT_FOUND
        assert "ended, as its lease of 60 s ran out" in message


def test_keys_roles_and_records(tmp_path):
    path = tmp_path / "keys.json"
    tokens = {name: add_key(path, name, role, ["other"]) for name, role in (
        ("writer", "write"), ("second", "write"), ("reader", "read"), ("admin", "admin")
    )}  # fmt: skip
    config = ServerConfig(keys=path, audit=tmp_path / "audit.log")
    operations = OperationsConfig(metrics="127.0.0.1:0", status_page=None)
    with (
        Database(tmp_path / "data") as database,
        running_server(None, config=config, database=database, operations=operations) as address,
        grpc.insecure_channel(address) as channel,
    ):
        callers = {name: Caller(channel, token) for name, token in tokens.items()}
        made = callers["writer"].make(request_id="mine")
        callers["writer"].append(made)
        for name in ("second", "admin"):
            for method, request in (
                ("Attend", pb.AttendRequest(asked=[asked(made)])),
                ("Free", pb.FreeRequest(session=made)),
                ("Stats", pb.StatsRequest(session=made)),
            ):
                assert callers[name].refusal(method, request)[0] is CODE.NOT_FOUND
            assert callers[name].Stats(pb.StatsRequest()).caller_sessions == 0
        request = pb.CreateSessionRequest(settings=SETTINGS)
        assert callers["reader"].refusal("CreateSession", request)[0] is CODE.PERMISSION_DENIED
        assert callers["reader"].refusal("Attend", pb.AttendRequest(asked=[asked(made)]))[0] is CODE.NOT_FOUND
        assert Caller(channel).refusal("Stats", pb.StatsRequest())[0] is CODE.UNAUTHENTICATED
        callers["writer"].Free(pb.FreeRequest(session=made))
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    allowed = [
        (line["principal"], line["method"].rpartition("/")[2], line["session"], line["request_id"])
        for line in lines
        if line["code"] == "OK"
    ]
    assert allowed == [("writer", "CreateSession", made[:8], "mine"), ("writer", "Free", made[:8], "")]
    assert made not in (tmp_path / "audit.log").read_text()


def test_metrics_tell_of_sessions(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr("nearhash.service.server.StatusServer", _kept(pages, nearhash.service.server.StatusServer))
    with (
        Database(tmp_path) as database,
        running_server(None, database=database, operations=OperationsConfig(metrics="127.0.0.1:0")) as address,
        grpc.insecure_channel(address) as channel,
    ):
        caller = Caller(channel)
        made = caller.make()
        caller.append(made)
        caller.Free(pb.FreeRequest(session=caller.make()))
        with urllib.request.urlopen(f"http://{pages[0].address}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
    held = 2 * 256 * HEADS * DIM * 2 * 4
    for line in (
        "nearhash_sessions 1.0",
        f"nearhash_session_bytes {float(held)}",
        'nearhash_sessions_ended_total{reason="freed"} 1.0',
        'nearhash_requests_total{code="OK",method="AppendKV"} 1.0',
    ):
        assert line in lines


def _kept(pages, kind):
    def make(*arguments):
        pages.append(kind(*arguments))
        return pages[-1]

    return make


def test_attention_that_was_accepted_is_answered_while_the_server_drains(tmp_path, monkeypatch):
    entered, leave = threading.Event(), threading.Event()
    attend = KVStore.attend

    def slowly(self, *arguments, **options):
        entered.set()
        assert leave.wait(20)
        return attend(self, *arguments, **options)

    with Database(tmp_path) as database:
        running = running_server(None, database=database)
        address = running.__enter__()
        with grpc.insecure_channel(address) as channel:
            caller = Caller(channel)
            made = caller.make()
            caller.append(made)
            monkeypatch.setattr(KVStore, "attend", slowly)
            future = caller._stub.Attend.future(pb.AttendRequest(asked=[asked(made)]), timeout=60)
            assert entered.wait(20)
            stopping = threading.Thread(target=running.__exit__, args=(None, None, None))
            stopping.start()
            leave.set()
            assert len(future.result().results) == 1
            stopping.join()
