# SPDX-License-Identifier: Apache-2.0
"""The integer contract contains no floating point but where every step of it is proven exact."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hwgen.numerics

FOLDER = Path(hwgen.numerics.__file__).parent
MODULES = sorted(path.name for path in FOLDER.glob("*.py"))
FLOAT_NAMES = {
    "float",
    "float16",
    "float32",
    "float64",
    "floating",
    "true_divide",
    "divide",
    "sqrt",
}
#: Floating-point integers; the proofs stand in the modules' docstrings.
PROVEN = {
    "ailayernorm.py": {"float64"},
    "e2softmax.py": {"float32"},
    "matmul.py": {"float32", "float64", "floating"},
    "requantise.py": {"float64"},
    "rounding.py": {"float64"},
}


@pytest.mark.parametrize("module", MODULES)
def test_no_float_and_no_division(module: str) -> None:
    for node in ast.walk(ast.parse((FOLDER / module).read_text())):
        assert not isinstance(node, ast.BinOp | ast.AugAssign) or not isinstance(node.op, ast.Div)
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        assert name not in FLOAT_NAMES - PROVEN.get(module, set()), (
            f"{module}:{node.lineno}: {name}"
        )


def test_every_module_is_looked_at() -> None:
    assert {"rounding.py", "matmul.py", "e2softmax.py", "ailayernorm.py"} <= set(MODULES)
