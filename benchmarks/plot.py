"""Recall against queries per second."""

from pathlib import Path
from typing import Any

from benchmarks.families import families
from benchmarks.frontier import Point, frontier

LEAST_RECALL = 0.7  # what lies below is of no use to anybody and would squeeze the rest
COLOURS = (
    "#d62728",
    "#1f77b4",
    "#2ca02c",
    "#9467bd",
    "#ff7f0e",
    "#17becf",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#000000",
)
MARKERS = "osD^vP*X<>p"


def plot(document: dict[str, Any], path: Path) -> None:
    """Draw the frontier of each family of indexes, the subject's thick, into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = pyplot.subplots(figsize=(8.5, 5.5), dpi=110)
    for number, (family, indexes) in enumerate(families(document).items()):
        measured = [point for index in indexes for point in index["points"]]
        line = frontier(Point(p["recall"], p["qps"]) for p in measured if p["recall"] >= LEAST_RECALL)
        is_subject = any(index["name"] == document["subject"] for index in indexes)
        axes.plot(
            [point.recall for point in line],
            [point.qps for point in line],
            label=family,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=2.6 if is_subject else 1.3,
            zorder=3 if is_subject else 2,
        )
    data, k = document["dataset"], document["settings"]["k"]
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"recall@{k}")
    axes.set_ylabel("queries per second, one thread (log scale)")
    axes.set_title(f"{data['name']}: {data['base'][0]:,} x {data['base'][1]}, {data['metric']}")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of the library in the metadata the same results give the same file for longer.
    figure.savefig(path, metadata={"Software": ""})
    pyplot.close(figure)
