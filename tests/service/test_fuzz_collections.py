"""Random and mutated requests to every method of collections: refused or answered, without traces, and nothing hurt."""

import json
from unittest import mock

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.hashing import MinHash
from nearhash.protos.v1 import (
    attention_pb2,
    collections_pb2,
    documents_pb2,
    hashes_pb2,
    points_pb2,
    search_pb2,
    tensor_pb2,
)
from nearhash.service.hash_wire import to_sketches
from nearhash.service.points_wire import to_ids, to_labels
from nearhash.service.wire import to_tensor

DIM = 4
CODE = grpc.StatusCode
REFUSALS = {CODE.INVALID_ARGUMENT, CODE.NOT_FOUND, CODE.ALREADY_EXISTS}
METHODS = {
    "/nearhash.v1.SearchService/Search": search_pb2.SearchRequest,
    "/nearhash.v1.SearchService/GetInfo": search_pb2.GetInfoRequest,
    "/nearhash.v1.PointService/Upsert": points_pb2.UpsertRequest,
    "/nearhash.v1.PointService/Delete": points_pb2.DeleteRequest,
    "/nearhash.v1.PointService/Get": points_pb2.GetRequest,
    "/nearhash.v1.PointService/Count": points_pb2.CountRequest,
    "/nearhash.v1.PointService/Scroll": points_pb2.ScrollRequest,
    "/nearhash.v1.CollectionService/CreateCollection": collections_pb2.CreateCollectionRequest,
    "/nearhash.v1.CollectionService/ListCollections": collections_pb2.ListCollectionsRequest,
    "/nearhash.v1.CollectionService/DescribeCollection": collections_pb2.DescribeCollectionRequest,
    "/nearhash.v1.CollectionService/DropCollection": collections_pb2.DropCollectionRequest,
    "/nearhash.v1.CollectionService/SnapshotCollection": collections_pb2.SnapshotCollectionRequest,
    "/nearhash.v1.CollectionService/ListSnapshots": collections_pb2.ListSnapshotsRequest,
    "/nearhash.v1.CollectionService/RestoreCollection": collections_pb2.RestoreCollectionRequest,
    "/nearhash.v1.CollectionService/GetStats": collections_pb2.GetStatsRequest,
    "/nearhash.v1.HashService/Sketch": hashes_pb2.SketchRequest,
    "/nearhash.v1.HashService/Encode": hashes_pb2.EncodeRequest,
    "/nearhash.v1.DocumentService/CreateDocuments": documents_pb2.CreateDocumentsRequest,
    "/nearhash.v1.DocumentService/ListDocuments": documents_pb2.ListDocumentsRequest,
    "/nearhash.v1.DocumentService/DescribeDocuments": documents_pb2.DescribeDocumentsRequest,
    "/nearhash.v1.DocumentService/DropDocuments": documents_pb2.DropDocumentsRequest,
    "/nearhash.v1.DocumentService/UpsertDocuments": documents_pb2.UpsertDocumentsRequest,
    "/nearhash.v1.DocumentService/DeleteDocuments": documents_pb2.DeleteDocumentsRequest,
    "/nearhash.v1.DocumentService/FindDuplicates": documents_pb2.FindDuplicatesRequest,
    "/nearhash.v1.DocumentService/CheckAndAdd": documents_pb2.CheckAndAddRequest,
    **{
        f"/nearhash.v1.AttentionService/{name}": getattr(attention_pb2, method.input_type.name)
        for name, method in attention_pb2.DESCRIPTOR.services_by_name["AttentionService"].methods_by_name.items()
    },
}
SESSION = "the one that there is"
SKETCHES = to_sketches(MinHash(seed=1).sketch_texts(["a b c", "d e f"]))

