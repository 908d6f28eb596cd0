"""The tables of the README about windows, hashing and attention: nearhash beside other libraries, from the results."""

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.tables import MISSING, Document, figure, table
from benchmarks.window_report import is_peer

Row = list[str]


WINDOWS = (0, 4, 8, 12, None)  # 2^-i of all vectors; the mix of all


def window_table(documents: Sequence[Document]) -> str:
    """A table of windows of several sizes with the rates of WindowIndex and of the best others; empty without any."""
    rows = []
    windows = [document for document in documents if document["kind"] == "windows"]
    for document in sorted(windows, key=lambda document: -document["settings"]["base"][0]):
        if document["labels"][0]["kind"] != "uniform":
            continue
        entry = document["labels"][0]
        cases = {case["fraction"]: case for case in entry["cases"]}
        names = [one["name"] for one in entry["contestants"]]
        for fraction in WINDOWS:
            if fraction not in cases:
                continue
            rates = {
                name: 1e6 / median(one["us"])
                for name, one in zip(names, cases[fraction]["found"], strict=True)
                if one["reached"]
            }
            others = {name: rate for name, rate in rates.items() if is_peer(name)}
            best = dict(sorted(others.items(), key=lambda entry: -entry[1])[:3])
            width = (
                "mix of 2^0 to 2^-16" if fraction is None else f"2^-{fraction}, {cases[fraction]['width']:,} vectors"
            )
            rows.append(
                [f"{document['settings']['dataset']}, {width}", f"**{figure(rates[names[0]])}**", _others(best)]
            )
    return table(["window", "WindowIndex", "the three best others"], rows, align="---") if rows else ""


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


def attention_table(documents: Sequence[Document]) -> str:
    """A table of what sampled attention changes and takes beside others; empty without results."""
    found = {document["kind"]: document for document in documents}
    rows = []
    for context in found.get("attention-perplexity", {"contexts": []})["contexts"]:
        ways = {way["name"]: way for way in context["ways"]}
        own = ways.get("priority, lvq4, short window, 10%")
        if own is None:
            continue
        others = {"top-k by true scores": ways.get("top-k oracle, short window, 10%")}
        others["MagicPIG K10 L150"] = ways.get("MagicPIG K10 L150")
        rest = ", ".join(f"{name} {figure(way['divergence'])}" for name, way in others.items() if way is not None)
        title = f"{found['attention-perplexity']['settings']['model']}, {context['tokens']:,} tokens, 10% of them read"
        rows.append(
            [f"{title}: divergence of predictions from dense attention", f"**{figure(own['divergence'])}**", rest]
        )
    for context in found.get("attention-kernels", {"contexts": []})["contexts"]:
        times = {name: median(entry["ms"]) for name, entry in context["contestants"].items()}
        settings = found["attention-kernels"]["settings"]
        name = min(
            (name for name in times if name.startswith("priority float32")), key=lambda name: times[name], default=""
        )
        if not name:
            continue
        title = f"a layer of {settings['heads']} x {settings['group']} heads, {context['tokens']:,} tokens, float32, "
        title += f"{settings['share']:.0%} read, 2 threads: ms"
        rest = (
            f"Torch's SDPA, all read {figure(times['sdpa float32'])}; ours, all read {figure(times['dense float32'])}"
        )
        rows.append([title, f"**{figure(times[name])}**", rest])
    return table(["attention, less is better", "nearhash", "others"], rows, align="---") if rows else ""


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
