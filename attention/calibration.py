"""Which layers of a decoder are to read everything: those whose attention few tokens do not tell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nearhash.attention.decoder import NAME, KVCache, KVStoreLayer
from nearhash.errors import InvalidArgumentError
from nearhash.index.arguments import check_count, check_number


class Calibration(NamedTuple):
    """What `calibrate` found.

    Attributes
    ----------
    dense_layers : frozenset of int
        Layers whose error exceeds the tolerance, and layers that are not kept in stores.
    errors : (layers,) float64
        Of each layer the median, over steps, sequences and query heads, of the error of its output relative to the
        norm of the output; NaN of layers that are not kept in stores.
    """

    dense_layers: frozenset[int]
    errors: NDArray[np.float64]


def calibrate(model: Any, ids: Any, *, steps: int = 16, tolerance: float = 0.1, **options: Any) -> Calibration:
    """Find the layers of a model that are better read densely.

    A text is read densely but for its last tokens, which are decoded one at a time. In each layer the sampled output
    is compared with the dense one, which is what the next layer is given: errors are those of each layer by itself.

    Parameters
    ----------
    model
        A decoder of transformers with ``attn_implementation="nearhash"``.
    ids : (batch, n) integer tensor
        Tokens of text like that to come, as long as contexts will be; n > steps.
    steps : int
        Tokens that are decoded.
    tolerance : float
        Greatest median error of a layer that is not read densely.
    options
        Of `DecoderOptions`: what is to be calibrated for, such as ``budget``. dense_layers and dense_below are not
        used.

    Returns
    -------
    Calibration
        For ``register(dense_layers=found.dense_layers, ...)`` or ``KVCache(model.config, dense_layers=...)``.

    Raises
    ------
    InvalidArgumentError
        The model attends in another way, the text is too short, or an option is impossible.
    """
    check_number(tolerance, "tolerance", 0.0, float("inf"))
    steps = check_count(steps, "steps")
    if getattr(model.config, "_attn_implementation", None) != NAME:
        raise InvalidArgumentError(f'model: expected one with attn_implementation="{NAME}"; call register() before')
    if ids.ndim != 2 or ids.shape[1] <= steps:
        raise InvalidArgumentError(f"ids: expected (batch, n) tokens with n > steps = {steps}, got {tuple(ids.shape)}")
    cache = KVCache(model.config, **{**options, "dense_layers": (), "dense_below": 0})
    with torch.no_grad():
        model(ids[:, :-steps], past_key_values=cache, logits_to_keep=1)
        for layer in cache.layers:
            if isinstance(layer, KVStoreLayer):
                layer.probe = []
        for i in range(ids.shape[1] - steps, ids.shape[1]):
            model(ids[:, i : i + 1], past_key_values=cache)
    errors = np.array([np.median(layer.probe) if getattr(layer, "probe", None) else np.nan for layer in cache.layers])
    cache.reset()
    return Calibration(frozenset(np.flatnonzero(~(errors <= tolerance)).tolist()), errors)
