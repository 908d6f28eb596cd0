"""What pages of codes have in common: bfloat16 numbers, and packed codes of 4 bits in blocks of tokens.

A block of 16 tokens has a cache line for each 8 codes of a token: bytes 4 i to 4 i + 3 of line j are those of token i,
byte b with code 8 j + b in its low half and code 8 j + 4 + b in its high half. So a lane of 32 bits belongs to one
token, and no sum runs across lanes. A page holds PAGE tokens: its blocks, and behind them planes of PAGE numbers.
"""

import numpy as np

from nearhash.kernels.attention_rows import PAGE, bfloat16_bits
from nearhash.kernels.jit import jit_inline
from nearhash.kernels.simd import dot, float_bits
from nearhash.kernels.simd_attention_codes import BLOCK, GROUP_TOKENS
from nearhash.kernels.simd_bytes import bytes_at

LINE, LINE_CODES = 64, 8
AHEAD = 4  # groups of tokens between those that are scanned and those asked for

_S16, _ONE, _LOW = np.uint64(16), np.uint64(1), np.uint64(0xFFFF)
_MOST = np.float32(3.3e38)
_SIGN, _LARGEST = np.uint64(0x8000), np.uint64(0x7F7F)  # of bfloat16: sign, and greatest finite number


@jit_inline
def put_codes(page, slot, count, codes):
    """Pack `count` codes of 4 bits, a multiple of 8, at a pointer to uint8, as those of token `slot` of a page."""
    target = bytes_at(page + slot // BLOCK * (BLOCK * count // 2) + 4 * (slot % BLOCK))
    for line in range(count // LINE_CODES):
        for byte in range(4):
            low, high = codes[line * LINE_CODES + byte], codes[line * LINE_CODES + 4 + byte]
            target[line * LINE + byte] = np.uint8(low | high << 4)


@jit_inline
def code_address(pages, position, count):
    """Address of the codes of the block of a token, `count` codes a token."""
    return pages[position // PAGE] + position % PAGE // BLOCK * (BLOCK * count // 2)


@jit_inline
def outward(value, up):
    """Bits of the bfloat16 next to a finite float32, not below it if `up`, else not above it; finite."""
    bits = float_bits(value)
    high = bits >> _S16
    if (bits & _LOW) != 0 and ((high & _SIGN) == 0) == up:
        high += _ONE
    if (high & ~_SIGN) > _LARGEST:
        high = (high & _SIGN) | _LARGEST
    return high


@jit_inline
def norm_bits(vector, dim):
    """Bits of the norm of `dim` floats at a pointer as bfloat16, finite; 0 if its square is no normal number."""
    return min(bfloat16_bits(min(np.sqrt(dot(vector, vector, dim)), _MOST)), _LARGEST)


@jit_inline
def copy_logits(spare, count, out, room):
    """Copy rows of GROUP_TOKENS logits to rows of `room`: those of the queries that are fewer than a scan takes."""
    for query in range(count):
        for i in range(GROUP_TOKENS):
            out[query * room + i] = spare[query * GROUP_TOKENS + i]
