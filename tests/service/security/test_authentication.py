"""What a server behind the interceptor lets in, over real connections."""

import json
import logging
import time
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from nearhash.protos.v1 import collections_pb2, collections_pb2_grpc, points_pb2, points_pb2_grpc
from nearhash.service.security import interceptor, key_file
from nearhash.service.security.attempts import FailedAttempts
from nearhash.service.security.audit import AuditLog
from nearhash.service.security.key_file import add_key, digest_of, remove_key
from nearhash.service.security.keys import KeyRing

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED


def count(channel, collection="any"):
    return points_pb2_grpc.PointServiceStub(channel).Count, points_pb2.CountRequest(collection=collection)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ([], "got none"),
        ([("authorization", "Bearer nhk_wrong")], "not known"),
        ([("x-api-key", "nhk_wrong")], "not known"),
        ([("authorization", "Bearer")], "not known"),
        ([("authorization", "{good}")], "expected"),  # the scheme is missing
        ([("authorization", "Basic {good}")], "expected"),
        ([("authorization", "Bearer {good}x")], "not known"),
        ([("authorization", "Bearer {other}"), ("x-api-key", "{good}")], "different"),
        ([("authorization", "Bearer {good}"), ("authorization", "Bearer wrong")], "different"),
        ([("authorization", "Bearer sha256:{hash}")], "not known"),  # what a stolen file of keys would give
        ([("authorization-bin", b"Bearer {good}")], "got none"),
    ],
)
def test_without_a_good_key_nothing_is_answered(guarded, keys, outcome, metadata, complaint):
    def filled(value):
        if isinstance(value, bytes):
            return value
        return value.format(good=keys.read, other=keys.write, hash=digest_of(keys.read).hex())

    failure = outcome(*count(guarded), metadata=[(name, filled(value)) for name, value in metadata])
    assert failure.code is UNAUTHENTICATED
    assert failure.message.startswith("authorization: ")
    assert complaint in failure.message
    assert keys.read not in failure.message


@pytest.mark.parametrize(
    "form", [("authorization", "Bearer {}"), ("authorization", "bearer  {}"), ("x-api-key", "{}")], ids=str
)
def test_a_good_key_is_taken_in_every_form(guarded, keys, outcome, form):
    name, value = form
    assert outcome(*count(guarded), metadata=[(name, value.format(keys.read))]).count == 7


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("authorization", "x-api-key", "x-api-key-bin", "user-agent")),
            st.text(max_size=8) | st.binary(max_size=8) | st.text(max_size=8).map(lambda token: f"Bearer {token}"),
        ),
        max_size=3,
    )
)
def test_any_metadata_is_one_token_or_a_refusal(metadata):
    complaint = ""
    try:
        token = interceptor._token(metadata)
    except interceptor.AuthenticationError as error:
        complaint = str(error)
    if complaint:
        assert complaint.partition(", got ")[0] == interceptor._EXPECTED  # nothing that came is shown
    else:
        assert any(name in ("authorization", "x-api-key") for name, _ in metadata)
        assert isinstance(token, str)


def test_the_same_key_twice_is_one_key(guarded, keys, outcome):
    both = [("authorization", f"Bearer {keys.read}"), ("x-api-key", keys.read)]
    assert outcome(*count(guarded), metadata=both).count == 7


def test_roles(guarded, keys, outcome):
    points, collections = points_pb2_grpc.PointServiceStub(guarded), collections_pb2_grpc.CollectionServiceStub(guarded)
    calls = {
        "read": (points.Count, points_pb2.CountRequest(collection="c")),
        "write": (points.Upsert, points_pb2.UpsertRequest(collection="c")),
        "admin": (collections.DropCollection, collections_pb2.DropCollectionRequest(name="c")),
    }
    order = list(calls)
    for role, token in zip(order, (keys.read, keys.write, keys.admin), strict=True):
        for needed, (method, request) in calls.items():
            result = outcome(method, request, token)
            if order.index(role) >= order.index(needed):
                assert answered(result), (role, needed, result)
            else:
                assert result.code is DENIED
                assert f"'the-{role}-key' has the role {role}, this call needs {needed}" in result.message
                assert token not in result.message


def test_grants(guarded, keys, outcome):
    assert outcome(*count(guarded, "team-a"), keys.team).count == 7
    for name in ("other", "team", "", "x-team-a"):
        failure = outcome(*count(guarded, name), keys.team)
        assert failure.code is DENIED
        assert f"'team' is not for collection {name!r}" in failure.message
    describe = collections_pb2_grpc.CollectionServiceStub(guarded).DescribeCollection
    request = collections_pb2.DescribeCollectionRequest()
    assert outcome(describe, request, keys.team).collection.name == "team-a,team-b"
    assert outcome(describe, request, keys.read).collection.name == "team-a,team-b,other"


def test_streams_and_threads(guarded, keys, outcome):
    scroll = points_pb2_grpc.PointServiceStub(guarded).Scroll
    metadata = [("authorization", f"Bearer {keys.write}")]
    pages = scroll(points_pb2.ScrollRequest(), metadata=metadata, timeout=10)
    assert [page.cursor for page in pages] == ["the-write-key"] * 3
    with pytest.raises(grpc.RpcError) as refused:
        list(scroll(points_pb2.ScrollRequest(), timeout=10))
    assert refused.value.code() is UNAUTHENTICATED
    listing = collections_pb2_grpc.CollectionServiceStub(guarded).ListCollections
    assert outcome(listing, collections_pb2.ListCollectionsRequest()).code is UNAUTHENTICATED
    assert answered(outcome(listing, collections_pb2.ListCollectionsRequest(), keys.read))


