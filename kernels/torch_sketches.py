"""Torch twin of `set_sketches.py`, bit for bit, on the device of its tensors; see `reference_sketches.py`.

Sets come as CSR in int64 tensors: set i holds tokens[indptr[i]:indptr[i + 1]]. As in `torch_hashes.py`, int64 stands
for uint64, so EMPTY is -1; salts are numbers in the range of uint64. Functions take and give what those of the same
name in `reference_sketches.py` do. One round is one pass over all tokens: the least key of each slot by
`scatter_reduce`, in the order of uint64, which int64 has when its sign is flipped. Imported only when a tensor comes.
"""

from typing import Any

import numpy as np
import torch

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.kernels.torch_hashes import LOW32, flip_sign, fmix64, reduce_range, shift_right, signed

EMPTY = -1
GOLDEN = signed(0x9E3779B97F4A7C15)
_LAST = (1 << 63) - 1  # EMPTY with its sign flipped: the greatest
_DTYPES = {8: torch.uint8, 16: torch.uint16, 32: torch.uint32}


def sketch(indptr: Any, tokens: Any, method: str, k: int, bits: int, first: Any, second: Any) -> Any:
    """Values of the sketches of sets on the device of `tokens`: uint8, uint16 or uint32, as `MinHash.sketch` has them.

    `method` is one of `MinHash`; `first` and `second` are the salts of tokens and densification, for "affine32" the
    arrays of multipliers and addends, (k,) uint32.
    """
    starts, ids = _checked(indptr, tokens)
    if method == "affine32":
        if bool((shift_right(ids, 32) != 0).any()):
            raise InvalidArgumentError("tokens: expected hashes of 32 bits for affine32, got greater ones")
        multipliers, addends = (torch.from_numpy(each.astype(np.int64)).to(ids.device) for each in (first, second))
        minima = affine32(starts, ids, multipliers, addends)
        return as_values(minima & LOW32 if bits == 32 else fingerprints(minima, bits), bits)
    make = {"fss": fast_similarity, "classic": classic}.get(method, one_permutation)
    fill = _DENSIFIERS.get(method)
    minima = make(starts, ids, k, first)
    return as_values(fingerprints(minima if fill is None else fill(minima, second), bits), bits)


def _checked(indptr: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Arguments of a caller, int64 on the device of `tokens`."""
    if tokens.dtype not in (torch.int64, torch.uint64):
        raise DtypeError(f"tokens: expected int64, standing for uint64, or uint64, got {tokens.dtype}")
    if tokens.ndim != 1:
        raise InvalidArgumentError(f"tokens: expected shape (m,), got {tuple(tokens.shape)}")
    starts = torch.as_tensor(indptr)
    if starts.dtype.is_floating_point or starts.dtype.is_complex or starts.dtype == torch.bool:
        raise DtypeError(f"indptr: expected integers, got {starts.dtype}")
    if starts.ndim != 1 or not len(starts):
        raise InvalidArgumentError(f"indptr: expected shape (n + 1,), got {tuple(starts.shape)}")
    starts = starts.to(tokens.device, torch.int64)
    if int(starts[0]) != 0 or int(starts[-1]) != len(tokens) or bool((starts[1:] < starts[:-1]).any()):
        raise InvalidArgumentError(
            f"indptr: expected numbers that ascend from 0 to {len(tokens)}, the number of tokens, got {starts!r:.80}"
        )
    return starts, tokens.detach().contiguous().view(torch.int64)


def classic(indptr, tokens, k, salt):
    """Minima (n, k): slot j keeps the least hash of round j."""
    owners = _owners(indptr)
    out = _nothing(indptr, k)
    for j in range(k):
        out[:, j].scatter_reduce_(0, owners, flip_sign(_round(tokens, salt, j)), "amin")
    return flip_sign(out)


def one_permutation(indptr, tokens, k, salt):
    """Minima (n, k) of one permutation hashing; slots that nothing hit stay EMPTY."""
    out = _nothing(indptr, k)
    _throw(_owners(indptr), tokens, salt, 0, out)
    return flip_sign(out)


def fast_similarity(indptr, tokens, k, salt):
    """Minima (n, k) of Fast Similarity Sketching; EMPTY only for empty sets. Complete sets leave after each round."""
    owners, out = _owners(indptr), _nothing(indptr, k)
    for number in range(2 * k):
        if not len(tokens):
            break
        _throw(owners, tokens, salt, number, out)
        going_on = (out == _LAST).any(dim=1)[owners]
        owners, tokens = owners[going_on], tokens[going_on]
    return flip_sign(out)


def fmix32(x):
    """MurmurHash3's finaliser of 32 bits, on int64 below 2^32."""
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> shift)) * multiplier) & LOW32
    return x ^ (x >> 16)


