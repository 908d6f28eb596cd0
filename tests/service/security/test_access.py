"""Roles, grants, and that no method is forgotten."""

import itertools

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

import nearhash.protos.v1
from nearhash.errors import ServiceError
from nearhash.service.security.access import (
    ANYONE,
    METHOD_ACTIONS,
    OPEN_METHODS,
    ROLES,
    Principal,
    action_of,
    check,
    current_principal,
    visible,
)

MODULES = [health_pb2, reflection_pb2]


def methods_of_the_protocol():
    """Every method of every service in protos/v1, found by their files."""
    import importlib
    from pathlib import Path

    folder = Path(nearhash.protos.v1.__path__[0])
    names = sorted(path.stem for path in folder.glob("*_pb2.py"))
    modules = [importlib.import_module(f"nearhash.protos.v1.{name}") for name in names]
    for module in [*modules, *MODULES]:
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


def test_every_method_of_the_protocol_has_an_action():
    known = set(METHOD_ACTIONS) | OPEN_METHODS
    assert set(methods_of_the_protocol()) <= known, "name the new method in service/security/access.py"


def test_the_open_methods_are_those_of_health_alone():
    assert {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} == OPEN_METHODS


@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("/nearhash.v1.SearchService/Search", "read"),
        ("/nearhash.v1.PointService/Scroll", "read"),
        ("/nearhash.v1.PointService/Upsert", "write"),
        ("/nearhash.v1.PointService/Delete", "write"),
        ("/nearhash.v1.CollectionService/ListCollections", "read"),
        ("/nearhash.v1.CollectionService/CreateCollection", "admin"),
        ("/nearhash.v1.CollectionService/DropCollection", "admin"),
        ("/nearhash.v1.CollectionService/RestoreCollection", "admin"),
        ("/nearhash.v1.CollectionService/ListSnapshots", "admin"),
        ("/nearhash.v1.HashService/Sketch", "read"),
        ("/nearhash.v1.DocumentService/FindDuplicates", "read"),
        ("/nearhash.v1.DocumentService/CheckAndAdd", "write"),
        ("/nearhash.v1.DocumentService/UpsertDocuments", "write"),
        ("/nearhash.v1.DocumentService/DropDocuments", "admin"),
        ("/nearhash.v1.AttentionService/Attend", "read"),
        ("/nearhash.v1.AttentionService/AppendKV", "write"),
        ("/nearhash.v1.AttentionService/CreateSession", "write"),
        ("/nearhash.v1.PointService/upsert", "admin"),
        ("", "admin"),
    ],
)
def test_actions(method, action):
    assert action_of(method) == action


def test_a_role_includes_those_before_it():
    for role, action in itertools.product(ROLES, ROLES):
        allowed = ROLES.index(action) <= ROLES.index(role)
        if allowed:
            check(Principal("p", role), action, "c")
        else:
            with pytest.raises(ServiceError, match=f"'p' has the role {role}, this call needs {action}") as refused:
                check(Principal("p", role), action, "c")
            assert refused.value.code == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("grants", "inside", "outside"),
    [
        (("*",), ["a", "b", ""], []),
        (("a",), ["a"], ["A", "aa", "", "a*"]),
        (("team-*",), ["team-", "team-a", "team-*"], ["team", "a-team-a"]),
        (("a", "b*"), ["a", "b", "bb"], ["ab", "c"]),
        ((), [], ["a", ""]),
    ],
)
def test_grants(grants, inside, outside):
    principal = Principal("p", "admin", grants)
    assert visible(principal, [*inside, *outside]) == inside
    for name in inside:
        check(principal, "write", name)
    for name in outside:
        with pytest.raises(ServiceError, match="'p' is not for collection") as refused:
            check(principal, "read", name)
        assert refused.value.code == "PERMISSION_DENIED"


@given(st.text(max_size=8), st.lists(st.text(max_size=4), max_size=4))
def test_a_grant_is_a_name_or_a_prefix(name, grants):
    expected = any(name == g if not g.endswith("*") else name[: len(g) - 1] == g[:-1] for g in grants)
    assert Principal("p", "read", tuple(grants)).granted(name) == expected


def test_outside_a_call_there_is_nobody():
    """A handler that is reached without the interceptor fails, rather than let everybody in."""
    with pytest.raises(LookupError):
        current_principal.get()


def test_a_server_without_keys_lets_everybody_do_everything():
    check(ANYONE, "admin", "any")
