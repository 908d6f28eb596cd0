"""Sends a server random and mutated requests for a while: `python -m benchmarks.fuzz --seconds 600`.

The server runs in a process of its own. Every answer must be a success or a refusal that says what is wrong: never
UNKNOWN or INTERNAL, never a trace. The server must stay alive and healthy, and a collection that no request names must
stay as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import nearhash as nh
from benchmarks.record import RESULTS, write_document
from nearhash.hashing import MinHash
from nearhash.protos.v1 import attention_pb2, collections_pb2, documents_pb2, hashes_pb2, points_pb2, search_pb2
from nearhash.service.hash_wire import to_sketches
from nearhash.service.points_wire import to_ids
from nearhash.service.wire import to_tensor

DIM = 8
IN_FLIGHT = 16
_SESSION = "s" * 32  # in requests that are made, for the id of the session that there is
_FORBIDDEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}
_TRACES = ("Traceback", 'File "', ".py", "nearhash.service")
_FILTERS = (
    '{"eq":["a",1]}',
    '{"not":{"in":["b",["x",2.5]]}}',
    '{"range":["a.b",null,3]}',
    '{"and":[{"exists":"a"}]}',
    "{",
)


def requests(draw: random.Random) -> tuple[str, Any]:
    """A method and a request that means something."""
    name = draw.choice(["a", "b", "c", ""])
    count = draw.randint(0, 5)
    ids = to_ids([draw.choice([number, f"id-{number}"]) for number in range(count)])
    matrix = to_tensor(np.array([[draw.gauss(0, 1) for _ in range(DIM)] for _ in range(count)], np.float32), "x")
    window = to_tensor(np.sort([draw.gauss(0, 1), draw.gauss(0, 1)]), "window")
    payloads = [json.dumps({"a": draw.choice([1, "x", None, [1, 2], {"b": 2}])}).encode() for _ in range(count)]
    filter_json = draw.choice(_FILTERS)
    settings = collections_pb2.CollectionSettings(
        dim=DIM, metric=draw.choice(["l2", "ip", "cosine", "x"]), labels=["t"]
    )
    common = {"collection": name}
    made = {
        "PointService/Upsert": lambda: points_pb2.UpsertRequest(
            **common, ids=ids, vectors=matrix, payloads=payloads, request_id=draw.choice(["", "r1", "r2"])
        ),
        "PointService/Delete": lambda: points_pb2.DeleteRequest(
            **common, ids=ids, request_id=draw.choice(["", "r1", "r5"])
        ),
        "PointService/Get": lambda: points_pb2.GetRequest(**common, ids=ids, with_vectors=True, with_payloads=True),
        "PointService/Count": lambda: points_pb2.CountRequest(**common, filter_json=filter_json, window=window),
        "PointService/Scroll": lambda: points_pb2.ScrollRequest(**common, filter_json=filter_json, page_size=3),
        "SearchService/Search": lambda: search_pb2.SearchRequest(
            **common, queries=matrix, k=draw.randint(0, 20), filter_json=filter_json, window=window, with_payloads=True,
            effort={"beam": search_pb2.Scalar(integer=draw.randint(-1, 100))},
        ),
        "SearchService/GetInfo": lambda: search_pb2.GetInfoRequest(**common),
        "CollectionService/CreateCollection": lambda: collections_pb2.CreateCollectionRequest(
            name=name, settings=settings, if_missing=draw.random() < 0.5
        ),
        "CollectionService/ListCollections": collections_pb2.ListCollectionsRequest,
        "CollectionService/DescribeCollection": lambda: collections_pb2.DescribeCollectionRequest(name=name),
        "CollectionService/DropCollection": lambda: collections_pb2.DropCollectionRequest(name=name),
        "CollectionService/SnapshotCollection": lambda: collections_pb2.SnapshotCollectionRequest(
            name=name, snapshot=draw.choice(["s1", "s2", "../x", "."])
        ),
        "CollectionService/ListSnapshots": collections_pb2.ListSnapshotsRequest,
        "CollectionService/RestoreCollection": lambda: collections_pb2.RestoreCollectionRequest(
            snapshot="s1", name=name
        ),
        "CollectionService/GetStats": lambda: collections_pb2.GetStatsRequest(**common),
        **document_requests(draw, name, ids, count),
        **session_requests(draw),
    }  # fmt: skip
    rare = {"CollectionService/DropCollection", "CollectionService/SnapshotCollection", "DocumentService/DropDocuments"}
    method = draw.choice([one for one in made if one not in rare or draw.random() < 0.2])
    return f"/nearhash.v1.{method}", made[method]()


def document_requests(draw: random.Random, name: str, ids: Any, count: int) -> dict[str, Any]:
    """Those that have to do with documents and hashes."""
    words = [" ".join(draw.choice("abcdefgh") for _ in range(draw.randint(0, 30))).encode() for _ in range(count)]
    texts = hashes_pb2.Texts(values=words)
    settings = hashes_pb2.SketchSettings(
        k=draw.choice([0, 1, 64, 2**20]), method=draw.choice(["", "classic", "x"]), bits=draw.choice([0, 1, 8, 9])
    )
    sketches = to_sketches(MinHash(seed=1).sketch_texts(words))
    documents = draw.choice([documents_pb2.Documents(texts=texts), documents_pb2.Documents(sketches=sketches)])
    common = {"collection": name}
    tensor = to_tensor(np.arange(count, dtype=np.int64), "x")
    tokens = to_tensor(np.arange(draw.randint(0, 9), dtype=np.uint64), "x")
    threshold = draw.choice([0.5, 0.9, 0.0, -1.0, float("nan")])
    return {
        "HashService/Sketch": lambda: draw.choice([
            hashes_pb2.SketchRequest(settings=settings, texts=texts),
            hashes_pb2.SketchRequest(settings=settings, sets=hashes_pb2.Sets(indptr=tensor, tokens=tokens)),
        ]),
        "HashService/Encode": lambda: hashes_pb2.EncodeRequest(
            vectors=to_tensor(np.ones((count, DIM)), "x"), bits=draw.choice([0, 8, 64, 9]), seed=draw.randint(0, 3)
        ),
        "DocumentService/CreateDocuments": lambda: documents_pb2.CreateDocumentsRequest(
            name=name, if_missing=draw.random() < 0.5,
            settings=documents_pb2.DocumentSettings(threshold=draw.choice([0.7, threshold])),
        ),
        "DocumentService/ListDocuments": documents_pb2.ListDocumentsRequest,
        "DocumentService/DescribeDocuments": lambda: documents_pb2.DescribeDocumentsRequest(name=name),
        "DocumentService/DropDocuments": lambda: documents_pb2.DropDocumentsRequest(name=name),
        "DocumentService/UpsertDocuments": lambda: documents_pb2.UpsertDocumentsRequest(
            **common, ids=ids, documents=documents, request_id=draw.choice(["", "r1", "r2"])
        ),
        "DocumentService/DeleteDocuments": lambda: documents_pb2.DeleteDocumentsRequest(
            **common, ids=ids, request_id=draw.choice(["", "r1", "r5"])
        ),
        "DocumentService/FindDuplicates": lambda: documents_pb2.FindDuplicatesRequest(
            **common, documents=documents, threshold=threshold, limit=draw.choice([0, 1, 2**31])
        ),
        "DocumentService/CheckAndAdd": lambda: documents_pb2.CheckAndAddRequest(
            **common, ids=ids, documents=documents, request_id=draw.choice(["", "r3", "r4"])
        ),
    }  # fmt: skip


def session_requests(draw: random.Random) -> dict[str, Any]:
    """Those that have to do with attention sessions."""
    session, layer = draw.choice([_SESSION, _SESSION, _SESSION, "x", ""]), draw.choice([0, 0, 1, 2])
    shape = draw.choice([(1, 1, DIM), (1, 2, DIM), (1, 300, DIM), (2, 1, DIM), (DIM,)])
    fill, dtype = draw.choice([0.0, 1.0, 1.0, float("nan")]), draw.choice([np.float32, np.float16])
    tokens = to_tensor(np.full(shape, fill, dtype), "x")
    queries = to_tensor(np.full((draw.randint(0, 4), DIM), draw.gauss(0, 1), np.float32), "x")
    asked = [
        attention_pb2.Asked(session=session, layer=layer, queries=queries, step=draw.randint(0, 9))
        for _ in range(draw.choice([1, 1, 1, 0, 3]))
    ]
    option = draw.choice(
        [
            attention_pb2.ReadingOption(real=draw.gauss(0, 1)),
            attention_pb2.ReadingOption(integer=1),
            attention_pb2.ReadingOption(flag=True),
        ]
    )
    reading = attention_pb2.Reading(
        estimator=draw.choice(["", "", "dense", "uniform", "vattention", "topk_oracle", "x"]),
        options=draw.choice([{}, {}, {draw.choice(["eps", "floor", "oracle", "x"]): option}]),
        **draw.choice([{}, {"count": 3}, {"share": 0.5}, {"count": 0}, {"share": -1.0}]),
    )
    length = draw.choice([0, 1, 100, 2**63])
    lease = draw.choice([0.0, 0.0, 60.0, -1.0, float("nan"), 1e300])
    kept = draw.choice(["", "int8", "x"])
    settings = attention_pb2.SessionSettings(
        layers=draw.choice([1, 2, 2**31]), kv_heads=draw.choice([0, 1, 2]), head_dim=DIM, dtype=kept
    )
    return {
        "AttentionService/CreateSession": lambda: attention_pb2.CreateSessionRequest(
            settings=settings, lease=lease or 1.0, request_id=draw.choice(["", "s1", "s2"])
        ),
        "AttentionService/AppendKV": lambda: attention_pb2.AppendKVRequest(
            session=session, layer=layer, start=draw.choice([0, 1, 2, 300, 2**63]), keys=tokens, values=tokens
        ),
        "AttentionService/Attend": lambda: attention_pb2.AttendRequest(asked=asked, reading=reading),
        "AttentionService/Retrieve": lambda: attention_pb2.RetrieveRequest(asked=asked, reading=reading),
        "AttentionService/Fork": lambda: attention_pb2.ForkRequest(
            session=session, length=length, lease=lease or 1.0, request_id=draw.choice(["", "f1"])
        ),
        "AttentionService/Truncate": lambda: attention_pb2.TruncateRequest(session=session, length=length, layer=layer),
        "AttentionService/Free": lambda: attention_pb2.FreeRequest(session=draw.choice(["x", ""])),
        "AttentionService/Renew": lambda: attention_pb2.RenewRequest(session=session, lease=max(lease, 0.0)),
        "AttentionService/Stats": lambda: attention_pb2.StatsRequest(session=session),
    }


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with some of them flipped, cut, repeated, inserted, or all of them random."""
    body = bytearray(data)
    for _ in range(draw.choice([0, 1, 1, 2, 5, 20])):
        place = draw.randrange(len(body) + 1)
        kind = draw.randrange(6)
        if kind == 0 and body:
            body[place % len(body)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del body[place : place + draw.randint(1, 8)]
        elif kind == 2:
            body[place:place] = body[place : place + draw.randint(1, 64)]
        elif kind == 3:
            body[place:place] = draw.randbytes(draw.randint(1, 16))
        elif kind == 4:  # numbers at their limits
            body[place:place] = draw.choice(
                [b"\xff" * 9 + b"\x01", b"\x80" * 10, b"\x00", b"\x7f", b"\xff\xff\xff\xff\x0f"]
            )
        elif draw.random() < 0.05:
            body = bytearray(draw.randbytes(draw.randint(0, 200)))
    return bytes(body)


def problem(code: grpc.StatusCode, details: str) -> str | None:
    """What is wrong with an answer, if anything."""
    if code in _FORBIDDEN:
        return f"{code.name}: {details}"
    trace = next((mark for mark in _TRACES if mark in details), None)
    return None if trace is None else f"{code.name} with {trace!r}: {details}"


async def fuzz(address: str, seconds: float, seed: int) -> tuple[Counter[str], list[str]]:
    """Requests until the time is over: answers by code, and problems."""
    MinHash(seed=1).sketch_texts(["compile", "the kernels first"])
    codes: Counter[str] = Counter()
    problems: list[str] = []
    async with grpc.aio.insecure_channel(address) as channel:
        settings = attention_pb2.SessionSettings(layers=2, kv_heads=1, head_dim=DIM)
        create = attention_pb2.CreateSessionRequest(settings=settings, lease=86_400).SerializeToString()
        answer = await channel.unary_unary("/nearhash.v1.AttentionService/CreateSession")(create, timeout=300)
        session = attention_pb2.CreateSessionResponse.FromString(answer).session.encode()
        end = time.monotonic() + seconds

        async def send(number: int) -> None:
            draw = random.Random(f"{seed}-{number}")
            while time.monotonic() < end and len(problems) < 20:
                method, request = requests(draw)
                data = mutated(request.SerializeToString().replace(_SESSION.encode(), session), draw)
                try:
                    if method.endswith("Scroll"):
                        async for _ in channel.unary_stream(method)(data, timeout=20):
                            pass
                    else:
                        await channel.unary_unary(method)(data, timeout=20)
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                    if codes[error.code().name] == 1:
                        print(f"first {error.code().name}: {error.details()}", flush=True)
                    wrong = problem(error.code(), error.details() or "")
                    if wrong is not None:
                        problems.append(f"{method} {data.hex()[:2000]}: {wrong}")

        async def watch() -> None:
            while time.monotonic() < end:
                print(f"{sum(codes.values()):,} requests, {len(problems)} problems", flush=True)
                await asyncio.sleep(30)

        await asyncio.gather(watch(), *(send(number) for number in range(IN_FLIGHT)))
    return codes, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULTS / "fuzz.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "nearhash.command_line",
            "serve",
            "--data",
            folder,
            "--listen",
            "127.0.0.1:0",
            "--json",
        ]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            while not ready.rstrip().endswith("}"):
                ready += server.stdout.readline()
            address = json.loads(ready)["address"]
            with nh.Client(address) as client:
                untouched = client.create_collection("never-named", dim=DIM)
                untouched.upsert(range(100), np.eye(100, DIM) + 1, payloads=[{"n": own} for own in range(100)])
                before = untouched.get(range(100), vectors=True)
                codes, problems = asyncio.run(fuzz(address, arguments.seconds, arguments.seed))
                if server.poll() is not None:
                    problems.append(f"the server ended with {server.returncode}")
                elif client.health() != "SERVING":
                    problems.append("the server is not healthy")
                elif str(untouched.get(range(100), vectors=True)) != str(before):
                    problems.append("a collection that no request named has changed")
        finally:
            server.terminate()
            server.wait(60)
    for one in problems:
        print(one, file=sys.stderr)
    facts = {"kind": "fuzz", "seconds": arguments.seconds, "seed": arguments.seed, "requests": sum(codes.values())}
    write_document(arguments.result, {**facts, "answers": dict(sorted(codes.items())), "problems": len(problems)})
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
