"""Markdown tables of results."""

from collections.abc import Sequence
from typing import Any

from benchmarks.families import families, fastest

Document = dict[str, Any]
MISSING = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---:") -> str:
    """A markdown table; columns after the first are numbers, so aligned right, or text with ``align="---"``."""
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def figure(value: float | None, unit: str = "") -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return MISSING
    if value == 0:
        return f"0{unit}"
    short = float(f"{value:.3g}")
    return f"{short:,.0f}{unit}" if abs(short) >= 100 else f"{short:.3g}{unit}"


def mebibytes(value: float | None) -> str:
    return MISSING if value is None else figure(value / 2**20)


def speed_table(document: Document) -> str:
    """Queries per second at each target recall, interpolated, and the subject's advantage in brackets."""
    targets = document["settings"]["targets"]
    header = ["index", *(f"QPS at {target:g}" for target in targets)]
    rows = [
        [_name(index, document), *(_speed(entry, index, document) for entry in index["targets"])]
        for index in document["indexes"]
    ]
    return table(header, rows)


def _name(index: Document, document: Document) -> str:
    return f"**{index['name']}**" if index["name"] == document["subject"] else str(index["name"])


def _speed(entry: Document, index: Document, document: Document) -> str:
    speed = entry["interpolated_qps"]
    if speed is None or index["name"] == document["subject"] or entry["ratio"] is None:
        return figure(speed)
    least, greatest = entry["ratio_range"]
    return f"{figure(speed)} ({entry['ratio']:.2f}x, {least:.2f}–{greatest:.2f})"


def family_table(document: Document) -> str:
    """Queries per second of the fastest of each family at each target, and which that is."""
    targets = document["settings"]["targets"]
    header = ["family", *(f"fastest at {target:g}" for target in targets)]
    rows = [
        [family, *(_fastest(fastest(indexes, target), document) for target in targets)]
        for family, indexes in families(document).items()
        if len(indexes) > 1
    ]
    return table(header, rows) if rows else ""


def _fastest(found: tuple[Document, Document] | None, document: Document) -> str:
    return MISSING if found is None else f"{found[0]['name']}, {_speed(found[1], found[0], document)}"


def effort_table(document: Document) -> str:
    """The cheapest effort measured that reaches each target: its parameters, recall and QPS."""
    header = ["index", *(f">= {target:g}" for target in document["settings"]["targets"])]
    rows = [
        [index["name"], *(_reached(entry["reached"]) for entry in index["targets"])] for index in document["indexes"]
    ]
    return table(header, rows)


def _reached(entry: Document | None) -> str:
    if entry is None:
        return MISSING
    effort = ", ".join(f"{name} {value}" for name, value in entry["effort"].items()) or "exact"
    return f"{figure(entry['qps'])} at {entry['recall']:.4f} ({effort})"


def latency_table(document: Document) -> str:
    """Microseconds of a call with one query, median and 99th percentile, at the fastest effort for each target."""
    header = ["index", *(f"us at {target:g}: p50, p99" for target in document["settings"]["targets"])]
    rows = [[_name(index, document), *map(_latency, index["targets"])] for index in document["indexes"]]
    return table(header, rows)


def _latency(entry: Document) -> str:
    latency = entry["latency"]
    return MISSING if latency is None else f"{figure(latency['p50_us'])}, {figure(latency['p99_us'])}"


def cost_table(document: Document) -> str:
    """Build time and memory."""
    header = ["index", "version", "build s", "index MiB", "bytes per vector", "RSS growth MiB"]
    rows = []
    for index in document["indexes"]:
        size = index["index_bytes"]
        rows.append(
            [
                _name(index, document),
                index["version"],
                figure(index["build_seconds"]),
                mebibytes(size),
                figure(None if size is None else size / document["dataset"]["base"][0]),
                mebibytes(index["resident_bytes"]),
            ]
        )
    return table(header, rows)


def configuration_table(document: Document) -> str:
    """How each index was built, and the page that advises it."""
    rows = [
        [
            index["name"],
            ", ".join(f"{name} {value}" for name, value in index["parameters"].items()) or "none",
            _link(index["reference"]),
        ]
        for index in document["indexes"]
    ]
    return table(["index", "parameters of the build", "as advised by"], rows, align="---")


def _link(reference: str) -> str:
    return f"<{reference}>" if reference.startswith("http") else f"`{reference}`"


def machine_line(document: Document) -> str:
    machine = document["machine"]
    l3 = MISSING if machine["l3_bytes"] is None else figure(machine["l3_bytes"] / 2**20, " MiB")
    return (
        f"Measured on {document['date']}: {machine['cpu']} ({', '.join(machine['features'])}), "
        f"{machine['cores']} cores, L3 {l3}, {machine['system']}, Python {machine['python']}."
    )
