"""Runs the Triton tests without a GPU: in processes of their own, where Triton's interpreter is on before the kernels load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking

HERE = Path(__file__).resolve().parent
pytest.importorskip("triton", reason="pip install triton: the interpreter runs its kernels on the CPU")


def run(command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=900,
    )


# Triton 3.5 turns a loop's bound into an int by int(array of one element), which NumPy refuses from 2.4 on.
PYTEST = """
import sys, pytest, triton.runtime.interpreter as interpreter
original = getattr(interpreter, "_patch_lang_tensor", None)
def patch(tensor, *scope):
    original(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())
if original is not None:
    interpreter._patch_lang_tensor = patch
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


FILES = [
    "fusion/test_triton_kernel.py",
    "low_rank/test_triton_autograd.py",
    "log_probs/test_triton_kernel.py",
    "steps/test_triton_proximal.py",
    "sparse/test_triton_union.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_under_the_interpreter(file):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    result = forking.run(["-c", PYTEST, str(HERE / file)], environment, HERE.parent.parent, timeout=900)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed.group(1)) >= 20 and "skipped" not in result.stdout, result.stdout[-2000:]


@pytest.mark.slow
def test_importing_the_kernels_and_running_them_on_the_cpu_imports_no_triton():
    program = (
        "import sys, torch\n"
        "from fulgurite.kernels import gated_lora_linear\n"
        "e = torch.eye(4)\n"
        "gated_lora_linear(e, e, None, e, None, e, 1.0)\n"
        "assert 'triton' not in sys.modules and 'fulgurite.kernels.low_rank.triton_autograd' not in sys.modules"
    )
    result = run(["-c", program], TRITON_INTERPRET="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_interpreter_alone_does_not_take_cpu_tensors_from_torch():
    program = (
        "import torch\n"
        "from fulgurite.kernels import backend\n"
        "x = torch.ones(2)\n"
        "assert backend.resolve('gated_lora_linear', x, x, None, x, None, x) is None\n"
        "backend.use_backend('triton')\n"
        "assert backend.resolve('gated_lora_linear', x, x, None, torch.ones(2, 2), None, x) is not None"
    )
    result = run(["-c", program], TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stderr
