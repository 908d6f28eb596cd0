"""The bundled word vectors: the 20,000 most frequent words of GloVe-100."""

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


def load_words() -> tuple[list[str], NDArray[np.float32]]:
    """Load the bundled words and their vectors; needs no network and no pickle.

    Returns
    -------
    words : list of str
        20,000 distinct words in order of frequency, the most frequent first.
    vectors : (20000, 100) float32
        Their vectors, not normalised, in the same order. They are stored as float16.

    Notes
    -----
    Source and licence: ``nearhash/data/README.md``.
    """
    folder = files("nearhash") / "data"
    words = (folder / "words.txt").read_text(encoding="utf-8").splitlines()
    with (folder / "vectors.npy").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
    return words, stored.astype(np.float32)