def test_calls_at_the_same_time_do_not_mix_their_principals(guarded, keys):
    describe = collections_pb2_grpc.CollectionServiceStub(guarded).DescribeCollection
    tokens = {"the-read-key": keys.read, "the-write-key": keys.write, "the-admin-key": keys.admin, "team": keys.team}
    request = collections_pb2.DescribeCollectionRequest()
    calls = [
        (name, describe.future(request, metadata=[("x-api-key", token)], timeout=20))
        for _ in range(50)
        for name, token in tokens.items()
    ]
    assert all(call.result().collection.state == name for name, call in calls)


def test_health_is_open_and_tells_nothing_else(guarded, outcome):
    stub = health_pb2_grpc.HealthStub(guarded)
    assert outcome(stub.Check, health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection_needs_a_key(guarded, keys):
    info = reflection_pb2_grpc.ServerReflectionStub(guarded).ServerReflectionInfo
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as refused:
        list(info(iter([request]), timeout=10))
    assert refused.value.code() is UNAUTHENTICATED
    (answer,) = info(iter([request]), metadata=[("x-api-key", keys.read)], timeout=10)
    assert "nearhash.v1.PointService" in [service.name for service in answer.list_services_response.service]


def test_methods_that_do_not_exist_are_for_admins(guarded, keys, outcome):
    method = guarded.unary_unary("/nearhash.v1.Secret/Method", lambda message: b"", lambda data: data)
    assert outcome(method, None).code is UNAUTHENTICATED
    assert outcome(method, None, keys.write).code is DENIED
    assert outcome(method, None, keys.admin).code is grpc.StatusCode.UNIMPLEMENTED


def test_who_has_no_key_is_refused_before_his_message_is_read(keys, outcome, serving, plain):
    """The message is longer than the server takes: whoever reads it answers RESOURCE_EXHAUSTED."""
    channel = plain(serving(KeyRing(keys.path), options=[("grpc.max_receive_message_length", 1 << 20)]))
    upsert = points_pb2_grpc.PointServiceStub(channel).Upsert
    request = points_pb2.UpsertRequest(collection="c", payloads=[bytes(4 << 20)])
    assert outcome(upsert, request).code is UNAUTHENTICATED
    assert outcome(upsert, request, keys.read).code is DENIED
    assert outcome(upsert, request, keys.write).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert outcome(*count(channel), keys.write).count == 7


def test_a_key_expires(keys, outcome, serving, plain, tmp_path, monkeypatch):
    path = tmp_path / "keys.json"
    token = add_key(path, "visitor", "read", expires=datetime.now(timezone.utc) + timedelta(hours=1))
    channel = plain(serving(KeyRing(path)))
    assert outcome(*count(channel), token).count == 7

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(key_file, "datetime", Later)
    failure = outcome(*count(channel), token)
    assert failure.code is UNAUTHENTICATED
    assert "'visitor' expired on" in failure.message


def test_keys_change_without_a_restart(outcome, serving, plain, tmp_path, caplog):
    path = tmp_path / "keys.json"
    old = add_key(path, "app-1", "read")
    channel = plain(serving(KeyRing(path), attempts=FailedAttempts(10**6)))
    assert outcome(*count(channel), old).count == 7
    new = add_key(path, "app-2", "read")
    until(lambda: answered(outcome(*count(channel), new)))
    assert outcome(*count(channel), old).count == 7
    remove_key(path, "app-1")
    until(lambda: not answered(outcome(*count(channel), old)))
    assert outcome(*count(channel), old).code is UNAUTHENTICATED
    with caplog.at_level(logging.ERROR):
        path.write_text("{")
        until(lambda: outcome(*count(channel), new) and caplog.records)
    assert outcome(*count(channel), new).count == 7
    assert "what was read before stays in force" in caplog.text


def answered(result):
    return not isinstance(result, tuple)


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)


def test_guessing_is_limited_and_good_keys_still_work(keys, outcome, serving, plain, tmp_path):
    clock = [0.0]
    audit = AuditLog(tmp_path / "audit")
    attempts = FailedAttempts(limit=5, clock=lambda: clock[0])
    channel = plain(serving(KeyRing(keys.path), audit=audit, attempts=attempts))
    codes = [outcome(*count(channel), f"nhk_guess{guess}").code for guess in range(8)]
    assert codes == [UNAUTHENTICATED] * 5 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
    failure = outcome(*count(channel))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.metadata["retry-after"] == "60.000"
    assert failure.metadata["grpc-retry-pushback-ms"] == "60000"
    assert outcome(*count(channel), keys.read).count == 7
    clock[0] = 60.1
    assert outcome(*count(channel), "nhk_guess").code is UNAUTHENTICATED
    audit.close()
    recorded = [json.loads(line)["code"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert recorded == ["UNAUTHENTICATED"] * 5 + ["RESOURCE_EXHAUSTED"] + ["UNAUTHENTICATED"]


def test_without_keys_everybody_is_let_in(outcome, serving, plain):
    channel = plain(serving(None))
    describe = collections_pb2_grpc.CollectionServiceStub(channel).DescribeCollection
    assert outcome(describe, collections_pb2.DescribeCollectionRequest()).collection.state == "anyone"
