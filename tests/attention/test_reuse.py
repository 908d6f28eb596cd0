"""Cached keys and values in the places of another prompt."""

import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError

RNG = np.random.default_rng(0)
DIM, THETA = 16, 10_000.0


def embedded(keys, positions, theta=THETA, rotated=DIM, interleaved=False):
    """Rotary embedding by complex numbers: the pairs of elements times exp(i position frequency)."""
    result = keys.astype(np.float64)
    frequencies = theta ** (-np.arange(0, rotated, 2) / rotated)
    first, second = (
        (np.arange(0, rotated, 2), np.arange(1, rotated, 2))
        if interleaved
        else (np.arange(rotated // 2), np.arange(rotated // 2, rotated))
    )
    turned = (result[..., first] + 1j * result[..., second]) * np.exp(1j * np.outer(positions, frequencies))
    result[..., first], result[..., second] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5), (np.float16, 1e-2)])
def test_moved_keys_are_those_embedded_at_the_new_positions(interleaved, dtype, tolerance):
    keys = RNG.standard_normal((2, 3, 9, DIM))
    old, new = RNG.integers(0, 8000, (2, 9))
    cached = embedded(keys, old, interleaved=interleaved).astype(dtype)
    before = cached.copy()
    moved = nh.attention.rotate_keys(cached, old, new, theta=THETA, interleaved=interleaved)
    assert moved.dtype == dtype
    assert np.abs(moved - embedded(keys, new, interleaved=interleaved)).max() < tolerance
    assert np.array_equal(cached, before)


def test_only_as_many_elements_are_rotated_as_there_are_frequencies():
    keys, frequencies = RNG.standard_normal((5, DIM)), 1 / np.array([1.0, 10, 100, 1000])
    moved = nh.attention.rotate_keys(keys, np.zeros(5, int), np.arange(5), inv_freq=frequencies)
    assert np.array_equal(moved[:, 8:], keys[:, 8:])
    expected = embedded(keys, np.arange(5), theta=1e4, rotated=8)
    assert moved == pytest.approx(expected)


def test_tensors_move_as_in_transformers():
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=DIM * 2, num_attention_heads=2, num_key_value_heads=2, head_dim=DIM
    )
    rotary = llama.LlamaRotaryEmbedding(config)
    keys = torch.from_numpy(RNG.standard_normal((1, 2, 6, DIM))).float()
    old, new = torch.tensor([0, 1, 2, 50, 51, 900]), torch.tensor([3, 1, 700, 60, 61, 0])
    there, here = (llama.apply_rotary_pos_emb(keys, keys, *rotary(keys, places[None]))[1] for places in (old, new))
    moved = nh.attention.rotate_keys(there, old, new, inv_freq=rotary.inv_freq)
    assert torch.allclose(moved, here, atol=1e-4)
    assert nh.attention.rotate_keys(there.bfloat16(), old, new, theta=THETA).dtype == torch.bfloat16


@pytest.mark.parametrize("tensors", [False, True])
def test_what_is_matched_is_taken_over_and_the_others_are_missing(tensors):
    kind = pytest.importorskip("torch").from_numpy if tensors else np.asarray
    plain = RNG.standard_normal((2, 6, DIM)).astype(np.float32)
    keys, values = embedded(plain, np.arange(6)).astype(np.float32), RNG.standard_normal((2, 6, 8)).astype(np.float32)
    positions = np.array([-1, 0, 1, -1, 5, 5])
    found = nh.attention.reuse_keys_values(positions, kind(keys), kind(values), theta=THETA)
    assert found.missing.tolist() == [True, False, False, True, False, False]
    expected = embedded(plain[:, positions], np.arange(6))
    expected[:, [0, 3]] = 0
    assert np.abs(np.asarray(found.keys) - expected).max() < 1e-5
    assert np.array_equal(np.asarray(found.values)[:, [1, 2, 4, 5]], values[:, [0, 1, 5, 5]])
    assert not np.asarray(found.values)[:, [0, 3]].any()
    as_they_are = nh.attention.reuse_keys_values(positions, kind(keys), kind(values))
    assert np.array_equal(np.asarray(as_they_are.keys)[:, 1], keys[:, 0])
    nothing = nh.attention.reuse_keys_values([], kind(keys), kind(values), theta=THETA)
    assert nothing.keys.shape == (2, 0, DIM)
    assert nothing.missing.shape == (0,)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"positions": [0, 6]}, InvalidArgumentError, "positions: expected -1 or positions below 6, got 6"),
        ({"positions": [-2]}, InvalidArgumentError, "got -2"),
        ({"positions": [[0]]}, DimensionError, "positions: expected shape"),
        ({"positions": [0.5]}, DtypeError, "positions: expected integers"),
        ({"keys": [[1.0]]}, DtypeError, "keys: expected a NumPy array or a Torch tensor, got list"),
        ({"values": np.zeros((2, 5, 8))}, DimensionError, "values: expected a shape that goes with keys"),
        ({"values": np.zeros(6)}, DimensionError, "values: expected shape"),
        ({"keys": np.zeros((2, 6, DIM), int)}, DtypeError, "keys: expected a float dtype"),
        ({"theta": -1}, InvalidArgumentError, "theta"),
        ({"inv_freq": [1.0]}, InvalidArgumentError, "theta: expected either theta or inv_freq"),
        ({"theta": None, "inv_freq": np.ones(9)}, DimensionError, "inv_freq: expected shape"),
        ({"theta": None, "inv_freq": [np.nan]}, InvalidArgumentError, "inv_freq: expected finite"),
        ({"keys": np.zeros((2, 6, 3))}, DimensionError, "keys: expected an even number"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    given = {
        "positions": [0, 1], "keys": np.zeros((2, 6, DIM)), "values": np.zeros((2, 6, 8)), "theta": THETA, **change
    }  # fmt: skip
    with pytest.raises(error, match=message):
        nh.attention.reuse_keys_values(given.pop("positions"), given.pop("keys"), given.pop("values"), **given)


@pytest.mark.parametrize(("old", "new"), [([0], [1, 2]), ([0, 1, 2], [0, 1])])
def test_every_key_needs_both_positions(old, new):
    with pytest.raises(DimensionError, match=r"_positions: expected shape \(2,\), one for each key"):
        nh.attention.rotate_keys(np.zeros((2, 4)), old, new, theta=THETA)
