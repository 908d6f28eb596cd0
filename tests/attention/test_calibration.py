"""Calibration of layers, on a small model of random weights in which one layer attends almost evenly."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import nearhash as nh  # noqa: E402
from nearhash.errors import InvalidArgumentError  # noqa: E402

LAYERS, PEAKED = 3, 1


@pytest.fixture(scope="module")
def model():
    mapping = transformers.cache_utils.DYNAMIC_LAYER_TYPE_MAPPING
    before = mapping["full_attention"]
    nh.attention.register()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=100, max_position_embeddings=2048, attn_implementation="nearhash",
    )  # fmt: skip
    made = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        made.model.layers[PEAKED].self_attn.q_proj.weight *= 400
    yield made
    mapping["full_attention"] = before


def test_even_attention_asks_for_dense_layers(model):
    ids = torch.randint(1, 100, (2, 600), generator=torch.Generator().manual_seed(0))
    found = nh.attention.calibrate(model, ids, steps=4, tolerance=0.1, budget=100, sink=4, local=16)
    assert found.dense_layers == {0, 2}
    assert found.errors.shape == (LAYERS,)
    assert found.errors[PEAKED] < 0.05
    everything = nh.attention.calibrate(model, ids, steps=2, budget=1.0)
    assert everything.dense_layers == frozenset()
    assert np.all(everything.errors < 1e-4)


def test_probing_changes_no_output(model):
    ids = torch.randint(1, 100, (1, 300), generator=torch.Generator().manual_seed(1))
    outputs = []
    for probe in (None, []):
        options = {"budget": 40, "dense_layers": (), "dense_below": 0} if probe is not None else {"dense_below": 999}
        cache = nh.attention.KVCache(model.config, **options)
        with torch.no_grad():
            model(ids, past_key_values=cache)
            for layer in cache.layers:
                layer.probe = None if probe is None else []
            outputs.append(model(ids[:, :1], past_key_values=cache).logits)
    assert torch.allclose(*outputs, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 20}, "ids: expected .* n > steps = 20"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"budget": 0}, "budget"),
        ({"colour": 1}, "colour"),
    ],
)
def test_refused_arguments(model, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        nh.attention.calibrate(model, torch.ones(1, 20, dtype=torch.long), **options)
    other = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**model.config.to_dict(), "num_hidden_layers": 1})
    )
    other.set_attn_implementation("sdpa")
    with pytest.raises(InvalidArgumentError, match="model: expected one with attn_implementation"):
        nh.attention.calibrate(other, torch.ones(1, 20, dtype=torch.long))
