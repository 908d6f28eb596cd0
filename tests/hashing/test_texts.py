"""Shingles of texts against their Python specification; XXH3 against the package xxhash."""

import ctypes
import mmap
import random
import sys
import unicodedata

import numpy as np
import pytest
import xxhash

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import MinHash, Shingler
from nearhash.hashing.members import as_lists, hash_members
from nearhash.hashing.normalisation import normalised
from nearhash.hashing.texts import joined
from nearhash.kernels import reference_shingles, xxh3

ALPHABET = "aB cZ.é,İß 漢字ひらがカタทดสอบ\u0301\t\n_9٣𝒳😀-\u3000ﬁ\u0e33İ"


def some_texts(count):
    chosen = random.Random(0)
    texts = ["", "a", " ", "...", "Hello, World", "\u0301", "the quick brown fox jumps over the lazy dog"]
    texts += ["".join(chosen.choice(ALPHABET) for _ in range(chosen.randint(0, 60))) for _ in range(count)]
    # Long runs of one kind, so that words, characters and marks lie across the blocks of 64 bytes in every way.
    for _ in range(count):
        alphabet = chosen.choice(["ab ", "a漢", "漢\u0301", "éa\u0301", "ab漢\u0301. ", "𝒳a ", ALPHABET])
        texts.append("".join(chosen.choice(alphabet) * chosen.choice([1, 1, 2, 17, 70]) for _ in range(40)))
    return texts


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


@pytest.mark.parametrize("form", ["NFC", "NFKC", None])
@pytest.mark.parametrize("lowercase", [True, False])
def test_normalisation(lowercase, form):
    """Runs normalised apart give what whole texts do: every character, between those it may join with."""
    every = [chr(code) for code in range(0x80, 0x30000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(every[at : at + 64]) for at in range(0, len(every), 64)]
    texts += [f"{mark}o{mark}\n{mark}가{mark}\n\n\u1161x" * 3 for mark in every if unicodedata.combining(mark)]
    texts += ["", "plain", "é", "aé", "éa", "\n\u0301", "x" * 63 + "é" * 65, *some_texts(100)]
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(bytearray(b"xyz\n" + b"".join(encoded)), np.uint8)
    bounds = 4 + np.cumsum([0, *map(len, encoded)])
    out, ends = normalised(data, bounds, lowercase, form)
    for row, text in enumerate(texts):
        found = bytes(out[ends[row] : ends[row + 1]]).decode()
        fold = reference_shingles.normalise(text, lowercase, form)
        assert (found.encode().lower().decode() if lowercase else found) == fold  # ASCII is folded later


def test_the_reader_stays_within_the_array():
    """The last text ends where memory does: 16 and 64 bytes are read at once, but not there."""
    page = mmap.PAGESIZE
    whole = mmap.mmap(-1, 2 * page)
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    assert libc.mprotect(ctypes.c_void_p(first + page), page, 0) == 0
    try:
        for text in ("a" * 7, "word " * 30 + "end", "é" * 50, "x é" * 21, "a" * 64, "漢" * 40, "a" * 200):
            data = text.encode()
            array = np.frombuffer(whole, np.uint8, len(data), page - len(data))
            array[:] = np.frombuffer(data, np.uint8)
            for unit in ("word", "char"):
                expected = reference_shingles.shingles(text, 2, unit)
                assert Shingler(2, unit).shingles_utf8(array, [0, len(data)])[1].tolist() == expected
            del array
    finally:
        libc.mprotect(ctypes.c_void_p(first + page), page, 3)


def test_each_and_sketches_of_texts():
    """What is handed on piece by piece is what comes at once; sketches of texts are those of their shingles."""
    texts = some_texts(300) * 20
    parts = {}
    data, bounds = joined(texts)

    def use(first, starts, tokens):
        parts[first] = starts.copy(), tokens.copy()

    Shingler().each(data, bounds, use, threads=2)
    whole = Shingler().shingles(texts)
    assert (np.concatenate([parts[first][1] for first in sorted(parts)]) == whole[1]).all()
    assert len(parts) > 2
    for method, bits in (("fss", 4), ("affine32", 32)):
        minhash = MinHash(16, method, bits)
        low = whole[1] & np.uint64(0xFFFFFFFF) if method == "affine32" else whole[1]
        expected = minhash.sketch(whole[0], low).values
        for threads in (1, 3):
            found = minhash.sketch_texts(texts, threads=threads)
            assert (found.values == expected).all()
        assert found.header["shingles"]["ngram"] == 5
    assert MinHash(8).sketch_texts([]).shape == (0, 8)
    sizes = np.full(len(texts), -7)
    assert (MinHash(16, bits=4).sketch_utf8(data, bounds, Shingler(), sizes=sizes).values != 0).any()
    assert (sizes == np.diff(whole[0])).all()


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
    bounds, tokens = hash_members(as_lists(sets))
    hashed = xxhash.xxh3_64_intdigest
    expected = [*map(hashed, (b"a", b"b", b"c", b"x", b"a")), 7, *map(hashed, (b"with\0zero", b"b", b"a", b"b"))]
    assert tokens.tolist() == [*expected, hashed(("é" * 200).encode())]
    assert bounds.tolist() == [0, 3, 4, 4, 6, 8, 10, 11]


def test_sets_of_strings_in_place():
    """Any number of any strings, and nothing of Python's is changed: no error pending, no reference more or less."""
    chosen = random.Random(1)
    sets = [
        ["".join(chosen.choice(ALPHABET) for _ in range(chosen.randint(0, 40))) for _ in range(n)] for n in range(30)
    ]
    known = ["".join(chosen.choices(ALPHABET, k=20)) for _ in range(9)]  # longer than strings that Python shares
    sets[7] = known * 50
    before = list(map(sys.getrefcount, known))
    bounds, tokens = hash_members(sets)
    assert tokens.tolist() == [xxhash.xxh3_64_intdigest(member.encode()) for members in sets for member in members]
    assert list(map(sys.getrefcount, known)) == before
    minhash = MinHash(32)
    expected = minhash.sketch(bounds, tokens).values
    for threads in (1, 4):
        assert (minhash.sketch_sets(sets * 40, threads=threads).values == np.tile(expected, (40, 1))).all()
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        hash_members([["a"], ["b", "\ud800"]])
    with pytest.raises(InvalidArgumentError, match="None"):
        hash_members([["a", None]])


def test_bad_texts():
    for texts, match in (
        ("one text", "single"),
        ([1], "number 0"),
        (["a", "\ud800"], "number 1"),
        ([b"a", b"\xff\xfe", b"\xff"], "number 1 is not UTF-8.*byte 0"),
        ([b"a\xc3", b"\xa9"], "number 0"),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            Shingler().shingles(texts)
    for arguments in ({"ngram": 0}, {"unit": "line"}, {"form": "NFD"}):
        with pytest.raises(InvalidArgumentError):
            Shingler(**arguments)
    with pytest.raises(InvalidArgumentError, match="offsets"):
        Shingler().shingles_utf8(np.zeros(3, np.uint8), [0, 4])
