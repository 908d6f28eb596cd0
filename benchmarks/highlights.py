"""The rows of the README about hashing: each job of nearhash beside the same of other libraries, from the results."""

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.tables import MISSING, Document, figure, table

Row = list[str]


def hashing_table(documents: Sequence[Document]) -> str:
    """A table of jobs with the rates of nearhash and of others; empty without results."""
    makers: dict[str, Callable[[Document], Row]] = {
        "sketches": _sketches,
        "banding": _banding,
        "dedup-scale": _dedup,
        "hamming": _hamming,
        "simhash": _simhash,
        "lsh": _lsh,
    }
    found = {document["kind"]: document for document in documents}
    rows = [make(found[kind]) for kind, make in makers.items() if kind in found]
    return table(["one thread", "nearhash", "others"], rows, align="---") if rows else ""


def _others(rates: dict[str, float]) -> str:
    ordered = sorted(rates.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{name} {figure(rate)}" for name, rate in ordered) or MISSING


def _sketches(document: Document) -> Row:
    settings = document["settings"]
    rates = {entry["name"]: settings["sets"] / median(entry["seconds"]) for entry in document["strings"]}
    own = rates.pop("nearhash fss")
    rates.pop("rensa, rho", None)  # no sketch of the set: it depends on the order
    title = f"MinHash of {settings['tokens']} Python strings, k = {settings['k']}, sets/s"
    return [title, f"**{figure(own)}**", _others(rates)]


def _banding(document: Document) -> Row:
    rates = {library["name"]: library["insert_per_second"] for library in document["libraries"]}
    own = rates.pop("nearhash")
    others = {name: rate for name, rate in rates.items() if not name.startswith("nearhash")}
    return ["sketches put into bands, sets/s", f"**{figure(own)}**", _others(others)]


def _dedup(document: Document) -> Row:
    subset = document["subset"]
    rates = {library["name"]: library["documents_per_second"] for library in subset["libraries"]}
    own = rates.pop("nearhash")
    others = {name: rate for name, rate in rates.items() if not name.startswith("nearhash")}
    title = f"near-duplicates among {subset['documents']:,} documents, from text, documents/s"
    return [title, f"**{figure(own)}**", _others(others)]


def _hamming(document: Document) -> Row:
    data = document["sets"][0]
    rates = {entry["name"]: 1e6 / median(entry["batch_us"]) for entry in data["exact"]}
    own = rates.pop("nearhash")
    others = {name: rate for name, rate in rates.items() if not name.startswith("nearhash")}
    return [f"exact search of {data['bits']}-bit codes, QPS", f"**{figure(own)}**", _others(others)]


def _simhash(document: Document) -> Row:
    settings = document["settings"]
    rates = {entry["name"]: 1e9 / median(entry["ns"]) for entry in document["encoders"]}
    own = rates.pop("nearhash hadamard")
    others = {name: rate for name, rate in rates.items() if not name.startswith("nearhash")}
    title = f"SimHash of {settings['vectors'][1]} dimensions, {settings['bits']} bits, vectors/s"
    return [title, f"**{figure(own)}**", _others(others)]


def _lsh(document: Document) -> Row:
    best: dict[str, float] = {}
    for index in document["indexes"]:
        best[index["library"]] = max(best.get(index["library"], 0.0), 1e6 / median(index["us"]))
    own = best.pop("nearhash LSHIndex")
    settings = document["settings"]
    title = f"cross-polytope tables, {settings['dataset']}, QPS at recall {settings['target']:g}"
    return [title, f"**{figure(own)}**", _others(best)]
