"""The kernels give the same on every instruction set: their tests run again under each that this machine has."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from llvmlite import binding

from nearhash.errors import InvalidArgumentError
from nearhash.kernels.features import GENERIC, LEVEL, NEON, VARIABLE, available_levels, choose_level

HERE = Path(__file__).parent
FILES = (
    "test_simd.py",
    "test_simd_codes.py",
    "test_lvq.py",
    "test_lvq4x8.py",
    "test_scan.py",
    "test_fastscan.py",
    "test_select.py",
    "test_panels.py",
    "test_hadamard.py",
    "test_hamming.py",
    "test_attention_rows.py",
    "test_attention.py",
    "test_attention_codes.py",
    "test_attention_sampling.py",
)


LEVELS = [level for level in available_levels() if level != LEVEL]


@pytest.fixture(scope="module")
def runs():
    """The tests of kernels under each level, at the same time: most of what they do is to compile."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *(str(HERE / name) for name in FILES),
    ]
    with ExitStack() as stack:
        started = {}
        for level in LEVELS:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))  # a pipe that nobody reads would fill up
            environment = {**os.environ, VARIABLE: level}
            process = stack.enter_context(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            stack.callback(process.kill)
            started[level] = output, process
        yield started


@pytest.mark.parametrize("level", LEVELS)
def test_kernels_under_another_level(runs, level):
    output, process = runs[level]
    code = process.wait()
    output.seek(0)
    assert code == 0, output.read()[-4000:]


def test_generic_is_always_there():
    assert available_levels()[-1] == GENERIC
    assert choose_level(None) == available_levels()[0]
    assert choose_level(GENERIC) == GENERIC


@pytest.mark.parametrize("wish", ["neon2", "AVX512", "sse"])
def test_unknown_level_is_refused(wish):
    with pytest.raises(InvalidArgumentError, match=VARIABLE):
        choose_level(wish)


def test_neon_code_compiles_to_dot_products():
    """ARM cannot run here, but its code can be made: the innermost loop must use `sdot`."""
    code = (
        "from llvmlite import binding, ir\n"
        "from nearhash.kernels import features\n"
        "features.LEVEL = features.NEON\n"
        "from nearhash.kernels import simd\n"
        "from numba import types\n"
        "module = ir.Module(); module.triple = 'aarch64-unknown-linux-gnu'\n"
        "i8 = ir.IntType(8).as_pointer()\n"
        "function = ir.Function(module, ir.FunctionType(ir.IntType(32), [i8, i8, ir.IntType(64)]), 'dot')\n"
        "builder = ir.IRBuilder(function.append_basic_block())\n"
        "_, codegen = simd.dot_codes._defn(None, None, None, None)\n"
        "builder.ret(codegen(None, builder, None, function.args))\n"
        "binding.initialize_all_targets(); binding.initialize_all_asmprinters()\n"
        "machine = binding.Target.from_triple(module.triple).create_target_machine(features='+neon,+dotprod')\n"
        "print(machine.emit_assembly(binding.parse_assembly(str(module))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "No available targets" in done.stderr:
        pytest.skip("this llvmlite cannot make ARM code")
    assert done.returncode == 0, done.stderr
    assert "sdot" in done.stdout
    assert NEON not in available_levels() or binding.get_host_cpu_features().get("dotprod")
