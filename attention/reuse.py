"""Keys and values of a cached prompt in the places of a new one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.hashing.vectors import check_positive, is_tensor
from nearhash.index.arguments import integer_ids


class Reused(NamedTuple):
    """Keys and values of one layer for a new prompt.

    Attributes
    ----------
    keys, values : (..., n, d)
        In the dtype, and on the device, of what was given. Zeros where nothing is taken over.
    missing : (n,) bool
        Tokens that take nothing over: theirs are yet to be computed.
    """

    keys: Any
    values: Any
    missing: NDArray[np.bool_]


def reuse_keys_values(
    positions: ArrayLike,
    keys: Any,
    values: Any,
    *,
    theta: float | None = None,
    inv_freq: ArrayLike | None = None,
    interleaved: bool = False,
) -> Reused:
    """Take over keys and values of a cached prompt, keys rotated to their new positions.

    A value depends on the tokens before its own as well, so does a key from the second layer on: what is taken over is
    that of another context, exact only where all of the prompt before it is the same.

    Parameters
    ----------
    positions : (n,) integers
        Of the cached token for each of the new prompt, -1 for none: `TokenMatch.positions`.
    keys, values : (..., m, d) arrays or tensors
        Of the cached prompt, the keys with rotary embedding by their positions 0 to m - 1.
    theta, inv_freq, interleaved
        As for `rotate_keys`. Without `theta` and `inv_freq` keys are taken over as they are.

    Returns
    -------
    Reused

    Raises
    ------
    DimensionError, DtypeError
        Keys and values do not go together, or an array has another shape or dtype.
    InvalidArgumentError
        A position is not in the cached prompt, or an argument none of the above.
    """
    places = integer_ids(positions, "positions")
    if places.ndim != 1:
        raise DimensionError(f"positions: expected shape (n,), got {places.shape}")
    for given, name in ((keys, "keys"), (values, "values")):
        if not is_tensor(given) and not isinstance(given, np.ndarray):
            raise DtypeError(f"{name}: expected a NumPy array or a Torch tensor, got {type(given).__name__}")
        if given.ndim < 2:
            raise DimensionError(f"{name}: expected shape (..., m, d), got {tuple(given.shape)}")
    if keys.shape[:-1] != values.shape[:-1]:
        raise DimensionError(
            f"values: expected a shape that goes with keys {tuple(keys.shape)}, got {tuple(values.shape)}"
        )
    count = keys.shape[-2]
    if len(places) and not -1 <= places.min() <= places.max() < count:
        wrong = places[(places < -1) | (places >= count)][0]
        raise InvalidArgumentError(f"positions: expected -1 or positions below {count}, got {wrong}")
    missing = places < 0
    found = np.flatnonzero(~missing)
    moved = _taken(keys, places[found])
    if theta is not None or inv_freq is not None:
        moved = rotate_keys(moved, places[found], found, theta=theta, inv_freq=inv_freq, interleaved=interleaved)
    return Reused(
        _placed(moved, found, len(places)), _placed(_taken(values, places[found]), found, len(places)), missing
    )


def rotate_keys(
    keys: Any,
    old_positions: ArrayLike,
    new_positions: ArrayLike,
    *,
    theta: float | None = None,
    inv_freq: ArrayLike | None = None,
    interleaved: bool = False,
) -> Any:
    """Keys with rotary embedding by other positions than those that they have been given.

    Rotary embedding (Su et al., "RoFormer", 2021) turns the j-th pair of elements by the angle
    ``position * inv_freq[j]``; rotations add up, so a key moves by a rotation of the difference of its positions.

    Parameters
    ----------
    keys : (..., n, d) array or tensor of floats
    old_positions, new_positions : (n,) integers
    theta : float, optional
        Base: ``inv_freq[j] = theta ** (-2 j / d)``. Give this or `inv_freq`.
    inv_freq : (r,) array, optional
        Frequencies, such as ``model.model.rotary_emb.inv_freq``; with fewer than d / 2 of them the elements from 2 r on
        are not rotated. Frequencies that change with the length of the prompt cannot be moved between prompts.
    interleaved : bool
        Whether pairs are elements (2 j, 2 j + 1), as in GPT-J, or (j, j + r), as in Llama and most others.

    Returns
    -------
    Keys of the same kind, shape and dtype. Computed in float32, or float64 for such keys; angles in float64.

    Raises
    ------
    DimensionError, DtypeError, InvalidArgumentError
        An argument is none of the above.
    """
    tensor = is_tensor(keys)
    if not tensor and not isinstance(keys, np.ndarray):
        raise DtypeError(f"keys: expected a NumPy array or a Torch tensor, got {type(keys).__name__}")
    if not (keys.dtype.is_floating_point if tensor else keys.dtype.kind == "f"):
        raise DtypeError(f"keys: expected a float dtype, got {keys.dtype}")
    if keys.ndim < 2:
        raise DimensionError(f"keys: expected shape (..., n, d), got {tuple(keys.shape)}")
    count, dim = keys.shape[-2:]
    shifts = _positions(new_positions, "new_positions", count) - _positions(old_positions, "old_positions", count)
    angles = shifts[:, None] * _frequencies(theta, inv_freq, dim)
    cosines: Any = np.cos(angles)
    sines: Any = np.sin(angles)
    rotated = 2 * angles.shape[1]
    if interleaved:
        first, second = slice(0, rotated, 2), slice(1, rotated, 2)
    else:
        first, second = slice(0, rotated // 2), slice(rotated // 2, rotated)
    if tensor:
        import torch

        wide = torch.float64 if keys.dtype == torch.float64 else torch.float32
        turned, source = keys.clone(), keys.to(wide)
        cosines, sines = (torch.from_numpy(part).to(keys.device, wide) for part in (cosines, sines))
    else:
        turned, source = keys.copy(), keys.astype(np.result_type(keys.dtype, np.float32))
        cosines, sines = cosines.astype(source.dtype), sines.astype(source.dtype)
    x, y = source[..., first], source[..., second]
    turned[..., first], turned[..., second] = x * cosines - y * sines, y * cosines + x * sines
    return turned


def _frequencies(theta: float | None, inv_freq: ArrayLike | None, dim: int) -> NDArray[np.float64]:
    if (theta is None) == (inv_freq is None):
        raise InvalidArgumentError("theta: expected either theta or inv_freq")
    if inv_freq is None:
        if dim % 2:
            raise DimensionError(f"keys: expected an even number of elements to rotate, got {dim}")
        powers: NDArray[np.float64] = check_positive(theta, "theta") ** (-np.arange(0, dim, 2) / dim)
        return powers
    given: Any = inv_freq
    array = np.asarray(given.detach().cpu().double().numpy() if is_tensor(given) else given)
    if array.ndim != 1 or not 0 < 2 * len(array) <= dim:
        raise DimensionError(f"inv_freq: expected shape (r,) with 0 < r <= {dim // 2}, got {array.shape}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InvalidArgumentError("inv_freq: expected finite numbers")
    return array.astype(np.float64)


def _positions(values: ArrayLike, name: str, count: int) -> NDArray[np.int64]:
    given: Any = values
    array = integer_ids(given.cpu().numpy() if is_tensor(given) else given, name)
    if array.shape != (count,):
        raise DimensionError(f"{name}: expected shape ({count},), one for each key, got {array.shape}")
    return array


def _taken(source: Any, places: NDArray[np.int64]) -> Any:
    """Tokens of an array or a tensor (..., m, d)."""
    if is_tensor(source):
        import torch

        return source[..., torch.from_numpy(places).to(source.device), :]
    return source[..., places, :]


def _placed(tokens: Any, places: NDArray[np.int64], count: int) -> Any:
    """(..., count, d): tokens in their places, zeros elsewhere."""
    shape = (*tokens.shape[:-2], count, tokens.shape[-1])
    if is_tensor(tokens):
        import torch

        room: Any = tokens.new_zeros(shape)
        room[..., torch.from_numpy(places).to(tokens.device), :] = tokens
        return room
    room = np.zeros(shape, tokens.dtype)
    room[..., places, :] = tokens
    return room
