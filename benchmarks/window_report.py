"""Tables and figures of ``benchmarks.windows``."""

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.plot import COLOURS, MARKERS
from benchmarks.tables import MISSING, Document, figure, machine_line, table


def is_peer(name: str) -> bool:
    """Whether this is another way than the indexes of nearhash: of a library, of the paper, or the exact slice."""
    return not name.startswith("nearhash")


def windows_table(document: Document, image_folder: str) -> str:
    """What was measured, the tables and figures."""
    settings = document["settings"]
    n, dim = settings["base"]
    parts = [
        f"""\
{settings["dataset"]}: {n:,} vectors of {dim} dimensions, {settings["metric"]}, k = {settings["k"]}, one search thread,
{settings["queries"]} queries, each with a window of its own, medians of {settings["rounds"]} rounds, each of which is
run once before it is timed. Queries per second at the least effort with a recall of {settings["target"]:g} by
distance, efforts in steps of a quarter; in brackets the recall where none reached it. "Worst 1%": with an effort at
which the worst hundredth of the queries has a recall of {settings["worst"]:g} at least, too, which is not asked of the
others. nearhash and the methods of the paper, which run on graphs of nearhash, take the queries in one batch, the
others one by one.
{machine_line(document)}
"""
    ]
    for entry in document["labels"]:
        names = [one["name"] for one in entry["contestants"]]
        rows, ratios, careful = [], [], []
        for case in entry["cases"]:
            speeds = [1e6 / median(one["us"]) for one in case["found"]]
            pairs = zip(speeds, case["found"], names, strict=True)
            others = [speed for speed, one, name in pairs if one["reached"] and is_peer(name)]
            ratios.append(speeds[0] / max(others))
            careful.append(speeds[1] / max(others))
            own = case["found"][0]
            rows.append(
                [
                    _window(case),
                    *(_cell(one, speed) for one, speed in zip(case["found"], speeds, strict=True)),
                    f"{ratios[-1]:.1f}x",
                    f"{own['recall']:.3f} / {own['worst']:.2f}",
                ]
            )
        costs = []
        for one in entry["contestants"]:
            seconds = figure(one["build_seconds"]) if one["build_seconds"] else MISSING
            costs.append([one["name"], figure(one["bytes"] / (4 * n * dim)), seconds])
        short = sum(case["found"][0]["short"] for case in entry["cases"])
        header = ["window", *names, "to the best of others", "recall / of the worst 1%"]
        parts.append(f"""\
### {settings["dataset"]}, labels {entry["kind"]}

Geometric mean of {names[0]} to the best of others: {np.exp(np.mean(np.log(ratios))):.1f}x, least
{min(ratios):.2f}x, most {max(ratios):.0f}x; with the recall of the worst 1% {np.exp(np.mean(np.log(careful))):.1f}x,
least {min(careful):.2f}x, most {max(careful):.0f}x. Results short of min(k, matches): {short}.

![queries per second by share in the window]({image_folder}/windows-{settings["dataset"]}-{entry["kind"]}.png)

{table(header, rows)}
{table(["index", "bytes / vectors", "build with 2 threads, s"], costs)}{_bound_table(entry)}""")
    parts += _beside_uniform(document)
    if "churn" in document:
        parts.append(_churn_table(document))
    return "\n".join(parts)


def _beside_uniform(document: Document) -> list[str]:
    """How much slower WindowIndex is where labels go with the vectors, the worst 1% of the queries included."""
    slowness = {}
    for entry in document["labels"]:
        slowness[entry["kind"]] = {case["fraction"]: median(case["found"][1]["us"]) for case in entry["cases"]}
    uniform = slowness.pop("uniform", None)
    if not uniform or not slowness:
        return []
    rows = []
    for kind, own in slowness.items():
        ratios = [own[fraction] / uniform[fraction] for fraction in own if fraction in uniform]
        rows.append([kind, f"{np.exp(np.mean(np.log(ratios))):.2f}x", f"{max(ratios):.2f}x"])
    return [
        f"""\
### {document["settings"]["dataset"]}, labels that go with the vectors

Time of a query of WindowIndex to that with uniform labels, both with the recall of the worst 1%:

{table(["labels", "geometric mean", "most"], rows)}"""
    ]


def _cell(one: Document, speed: float) -> str:
    return figure(speed) if one["reached"] else f"({one['recall']:.2f}) {figure(speed)}"


def windows_part(document: Document, image_folder: str) -> str:
    """The section of the page of benchmarks."""
    return f"## Windows: {document['settings']['dataset']}\n\n{windows_table(document, image_folder)}"


def _window(case: Document) -> str:
    return "mix of all" if case["fraction"] is None else f"2^-{case['fraction']} ({case['width']:,})"


def _bound_table(entry: Document) -> str:
    """How near the index comes to a graph over just what is in the window."""
    rows, ratios = [], []
    for case in entry["cases"]:
        if "bound" in case:
            own, graph = (1e6 / median(one["us"]) for one in case["bound"]["found"])
            ratios.append(own / graph)
            rows.append(
                [_window(case), figure(case["bound"]["windows"]), figure(own), figure(graph), f"{own / graph:.2f}x"]
            )
    if not rows:
        return ""
    header = ["window", "windows", "WindowIndex", "graph of the window", "WindowIndex to it"]
    return f"""
Beside a GraphIndex built on exactly the window, for a few windows, both asked with batches: geometric mean
{np.exp(np.mean(np.log(ratios))):.2f}x.

{table(header, rows)}"""


def _churn_table(document: Document) -> str:
    churn = document["churn"]
    rows = [
        [
            f"2^-{case['fraction']} ({case['width']:,})",
            *(
                f"{figure(1e6 / median(case[state]['us']))} / {case[state]['recall']:.3f}"
                for state in ("fresh", "changed")
            ),
            f"{median(case['fresh']['us']) / median(case['changed']['us']):.2f}x",
        ]
        for case in churn["cases"]
    ]
    return f"""\
### {document["settings"]["dataset"]}, after changes

{churn["removed"]:,} of {churn["present"]:,} vectors removed and as many others added, {churn["step"]:,} at a time;
beside an index built afresh from what is there then, at the same effort. Of {churn["inserted"]} single vectors added
after that, {churn["found"]} were found by the next search in a window around their label.

{table(["window", "fresh: QPS / recall", "changed: QPS / recall", "changed to fresh"], rows)}"""


def plot_windows(document: Document, entry: Document, path: Path) -> None:
    """Queries per second against the share of points in the window, a line for each contestant, as in the paper.

    A point is left out where the recall was not reached.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    image, axes = pyplot.subplots(figsize=(9, 6), dpi=110)
    cases = [case for case in entry["cases"] if case["fraction"] is not None]
    for number, one in enumerate(entry["contestants"]):
        points = [
            (2.0 ** -case["fraction"], 1e6 / median(case["found"][number]["us"]))
            for case in cases
            if case["found"][number]["reached"]
        ]
        axes.plot(
            [share for share, _ in points],
            [speed for _, speed in points],
            label=one["name"],
            color=(*COLOURS, "#5254a3")[number % 12],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=2.6 if number == 0 else 1.2,
            zorder=3 if number == 0 else 2,
        )
    settings = document["settings"]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("share of the vectors in the window")
    axes.set_ylabel(f"queries per second at recall {settings['target']:g}, one thread")
    axes.set_title(f"{settings['dataset']}: {settings['base'][0]:,} x {settings['base'][1]}, labels {entry['kind']}")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    image.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.savefig(path, metadata={"Software": ""})
    pyplot.close(image)
