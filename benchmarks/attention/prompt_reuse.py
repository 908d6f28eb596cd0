"""What taking over keys and values of a similar prompt costs: ``python -m benchmarks.attention.prompt_reuse``.

A prompt of real text is in the cache; a new one, made of it by edits, takes over keys and values of the tokens that it
is matched with, and computes the others and a share of the matched ones. The text that follows is then predicted, each
token from the true ones before it, and compared with what the model says after computing all of the new prompt.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.attention.edits import EDITS, FOLLOWING, Pair, pairs
from benchmarks.attention.smollm import NAME, load_model, load_tokenizer
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from benchmarks.tables import figure, machine_line, table
from nearhash.attention import match_tokens

THETA = 100_000.0  # of the rotary embedding of the model
LIKE, LOOSE = 0.7, 0.5  # thresholds
ANOTHER = ("licence, another version", "another document")  # pairs that are no edits

Positions = NDArray[np.int64]
Floats = NDArray[np.float32]


class Tokens(NamedTuple):
    """Of a cached and a new prompt: numbers, and embeddings less the mean of the vocabulary."""

    cached_numbers: NDArray[np.int64]
    new_numbers: NDArray[np.int64]
    cached: Floats
    new: Floats


def _beginning(tokens: Tokens) -> Positions:
    size = min(len(tokens.cached), len(tokens.new))
    same = np.cumprod(tokens.cached_numbers[:size] == tokens.new_numbers[:size]).sum()
    return np.where(np.arange(len(tokens.new)) < same, np.arange(len(tokens.new)), -1)


def _matched(**options: Any) -> Callable[[Tokens], Positions]:
    return lambda tokens: match_tokens(tokens.cached, tokens.new, **options).positions


def _rotated(tokens: Tokens) -> Positions:
    """Each token for itself, by embeddings with rotary embedding as in SemShareKV."""
    from nearhash.attention import rotate_keys

    turned = [
        rotate_keys(rows, np.zeros(len(rows), np.int64), np.arange(len(rows)), theta=THETA)
        for rows in (tokens.cached, tokens.new)
    ]
    return match_tokens(*turned, threshold=LOOSE, gap=0, change=0).positions


def _at_random(tokens: Tokens) -> Positions:
    return np.random.default_rng(0).integers(0, len(tokens.cached), len(tokens.new))


ALIGNMENTS: dict[str, Callable[[Tokens], Positions]] = {
    "common beginning": _beginning,
    "equal tokens, in runs": _matched(threshold=1),
    f"like tokens ({LIKE:g}), in runs": _matched(threshold=LIKE),
    f"like tokens ({LOOSE:g}), in runs": _matched(threshold=LOOSE),
    f"like tokens ({LIKE:g}), each for itself": _matched(threshold=LIKE, gap=0, change=0),
    "rotated embeddings, each for itself": _rotated,
    "at random": _at_random,
}
_EQUAL, _LIKE, _LOOSE, _EACH, _ROTATED, _RANDOM = list(ALIGNMENTS)[1:]

# Alignment, share of matched tokens computed, which, keys rotated.
WAYS = (
    ("common beginning", 0.0, "deviation", True),
    *((_EQUAL, share, "deviation", True) for share in (0.0, 0.1, 0.3)),
    *((_LIKE, share, "deviation", True) for share in (0.0, 0.1, 0.3, 0.6)),
    (_LIKE, 0.3, "edits", True),
    (_LIKE, 0.0, "deviation", False),
    (_LOOSE, 0.0, "deviation", True),
    (_EACH, 0.0, "deviation", True),
    *((_ROTATED, share, "deviation", True) for share in (0.0, 0.3)),
    (_RANDOM, 0.0, "deviation", True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.prompt_reuse", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--passages", type=int, default=2, help="of the prose, %(default)s by default")
    parser.add_argument("--report", action="store_true", help="write the table from the figures that are there")
    options = parser.parse_args(arguments)
    path = options.results / "prompt-reuse.json"
    if not options.report:
        for document in run(options.passages):  # what there is stays, if the run is cut short
            write_document(path, document)
    write_text(path.with_suffix(".md"), reuse_part(read_document(path)))
    return 0


def run(passages: int) -> Iterator[Document]:
    """The document of results after each pair."""
    model, tokenizer = load_model(), load_tokenizer()
    found: list[Document] = []
    for pair in pairs(passages):
        found.append(measure(model, tokenizer, pair))
        say(f"{pair.kind}: {len(found)} pairs measured")
        yield {
            "kind": "prompt-reuse",
            "date": date.today().isoformat(),
            "machine": machine_facts(),
            "settings": {"model": NAME, "following": FOLLOWING},
            "pairs": found,
        }


def measure(model: Any, tokenizer: Any, pair: Pair) -> Document:
    """One pair of prompts: what each way predicts against computing all."""
    import torch

    from benchmarks.attention.partial_prefill import Plan, prefill

    old, new = (tokenizer(text).input_ids for text in (pair.cached, pair.new))
    following = tokenizer(pair.following).input_ids[:FOLLOWING]
    matrix = model.model.embed_tokens.weight.detach()
    rows = [(matrix[numbers] - matrix.mean(dim=0)).numpy() for numbers in (old, new)]
    tokens = Tokens(np.array(old), np.array(new), *rows)
    cached, whole = prefill(model, old, len(old)).cached, prefill(model, new + following, len(new))
    truth = torch.log_softmax(whole.logits[:-1].double(), dim=-1)
    wanted = torch.tensor(following)[:, None]
    positions = {name: align(tokens) for name, align in ALIGNMENTS.items()}
    ways = []
    for name, share, choice, rotated in WAYS:
        plan = Plan(positions[name], share, choice, THETA if rotated else None)
        result = prefill(model, new + following, len(new), cached, plan)
        logs = torch.log_softmax(result.logits[:-1].double(), dim=-1)
        ways.append(
            {
                "operations": result.flops / whole.flops,
                "nats": float((truth - logs).gather(1, wanted).mean()),  # more than after computing all
                "divergence": float((truth.exp() * (truth - logs)).sum(dim=1).mean()),
                "agreement": float((truth.argmax(dim=1) == logs.argmax(dim=1)).double().mean()),
            }
        )
    return {
        "kind": pair.kind,
        "tokens": [len(old), len(new)],
        "perplexity": float(torch.exp(-truth.gather(1, wanted).mean())),
        "alignments": {name: _facts(found) for name, found in positions.items()},
        "ways": ways,
    }


def _facts(positions: Positions) -> Document:
    starts = (positions >= 0) & (positions - np.concatenate([[-2], positions[:-1]]) != 1)
    return {"matched": float((positions >= 0).mean()), "runs": int(starts.sum())}


def reuse_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    settings, found = document["settings"], document["pairs"]
    groups = {
        f"Edits of one text: {', '.join(EDITS)}": [pair for pair in found if pair["kind"] in EDITS],
        **{kind.capitalize(): [pair for pair in found if pair["kind"] == kind] for kind in ANOTHER},
    }
    parts = "\n".join(
        f"{title} ({len(group)} pairs):\n\n{_ways_table(group)}" for title, group in groups.items() if group
    )
    sizes = [pair["tokens"][1] for pair in found]
    return f"""\
