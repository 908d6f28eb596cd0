"""Inner products of packed codes against NumPy, on every instruction set that this machine has (see test_levels)."""

import subprocess
import sys

import numba
import numpy as np
import pytest

from nearhash.kernels import simd_codes
from nearhash.kernels.reference_codes import FLOAT8_VALUES
from nearhash.kernels.simd import pointer

EXTREMES = (-128, -127, 0, 127)


@numba.njit
def nibbles(codes, low, high, count):
    return simd_codes.dot_nibbles(pointer(codes, 0), pointer(low, 0), pointer(high, 0), count)


@numba.njit
def planes(bits, values, words, count):
    return simd_codes.dot_planes(pointer(bits, 0), pointer(values, 0), words, count)


@numba.njit
def float8(query, codes, count):
    return simd_codes.dot_float8(pointer(query, 0), pointer(codes, 0), count)


@numba.njit
def casts(array):
    address = pointer(array, 0)
    return (
        simd_codes.as_floats(address)[1],
        simd_codes.as_signed(address)[0],
        simd_codes.as_bytes(simd_codes.as_signed(address))[0],
    )


def int8_values(count, rng):
    yield rng.integers(-128, 128, count).astype(np.int8)
    for value in EXTREMES:
        yield np.full(count, value, np.int8)


@pytest.mark.parametrize("count", [0, 64, 128, 448, 16384])
def test_nibbles(count):
    rng = np.random.default_rng(count)
    for codes in (rng.integers(0, 256, count).astype(np.uint8), np.full(count, 255, np.uint8)):
        for low in int8_values(count, rng):
            high = rng.permutation(low) if count else low
            expected = (codes & 15).astype(int) @ low.astype(int) + (codes >> 4).astype(int) @ high.astype(int)
            assert nibbles(codes, low, high, count) == expected


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("words", [0, 1, 2, 13, 512])
def test_planes(words, bits):
    rng = np.random.default_rng(words)
    for codes in (rng.integers(0, 1 << bits, 64 * words), np.full(64 * words, (1 << bits) - 1)):
        packed = [np.packbits((codes >> (bits - 1 - b)) & 1, bitorder="little") for b in range(bits)]
        rows = np.concatenate([*packed, np.full(3, 0xFF)]).astype(np.uint8)
        shifted = np.concatenate([rows[:1], rows])[1:]  # an odd address
        for values in int8_values(64 * words, rng):
            expected = codes @ values.astype(int)
            assert planes(rows, values, words, bits) == expected
            assert planes(shifted, values, words, bits) == expected


@pytest.mark.parametrize("count", [0, 64, 128, 832])
def test_float8(count):
    rng = np.random.default_rng(count)
    codes = rng.integers(0, 256, count).astype(np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    query = rng.standard_normal(count).astype(np.float32)
    products = query.astype(np.float64) * FLOAT8_VALUES[codes]
    assert abs(float8(query, codes, count) * 256 - products.sum()) <= 1e-6 * np.abs(products).sum()


def test_float8_reads_every_code():
    for code in range(256):
        codes, query = np.zeros(64, np.uint8), np.zeros(64, np.float32)
        place = code % 64
        codes[place], query[place] = code, 256
        if code & 0x7F != 0x7F:
            assert float8(query, codes, 64) == FLOAT8_VALUES[code]


def test_casts_are_of_the_same_address():
    array = np.zeros(8, np.uint8)
    array[4:] = np.frombuffer(np.float32(-1.5).tobytes(), np.uint8)
    array[0] = 0x81
    assert casts(array) == (-1.5, -127, 0x81)


@pytest.mark.parametrize("name", ["dot_nibbles", "dot_planes", "dot_float8"])
def test_neon_code_can_be_made(name):
    """ARM cannot run here, but its code can be made: sums of packed codes must use `sdot`."""
    code = (
        "from llvmlite import binding, ir\n"
        "from nearhash.kernels import features\n"
        "features.LEVEL = features.NEON\n"
        "from nearhash.kernels import simd_codes\n"
        "from numba import types\n"
        "module = ir.Module(); module.triple = 'aarch64-unknown-linux-gnu'\n"
        f"signature, codegen = simd_codes.{name}._defn(None, *[None] * {3 if name == 'dot_float8' else 4})\n"
        "kinds = {types.int32: ir.IntType(32), types.int64: ir.IntType(64), types.float32: ir.FloatType()}\n"
        "kinds |= {types.CPointer(types.float32): ir.FloatType().as_pointer()}\n"
        "kinds |= {types.CPointer(t): ir.IntType(8).as_pointer() for t in (types.int8, types.uint8)}\n"
        "taken = [kinds[argument] for argument in signature.args]\n"
        "function = ir.Function(module, ir.FunctionType(kinds[signature.return_type], taken), 'kernel')\n"
        "builder = ir.IRBuilder(function.append_basic_block())\n"
        "builder.ret(codegen(None, builder, signature, function.args))\n"
        "binding.initialize_all_targets(); binding.initialize_all_asmprinters()\n"
        "features = '+neon,+dotprod,+fullfp16'\n"
        "machine = binding.Target.from_triple(module.triple).create_target_machine(features=features)\n"
        "print(machine.emit_assembly(binding.parse_assembly(str(module))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "No available targets" in done.stderr:
        pytest.skip("this llvmlite cannot make ARM code")
    assert done.returncode == 0, done.stderr
    assert ("fcvtl" if name == "dot_float8" else "sdot") in done.stdout
