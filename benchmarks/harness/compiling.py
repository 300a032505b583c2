"""Compiles one recorded launch for a GPU that need not be there, and reads registers, shared memory and spills.

The signature is the one that Triton's runtime would make: strides of one become constants, and sizes and addresses that
16 divides are marked. NVIDIA: cuobjdump of triton's package on the cubin (registers, stack, local memory; a kernel that spills
has a stack). AMD: the metadata of the code object as its assembly text states it.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["TARGETS", "compile_launch", "specialise"]

# name -> (backend, architecture, threads of a warp)
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}


def specialise(kernel: Any, arguments: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Signature, constants and attributes for these arguments, as Triton's runtime would choose them."""
    import torch

    pointers = {
        torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int64: "*i64",
        torch.int32: "*i32",
    }  # fmt: skip
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        free = not parameter.do_not_specialize
        aligned = False
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and free):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], aligned = pointers[value.dtype], True
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = free and value % 16 == 0
        else:
            signature[name] = "fp32"
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compile_launch(kernel: Any, arguments: dict[str, Any], target: str) -> dict[str, Any]:
    """Compile one recorded launch; registers and bytes of shared memory and of spills."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    signature, constants, attributes = specialise(kernel, arguments)
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = compile(source, target=GPUTarget(*TARGETS[target]), options=options)
    usage = _nvidia_usage(compiled.asm["cubin"]) if "cubin" in compiled.asm else _amd_usage(compiled.asm["amdgcn"])
    return {**usage, "shared": compiled.metadata.shared}


def _nvidia_usage(cubin: bytes) -> dict[str, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "spill": found["STACK"] + found["LOCAL"]}


def _amd_usage(assembly: str) -> dict[str, int]:
    found = {key: int(value) for key, value in re.findall(r"\.(\w+_(?:count|fixed_size)):\s+(\d+)", assembly)}
    spilled = found["vgpr_spill_count"] + found["sgpr_spill_count"]
    return {"registers": found["vgpr_count"], "spill": 4 * spilled + found["private_segment_fixed_size"]}
