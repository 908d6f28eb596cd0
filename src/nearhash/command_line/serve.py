"""``nearhash serve``: collections, or an index file, behind gRPC."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from nearhash.command_line.report import JsonOption, notices, print_json, results

_NOTHING = "expected a folder of collections, an index file, or both"
_ADDRESS = re.compile(r"\S+:\d{1,5}")


def _limit(help: str, default: str) -> Any:
    return typer.Option(min=1, help=help, show_default=default)


def _file(help: str) -> Any:
    return typer.Option(exists=True, dir_okay=False, help=help)


def serve(
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of collections; made if it is missing.")
    ] = None,
    index: Annotated[Path | None, _file("An index file, served for reading under the name 'default'.")] = None,
    config: Annotated[Path | None, _file("Configuration, TOML; options given here win over it.")] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.", show_default="127.0.0.1:50051"),
    ] = None,
    certificate: Annotated[Path | None, _file("The server's certificate, PEM: turns on TLS.")] = None,
    private_key: Annotated[Path | None, _file("Its private key, PEM.")] = None,
    client_ca: Annotated[Path | None, _file("Clients need a certificate of this authority, PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without TLS.", show_default=False)
    ] = False,
    keys: Annotated[Path | None, _file("API keys, see `nearhash keys`: who has none is let in no more.")] = None,
    audit: Annotated[Path | None, typer.Option(dir_okay=False, help="Record writes and refusals in this file.")] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Metrics for Prometheus, by HTTP.", show_default=False)
    ] = None,
    status_page: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A page to look at, by HTTP.", show_default=False)
    ] = None,
    slow_seconds: Annotated[
        float | None, typer.Option(min=0, help="Log requests that take as long; inf for none.", show_default="1")
    ] = None,
    readers: Annotated[
        int | None, typer.Option(min=0, max=64, help="Processes that search beside this one.", show_default="0")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Requests that run at once.", show_default="one per core")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads of one request.", show_default="1")
    ] = None,
    max_k: Annotated[int | None, _limit("Most neighbours per query.", "10000")] = None,
    max_rows: Annotated[int | None, _limit("Most queries per request.", "8192")] = None,
    max_pending: Annotated[int | None, _limit("Most requests that run or wait; others are refused.", "256")] = None,
    max_message_bytes: Annotated[int | None, _limit("Most bytes of a request or an answer.", "67108864")] = None,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds for accepted requests after a stop signal.", show_default="30")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Serve collections (--data), an index file (--index), or both, over gRPC until Ctrl-C or SIGTERM."""
    if listen is not None and not _ADDRESS.fullmatch(listen):
        raise typer.BadParameter(f"got {listen!r}, expected HOST:PORT", param_hint="--listen")
    if data is None and index is None and config is None:
        raise typer.BadParameter(_NOTHING, param_hint="--data, --index")

    import nearhash as nh
    from nearhash.service.config_file import load_config
    from nearhash.service.engine.database import Database
    from nearhash.service.logs import configure_logs
    from nearhash.service.server import serve as run_server

    settings = load_config(
        config,
        {
            "server.data": data,
            "server.listen": listen,
            "server.readers": readers,
            "server.workers": workers,
            "server.search_threads": threads,
            "server.grace": grace,
            "limits.max_k": max_k,
            "limits.max_rows": max_rows,
            "limits.max_pending": max_pending,
            "limits.max_message_bytes": max_message_bytes,
            "tls.certificate": certificate,
            "tls.private_key": private_key,
            "tls.client_ca": client_ca,
            "security.insecure": insecure or None,
            "security.keys": keys,
            "security.audit": audit,
            "operations.metrics": metrics,
            "operations.status_page": status_page,
            "operations.slow_seconds": slow_seconds,
        },
    )
    if settings.data is None and index is None:
        raise typer.BadParameter(_NOTHING, param_hint="--data, --index")
    with ExitStack() as stack:
        database = None
        if settings.data is not None:
            most = settings.server.limits.max_collections
            database = stack.enter_context(Database(settings.data, most=most))
        loaded = None if index is None else nh.load(index)
        served: dict[str, Any] = {}
        if database is not None:
            served |= {"data": str(settings.data), "collections": database.names(), "readers": settings.readers}
        if loaded is not None:
            served |= {"file": str(index), "index": loaded.info()}

        def announce(address: str) -> None:
            if json:
                print_json({"address": address, "pid": os.getpid(), **served})
            else:
                results().print(_ready_line(served, address), soft_wrap=True, markup=False)

        if settings.operations.traces:
            from nearhash.service.traces import export_traces

            export_traces()
        configure_logs(settings.operations.log_format, settings.operations.log_level)
        run_server(loaded, settings.listen, settings.server, announce, database, settings.readers, settings.operations)
    notices().print("stopped", markup=False)


def _ready_line(served: dict[str, Any], address: str) -> str:
    parts = []
    if "data" in served:
        count = len(served["collections"])
        parts.append(f"{served['data']} ({count:,} {'collection' if count == 1 else 'collections'})")
    if "index" in served:
        info = served["index"]
        parts.append(
            f"{served['file']} ({info['kind']}, {info['size']:,} vectors, dimension {info['dim']}, {info['metric']})"
        )
    return f"serving {' and '.join(parts)} on {address}; Ctrl-C stops"
