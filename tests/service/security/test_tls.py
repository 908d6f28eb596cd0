"""Encrypted connections: who is refused, that the server lives on, and that certificates change without a restart."""

import gc
import logging
import socket
import ssl
import time

import grpc
import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.protos.v1 import points_pb2, points_pb2_grpc
from nearhash.service.security.keys import KeyRing
from nearhash.service.security.transport import TransportConfig, server_credentials

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def count(channel):
    return points_pb2_grpc.PointServiceStub(channel).Count, points_pb2.CountRequest(collection="any")


def transport(certificates, name="server", **options):
    return TransportConfig(*certificates.issue(name), **options)


def served_name(port, certificates):
    """The name in the certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=certificates.ca)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return dict(pair for group in secure.getpeercert()["subject"] for pair in group)["commonName"]


def test_calls_are_answered_and_keys_still_needed(certificates, keys, outcome, serving, tls_channel):
    channel = tls_channel(serving(KeyRing(keys.path), transport(certificates)), certificates.ca)
    assert outcome(*count(channel), keys.read).count == 7
    assert outcome(*count(channel)).code is grpc.StatusCode.UNAUTHENTICATED


def test_a_client_refuses_an_expired_certificate(certificates, outcome, serving, tls_channel):
    expired = TransportConfig(*certificates.issue("server", expired=True))
    failure = outcome(*count(tls_channel(serving(None, expired), certificates.ca)))
    assert failure.code is UNAVAILABLE
    assert "expired" in failure.message.lower() or "CERTIFICATE_VERIFY_FAILED" in failure.message


def test_a_client_refuses_another_authority_and_another_name(certificates, stranger, outcome, serving, tls_channel):
    port = serving(None, transport(certificates))
    assert outcome(*count(tls_channel(port, stranger.ca))).code is UNAVAILABLE
    elsewhere = TransportConfig(*certificates.issue("elsewhere", host="elsewhere.example"))
    assert outcome(*count(tls_channel(serving(None, elsewhere), certificates.ca))).code is UNAVAILABLE


def test_mutual_tls(certificates, stranger, outcome, serving, tls_channel):
    port = serving(None, transport(certificates, client_ca=certificates.ca))
    good = certificates.issue("client")
    bad = [None, certificates.issue("late", expired=True), stranger.issue("client")]
    for identity in bad:
        assert outcome(*count(tls_channel(port, certificates.ca, identity))).code is UNAVAILABLE
    assert outcome(*count(tls_channel(port, certificates.ca, good))).count == 7


def test_plaintext_to_a_port_with_tls_fails_soon_and_the_server_lives_on(
    certificates, outcome, serving, plain, tls_channel
):
    port = serving(None, transport(certificates))
    assert outcome(*count(plain(port)), timeout=30).code is UNAVAILABLE  # not DEADLINE_EXCEEDED
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(noise)
    assert outcome(*count(tls_channel(port, certificates.ca))).count == 7


def test_tls_to_a_plaintext_port_fails_soon(certificates, outcome, serving, plain, tls_channel):
    port = serving(None)
    assert outcome(*count(tls_channel(port, certificates.ca)), timeout=30).code is UNAVAILABLE
    assert outcome(*count(plain(port))).count == 7


def test_old_versions_of_tls_are_refused(certificates, serving):
    port = serving(None, transport(certificates))
    context = ssl.create_default_context(cafile=certificates.ca)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_hostname="localhost")


def test_certificates_rotate_without_a_restart(certificates, outcome, serving, tls_channel, caplog):
    config = transport(certificates, name="first")
    port = serving(None, config)
    gc.collect()  # what C code calls back must live as long as the server
    held = tls_channel(port, certificates.ca)
    assert outcome(*count(held)).count == 7
    assert served_name(port, certificates) == "first"
    replace(config, certificates.issue("second"))
    until(lambda: served_name(port, certificates) == "second")
    assert outcome(*count(held)).count == 7
    with caplog.at_level(logging.ERROR):
        config.private_key.write_bytes(certificates.issue("other")[1].read_bytes())  # of another certificate
        until(lambda: served_name(port, certificates) == "second" and caplog.records)
    assert "what was read before stays in force" in caplog.text
    replace(config, certificates.issue("third"))
    until(lambda: served_name(port, certificates) == "third")


def test_trust_in_clients_rotates_without_a_restart(certificates, stranger, outcome, serving, tls_channel):
    config = transport(certificates, client_ca=certificates.ca)
    port = serving(None, config)
    trusted = certificates.ca.read_bytes()
    theirs, ours = stranger.issue("client"), certificates.issue("client")
    authority = certificates.folder / "authority.pem"
    authority.write_bytes(trusted)
    assert outcome(*count(tls_channel(port, authority, theirs))).code is UNAVAILABLE
    certificates.ca.write_bytes(stranger.ca.read_bytes())
    until(lambda: getattr(outcome(*count(tls_channel(port, authority, theirs))), "count", None) == 7)
    assert outcome(*count(tls_channel(port, authority, ours))).code is UNAVAILABLE


def replace(config, identity):
    """As tools for certificates do it: key and certificate one after the other."""
    identity[1].replace(config.private_key)
    identity[0].replace(config.certificate)


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.1)


def test_broken_files_are_refused_at_the_start(certificates):
    good, other = certificates.issue("server"), certificates.issue("other")
    empty, missing = certificates.folder / "empty.pem", certificates.folder / "missing.pem"
    empty.touch(mode=0o600)
    for files in ((good[0], other[1]), (good[1], good[0]), (empty, good[1]), (good[0], empty)):
        for path in files:
            path.chmod(0o600)
        with pytest.raises(InvalidArgumentError, match=r"^certificate: expected .* to be a certificate and its key"):
            server_credentials(TransportConfig(*files))
    with pytest.raises(InvalidArgumentError, match=r"certificate: cannot read .*missing.pem"):
        server_credentials(TransportConfig(missing, good[1]))
    with pytest.raises(InvalidArgumentError, match="client_ca: expected certificates"):
        server_credentials(TransportConfig(*good, client_ca=empty))


def test_an_encrypted_key_is_refused_and_no_password_asked_for(certificates):
    from cryptography.hazmat.primitives import serialization

    certificate, path = certificates.issue("server")
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(InvalidArgumentError, match="not encrypted"):
        server_credentials(TransportConfig(certificate, path))


def test_a_private_key_that_everybody_may_read_is_refused(certificates):
    certificate, key = certificates.issue("server")
    key.chmod(0o644)
    with pytest.raises(InvalidArgumentError, match=r"private_key: others .* \(mode 644\)"):
        server_credentials(TransportConfig(certificate, key))
    server_credentials(TransportConfig(certificate, key, check_permissions=False))
    key.chmod(0o640)
    server_credentials(TransportConfig(certificate, key))


def test_half_a_configuration_is_refused(tmp_path):
    file = tmp_path / "file.pem"
    with pytest.raises(InvalidArgumentError, match="private_key: expected a file"):
        TransportConfig(certificate=file)
    with pytest.raises(InvalidArgumentError, match="certificate: expected a file"):
        TransportConfig(private_key=file)
    with pytest.raises(InvalidArgumentError, match="client_ca: expected"):
        TransportConfig(client_ca=file)
