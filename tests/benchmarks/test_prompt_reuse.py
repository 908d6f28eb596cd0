"""Prefill where some tokens take over keys and values, on a small model of random weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from benchmarks.attention.partial_prefill import Cached, Plan, prefill  # noqa: E402
from nearhash.attention import rotate_keys  # noqa: E402

THETA, EVERYTHING = 10_000.0, np.arange(60)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=90, rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 90, (70,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def whole(model, tokens):
    return prefill(model, tokens, 60)


def test_computing_all_is_what_the_model_does(model, tokens, whole):
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0, 59:]
    assert torch.allclose(whole.logits, expected, atol=1e-5)
    linear = 2 * 60 * sum(part.weight.numel() for layer in model.model.layers for part in _linears(layer))
    assert whole.flops == linear + 4 * 4 * 32 * (60 * 61 / 2)


def _linears(layer):
    return [part for part in layer.modules() if isinstance(part, torch.nn.Linear)]


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("choice", ["deviation", "edits"])
def test_taking_over_what_is_right_changes_nothing(model, tokens, whole, share, choice):
    """Keys of the same prompt, but as if they had been seen elsewhere, so that they have to be turned back."""
    cached = Cached(
        [rotate_keys(keys[:, :60].flip(1), EVERYTHING[::-1], EVERYTHING, theta=THETA) for keys in whole.cached.keys],
        [values[:, :60].flip(1) for values in whole.cached.values],
    )
    found = prefill(model, tokens, 60, cached, Plan(EVERYTHING[::-1].copy(), share, choice, THETA))
    assert torch.allclose(found.logits, whole.logits, atol=1e-4)
    assert (found.flops < 0.05 * whole.flops) if share == 0 else (0.3 * whole.flops < found.flops < 0.8 * whole.flops)


@pytest.mark.parametrize("choice", ["deviation", "edits"])
def test_computing_more_comes_nearer(model, tokens, whole, choice):
    other = tokens.copy()
    other[3:30:4] = [(token + 1) % 90 for token in other[3:30:4]]
    cached = prefill(model, other, 70).cached
    positions = np.where(np.array(tokens[:60]) == np.array(other[:60]), EVERYTHING, -1)
    away = []
    for share in (0.0, 0.4, 1.0):
        found = prefill(model, tokens, 60, cached, Plan(positions, share, choice, THETA))
        away.append(float((found.logits - whole.logits).abs().mean()))
    assert away[0] > 1.2 * away[1]
    assert away[2] < (1e-6 if choice == "edits" else away[1])
