"""Queries, keys and values of SmolLM2 as its attention sees them: after the rotary embedding, of real text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.attention.smollm import MOST_TOKENS, NAME, load_model, load_tokenizer
from benchmarks.attention.text import prose
from benchmarks.cache import cache_folder, save_array

LAYERS = tuple(range(2, 30, 3))  # ten of those that are sampled: the first two are read whole
_LAYOUT = 1  # raised when the files change

Floats = NDArray[np.float32]


class Dump(NamedTuple):
    """Of some layers: keys and values (layers, kv_heads, n, d), queries (layers, q_heads, n, d), not scaled."""

    layers: tuple[int, ...]
    queries: Floats
    keys: Floats
    values: Floats


def text_tokens(start: int, count: int) -> list[int]:
    """Tokens of the prose from number `start` on."""
    tokens: list[int] = load_tokenizer()(prose()).input_ids[start : start + count]
    return tokens


def load_dump() -> Dump:
    """Of the first 8,192 tokens of the prose; made once, memory-mapped."""
    folder = cache_folder() / f"{NAME.lower()}-dump-{_LAYOUT}"
    paths = [folder / f"{name}.npy" for name in ("queries", "keys", "values")]
    if not all(path.is_file() for path in paths):
        made = dump(load_model(), text_tokens(0, MOST_TOKENS), LAYERS)
        for path, array in zip(paths, made[1:], strict=True):
            save_array(path, array)
    return Dump(LAYERS, *(_mapped(path) for path in paths))


def _mapped(path: Path) -> Floats:
    array: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def dump(model: Any, tokens: Sequence[int], layers: Sequence[int]) -> Dump:
    """Of one pass of a model over a text."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    seen: dict[int, tuple[Floats, ...]] = {}

    def watch(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if module.layer_idx in layers:
            seen[module.layer_idx] = tuple(array[0].float().numpy().copy() for array in (query, key, value))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("watched", watch)
    AttentionMaskInterface.register("watched", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("watched")
    try:
        with torch.no_grad():
            model(torch.tensor([list(tokens)]), use_cache=False, logits_to_keep=1)
    finally:
        model.set_attn_implementation(before)
    queries, keys, values = (np.stack([seen[layer][part] for layer in layers]) for part in range(3))
    return Dump(tuple(layers), queries, keys, values)
