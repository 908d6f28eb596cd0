"""Both clients behind one face, so that each test is one of both, and a server whose answers are scripted."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

import nearhash as nh
from nearhash.protos.v1 import attention_pb2, collections_pb2, documents_pb2, points_pb2, search_pb2
from nearhash.service.engine.results import Point
from nearhash.service.points_wire import to_points


class Blocking:
    """An `AsyncClient`, or a collection of it, whose methods wait: they run in an event loop of another thread."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.iscoroutinefunction(value):
            return lambda *args, **options: self._blocking(self._wait(value(*args, **options)))
        if name == "scroll":
            return lambda *args, **options: self._iterated(value(*args, **options))
        if name in ("collection", "documents", "session"):
            return lambda *args: self._blocking(value(*args))
        return value

    def _wait(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(60)

    def _blocking(self, result: Any) -> Any:
        return Blocking(result, self._loop) if type(result).__name__.startswith("AsyncRemote") else result

    def _iterated(self, pages: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(pages, None)

        try:
            while (page := self._wait(following())) is not None:
                yield page
        finally:
            self._wait(pages.aclose())


class Kinds:
    """Makes clients of one kind and closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._made: list[Any] = []
        if kind == "asyncio":
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()

    def __call__(self, address: str, **options: Any) -> Any:
        if self.kind == "threads":
            self._made.append(nh.Client(address, **options))
        else:
            self._made.append(Blocking(nh.AsyncClient(address, **options), self._loop))
        return self._made[-1]

    def close(self) -> None:
        for client in self._made:
            client.close()
        if self.kind == "asyncio":
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Refusal(Exception):
    """A step of a script: the call ends with this status."""

    def __init__(self, code: str, message: str = "", **metadata: str) -> None:
        super().__init__(code)
        self.code = grpc.StatusCode[code]
        self.message = message or f"scripted {code}"
        self.metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())


class ScriptedServer:
    """Answers each method with the steps of its script in turn, the last one again and again, and keeps the requests.

    Steps are messages, `Refusal`, functions of the request and the context, and for streams lists of these.
    """

    def __init__(self, limits: search_pb2.Limits | None = None, **scripts: list[Any]) -> None:
        limits = limits or search_pb2.Limits(
            max_k=100, max_rows=100, max_message_bytes=10_000, max_batch=100, max_ids=100
        )
        info = search_pb2.GetInfoResponse(server=search_pb2.ServerInfo(limits=limits), details_json="{}")
        described = documents_pb2.DescribeDocumentsResponse(server=search_pb2.ServerInfo(limits=limits))
        self.scripts = {"GetInfo": [info], "DescribeDocuments": [described], **scripts}
        self.requests: dict[str, list[Any]] = {}
        self.metadata: list[dict[str, str]] = []
        self._guard = threading.Lock()

    def __enter__(self) -> ScriptedServer:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        for module in (search_pb2, points_pb2, collections_pb2, documents_pb2, attention_pb2, health_pb2):
            for service in module.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self._handler(module, method) for method in service.methods}
                self._server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler(service.full_name, handlers),)
                )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _handler(self, module: Any, method: Any) -> Any:
        def step(request: Any, context: Any) -> Any:
            with self._guard:
                self.requests.setdefault(method.name, []).append(request)
                self.metadata.append(dict(context.invocation_metadata()))
                script = self.scripts.get(method.name, [Refusal("UNIMPLEMENTED")])
                return script.pop(0) if len(script) > 1 else script[0]

        def answer(one: Any, request: Any, context: Any) -> Any:
            if callable(one):
                one = one(request, context)
            if isinstance(one, Refusal):
                context.set_trailing_metadata(one.metadata)
                context.abort(one.code, one.message)
            return one

        def unary(request: Any, context: Any) -> Any:
            return answer(step(request, context), request, context)

        def stream(request: Any, context: Any) -> Any:
            for one in step(request, context):
                yield answer(one, request, context)

        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        return make(
            stream if method.server_streaming else unary,
            getattr(module, method.input_type.name).FromString,
            lambda message: message.SerializeToString(),
        )


@pytest.fixture(params=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Kinds]:
    """Make clients that are closed after the test."""
    kinds = Kinds(request.param)
    yield kinds
    kinds.close()


@pytest.fixture(scope="session")
def scripted_server() -> type[ScriptedServer]:
    return ScriptedServer


@pytest.fixture(scope="session")
def refusal() -> type[Refusal]:
    return Refusal


@pytest.fixture(scope="session")
def page_of() -> Any:
    """A message of a scroll with points of these ids."""

    def page(*ids: int, payload: dict[str, Any] | None = None) -> points_pb2.ScrollResponse:
        points = [Point(one, {}, payload, None) for one in ids]
        message = to_points(points, (), 4, vectors=False, payloads=payload is not None)
        return points_pb2.ScrollResponse(points=message, cursor=f"after {ids[-1]}")

    return page
