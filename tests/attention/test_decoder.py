"""The decoder backend, on a small model of random weights: what generation does with it is what it does densely."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import nearhash as nh  # noqa: E402
from nearhash.attention.decoder import DecoderOptions, KVStoreLayer  # noqa: E402
from nearhash.errors import InvalidArgumentError  # noqa: E402

VOCABULARY, LAYERS = 120, 3
EVERYTHING = {"budget": 1.0, "dense_below": 0, "dense_layers": ()}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    mapping = transformers.cache_utils.DYNAMIC_LAYER_TYPE_MAPPING
    before = mapping["full_attention"]
    nh.attention.register(**EVERYTHING)
    yield
    mapping["full_attention"] = before


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


def prompt(count, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (batch, count), generator=generator)


def generated(model, implementation, ids, **options):
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=8, do_sample=False, **options)


def cache_of(model, **options):
    return nh.attention.KVCache(model.config, **{**EVERYTHING, **options})


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
@pytest.mark.parametrize("batch", [1, 3])
def test_generation_that_reads_everything_is_dense_generation(model, batch, options):
    ids = prompt(300, batch)
    expected = generated(model, "sdpa", ids, **options)
    assert torch.equal(generated(model, "nearhash", ids, **options), expected)
    cache = cache_of(model)
    assert torch.equal(generated(model, "nearhash", ids, past_key_values=cache, **options), expected)
    assert cache.stats()["read_share"] == 1.0
    assert cache.stats()["tokens"] == 307


def test_padding_in_front_is_not_read(model):
    ids, mask = prompt(200, 3), torch.ones(3, 200, dtype=torch.long)
    for row, pads in enumerate((0, 37, 150)):
        ids[row, :pads], mask[row, :pads] = 0, 0
    expected = generated(model, "sdpa", ids, attention_mask=mask)
    cache = cache_of(model)
    assert torch.equal(generated(model, "nearhash", ids, attention_mask=mask, past_key_values=cache), expected)
    assert [len(store) for store in cache.layers[0].stores] == [207, 170, 57]
    keys, _ = cache.layers[0].read()
    assert keys.shape == (3, 2, 207, 16)
    assert not keys[2, :, :150].any()


def test_other_masks_are_respected(model):
    ids, mask = prompt(60), torch.ones(1, 61, dtype=torch.long)
    mask[0, 20:30] = 0  # a hole
    outputs = []
    for implementation in ("sdpa", "nearhash"):
        model.set_attn_implementation(implementation)
        cache = cache_of(model) if implementation == "nearhash" else transformers.DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids, attention_mask=mask[:, :60], past_key_values=cache)
            outputs.append(model(prompt(1, seed=1), attention_mask=mask, past_key_values=cache).logits)
    assert torch.allclose(*outputs, atol=1e-4)


def test_a_prompt_in_parts_and_a_second_one(model):
    ids, logits = prompt(120), []
    for implementation in ("sdpa", "nearhash"):
        model.set_attn_implementation(implementation)
        cache = cache_of(model) if implementation == "nearhash" else transformers.DynamicCache(config=model.config)
        with torch.no_grad():
            for first, last in ((0, 50), (50, 90), (90, 91), (91, 92), (92, 120)):
                logits.append(model(ids[:, first:last], past_key_values=cache).logits)
        assert cache.get_seq_length() == 120
    for dense, own in zip(logits[:5], logits[5:], strict=True):
        assert torch.allclose(dense, own, atol=1e-4)


def test_crop_select_and_reset(model):
    ids = prompt(40, 2)
    model.set_attn_implementation("nearhash")
    cache = cache_of(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
        step = model(ids[:, :1], past_key_values=cache).logits
        cache.crop(-1)
        assert cache.get_seq_length() == 40
        assert torch.allclose(model(ids[:, :1], past_key_values=cache).logits, step, atol=1e-5)
        cache.crop(-1)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        again = model(ids[[1, 0], :1], past_key_values=cache).logits
        assert torch.allclose(again, step[[1, 0]], atol=1e-5)
        with pytest.raises(ValueError, match="positive"):
            cache.crop(5)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert torch.allclose(model(ids, past_key_values=cache).logits[:, -1], model(ids).logits[:, -1], atol=1e-4)


def test_what_is_read(model):
    model.set_attn_implementation("nearhash")
    cache = cache_of(model, budget=50, sink=4, local=16, dense_layers=(1,), dense_below=100)
    with torch.no_grad():
        model(prompt(99), past_key_values=cache)
        model(prompt(1), past_key_values=cache)
        assert cache.stats()["read_share"] is None, "short contexts are read densely"
        model(prompt(300), past_key_values=cache)
        model(prompt(1), past_key_values=cache)
    stats = cache.stats()
    assert stats["read_share"] == pytest.approx(70 / 401)
    assert [layer.reads for layer in cache.layers] == [140, 0, 140]
    assert stats["tokens"] == 401
    assert stats["nbytes"] > stats["index_nbytes"] > 0


def test_samples_of_steps_differ_and_repeat(model):
    model.set_attn_implementation("nearhash")
    ids, found = prompt(500), []
    for seed in (0, 0, 1):
        cache = cache_of(model, budget=60, seed=seed)
        with torch.no_grad():
            model(ids, past_key_values=cache)
            found.append(model(ids[:, :1], past_key_values=cache).logits.numpy())
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_half_precision(model):
    small = transformers.LlamaForCausalLM(model.config).to(torch.bfloat16).eval()
    small.load_state_dict(model.state_dict())
    small.set_attn_implementation("nearhash")
    cache = cache_of(small)
    with torch.no_grad():
        small(prompt(50), past_key_values=cache)
        logits = small(prompt(1), past_key_values=cache).logits
    assert logits.dtype == torch.bfloat16
    assert cache.layers[0].stores[0].dtype == "bfloat16"


def test_training_and_other_models_are_left_alone(model):
    model.set_attn_implementation("nearhash")
    loss = model(prompt(20), labels=prompt(20)).loss
    loss.backward()
    assert model.lm_head.weight.grad is not None
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(prompt(20), past_key_values=cache)
        model(prompt(1), past_key_values=cache)
    assert all(isinstance(layer, KVStoreLayer) and layer.stores is None for layer in cache.layers)
    assert cache.layers[0].keys.shape == (1, 2, 21, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget"),
        ({"colour": 1}, "colour: expected an option"),
        ({"estimator": "magic"}, "estimator"),
        ({"options": {"colour": 1}}, "colour"),
        ({"codec": "zip"}, "codec"),
        ({"dtype": "float64"}, "dtype"),
        ({"dense_layers": ["first"]}, "dense_layers"),
        ({"dense_below": -1}, "dense_below"),
        ({"threads": 0}, "threads"),
    ],
)
def test_refused_options(model, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        nh.attention.register(**options)
    with pytest.raises(InvalidArgumentError, match=message):
        nh.attention.KVCache(model.config, **options)


def test_defaults():
    assert DecoderOptions().dense_layers == {0, 1}
    assert DecoderOptions().budget == 0.05
