"""The bundled words."""

import numpy as np

from nearhash.words import load_words


def test_load_words() -> None:
    words, vectors = load_words()
    assert words[:5] == ["the", ",", ".", "of", "to"]
    assert len(words) == len(set(words)) == 20_000
    assert vectors.shape == (20_000, 100)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.isfinite(vectors).all()


def test_neighbours_make_sense() -> None:
    words, vectors = load_words()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.argsort(-unit @ unit[words.index("frog")])[:8]
    assert {"frog", "frogs", "turtle", "lizard"} <= {words[i] for i in near}
