"""Compile every Triton kernel ahead of time for GPUs that need not be there, and read registers, shared memory and spills.

``python -m benchmarks.aot [--target sm_90] [--quick] [--json FILE]``: exit status 1 if a default configuration spills.

The launchers run on ``meta`` tensors of real shapes with a recorder in the kernels' place; what is compiled is therefore what
they would launch: the same tiles, and the specialisation on strides of one and on alignment that Triton's runtime would
make. Each target compiles in a process of its own. NVIDIA: cuobjdump of triton's package on the cubin (registers, stack, local
memory; a kernel that spills has a stack). AMD: the metadata of the code object as its assembly text states it.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

__all__ = ["TARGETS", "compile_launch", "main", "recorded_launches"]

# name -> (backend, architecture, threads of a warp)
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "gfx942": ("hip", "gfx942", 64),
}
DTYPES = ("bfloat16", "float16", "float32")
RANKS = (16, 32, 64, 128)
# Constants of a compiled kernel that the table names where they are true.
_FLAGS = ("GATED", "BIASED", "RAISE", "SOFT", "KNOWN", "GRADIENT", "WEIGHTED", "SCORES", "CAPPED")
# Rows that take each height of tile (see triton_rules.shrink_tile); K and N of a 7-billion-parameter model.
ROWS, QUICK_ROWS, FEATURES = (8192, 2048, 512), (8192,), 4096
# Local data share of one workgroup on gfx942, and shared memory of one block on sm_80 and sm_90: more does not launch.
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "gfx942": 65536}


class _Recorder:
    """Stands where a kernel stood: notes what it would be launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._launch

    def _launch(self, *args: Any, **kwargs: Any) -> None:
        self.launches.append((self.kernel, {**dict(zip(self.kernel.arg_names, args)), **kwargs}))


def recorded_launches(
    dtype: str, rank: int, rows: int, dropout: float, features: int = FEATURES
) -> list[tuple[Any, dict[str, Any]]]:
    """(kernel, arguments by name) of a forward and a backward of the gated linear layer, with bias, float32 adapters."""
    import torch

    from fulgurite.kernels.low_rank import triton_launch

    wide, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    x, weight = empty(rows, features, dtype=wide), empty(features, features, dtype=wide)
    a, gate, b, bias = empty(rank, features), empty(rank), empty(features, rank), empty(features, dtype=wide)
    seed = empty((), dtype=torch.int64) if dropout else None
    names = [name for name in vars(triton_launch) if name.endswith("_kernel")]
    kernels = {name: getattr(triton_launch, name) for name in names}
    try:
        for name, kernel in kernels.items():
            setattr(triton_launch, name, _Recorder(kernel, launches))
        y, t = triton_launch.forward(x, weight, bias, a, gate, b, seed, 2.0, dropout)
        triton_launch.backward(y, x, weight, a, gate, b, t, seed, 2.0, dropout, True, True, True, True)
    finally:
        for name, kernel in kernels.items():
            setattr(triton_launch, name, kernel)
    return launches


def proximal_launches() -> list[tuple[Any, dict[str, Any]]]:
    """The step over a small arena and over a large one, both rules."""
    import torch

    from fulgurite.kernels.steps import triton_proximal

    launches: list[tuple[Any, dict[str, Any]]] = []
    kernel = triton_proximal.proximal_adamw_kernel
    triton_proximal.proximal_adamw_kernel = _Recorder(kernel, launches)
    try:
        for n in (3584, 1 << 20):
            for prox in triton_proximal_rules():
                arenas = [torch.empty(n, device="meta") for _ in range(4)]
                step = torch.empty((), device="meta")
                triton_proximal.proximal_adamw_step_(*arenas, step, 1e-3, 0.9, 0.999, 1e-8, 0.0, 1e-3, prox)
    finally:
        triton_proximal.proximal_adamw_kernel = kernel
    return launches


def log_probs_launches(dtype: str, vocabulary: int = 32000) -> list[tuple[Any, dict[str, Any]]]:
    """Statistics with gradient, the backward's gradient alone, and validation's scores; with and without a cap."""
    import torch

    from fulgurite.kernels.log_probs import triton_kernel as triton_log_probs
    from fulgurite.kernels.log_probs.blocks import Head, Known, Needs

    narrow, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=narrow: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    kernel = triton_log_probs.log_probs_kernel
    triton_log_probs.log_probs_kernel = _Recorder(kernel, launches)
    rows, weight, targets = empty(2048, 64), empty(vocabulary, 64), empty(2048, dtype=torch.int64)
    each = empty(2048, dtype=torch.float32)
    try:
        for softcap in (None, 30.0):
            head = Head(weight, None, None, 1.0, softcap)
            run = lambda *rest, head=head: triton_log_probs.linear_log_probs(rows, None, head, targets, *rest)  # noqa: E731
            run(None, None, Needs(rows=True), False)
            run(None, each, Needs(rows=True, weight=True), False)
            run(Known(each, each, each), each, Needs(rows=True, weight=True), False)
            run(None, None, Needs(), True)
    finally:
        triton_log_probs.log_probs_kernel = kernel
    return launches