filters = st.recursive(
    st.one_of(
        st.tuples(
            st.sampled_from(["eq", "in", "range", "exists", "x"]), st.lists(st.integers() | st.text(), max_size=3)
        ),
        st.just(("exists", "a")),
        st.just(("eq", ["a", 1])),
    ).map(lambda pair: {pair[0]: pair[1]}),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda terms: {"and": terms}), inner.map(lambda term: {"not": term})
    ),
    max_leaves=6,
).map(json.dumps)
names = st.sampled_from(["c", "c", "other", "", "../c", "a/b", ".", "x" * 65]) | st.text(max_size=8)
numbers = st.lists(st.integers(-4, 5) | st.integers(-(2**63), 2**63 - 1), max_size=4).map(
    lambda values: np.array(values, np.int64).tobytes()
)
ids = st.builds(
    points_pb2.Ids, numbers=numbers | st.binary(max_size=20), texts=st.lists(st.text(max_size=4), max_size=3)
)


@st.composite
def tensors(draw: st.DrawFn) -> tensor_pb2.Tensor:
    shape = draw(st.sampled_from([[1, DIM], [2, DIM], [2], [1], [DIM], [], [2**63, 2], [0, DIM]]))
    dtype, itemsize = draw(st.sampled_from([(1, 4), (2, 8), (5, 1), (10, 8), (12, 1), (99, 1)]))
    elements = int(min(np.prod([float(axis) for axis in shape]), 64))
    fill = draw(st.sampled_from([b"\0", b"\0\0\x80?", b"\xff", b"\x01"]))
    size = elements * itemsize + draw(st.sampled_from([0, 0, 0, 1]))
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, data=(fill * size)[:size])


texts = st.builds(hashes_pb2.Texts, values=st.lists(st.sampled_from([b"", b"a b c", b"\xff", b"x " * 500]), max_size=3))
sketches = st.just(SKETCHES) | st.builds(
    hashes_pb2.Sketches, values=tensors(), header_json=st.sampled_from(["", "{}", "[]", "{", SKETCHES.header_json])
)
sketch_settings = st.builds(
    hashes_pb2.SketchSettings,
    k=st.sampled_from([0, 1, 128, 1 << 16, 2**32 - 1]),
    method=st.sampled_from(["", "fss", "classic", "affine32", "x"]),
    bits=st.sampled_from([0, 1, 8, 32, 33]),
    seed=st.sampled_from([None, 0, 2**64 - 1]),
    ngram=st.sampled_from([0, 1, 5, 2**32 - 1]),
    unit=st.sampled_from(["", "char", "x"]),
)


@st.composite
def heads(draw: st.DrawFn, axes: tuple[int, ...] | None = None) -> tensor_pb2.Tensor:
    """Keys, values or queries of the session, some of which are none."""
    shape = draw(st.sampled_from([[2, 2, 8], [2, 8], [1, 2, 8], [2, 0, 8]] if axes is None else [axes]))
    dtype = draw(st.sampled_from([np.float32, np.float16, np.int8]))
    fill = 1 if dtype is np.int8 else draw(st.sampled_from([0.0, 1.0, 1.0, 1.0, np.nan, 1e4]))
    return to_tensor(np.full(shape, fill, dtype), "")


@st.composite
def readings(draw: st.DrawFn) -> attention_pb2.Reading:
    names = st.sampled_from(["eps", "delta", "temperature", "floor", "heavy", "oracle", "shared", "threads", "x", ""])
    values = st.one_of(
        st.builds(attention_pb2.ReadingOption, real=st.floats()),
        st.builds(attention_pb2.ReadingOption, integer=st.integers(-(2**63), 2**63 - 1)),
        st.builds(attention_pb2.ReadingOption, flag=st.booleans()),
        st.builds(attention_pb2.ReadingOption),
    )
    budgets = [
        {},
        {},
        {},
        {"count": 3},
        {"count": 1},
        {"share": 0.5},
        {"share": 1.0},
        {"count": 2**64 - 1},
        {"share": np.nan},
        {"count": 0},
    ]
    return attention_pb2.Reading(
        estimator=draw(st.sampled_from(["", "", "dense", "uniform", "vattention", "topk_oracle", "magicpig", "x"])),
        sink=draw(small),
        local=draw(small),
        scale=draw(st.sampled_from([None, None, None, 0.3, 1.0, np.nan, 1e300, -1.0])),
        options=draw(st.just({}) | st.dictionaries(names, values, max_size=2)),
        **draw(st.sampled_from(budgets)),
    )


