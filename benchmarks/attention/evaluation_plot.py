"""Plots of the evaluation on SmolLM2: error against bytes read, divergence against the share of tokens read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plot import COLOURS, MARKERS

Document = dict[str, Any]
Lines = dict[str, list[tuple[float, float]]]


def tensor_lines(context: Document) -> Lines:
    """For each estimator (MiB read of a KV head and step, median error); MagicPIG's tables are not counted."""
    lines: Lines = {}
    for way in context["ways"]:
        lines.setdefault(way["name"], []).append((way["bytes_read"] / 2**20, way["error"]))
    for entry in context["equal_reads"]:
        own = entry["rivals"]["MagicPIG"]
        lines.setdefault("MagicPIG, its tables not counted", []).append((own["bytes_read"] / 2**20, own["error"]))
    return lines


def perplexity_lines(context: Document) -> Lines:
    """For each way of attention (share read, divergence from dense attention)."""
    lines: Lines = {}
    for way in context["ways"]:
        if way["name"] != "dense" and not way["name"].endswith("besides"):
            name = "MagicPIG" if way["name"].startswith("MagicPIG") else way["name"].rpartition(", ")[0] or way["name"]
            lines.setdefault(name, []).append((100 * way["share_read"], way["divergence"]))
    return lines


def plot_tensors(document: Document, path: Path) -> None:
    _plot(document, path, tensor_lines, "MiB read for a KV head and step, codes included", "median relative L2 error")


def plot_perplexity(document: Document, path: Path) -> None:
    _plot(document, path, perplexity_lines, "tokens read, %", "KL divergence from dense attention, nats")


def _plot(document: Document, path: Path, lines_of: Callable[[Document], Lines], across: str, up: str) -> None:
    """One panel for each context, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    contexts = document["contexts"]
    figure, panels = pyplot.subplots(1, len(contexts), figsize=(5.2 * len(contexts) + 1, 5), dpi=100, squeeze=False)
    names = list(dict.fromkeys(name for context in contexts for name in lines_of(context)))
    for axes, context in zip(panels[0], contexts, strict=True):
        for name, points in lines_of(context).items():
            number = names.index(name)
            axes.plot(
                *zip(*sorted(points), strict=True),
                label=name,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linewidth=2.4 if name.startswith("priority, lvq4") else 1.1,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{context['tokens']:,} tokens")
        axes.set_xlabel(across)
        axes.grid(True, which="both", alpha=0.25)
    panels[0][0].set_ylabel(up)
    panels[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": ""})
    pyplot.close(figure)
