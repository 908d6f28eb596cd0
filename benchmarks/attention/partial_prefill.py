"""Prefill of a Llama-like decoder where some tokens take over keys and values, and what that costs.

Tokens that are *live* in a layer go through it; the others have in it the keys and values that they took over. A token
that is not live in a layer is not in the next ones.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from nearhash.attention import reuse_keys_values

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Cached:
    """Keys and values of a prompt: for each layer (kv_heads, n, d)."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """What a new prompt takes over, and what of that is computed all the same.

    positions (n,): of the cached token for each, -1 for none. share: of the tokens that take over something, those of
    the common beginning aside, how many are computed, as a mean of the layers. choice: which of them. "deviation":
    all in the first layer, then those whose keys and values differ most from what they took over, more in the earlier
    layers, 1.5 times the share, than in the later ones, half of it, as in SemShareKV. "edits": those that come first
    after a token without a match or a change of shift, in all layers. theta: of the rotary embedding; None leaves keys
    as they are.
    """

    positions: NDArray[np.int64]
    share: float = 0.0
    choice: str = "deviation"
    theta: float | None = None


class Result(NamedTuple):
    """Logits (n - prompt + 1, vocabulary) from the last token of the prompt on; operations for the prompt itself."""

    logits: torch.Tensor
    cached: Cached
    flops: float


@dataclass
class _Count:
    """Multiplications and additions of the tokens of the prompt."""

    prompt: int
    flops: float = field(default=0.0)

    def linear(self, module: torch.nn.Linear, tokens: NDArray[np.int64]) -> None:
        self.flops += 2.0 * module.weight.numel() * int((tokens < self.prompt).sum())

    def attention(self, width: int, tokens: NDArray[np.int64]) -> None:
        self.flops += 4.0 * width * float((tokens[tokens < self.prompt] + 1).sum())


@torch.no_grad()
def prefill(
    model: Any, tokens: list[int], prompt: int, cached: Cached | None = None, plan: Plan | None = None
) -> Result:
    """All tokens at once, the first `prompt` of them by a plan; the others and the last one of the prompt are live."""
    count = len(tokens)
    hidden = model.model.embed_tokens(torch.tensor([tokens]))
    rotation = model.model.rotary_emb(hidden, torch.arange(count)[None])
    positions = np.full(count, -1, np.int64)
    if plan is not None:
        positions[:prompt] = plan.positions
    bound = np.arange(count) >= prompt - 1
    bound |= positions < 0
    prefix = np.cumprod(positions == np.arange(count)).astype(bool) & ~bound
    wished = np.zeros(len(model.model.layers), np.int64)
    live = ~prefix if plan is not None and plan.share > 0 else bound
    if plan is not None and plan.share > 0:
        matched = int((~bound & ~prefix).sum())
        wished = np.round(_shares(plan, len(wished)) * matched).astype(np.int64)
        if plan.choice == "edits":
            live = bound | _first(_after_edits(positions), ~bound & ~prefix, int(wished[0]))
    work, kept = _Count(prompt), Cached([], [])
    rows = torch.from_numpy(np.flatnonzero(live))
    hidden = hidden[:, rows]
    for number, layer in enumerate(model.model.layers):
        attention, tokens_now = layer.self_attn, np.flatnonzero(live)
        state = layer.input_layernorm(hidden)
        queries, keys, values = (
            project(state).view(len(tokens_now), -1, attention.head_dim).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        turned = [part[:, rows] for part in rotation]
        queries, keys = (part[0] for part in apply_rotary_pos_emb(queries[None], keys[None], *turned))
        work.linear(attention.k_proj, tokens_now)
        work.linear(attention.v_proj, tokens_now)
        if plan is not None and cached is not None:
            taken = reuse_keys_values(positions, cached.keys[number], cached.values[number], theta=plan.theta)
            if plan.choice == "deviation" and plan.share > 0 and number > 0:
                away = _deviation(keys, taken.keys[:, rows]) + _deviation(values, taken.values[:, rows])
                spread = np.full(count, -np.inf)
                spread[tokens_now] = away.numpy()
                after = bound | _first(-spread, live & ~bound, int(wished[number]))
            else:
                after = live
            all_keys, all_values = taken.keys, taken.values
            all_keys[:, rows], all_values[:, rows] = keys, values
        else:
            all_keys, all_values, after = keys, values, live
        kept.keys.append(all_keys)
        kept.values.append(all_values)
        stay = torch.from_numpy(after[tokens_now])
        rows, live = rows[stay], after
        tokens_now = np.flatnonzero(live)
        mask = torch.arange(count)[None] <= rows[:, None]
        mixed = scaled_dot_product_attention(
            queries[None, :, stay], all_keys[None], all_values[None], attn_mask=mask, scale=attention.scaling,
            enable_gqa=True,
        )  # fmt: skip
        hidden = hidden[:, stay] + attention.o_proj(mixed[0].transpose(0, 1).reshape(1, len(tokens_now), -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        for module in (attention.q_proj, attention.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            work.linear(module, tokens_now)
        work.attention(attention.q_proj.out_features, tokens_now)
    last = int((rows < prompt - 1).sum())
    return Result(model.lm_head(model.model.norm(hidden[0, last:])), kept, work.flops)


def _shares(plan: Plan, layers: int) -> NDArray[np.float64]:
    if plan.choice == "edits":
        return np.full(layers, plan.share)
    return np.clip(np.concatenate([[1.0], np.linspace(1.5, 0.5, layers - 1) * plan.share]), 0, 1)


def _deviation(own: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """(n,) squared distance of each token, relative to the mean square of all."""
    return (own - taken).square().sum(dim=(0, 2)) / own.square().sum(dim=(0, 2)).mean()


def _after_edits(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) tokens since the last one that is not the neighbour, in the cached prompt too, of the one before it."""
    breaks = np.diff(positions, prepend=-1) != 1
    places = np.arange(len(positions))
    return places - np.maximum.accumulate(np.where(breaks, places, 0))


def _first(values: NDArray[Any], among: Bools, count: int) -> Bools:
    """The `count` tokens of the least values, ties by position."""
    candidates = np.flatnonzero(among)
    chosen = np.zeros(len(among), bool)
    chosen[candidates[np.argsort(values[candidates], kind="stable")[:count]]] = True
    return chosen
