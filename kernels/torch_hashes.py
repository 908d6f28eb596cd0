"""Torch twin of `hashes.py` and `philox.py`, bit for bit, on any device.

An int64 tensor stands for uint64: the same 64 bits. Addition, xor and product wrap around in both, so only four things
need care: a shift to the right must not copy the sign (`shift_right`), an order must be of uint64 (`flip_sign`), the
upper half of a product has to be put together (`multiply_high`), and a constant of 2^63 or more is written less 2^64
(`signed`). Imported only when a tensor is given.
"""

import torch

LOW32 = 0xFFFFFFFF
_M1, _M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
_PHILOX_M0, _PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
_PHILOX_W0, _PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
_PHILOX_ROUNDS = 10
LEAST = -(1 << 63)


def signed(value):
    """The int64 with the bits of a uint64, both as Python's whole numbers."""
    value = int(value) & ((1 << 64) - 1)
    return value - (1 << 64) if value >> 63 else value


def shift_right(x, bits):
    """``x >> bits`` of uint64; 0 < bits < 64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def flip_sign(x):
    """uint64 as int64 of the same order, and back."""
    return x ^ LEAST


def multiply_high(x, y):
    """The upper 64 bits of the product of uint64 tensors, from four products of 32 bits (Hacker's Delight, 8-2)."""
    x_low, x_high, y_low, y_high = x & LOW32, shift_right(x, 32), y & LOW32, shift_right(y, 32)
    middle = x_high * y_low + shift_right(x_low * y_low, 32)
    other = x_low * y_high + (middle & LOW32)
    return x_high * y_high + shift_right(middle, 32) + shift_right(other, 32)


def fmix64(x):
    """MurmurHash3's finaliser of uint64."""
    for multiplier in (_M1, _M2):
        x = (x ^ shift_right(x, 33)) * signed(multiplier)
    return x ^ shift_right(x, 33)


def multiply_shift(x, a, b):
    """``(a x + b mod 2^64) >> 32`` of uint64 x < 2^32; a and b tensors, or numbers in the range of uint64."""
    return shift_right(_operand(a) * x + _operand(b), 32)


def reduce_range(x, size):
    """``x * size >> 32`` of uint64 x < 2^32; the size, below 2^32, a tensor or a number."""
    return shift_right(x * _operand(size), 32)


def tabulate(x, tables):
    """Simple tabulation with tables (8, 256) int64."""
    out = torch.zeros_like(x)
    for byte in range(8):
        out ^= tables[byte][(x >> (8 * byte)) & 255]
    return out


def philox_words(seed, stream, first_block, blocks, device=None):
    """(blocks, 4) int64 below 2^32: Philox4x32-10 with key `seed` at counters (first_block + i, stream)."""
    block = torch.arange(blocks, dtype=torch.int64, device=device) + signed(first_block)
    low, high = int(stream) & LOW32, int(stream) >> 32
    c = [block & LOW32, shift_right(block, 32), torch.full_like(block, low), torch.full_like(block, high)]
    k = [int(seed) & LOW32, int(seed) >> 32]
    for _ in range(_PHILOX_ROUNDS):
        p0, p1 = c[0] * _PHILOX_M0, c[2] * _PHILOX_M1
        c = [shift_right(p1, 32) ^ c[1] ^ k[0], p1 & LOW32, shift_right(p0, 32) ^ c[3] ^ k[1], p0 & LOW32]
        k = [(k[0] + _PHILOX_W0) & LOW32, (k[1] + _PHILOX_W1) & LOW32]
    return torch.stack(c, dim=1)


def _operand(value):
    return value if isinstance(value, torch.Tensor) else signed(value)
