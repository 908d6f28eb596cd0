"""Pairs of prompts: a text and what may come of it, for reuse of keys and values."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.attention.text import prose
from benchmarks.corpora import licenses, synonyms

TOKENS, FOLLOWING = 520, 64  # of a prompt, about, and of the text after it
FIRST, STEP = 2000, 6000  # words: where the first passage starts, and how far the next is from it
ORDER = (3, 0, 4, 1, 2)  # of blocks of sentences

VERSIONS = (("GPL-1.0", "GPL-2.0"), ("MPL-1.0", "MPL-1.1"), ("CC-BY-SA-2.0", "CC-BY-SA-3.0"), ("LGPL-2.1", "GPL-2.0"))
"""Licences of which the second was made of the first, or of its sibling."""

Random = np.random.Generator


class Pair(NamedTuple):
    """A prompt that is cached, a new one, and the text that follows it, to be predicted."""

    kind: str
    cached: str
    new: str
    following: str


def pairs(passages: int, seed: int = 0) -> Iterator[Pair]:
    """For each passage of the prose its edits, and a pair of licences."""
    words = prose().split()
    for number in range(passages):
        random = np.random.default_rng([seed, number])
        start = FIRST + number * STEP
        text, following = _passage(words, start)
        others, _ = _passage(words, start + STEP // 2)
        for kind, edit in EDITS.items():
            yield Pair(kind, text, edit(text, others, random), following)
        yield Pair("another document", others, text, following)
        old, new = (licenses()[name].split() for name in VERSIONS[number % len(VERSIONS)])
        size = TOKENS * 3 // 4  # words
        yield Pair("licence, another version", " ".join(old[:size]), " ".join(new[:size]), _join(new[size:]))


def _passage(words: list[str], start: int) -> tuple[str, str]:
    """Whole sentences of about TOKENS tokens from the first that starts after `start` on, and what follows."""
    while not words[start - 1].endswith("."):
        start += 1
    end = start + TOKENS * 3 // 4
    while not words[end - 1].endswith("."):
        end += 1
    return " ".join(words[start:end]), _join(words[end : end + FOLLOWING])


def _join(words: list[str]) -> str:
    return " " + " ".join(words[:FOLLOWING])


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) (?=[A-Z\"(])", text)


def _each_word(text: str, share: float, random: Random, other: Callable[[str], str | None]) -> str:
    """A share of the words replaced, of those that have another."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if other(word) is not None]
    for place in random.choice(places, min(len(places), round(share * len(words))), replace=False).tolist():
        words[place] = other(words[place]) or words[place]
    return " ".join(words)


def _replaced(text: str, others: str, random: Random) -> str:
    pool = re.findall(r"\b[a-z]{4,}\b", others)
    return _each_word(
        text, 0.05, random, lambda word: str(random.choice(pool)) if re.fullmatch("[a-z]{4,}", word) else None
    )


def _synonyms(text: str, others: str, random: Random) -> str:
    known = synonyms()
    return _each_word(text, 0.15, random, known.get)


def _deleted(text: str, others: str, random: Random) -> str:
    parts = _sentences(text)
    gone = set(random.choice(len(parts), max(1, len(parts) // 5), replace=False).tolist())
    return " ".join(part for place, part in enumerate(parts) if place not in gone)


def _inserted(text: str, others: str, random: Random) -> str:
    parts, more = _sentences(text), _sentences(others)
    for part in more[: max(1, len(parts) // 5)]:
        parts.insert(int(random.integers(0, len(parts))), part)
    return " ".join(parts)


def _reordered(text: str, others: str, random: Random) -> str:
    parts = _sentences(text)
    blocks = np.array_split(np.arange(len(parts)), len(ORDER))
    return " ".join(parts[place] for block in ORDER for place in blocks[block].tolist())


def _new_head(text: str, others: str, random: Random) -> str:
    return " ".join([*_sentences(others)[:2], *_sentences(text)[1:]])


EDITS: dict[str, Callable[[str, str, Random], str]] = {
    "words replaced": _replaced,
    "synonyms": _synonyms,
    "sentences deleted": _deleted,
    "sentences inserted": _inserted,
    "blocks of sentences reordered": _reordered,
    "another beginning": _new_head,
}
