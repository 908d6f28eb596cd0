"""The estimator `priority` and the fused kernels of a store choose the same tokens and tell the same of them."""

import numpy as np
import pytest
from head_data import clustered

from nearhash.attention import KVStore
from nearhash.attention.estimators import make_estimator
from nearhash.attention.estimators.base import exact_tokens
from nearhash.attention.heads import ArrayHead
from nearhash.kernels.attention_sampling import sampling_key


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "floor": 0.5}])
def test_a_store_samples_as_the_estimator_does(options):
    keys, values, queries = clustered(1500, 64, 3)
    # norms that the codes hold without rounding
    values *= 2.0 ** (np.arange(1500)[:, None] % 4) / np.linalg.norm(values, axis=1, keepdims=True)
    store = KVStore(1, 64, seed=11)
    store.append(keys[None], values[None])
    head, always = ArrayHead(keys, values), exact_tokens(1500, 4, 64)
    for step in range(10):
        key = int(sampling_key(11, step, 2, 0))
        one = make_estimator("priority", **options).attend(head, queries, 100, always, key)
        two = store.attend(queries, budget=100, sink=4, local=64, scale=1.0, step=step, layer=2, **options)
        assert one.reads == two.reads[0] == 168
        assert np.linalg.norm(one.output - two.output) < 1e-4 * np.linalg.norm(one.output)
        assert two.lse == pytest.approx(one.lse, abs=1e-4)
        assert two.error == pytest.approx(one.error, rel=1e-3)
