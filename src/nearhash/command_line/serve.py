"""``nearhash serve``: an index file behind gRPC."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from nearhash.command_line.report import JsonOption, notices, print_json, results

_ADDRESS = re.compile(r"\S+:\d{1,5}")


def serve(
    index: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The index file.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:50051",
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Requests that run at once.", show_default="one per core")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of one request.")] = 1,
    max_k: Annotated[int, typer.Option(min=1, help="Most neighbours per query.")] = 10_000,
    max_rows: Annotated[int, typer.Option(min=1, help="Most queries per request.")] = 8_192,
    max_pending: Annotated[int, typer.Option(min=1, help="Most requests that run or wait; others are refused.")] = 256,
    max_message_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of a request or an answer.")] = 64 * 2**20,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for accepted requests after a stop signal.")] = 30.0,
    json: JsonOption = False,
) -> None:
    """Serve an index over gRPC until Ctrl-C or SIGTERM. There is no encryption and no authentication."""
    if not _ADDRESS.fullmatch(listen):
        raise typer.BadParameter(f"got {listen!r}, expected HOST:PORT", param_hint="--listen")

    import nearhash as nh
    from nearhash.service.config import Limits, ServerConfig
    from nearhash.service.server import serve as run_server

    limits = Limits(max_k=max_k, max_rows=max_rows, max_pending=max_pending, max_message_bytes=max_message_bytes)
    config = ServerConfig(limits=limits, workers=workers, search_threads=threads, grace=grace)
    loaded = nh.load(index)
    info = loaded.info()

    def announce(address: str) -> None:
        if json:
            print_json({"address": address, "pid": os.getpid(), "file": str(index), "index": info})
        else:
            results().print(_ready_line(index, info, address), soft_wrap=True, markup=False)

    run_server(loaded, listen, config, on_ready=announce)
    notices().print("stopped", markup=False)


def _ready_line(index: Path, info: dict[str, Any], address: str) -> str:
    return (
        f"serving {index} ({info['kind']}, {info['size']:,} vectors, dimension {info['dim']}, {info['metric']}) "
        f"on {address}; Ctrl-C stops"
    )
