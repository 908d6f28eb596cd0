"""The configuration file of a server: TOML, read whole or refused."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nearhash.errors import InvalidArgumentError
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.security.transport import TransportConfig, refuse_eavesdroppers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

_ADDRESS = re.compile(r"\S*:[0-9]{1,5}")
_MOST_READERS = 64


@dataclass(frozen=True)
class OperationsConfig:
    """How a server is watched.

    Parameters
    ----------
    metrics
        ``host:port`` of the metrics, by HTTP, or by HTTPS where other machines can reach it; None for none.
    status_page
        ``host:port`` of the status page, in the same way.
    log_format
        "text" or "json".
    log_level
        "debug", "info", "warning" or "error".
    traces
        Whether each RPC becomes a span of OpenTelemetry.
    slow_seconds
        Requests that take as long are logged; infinity for none.
    """

    metrics: str | None = None
    status_page: str | None = None
    log_format: str = "text"
    log_level: str = "info"
    traces: bool = False
    slow_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("metrics", "status_page"):
            if getattr(self, name) is not None:
                _check_address(name, getattr(self, name))
        _check_choice("log_format", self.log_format, LOG_FORMATS)
        _check_choice("log_level", self.log_level, LOG_LEVELS)
        if not self.slow_seconds >= 0:
            raise InvalidArgumentError(f"slow_seconds: expected seconds >= 0, got {self.slow_seconds!r}")


@dataclass(frozen=True)
class ServiceConfig:
    """All that ``nearhash serve`` is told.

    Parameters
    ----------
    server
        Limits, sizes and security.
    listen
        ``host:port``; port 0 takes a free one.
    data
        Folder of collections; None where an index file is served.
    readers
        Processes that search beside the one that writes.
    operations
        How it is watched.
    """

    server: ServerConfig = field(default_factory=ServerConfig)
    listen: str = "127.0.0.1:50051"
    data: Path | None = None
    readers: int = 0
    operations: OperationsConfig = field(default_factory=OperationsConfig)

    def __post_init__(self) -> None:
        _check_address("listen", self.listen)
        if not 0 <= self.readers <= _MOST_READERS:
            raise InvalidArgumentError(f"readers: expected an integer from 0 to {_MOST_READERS}, got {self.readers!r}")
        addresses = {
            "listen": self.listen,
            "metrics": self.operations.metrics,
            "status_page": self.operations.status_page,
        }
        for name, address in addresses.items():
            if address is not None:
                refuse_eavesdroppers(address, self.server.transport, self.server.keys is not None, name)


def load_config(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> ServiceConfig:
    """The configuration of a file, or without one the default.

    Parameters
    ----------
    path
        The file. Relative paths in it are relative to its folder.
    overrides
        What the command line said, by section and name: ``{"server.listen": "127.0.0.1:0"}``. It wins over the file;
        None says nothing. Relative paths are relative to the working directory.

    Raises
    ------
    InvalidArgumentError
        The file cannot be read or is not TOML; a name in it is unknown (the message says which one is near); a value
        has the wrong type or is out of range; it would let others listen (see `refuse_eavesdroppers`).
    """
    values = {} if path is None else _read(Path(path))
    for name, value in (overrides or {}).items():
        if value is not None:
            section, _, key = name.partition(".")
            values[section, key] = _checked(section, key, value, Path(), "")
    try:
        return _built(values)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(str(error) if path is None else f"{path}: {error}") from error


def _read(path: Path) -> dict[tuple[str, str], Any]:
    """Values by section and name."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InvalidArgumentError(f"config: cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"config: {path} is not TOML: {error}") from error
    values = {}
    for section, content in document.items():
        known = _known(section, _SECTIONS, f"{path}: section")
        if not isinstance(content, dict):
            raise InvalidArgumentError(f"{path}: {section}: expected a section [{section}], got {content!r:.80}")
        for key, value in content.items():
            _known(key, known, f"{path}: [{section}]")
            values[section, key] = _checked(section, key, value, path.parent, f"{path}: [{section}] ")
    return values


def _built(values: Mapping[tuple[str, str], Any]) -> ServiceConfig:
    def only(section: str, *keys: str) -> dict[str, Any]:
        """What was given of these names."""
        return {key: values[section, key] for key in keys or _SECTIONS[section] if (section, key) in values}

    transport = TransportConfig(**only("tls"), **only("security", "insecure", "check_permissions"))
    server = ServerConfig(
        limits=Limits(**only("limits")),
        transport=transport,
        **only("server", "workers", "search_threads", "grace"),
        **only("security", "keys", "audit"),
    )
    return ServiceConfig(
        server=server,
        operations=OperationsConfig(**only("operations")),
        **only("server", "listen", "data", "readers"),
    )


Parser = Callable[[Any, Path], Any]


def _text(value: Any, _: Path) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a text")
    return value


def _integer(value: Any, _: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("an integer")
    return value


def _number(value: Any, _: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


def _flag(value: Any, _: Path) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _path(value: Any, folder: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise TypeError("a path")
    return folder / value


_SECTIONS: dict[str, dict[str, Parser]] = {
    "server": {
        "listen": _text,
        "data": _path,
        "workers": _integer,
        "search_threads": _integer,
        "readers": _integer,
        "grace": _number,
    },
    "limits": {bound.name: _integer for bound in fields(Limits)},
    "tls": {"certificate": _path, "private_key": _path, "client_ca": _path},
    "security": {"keys": _path, "audit": _path, "insecure": _flag, "check_permissions": _flag},
    "operations": {
        "metrics": _text,
        "status_page": _text,
        "log_format": _text,
        "log_level": _text,
        "traces": _flag,
        "slow_seconds": _number,
    },
}


def _checked(section: str, key: str, value: Any, folder: Path, where: str) -> Any:
    try:
        return _SECTIONS[section][key](value, folder)
    except TypeError as error:
        raise InvalidArgumentError(f"{where}{key}: expected {error}, got {value!r:.80}") from error


def _known(name: str, known: Mapping[str, Any], where: str) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InvalidArgumentError(f"{where}: unknown name {name!r:.80}; {advice}")
    return known[name]


def _check_address(name: str, address: str) -> None:
    if not _ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) >= 2**16:
        raise InvalidArgumentError(f"{name}: expected host:port, got {address!r:.80}")


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise InvalidArgumentError(f"{name}: expected {' or '.join(choices)}, got {value!r:.80}")
