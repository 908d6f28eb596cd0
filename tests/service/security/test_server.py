"""The server itself: no method lets anybody at a collection that his key is not for, and the audit log tells it all."""

import json
import time
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nearhash.protos.v1 import attention_pb2, collections_pb2, documents_pb2, hashes_pb2, points_pb2, search_pb2
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.engine.database import Database
from nearhash.service.security.access import METHOD_ACTIONS
from nearhash.service.security.key_file import add_key
from nearhash.service.security.transport import TransportConfig
from nearhash.service.wire import to_tensor

CODE = grpc.StatusCode
DIM = 4
ADDRESSED = {
    "SearchService": ["Search", "GetInfo"],
    "PointService": ["Upsert", "Delete", "Get", "Count", "Scroll"],
    "CollectionService": [
        "CreateCollection",
        "DescribeCollection",
        "DropCollection",
        "SnapshotCollection",
        "RestoreCollection",
        "GetStats",
    ],
    "DocumentService": [
        "CreateDocuments",
        "DescribeDocuments",
        "DropDocuments",
        "UpsertDocuments",
        "DeleteDocuments",
        "FindDuplicates",
        "CheckAndAdd",
    ],
}
SPANNING = {
    "CollectionService": ["ListCollections", "ListSnapshots"],
    "DocumentService": ["ListDocuments"],
    "HashService": ["Sketch", "Encode"],
    "AttentionService": list(attention_pb2.DESCRIPTOR.services_by_name["AttentionService"].methods_by_name),
}


class Served(NamedTuple):
    channel: grpc.Channel
    operator: str  # admin of everything
    team: str  # admin of team-*
    recorded: str  # the same, used in one test only
    audit: Any


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    path = folder / "keys.json"
    grants = {"operator": ["*"], "team": ["team-*"], "recorded": ["team-*"]}
    tokens = [add_key(path, name, "admin", collections) for name, collections in grants.items()]
    config = ServerConfig(limits=Limits(max_payload_depth=8), keys=path, audit=folder / "audit.log")
    database = Database(folder / "data")
    for name in ("team-a", "secret"):
        database.create(name, dim=DIM, metric="l2").upsert([1], np.zeros((1, DIM), np.float32))
        database.snapshot(name, f"{name}-copy")
        database.documents.create(f"{name}-texts" if name != "secret" else name, False, {"threshold": 0.7})
    with (
        running_server(None, config=config, database=database) as address,
        grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel,
    ):
        yield Served(channel, *tokens, folder / "audit.log")
    database.close()


