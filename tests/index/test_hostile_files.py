"""Files that are damaged or forged, down to the container. Wrong indexes in good containers have tests of their own."""

import tracemalloc

import numpy as np
import pytest
from hostile import compact, damaged, flipped, forged, reseal, rewrite, seal, truncated, unseal
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.errors import CorruptIndexError, VersionError
from nearhash.index.storage import inspect_file, read_file, write_file

HEADER = {"kind": "flat", "dim": 3, "metric": "l2", "nested": {"list": [1, 2.5, None, True, "é"]}}
TENSORS = {
    "rows": np.arange(21, dtype=np.float32).reshape(7, 3),
    "ids": np.arange(7, dtype=np.int64),
    "none": np.empty((0, 5), np.uint16),
    "live": np.array([True, False, True, True, True, True, False]),
    "one": np.array(2.5),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.nearhash"


@pytest.fixture
def small(path):
    """A small file, as bytes."""
    write_file(path, HEADER, TENSORS)
    return path.read_bytes()


def refused(path, data, **options):
    """Whether reading a file of these bytes raises CorruptIndexError; other errors pass through."""
    path.write_bytes(data)
    try:
        read_file(path, **options)
    except CorruptIndexError:
        return True
    return False


@pytest.mark.parametrize("mapped", [True, False])
def test_every_truncation_is_found(path, small, mapped):
    assert [what for what, data in truncated(small) if not refused(path, data, mmap=mapped)] == []


def test_every_flipped_bit_is_found(path):
    write_file(path, {"dim": 3}, {"ids": np.arange(3), "rows": np.arange(5, dtype=np.float16)})
    small = path.read_bytes()
    assert [what for what, data in flipped(small) if not refused(path, data)] == []


@pytest.mark.parametrize("mapped", [True, False])
def test_damage_is_found(path, small, mapped):
    assert [what for what, data in damaged(small, every=7) if not refused(path, data, mmap=mapped)] == []


def test_without_verify_only_what_is_inside_tensors_is_not_compared(path, small):
    inside = set()
    for entry in inspect_file(path)["tensors"].values():
        inside |= set(range(entry["offset"], entry["offset"] + entry["nbytes"]))
    flags = inspect_file(path)["tensors"]["live"]["offset"]
    for byte in range(len(small)):
        changed = bytearray(small)
        changed[byte] ^= 1
        # The flags stay 0 or 1, floats and ids may be anything.
        assert refused(path, bytes(changed), verify=False) == (byte not in inside), byte
    changed = bytearray(small)
    changed[flags] = 2
    assert refused(path, bytes(changed), verify=False), "a bool of 2"


def test_a_header_that_does_not_end_at_a_multiple_of_64_is_refused(path):
    write_file(path, {}, {})
    good = compact(unseal(path.read_bytes())[0])
    assert not refused(path, seal(good, b""))
    assert refused(path, seal(good, b"", length=len(good)))


@pytest.mark.parametrize("mapped", [True, False])
def test_forged_structure_is_found(path, small, mapped):
    variants = dict(forged(small))
    assert len(variants) > 100
    assert all(data != small for data in variants.values())
    assert [what for what, data in variants.items() if not refused(path, data, mmap=mapped)] == []


def test_forged_structure_is_found_without_reading_tensors(path, small):
    for what, data in forged(small):
        if what.startswith("checksum"):
            continue  # those of tensors are not compared here
        path.write_bytes(data)
        with pytest.raises(CorruptIndexError):
            print(what, inspect_file(path))


def test_messages_name_the_file_and_what_is_wrong(path, small):
    cases = {
        small[:-1]: r"tensors end at .* truncated",
        small + b"\0": "appended",
        small[:-1] + bytes([small[-1] ^ 1]): r"tensor 'rows': checksum [0-9a-f]{8}, expected '[0-9a-f]{8}'",
        small[:200] + b"x" + small[201:]: "header: its checksum does not match",
        b"": "not a nearhash index",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(CorruptIndexError, match=message) as caught:
            read_file(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_another_version_is_named(path, small):
    path.write_bytes(reseal(small, lambda document: document["__metadata__"].update(format="nearhash/2")))
    with pytest.raises(VersionError, match=r"version 2.*only version 1"):
        read_file(path)


def test_nothing_is_allocated_by_a_number_that_the_file_cannot_hold(path, small):
    variants = list(forged(small)) + list(damaged(small, every=4001))
    for what, data in variants:
        if "17 MB" in what:
            continue
        path.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(CorruptIndexError):
            read_file(path, mmap=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000 + 40 * len(data), what


def test_a_resealed_file_that_was_not_changed_is_still_valid(path, small):
    """Else the forged ones might be refused for their seal alone."""
    assert not refused(path, reseal(small, lambda document: None))
    document, data = unseal(small)
    assert seal(compact(document), data) == small
    rewrite(path, path, lambda header, tensors: None)
    assert path.read_bytes() == small


def places(value, here=()):
    """Paths to all values in a JSON document."""
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*here, key))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)
numbers = st.sampled_from([-1, 0, 64, 2**31, 2**63, 2**64, "U8", "I64", "{}"])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_of_the_json_is_refused_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    write_file(path, HEADER, TENSORS)
    file = path.read_bytes()
    document, _ = unseal(file)
    *parents, last = data.draw(st.sampled_from([place for place in places(document) if len(place) > 1]))
    value = data.draw(json_values | numbers)

    def change(document):
        for key in parents:
            document = document[key]
        document[last] = value

    if [*parents, last] == ["__metadata__", "crc32c"]:
        return  # written over by the seal
    if not refused(path, reseal(file, change)):
        # Another dtype or shape of the same bytes, or another header: a container cannot know better.
        contents = {name: tensor.tobytes() for name, tensor in read_file(path)[1].items()}
        assert contents == {name: tensor.tobytes() for name, tensor in TENSORS.items()}
