"""Reader processes: they see what was acknowledged, hand writes on, are started anew, and end with the server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.protos.v1 import (
    attention_pb2,
    attention_pb2_grpc,
    collections_pb2,
    collections_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    hashes_pb2,
    points_pb2,
    points_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from nearhash.service.config import ServerConfig
from nearhash.service.engine.database import Database
from nearhash.service.points_wire import from_found, to_ids
from nearhash.service.security.key_file import add_key
from nearhash.service.server import Server
from nearhash.service.wire import to_tensor

DIM = 4
CODE = grpc.StatusCode


class Caller(NamedTuple):
    """One connection, which the kernel has given to the writer or to a reader."""

    search: search_pb2_grpc.SearchServiceStub
    points: points_pb2_grpc.PointServiceStub
    collections: collections_pb2_grpc.CollectionServiceStub
    documents: documents_pb2_grpc.DocumentServiceStub
    sessions: attention_pb2_grpc.AttentionServiceStub
    key: tuple[tuple[str, str], ...]

    def call(self, method, request):
        return method(request, timeout=20, metadata=self.key)

    def attention(self, method: str, **fields):
        return self.call(getattr(self.sessions, method), getattr(attention_pb2, f"{method}Request")(**fields))

    def is_reader(self) -> bool:
        info = self.call(self.search.GetInfo, search_pb2.GetInfoRequest(collection="c"))
        return json.loads(info.details_json)["state"] == "read-only"


class Process(NamedTuple):
    process: subprocess.Popen[str]
    address: str
    keys: dict[str, str]
    audit: Path
    metrics: str

    def caller(self, role: str, number: int) -> Caller:
        options = [("grpc.use_local_subchannel_pool", 1), ("nearhash.number", number)]  # a connection of its own
        channel = grpc.insecure_channel(self.address, options=options)
        return Caller(
            search_pb2_grpc.SearchServiceStub(channel),
            points_pb2_grpc.PointServiceStub(channel),
            collections_pb2_grpc.CollectionServiceStub(channel),
            documents_pb2_grpc.DocumentServiceStub(channel),
            attention_pb2_grpc.AttentionServiceStub(channel),
            (("authorization", f"Bearer {self.keys[role]}"),),
        )

    def readers(self) -> list[int]:
        pids: set[int] = set()
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            pids.update(int(pid) for pid in read_if_there(task / "children").split())
        return sorted(pid for pid in pids if b"spawn_main" in read_if_there(Path(f"/proc/{pid}/cmdline")))


def read_if_there(path: Path) -> bytes:
    """A file of /proc; empty of a thread or process that ended since it was listed."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("readers")
    keys = {role: add_key(folder / "keys.json", role, role, ["*"], None) for role in ("read", "admin")}
    command = [sys.executable, "-m", "nearhash.command_line", "serve", "--data", str(folder / "data"), "--json"]
    command += ["--listen", "127.0.0.1:0", "--readers", "2", "--keys", str(folder / "keys.json")]
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    command += ["--audit", str(folder / "audit.log"), "--metrics", metrics]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            text = next(lines)
            while not text.endswith("\n}\n"):
                text += next(lines)
            ready = json.loads(text)
            assert ready["readers"] == 2
            yield Process(process, ready["address"], keys, folder / "audit.log", metrics)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def callers(served: Process) -> list[Caller]:
    """Connections to the writer and to readers."""
    first = served.caller("admin", 0)
    settings = collections_pb2.CollectionSettings(dim=DIM, metric="l2")
    first.call(first.collections.CreateCollection, collections_pb2.CreateCollectionRequest(name="c", settings=settings))
    callers: list[Caller] = []
    for number in range(1, 60):
        callers.append(served.caller("admin", number))
        kinds = [caller.is_reader() for caller in callers]
        if any(kinds) and not all(kinds) and number > 7:
            return callers
    raise AssertionError("the kernel gives all connections to one process")


linux = pytest.mark.skipif(sys.platform != "linux", reason="ports are shared on Linux only")


@linux
def test_every_process_sees_what_any_of_them_has_acknowledged(callers):
    vectors = np.random.default_rng(0).standard_normal((100, DIM)).astype(np.float32)
    for i, vector in enumerate(vectors):
        writer, reader = callers[i % len(callers)], callers[(5 * i + 3) % len(callers)]
        upsert = points_pb2.UpsertRequest(collection="c", ids=to_ids([i]), vectors=to_tensor(vector[None], ""))
        writer.call(writer.points.Upsert, upsert)
        search = search_pb2.SearchRequest(collection="c", queries=to_tensor(vector, ""), k=1)
        assert from_found(reader.call(reader.search.Search, search), 1, 1).ids.tolist() == [[i]]
    for i in range(0, 100, 10):
        writer, reader = callers[i % len(callers)], callers[(3 * i + 1) % len(callers)]
        writer.call(writer.points.Delete, points_pb2.DeleteRequest(collection="c", ids=to_ids([i])))
        get = points_pb2.GetRequest(collection="c", ids=to_ids([i, i + 1]))
        assert reader.call(reader.points.Get, get).points.ids == to_ids([i + 1])
    for caller in callers:
        assert caller.call(caller.points.Count, points_pb2.CountRequest(collection="c")).count == 90


