"""Pages of one KV head for the tests of attention kernels; poisoned, and each in a place of its own."""

import numpy as np

from nearhash.kernels import attention_rows
from nearhash.kernels.attention_rows import PAGE


def aligned(size, fill):
    """`size` bytes that start at a multiple of 64."""
    memory = np.full(size + 64, fill, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size]


class Pages:
    """Room for `count` tokens."""

    def __init__(self, dtype, dim, count):
        self.rows = attention_rows.rows_scheme(dtype, dim)
        size = attention_rows.page_bytes(self.rows)
        self.memory = [aligned(size, 0xFF) for _ in range(-(-count // PAGE))]  # 0xFF: NaN of every float type
        self.addresses = np.array([page.ctypes.data for page in self.memory], np.int64)

    def write(self, keys, values, first):
        return attention_rows.write_tokens(self.rows, self.addresses, first, keys, values)

    def read(self, positions):
        keys, values = (np.full((len(positions), self.rows.dim), np.nan, np.float32) for _ in range(2))
        attention_rows.read_tokens(self.rows, self.addresses, np.asarray(positions, np.int64), keys, values)
        return keys, values

    @classmethod
    def of(cls, dtype, keys, values):
        """Pages that hold keys and values (n, d), and these as they are read back."""
        pages = cls(dtype, keys.shape[1], len(keys))
        assert pages.write(keys, values, 0) == 0
        return pages, *pages.read(np.arange(len(keys)))
