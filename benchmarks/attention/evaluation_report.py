"""The parts of docs/benchmarks.md on attention in a real decoder."""

from typing import Any

import numpy as np

from benchmarks.tables import MISSING, figure, machine_line, table

Document = dict[str, Any]


def tensors_part(document: Document, image_folder: str) -> str:
    """Errors of the output of single layers."""
    settings, contexts = document["settings"], document["contexts"]
    measured = {
        (way["name"], way["share"]): way for context in contexts[-1:] for way in context["ways"]
    }  # of the longest context
    shares = sorted({share for _, share in measured})
    names = list(dict.fromkeys(name for name, _ in measured))
    rows = []
    for name in names:
        own = [measured.get((name, share)) for share in shares]
        scanned = next(way["index_bytes_per_token"] for way in own if way)
        rows.append([name, figure(scanned), *(_errors(way) for way in own)])
    equal = [
        [f"{context['tokens']:,} tokens, {entry['name']}", rival, f"{found['share_read']:.1%}", _errors(found)]
        for context in contexts for entry in context["equal_reads"] for rival, found in entry["rivals"].items()
    ]  # fmt: skip
    unbiased = [
        [one["name"], f"{one['denominator']:+.4f}", f"{one['z_root_mean_square']:.2f}", f"{one['z']:.1f}",
         figure(one["single_output"]), figure(one["output"])]
        for one in document["bias"]
    ]  # fmt: skip
    first = document["bias"][0]
    return f"""\
## Sampled attention: keys and values of a real decoder

{settings["model"]} over prose of {contexts[-1]["tokens"]:,} tokens, {len(settings["layers"])} layers, all heads,
{settings["steps"]} steps, {settings["draws"]} draws: error of the attention output relative to its norm, median, in
brackets the 95th percentile. The share of tokens read has the first {settings["sink"]} and the last
{settings["local"]} among it, or, "short window", the first {settings["short"][0]} and the last {settings["short"][1]}.
{machine_line(document)}

![error against bytes read]({image_folder}/attention-tensors.png)

{table(["estimator", "index bytes scanned a token", *(f"{share:.1%} read" for share in shares)], rows)}
MagicPIG reads what its tables give, each query a set of its own; others were given as many tokens as one of its
queries reads on average, and as many as those of a group read together, which is what memory has to deliver. Its
tables are not counted.

{table(["MagicPIG", "and at equal reads", "read", "error"], equal)}
Estimates that claim no bias, {first["seeds"]} draws of {first["tokens"]:,} tokens at {first["share"]:.0%} read:
the mean of `exp(lse)` over the true one, less 1; its distance from 0 in standard errors, over {first["heads"]} heads
(1 is what chance gives) and at most; error of single outputs, and of the mean output, which chance makes
{np.sqrt(first["seeds"]):.0f} times smaller.

{table(["estimator", "denominator", "z, root mean square", "z, most", "one output", "mean output"], unbiased)}"""


def _errors(found: Document | None) -> str:
    return MISSING if found is None else f"{figure(found['error'])} ({figure(found['error_p95'])})"


def perplexity_part(document: Document, image_folder: str) -> str:
    """Predictions of the whole model."""
    settings = document["settings"]
    read = ", ".join(
        f"{name} the first {sink} and the last {local}" for name, (sink, local) in settings["read"].items()
    )
    parts = []
    for context in document["contexts"]:
        rows = [
            [
                way["name"],
                f"{way['share_read']:.1%}",
                f"{way['perplexity_ratio']:.4f} ± {way['ratio_error']:.4f}",
                f"{way['divergence']:.5f} ± {way['divergence_error']:.5f}",
                f"{way['agreement']:.1%}",
            ]
            for way in context["ways"]
        ]
        dense = context["ways"][0]
        parts.append(
            f"{context['tokens']:,} tokens, {dense['predictions']:,} predicted, perplexity {dense['perplexity']:.1f}:"
            + "\n\n"
            + table(["attention", "read", "perplexity ratio", "KL to dense", "same first choice"], rows)
        )
    return f"""\
## Sampled attention: predictions of a real decoder

{settings["model"]} reads prose densely but for the last {settings["predicted"]} tokens of each piece, which are
given to it one at a time, all layers but {", ".join(map(str, settings["dense_layers"]))} sampled. Shares are those of
tokens read, those that are always read included:
{read}; "besides": the sample alone has that share, as in the
prototype that the design was decided by.
{machine_line(document)}

![divergence against share read]({image_folder}/attention-perplexity.png)

{chr(10).join(parts)}"""


def tasks_part(document: Document) -> str:
    """Scores of tasks."""
    tasks = document["tasks"]
    names = [name for name in dict.fromkeys(name for task in tasks for name in task["scores"]) if name != "dense"]
    header = ["attention", *(f"{task['task']}, {task['tokens']:,}" for task in tasks)]
    rows = [["dense", *(f"{task['scores']['dense']:.1f}" for task in tasks)]]
    for name in names:
        rows.append([name, *(_score(task, name) for task in tasks)])
    settings = document["settings"]
    counts = ", ".join(f"{task['task']} at {task['tokens']:,}: {task['questions']}" for task in tasks)
    return f"""\
## Sampled attention: tasks

Scores of {settings["model"]} in percent; the question is read densely, or token by token through the sampled
attention ("sparse"), and the answer is generated through it. In brackets the standard error of the difference to dense
attention, answer by answer. Where dense attention scores below 60 a task tells nothing. Questions: {counts}.
{machine_line(document)}

{table(header, rows)}"""


def _score(task: Document, name: str) -> str:
    if name not in task["scores"]:
        return MISSING
    return f"{task['scores'][name]:.1f} ({task['difference_errors'][name]:.1f})"


def generation_part(document: Document) -> str:
    """Tokens per second."""
    rows = []
    for context in document["contexts"]:
        contestants = context["contestants"]
        rival = np.array(contestants["sdpa"]["ms"])
        for name, entry in contestants.items():
            own = np.array(entry["ms"])
            ratios = rival / own
            faster = f"{np.median(rival) / np.median(own):.2f}x ({ratios.min():.2f}–{ratios.max():.2f})"
            same = name == "sdpa"
            rows.append(
                [f"{context['tokens']:,} tokens, {name}", figure(1e3 / float(np.median(own))), "" if same else faster,
                 MISSING if entry["read_share"] is None else f"{entry['read_share']:.1%}",
                 MISSING if "few" in name else f"{entry['agreement']:.0%}"]
            )  # fmt: skip
    settings = document["settings"]
    return f"""\
## Sampled attention: tokens per second

{settings["model"]} in float32, batch 1, {document["threads"]} threads, {settings["generated"]} tokens after a context,
medians of {settings["rounds"]} turns. All contestants are given the tokens that sdpa generated; beside, how often
their first choice is the same. "A few tokens": a context of {settings["short"]}, so what the rest of the model takes.
{machine_line(document)}

{table(["", "tokens per second", "faster than sdpa", "read", "same first choice"], rows)}"""
