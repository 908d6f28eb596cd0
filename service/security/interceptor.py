"""Nobody calls without a key: the check before every method of a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc

from nearhash.errors import ServiceError
from nearhash.service.security.access import ANYONE, OPEN_METHODS, Principal, action_of, check_role, current_principal
from nearhash.service.security.attempts import FailedAttempts, address_of
from nearhash.service.security.audit import AuditLog
from nearhash.service.security.keys import KeyRing
from nearhash.service.status import PUSHBACK_KEY, RETRY_AFTER_KEY

_EXPECTED = "authorization: expected the metadata 'authorization: Bearer <key>' or 'x-api-key: <key>'"


class AuthenticationError(ServiceError):
    """A call came without a good key. ``principal`` is the name of the key if it is known but has expired."""

    def __init__(self, message: str, principal: str = "") -> None:
        super().__init__(message, "UNAUTHENTICATED")
        self.principal = principal


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets calls through that have a key whose role allows the method, with `current_principal` set for the handler.

    Grants for collections are the handler's to check (`access.check`): only it knows what the request names. Health
    checks (`OPEN_METHODS`) need no key; everything else does, also reflection and methods that do not exist.

    Parameters
    ----------
    ring
        The keys; None lets everybody do everything, as `ANYONE`.
    audit
        Where refusals are recorded; of an address that fails too often, only the first ones of each minute.
    attempts
        Bounds failures by address. A good key is let in from any address: 256 bits cannot be guessed, so what needs
        protection from floods is the log, and clients must not be locked out by others that share their address.
    refused
        Told of each refusal: "unauthenticated", "attempts" or "permission".
    """

    def __init__(
        self,
        ring: KeyRing | None,
        audit: AuditLog | None = None,
        attempts: FailedAttempts | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self._ring = ring
        self._audit = audit
        self._attempts = attempts or FailedAttempts()
        self._refused = refused

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler | None:
        method = _text(handler_call_details.method)
        if method in OPEN_METHODS:
            return await continuation(handler_call_details)
        try:
            principal = self._authenticated(handler_call_details.invocation_metadata)
        except AuthenticationError as error:
            return _refusing(partial(self._failed, error, method))
        try:
            check_role(principal, action_of(method))
        except ServiceError as error:
            return _refusing(partial(self._forbidden, error, principal, method))
        current_principal.set(principal)  # gRPC calls interceptors and handler in one task of the call's own
        return await continuation(handler_call_details)

    def _authenticated(self, metadata: Sequence[tuple[str, str | bytes]]) -> Principal:
        if self._ring is None:
            return ANYONE
        entry = self._ring.find(_token(metadata))
        if entry is None:
            raise AuthenticationError("authorization: the key is not known here")
        if entry.expired():
            name = entry.principal.name  # only who has the key learns this
            raise AuthenticationError(f"authorization: the key {name!r} expired on {entry.expires}", name)
        return entry.principal

    def _failed(self, error: AuthenticationError, method: str, peer: str) -> _Refusal:
        beyond, seconds = self._attempts.add(address_of(peer))
        self._count("attempts" if beyond else "unauthenticated")
        if not beyond:
            refusal = _Refusal(grpc.StatusCode.UNAUTHENTICATED, str(error))
        else:
            refusal = _Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"authorization: too many calls without a good key from this address; try again in {seconds:.0f} s",
                ((RETRY_AFTER_KEY, f"{seconds:.3f}"), (PUSHBACK_KEY, str(round(seconds * 1000)))),
            )
        if self._audit is not None and beyond <= 1:
            more = "; not recording further ones of this minute" if beyond else ""
            self._audit.record(method, refusal.code, principal=error.principal, peer=peer, reason=f"{error}{more}")
        return refusal

    def _forbidden(self, error: ServiceError, principal: Principal, method: str, peer: str) -> _Refusal:
        self._count("permission")
        if self._audit is not None:
            self._audit.record(
                method, grpc.StatusCode.PERMISSION_DENIED, principal=principal.name, peer=peer, reason=str(error)
            )
        return _Refusal(grpc.StatusCode.PERMISSION_DENIED, str(error))

    def _count(self, reason: str) -> None:
        if self._refused is not None:
            self._refused(reason)


class _Refusal(NamedTuple):
    code: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


def _token(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    tokens = set()
    for name, value in metadata:
        if name == "authorization":
            scheme, _, token = _text(value).strip().partition(" ")
            if scheme.lower() != "bearer":
                raise AuthenticationError(_EXPECTED)  # what came is not shown, it may be a secret
            tokens.add(token.strip())
        elif name == "x-api-key":
            tokens.add(_text(value).strip())
    if len(tokens) != 1:
        raise AuthenticationError(f"{_EXPECTED}, got {'none' if not tokens else 'different ones'}")
    return tokens.pop()


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _refusing(refuse: Callable[[str], _Refusal]) -> grpc.RpcMethodHandler:
    """A handler that ends the call without reading a byte of its messages.

    It is one of streams whatever the method is, which on the wire is no difference: of a method with a single request,
    gRPC would receive the whole message first, up to the limit, from somebody who has no business here.
    """

    async def refused(_: Any, context: Any) -> None:
        refusal = refuse(context.peer())
        await context.abort(refusal.code, refusal.message, refusal.metadata)

    return grpc.stream_stream_rpc_method_handler(refused)
