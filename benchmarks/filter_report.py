"""Tables and plot of searches under filters."""

from pathlib import Path
from typing import Any

from benchmarks.plot import COLOURS, MARKERS
from benchmarks.tables import figure, machine_line, table

Document = dict[str, Any]


def filter_tables(document: Document) -> str:
    """A table for each case: recall, queries per second and slowdown by selectivity."""
    return "\n".join(f"### {case['name']}\n\n{_case_table(case)}" for case in document["cases"])


def _case_table(case: Document) -> str:
    names = list(case["points"][0]["indexes"])
    header = ["share that matches", "matches"]
    for name in names:
        header += [f"{name}: recall", "QPS", "time / unfiltered", "all min(k, matches)", "effort"]
    rows = []
    for point in case["points"]:
        row = [_share(point["share"]), f"{point['matches']:,}"]
        for name in names:
            found = point["indexes"][name]
            effort = ", ".join(f"{key} {value}" for key, value in found["effort"].items())
            complete = "yes" if found["complete"] == 1 else f"{found['complete']:.1%}"
            row += [f"{found['recall']:.4f}", figure(found["qps"]), f"{found['slower']:.2f}x", complete, effort]
        rows.append(row)
    return table(header, rows)


def _share(share: float) -> str:
    return f"1/{round(1 / share):,}" if share < 1 else "1"


def slowest(document: Document) -> list[list[str]]:
    """For each case the slowest selectivity of the subject, as a row: case, share, slowdown, least recall."""
    rows = []
    for case in document["cases"]:
        points = [(point, point["indexes"][document["subject"]]) for point in case["points"]]
        point, found = max(points, key=lambda pair: pair[1]["slower"])
        least = min(own["recall"] for _, own in points)
        complete = all(own["complete"] == 1 for _, own in points)
        rows.append(
            [
                case["name"],
                _share(point["share"]),
                f"{found['slower']:.2f}x",
                f"{least:.4f}",
                "yes" if complete else "no",
            ]
        )
    return rows


def filter_part(document: Document, image_folder: str) -> str:
    """The part of the page of benchmarks."""
    data, settings = document["dataset"], document["settings"]
    n, dim = data["base"]
    efforts = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in effort.items())}"
        for name, effort in document["unfiltered_efforts"].items()
    )
    summary = table(
        ["filter", "slowest at", "time / unfiltered", "least recall", "always min(k, matches)"], slowest(document)
    )
    return f"""\
## Filters: {data["name"]}

{n:,} vectors of {dim} dimensions, {data["metric"]}, {data["queries"]:,} queries in one batch on one thread,
k = {settings["k"]}, {settings["rounds"]} rounds.
{machine_line(document)}
Filters leave shares from 1 down to 1/4,096 of the vectors. The effort is the one that reaches recall
{settings["target"]:g} without a filter ({efforts})
and rises only where the recall under the filter is below that. Windows differ from query to query; faiss takes one
filter for a batch, so it is compared where all queries have the same. For faiss the filter is a bitmap, made anew
for each batch as for nearhash.

![time by share that matches]({image_folder}/filters-{data["name"]}.png)

{document["subject"]} at its slowest:

{summary}
{filter_tables(document)}"""


def plot_filters(document: Document, path: Path) -> None:
    """Draw time over unfiltered time by the share that matches, a line for each case and index, into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure_, axes = pyplot.subplots(figsize=(8.5, 5.5), dpi=110)
    number = 0
    for case in document["cases"]:
        for name in case["points"][0]["indexes"]:
            subject = name == document["subject"]
            axes.plot(
                [point["share"] for point in case["points"]],
                [1e6 / point["indexes"][name]["qps"] for point in case["points"]],
                label=f"{name}: {case['name']}",
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linestyle="-" if subject else "--",
            )
            number += 1
    data = document["dataset"]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("share of the vectors that matches")
    axes.set_ylabel("microseconds a query, one thread (log scale)")
    axes.set_title(f"{data['name']}: recall of at least {document['settings']['target']:g} under a filter")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    figure_.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_.savefig(path, metadata={"Software": ""})
    pyplot.close(figure_)
