"""Pages of what was measured of the service: speed, overload, crashes, concurrency, fuzzing."""

from collections.abc import Sequence
from statistics import median

from benchmarks.tables import MISSING, Document, figure, machine_line, mebibytes, table
from nearhash.service.load import OK, REFUSED


def serving_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    data, settings = document["dataset"], document["settings"]
    inserted, reopen, half = document["inserted"], document["reopen"], document["single"]["half"]
    n, dim = data["base"]
    batches = []
    for one in document["batches"]:
        embedded, remote = (median(one["rounds"][kind]) for kind in ("embedded", "grpc"))
        effort = f"{one['effort']['name']} {one['effort']['value']}"
        recall = f"{one['effort']['recall']:.3f}"
        batches.append([f"{one['index']}, {effort}", recall, figure(embedded), figure(remote), f"{one['ratio']:.2f}"])
    single = [
        [f"closed loop, {one['in_flight']} in flight", figure(one["per_second"]), *_milliseconds(one)]
        for one in document["single"]["closed"]
    ]
    single.append([f"open loop, {figure(half['rate'])} per second", figure(half["per_second"]), *_milliseconds(half)])
    return f"""\
## The service

{data["name"]}, {n:,} vectors of {dim} dimensions, {data["metric"]}, k = {settings["k"]}. `nearhash serve` is a process
of its own on the machine of the client; both have its cores between them. Requests are prepared beforehand; answers are
decoded and looked at, but not made into arrays.
{machine_line(document)}

Queries per second in batches of {settings["batch"]}, at the least effort with a recall of {settings["target"]:g}:
embedded, one batch after the other on all cores, and over gRPC with four batches in flight; medians of
{settings["rounds"]} rounds of {settings["seconds"]:g} s in turn.

{table(["index", "recall", "embedded", "gRPC", "ratio"], batches)}
One query a request, graph, at a recall of {document["efforts"]["graph"]["recall"]:.3f}; milliseconds. In the open loop
requests come at fixed times, half as many as the best closed loop had answered, and latencies count from these times.

{table(["", "requests/s", "p50", "p99", "p99.9"], single)}
Durable insertions, batches of {settings["points"]:,}, each acknowledged before the next, segments built meanwhile:
{figure(inserted["embedded"])} points per second embedded ({inserted["embedded_points"]:,} of them),
{figure(inserted["grpc"])} over gRPC ({inserted["grpc_points"]:,}). From opening to the first answer:
{", ".join(f"{figure(value)} s ({index})" for index, value in reopen["embedded_seconds"].items())}; the server was ready
{figure(reopen["server_seconds"])} s after the start of its process, with both collections and its kernels loaded.
{"" if document["overload"] is None else _overload(document["overload"])}"""


def _overload(overload: Document) -> str:
    errors = ("answered", "refused", "told when to come again", "past the deadline", "other errors")
    refused = ", ".join(f"{count:,} ({reason})" for reason, count in sorted(overload["server"]["refused"].items()))
    crowd = [[kind, *_crowd(one)] for kind, one in overload["kinds"].items()]
    return f"""
Overload: for {overload["seconds"]:.0f} s, {overload["times_capacity"]} times as many batches as the server can answer
({figure(overload["capacity"])} per second from {overload["index"]} with {overload["effort"]["name"]} \
{overload["effort"]["value"]:,}; {figure(overload["sent_per_second"])} requests per second came), upserts of
{overload["points"]} points among them, deadline {overload["deadline_seconds"]:g} s. Latencies in ms from the sending;
the client was at most {figure(overload["client_lag_ms"])} ms behind its times:

{table(["requests", *errors, "p50", "p99", "most", "slowest refusal"], crowd)}
By the server's own account, half of the searches that it accepted waited at most {_bound(overload, "search", "p50")}
for a thread, and 99% at most {_bound(overload, "search", "p99")}; of the writes, 99% at most
{_bound(overload, "write", "p99")}. It refused {refused or "none"}.
It had {mebibytes(overload["memory_before"])} MiB resident before, {mebibytes(overload["memory_most"])} MiB at most. Of
{overload["written"]:,} points of acknowledged upserts, {overload["written_there"]:,} were there afterwards.
"""


def _milliseconds(one: Document) -> list[str]:
    return [figure(one["milliseconds"][name]) for name in ("p50", "p99", "p99.9")]


def _crowd(one: Document) -> list[str]:
    late = one["codes"].get("DEADLINE_EXCEEDED", 0)
    other = sum(count for code, count in one["codes"].items() if code not in (OK, REFUSED, "DEADLINE_EXCEEDED"))
    counts = (one["answered"], one["refused"], one["told_when_to_come_again"], late, other)
    latencies = [figure(one["milliseconds_since_sent"][name]) for name in ("p50", "p99", "max")]
    return [*(f"{count:,}" for count in counts), *latencies, figure(one["slowest_refusal_ms"])]