def sparse_launches(dtype: str, rows: int = 8192, features: int = FEATURES) -> list[tuple[Any, dict[str, Any]]]:
    """The union kernel on masks whose blocks of 64 rows select up to 10, 30 and 254 columns (0.1 % of 4096²), and the picking."""
    import torch

    from fulgurite.kernels.sparse import triton_picked
    from fulgurite.kernels.sparse import triton_union as triton_sparse_delta
    from fulgurite.kernels.sparse.plan import UNION_ROWS, UnionColumns

    narrow, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=torch.int32: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    blocks, n = -(-features // UNION_ROWS), -(-features * features // 1000)
    sides = [empty(rows, features, dtype=narrow) for _ in range(2)]
    kernels = [
        (module, name, getattr(module, name))
        for module in (triton_sparse_delta, triton_picked)
        for name in ("union_kernel", "transpose_kernel", "pick_kernel")
        if hasattr(module, name)
    ]
    for module, name, kernel in kernels:
        setattr(module, name, _Recorder(kernel, launches))
    try:
        triton_picked.picked_entries(
            empty(features, dtype=narrow), empty(n, dtype=torch.int64), empty(n, dtype=torch.float32), 0, n, 0
        )
        for widest in (10, 30, 254):
            wide = min(widest, features)
            u = blocks * wide
            union = UnionColumns(empty(blocks + 1), empty(u), empty(u, dtype=torch.int64), empty(u), empty(n), wide)
            triton_sparse_delta.launch(*sides, union)
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)
    return launches


def fused_launches(dtype: str, number: int, vocabulary: int = 32000) -> list[tuple[Any, dict[str, Any]]]:
    """The gate alone, hidden states as well, and the backward of trained heads, for some specialists; with and without a cap."""
    import torch

    from fulgurite.kernels.fusion import triton_kernel as triton_fused
    from fulgurite.kernels.fusion.blocks import Specialist
    from fulgurite.kernels.log_probs.blocks import Head, Known, Needs

    narrow, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=narrow: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    kernel = triton_fused.fused_log_probs_kernel
    triton_fused.fused_log_probs_kernel = _Recorder(kernel, launches)
    rows, weight, targets = empty(2048, 64), empty(vocabulary, 64), empty(2048, dtype=torch.int64)
    each, gate = empty(2048, dtype=torch.float32), empty(2048, number, dtype=torch.float32)
    try:
        for softcap in (None, 30.0):
            specialists = [Specialist(rows, None, Head(weight, None, None, 1.0, softcap))] * number
            run = lambda known, weighing, needs, group=specialists: triton_fused.fused_log_probs(  # noqa: E731
                group, gate, targets, known, weighing, [needs] * number
            )
            run(None, None, Needs())
            run(None, None, Needs(rows=True))
            run(Known(each, each, each), each, Needs(rows=True, weight=True))
    finally:
        triton_fused.fused_log_probs_kernel = kernel
    return launches


def triton_proximal_rules() -> tuple[str, ...]:
    """The rules of the proximal step."""
    from fulgurite.kernels.steps.proximal import PROX_RULES

    return PROX_RULES


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


def _cases(quick: bool) -> Iterator[tuple[dict[str, Any], Any, dict[str, Any]]]:
    for dtype in DTYPES[:1] if quick else DTYPES:
        for rank in RANKS[:1] if quick else RANKS:
            for dropout in (0.0, 0.1):
                for rows in QUICK_ROWS if quick else ROWS:
                    for kernel, arguments in recorded_launches(dtype, rank, rows, dropout):
                        yield {"dtype": dtype, "rank": rank, "dropout": dropout, "rows": rows}, kernel, arguments
    # Sizes of one become constants of the compiled kernel, where code that takes them for tensors would not compile.
    for kernel, arguments in recorded_launches("float32", 1, 1, 0.1, features=1):
        yield {"dtype": "float32", "rank": 1, "dropout": 0.1, "rows": 1}, kernel, arguments
    for kernel, arguments in sparse_launches("float32", rows=1, features=1):
        yield {"dtype": "float32", "rank": 0, "dropout": 0.0, "rows": 1}, kernel, arguments
    for dtype in DTYPES[:1] if quick else DTYPES:
        for vocabulary in (32000,) if quick else (32000, 1000):
            for kernel, arguments in log_probs_launches(dtype, vocabulary):
                yield {"dtype": dtype, "rank": 0, "dropout": 0.0, "rows": 2048}, kernel, arguments
        for kernel, arguments in sparse_launches(dtype):
            yield {"dtype": dtype, "rank": 0, "dropout": 0.0, "rows": 8192}, kernel, arguments
    for dtype in DTYPES[:1] if quick else DTYPES:
        for number in (3,) if quick else (1, 2, 3, 6):
            for kernel, arguments in fused_launches(dtype, number):
                yield {"dtype": dtype, "rank": 0, "dropout": 0.0, "rows": 2048}, kernel, arguments
    for kernel, arguments in proximal_launches():
        yield {"dtype": "float32", "rank": 0, "dropout": 0.0, "rows": arguments["n"]}, kernel, arguments