small = st.integers(0, 5) | st.integers(0, 2**32 - 1)
sessions = st.sampled_from([SESSION, SESSION, SESSION, "", "x"]) | st.text(max_size=8)
asked = st.builds(
    attention_pb2.Asked, session=sessions, layer=st.integers(0, 3), queries=heads((2, 8)) | heads(), step=small
)
MESSAGES = {  # by kind
    "CollectionSettings": st.builds(
        collections_pb2.CollectionSettings,
        dim=st.integers(0, 5) | st.integers(0, 2**32 - 1),
        metric=st.sampled_from(["", "l2", "x"]),
        labels=st.lists(st.sampled_from(["a", "b", ""]), max_size=2),
        index=st.sampled_from(["", "auto", "flat", "graph", "x"]),
        index_options_json=st.sampled_from(["", "{}", "[]", "{", '{"degree": "x"}', '{"degree": -1}']),
        seal_at=st.integers(0, 10) | st.integers(0, 2**32 - 1),
    ),
    "DocumentSettings": st.builds(
        documents_pb2.DocumentSettings,
        threshold=st.sampled_from([0.5, 1.0]) | st.floats(),
        sketches=sketch_settings,
        bands=st.sampled_from([0, 0, 1, 8, 2**32 - 1]),
        rows=st.sampled_from([0, 0, 1, 8, 2**32 - 1]),
    ),
    "SketchSettings": sketch_settings,
    "Documents": st.builds(documents_pb2.Documents, texts=texts)
    | st.builds(documents_pb2.Documents, sketches=sketches),
    "Sets": st.builds(hashes_pb2.Sets, indptr=tensors(), tokens=tensors()),
    "Texts": texts,
    "SessionSettings": st.builds(
        attention_pb2.SessionSettings,
        layers=st.integers(0, 3) | st.integers(0, 2**32 - 1),
        kv_heads=st.integers(0, 3) | st.integers(0, 2**32 - 1),
        head_dim=st.sampled_from([8, 8, 8, 0, 4, 2**32 - 1]),
        codec=st.sampled_from(["", "", "lvq4", "x"]),
        dtype=st.sampled_from(["", "", "float32", "x"]),
        seed=st.integers(0, 2**64 - 1),
    ),
    "Reading": readings(),
    "Asked": asked,
}
VALUES = {
    "collection": names,
    "name": names,
    "snapshot": names,
    "queries": tensors(),
    "vectors": tensors(),
    "window": tensors(),
    "allow": tensors(),
    "labels": st.dictionaries(st.sampled_from(["", "year", "x"]), tensors(), max_size=2),
    "payloads": st.lists(st.sampled_from([b"", b"{}", b'{"a": 1}', b"[]", b"\xff", b'{"a":' * 50]), max_size=3),
    "ids": ids,
    "k": st.integers(0, 5) | st.integers(0, 2**32 - 1),
    "filter_json": filters | st.text(max_size=10),
    "window_label": st.sampled_from(["", "year", "x"]),
    "recall": st.floats(),
    "request_id": st.text(max_size=3) | st.just("x" * 200),
    "cursor": st.sampled_from(["", "1", '"a"', "null", "[", "-1", "1e999"]),
    "page_size": st.integers(0, 3) | st.integers(0, 2**32 - 1),
    "threshold": st.floats(),
    "limit": st.integers(0, 5) | st.integers(0, 2**32 - 1),
    "bits": st.sampled_from([0, 8, 12, 256, 2**20]),
    "seed": st.integers(0, 2**64 - 1),
    "session": sessions,
    "layer": st.integers(0, 3) | st.integers(0, 2**32 - 1),
    "start": st.integers(0, 6) | st.integers(0, 2**64 - 1),
    "length": st.integers(0, 6) | st.integers(0, 2**64 - 1),
    "keys": heads((2, 2, 8)) | heads() | tensors(),
    "values": heads((2, 2, 8)) | heads(),
    "lease": st.sampled_from([0.0, 0.0, 0.0, 100.0, 100.0, -1.0, 1e300, np.nan, np.inf]),
    "memory_limit": st.sampled_from([0, 0, 1, 2**20, 2**64 - 1]),
    "step": small,
}
REPEATED = {"asked"}
# These change what other requests find.
KEPT = {"DropCollection", "RestoreCollection", "CreateCollection", "CreateDocuments", "DropDocuments"}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    method = draw(st.sampled_from(sorted(METHODS)))
    kind = METHODS[method]
    fields = {}
    for field in kind.DESCRIPTOR.fields:
        kind_of_field = field.message_type.name if field.message_type is not None else ""
        if kind_of_field in MESSAGES and draw(st.integers(0, 3)):
            value = MESSAGES[kind_of_field]
            fields[field.name] = draw(st.lists(value, max_size=3) if field.name in REPEATED else value)
        elif field.name in VALUES and draw(st.integers(0, 3)):
            fields[field.name] = draw(VALUES[field.name])
        elif field.type == field.TYPE_BOOL:
            fields[field.name] = draw(st.booleans())
    request = kind(**fields)
    if kind is attention_pb2.FreeRequest and request.session == SESSION:
        request.session = "another"
    if method.rpartition("/")[2] in KEPT and request.name == "c":
        request.name = "d"
    return method, request.SerializeToString()