def _bound(overload: Document, queue: str, share: str) -> str:
    seconds = overload["server"]["waited_seconds"][queue][share]
    return MISSING if seconds is None else f"{seconds:g} s"


def crashes_part(document: Document) -> str:
    """What a loop of crashes has found."""
    if document["failpoints"]:
        title, how = "Deaths at every step", "at each step of a commit, a seal and a compaction, several times,"
        command = "python -m benchmarks.crashes --failpoints"
    else:
        title, how = "Crashes", "at a moment that is drawn by a seed"
        command = "python -m benchmarks.crashes"
    return f"""\
### {title}

`{command}`: a process writes to a collection in several threads (upserts, deletions, segments sealed and merged
meanwhile) and is ended {how} by {"`os._exit`" if document["failpoints"] else "`kill -9`"}; then another one opens what
is left. All that was acknowledged must be there, as it was written; what was deleted must be gone; a write that was
under way must be there whole or not at all; searches must find the same as exact ones over a model.

{document["cycles"]:,} deaths, {document["writes"]:,} acknowledged writes: none lost, none back. Recall was
{figure(document["recall_least"])} at least. Files made again or removed on opening: {document["repairs"]:,}. Opening
took {figure(1e3 * document["open_seconds_median"])} ms (median), {figure(document["open_seconds_most"])} s at most.
"""


def concurrency_part(document: Document) -> str:
    """What writers, readers and compaction at once have found."""
    settings = document["settings"]
    names = {
        "upserts": "upserts", "deletes": "deletions", "searches": "searches", "searches_of_ranges": "whole ranges",
        "gets": "gets", "counts": "counts", "scrolls": "scrolls", "snapshots": "snapshots",
    }  # fmt: skip
    rows = [
        [
            f"{run['index']}, {run['seconds']:.0f} s",
            *(f"{run['counts'].get(name, 0):,}" for name in names),
            f"{run['seals']:,}",
            f"{run['merges'] + run['counts'].get('compactions', 0):,}",
        ]
        for run in document["runs"]
    ]
    return f"""\
### Writers, readers and compaction at once

`python -m benchmarks.concurrency`: {settings["writers"]} writers, {settings["readers"]} readers
({settings["followers"]} of which follow the collection as another process would), sealing, merging, compaction and
snapshots, over {settings["ids"]:,} ids. Each writer reads what it has written; each answer of a reader must be that of
a state that there was while it asked, for all ids of a writer together. Every answer was right, and nothing failed:

{table(["index", *names.values(), "seals", "merges"], rows)}"""


def damage_part(document: Document) -> str:
    """What became of damaged files."""
    names = {"refused": "refused", "same": "no difference", "last_write_lost": "the last write missing"}
    rows = [
        [
            f"{one['file']}, {one['left']}",
            f"{one['bytes']:,}",
            f"{one['flips']:,}",
            *(f"{one[name]:,}" for name in names),
        ]
        for one in document["files"]
    ]
    return f"""\
### Damaged files

`python -m benchmarks.damage`: the log of a crashed collection was cut in its last record at {document["cuts"]:,} places
(every {"byte" if document["cut_step"] == 1 else f"{document['cut_step']} bytes"}): each time exactly that write was
missing. A bit was flipped every {document["flip_step"]} bytes of every file, after a crash and after closing: the
collection was refused as damaged, or held and found what it should (files of segments are made again), or, where the
bit was in the last record of the log, missed that write as if it had been torn. None gave a wrong answer.

{table(["file", "bytes", "flips", *names.values()], rows)}"""


def fuzz_part(document: Document) -> str:
    """What random and mutated messages have met with."""
    answers = ", ".join(f"{count:,} {code}" for code, count in sorted(document["answers"].items()))
    return f"""\
### Random and mutated messages

`python -m benchmarks.fuzz`: {document["requests"]:,} requests in {document["seconds"]:.0f} s ({answers}). The server
stayed up and healthy, no answer was an internal error or showed a trace, and a collection that no request named
stayed as it was: {document["problems"]} problems.
"""


def service_parts(documents: Sequence[Document]) -> list[str]:
    """All that is known of the service, as one section."""
    serving = [serving_part(one) for one in documents if one["kind"] == "serving"]
    crashes = sorted((one for one in documents if one["kind"] == "crashes"), key=lambda one: bool(one["failpoints"]))
    checked = [crashes_part(one) for one in crashes]
    checked += [damage_part(one) for one in documents if one["kind"] == "damage"]
    checked += [concurrency_part(one) for one in documents if one["kind"] == "concurrency"]
    checked += [fuzz_part(one) for one in documents if one["kind"] == "fuzz"]
    return [*serving, *(["## What the service survives\n", *checked] if checked else [])]
