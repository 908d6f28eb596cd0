"""Keys, certificates and settings: what is refused before anything is sent, and what is sent."""

import asyncio

import numpy as np
import pytest
import trustme

import nearhash as nh
from nearhash.errors import AccessError, InvalidArgumentError, ServiceError
from nearhash.protos.v1 import points_pb2
from nearhash.service.background import running_server
from nearhash.service.config import ServerConfig
from nearhash.service.engine.database import Database
from nearhash.service.security.key_file import add_key
from nearhash.service.security.transport import TransportConfig

COUNT = points_pb2.CountResponse(count=3)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("NEARHASH_API_KEY", raising=False)


def authorization(scripted_server, make_client, **options):
    """What a server is told about the caller, by calls of all kinds."""
    with scripted_server(Count=[COUNT], Scroll=[[]]) as server:
        client = make_client(server.address, **options)
        client.collection("c").count()
        list(client.collection("c").scroll())
        assert len(server.metadata) == 2
        (told,) = {metadata.get("authorization") for metadata in server.metadata}
    return told


def test_the_key_is_sent_with_every_call(scripted_server, make_client, monkeypatch):
    assert authorization(scripted_server, make_client) is None
    assert authorization(scripted_server, make_client, api_key="k1") == "Bearer k1"
    monkeypatch.setenv("NEARHASH_API_KEY", "k2")
    assert authorization(scripted_server, make_client) == "Bearer k2"
    assert authorization(scripted_server, make_client, api_key="k1") == "Bearer k1"
    assert authorization(scripted_server, make_client, api_key="") is None


@pytest.mark.parametrize("kind", [nh.Client, nh.AsyncClient])
@pytest.mark.parametrize(
    "address",
    ["example.org:50051", "10.0.0.1:50051", "0.0.0.0:1", "[::]:1", "localhost.example.org:1", "127.0.0.1.x:1"],
)
def test_keys_are_not_sent_in_plain_text_to_others(kind, address, monkeypatch):
    with pytest.raises(InvalidArgumentError, match="api_key: would be sent in plain text") as failure:
        kind(address, api_key="secret")
    assert "secret" not in str(failure.value)
    monkeypatch.setenv("NEARHASH_API_KEY", "secret")
    with pytest.raises(InvalidArgumentError, match="NEARHASH_API_KEY: would be sent in plain text"):
        kind(address)
    for allowed in (
        kind(address, insecure=True),
        kind(address, tls=True),
        kind(address, api_key=""),
        kind("localhost:1"),
        kind("127.0.0.9:1"),
        kind("[::1]:1"),
    ):
        assert "secret" not in repr(allowed)
        assert asyncio.run(allowed.close()) is None if kind is nh.AsyncClient else allowed.close() is None


@pytest.mark.parametrize("key", ["a b", "line\nbreak", "kä", "nul\0", 7])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(InvalidArgumentError, match="api_key: expected an API key") as failure:
        nh.Client(api_key=key)
    assert repr(key) not in str(failure.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"certificate": "c.pem"}, "certificate, private_key: expected both"),
        ({"private_key": b"-----BEGIN "}, "certificate, private_key: expected both"),
        ({"ca": "/nowhere/ca.pem"}, "ca: cannot read '/nowhere/ca.pem'"),
        ({"ca": b"no PEM"}, "ca: expected PEM"),
        ({"ca": 7}, "ca: cannot read 7"),
    ],
)
def test_certificates_that_cannot_be_used_are_refused_at_once(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        nh.Client(tls=nh.TLS(**arguments))


def test_tls_must_be_one():
    with pytest.raises(InvalidArgumentError, match=r"tls: expected None, True or a nearhash\.TLS, got str"):
        nh.Client(tls="ca.pem")
    assert "BEGIN" not in repr(nh.TLS(certificate=b"-----BEGIN", private_key=b"-----BEGIN"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A server that asks for certificates and keys: its address, the authority, a client's certificate, and keys."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    files = {}
    for name, issued in (("server", authority.issue_cert("search.example")), ("client", authority.issue_cert("me"))):
        files[name] = folder / f"{name}.pem", folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(files[name][0])
        issued.private_key_pem.write_to_path(files[name][1])
        files[name][1].chmod(0o600)
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    tokens = {role: add_key(folder / "keys.json", f"the-{role}", role, ["team-*"]) for role in ("read", "admin")}
    config = ServerConfig(transport=TransportConfig(*files["server"], client_ca=ca), keys=folder / "keys.json")
    with (
        Database(folder / "data") as database,
        running_server(None, config=config, database=database) as address,
    ):
        yield address, ca, files["client"], tokens


def test_a_client_with_certificate_and_key(secured, make_client):
    address, ca, identity, tokens = secured
    tls = nh.TLS(str(ca), *identity, server_name="search.example")
    admin = make_client(address, tls=tls, api_key=tokens["admin"])
    collection = admin.create_collection("team-a", 4, if_missing=True)
    collection.upsert([1], np.ones((1, 4)))
    as_bytes = nh.TLS(*(file.read_bytes() for file in (ca, *identity)), server_name="search.example")
    reader = make_client(address, tls=as_bytes, api_key=tokens["read"])
    assert reader.collection("team-a").search(np.ones(4), k=1).ids.tolist() == [[1]]
    assert reader.health() == "SERVING"
    for call, code in (
        (lambda: reader.collection("team-a").delete([1]), "PERMISSION_DENIED"),
        (lambda: reader.drop_collection("team-a"), "PERMISSION_DENIED"),
        (lambda: admin.describe("other"), "PERMISSION_DENIED"),
        (lambda: make_client(address, tls=tls, api_key="wrong").collections(), "UNAUTHENTICATED"),
        (lambda: list(make_client(address, tls=tls).collection("team-a").scroll()), "UNAUTHENTICATED"),
    ):
        with pytest.raises(AccessError) as failure:
            call()
        assert failure.value.code == code


@pytest.mark.parametrize("wrong", ["no TLS", "no certificate", "another name", "another authority"])
def test_connections_that_cannot_be_trusted_fail(secured, make_client, tmp_path, wrong):
    address, ca, identity, tokens = secured
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    tls = {
        "no TLS": None,
        "no certificate": nh.TLS(ca, server_name="search.example"),
        "another name": nh.TLS(ca, *identity),
        "another authority": nh.TLS(stranger, *identity, server_name="search.example"),
    }[wrong]
    client = make_client(address, tls=tls, api_key=tokens["admin"], timeout=0.5)
    with pytest.raises(ServiceError) as failure:
        client.collections()
    assert failure.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
