"""Shingles of texts against their Python specification; XXH3 against the package xxhash."""

import random

import numpy as np
import pytest
import xxhash

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import MinHash, Shingler
from nearhash.hashing.texts import hash_sets
from nearhash.kernels import reference_shingles, xxh3

ALPHABET = "aB cZ.é,İß 漢字ひらがカタทดสอบ\u0301\t\n_9٣𝒳😀-\u3000ﬁ\u0e33İ"


def some_texts(count):
    chosen = random.Random(0)
    texts = ["", "a", " ", "...", "Hello, World", "\u0301", "the quick brown fox jumps over the lazy dog"]
    return texts + ["".join(chosen.choice(ALPHABET) for _ in range(chosen.randint(0, 60))) for _ in range(count)]


def test_xxh3():
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    sizes = [*range(300), 1023, 1024, 1025, 1087, 1088, 1089, 2047, 2048, 2049, 3072, 3073, 4999]
    for size in sizes:
        out = np.full(1, 7, np.uint64)
        xxh3.xxh3_rows(data, np.array([1, 1 + size]), xxh3.SECRET, out)
        assert int(out[0]) == xxhash.xxh3_64_intdigest(data[1 : 1 + size].tobytes())


@pytest.mark.parametrize("form", ["NFC", "NFKC", None])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("ngram", [1, 2, 5])
@pytest.mark.parametrize("unit", ["word", "char"])
def test_shingles(unit, ngram, lowercase, form):
    texts = some_texts(200)
    bounds, tokens = Shingler(ngram, unit, lowercase=lowercase, form=form).shingles(texts)
    for number, text in enumerate(texts):
        expected = reference_shingles.shingles(text, ngram, unit, lowercase, form)
        assert tokens[bounds[number] : bounds[number + 1]].tolist() == expected


def test_threads_and_forms_of_input():
    texts = [text * 300 for text in some_texts(60)]
    bounds, tokens = Shingler().shingles(texts, threads=1)
    encoded = [text.encode() for text in texts]
    ends = np.concatenate([[0], np.cumsum([len(text) for text in encoded])])
    shifted = np.frombuffer(b"xyz" + b"".join(encoded), np.uint8)
    for found in (
        Shingler().shingles(texts, threads=3),
        Shingler().shingles(encoded),
        Shingler().shingles_utf8(shifted, ends + 3),
    ):
        assert (found[0] == bounds).all()
        assert (found[1] == tokens).all()
    assert Shingler().shingles([])[0].tolist() == [0]


def test_what_makes_no_difference():
    minhash = MinHash(64)
    one, other = minhash.sketch_texts(["The  Cafe\u0301 is\nopen, today!", "the café is open today"], ngram=2).values
    assert (one == other).all()


def test_sets():
    sets = [["a", "b", "c"], {"x"}, [], [b"a", 7], ["with\0zero", "b"], iter(["a", "b"]), ["é" * 200]]
    bounds, tokens = hash_sets(sets)
    hashed = xxhash.xxh3_64_intdigest
    expected = [*map(hashed, (b"a", b"b", b"c", b"x", b"a")), 7, *map(hashed, (b"with\0zero", b"b", b"a", b"b"))]
    assert tokens.tolist() == [*expected, hashed(("é" * 200).encode())]
    assert bounds.tolist() == [0, 3, 4, 4, 6, 8, 10, 11]


def test_bad_texts():
    for texts, match in (
        ("one text", "single"),
        ([1], "number 0"),
        (["a", "\ud800"], "number 1"),
        ([b"a", b"\xff\xfe"], "number 1"),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            Shingler().shingles(texts)
    for arguments in ({"ngram": 0}, {"unit": "line"}, {"form": "NFD"}):
        with pytest.raises(InvalidArgumentError):
            Shingler(**arguments)
    with pytest.raises(InvalidArgumentError, match="offsets"):
        Shingler().shingles_utf8(np.zeros(3, np.uint8), [0, 4])