@linux
def test_statuses_and_keys_are_passed_on(served, callers):
    settings = collections_pb2.CollectionSettings(dim=DIM)
    for caller in callers:
        with pytest.raises(grpc.RpcError) as failure:
            caller.call(
                caller.collections.CreateCollection,
                collections_pb2.CreateCollectionRequest(name="c", settings=settings),
            )
        assert failure.value.code() is CODE.ALREADY_EXISTS
        assert dict(failure.value.trailing_metadata())["nearhash-error"] == "CollectionExistsError"
        weak = caller._replace(key=(("authorization", f"Bearer {served.keys['read']}"),))
        upsert = points_pb2.UpsertRequest(collection="c", ids=to_ids([1]), vectors=to_tensor(np.zeros((1, DIM)), ""))
        for key, code in ((weak.key, CODE.PERMISSION_DENIED), ((), CODE.UNAUTHENTICATED)):
            with pytest.raises(grpc.RpcError) as failure:
                weak.points.Upsert(upsert, timeout=20, metadata=key)
            assert failure.value.code() is code
        assert weak.call(weak.points.Count, points_pb2.CountRequest(collection="c")).count == 90


@linux
def test_documents_are_the_same_for_every_process(callers):
    settings = documents_pb2.DocumentSettings(threshold=0.7)
    request = documents_pb2.CreateDocumentsRequest(name="texts", settings=settings, if_missing=True)
    added = []
    for number, caller in enumerate(callers):
        caller.call(caller.documents.CreateDocuments, request)
        texts = documents_pb2.Documents(texts=hashes_pb2.Texts(values=[b"one two three four five six seven"]))
        check = documents_pb2.CheckAndAddRequest(collection="texts", ids=to_ids([number]), documents=texts)
        added.append(caller.call(caller.documents.CheckAndAdd, check).added.data)
    assert added == [b"\1"] + [b"\0"] * (len(callers) - 1)


@linux
def test_sessions_are_the_same_for_every_process(callers):
    settings = attention_pb2.SessionSettings(kv_heads=1, head_dim=8)
    made = callers[0].attention("CreateSession", settings=settings)
    tokens = to_tensor(np.ones((1, 1, 8), np.float32), "")
    for number, caller in enumerate(callers):
        appended = caller.attention("AppendKV", session=made.session, start=number, keys=tokens, values=tokens)
        assert appended.tokens == number + 1
        asked = attention_pb2.Asked(session=made.session, queries=to_tensor(np.ones((1, 8)), ""))
        (found,) = caller.attention("Attend", asked=[asked]).results
        assert np.frombuffer(found.reads.data, "<i8").tolist() == [number + 1]
    callers[-1].attention("Free", session=made.session)
    for caller in callers:
        with pytest.raises(grpc.RpcError) as failure:
            caller.attention("Fork", session=made.session)
        assert failure.value.code() is CODE.NOT_FOUND
        assert dict(failure.value.trailing_metadata())["nearhash-error"] == "UnknownSessionError"


@linux
def test_a_collection_that_was_dropped_and_made_anew_is_the_new_one(callers):
    first = callers[0]
    for dim in (3, 5):
        settings = collections_pb2.CollectionSettings(dim=dim)
        request = collections_pb2.CreateCollectionRequest(name="changing", settings=settings)
        first.call(first.collections.CreateCollection, request)
        for caller in callers:
            info = caller.call(caller.search.GetInfo, search_pb2.GetInfoRequest(collection="changing"))
            assert info.dim == dim
        first.call(first.collections.DropCollection, collections_pb2.DropCollectionRequest(name="changing"))
    for caller in callers:
        with pytest.raises(grpc.RpcError) as failure:
            caller.call(caller.points.Count, points_pb2.CountRequest(collection="changing"))
        assert failure.value.code() is CODE.NOT_FOUND


def requests_by_process(served: Process) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {served.keys['admin']}"}
    with urllib.request.urlopen(urllib.request.Request(f"http://{served.metrics}/metrics", headers=headers)) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            one.labels["process"]: one.value
            for family in families
            for one in family.samples
            if one.name == "nearhash_process_requests_total"
        }


@linux
def test_requests_of_readers_are_counted(served, callers):
    before = sum(requests_by_process(served).values())
    reader = next(caller for caller in callers if caller.is_reader())
    for _ in range(20):
        reader.call(reader.points.Count, points_pb2.CountRequest(collection="c"))
    end = time.monotonic() + 20
    while sum((counted := requests_by_process(served)).values()) < before + 20:
        assert time.monotonic() < end, counted
        time.sleep(0.05)
    assert max(requests for name, requests in counted.items() if name.startswith("reader-")) >= 20


@linux
def test_a_reader_that_dies_is_replaced_and_all_end_with_the_server(served):
    before = served.readers()
    assert len(before) == 2
    counted = requests_by_process(served)
    os.kill(before[0], signal.SIGKILL)
    end = time.monotonic() + 30
    while len(set(served.readers()) - {before[0]}) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    after = served.readers()
    remain = requests_by_process(served)
    assert all(remain[name] >= requests for name, requests in counted.items())
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    notices = served.process.stderr.read()
    assert "ended with code -9; starting it anew" in notices
    assert "Traceback" not in notices
    assert not [pid for pid in after if Path(f"/proc/{pid}").exists()]
    lines = [json.loads(line) for line in served.audit.read_text().splitlines()]
    writes = [line for line in lines if line["method"].endswith("/Upsert") and line["code"] == "OK"]
    assert len(writes) == 100
    assert {line["peer"].split(":")[0] for line in writes} == {"ipv4"}  # of callers, not of readers
    assert [line for line in lines if line["code"] == "UNAUTHENTICATED"]


def test_readers_are_for_collections_only(scripted):
    with pytest.raises(InvalidArgumentError, match="readers: expected 0"):
        Server(scripted(lambda _: None), readers=1)


def test_a_port_that_somebody_else_shares_is_not_taken(tmp_path):
    import asyncio

    with socket.socket() as other, Database(tmp_path) as database:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()

        async def start() -> None:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            await Server(None, address, ServerConfig(), database, readers=1).start()

        with pytest.raises(ServiceError, match="address: cannot listen on"):
            asyncio.run(start())
