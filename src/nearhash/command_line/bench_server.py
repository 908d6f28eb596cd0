"""``nearhash bench-server``: load on a server, and how it fares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from nearhash.command_line.remote import (
    ApiKeyOption,
    CaOption,
    InsecureOption,
    TimeoutOption,
    TlsOption,
    connect,
    tls_of,
)
from nearhash.command_line.report import JsonOption, notices, print_json, progress_bar, results
from nearhash.command_line.vector_files import read_vectors

if TYPE_CHECKING:
    from nearhash.service.client import RemoteCollection

_SAMPLE = 4096  # vectors to ask for
_DELETED_AT_ONCE = 10_000


def bench_server(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Of the server.")],
    collection: Annotated[str, typer.Option(help="Name of a collection.")],
    in_flight: Annotated[
        int, typer.Option(min=1, help="Closed loop: requests under way at once, of all processes.")
    ] = 16,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Open loop instead: requests per second, at fixed times, whether earlier ones were answered or not.",
            show_default=False,
        ),
    ] = None,
    searches: Annotated[float, typer.Option(min=0, help="Share of searches for one query.")] = 1.0,
    batches: Annotated[float, typer.Option(min=0, help="Share of searches for many.")] = 0.0,
    upserts: Annotated[float, typer.Option(min=0, help="Share of upserts.")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Queries of a batch.")] = 64,
    points: Annotated[int, typer.Option(min=1, help="Points of an upsert.")] = 100,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours per query.")] = 10,
    recall: Annotated[
        float | None, typer.Option(help="Search as the collection was tuned for.", show_default=False)
    ] = None,
    effort: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Such as beam=64; repeatable.", show_default=False)
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Vectors to ask for, and to write.", show_default="some of the collection"
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long is measured.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before.")] = 2.0,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Clients.")] = 1,
    timeout: TimeoutOption = 10.0,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the points that were written.")] = False,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Put load on a server and print latencies, throughput, refusals and errors."""
    mix = {"search": searches, "batch": batches, "upsert": upserts}
    if not any(mix.values()):
        raise typer.BadParameter("expected one above 0", param_hint="--searches, --batches, --upserts")
    if rate is None and in_flight < processes:
        raise typer.BadParameter(f"expected at least one for each of {processes} processes", param_hint="--in-flight")
    efforts = _efforts(effort or [])

    from nearhash.service.load import Load, at_rate, run_load, summary

    with connect(address, api_key, tls, ca, insecure, timeout) as client:
        remote = client.collection(collection)
        described = remote.describe()
        vectors = _vectors(remote, described["dim"]) if queries is None else read_vectors(queries)
        load = Load(
            address,
            collection,
            np.ascontiguousarray(vectors, np.float32),
            mix,
            in_flight=max(in_flight // processes, 1),
            seconds=seconds,
            warmup=warmup,
            k=k,
            recall=recall,
            effort=efforts,
            batch=batch,
            points=points,
            timeout=timeout,
            processes=processes,
            api_key=api_key,
            tls=tls_of(tls, ca),
            insecure=insecure,
        )
        with progress_bar("Load") as progress:
            result = run_load(load if rate is None else at_rate(load, rate), progress)
        if not keep:
            for first, stop in result.written:
                for start in range(first, stop, _DELETED_AT_ONCE):
                    remote.delete(range(start, min(start + _DELETED_AT_ONCE, stop)))

    document: dict[str, Any] = {
        "address": address,
        "collection": collection,
        "size": described["size"],
        "loop": "closed" if rate is None else "open",
        "in_flight": in_flight if rate is None else None,
        "rate": rate,
        "processes": processes,
        "seconds": result.seconds,
        "client_lag_ms": result.lag * 1e3,
        "requests": {
            kind: summary(measured, result.seconds) for kind, measured in result.kinds.items() if measured.codes
        },
    }
    if json:
        print_json(document)
    else:
        _print(document, {"search": 1, "batch": batch, "upsert": points})
    answered = sum(one["answered"] for one in document["requests"].values())
    if not answered:
        notices().print("nearhash: no request was answered", markup=False)
        raise typer.Exit(1)


def _efforts(given: list[str]) -> dict[str, int]:
    efforts = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not (separator and name and value.isdecimal()):
            raise typer.BadParameter(f"got {one!r}, expected such as beam=64", param_hint="--effort")
        efforts[name] = int(value)
    return efforts


def _vectors(remote: RemoteCollection, dim: int) -> NDArray[Any]:
    """Some of the collection's own; of an empty one, random ones."""
    vectors: list[Any] = []
    for page in remote.scroll(page_size=1024, vectors=True, payloads=False):
        vectors += [point.vector for point in page.points]
        if len(vectors) >= _SAMPLE:
            break
    if vectors:
        return np.stack(vectors)
    notices().print("the collection is empty: random vectors are written and asked for", markup=False)
    return np.random.default_rng().standard_normal((_SAMPLE, dim))


def _print(document: dict[str, Any], rows: dict[str, int]) -> None:
    loop = (
        f"{document['in_flight']} requests in flight"
        if document["loop"] == "closed"
        else f"{document['rate']:g} requests per second at fixed times"
    )
    console = results()
    console.print(
        f"{document['collection']} on {document['address']}: {document['size']:,} points; {loop}, "
        f"{document['seconds']:.1f} s",
        soft_wrap=True,
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("request", style="cyan", no_wrap=True)
    columns = ("answered/s", "rows/s", "p50 ms", "p90", "p99", "p99.9", "max", "refused", "errors")
    for column in columns:
        table.add_column(column, justify="right")
    for kind, one in document["requests"].items():
        errors = {code: count for code, count in one["codes"].items() if code not in ("OK", "RESOURCE_EXHAUSTED")}
        table.add_row(
            kind,
            f"{one['per_second']:,.0f}",
            f"{one['per_second'] * rows[kind]:,.0f}",
            *("-" if value is None else f"{value:.2f}" for value in one["milliseconds"].values()),
            f"{one['refused']:,}",
            ", ".join(f"{count:,} {code}" for code, count in errors.items()) or "0",
        )
    console.print(table)
