"""AttentionService: sessions are made, written to, and attended to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from nearhash.attention.store import KVStore
from nearhash.errors import ClosedError, InvalidArgumentError, NearhashError, UnknownSessionError
from nearhash.protos.v1 import attention_pb2 as pb
from nearhash.protos.v1 import tensor_pb2
from nearhash.service.calls import Call, Calls
from nearhash.service.config import ServerConfig
from nearhash.service.handlers import server_info
from nearhash.service.queues import Queues
from nearhash.service.session_wire import from_floats, from_reading, to_attended, to_retrieved
from nearhash.service.sessions.registry import Held, Sessions, shown
from nearhash.service.sessions.session import Session, SessionSettings
from nearhash.service.wire import MESSAGE_OVERHEAD

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["AttentionService"].full_name

ESTIMATORS = ("priority", "dense", "uniform", "vattention", "topk_oracle")
"""Those that keep nothing beside the codes: what others keep is counted by no quota."""

_LOGGED = 8  # characters of a session's id in the audit log
_HEAD_BYTES = 64  # of an answer, for each query head, besides its output
_TOKEN_BYTES = 16  # int64 position, float64 logarithm

Answer = TypeVar("Answer", pb.Attended, pb.Retrieved)
Result = TypeVar("Result")


class _Question(NamedTuple):
    """What is asked about a layer: arguments of `KVStore.attend`."""

    store: KVStore
    queries: NDArray[Any]
    step: int
    layer: int


class SessionHandlers:
    """The RPCs of AttentionService."""

    def __init__(self, sessions: Sessions, config: ServerConfig, queues: Queues) -> None:
        self._sessions = sessions
        self._limits = config.limits
        self._threads = config.search_threads
        self._queues = queues

    def generic_handler(self, calls: Calls) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        return calls.handler(
            SERVICE_NAME,
            # Not all of these only read. But what a decoder does at each step is not for the audit log: its sessions
            # are nobody else's, and in memory only.
            reads={
                "AppendKV": (pb.AppendKVRequest, self._append),
                "Attend": (pb.AttendRequest, self._attend),
                "Retrieve": (pb.RetrieveRequest, self._retrieve),
                "Truncate": (pb.TruncateRequest, self._truncate),
                "Renew": (pb.RenewRequest, self._renew),
                "Stats": (pb.StatsRequest, self._stats),
            },
            writes={
                "CreateSession": (pb.CreateSessionRequest, self._create),
                "Fork": (pb.ForkRequest, self._fork),
                "Free": (pb.FreeRequest, self._free),
            },
        )

    # --- sessions ---

    async def _create(self, request: pb.CreateSessionRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        settings = _from_settings(request.settings)
        owner = call.principal.name

        def create() -> Held:
            return self._sessions.create(
                owner, settings, request.lease, request.memory_limit, request.request_id, request.SerializeToString()
            )

        held = await self._queues.admin.run(create, call.deadline, call.size)
        call.facts["session"] = held.id[:_LOGGED]
        server = server_info(self._limits)
        return pb.CreateSessionResponse(session=held.id, lease=held.lease, server=server).SerializeToString()

    async def _fork(self, request: pb.ForkRequest, call: Call) -> bytes:
        call.facts = {"request_id": request.request_id}
        owner, length = call.principal.name, request.length if request.HasField("length") else None
        with self._sessions.using(owner, request.session) as held:

            def fork() -> Held:
                return self._sessions.fork(
                    owner, held, length, request.lease, request.request_id, request.SerializeToString()
                )

            made = await self._queues.appends.run(fork, call.deadline, call.size)
        call.facts["session"] = made.id[:_LOGGED]
        return pb.ForkResponse(session=made.id, lease=made.lease).SerializeToString()

    async def _free(self, request: pb.FreeRequest, call: Call) -> bytes:
        call.facts = {"session": request.session[:_LOGGED]}
        owner = call.principal.name
        await self._queues.appends.run(lambda: self._sessions.free(owner, request.session), call.deadline, call.size)
        return pb.FreeResponse().SerializeToString()

    async def _renew(self, request: pb.RenewRequest, call: Call) -> bytes:
        lease = self._sessions.renew(call.principal.name, request.session, request.lease)
        return pb.RenewResponse(lease=lease).SerializeToString()

    async def _stats(self, request: pb.StatsRequest, call: Call) -> bytes:
        owner = call.principal.name

        def stats() -> bytes:
            asked = self._sessions.of(owner, request.session)
            return pb.StatsResponse(
                sessions=[_described(held, left) for held, left in asked],
                caller_sessions=len(self._sessions.of(owner) if request.session else asked),
                max_sessions=self._limits.max_sessions,
                caller_bytes=self._sessions.held_bytes(owner),
                max_caller_bytes=self._limits.max_caller_bytes,
                server=server_info(self._limits),
            ).SerializeToString()

        return await self._queues.admin.run(stats, call.deadline, call.size)

    # --- tokens ---

    async def _append(self, request: pb.AppendKVRequest, call: Call) -> bytes:
        with self._sessions.using(call.principal.name, request.session) as held:
            held.session.check_layer(request.layer)
            if len(request.keys.shape) == 3:
                call.rows = request.keys.shape[1]

            def append() -> int:
                keys, values = _floats(request, "keys", 3), _floats(request, "values", 3)
                return held.session.append(request.layer, request.start, keys, values)

            tokens = await self._queues.appends.run(append, call.deadline, call.size)
        return pb.AppendKVResponse(tokens=tokens).SerializeToString()

    async def _truncate(self, request: pb.TruncateRequest, call: Call) -> bytes:
        layer = request.layer if request.HasField("layer") else None
        with self._sessions.using(call.principal.name, request.session) as held:

            def truncate() -> None:
                held.session.truncate(request.length, layer)

            await self._queues.appends.run(truncate, call.deadline, call.size)
        return pb.TruncateResponse().SerializeToString()

    # --- attention ---

    async def _attend(self, request: pb.AttendRequest, call: Call) -> bytes:
        reading = _from_reading(request.reading)

        def attend(one: _Question) -> pb.Attended:
            found = one.store.attend(one.queries, step=one.step, layer=one.layer, threads=self._threads, **reading)
            return to_attended(found)

        answers = await self._answered(request.asked, call, attend)
        return pb.AttendResponse(results=answers).SerializeToString()

    async def _retrieve(self, request: pb.RetrieveRequest, call: Call) -> bytes:
        reading = _from_reading(request.reading)

        def retrieve(one: _Question) -> pb.Retrieved:
            found = one.store.retrieve(one.queries, step=one.step, layer=one.layer, threads=self._threads, **reading)
            return to_retrieved(found)

        answers = await self._answered(request.asked, call, retrieve, _tokens_read(reading))
        return pb.RetrieveResponse(results=answers).SerializeToString()

    async def _answered(
        self,
        asked: Sequence[pb.Asked],
        call: Call,
        answer: Callable[[_Question], Answer],
        tokens: Callable[[int], int] | None = None,
    ) -> list[Answer]:
        """What is asked of several layers, on as many threads as there are for reads.

        tokens: how many of so many the answer names for each KV head; None if it names none.
        """
        if not asked:
            raise InvalidArgumentError("asked: expected at least one layer of a session, got none")
        with ExitStack() as used:
            questions = [
                _named(number, asked, partial(self._question, one, call, used)) for number, one in enumerate(asked)
            ]
            call.rows = sum(len(one.queries) for one in questions)
            size = self._checked_size(questions, call.rows, tokens)
            parts = min(self._queues.searches.workers, len(questions))
            bounds = [len(questions) * part // parts for part in range(parts + 1)]

            def run(first: int, last: int) -> list[Answer]:
                return [_named(one, asked, partial(answer, questions[one])) for one in range(first, last)]

            share = (call.size + size) // parts
            jobs = [
                self._queues.searches.run(partial(run, first, last), call.deadline, share)
                for first, last in pairwise(bounds)
            ]
            # All of them end before the sessions are let go, also where one has failed.
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            answers: list[Answer] = []
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                answers += outcome
            return answers

    def _question(self, one: pb.Asked, call: Call, used: ExitStack) -> _Question:
        session = used.enter_context(self._sessions.using(call.principal.name, one.session)).session
        queries = _floats(one, "queries", 2)
        return _Question(session.store(one.layer), queries, one.step, one.layer)

    def _checked_size(self, questions: Sequence[_Question], heads: int, tokens: Callable[[int], int] | None) -> int:
        """Bytes of the answer, as far as they are known; raises InvalidArgumentError beyond the limits."""
        if heads > self._limits.max_rows:
            raise InvalidArgumentError(f"max_rows: {heads} queries in a request, the limit is {self._limits.max_rows}")
        size = MESSAGE_OVERHEAD * len(questions)
        size += sum(len(one.queries) * (4 * one.store.head_dim + _HEAD_BYTES) for one in questions)
        if tokens is not None:
            size += sum(_TOKEN_BYTES * one.store.kv_heads * tokens(len(one.store)) for one in questions)
        if size > self._limits.max_message_bytes:
            raise InvalidArgumentError(
                f"max_message_bytes: the answer would have {size} bytes, the limit is "
                f"{self._limits.max_message_bytes}; ask for less at a time"
            )
        return size


def _named(number: int, asked: Sequence[pb.Asked], answer: Callable[[], Result]) -> Result:
    """An answer, or the error of one among several, which says which one."""
    try:
        return answer()
    except NearhashError as failure:
        error: NearhashError = failure
        if isinstance(error, ClosedError):
            error = UnknownSessionError(f"session: {shown(asked[number].session)} was freed meanwhile")
        if len(asked) > 1:
            error.args = (f"{error} (asked[{number}])",)
        raise error from failure.__cause__


def _tokens_read(reading: dict[str, Any]) -> Callable[[int], int]:
    """About how many of so many tokens are read, see `KVStore.attend`."""
    budget = reading.get("budget", 0.05)
    windows = reading.get("sink", 4) + reading.get("local", 16)

    def read(count: int) -> int:
        if reading.get("estimator") == "dense":
            return count
        wanted = budget + windows if isinstance(budget, int) else max(budget * count, windows)
        return count if not wanted < count else int(wanted)  # not a number is refused later

    return read


def _floats(request: Any, name: str, ndim: int) -> NDArray[Any]:
    if not request.HasField(name):
        raise InvalidArgumentError(f"{name}: expected a tensor, got none")
    tensor: tensor_pb2.Tensor = getattr(request, name)
    return from_floats(tensor, name, ndim)


def _from_settings(settings: pb.SessionSettings) -> SessionSettings:
    return SessionSettings(
        settings.layers or 1,
        settings.kv_heads,
        settings.head_dim,
        settings.codec or "lvq4",
        settings.dtype or "float32",
        settings.seed,
    )


def _from_reading(reading: pb.Reading) -> dict[str, Any]:
    if reading.estimator not in ("", *ESTIMATORS):
        raise InvalidArgumentError(f"estimator: a server has {', '.join(ESTIMATORS)}, got {reading.estimator!r:.80}")
    return from_reading(reading)


def _described(held: Held, left: float) -> pb.SessionStats:
    session: Session = held.session
    return pb.SessionStats(
        session=held.id,
        settings=pb.SessionSettings(**session.settings._asdict()),
        tokens=session.lengths,
        nbytes=session.nbytes,
        index_nbytes=session.index_nbytes,
        held_bytes=session.budget.used,
        memory_limit=session.budget.limit or 0,
        lease=held.lease,
        lease_left=left,
    )
