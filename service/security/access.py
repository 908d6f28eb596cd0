"""Who may call what: roles for methods, grants for collections."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from nearhash.errors import ServiceError

Action = Literal["read", "write", "admin"]

ROLES: tuple[Action, ...] = ("read", "write", "admin")
"""Each includes those before it; an action needs the role of its name."""

_ACTIONS: dict[str, dict[str, Action]] = {
    "nearhash.v1.SearchService": {"Search": "read", "GetInfo": "read"},
    "nearhash.v1.PointService": {
        "Get": "read",
        "Count": "read",
        "Scroll": "read",
        "Upsert": "write",
        "Delete": "write",
    },
    "nearhash.v1.CollectionService": {
        "ListCollections": "read",
        "DescribeCollection": "read",
        "GetStats": "read",
        "CreateCollection": "admin",
        "DropCollection": "admin",
        "SnapshotCollection": "admin",
        "ListSnapshots": "admin",
        "RestoreCollection": "admin",
    },
    "nearhash.v1.HashService": {"Sketch": "read", "Encode": "read"},
    "nearhash.v1.DocumentService": {
        "ListDocuments": "read",
        "DescribeDocuments": "read",
        "FindDuplicates": "read",
        "UpsertDocuments": "write",
        "DeleteDocuments": "write",
        "CheckAndAdd": "write",
        "CreateDocuments": "admin",
        "DropDocuments": "admin",
    },
    "nearhash.v1.AttentionService": {  # a session belongs to a key, no collection: grants say nothing about it
        "Attend": "read",
        "Retrieve": "read",
        "Stats": "read",
        "CreateSession": "write",
        "AppendKV": "write",
        "Fork": "write",
        "Truncate": "write",
        "Free": "write",
        "Renew": "write",
    },
    "grpc.health.v1.Health": {"List": "read"},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": "read"},
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": "read"},
}
METHOD_ACTIONS = {f"/{service}/{name}": action for service, of in _ACTIONS.items() for name, action in of.items()}

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""Need no key: orchestrators and load balancers have none, and learn nothing here but whether the server is up."""


_EVERYTHING = ("*",)


@dataclass(frozen=True)
class Principal:
    """Somebody who has a key: name, role, and the collections it is for (names, prefixes such as "team-*", or "*")."""

    name: str
    role: Action
    grants: tuple[str, ...] = _EVERYTHING

    def granted(self, collection: str) -> bool:
        """Whether the key is for a collection of that name."""
        return self.grants == _EVERYTHING or any(
            collection.startswith(grant[:-1]) if grant.endswith("*") else collection == grant for grant in self.grants
        )


ANYONE = Principal("anyone", "admin")
"""Whoever calls a server that has no keys."""

current_principal: ContextVar[Principal] = ContextVar("current_principal")
"""Who made the call that this task answers. Unset outside calls that were let in, so that a check there fails."""


def action_of(method: str) -> Action:
    """The action that a method (``/package.Service/Method``) is; one that is not known is for admins."""
    return METHOD_ACTIONS.get(method, "admin")


def check_role(principal: Principal, action: Action) -> None:
    """Raise ServiceError, PERMISSION_DENIED, unless the role allows the action."""
    if ROLES.index(principal.role) < ROLES.index(action):
        raise ServiceError(
            f"authorization: key {principal.name!r} has the role {principal.role}, this call needs {action}",
            "PERMISSION_DENIED",
        )


def check(principal: Principal, action: Action, collection: str) -> None:
    """Raise ServiceError, PERMISSION_DENIED, unless role and grants allow the action on the collection.

    Check before looking the collection up: whether one exists is no business of those who may not use it.
    """
    check_role(principal, action)
    if not principal.granted(collection):
        raise ServiceError(
            f"authorization: key {principal.name!r} is not for collection {collection!r:.80}", "PERMISSION_DENIED"
        )


def visible(principal: Principal, names: Iterable[str]) -> list[str]:
    """Those of the names that the principal may know of."""
    return [name for name in names if principal.granted(name)]