def compile_target(target: str, quick: bool) -> list[dict[str, Any]]:
    """One row per distinct configuration of every kernel."""
    from fulgurite.kernels.low_rank import triton_rules

    triton_rules.HIP = TARGETS[target][0] == "hip"
    seen: set[Any] = set()
    results = []
    for case, kernel, arguments in _cases(quick):
        signature, constants, attributes = specialise(kernel, arguments)
        key = (kernel.fn.__name__, str(signature), str(constants), str(attributes), arguments["num_warps"])
        if key in seen:
            continue
        seen.add(key)
        start = time.perf_counter()
        usage = compile_launch(kernel, arguments, target)
        flags = [name for name in _FLAGS if arguments.get(name)]
        sides = (
            ("BLOCK_R", "BLOCK_U", "BLOCK_M") if "BLOCK_U" in arguments else ("BLOCK_T", "BLOCK_M", "BLOCK_C", "RANK")
        )
        tile = [arguments[name] for name in sides if name in arguments]
        results.append(
            {
                "target": target,
                "kernel": kernel.fn.__name__,
                **case,
                "flags": " ".join(flags).lower(),
                "tile": "×".join(map(str, tile)) if any(tile) else _block(arguments),
                "warps": arguments["num_warps"],
                "stages": arguments.get("num_stages", 0),
                **usage,
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
    return results


def _block(arguments: dict[str, Any]) -> str:
    """Numbers that a program of a row-wise kernel holds, for several specialists each."""
    number, block = arguments.get("NUMBER"), arguments["BLOCK"]
    return str(block) if number is None else f"{number}×{block}"


def failures(results: list[dict[str, Any]]) -> list[str]:
    """What must not be: spills, and more shared memory than a block may have."""
    bad = []
    for row in results:
        name = "{target} {kernel} {dtype} rank {rank} tile {tile} dropout {dropout}".format(**row)
        if row["spill"]:
            bad.append(f"{name}: spills {row['spill']} bytes a thread")
        if row["shared"] > SHARED_LIMIT[row["target"]]:
            bad.append(f"{name}: {row['shared']} bytes of shared memory, {SHARED_LIMIT[row['target']]} are there")
    return bad


def main(arguments: list[str] | None = None) -> int:
    """Compile, print the table, write the JSON; 1 if a default configuration spills."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--target", choices=TARGETS, action="append", help="one target; may be repeated (default: all)")
    parser.add_argument("--quick", action="store_true", help="bfloat16, rank 16 and one number of rows only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    targets = options.target or list(TARGETS)
    if options.in_process:
        print(json.dumps([row for target in targets for row in compile_target(target, options.quick)]))
        return 0
    results = []
    for target in targets:
        command = [
            sys.executable,
            "-m",
            "benchmarks.aot",
            "--in-process",
            "--target",
            target,
            *["--quick"] * options.quick,
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            print(run.stderr, file=sys.stderr)
            print(f"benchmarks.aot: compiling for {target} failed (status {run.returncode}).", file=sys.stderr)
            return 1
        results += json.loads(run.stdout.splitlines()[-1])
    _print(results)
    if options.json:
        _write(options.json, results)
    bad = failures(results)
    print("\n".join(bad) if bad else f"{len(results)} configurations compiled, none spills.")
    return 1 if bad else 0


def _print(results: list[dict[str, Any]]) -> None:
    columns = ("target", "kernel", "dtype", "rank", "tile", "dropout", "flags", "warps", "registers", "shared", "spill")
    rows = [columns, *[tuple(str(row[name]) for name in columns) for row in results]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _write(file: Path, results: list[dict[str, Any]]) -> None:
    import torch
    import triton

    stamp = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "features": FEATURES,
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({**stamp, "results": results}, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    sys.exit(main())
