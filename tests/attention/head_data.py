"""KV heads for tests of estimators."""

import numpy as np

from nearhash.attention.heads import ArrayHead


def clustered(count, dim, group, seed=0):
    """Keys in clusters of unequal sizes, values of heavy-tailed norms, queries near a cluster; scale included."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 13)
    centres, label = 2 * rng.standard_normal((12, dim)), rng.choice(12, count, p=shares / shares.sum())
    keys = centres[label] + rng.standard_normal((count, dim)) * rng.lognormal(-0.3, 0.6, (count, 1))
    values = centres[label] / 2 + rng.standard_normal((count, dim)) * rng.lognormal(0, 0.7, (count, 1))
    queries = (centres[3] / 2 + rng.standard_normal((group, dim))) / np.sqrt(dim)
    return keys.astype(np.float32), values.astype(np.float32), queries.astype(np.float32)


def realistic(count=300, dim=16, group=3, seed=0):
    """A head and queries of it, with LVQ-4 codes."""
    keys, values, queries = clustered(count, dim, group, seed)
    return ArrayHead(keys, values), queries


def adversarial(count=90, dim=8, group=2, seed=1):
    """A head and queries of it: half of the mass in tokens of which the codes say the opposite, equal keys, zeros."""
    keys, values, queries = clustered(count, dim, group, seed)
    keys[10:30], values[30:35] = keys[9], 0
    keys[40:42] = queries[0] * 3 / (queries[0] @ queries[0])
    values[40] = 30
    return ArrayHead(keys, values, lambda lines: -lines @ keys.T), queries