## Keys and values of another prompt

{settings["model"]}, {len(found)} pairs of prompts of {min(sizes)} to {max(sizes)} tokens, of prose and of licences.
*Operations* are those of the prefill of the new prompt, counted, computing all of it being 1; *matched* is how many
tokens found one to take over from, *runs* into how many pieces these fall. The {settings["following"]} tokens that
follow are predicted: perplexity relative to that after computing the whole prompt, divergence from its
predictions, agreement of the likeliest token. A share of the matched tokens is computed, too: those that deviate most,
or those that come first after an edit. {machine_line(document)}

{parts}
Operations / divergence by kind of pair, nothing of what is matched computed:

{_kinds_table(found)}"""


def _ways_table(group: Sequence[Document]) -> str:
    rows = []
    for number, (name, share, choice, rotated) in enumerate(WAYS):
        mean = {
            key: float(np.mean([pair["ways"][number][key] for pair in group]))
            for key in ("operations", "nats", "divergence", "agreement")
        }
        facts = [pair["alignments"][name] for pair in group]
        computed = f", {share:.0%} computed{' after edits' if choice == 'edits' else ''}" if share else ""
        rows.append(
            [
                name + computed + ("" if rotated else ", keys not rotated"),
                f"{np.mean([fact['matched'] for fact in facts]):.0%}",
                figure(float(np.mean([fact["runs"] for fact in facts]))),
                f"{mean['operations']:.2f}",
                f"{np.exp(mean['nats']):.3f}",
                f"{mean['divergence']:.4f}",
                f"{mean['agreement']:.1%}",
            ]
        )
    return table(["", "matched", "runs", "operations", "perplexity", "divergence, nats", "agreement"], rows)


def _kinds_table(found: Sequence[Document]) -> str:
    ways = [at for at, (_, share, _, rotated) in enumerate(WAYS) if share == 0 and rotated]
    rows = []
    for kind in dict.fromkeys(pair["kind"] for pair in found):
        group = [pair for pair in found if pair["kind"] == kind]
        means = [
            [np.mean([pair["ways"][at][key] for pair in group]) for key in ("operations", "divergence")] for at in ways
        ]
        rows.append([kind, *(f"{operations:.2f} / {divergence:.3f}" for operations, divergence in means)])
    return table(["", *(WAYS[at][0] for at in ways)], rows)


if __name__ == "__main__":
    raise SystemExit(main())
