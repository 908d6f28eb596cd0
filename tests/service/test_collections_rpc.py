"""CollectionService: collections are made, listed, described, dropped, copied and brought back, over raw calls."""

import json
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import nearhash as nh
from nearhash.errors import InvalidArgumentError
from nearhash.protos.v1 import collections_pb2 as pb
from nearhash.protos.v1 import points_pb2, search_pb2
from nearhash.service.background import running_server
from nearhash.service.catalog import Catalog
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.engine.database import Database
from nearhash.service.points_wire import from_found, to_ids
from nearhash.service.wire import to_tensor

DIM = 24
CODE = grpc.StatusCode
HEALTH = health_pb2.HealthCheckResponse


def refusal(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        call(request, timeout=20)
    return failure.value.code(), failure.value.details()


def nearest(stubs, name: str, vector) -> int | str:
    request = search_pb2.SearchRequest(collection=name, queries=to_tensor(vector, "queries"), k=1)
    return from_found(stubs.search.Search(request, timeout=20), 1, 1).ids[0, 0]


def health(stubs, service: str) -> int:
    return health_pb2_grpc.HealthStub(stubs.channel).Check(health_pb2.HealthCheckRequest(service=service)).status


def test_a_collection_from_beginning_to_end(stubs, vectors):
    settings = pb.CollectionSettings(
        dim=DIM, metric="ip", labels=["a", "b"], index="graph", index_options_json='{"degree": 16}', seal_at=5000
    )
    made = stubs.collections.CreateCollection(pb.CreateCollectionRequest(name="whole", settings=settings)).collection
    assert made == pb.Collection(name="whole", settings=settings, size=0, state="ok")
    stubs.upsert("whole", range(50), vectors[:50])
    described = stubs.collections.DescribeCollection(pb.DescribeCollectionRequest(name="whole")).collection
    assert described == pb.Collection(name="whole", settings=settings, size=50, state="ok")
    assert described in stubs.collections.ListCollections(pb.ListCollectionsRequest()).collections
    stats = json.loads(stubs.collections.GetStats(pb.GetStatsRequest(collection="whole")).stats_json)
    assert stats == {**stubs.database.get("whole").stats(), "disk_bytes": stats["disk_bytes"]}
    info = stubs.search.GetInfo(search_pb2.GetInfoRequest(collection="whole"))
    assert (info.collection, info.kind, info.dim, info.metric, info.size) == ("whole", "collection", DIM, "ip", 50)
    assert json.loads(info.details_json)["index_options"] == {"degree": 16}
    assert health(stubs, "whole") == HEALTH.SERVING
    stubs.collections.DropCollection(pb.DropCollectionRequest(name="whole"))
    request = pb.DescribeCollectionRequest(name="whole")
    assert refusal(stubs.collections.DescribeCollection, request)[0] is CODE.NOT_FOUND
    assert health(stubs, "whole") == HEALTH.SERVICE_UNKNOWN
    assert not (stubs.database.root / "collections" / "whole").exists()
    stubs.create("whole", dim=3)  # the name is free again
    assert stubs.collections.DescribeCollection(request).collection.settings.dim == 3


def test_the_empty_name_is_the_default_one(stubs, vectors):
    stubs.create("default")
    stubs.upsert("", [7], vectors[:1])
    assert nearest(stubs, "", vectors[0]) == nearest(stubs, "default", vectors[0]) == 7
    assert stubs.points.Count(points_pb2.CountRequest()).count == 1
    assert refusal(stubs.collections.DropCollection, pb.DropCollectionRequest())[0] is CODE.INVALID_ARGUMENT


def test_one_that_exists_is_not_made_again_unless_its_settings_agree(stubs):
    stubs.create("twice", metric="l2", labels=["x"])

    def request(**settings) -> pb.CreateCollectionRequest:
        return pb.CreateCollectionRequest(
            name="twice", if_missing="metric" in settings, settings=pb.CollectionSettings(**{"dim": DIM, **settings})
        )

    code, details = refusal(stubs.collections.CreateCollection, request())
    assert code is CODE.ALREADY_EXISTS
    assert details == "name: there is a collection 'twice' already"
    assert stubs.collections.CreateCollection(request(metric="l2")).collection.settings.labels == ["x"]
    code, details = refusal(stubs.collections.CreateCollection, request(metric="ip"))
    assert code is CODE.INVALID_ARGUMENT
    assert details.startswith("metric: the collection in ")
    assert str(stubs.database.root) not in details


BAD_SETTINGS = {
    "no dim": ({"dim": 0}, "dim"),
    "huge dim": ({"dim": 32_769}, "max_dim: the dimension is 32769, the limit is 32768"),
    "metric": ({"metric": "l3"}, "metric"),
    "index": ({"index": "tree"}, "index: expected one of auto"),
    "labels": ({"labels": ["a", "a"]}, "labels"),
    "label name": ({"labels": ["../x"]}, "labels"),
    "options": ({"index": "graph", "index_options_json": "[]"}, "index_options_json: expected a JSON object"),
    "options text": ({"index": "graph", "index_options_json": "{"}, "index_options_json: not valid JSON"),
    "options depth": ({"index": "graph", "index_options_json": "[" * 99_999}, "index_options_json: not valid JSON"),
    "option": ({"index": "graph", "index_options_json": '{"dim": 3}'}, "index_options"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_refused_and_leave_nothing(stubs, name):
    given, message = BAD_SETTINGS[name]
    settings = pb.CollectionSettings(**{"dim": DIM, **given})
    code, details = refusal(
        stubs.collections.CreateCollection, pb.CreateCollectionRequest(name="bad", settings=settings)
    )
    assert code is CODE.INVALID_ARGUMENT, details
    assert details.startswith(message), details
    assert "bad" not in stubs.database.names()


def test_there_may_be_so_many_collections(serve_folder, tmp_path):
    with serve_folder(tmp_path, ServerConfig(limits=Limits(max_collections=2, max_dim=64))) as stubs:
        stubs.create("a")
        stubs.create("b")
        with pytest.raises(grpc.RpcError, match="max_collections: there are 2 collections, the limit"):
            stubs.create("c")
        with pytest.raises(grpc.RpcError, match="max_dim: the dimension is 65, the limit is 64"):
            stubs.create("c", dim=65)


def test_a_snapshot_is_what_was_there_and_becomes_a_collection_again(stubs, vectors):
    stubs.create("origin")
    stubs.upsert("origin", [1, "b"], vectors[:2])
    request = pb.SnapshotCollectionRequest(name="origin", snapshot="monday")
    made = stubs.collections.SnapshotCollection(request).snapshot
    assert (made.name, made.collection) == ("monday", "origin")
    assert made.bytes > 0
    assert abs(made.created - time.time()) < 60
    assert refusal(stubs.collections.SnapshotCollection, request)[0] is CODE.ALREADY_EXISTS
    unnamed = stubs.collections.SnapshotCollection(pb.SnapshotCollectionRequest(name="origin")).snapshot
    assert unnamed.name.startswith("origin-")
    listed = stubs.collections.ListSnapshots(pb.ListSnapshotsRequest()).snapshots
    assert {one.name for one in listed} == {"monday", unnamed.name}
    stubs.upsert("origin", [1], vectors[5:6])
    stubs.collections.DropCollection(pb.DropCollectionRequest(name="origin"))
    restore = pb.RestoreCollectionRequest(snapshot="monday", name="again")
    restored = stubs.collections.RestoreCollection(restore).collection
    assert (restored.name, restored.size, restored.state) == ("again", 2, "ok")
    assert [nearest(stubs, "again", vector) for vector in vectors[:2]] == [1, "b"]
    assert health(stubs, "again") == HEALTH.SERVING
    assert refusal(stubs.collections.RestoreCollection, restore)[0] is CODE.ALREADY_EXISTS
    missing = pb.RestoreCollectionRequest(snapshot="tuesday", name="other")
    code, details = refusal(stubs.collections.RestoreCollection, missing)
    assert (code, details) == (CODE.NOT_FOUND, "snapshot: no snapshot 'tuesday' here")


def test_a_collection_is_dropped_when_nobody_uses_it_any_more(serve_folder, tmp_path, vectors, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    search = nh.Collection.search

    def held(self, *arguments, **options):
        entered.set()
        assert go.wait(20)
        return search(self, *arguments, **options)

    with serve_folder(tmp_path) as stubs:
        stubs.create("c")
        stubs.upsert("c", range(9), vectors[:9])
        monkeypatch.setattr(nh.Collection, "search", held)
        request = search_pb2.SearchRequest(collection="c", queries=to_tensor(vectors[0], "queries"), k=1)
        request.with_payloads = True  # which are read at the end
        searching = stubs.search.Search.future(request, timeout=20)
        assert entered.wait(20)
        dropping = stubs.collections.DropCollection.future(pb.DropCollectionRequest(name="c"), timeout=20)
        end = time.monotonic() + 20
        count = points_pb2.CountRequest(collection="c")
        while time.monotonic() < end:
            try:
                stubs.points.Count(count, timeout=20)
            except grpc.RpcError as error:
                refused = error.code()
                break
        assert refused is CODE.NOT_FOUND
        assert not dropping.done()
        go.set()
        assert from_found(searching.result(), 1, 1).ids.tolist() == [[0]]
        dropping.result()
        assert stubs.database.names() == []


def test_an_index_beside_collections_is_there_for_reading(serve_folder, tmp_path, index, vectors):
    with serve_folder(tmp_path, index=index) as stubs:
        stubs.create("c")
        stubs.upsert("c", [5], vectors[:1])
        assert nearest(stubs, "", vectors[3]) == nearest(stubs, "default", vectors[3]) == 10
        assert nearest(stubs, "c", vectors[3]) == 5
        listed = stubs.collections.ListCollections(pb.ListCollectionsRequest()).collections
        assert [(one.name, one.size, one.state) for one in listed] == [("c", 1, "ok"), ("default", 600, "read-only")]
        assert json.loads(stubs.collections.GetStats(pb.GetStatsRequest()).stats_json)["kind"] == "flat"
        upsert = points_pb2.UpsertRequest(ids=to_ids([1]), vectors=to_tensor(vectors[:1], ""))
        for call, request, code in (
            (stubs.points.Upsert, upsert, CODE.FAILED_PRECONDITION),
            (stubs.points.Delete, points_pb2.DeleteRequest(), CODE.FAILED_PRECONDITION),
            (stubs.collections.DropCollection, pb.DropCollectionRequest(name="default"), CODE.FAILED_PRECONDITION),
            (stubs.collections.SnapshotCollection, pb.SnapshotCollectionRequest(), CODE.FAILED_PRECONDITION),
            (
                stubs.collections.CreateCollection,
                pb.CreateCollectionRequest(name="default", settings=pb.CollectionSettings(dim=3)),
                CODE.ALREADY_EXISTS,
            ),
        ):
            assert refusal(call, request)[0] is code


def test_an_index_alone_has_no_collections(channel, address):
    create = channel.unary_unary("/nearhash.v1.CollectionService/CreateCollection")
    settings = pb.CollectionSettings(dim=3)
    code, details = refusal(create, pb.CreateCollectionRequest(name="x", settings=settings).SerializeToString())
    assert (code, details) == (
        CODE.FAILED_PRECONDITION,
        "this cannot be written to: it is served for reading only",
    )


def test_filters_and_recall_reach_an_index_that_knows_them(serve_folder, tmp_path):
    known = nh.FlatIndex(2, metric="l2")
    known.add(np.eye(2), attributes={"color": [1, 2]})
    with serve_folder(tmp_path, index=known) as stubs:
        fields = {"queries": to_tensor(np.zeros((1, 2), np.float32), ""), "k": 2}
        answer = stubs.search.Search(search_pb2.SearchRequest(filter_json='{"eq": ["color", 2]}', **fields))
        assert from_found(answer, 1, 2).ids.tolist() == [[1, -1]]
        for more, message in (
            ({"recall": 0.9}, "recall: expected none, as this index cannot be tuned"),
            ({"window_label": "x"}, "window_label: expected none"),
            ({"with_payloads": True}, "with_payloads, with_vectors: expected false"),
        ):
            code, details = refusal(stubs.search.Search, search_pb2.SearchRequest(**fields, **more))
            assert code is CODE.INVALID_ARGUMENT
            assert details.startswith(message)


def test_nothing_to_serve_and_two_of_one_name_are_refused(tmp_path, index):
    with pytest.raises(InvalidArgumentError, match="index, database: expected at least one"):
        Catalog("default")
    with Database(tmp_path) as database:
        database.create("default", dim=3)
        with pytest.raises(InvalidArgumentError, match="collection: expected a name for the index"):
            Catalog("default", index, database)


def test_a_damaged_collection_does_not_keep_others_from_being_served(tmp_path, vectors, serve_folder):
    with Database(tmp_path) as database:
        database.create("good", dim=DIM).upsert([1], vectors[:1])
        database.create("bad", dim=DIM).upsert([1], vectors[:1])
        (file,) = [path for path in (tmp_path / "collections" / "bad").iterdir() if path.suffix in (".db", ".sqlite")]
    file.write_bytes(b"x" * file.stat().st_size)
    with serve_folder(tmp_path) as stubs:
        assert nearest(stubs, "good", vectors[0]) == 1
        listed = stubs.collections.ListCollections(pb.ListCollectionsRequest()).collections
        assert [(one.name, one.state) for one in listed] == [("bad", "damaged"), ("good", "ok")]
        code, details = refusal(stubs.points.Count, points_pb2.CountRequest(collection="bad"))
        assert code is CODE.DATA_LOSS
        assert str(tmp_path) not in details
        stubs.collections.DropCollection(pb.DropCollectionRequest(name="bad"))
        assert stubs.database.names() == ["good"]


def test_health_and_reflection_know_every_service(stubs):
    services = [f"nearhash.v1.{name}Service" for name in ("Search", "Point", "Collection")]
    for service in ("", *services):
        assert health(stubs, service) == HEALTH.SERVING
    database = ProtoReflectionDescriptorDatabase(stubs.channel)
    assert set(services) <= set(database.get_services())
    for symbol in ("UpsertRequest", "CreateCollectionRequest", "SearchRequest"):
        assert database.FindFileContainingSymbol(f"nearhash.v1.{symbol}")


def test_collections_are_not_serving_until_the_server_is(tmp_path, vectors, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    search = nh.Collection.search

    def held(self, *arguments, **options):
        entered.set()
        assert go.wait(20)
        return search(self, *arguments, **options)

    states = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def watch() -> None:
        assert entered.wait(20)
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "c", "nearhash.v1.PointService"):
                states.append(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status)
        go.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Database(tmp_path) as database:
        database.create("c", dim=DIM).upsert([1], vectors[:1])
        monkeypatch.setattr(nh.Collection, "search", held)  # the server warms up by searching
        with running_server(None, address, database=database), grpc.insecure_channel(address) as channel:
            watcher.join()
            assert states == [HEALTH.NOT_SERVING] * 3
            request = health_pb2.HealthCheckRequest(service="c")
            assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status == HEALTH.SERVING