def methods(of=None):
    """Methods of the protocol, with the kind of request and whether the answer is a stream."""
    return [
        pytest.param(
            f"/{service.full_name}/{method.name}",
            getattr(module, method.input_type.name),
            method.server_streaming,
            id=method.name,
        )
        for module in (search_pb2, points_pb2, collections_pb2, documents_pb2, hashes_pb2, attention_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if of is None or method.name in of.get(service.name, ())
    ]


def call(channel, path, request, token, stream=False):
    """The code that a call ends with, and its message."""
    make = channel.unary_stream if stream else channel.unary_unary
    method = make(path, type(request).SerializeToString, lambda data: data)
    try:
        answer = method(request, metadata=[("x-api-key", token)] if token else [], timeout=20)
        return CODE.OK, list(answer) if stream else answer
    except grpc.RpcError as error:
        return error.code(), error.details()


def about(kind, name):
    """A request that names a collection."""
    request = kind()
    setattr(request, "collection" if "collection" in kind.DESCRIPTOR.fields_by_name else "name", name)
    return request


@pytest.mark.parametrize(("path", "kind", "stream"), methods())
def test_no_method_answers_without_a_key(served, path, kind, stream):
    code, message = call(served.channel, path, kind(), None, stream)
    assert code in (CODE.UNAUTHENTICATED, CODE.RESOURCE_EXHAUSTED)
    assert message.startswith("authorization: ")
    assert path in METHOD_ACTIONS


def test_every_method_names_a_collection_or_spans_all():
    assert len(methods()) == len(methods(ADDRESSED)) + len(methods(SPANNING)), "say above which the new method does"


@pytest.mark.parametrize(("path", "kind", "stream"), methods(ADDRESSED))
def test_no_method_reaches_a_collection_that_is_not_granted(served, path, kind, stream):
    """Whether there is one of that name makes no difference."""
    for name in ("secret", "nothing"):
        code, message = call(served.channel, path, about(kind, name), served.team, stream)
        assert code is CODE.PERMISSION_DENIED, message
        assert message == f"authorization: key 'team' is not for collection {name!r}"
    assert call(served.channel, path, about(kind, "team-b"), served.team, stream)[0] is not CODE.PERMISSION_DENIED


def test_listings_show_what_is_granted(served):
    def listed(token):
        service = "/nearhash.v1.CollectionService"
        code, data = call(served.channel, f"{service}/ListCollections", collections_pb2.ListCollectionsRequest(), token)
        assert code is CODE.OK
        names = [one.name for one in collections_pb2.ListCollectionsResponse.FromString(data).collections]
        code, data = call(served.channel, f"{service}/ListSnapshots", collections_pb2.ListSnapshotsRequest(), token)
        assert code is CODE.OK
        snapshots = [one.name for one in collections_pb2.ListSnapshotsResponse.FromString(data).snapshots]
        path, request = "/nearhash.v1.DocumentService/ListDocuments", documents_pb2.ListDocumentsRequest()
        code, data = call(served.channel, path, request, token)
        assert code is CODE.OK
        documents = [one.name for one in documents_pb2.ListDocumentsResponse.FromString(data).collections]
        return sorted(names), sorted(snapshots), sorted(documents)

    assert listed(served.team) == (["team-a"], ["team-a-copy"], ["team-a-texts"])
    assert listed(served.operator) == (
        ["secret", "team-a"],
        ["secret-copy", "team-a-copy"],
        ["secret", "team-a-texts"],
    )


def test_a_snapshot_of_another_collection_cannot_be_restored_under_an_own_name(served):
    request = collections_pb2.RestoreCollectionRequest(snapshot="secret-copy", name="team-thief")
    code, message = call(served.channel, "/nearhash.v1.CollectionService/RestoreCollection", request, served.team)
    assert code is CODE.PERMISSION_DENIED, message


def test_health_does_not_tell_who_has_no_key_which_collections_there_are(served):
    stub = health_pb2_grpc.HealthStub(served.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
    for name in ("secret", "nothing"):
        with pytest.raises(grpc.RpcError) as refused:
            stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert refused.value.code() is CODE.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


@pytest.mark.parametrize("name", ["../escape", "a/b", "/etc", "..", ".hidden", "", "a\0", "a\n", "x" * 65, "%2e%2e"])
def test_names_lead_nowhere_else(served, name):
    for method, request in (
        ("CreateCollection", collections_pb2.CreateCollectionRequest(name=name, settings={"dim": DIM})),
        ("DropCollection", collections_pb2.DropCollectionRequest(name=name)),
        ("RestoreCollection", collections_pb2.RestoreCollectionRequest(name=name, snapshot="secret-copy")),
        ("RestoreCollection", collections_pb2.RestoreCollectionRequest(name="new", snapshot=name)),
        ("SnapshotCollection", collections_pb2.SnapshotCollectionRequest(name="secret", snapshot=name or "../x")),
    ):
        code, message = call(served.channel, f"/nearhash.v1.CollectionService/{method}", request, served.operator)
        assert code is CODE.INVALID_ARGUMENT, (method, message)


def upsert(payload, **fields):
    return points_pb2.UpsertRequest(
        collection="team-a",
        ids=points_pb2.Ids(numbers=np.array([7], "<i8").tobytes()),
        vectors=to_tensor(np.ones((1, DIM), np.float32), "vectors"),
        payloads=[payload],
        **fields,
    )


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":' * 9 + b"1" + b"}" * 9,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 1_000_000,
    ],
    ids=["nine", "lists", "unclosed", "huge"],
)
def test_deep_payloads_are_refused_and_the_server_lives_on(served, payload):
    code, message = call(served.channel, "/nearhash.v1.PointService/Upsert", upsert(payload), served.team)
    assert code is CODE.INVALID_ARGUMENT
    assert message.startswith("payloads[0]: ")
    good = upsert(b'{"a":' * 8 + b"1" + b"}" * 8)
    assert call(served.channel, "/nearhash.v1.PointService/Upsert", good, served.team)[0] is CODE.OK


