"""XXH3 of 64 bits with seed 0 (Collet, github.com/Cyan4973/xxHash): the values of the package xxhash, in kernels."""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd_bytes import multiply_fold, read32, read64, swap_bytes

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
        "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)


def _word(at, size=8):
    """A number out of the secret, when this module is imported."""
    return int.from_bytes(_SECRET[at : at + size].tobytes(), "little")


_PRIME32_1 = np.uint64(0x9E3779B1)
_PRIME64_1, _PRIME64_2 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME64_3, _MIX1, _MIX2 = np.uint64(0x165667B19E3779F9), np.uint64(0x165667919E3779F9), np.uint64(0x9FB21C651E98DF25)
_START = np.array(
    [
        0xC2B2AE3D,
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x85EBCA77,
        0x27D4EB2F165667C5,
        0x9E3779B1,
    ],
    np.uint64,
)
_LOW32 = np.uint64(0xFFFFFFFF)
_FLIP0 = np.uint64(_word(56) ^ _word(64))
_FLIP3 = np.uint64(_word(0, 4) ^ _word(4, 4))
_FLIP8 = np.uint64(_word(8) ^ _word(16))
_FLIP16_LOW, _FLIP16_HIGH = np.uint64(_word(24) ^ _word(32)), np.uint64(_word(40) ^ _word(48))
_K = tuple(np.uint64(_word(8 * i)) for i in range(16))


@jit_inline
def _shift(x, count):
    return x >> np.uint64(count)


@jit_inline
def _rotate(x, count):
    return (x << np.uint64(count)) | (x >> np.uint64(64 - count))


@jit_inline
def _avalanche(x):
    x = (x ^ _shift(x, 37)) * _MIX1
    return x ^ _shift(x, 32)


@jit_inline
def _old_avalanche(x):
    """The last steps of XXH64."""
    x = (x ^ _shift(x, 33)) * _PRIME64_2
    x = (x ^ _shift(x, 29)) * _PRIME64_3
    return x ^ _shift(x, 32)


@jit_inline
def _mix(source, low, high):
    return multiply_fold(read64(source) ^ low, read64(simd.offset(source, 8)) ^ high)


@jit_inline
def _up_to_16(source, size):
    length = np.uint64(size)
    if size > 8:
        low = read64(source) ^ _FLIP16_LOW
        high = read64(simd.offset(source, size - 8)) ^ _FLIP16_HIGH
        return _avalanche(length + swap_bytes(low) + high + multiply_fold(low, high))
    if size >= 4:
        x = (read32(simd.offset(source, size - 4)) + (read32(source) << np.uint64(32))) ^ _FLIP8
        x = (x ^ _rotate(x, 49) ^ _rotate(x, 24)) * _MIX2
        x = (x ^ (_shift(x, 35) + length)) * _MIX2
        return x ^ _shift(x, 28)
    if size > 0:
        first, middle, last = np.uint64(source[0]), np.uint64(source[size >> 1]), np.uint64(source[size - 1])
        x = (first << np.uint64(16)) | (middle << np.uint64(24)) | last | (length << np.uint64(8))
        return _old_avalanche(x ^ _FLIP3)
    return _old_avalanche(_FLIP0)


@jit_inline
def _up_to_128(source, size):
    total = np.uint64(size) * _PRIME64_1
    end = simd.offset(source, size)
    if size > 32:
        if size > 64:
            if size > 96:
                total += _mix(simd.offset(source, 48), _K[12], _K[13]) + _mix(simd.offset(end, -64), _K[14], _K[15])
            total += _mix(simd.offset(source, 32), _K[8], _K[9]) + _mix(simd.offset(end, -48), _K[10], _K[11])
        total += _mix(simd.offset(source, 16), _K[4], _K[5]) + _mix(simd.offset(end, -32), _K[6], _K[7])
    total += _mix(source, _K[0], _K[1]) + _mix(simd.offset(end, -16), _K[2], _K[3])
    return _avalanche(total)


@jit
def _longer(source, size, secret):
    """More than 128 bytes; secret: the 192 bytes at a pointer."""
    length = np.uint64(size) * _PRIME64_1
    if size <= 240:
        total = length
        for i in range(size // 16):
            key = simd.offset(secret, 16 * i if i < 8 else 16 * (i - 8) + 3)
            total += _mix(simd.offset(source, 16 * i), read64(key), read64(simd.offset(key, 8)))
            if i == 7:
                total = _avalanche(total)
        key = simd.offset(secret, 119)
        total += _mix(simd.offset(source, size - 16), read64(key), read64(simd.offset(key, 8)))
        return _avalanche(total)
    sums = _START.copy()
    stripes = (size - 1) // 64
    for stripe in range(stripes + 1):
        last = stripe == stripes
        data = simd.offset(source, size - 64 if last else 64 * stripe)
        keys = simd.offset(secret, 121 if last else 8 * (stripe % 16))
        for i in range(8):
            value = read64(simd.offset(data, 8 * i))
            key = value ^ read64(simd.offset(keys, 8 * i))
            sums[i ^ 1] += value
            sums[i] += (key & _LOW32) * _shift(key, 32)
        if stripe % 16 == 15 and not last and 64 * (stripe + 1) < size:
            for i in range(8):
                x = sums[i]
                sums[i] = (x ^ _shift(x, 47) ^ read64(simd.offset(secret, 128 + 8 * i))) * _PRIME32_1
    total = length
    for i in range(4):
        key = simd.offset(secret, 11 + 16 * i)
        total += multiply_fold(sums[2 * i] ^ read64(key), sums[2 * i + 1] ^ read64(simd.offset(key, 8)))
    return _avalanche(total)


@jit_inline
def xxh3(source, size, secret):
    """Hash of `size` bytes at a pointer of uint8; secret: pointer to `SECRET`."""
    if size <= 16:
        return _up_to_16(source, size)
    if size <= 128:
        return _up_to_128(source, size)
    return _longer(source, size, secret)


SECRET = _SECRET.copy()  # writable, as all arrays of kernels
"""What kernels hand on to `xxh3`."""


@jit
def xxh3_rows(data, bounds, secret, out):
    """Hash of each of n byte strings data[bounds[i]:bounds[i + 1]]: out (n,) uint64."""
    for i in range(out.shape[0]):
        out[i] = xxh3(simd.pointer(data, bounds[i]), bounds[i + 1] - bounds[i], simd.pointer(secret, 0))
