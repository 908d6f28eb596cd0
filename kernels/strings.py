"""Hashes of Python's strings where they lie: read by functions of Python's stable ABI (PEP 384), without a copy."""

import numpy as np
from numba import types

from nearhash.kernels import simd
from nearhash.kernels.jit import jit_with_gil
from nearhash.kernels.simd_bytes import bytes_at
from nearhash.kernels.xxh3 import xxh3

_list_item = types.ExternalFunction("PyList_GetItem", types.intp(types.intp, types.intp))
_utf8 = types.ExternalFunction("PyUnicode_AsUTF8AndSize", types.intp(types.intp, types.CPointer(types.intp)))
_clear_error = types.ExternalFunction("PyErr_Clear", types.void())
_AHEAD = 16  # strings whose memory is asked for in advance


@jit_with_gil
def hash_lists(lists, first, bounds, secret, tokens):
    """XXH3 of the strings of the lists from number `first` on; returns the first list with anything else, or n.

    lists: address of a Python list of n lists; bounds (n + 1,) int64: tokens of list i are at bounds[i]:bounds[i + 1].
    Of a string that is not ASCII, Python itself keeps the UTF-8 that it makes here, as long as the string lives.
    """
    size, coming = np.empty(1, np.intp), np.empty(_AHEAD, np.intp)  # strings to come, in a ring
    for row in range(first, bounds.shape[0] - 1):
        members, at, count = _list_item(lists, row), bounds[row], bounds[row + 1] - bounds[row]
        for i in range(min(count, _AHEAD)):
            coming[i] = _list_item(members, i)
        for i in range(count):
            member = coming[i % _AHEAD]
            if i + _AHEAD < count:
                later = _list_item(members, i + _AHEAD)
                coming[i % _AHEAD] = later
                simd.prefetch(bytes_at(later))
                simd.prefetch(bytes_at(later + 64))
            data = _utf8(member, simd.pointer(size, 0)) if member else 0
            if data == 0:
                _clear_error()
                return row
            tokens[at + i] = xxh3(bytes_at(data), size[0], simd.pointer(secret, 0))
    return bounds.shape[0] - 1