def affine32(indptr, tokens, multipliers, addends):
    """Minima (n, k) of datasketch's permutations of 32 bits; tokens, multipliers and addends int64 below 2^32."""
    owners, mixed = _owners(indptr), fmix32(tokens)
    out = _nothing(indptr, len(multipliers))
    for j in range(len(multipliers)):
        out[:, j].scatter_reduce_(0, owners, flip_sign((multipliers[j] * mixed + addends[j]) & LOW32), "amin")
    return flip_sign(out)


def choice(salt, slot, attempt, k):
    """The slots that densification tries for the slots of a tensor."""
    return reduce_range(shift_right(fmix64(signed(salt) + ((slot << 32) | attempt)), 32), k)


def densify_optimal(minima, salt):
    """Empty slots of (n, k) minima take the key of the first slot tried that was full from the start."""
    full, k = minima != EMPTY, minima.shape[1]
    out = minima.clone()
    row, slot = torch.nonzero(~full & full.any(dim=1, keepdim=True), as_tuple=True)
    attempt = 0
    while len(row):
        source = choice(salt, slot, attempt, k)
        found = full[row, source]
        out[row[found], slot[found]] = minima[row[found], source[found]]
        row, slot = row[~found], slot[~found]
        attempt += 1
    return out


def densify_reverse(minima, salt):
    """Full slots of (n, k) minima offer their key to one slot each, in rounds; the lowest of several prevails."""
    full, k = minima != EMPTY, minima.shape[1]
    out = minima.clone()
    rows = torch.nonzero(full.any(dim=1) & ~full.all(dim=1))[:, 0]
    attempt = 0
    while len(rows):
        place, donor = torch.nonzero(full[rows], as_tuple=True)
        target = choice(salt, donor, attempt, k)
        donors = torch.full((len(rows) * k,), k, dtype=torch.int64, device=minima.device)
        donors = donors.scatter_reduce(0, place * k + target, donor, "amin").view(-1, k)
        line = out[rows]
        offered = minima[rows].gather(1, donors.clamp(max=k - 1))
        line = torch.where((line == EMPTY) & (donors < k), offered, line)
        out[rows] = line
        rows = rows[(line == EMPTY).any(dim=1)]
        attempt += 1
    return out


def densify_rotation(minima, salt):
    """Empty slots of (n, k) minima take the key of the next full one, cyclically; the salt is of no use here."""
    k = minima.shape[1]
    if not minima.numel():
        return minima.clone()
    slots = torch.arange(2 * k, device=minima.device)
    full = torch.where((minima != EMPTY).repeat(1, 2), slots, 2 * k)
    following = full.flip(1).cummin(dim=1).values.flip(1)[:, :k]  # of each slot, itself included
    return minima.gather(1, following % k)


def fingerprints(minima, bits):
    """(n, k) int64 below 2^bits, bits <= 32: the high bits of a hash of (slot, key); all ones for EMPTY."""
    slots = torch.arange(1, minima.shape[1] + 1, device=minima.device)
    mixed = shift_right(fmix64(minima ^ (slots * GOLDEN)), 64 - bits)
    return torch.where(minima == EMPTY, (1 << bits) - 1, mixed)


def as_values(prints, bits):
    """int64 below 2^bits in the form of `Sketches.values`: uint8, uint16, uint32, or packed into uint8."""
    return pack(prints, bits) if bits < 8 else prints.to(_DTYPES[bits])


def pack(values, bits):
    """Values of 1, 2 or 4 bits into bytes (n, ceil(k bits / 8)) uint8, the first in the lowest bits."""
    each = 8 // bits
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % each))
    shifts = bits * torch.arange(each, device=values.device)
    return (padded.view(len(values), padded.shape[1] // each, each) << shifts).sum(dim=2).to(torch.uint8)


_DENSIFIERS = {"oph-optimal": densify_optimal, "oph-reverse": densify_reverse, "oph-rotation": densify_rotation}


def _round(tokens, salt, number):
    """Hash of each token in a round."""
    return fmix64((tokens ^ signed(salt)) + signed(number * GOLDEN))


def _throw(owners, tokens, salt, number, out):
    """One round of Fast Similarity Sketching into `out`, keys with their sign flipped."""
    hashes, k = _round(tokens, salt, number), out.shape[1]
    slots = reduce_range(shift_right(hashes, 32), k) if number < k else torch.full_like(owners, number - k)
    keys = (number << 32) | (hashes & LOW32)
    out.view(-1).scatter_reduce_(0, owners * k + slots, flip_sign(keys), "amin")


def _owners(indptr):
    """The set of each token."""
    return torch.repeat_interleave(torch.arange(len(indptr) - 1, device=indptr.device), indptr[1:] - indptr[:-1])


def _nothing(indptr, k):
    return torch.full((len(indptr) - 1, k), _LAST, dtype=torch.int64, device=indptr.device)
