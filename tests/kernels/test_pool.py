"""Sorted pools against sorting."""

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.kernels import pool, reference


@numba.njit
def offer_all(distances, slots, capacity):
    keys = np.full(capacity, np.uint64(0xDEAD))
    size = 0
    for i in range(len(distances)):
        key = pool.make_key(distances[i], slots[i])
        if size < capacity or key < keys[capacity - 1]:
            pool.insert(keys, size, capacity, key)
            size += 1 if size < capacity else 0
    slots_out, distances_out = np.full(capacity + 2, 99, np.int32), np.full(capacity + 2, np.nan, np.float32)
    pool.unpack(keys, size, slots_out, distances_out)
    return slots_out, distances_out


@numba.njit
def key_of(distance, slot):
    return pool.make_key(distance, slot)


FLOATS = st.floats(width=32, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(FLOATS, max_size=60), st.integers(1, 20))
def test_pool_holds_the_nearest_with_ties_by_slot(values, capacity):
    # -0.0 and 0.0 are equal as numbers and different as keys; kernels never make -0.0 from a distance.
    distances = np.array(values, np.float32) + np.float32(0.0)
    slots, found = offer_all(distances, np.arange(len(values), dtype=np.int32), capacity)
    order = reference.nearest(distances, capacity)
    assert slots[: len(order)].tolist() == order.tolist()
    assert np.array_equal(found[: len(order)], distances[order])
    assert (slots[len(order) :] == -1).all()
    assert np.isinf(found[len(order) :]).all()


@settings(max_examples=200, deadline=None)
@given(FLOATS, st.integers(0, 2**31 - 2))
def test_key_matches_its_reference(distance, slot):
    assert int(key_of(np.float32(distance), slot)) == reference.make_key(distance, slot)


def test_slots_do_not_depend_on_the_order_of_arrival():
    rng = np.random.default_rng(0)
    distances = rng.integers(0, 5, 200).astype(np.float32)
    slots = np.arange(200, dtype=np.int32)
    first, _ = offer_all(distances, slots, 30)
    order = rng.permutation(200)
    second, _ = offer_all(distances[order], slots[order], 30)
    assert first.tolist() == second.tolist()
