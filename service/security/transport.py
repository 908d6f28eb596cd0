"""Encryption of connections, and where a server may listen without it."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from nearhash.errors import InvalidArgumentError, ServiceError
from nearhash.service.security.secret_files import Reloading, read_secret

log = logging.getLogger("nearhash.service.security")

_WORLD = 0o007  # servers often read their key by way of a group


@dataclass(frozen=True)
class TransportConfig:
    """How connections are encrypted.

    Parameters
    ----------
    certificate
        PEM file: the server's certificate, then those between it and the authority.
    private_key
        PEM file, not encrypted, which nobody but its owner and group may read.
    client_ca
        PEM file of authorities: clients need a certificate from one of them.
    insecure
        Without a certificate: listen beyond loopback nevertheless.
    check_permissions
        False takes a private key that everybody may read.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    insecure: bool = False
    check_permissions: bool = True

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            given, missing = ("certificate", "private_key") if self.certificate else ("private_key", "certificate")
            raise InvalidArgumentError(f"{missing}: expected a file, as there is a {given}, got none")
        if self.client_ca is not None and self.certificate is None:
            raise InvalidArgumentError("client_ca: expected a certificate and private_key of the server with it")

    @property
    def encrypted(self) -> bool:
        return self.certificate is not None


def server_credentials(transport: TransportConfig) -> grpc.ServerCredentials:
    """Credentials for ``add_secure_port``; new connections use the files as they are then, without a restart.

    Raises
    ------
    InvalidArgumentError
        A file cannot be read, is not PEM, or the key is not the certificate's.
    """
    identity = Reloading(_paths(transport), lambda: _read_identity(transport))
    return grpc.dynamic_ssl_server_credentials(
        identity.get().configuration(),
        lambda: identity.get().configuration(),
        require_client_authentication=transport.client_ca is not None,
    )


def add_port(server: grpc.aio.Server, address: str, transport: TransportConfig) -> int:
    """Let a server listen, encrypted if there is a certificate; gives the port in use.

    Raises
    ------
    InvalidArgumentError
        See `server_credentials`.
    ServiceError
        The address cannot be listened on.
    """
    try:
        if not transport.encrypted:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, server_credentials(transport)))
    except RuntimeError as error:
        raise ServiceError(f"address: cannot listen on {address}; is the port in use?", "UNAVAILABLE") from error


def page_contexts(transport: TransportConfig) -> Callable[[], ssl.SSLContext]:
    """Gives what an HTTPS server needs for its next connection; like `server_credentials`, without a restart.

    Raises
    ------
    InvalidArgumentError
        See `server_credentials`.
    """
    return Reloading(_paths(transport), lambda: _checked_context(transport)).get


def check_listen(address: str, transport: TransportConfig, keys: bool, argument: str = "listen") -> None:
    """As `refuse_eavesdroppers`; and warn of what is open all the same."""
    refuse_eavesdroppers(address, transport, keys, argument)
    if is_local(address):
        return
    if not transport.encrypted:
        log.warning("plaintext: whoever is between a client and %s can read and change all that is sent", address)
    if not keys and transport.client_ca is None:
        may = "read, change and drop everything" if argument == "listen" else "read what it shows"
        log.warning("no keys and no client_ca: whoever reaches %s can %s", address, may)


def refuse_eavesdroppers(address: str, transport: TransportConfig, keys: bool, argument: str = "listen") -> None:
    """Refuse to listen beyond loopback without encryption, unless `insecure` says so.

    Parameters
    ----------
    address
        ``host:port``, or ``unix:path``.
    transport
        How connections are encrypted.
    keys
        Whether callers need an API key.
    argument
        What messages call the address.

    Raises
    ------
    InvalidArgumentError
        Others could reach the address and read what is sent, keys included.
    """
    if not (is_local(address) or transport.encrypted or transport.insecure):
        raise InvalidArgumentError(
            f"{argument}: other machines can reach {address}, and could read all that is sent"
            f"{', API keys included' if keys else ''}; give a certificate and private_key for TLS, "
            "or allow plaintext by insecure"
        )


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address: loopback or a Unix socket. Names other than localhost are not."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0]
    if host.lower() == "localhost":
        return True
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        parsed = ipaddress.IPv6Address(host[1:-1]) if bracketed else ipaddress.IPv4Address(host)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


class _Identity(NamedTuple):
    """What the files hold."""

    certificate: bytes
    private_key: bytes
    client_ca: bytes | None

    def configuration(self) -> Any:
        return grpc.ssl_server_certificate_configuration([(self.private_key, self.certificate)], self.client_ca)


def _read_identity(transport: TransportConfig) -> _Identity:
    identity = _read_files(transport)
    _checked_context(transport)
    if _read_files(transport) != identity:
        raise InvalidArgumentError(f"certificate: {transport.certificate} and its key change at this moment")
    return identity


def _read_files(transport: TransportConfig) -> _Identity:
    assert transport.certificate is not None
    assert transport.private_key is not None
    return _Identity(
        read_secret(transport.certificate, "certificate", 0),
        read_secret(transport.private_key, "private_key", _WORLD, transport.check_permissions),
        None if transport.client_ca is None else read_secret(transport.client_ca, "client_ca", 0),
    )


def _paths(transport: TransportConfig) -> list[Path]:
    return [path for path in (transport.certificate, transport.private_key, transport.client_ca) if path is not None]


def _checked_context(transport: TransportConfig) -> ssl.SSLContext:
    """gRPC would take wrong files and fail with every connection. Python's ssl checks files only, not bytes."""
    _read_files(transport)  # who may read them
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert transport.certificate is not None
    try:
        # Without a password, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(transport.certificate, transport.private_key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"certificate: expected {transport.certificate} and {transport.private_key} to be a certificate and its "
            f"key, PEM, not encrypted: {error}"
        ) from error
    if transport.client_ca is not None:
        try:
            context.load_verify_locations(transport.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgumentError(
                f"client_ca: expected certificates, PEM, in {transport.client_ca}: {error}"
            ) from error
    return context
