"""Codes of keys and their scans against the references, on every instruction set (see test_levels)."""

import numpy as np
import pytest
from attention_pages import aligned

from nearhash.kernels import attention_lvq4, attention_pq4, attention_simhash, reference_attention
from nearhash.kernels.attention_rows import PAGE

SHAPES = [(8, 1), (64, 4), (72, 3), (80, 5), (128, 4), (256, 16)]


class CodePages:
    """Room for the codes of `count` tokens, poisoned."""

    def __init__(self, size, count):
        self.memory = [aligned(size, 0xFF) for _ in range(-(-count // PAGE))]
        self.addresses = np.array([page.ctypes.data for page in self.memory], np.int64)


def numbers_of(bits):
    """bfloat16 bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def unpack_lvq4(pages, dim, count):
    """Codes (n, dim), lower, step and norms (n,) of pages, read by the description of the layout."""
    codes, numbers = [], []
    for page in pages.memory:
        blocks = page[: PAGE * dim // 2].reshape(PAGE // 16, dim // 8, 16, 4)
        halves = np.stack([blocks & 15, blocks >> 4], axis=3)  # [block, line, token, half, byte]
        codes.append(halves.transpose(0, 2, 1, 3, 4).reshape(PAGE, dim))
        numbers.append(numbers_of(page[PAGE * dim // 2 :].view(np.uint16)).reshape(3, PAGE))
    return np.concatenate(codes)[:count], *np.concatenate(numbers, axis=1)[:, :count]


def scan_lvq4(pages, queries, first, last, room):
    logits = np.full((len(queries), room), np.nan, np.float32)
    attention_lvq4.scan(pages.addresses, queries, first, last, logits)
    return logits


def test_lvq4_page_is_small():
    assert attention_lvq4.page_bytes(64) == 38 * PAGE
    assert attention_lvq4.page_bytes(128) == 70 * PAGE
    assert attention_lvq4.norms_at(64) == 36 * PAGE


@pytest.mark.parametrize(("dim", "group"), SHAPES)
def test_lvq4_codes_and_logits(dim, group):
    rng = np.random.default_rng(dim)
    count = 2 * PAGE + 77
    keys, values = (rng.standard_normal((count, dim)).astype(np.float32) for _ in range(2))
    keys[5], keys[6] = 0, 3
    keys[7:40] *= np.float32(1e-30)
    keys[40:70] *= np.float32(1e6)
    values[::7] *= np.float32(1e-5)
    mean = rng.standard_normal(dim).astype(np.float32)
    pages = CodePages(attention_lvq4.page_bytes(dim), count)
    for first, last in ((0, 100), (100, 101), (101, count)):
        attention_lvq4.encode(pages.addresses, first, keys[first:last], values[first:last], mean)
    codes, lower, step, norms = unpack_lvq4(pages, dim, count)
    expected = reference_attention.lvq4(keys, mean)
    for found, wanted in zip((codes, lower, step), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(norms, np.linalg.norm(values, axis=1), rtol=2**-8)

    queries = (rng.standard_normal((group, dim)) / np.sqrt(dim)).astype(np.float32)
    wanted = reference_attention.lvq4_logits(queries, *expected)
    room = -(-count // 64) * 64
    for first, last in ((0, count), (16, count - 30), (300, 301), (64, 64), (300, 10)):
        found = scan_lvq4(pages, queries, first, last, room)
        here = slice(first, max(first, last))
        magnitude = np.abs(expected[1]) + 15 * expected[2] + 1e-30
        bound = 1e-6 * np.abs(queries).sum(axis=1)[:, None] * magnitude * 2
        assert (np.abs(found - np.pad(wanted, ((0, 0), (0, room - count))))[:, here] <= bound[:, here]).all()
        first, last = first // 64 * 64, -(-last // 64) * 64 if last > first else first // 64 * 64
        assert np.isnan(found[:, :first]).all()
        assert np.isnan(found[:, max(last, first) :]).all()


def test_lvq4_logits_are_near_the_true_ones():
    rng = np.random.default_rng(1)
    mean = rng.standard_normal(128).astype(np.float32) * 4
    keys = rng.standard_normal((1000, 128)).astype(np.float32) + mean
    queries = rng.standard_normal((4, 128)).astype(np.float32) / np.sqrt(128, dtype=np.float32)
    pages = CodePages(attention_lvq4.page_bytes(128), 1000)
    attention_lvq4.encode(pages.addresses, 0, keys, keys, mean)
    found = scan_lvq4(pages, queries, 0, 1000, 1024)[:, :1000]
    # Uniform within a step of about 5.2 / 15: its standard deviation is a twelfth of the square, times |q| = 1.
    error = found - queries @ (keys - mean).T
    assert 0.05 < error.std() < 0.13
    assert abs(error.mean()) < 0.01


def test_lvq4_of_extreme_keys_is_finite():
    keys = np.full((4, 64), 3e38, np.float32)
    keys[0, ::2] = -3e38
    keys[1, 0] = 0
    keys[2] = 1e-44
    keys[2, 5] = 0
    pages = CodePages(attention_lvq4.page_bytes(64), 4)
    attention_lvq4.encode(pages.addresses, 0, keys, keys, np.zeros(64, np.float32))
    codes, *numbers = unpack_lvq4(pages, 64, 4)
    assert np.isfinite(numbers).all()
    assert (codes[0, ::2] == 0).all()
    for query in (np.zeros((1, 64), np.float32), np.full((1, 64), 1e-42, np.float32)):
        assert (scan_lvq4(pages, query, 0, 4, 64)[0, :4] == 0).all()


def logits_of(scan, group, first, last, room):
    """Logits that `scan` writes over a poisoned array; whole groups of 64 tokens, and nothing else, are written."""
    found = np.full((group, room), np.nan, np.float32)
    scan(first, last, found)
    start, stop = first // 64 * 64, -(-last // 64) * 64 if last > first else first // 64 * 64
    assert np.isnan(found[:, :start]).all()
    assert np.isnan(found[:, max(start, stop) :]).all()
    return found[:, first : max(first, last)]


RANGES = [(0, 589), (16, 559), (300, 301), (64, 64), (300, 10)]


@pytest.mark.parametrize("group", [1, 3, 4, 5, 16])
@pytest.mark.parametrize("bits", [64, 256, 1024])
def test_simhash_logits(bits, group):
    rng = np.random.default_rng(bits)
    count, dim = 2 * PAGE + 77, 40
    keys, values = (rng.standard_normal((count, dim)).astype(np.float32) for _ in range(2))
    values[::5] *= np.float32(1e5)
    mean, queries = keys[3], rng.standard_normal((group, dim)).astype(np.float32)
    codes, query_codes = (rng.integers(0, 1 << 64, (n, bits // 64), np.uint64) for n in (count, group))
    codes[1], codes[2] = query_codes[0], ~query_codes[0]
    pages = CodePages(attention_simhash.page_bytes(bits), count)
    for first, last in ((0, 100), (100, count)):
        some = slice(first, last)
        attention_simhash.encode(pages.addresses, first, codes[some], keys[some], values[some], mean)
    planes = np.concatenate([page[: PAGE * bits // 8].view(np.uint64).reshape(-1, PAGE) for page in pages.memory], 1)
    np.testing.assert_array_equal(planes.T[:count], codes)
    numbers = [numbers_of(page[PAGE * bits // 8 :].view(np.uint16)).reshape(2, PAGE) for page in pages.memory]
    norms, value_norms = np.concatenate(numbers, axis=1)[:, :count]
    np.testing.assert_allclose(norms, np.linalg.norm(keys - mean, axis=1), rtol=2**-8)
    np.testing.assert_allclose(value_norms, np.linalg.norm(values, axis=1), rtol=2**-8)
    at = attention_simhash.norms_at(bits)
    np.testing.assert_array_equal(pages.memory[0][at:].view(np.uint16), value_norms[:PAGE].view(np.uint32) >> 16)

    expected = reference_attention.simhash_logits(queries, query_codes, codes, norms.astype(np.float64))
    for first, last in RANGES:
        found = logits_of(
            lambda first, last, out: attention_simhash.scan(pages.addresses, queries, query_codes, first, last, out),
            group, first, last, 640,
        )  # fmt: skip
        np.testing.assert_allclose(found, expected[:, first : max(first, last)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("group", [1, 3, 4, 5, 16])
@pytest.mark.parametrize("subs", [8, 32, 264])
def test_pq4_logits(subs, group):
    rng = np.random.default_rng(subs)
    count, dim = 2 * PAGE + 77, 2 * subs + 3
    bounds = np.sort(rng.choice(np.arange(1, dim), subs - 1, replace=False)).astype(np.int32)
    bounds = np.concatenate([[0], bounds, [dim]]).astype(np.int32)
    codewords = rng.standard_normal((dim, 16)).astype(np.float32)
    queries = rng.standard_normal((group, dim)).astype(np.float32)
    values = rng.standard_normal((count, dim)).astype(np.float32)
    codes = rng.integers(0, 16, (count, subs)).astype(np.uint8)
    pages = CodePages(attention_pq4.page_bytes(subs), count)
    for first, last in ((0, 100), (100, count)):
        attention_pq4.encode(pages.addresses, first, codes[first:last], values[first:last])
    for number, page in enumerate(pages.memory):
        norms = numbers_of(page[attention_pq4.norms_at(subs) :].view(np.uint16))
        here = values[number * PAGE : (number + 1) * PAGE]
        np.testing.assert_allclose(norms[: len(here)], np.linalg.norm(here, axis=1), rtol=2**-8)

    expected = reference_attention.pq4_logits(queries, bounds, codewords, codes)
    # A product that lies between two steps may be rounded to either by its own error.
    bound = 2.1 * np.abs(queries).max() * np.abs(codewords).max() * 5 / 255
    for first, last in RANGES:
        found = logits_of(
            lambda first, last, out: attention_pq4.scan(pages.addresses, queries, bounds, codewords, first, last, out),
            group, first, last, 640,
        )  # fmt: skip
        error = np.abs(found - expected[:, first : max(first, last)])
        assert error.max(initial=0) < bound
        assert np.median(error) < 1e-4 if last > first else True


def test_pq4_of_queries_of_nothing():
    pages = CodePages(attention_pq4.page_bytes(8), 70)
    attention_pq4.encode(pages.addresses, 0, np.full((70, 8), 15, np.uint8), np.ones((70, 8), np.float32))
    codewords = np.ones((8, 16), np.float32)
    for query in (np.zeros((1, 8), np.float32), np.full((1, 8), 1e-43, np.float32)):
        found = np.full((1, 128), np.nan, np.float32)
        attention_pq4.scan(pages.addresses, query, np.arange(9, dtype=np.int32), codewords, 0, 70, found)
        np.testing.assert_allclose(found, query.sum(), rtol=0.2)
