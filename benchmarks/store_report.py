"""Tables and the figure of ``benchmarks.stores``."""

from pathlib import Path
from statistics import median

from benchmarks.plot import COLOURS
from benchmarks.tables import MISSING, Document, figure, machine_line, mebibytes, table


def stores_part(document: Document, image_folder: str) -> str:
    """The section of the page of benchmarks."""
    return f"## Durable stores\n\n{stores_table(document, image_folder)}"


def stores_table(document: Document, image_folder: str) -> str:
    """What was measured, a table for each number of points, and the figure."""
    settings = document["settings"]
    parts = [
        f"""\
{settings["dataset"]}, {settings["dim"]} dimensions, {settings["metric"]}, k = {settings["k"]}. Each store in a process
of its own (PostgreSQL and the server of nearhash in another one besides), with one client that asks one query a call;
a store may use all cores for it. Inserted in batches of {settings["batch"]:,}, each acknowledged before the next: what
that means differs, see the last table. "With the index": until it is built as well. Queries per second at the least
effort with a recall of {settings["target"]:g}, in steps of a fifth (in brackets the recall where none reached it);
medians of {settings["rounds"]} rounds in which all have their turn, with up to {settings["queries"]:,} queries, or as
many as fit in {settings["seconds"]:g} s, each asked once before. "Filter": equality on a field of the payload that
{settings["share"]:.0%} of the points satisfy, another value for each query. "Short": answers with fewer than k points,
though enough match. "Reopen": from opening the files, or starting the server, to the first answer, in a new process
that has imported its libraries; in brackets from the start of that process; files are in the cache of the system.
Memory is that of all processes of a store after the searches, files that they map included; disk all of its folder
(of PostgreSQL also its log). Each store was filled once.
{machine_line(document)}
"""
    ]
    for run in document["runs"]:
        parts.append(_run_table(document, run))
    parts.append(f"![insertions and queries per second of the stores]({image_folder}/stores.png)\n")
    parts.append(_configurations(document["runs"][0]))
    return "\n".join(parts)


def _run_table(document: Document, run: Document) -> str:
    target = document["settings"]["target"]
    header = [
        f"{run['size']:,} points", "inserts/s", "with the index", f"QPS at {target:g}", "p99, ms",
        f"filter: QPS at {target:g}", "short", "reopen, s", "memory, MiB", "disk, MiB",
    ]  # fmt: skip
    rows = []
    for one in run["stores"]:
        insert, plain, filtered = one["insert"], one["searches"]["all"], one["searches"]["filtered"]
        reopened = median(entry["seconds"] for entry in one["reopen"])
        process = median(entry["process_seconds"] for entry in one["reopen"])
        rows.append(
            [
                _name(one),
                figure(insert["points"] / insert["seconds"]),
                figure(insert["points"] / (insert["seconds"] + insert["index_seconds"])),
                _speed(plain),
                figure(plain["p99_us"] / 1e3),
                _speed(filtered),
                f"{filtered['short']} of {filtered['queries']}" if filtered["short"] else "0",
                f"{figure(reopened)} ({figure(process)})",
                mebibytes(one["memory_bytes"]),
                mebibytes(one["disk_bytes"]),
            ]
        )
    left_out = "".join(f"- {name} was left out: {reason}\n" for name, reason in run["left_out"].items())
    return table(header, rows) + (f"\n{left_out}" if left_out else "")


def _name(one: Document) -> str:
    return f"**{one['name']}**" if one["name"].startswith("nearhash") else str(one["name"])


def queries_per_second(search: Document) -> float:
    return 1e6 / median(search["us"])


def _speed(search: Document) -> str:
    speed = figure(queries_per_second(search))
    return speed if search["reached"] else f"({search['recall']:.2f}) {speed}"


def _configurations(run: Document) -> str:
    rows = [
        [
            one["name"],
            one["version"],
            one["configuration"],
            one["durability"],
            *(_effort(one["searches"][kind]) for kind in ("all", "filtered")),
        ]
        for one in run["stores"]
    ]
    header = ["store", "version", "configuration", "an acknowledged batch is", "effort", "effort with the filter"]
    return table(header, rows, align="---")


def _effort(search: Document) -> str:
    return ", ".join(f"{name} {value}" for name, value in search["effort"].items()) or MISSING


def plot_stores(run: Document, path: Path) -> None:
    """Bars: inserts with and without the index, queries with and without the filter."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    names = [one["name"] for one in run["stores"]]
    image, panels = pyplot.subplots(1, 4, figsize=(13, 0.8 + 0.45 * len(names)), dpi=110, sharey=True)
    titles = ("inserts per second", "... with the index", "queries per second", "... with a filter of 1%")
    for panel, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for row, one in enumerate(run["stores"]):
            insert = one["insert"]
            search = one["searches"]["all" if panel == 2 else "filtered"]
            seconds = insert["seconds"] + (insert["index_seconds"] if panel == 1 else 0)
            value = insert["points"] / seconds if panel < 2 else queries_per_second(search)
            reached = panel < 2 or search["reached"]
            own = one["name"].startswith("nearhash")
            axes.barh(row, value, color=COLOURS[0] if own else "#9aa0a6", alpha=1 if reached else 0.35)
            axes.text(value, row, f" {figure(value)}", va="center", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.25)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.tick_params(axis="x", labelsize=7)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].invert_yaxis()
    image.suptitle(f"{run['size']:,} points; pale: the recall was not reached", fontsize=10)
    image.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.savefig(path, metadata={"Software": ""})
    pyplot.close(image)
