"""Where a server may listen without encryption."""

import logging
from pathlib import Path

import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.service.security.transport import TransportConfig, check_listen, is_local

LOCAL = [
    "127.0.0.1:50051",
    "127.3.2.1:0",
    "[::1]:50051",
    "localhost:50051",
    "LOCALHOST:1",
    "[::ffff:127.0.0.1]:1",
    "unix:/run/nearhash.sock",
    "unix-abstract:nearhash",
]
BEYOND = [
    "0.0.0.0:50051",
    "[::]:50051",
    ":50051",
    "10.0.0.7:1",
    "[2001:db8::1]:1",
    "[::ffff:10.0.0.7]:1",
    "[fe80::1%eth0]:1",
    "search.example:1",
    "localhost.example:1",
    "127.0.0.1.example:1",
    "127.1:1",  # some resolvers take these for loopback, others do not
    "0177.0.0.1:1",
    "2130706433:1",
    "128.0.0.1:1",
    "::1:1",  # without brackets, gRPC takes all of it for the host
    "[127.0.0.1]:1",
    "ipv4:127.0.0.1:1",
    "dns:///localhost:1",
    "*:1",
]

PLAIN = TransportConfig()
INSECURE = TransportConfig(insecure=True)
TLS = TransportConfig(Path("server.pem"), Path("server.key"))
MUTUAL = TransportConfig(Path("server.pem"), Path("server.key"), Path("ca.pem"))


@pytest.mark.parametrize("address", LOCAL)
def test_loopback_needs_nothing(address, caplog):
    assert is_local(address)
    for transport in (PLAIN, INSECURE, TLS, MUTUAL):
        for keys in (False, True):
            check_listen(address, transport, keys)
    assert not caplog.records


@pytest.mark.parametrize("address", BEYOND)
def test_beyond_loopback_plaintext_needs_a_word(address):
    assert not is_local(address)
    for keys in (False, True):
        with pytest.raises(InvalidArgumentError) as refused:
            check_listen(address, PLAIN, keys)
        assert str(refused.value).startswith("listen: ")
        assert "certificate and private_key" in str(refused.value)
        assert "insecure" in str(refused.value)
        assert ("API keys" in str(refused.value)) == keys
        for transport in (INSECURE, TLS, MUTUAL):
            check_listen(address, transport, keys)


@pytest.mark.parametrize(
    ("transport", "keys", "warnings"),
    [
        (INSECURE, False, ["plaintext", "no keys"]),
        (INSECURE, True, ["plaintext"]),
        (TLS, False, ["no keys"]),
        (TLS, True, []),
        (MUTUAL, False, []),
        (MUTUAL, True, []),
    ],
)
def test_what_is_open_is_warned_of(caplog, transport, keys, warnings):
    with caplog.at_level(logging.WARNING):
        check_listen("0.0.0.0:1", transport, keys)
    assert [
        record.getMessage()[: len(start)] for record, start in zip(caplog.records, warnings, strict=True)
    ] == warnings
