"""Arrays to tensors and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.protos.v1 import tensor_pb2
from nearhash.service.wire import from_tensor, to_tensor

ELEMENTS = ["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]


@given(st.data(), st.sampled_from(ELEMENTS), st.sampled_from("<>"), st.booleans())
def test_round_trip_keeps_values_shape_and_dtype(data, element, order, transposed):
    dtype = np.dtype(element).newbyteorder(order)
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)))
    array = array.T if transposed else array
    decoded = from_tensor(to_tensor(array, "x"), "x", ndim=(2,))
    assert decoded.dtype == np.dtype(element)
    np.testing.assert_array_equal(decoded, array)


def test_bytes_are_little_endian_whatever_the_array_is():
    values = [1.5, -2.0]
    expected = b"\x00\x00\xc0\x3f\x00\x00\x00\xc0"
    assert to_tensor(np.array(values, "<f4"), "x").data == expected
    assert to_tensor(np.array(values, ">f4"), "x").data == expected
    assert to_tensor(np.array([258], ">i8"), "x").data == b"\x02\x01" + bytes(6)


def test_strided_and_read_only_arrays_are_sent_in_c_order():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-2]
    array.flags.writeable = False
    np.testing.assert_array_equal(from_tensor(to_tensor(array, "x"), "x", ndim=(2,)), array)


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([1 + 2j]), np.array([None]), np.array([1], "M8[s]")])
def test_a_dtype_without_a_code_is_named(values):
    with pytest.raises(DtypeError, match=f"x: .*{values.dtype}".replace("[", r"\[")):
        to_tensor(values, "x")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (tensor_pb2.Tensor(shape=[1, 1], data=b"1234"), r"x\.dtype: expected one of DTYPE_FLOAT32 = 1"),
        (tensor_pb2.Tensor(dtype=77, shape=[1, 1], data=b"1234"), r"x\.dtype: .* got 77"),
        (tensor_pb2.Tensor(dtype=1, shape=[1], data=b"1234"), r"x\.shape: expected 2 axes, got 1"),
        (tensor_pb2.Tensor(dtype=1, shape=[1] * 1000, data=b"1234"), r"x\.shape: expected 2 axes, got 1000"),
        (tensor_pb2.Tensor(dtype=1, shape=[1, 1], data=b"12345"), r"x\.data: expected 4 bytes .* got 5"),
        (tensor_pb2.Tensor(dtype=1, shape=[2**31 - 1] * 2), r"x\.data: expected 18446744056529682436 bytes"),
        (tensor_pb2.Tensor(dtype=1, shape=[0, 2**63]), r"x\.shape: expected no axis above"),
        (tensor_pb2.Tensor(dtype=12, shape=[1, 3], data=b"\x00\x02\x01"), r"x\.data: expected bytes 0 and 1"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor, message):
    with pytest.raises(InvalidArgumentError, match=message):
        from_tensor(tensor, "x", ndim=(2,))


def test_longest_empty_axes_decode():
    for shape in ([0, 2**31 - 1], [2**31 - 1, 0]):
        assert from_tensor(tensor_pb2.Tensor(dtype=2, shape=shape), "x", ndim=(2,)).shape == tuple(shape)
