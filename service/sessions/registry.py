"""The sessions of a server: whose they are, how long they live, and how much they may hold."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from nearhash.attention.memory import Budget
from nearhash.attention.warming import warm
from nearhash.errors import ClosedError, InvalidArgumentError, ServiceError, UnknownSessionError
from nearhash.service.config import Limits
from nearhash.service.engine.requests import check_request_id
from nearhash.service.sessions.session import Session, SessionSettings

log = logging.getLogger("nearhash.service")

DEFAULT_LEASE = 300.0

_ID_BYTES = 16  # 128 random bits: nobody guesses an id
_REMEMBERED = 10_000  # ended sessions of which is known why
_SWEEP_SECONDS = 1.0
_SHOWN = 8  # characters of an id in logs


def shown(id: str) -> str:
    """An id in messages and logs: whole ones open sessions, and callers may send anything."""
    return f"{id[:_SHOWN]!r}..."


@dataclass
class Held:
    """A session and what the server knows of it.

    Attributes
    ----------
    id
        Under which its owner finds it.
    owner
        Name of the key that made it.
    session
        The session.
    lease
        Seconds without a call after which it ends.
    expires
        When it ends unless it is used until then, on the clock of the sessions.
    users
        Calls that use it now; it does not end meanwhile.
    made_by
        Id of the request that made it, and the digest of that request.
    """

    id: str
    owner: str
    session: Session
    lease: float
    expires: float
    users: int = 0
    made_by: tuple[str, bytes] | None = None


class _Ended(NamedTuple):
    owner: str
    reason: str
    at: float


class Facts(NamedTuple):
    """What metrics tell of sessions: how many there are, bytes they hold, and how many have ended by reason."""

    sessions: int
    held_bytes: int
    ended: dict[str, int]


class Sessions:
    """The sessions of a server. Its methods may be called from any thread; those that may wait say so.

    Parameters
    ----------
    limits
        How many sessions there may be, how long, and how much they may hold.
    threads
        Of what a session does with the tokens of one layer.
    clock
        Seconds, for tests.
    """

    def __init__(self, limits: Limits, threads: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._threads = threads
        self._clock = clock
        self._guard = threading.Lock()  # of all that follows, never held while memory is given back
        self._held: dict[str, Held] = {}  # the oldest one first
        self._made_by: dict[tuple[str, str], Held] = {}  # by owner and id of the request
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._all = Budget(limits.max_attention_bytes, "max_attention_bytes")
        self._callers: dict[str, Budget] = {}  # as many as there are keys
        self._stop = threading.Event()
        self._sweeper: threading.Thread | None = None

    def start(self) -> None:
        """From now on sessions whose lease has run out are ended without being asked for."""
        self._sweeper = threading.Thread(target=self._work, name="nearhash-sessions", daemon=True)
        self._sweeper.start()

    def close(self) -> None:
        """End all sessions. Waits for what uses them."""
        self._stop.set()
        if self._sweeper is not None:
            self._sweeper.join()
        with self._guard:
            ended = [self._forget(held, "stopped", "ended with the server") for held in list(self._held.values())]
        _close(ended)

    # --- sessions are made and end ---

    def create(
        self,
        owner: str,
        settings: SessionSettings,
        lease: float = 0.0,
        memory_limit: int = 0,
        request_id: str = "",
        request: bytes = b"",
    ) -> Held:
        """Make a session. May take long, where kernels are not ready.

        Parameters
        ----------
        owner
            Name of the key that it belongs to.
        settings
            Of its layers.
        lease
            Seconds; 0 for DEFAULT_LEASE.
        memory_limit
            Bytes of the session and its forks; 0 for the limit of the server.
        request_id, request
            If a session that was made by this request lives, it is given.

        Raises
        ------
        InvalidArgumentError
            An argument is impossible, beyond a limit, or the request id was that of another request.
        ServiceError
            The owner has as many sessions as there may be; RESOURCE_EXHAUSTED.
        """
        seconds = self._checked_lease(lease or min(DEFAULT_LEASE, self._limits.max_lease))
        most = self._limits.max_session_bytes
        if memory_limit > most:
            raise InvalidArgumentError(f"max_session_bytes: memory_limit is {memory_limit}, the limit is {most}")
        name = "memory_limit" if memory_limit else "max_session_bytes"
        budget = Budget(memory_limit or most, name, within=self._caller(owner))
        session = Session(settings, budget, self._threads)
        warm(settings.codec, settings.dtype)
        return self._added(owner, session, seconds, request_id, request)

    def fork(
        self,
        owner: str,
        held: Held,
        length: int | None = None,
        lease: float = 0.0,
        request_id: str = "",
        request: bytes = b"",
    ) -> Held:
        """Fork a session, see `Session.fork`; a lease of 0 is that of the session. Waits for appends. See `create`."""
        seconds = self._checked_lease(lease or held.lease)
        return self._added(owner, held.session.fork(length), seconds, request_id, request)

    def free(self, owner: str, id: str) -> None:
        """End a session; one that has ended before stays so. Waits for what uses it.

        Raises
        ------
        UnknownSessionError
            The owner has never had it, or it ended long ago.
        """
        with self._guard:
            held = self._held.get(id)
            ended = self._ended.get(id)
            if held is None and ended is not None and ended.owner == owner:
                return
            session = self._forget(self._found(owner, id), "freed", "was freed").session
        session.close()

    def renew(self, owner: str, id: str, lease: float = 0.0) -> float:
        """Begin the lease of a session anew, or another lease, and return its seconds."""
        seconds = self._checked_lease(lease) if lease else 0.0
        with self._guard:
            held = self._found(owner, id)
            held.lease = seconds or held.lease
            held.expires = self._clock() + held.lease
            return held.lease

    def sweep(self) -> int:
        """End sessions whose lease has run out, and return how many those were."""
        with self._guard:
            now = self._clock()
            over = [held for held in self._held.values() if self._is_over(held, now)]
            ended = [self._forget(held, "expired", _expired(held)) for held in over]
        for held in ended:
            log.info("session %s of %r %s", shown(held.id), held.owner, _expired(held))
        _close(ended)
        return len(ended)

    # --- sessions are used ---

    @contextmanager
    def using(self, owner: str, id: str) -> Iterator[Held]:
        """A session that does not end meanwhile, unless it is freed; its lease begins anew before and after.

        Raises
        ------
        UnknownSessionError
            There is no such session of this owner, or it was freed meanwhile.
        """
        with self._guard:
            held = self._found(owner, id)
            held.users += 1
            held.expires = self._clock() + held.lease
        try:
            yield held
        except ClosedError as error:
            raise UnknownSessionError(f"session: {shown(id)} was freed meanwhile") from error
        finally:
            with self._guard:
                held.users -= 1
                held.expires = self._clock() + held.lease

    def of(self, owner: str, id: str = "") -> list[tuple[Held, float]]:
        """A session, or all sessions of an owner, the oldest one first, with the seconds left of their leases."""
        with self._guard:
            now = self._clock()
            if id:
                mine = [self._found(owner, id)]
            else:
                mine = [held for held in self._held.values() if held.owner == owner and not self._is_over(held, now)]
            return [(held, held.lease if held.users else held.expires - now) for held in mine]

    def held_bytes(self, owner: str) -> int:
        """What the sessions of an owner hold, shared pages once."""
        return self._caller(owner).used

    def facts(self) -> Facts:
        """For metrics."""
        with self._guard:
            return Facts(len(self._held), self._all.used, dict(self._counts))

    # --- within the guard ---

    def _found(self, owner: str, id: str) -> Held:
        held = self._held.get(id)
        if held is not None and held.owner == owner:
            if not self._is_over(held, self._clock()):
                return held
            raise UnknownSessionError(f"session: {shown(id)} {_expired(held)}")
        ended = self._ended.get(id)
        if ended is not None and ended.owner == owner:
            ago = self._clock() - ended.at
            raise UnknownSessionError(f"session: {shown(id)} {ended.reason}, {ago:.0f} s ago")
        raise UnknownSessionError(f"session: {shown(id)} is no session of this caller on this server")

    def _is_over(self, held: Held, now: float) -> bool:
        return not held.users and held.expires <= now

    def _forget(self, held: Held, kind: str, reason: str) -> Held:
        """Take a session from those that there are; the caller closes it, without the guard."""
        del self._held[held.id]
        if held.made_by is not None and self._made_by.get((held.owner, held.made_by[0])) is held:
            del self._made_by[held.owner, held.made_by[0]]
        self._ended[held.id] = _Ended(held.owner, reason, self._clock())
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._counts[kind] += 1
        return held

    # --- steps ---

    def _added(self, owner: str, session: Session, lease: float, request_id: str, request: bytes) -> Held:
        """The session under a new id, or the one that the same request has made before."""
        made_by = (request_id, hashlib.sha256(request).digest()) if request_id else None
        try:
            check_request_id(request_id or None)
            with self._guard:
                held = self._made_before(owner, made_by) or self._entered(owner, session, lease, made_by)
        except BaseException:
            session.close()
            raise
        if held.session is not session:
            session.close()
        return held

    def _made_before(self, owner: str, made_by: tuple[str, bytes] | None) -> Held | None:
        before = None if made_by is None else self._made_by.get((owner, made_by[0]))
        if before is None or self._is_over(before, self._clock()):
            return None
        if before.made_by != made_by:
            raise InvalidArgumentError("request_id: expected one of its own, got that of another request")
        before.expires = self._clock() + before.lease
        return before

    def _entered(self, owner: str, session: Session, lease: float, made_by: tuple[str, bytes] | None) -> Held:
        now = self._clock()
        count = sum(one.owner == owner and not self._is_over(one, now) for one in self._held.values())
        if count >= self._limits.max_sessions:
            raise ServiceError(
                f"max_sessions: the caller has {count} sessions, the limit is {self._limits.max_sessions}",
                "RESOURCE_EXHAUSTED",
            )
        held = Held(secrets.token_hex(_ID_BYTES), owner, session, lease, now + lease, made_by=made_by)
        self._held[held.id] = held
        if made_by is not None:
            self._made_by[owner, made_by[0]] = held
        return held

    def _caller(self, owner: str) -> Budget:
        with self._guard:
            budget = self._callers.get(owner)
            if budget is None:
                most = self._limits.max_caller_bytes
                budget = self._callers[owner] = Budget(most, "max_caller_bytes", within=self._all)
            return budget

    def _checked_lease(self, lease: float) -> float:
        if not lease > 0:
            raise InvalidArgumentError(f"lease: expected seconds above 0, got {lease!r}")
        if lease > self._limits.max_lease:
            raise InvalidArgumentError(f"max_lease: the lease is {lease:g} s, the limit is {self._limits.max_lease}")
        return lease

    def _work(self) -> None:
        while not self._stop.wait(_SWEEP_SECONDS):
            self.sweep()


def _expired(held: Held) -> str:
    return f"ended, as its lease of {held.lease:g} s ran out"


def _close(ended: list[Held]) -> None:
    for held in ended:
        held.session.close()