TOKENS = to_tensor(np.ones((2, 2, 8), np.float32), "")
GOOD = [
    (
        "/nearhash.v1.AttentionService/AppendKV",
        attention_pb2.AppendKVRequest(session=SESSION, layer=1, keys=TOKENS, values=TOKENS),
    ),
    (
        "/nearhash.v1.AttentionService/Attend",
        attention_pb2.AttendRequest(
            asked=[attention_pb2.Asked(session=SESSION, queries=to_tensor(np.ones((4, 8)), ""), step=3)],
            reading=attention_pb2.Reading(
                count=3, sink=1, local=1, options={"eps": attention_pb2.ReadingOption(real=0.1)}
            ),
        ),
    ),
    (
        "/nearhash.v1.AttentionService/Retrieve",
        attention_pb2.RetrieveRequest(
            asked=[attention_pb2.Asked(session=SESSION, queries=to_tensor(np.ones((2, 8), np.float32), ""))] * 2,
            reading=attention_pb2.Reading(share=0.5, sink=0, local=1, scale=0.5),
        ),
    ),
    (
        "/nearhash.v1.PointService/Upsert",
        points_pb2.UpsertRequest(
            collection="c",
            ids=to_ids([1, "a"]),
            vectors=to_tensor(np.ones((2, DIM), np.float32), ""),
            labels=to_labels({"year": [1, 2]}),
            payloads=[b'{"a": 1}', b""],
            request_id="r",
        ),
    ),
    ("/nearhash.v1.PointService/Delete", points_pb2.DeleteRequest(collection="c", ids=to_ids([3, "b"]))),
    ("/nearhash.v1.PointService/Get", points_pb2.GetRequest(collection="c", ids=to_ids([1, "a"]), with_vectors=True)),
    (
        "/nearhash.v1.PointService/Scroll",
        points_pb2.ScrollRequest(collection="c", filter_json='{"eq": ["a", 1]}', page_size=2, cursor="1"),
    ),
    (
        "/nearhash.v1.SearchService/Search",
        search_pb2.SearchRequest(
            collection="c", queries=to_tensor(np.ones((1, DIM)), ""), k=2, filter_json='{"exists": "a"}', recall=0.9
        ),
    ),
    (
        "/nearhash.v1.CollectionService/CreateCollection",
        collections_pb2.CreateCollectionRequest(name="d", settings=collections_pb2.CollectionSettings(dim=3)),
    ),
    (
        "/nearhash.v1.DocumentService/CheckAndAdd",
        documents_pb2.CheckAndAddRequest(
            collection="c",
            ids=to_ids([1, "a"]),
            documents=documents_pb2.Documents(sketches=SKETCHES),
            threshold=0.5,
            limit=2,
            request_id="r",
        ),
    ),
    (
        "/nearhash.v1.DocumentService/FindDuplicates",
        documents_pb2.FindDuplicatesRequest(
            collection="c", documents=documents_pb2.Documents(texts=hashes_pb2.Texts(values=[b"a b c"]))
        ),
    ),
    (
        "/nearhash.v1.HashService/Sketch",
        hashes_pb2.SketchRequest(
            sets=hashes_pb2.Sets(indptr=to_tensor([0, 2, 3], ""), tokens=to_tensor(np.arange(3, dtype=np.uint64), ""))
        ),
    ),
]


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    method, message = draw(st.sampled_from(GOOD))
    data = bytearray(message.SerializeToString())
    for _ in range(draw(st.integers(1, 5))):
        position = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "insert", "cut", "end"]))
        if kind == "change" and position < len(data):
            data[position] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[position:position] = draw(st.binary(max_size=8))
        elif kind == "cut":
            del data[position : position + draw(st.integers(1, 8))]
        else:
            del data[position:]
    return method, bytes(data)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, serve_folder):
    with serve_folder(tmp_path_factory.mktemp("database")) as stubs:
        stubs.create("c", dim=DIM, labels=["year"])
        stubs.upsert("c", [1, 2, "a"], np.eye(3, DIM, dtype=np.float32), payloads=[b'{"a": 1}', b"", b"{}"])
        stubs.database.documents.create("c", False, {"threshold": 0.7}).upsert([1], ["a b c"])
        settings = attention_pb2.SessionSettings(layers=2, kv_heads=2, head_dim=8)
        with mock.patch("nearhash.service.sessions.registry.secrets.token_hex", return_value=SESSION):
            stubs.attention.CreateSession(attention_pb2.CreateSessionRequest(settings=settings), timeout=60)
        stubs.attention.AppendKV(attention_pb2.AppendKVRequest(session=SESSION, keys=TOKENS, values=TOKENS), timeout=20)
        yield stubs


