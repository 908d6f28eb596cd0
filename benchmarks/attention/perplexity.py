"""What sampled attention changes in the predictions of SmolLM2: ``python -m benchmarks.attention.perplexity``.

A text is read densely but for its last tokens. These are given one at a time (teacher-forced), to all ways of
attention side by side, every layer but the first two sampled; each prediction is compared with that of dense attention.
"""

import argparse
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention.evaluation_plot import plot_perplexity
from benchmarks.attention.evaluation_report import perplexity_part
from benchmarks.attention.partial import with_kept
from benchmarks.attention.smollm import NAME, load_model
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from nearhash.kernels.threads import available_threads

CONTEXTS, WINDOWS, PREDICTED = (4096, 8192), 3, 128
SHARES = (0.02, 0.05, 0.1)
DENSE_LAYERS = frozenset({0, 1})
WINDOWS_READ = {"short window": (4, 16), "long window": (16, 128)}  # first and last tokens that are always read


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.perplexity", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="tokens")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="pieces of the text for each context")
    parser.add_argument("--predicted", type=int, default=PREDICTED, help="tokens of each piece that are predicted")
    parser.add_argument("--ways", default=".*", help="regular expression of the names of those to be measured")
    parser.add_argument("--threads", type=int, help="one is fastest on a machine that does other work, too")
    parser.add_argument("--keep", action="store_true", help="keep figures of other contexts that are there")
    parser.add_argument("--report", action="store_true", help="write table and plot from the figures that are there")
    options = parser.parse_args(arguments)
    path = options.results / "attention-perplexity.json"
    if not options.report:
        document = run(options.contexts, options.windows, options.predicted, options.ways, options.threads)
        write_document(path, with_kept(path, document, "contexts", ("tokens",)) if options.keep else document)
    document = read_document(path)
    write_text(path.with_suffix(".md"), perplexity_part(document, "."))
    plot_perplexity(document, path.with_suffix(".png"))
    return 0


def ways_of(context: int) -> dict[str, dict[str, Any]]:
    """Ways to attend by name, as options of the decoder backend; "dense" is what they are compared with."""
    ways: dict[str, dict[str, Any]] = {"dense": {"estimator": "dense"}}
    ways["sink and local window"] = {"estimator": "topk_oracle", "budget": 1, "sink": 16, "local": 128}
    for share in SHARES:
        for window, (sink, local) in WINDOWS_READ.items():
            exact = {"sink": sink, "local": local}
            for codec in ("lvq4", "pq4", "simhash", "simhash1024"):
                ways[f"priority, {codec}, {window}, {share:.0%}"] = {"budget": share, "codec": codec, **exact}
            ways[f"top-k oracle, {window}, {share:.0%}"] = {"estimator": "topk_oracle", "budget": share, **exact}
        # The convention of the research that the targets come from: sink and local window besides the budget.
        besides = {"budget": round(share * context), "sink": 16, "local": 128}
        ways[f"priority, lvq4, long window, {share:.0%} besides"] = besides
        ways[f"top-k oracle, long window, {share:.0%} besides"] = {"estimator": "topk_oracle", **besides}
    for K, L in ((10, 150), (8, 75)):  # with sink and local window as its authors have them
        ways[f"MagicPIG K{K} L{L}"] = {"estimator": "magicpig", "options": {"K": K, "L": L}, "sink": 4, "local": 64}
    for share in SHARES[1:]:
        for name in ("vattention", "hash_topk", "quest", "uniform"):
            sink, local = WINDOWS_READ["short window"]
            ways[f"{name}, short window, {share:.0%}"] = {
                "estimator": name, "budget": share, "sink": sink, "local": local,
            }  # fmt: skip
    return ways


def run(contexts: Sequence[int], windows: int, predicted: int, wanted: str, threads: int | None) -> Document:
    import torch

    import nearhash as nh
    from benchmarks.attention.dump import text_tokens

    torch.set_num_threads(threads or available_threads())
    nh.attention.register()
    model = load_model("nearhash")
    entries = []
    for context in contexts:
        ways = {name: way for name, way in ways_of(context).items() if name == "dense" or re.search(wanted, name)}
        found = []
        for window in range(windows):
            found.append(measure(model, text_tokens(window * max(contexts), context), predicted, ways, threads))
            say(f"{context} tokens, piece {window + 1} of {windows} predicted")
        entries.append({"tokens": context, "ways": summary(list(ways), ways, found)})
    return {
        "kind": "attention-perplexity",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "model": NAME, "windows": windows, "predicted": predicted, "dense_layers": sorted(DENSE_LAYERS),
            "read": {name: list(sizes) for name, sizes in WINDOWS_READ.items()},
        },
        "contexts": entries,
    }  # fmt: skip


def measure(
    model: Any, tokens: Sequence[int], predicted: int, ways: dict[str, dict[str, Any]], threads: int | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """For each way (first axis) and each token predicted: nats, divergence from dense, agreement; and shares read."""
    import torch

    from benchmarks.attention.side_by_side import SideBySide, read_shares, step
    from nearhash.attention.decoder import as_options

    base = {"dense_layers": DENSE_LAYERS, "dense_below": 0, "threads": threads}
    context = SideBySide(model, tokens[:-predicted])
    cache = context.fork([as_options({**base, **way}) for way in ways.values()])
    nats, divergence, agreement = (np.zeros((len(ways), predicted - 1)) for _ in range(3))
    for at in range(predicted - 1):
        if at % 16 == 0:
            say(f"{len(tokens)} tokens, {at} of {predicted - 1} predicted")
        logits = step(model, cache, [tokens[at - predicted]] * len(ways)).double()
        logs = torch.log_softmax(logits, dim=-1).numpy()
        nats[:, at] = -logs[:, tokens[at + 1 - predicted]]
        divergence[:, at] = (np.exp(logs[0]) * (logs[0] - logs)).sum(axis=1)
        agreement[:, at] = logs.argmax(axis=1) == logs[0].argmax()
    sampled = [layer for layer in range(model.config.num_hidden_layers) if layer not in DENSE_LAYERS]
    return {"nats": nats, "divergence": divergence, "agreement": agreement, "shares": read_shares(cache, sampled)}


def summary(
    names: Sequence[str], ways: dict[str, dict[str, Any]], found: Sequence[dict[str, np.ndarray[Any, Any]]]
) -> list[Document]:
    """Means over all predictions, with the standard error of the divergence and of the log-perplexity's change."""
    nats, divergence, agreement = (
        np.concatenate([one[name] for one in found], axis=1) for name in ("nats", "divergence", "agreement")
    )
    shares = np.mean([one["shares"] for one in found], axis=0)
    change, root = nats - nats[0], np.sqrt(nats.shape[1])
    return [
        {
            "name": name,
            **ways[name],
            "share_read": float(shares[row]),
            "perplexity": float(np.exp(nats[row].mean())),
            "perplexity_ratio": float(np.exp(change[row].mean())),
            "ratio_error": float(change[row].std() / root),
            "divergence": float(divergence[row].mean()),
            "divergence_error": float(divergence[row].std() / root),
            "agreement": float(agreement[row].mean()),
            "predictions": int(nats.shape[1]),
        }
        for row, name in enumerate(names)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
