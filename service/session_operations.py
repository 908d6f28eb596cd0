"""What clients do with attention sessions, without doing it; see `operations`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from nearhash.attention.results import Attention, Retrieval
from nearhash.errors import InvalidArgumentError, NearhashError
from nearhash.protos.v1 import attention_pb2 as pb
from nearhash.service import connection as methods
from nearhash.service.asking import Asking, Piece, check_name, tell_written
from nearhash.service.attempts import Steps, attempts
from nearhash.service.client_errors import malformed
from nearhash.service.session_batches import TokenBatch, filled
from nearhash.service.session_wire import as_floats, from_attended, from_retrieved, to_floats

Asked = tuple[Any, int, Any] | tuple[Any, int, Any, int]
"""A session or its id, a layer, queries, and the step, by default 0."""


class SessionOperations(Asking):
    """The calls that have to do with attention sessions, as steps."""

    # --- sessions ---

    def create(
        self, settings: dict[str, Any], lease: float | None, memory_limit: int | None, timeout: float | None
    ) -> Steps[pb.CreateSessionResponse]:
        """Make a session. Its request has an id, so that it is made once however often that is sent."""
        request = filled(
            pb.CreateSessionRequest,
            settings=filled(pb.SessionSettings, **settings),
            lease=lease or 0.0,
            memory_limit=memory_limit or 0,
            request_id=uuid.uuid4().hex,
        )
        answer: pb.CreateSessionResponse = yield from self._read(methods.CREATE_SESSION, request, timeout)
        self._capacity = self._capacity_of(answer.server.limits)
        return answer

    def fork(self, session: str, length: int | None, lease: float | None, timeout: float | None) -> Steps[str]:
        """Make a session of another one."""
        request = filled(
            pb.ForkRequest, session=session, length=length, lease=lease or 0.0, request_id=uuid.uuid4().hex
        )
        answer = yield from self._read(methods.FORK, request, timeout)
        return str(answer.session)

    def truncate(self, session: str, length: int, layer: int | None, timeout: float | None) -> Steps[None]:
        """Forget the last tokens."""
        request = filled(pb.TruncateRequest, session=session, length=length, layer=layer)
        yield from self._read(methods.TRUNCATE, request, timeout)

    def free(self, session: str, timeout: float | None) -> Steps[None]:
        """End a session."""
        yield from self._read(methods.FREE, pb.FreeRequest(session=session), timeout)

    def renew(self, session: str, lease: float | None, timeout: float | None) -> Steps[float]:
        """Begin the lease anew."""
        answer = yield from self._read(methods.RENEW, filled(pb.RenewRequest, session=session, lease=lease), timeout)
        return float(answer.lease)

    def stats(self, session: str, timeout: float | None) -> Steps[dict[str, Any]]:
        """One session."""
        answer = yield from self._read(methods.SESSION_STATS, pb.StatsRequest(session=check_name(session)), timeout)
        if len(answer.sessions) != 1:
            raise malformed(f"sessions: expected one, got {len(answer.sessions)}")
        return _described(answer.sessions[0])

    def all_stats(self, timeout: float | None) -> Steps[dict[str, Any]]:
        """All sessions of the caller, and quotas."""
        answer = yield from self._read(methods.SESSION_STATS, pb.StatsRequest(), timeout)
        return {
            "sessions": {one.session: _described(one) for one in answer.sessions},
            "max_sessions": answer.max_sessions,
            "held_bytes": answer.caller_bytes,
            "max_caller_bytes": answer.max_caller_bytes,
        }

    # --- tokens ---

    def append(
        self, session: str, layer: int, start: int | None, keys: Any, values: Any, timeout: float | None
    ) -> Steps[int]:
        """Append tokens to a layer, in as many requests as they take."""
        deadline = self._deadline(timeout)
        if start is None or self._capacity is None:
            request = pb.StatsRequest(session=session)
            answer = yield from attempts(methods.SESSION_STATS, request, deadline, repeatable=True)
            self._capacity = self._capacity_of(answer.server.limits)
            if start is None:
                if len(answer.sessions) != 1 or not 0 <= layer < len(answer.sessions[0].tokens):
                    raise InvalidArgumentError(f"layer: expected one that the session has, got {layer!r:.40}")
                start = answer.sessions[0].tokens[layer]
        batch = TokenBatch(session, layer, start, keys, values, self._capacity)
        pieces: list[Piece] = []
        try:
            yield from self._in_pieces(methods.APPEND_KV, batch, deadline, pieces)
        except NearhashError as error:
            if pieces or batch.stop(0, batch.count) < batch.count:
                tell_written(error, pieces[-1].stop if pieces else 0, batch.count, "tokens")
            raise
        return int(pieces[-1].answer.tokens)

    # --- attention ---

    def attend(self, asked: Sequence[Asked], reading: pb.Reading, timeout: float | None) -> Steps[list[Attention]]:
        """Attention over layers of sessions, in one request."""
        request = pb.AttendRequest(asked=[_asked(*one) for one in asked], reading=reading)
        answer = yield from self._read(methods.ATTEND, request, timeout)
        _check_count(answer.results, asked)
        try:
            return [from_attended(one) for one in answer.results]
        except InvalidArgumentError as error:
            raise malformed(error) from error

    def retrieve(
        self, asked: Sequence[Asked], reading: pb.Reading, timeout: float | None
    ) -> Steps[list[list[Retrieval]]]:
        """Which tokens attention would read, in one request."""
        request = pb.RetrieveRequest(asked=[_asked(*one) for one in asked], reading=reading)
        answer = yield from self._read(methods.RETRIEVE, request, timeout)
        _check_count(answer.results, asked)
        try:
            return [from_retrieved(one) for one in answer.results]
        except InvalidArgumentError as error:
            raise malformed(error) from error


def _asked(session: Any, layer: int, queries: Any, step: int = 0) -> pb.Asked:
    id = session if isinstance(session, str) else session.id
    floats = to_floats(as_floats(queries, "queries"), "queries")
    asked: pb.Asked = filled(pb.Asked, session=id, layer=layer, queries=floats, step=step)
    return asked


def _check_count(results: Sequence[Message], asked: Sequence[Asked]) -> None:
    if len(results) != len(asked):
        raise malformed(f"results: expected {len(asked)}, got {len(results)}")


def _described(one: pb.SessionStats) -> dict[str, Any]:
    settings = {field.name: getattr(one.settings, field.name) for field in pb.SessionSettings.DESCRIPTOR.fields}
    names = ("nbytes", "index_nbytes", "held_bytes", "memory_limit", "lease", "lease_left")
    return {**settings, "tokens": list(one.tokens), **{name: getattr(one, name) for name in names}}