def outcome(stubs, method: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    call = stubs.channel.unary_stream(method)(data, timeout=20)
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    return call.code(), call.details()


def check(stubs, method: str, data: bytes) -> None:
    code, details = outcome(stubs, method, data)
    assert code is CODE.OK or code in REFUSALS, (method, code, details)
    for inside in ("Traceback", ".py", "File ", "object at", str(stubs.database.root)):
        assert inside not in details


@settings(max_examples=500, deadline=None)
@given(request=st.one_of(requests(), mutations()))
def test_no_request_hurts_a_server_of_collections(attacked, request):
    check(attacked, *request)


@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from(sorted(METHODS)), data=st.binary(max_size=60))
def test_no_bytes_hurt_a_server_of_collections(attacked, method, data):
    check(attacked, method, data)


def test_the_server_is_alive_and_its_files_are_where_they_belong(attacked):
    attacked.create("alive", dim=DIM)
    attacked.upsert("alive", ["z"], np.ones((1, DIM), np.float32))
    assert len(attacked.database.get("alive")) == 1
    assert {path.name for path in attacked.database.root.iterdir()} <= {"collections", "documents", "snapshots"}
    assert attacked.database.get("c").state == "ok"
    assert attacked.database.documents.get("c").state == "ok"
    stats = attacked.attention.Stats(attention_pb2.StatsRequest(session=SESSION), timeout=20)
    assert stats.caller_sessions >= 1
