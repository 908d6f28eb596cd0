"""Tasks that ask a decoder for what stands far back in its context: long prose with things to find in it."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.attention.text import prose

_NAMES = (
    "Alice Bruno Clara David Elena Felix Greta Hugo Irene Jonas Karen Louis Maria Nina Oscar Paula Quentin Rosa "
    "Simon Tessa Ursula Victor Wanda Xavier Yvonne Zoe"
)
_WORDS = (
    "apple bridge candle desert engine forest garden hammer island jacket kitchen ladder mirror needle orange pencil "
    "rabbit saddle ticket umbrella violin window yellow zebra anchor basket castle dragon feather guitar helmet jungle "
    "lemon magnet napkin onion pocket ribbon silver tunnel velvet wagon"
)
_COPIED = 12, 16  # words that are given of a sentence, and where what is asked for ends
_SECRETS = ("pass key", "door code", "locker number", "account number")


class Question(NamedTuple):
    """What is asked at the end of a context; the answer is what is to follow."""

    prompt: str
    answer: str
    score: Callable[[str, str], float]


class Case(NamedTuple):
    """A context of about as many tokens as wished for, and questions about it."""

    context: list[int]
    questions: list[Question]


def exact(answer: str, wanted: str) -> float:
    """1 if the answer begins as it should."""
    return float(answer.strip().startswith(wanted.strip()))


def words_in_order(answer: str, wanted: str) -> float:
    """Share of the words that stand where they should."""
    expected, found = wanted.split(), answer.split()
    return float(np.mean([found[at : at + 1] == [word] for at, word in enumerate(expected)]))


def words_in_any_order(answer: str, wanted: str) -> float:
    """Share of the words that are in the answer."""
    return float(np.mean([word in re.findall(r"\w+", answer) for word in wanted.split()]))


def passkey(tokenizer: Any, tokens: int, rng: np.random.Generator) -> Case:
    """Six digits for each of a few things that are named once in long prose."""
    keys = [_digits(rng) for _ in _SECRETS]
    needles = [f" The {name} is {key}. Remember it." for name, key in zip(_SECRETS, keys, strict=True)]
    questions = [Question(f"\nThe {name} is", f" {key}", exact) for name, key in zip(_SECRETS, keys, strict=True)]
    return Case(_planted(tokenizer, tokens, needles, rng), questions)


def multi_key(tokenizer: Any, tokens: int, rng: np.random.Generator) -> Case:
    """Numbers of many people, each in a sentence of the same form: the others distract."""
    names = rng.permutation(_NAMES.split())[:16].tolist()
    keys = [_digits(rng) for _ in names]
    needles = [f" The special number of {name} is {key}." for name, key in zip(names, keys, strict=True)]
    questions = [
        Question(f"\nThe special number of {name} is", f" {key}", exact)
        for name, key in zip(names[:8], keys, strict=False)
    ]
    return Case(_planted(tokenizer, tokens, needles, rng), questions)


def key_value(tokenizer: Any, tokens: int, rng: np.random.Generator) -> Case:
    """A table of forty keys, words, and their values in the midst of prose."""
    keys = rng.permutation(_WORDS.split())[:40].tolist()
    values = rng.integers(1000, 10_000, len(keys)).tolist()
    lines = [f'"{key}": {value},\n' for key, value in zip(keys, values, strict=True)]
    asked = rng.choice(len(keys), 8, replace=False).tolist()
    questions = [Question(f'\n"{keys[at]}":', f" {values[at]}", exact) for at in asked]
    return Case(_planted(tokenizer, tokens, ["\n" + "".join(lines)], rng), questions)


def string_copy(tokenizer: Any, tokens: int, rng: np.random.Generator) -> Case:
    """Sentences of the prose, to be written down again from their first words on."""
    context = _planted(tokenizer, tokens, [], rng)
    sentences = re.split(r"(?<=\.)\s", tokenizer.decode(context))[1:-1]
    words = [sentence.split() for sentence in sentences if len(sentence.split()) >= _COPIED[1]]
    first, last = _COPIED
    questions = [
        Question("\n" + " ".join(words[at][:first]), " " + " ".join(words[at][first:last]), words_in_order)
        for at in rng.permutation(len(words))[:8].tolist()
    ]
    return Case(context, questions)


def frequent_words(tokenizer: Any, tokens: int, rng: np.random.Generator) -> Case:
    """Words in random order, three of them far more often than others: a matter of many tokens, not of few."""
    words = rng.permutation(_WORDS.split()).tolist()
    weights = np.array([6.0, 5.0, 4.0, *[0.5] * (len(words) - 3)])
    drawn = rng.choice(words, tokens, p=weights / weights.sum()).tolist()
    context = _tokens(tokenizer, "Words: " + " ".join(drawn))[: tokens - 16]
    prompt = ".\nThe three words that are most frequent in this list are the words"
    return Case(context, [Question(prompt, " " + " ".join(words[:3]), words_in_any_order)])


TASKS = {
    "passkey": passkey,
    "multi-key needle": multi_key,
    "key-value retrieval": key_value,
    "string copy": string_copy,
    "frequent words": frequent_words,
}


def _digits(rng: np.random.Generator) -> str:
    return str(rng.integers(100_000, 1_000_000))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text).input_ids
    return found


def _planted(tokenizer: Any, tokens: int, needles: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Prose from a random sentence on, with the needles between its sentences, at random."""
    planted = [_tokens(tokenizer, needle) for needle in needles]
    room = tokens - sum(map(len, planted)) - 16
    sentences = re.split(r"(?<=\.)(?=\s)", prose())
    start = int(rng.integers(0, len(sentences) // 2))
    pieces: list[list[int]] = []
    for sentence in sentences[start:]:
        piece = _tokens(tokenizer, sentence)
        if room < len(piece):
            break
        room -= len(piece)
        pieces.append(piece)
    if not planted:
        return [token for piece in pieces for token in piece]
    for place, needle in sorted(zip(rng.integers(1, len(pieces), len(planted)), planted, strict=True), reverse=True):
        pieces.insert(int(place), needle)
    return [token for piece in pieces for token in piece]
