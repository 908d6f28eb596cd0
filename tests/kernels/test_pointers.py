"""No kernel uses memory that Numba has freed.

Numba frees an array after the last mention of its name, and knows nothing of pointers to it. So where a kernel takes
the `pointer` of an array that it has made, either the name is mentioned again after that statement, or the statement
is in a loop that the array was made before.
"""

import ast
from pathlib import Path

import pytest

from nearhash.kernels import jit

KERNELS = sorted(Path(jit.__file__).parent.glob("*.py"))
MAKERS = {"empty", "zeros", "ones", "full", "arange", "astype", "copy", "query_buffer"}


def called(node):
    """Name of the function of a call."""
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def made_arrays(function):
    """Lines at which each local name becomes a new array."""
    made = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            tuples = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=True) if tuples else [(target, value)]
            for name, source in pairs:
                if isinstance(name, ast.Name) and any(called(part) in MAKERS for part in ast.walk(source)):
                    made.setdefault(name.id, []).append(node.lineno)
    return made


def dangling(source):
    """(function, array, line) of pointers to arrays that may be gone when they are used."""
    found = []
    for function in [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]:
        made = made_arrays(function)
        loops = [(node.lineno, node.end_lineno) for node in ast.walk(function) if isinstance(node, ast.For | ast.While)]
        mentions = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
        for statement in statements:
            for node in ast.walk(statement):
                if called(node) != "pointer" or getattr(node.args[0], "id", None) not in made:
                    continue
                name, line = node.args[0].id, statement.lineno
                again = any(other.id == name and other.lineno > statement.end_lineno for other in mentions)
                around = [(first, last) for first, last in loops if first <= line <= last]
                kept = any(not first <= at <= last for first, last in around for at in made[name])
                if not again and not kept:
                    found.append((function.name, name, line))
    return found


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_no_pointer_outlives_its_array(path):
    assert dangling(path.read_text()) == []


def test_the_check_sees_what_it_should():
    freed = "def f(x):\n    a = np.empty(3)\n    p = pointer(a, 0)\n    for i in x:\n        g(p)\n"
    assert dangling(freed) == [("f", "a", 3)]
    fresh = "def f(x):\n    for i in x:\n        a = np.empty(3)\n        g(pointer(a, 0), len(a))\n"
    assert dangling(fresh) == [("f", "a", 4)]
    assert dangling(freed + "    return a\n") == []
    assert dangling("def f(x):\n    a = np.empty(3)\n    for i in x:\n        g(pointer(a, 0))\n") == []
