"""Codecs as objects: options, training, what goes to files and what comes back from hostile ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash.errors import CorruptIndexError, InvalidArgumentError, NotTrainedError
from nearhash.index.codecs import CODECS, make_codec
from nearhash.index.codecs.rabitq import Rotation, encode_parts
from nearhash.kernels import codes
from nearhash.kernels.scan import L2

TRAINED = ["lvq8", "lvq4", "pq8", "rabitq"]


def some_vectors(count=300, dim=20, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def encoded(codec, vectors):
    rows = np.full((len(vectors), codec.width), 0xAA, codec.dtype)
    codec.encode(vectors, np.zeros(len(vectors), np.float32), rows)
    return rows


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("f32", 100, 448), ("f16", 100, 256), ("float8", 100, 128), ("lvq8", 100, 128), ("lvq4", 100, 64),
        ("pq8", 100, 25), ("rabitq", 100, 32), ("rabitq4", 100, 80), ("f32", 768, 3072), ("f16", 768, 1536),
        ("float8", 768, 832), ("lvq8", 768, 832), ("lvq4", 768, 448), ("pq8", 768, 192), ("rabitq", 768, 112),
        ("rabitq4", 768, 400), ("rabitq8", 768, 784),
    ],
)  # fmt: skip
def test_bytes_per_vector(name, dim, expected):
    assert make_codec(name, dim, has_extra=False).bytes_per_vector == expected


@pytest.mark.parametrize("name", [*CODECS, "rabitq3"])
def test_name_and_options_make_the_codec_again(name):
    codec = make_codec(name, 20, has_extra=True)
    again = make_codec(codec.name, 20, has_extra=True, **codec.options)
    assert again.scheme == codec.scheme
    assert type(again) is type(codec)
    assert codec.query_bytes > 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lvq9", {}, "lvq9"), (None, {}, "codec"), ("rabitq", {"bits": 0}, "bits"), ("rabitq", {"bits": 9}, "bits"),
        ("rabitq", {"bits": True}, "bits"), ("rabitq0", {}, "rabitq0"), ("pq8", {"parts": 21}, "parts"),
        ("pq8", {"parts": 0}, "parts"), ("pq8", {"bits": 4}, "'bits'"), ("f32", {"bits": 4}, "none"),
    ],
)  # fmt: skip
def test_wrong_names_and_options_are_refused(name, options, words):
    with pytest.raises(InvalidArgumentError, match=words):
        make_codec(name, 20, has_extra=False, **options)


@pytest.mark.parametrize("name", TRAINED)
def test_codecs_that_learn_say_so(name):
    codec = make_codec(name, 20, has_extra=False)
    assert not codec.trained
    with pytest.raises(NotTrainedError, match=codec.name):
        encoded(codec, some_vectors(3))
    codec.train(some_vectors())
    assert codec.trained


def test_half_floats_refuse_what_they_cannot_hold():
    vectors = some_vectors(3)
    vectors[1, 4] = -65505
    with pytest.raises(InvalidArgumentError, match="65505"):
        encoded(make_codec("f16", 20, has_extra=False), vectors)
    vectors[1, 4] = -65504
    codec = make_codec("f16", 20, has_extra=False)
    assert codec.decode(encoded(codec, vectors))[1, 4] == -65504


@pytest.mark.parametrize("name", [*CODECS, "rabitq5"])
def test_a_restored_codec_gives_the_same_bytes(name):
    vectors = some_vectors()
    codec = make_codec(name, 20, has_extra=False)
    codec.train(vectors, seed=7)
    copy = make_codec(codec.name, 20, has_extra=False, **codec.options)
    copy.restore({name: array.copy() for name, array in codec.tensors().items()})
    assert copy.trained
    assert np.array_equal(encoded(copy, vectors), encoded(codec, vectors))
    assert np.array_equal(copy.decode(encoded(codec, vectors)), codec.decode(encoded(codec, vectors)))
    found, expected = np.zeros((3, 300), np.float32), np.zeros((3, 300), np.float32)
    for each, out in ((copy, found), (codec, expected)):
        codes.estimate_all(each.model, vectors[:3].copy(), L2, encoded(codec, vectors), 0, 300, out)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", [*CODECS, "rabitq4"])
def test_same_seed_same_bytes_at_any_number_of_threads(name):
    vectors = some_vectors(2000)
    rows = []
    for threads, seed in ((1, 3), (2, 3), (5, 3), (1, 4)):
        codec = make_codec(name, 20, has_extra=False)
        codec.train(vectors, seed=seed, threads=threads)
        rows.append(encoded(codec, vectors))
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], rows[3]) == (codec.name not in ("pq8", "rabitq"))


def hostile(name, change):
    codec = make_codec(name, 20, has_extra=False)
    codec.train(some_vectors())
    tensors = {name: array.copy() for name, array in codec.tensors().items()}
    change(tensors)
    return tensors


ATTACKS = {
    "lvq8": ("mean", np.float32), "lvq4": ("mean", np.float32), "pq8": ("codewords", np.float32),
    "rabitq": ("mean", np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("attack", ["gone", "nan", "inf", "short", "dtype", "flat"])
def test_hostile_tensors_are_refused(name, attack):
    tensor, _ = ATTACKS[name]

    def change(tensors):
        array = tensors[tensor]
        if attack == "gone":
            del tensors[tensor]
        elif attack in ("nan", "inf"):
            array.flat[-1] = np.float32(attack)
        else:
            tensors[tensor] = {"short": array[:-1], "dtype": array.astype(np.float64), "flat": array[None]}[attack]

    codec = make_codec(name, 20, has_extra=False)
    with pytest.raises(CorruptIndexError, match=tensor):
        codec.restore(hostile(name, change))
    assert not codec.trained


@pytest.mark.parametrize("bad", [0, 2, -128, 127])
def test_hostile_signs_are_refused(bad):
    def change(tensors):
        tensors["signs"][2, 5] = bad

    codec = make_codec("rabitq", 20, has_extra=False)
    with pytest.raises(CorruptIndexError, match="signs"):
        codec.restore(hostile("rabitq", change))
    assert not codec.trained


@pytest.mark.parametrize("name", [*CODECS, "rabitq8"])
def test_rows_of_any_bytes_are_safe_to_read(name):
    """Codes come from files: whatever they hold, kernels stay inside their arrays and do not raise."""
    codec = make_codec(name, 20, has_extra=True)
    codec.train(some_vectors())
    raw = np.random.default_rng(0).integers(0, 256, (50, codec.bytes_per_vector)).astype(np.uint8)
    raw[0], raw[1] = 255, 0
    rows = raw.view(codec.dtype)
    out = np.zeros((50, 50), np.float32)
    codes.distance_all(codec.model, rows, rows, out)
    codes.estimate_all(codec.model, some_vectors(50), L2, rows, 0, 50, out)
    with np.errstate(all="ignore"):
        assert codec.decode(rows).shape == (50, 20)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 8), st.integers(0, 2**64 - 1))
def test_rabitq_of_any_shape(dim, bits, seed):
    vectors = np.random.default_rng(seed).standard_normal((9, dim)).astype(np.float32)
    codec = make_codec("rabitq", dim, has_extra=False, bits=bits)
    codec.train(vectors, seed=seed)
    rows = encoded(codec, vectors)
    out = np.full((9, 9), np.nan, np.float32)
    codes.estimate_all(codec.model, vectors, L2, rows, 0, 9, out)
    slack = np.full((9, 9), np.nan, np.float32)
    codes.slack_all(codec.model, vectors, L2, rows, 0, 9, slack)
    exact = ((vectors[:, None].astype(np.float64) - vectors[None]) ** 2).sum(-1)
    assert (np.abs(out - exact) <= 4 * slack + 1e-3 * (exact.max() + 1)).all()  # 7.6 deviations
    rotation = Rotation(dim, seed)
    parts = encode_parts(rotation.apply(vectors), np.zeros((1, rotation.width), np.float32), np.zeros(9, np.int32), L2)
    assert set(np.unique(parts.codes)) <= {0, 1}


@pytest.mark.parametrize("bits", [0, 9, 1.0])
def test_parts_of_wrong_bits_are_refused(bits):
    rows = np.zeros((1, 64), np.float32)
    with pytest.raises(InvalidArgumentError, match="bits"):
        encode_parts(rows, rows, np.zeros(1, np.int32), L2, bits)


def test_indexes_refuse_the_codecs_of_others():
    for name in ("pq4", "lvq", "rabitq9", None, 8):
        with pytest.raises(InvalidArgumentError, match=r"codec: expected one of f32, .*lvq4x8"):
            nh.GraphIndex(20, codec=name)
    with pytest.raises(InvalidArgumentError, match="codec"):
        nh.IVFIndex(20, codec="lvq4x8")