def test_the_audit_log_has_writes_and_refusals_and_nothing_of_the_points(served):
    request = upsert(b'{"password": "hunter2"}', request_id="r-1")
    delete = points_pb2.DeleteRequest(collection="team-a", ids=request.ids, request_id="r-2")
    bad = points_pb2.UpsertRequest(collection="secret", payloads=[b'{"password": "hunter2"}'])
    points, collections = "/nearhash.v1.PointService", "/nearhash.v1.CollectionService"
    create = collections_pb2.CreateCollectionRequest(name="team-n", settings={"dim": 3})
    twice = points_pb2.DeleteRequest(collection="team-a", ids=points_pb2.Ids(texts=["hunter2"] * 2))
    twice.ids.numbers = np.array([-2, -3], "<i8").tobytes()
    drop = collections_pb2.DropCollectionRequest(name="team-n")
    steps = [
        (f"{collections}/CreateCollection", create),
        (f"{points}/Upsert", request),
        (f"{points}/Upsert", bad),
        (f"{points}/Delete", delete),
        (f"{points}/Count", points_pb2.CountRequest(collection="team-a")),  # reads are not recorded
        (f"{points}/Count", points_pb2.CountRequest(collection="secret")),
        (f"{collections}/DropCollection", drop),
        (f"{collections}/DropCollection", drop),
        (f"{points}/Delete", twice),
    ]
    answers = [call(served.channel, path, message, served.recorded)[1] for path, message in steps]
    assert "hunter2" in answers[-1]  # the caller is shown what he sent
    wanted = ("method", "collection", "code", "written", "deleted", "request_id")
    assert [tuple(line[field] for field in wanted) for line in recorded_lines(served.audit, 8)] == [
        (f"{collections}/CreateCollection", "team-n", "OK", None, None, ""),
        (f"{points}/Upsert", "team-a", "OK", 1, None, "r-1"),
        (f"{points}/Upsert", "secret", "PERMISSION_DENIED", None, None, ""),
        (f"{points}/Delete", "team-a", "OK", None, 1, "r-2"),
        (f"{points}/Count", "secret", "PERMISSION_DENIED", None, None, ""),
        (f"{collections}/DropCollection", "team-n", "OK", None, None, ""),
        (f"{collections}/DropCollection", "team-n", "NOT_FOUND", None, None, ""),
        (f"{points}/Delete", "team-a", "INVALID_ARGUMENT", None, None, ""),
    ]
    assert recorded_lines(served.audit, 8)[-1]["reason"] == "ids"
    text = served.audit.read_text()
    for secret in ("hunter2", served.operator, served.team, served.recorded):
        assert secret not in text


def test_the_audit_log_has_writes_of_documents_and_nothing_of_their_texts(served):
    texts = documents_pb2.Documents(texts=hashes_pb2.Texts(values=[b"hunter3 and more words than five"]))
    ids = points_pb2.Ids(numbers=np.array([7], "<i8").tobytes())
    asked = {"collection": "team-a-texts", "ids": ids, "documents": texts}
    service = "/nearhash.v1.DocumentService"
    steps = [
        ("CheckAndAdd", documents_pb2.CheckAndAddRequest(**asked, request_id="r-7")),
        ("UpsertDocuments", documents_pb2.UpsertDocumentsRequest(**asked)),
        ("FindDuplicates", documents_pb2.FindDuplicatesRequest(collection="team-a-texts", documents=texts)),
        ("DeleteDocuments", documents_pb2.DeleteDocumentsRequest(collection="team-a-texts", ids=ids)),
        ("CheckAndAdd", documents_pb2.CheckAndAddRequest(collection="secret", documents=texts)),
    ]
    before = len(served.audit.read_text().splitlines())
    for name, message in steps:
        call(served.channel, f"{service}/{name}", message, served.team)
    deadline = time.monotonic() + 10
    while len(served.audit.read_text().splitlines()) < before + 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    lines = [json.loads(line) for line in served.audit.read_text().splitlines()[before:]]
    wanted = ("method", "collection", "code", "written", "deleted")
    assert [tuple(line[field] for field in wanted) for line in lines] == [
        (f"{service}/CheckAndAdd", "team-a-texts", "OK", 1, None),
        (f"{service}/UpsertDocuments", "team-a-texts", "OK", 1, None),
        (f"{service}/DeleteDocuments", "team-a-texts", "OK", None, 1),
        (f"{service}/CheckAndAdd", "secret", "PERMISSION_DENIED", None, None),
    ]
    assert "hunter3" not in served.audit.read_text()


def recorded_lines(path, count):
    """Lines about the key "recorded", once there are so many."""
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [line for line in lines if line["principal"] == "recorded"]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def test_the_server_speaks_tls_and_limits_messages(certificates, index, tls_channel):
    config = ServerConfig(
        limits=Limits(max_message_bytes=1 << 16),
        transport=TransportConfig(*certificates.issue("server"), client_ca=certificates.ca),
    )
    with running_server(index, config=config) as address:
        channel = tls_channel(int(address.rpartition(":")[2]), certificates.ca, certificates.issue("client"))
        info = "/nearhash.v1.SearchService/GetInfo"
        assert call(channel, info, search_pb2.GetInfoRequest(), None)[0] is CODE.OK
        long = search_pb2.GetInfoRequest(collection="x" * (1 << 17))
        assert call(channel, info, long, None)[0] is CODE.RESOURCE_EXHAUSTED
