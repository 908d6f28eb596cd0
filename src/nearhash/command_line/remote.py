"""Options of commands that talk to a server, and the client that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nearhash.service.client import Client
    from nearhash.service.connection import TLS

ApiKeyOption = Annotated[
    str | None, typer.Option(help="For servers that ask for one.", show_default="$NEARHASH_API_KEY, if set")
]
TlsOption = Annotated[bool, typer.Option("--tls", help="Encrypt; for certificates of public authorities.")]
CaOption = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Encrypt; certificates of the authority, PEM.")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Send the key without encryption, even to other machines.")
]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds that a call may take.")]


def tls_of(tls: bool, ca: Path | None) -> bool | TLS | None:
    """What to give a client as `tls`."""
    from nearhash.service.connection import TLS

    return TLS(ca=ca) if ca is not None else tls or None


def connect(
    address: str, api_key: str | None, tls: bool, ca: Path | None, insecure: bool, timeout: float = 30.0
) -> Client:
    """A client; whether there is a server, its calls find out."""
    from nearhash.service.client import Client

    return Client(address, timeout=timeout, api_key=api_key, tls=tls_of(tls, ca), insecure=insecure)
