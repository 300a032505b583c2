"""Compile every Triton kernel ahead of time for GPUs that need not be there, and read registers, shared memory and spills.

``python -m benchmarks.aot [--target sm_90] [--quick] [--json FILE]``: exit status 1 if a default configuration spills.

What is compiled is what the launchers would launch (``harness/launches.py``): the same tiles, and the specialisation that Triton's
runtime would make (``harness/compiling.py``). Each target compiles in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.harness.compiling import TARGETS, compile_launch, specialise
from benchmarks.harness.launches import (
    DTYPES,
    FEATURES,
    fused_launches,
    log_probs_launches,
    proximal_launches,
    recorded_launches,
    sparse_launches,
)
from fulgurite.whole_files import write_text

__all__ = ["TARGETS", "compile_launch", "main", "recorded_launches"]

RANKS = (16, 32, 64, 128)
# Constants of a compiled kernel that the table names where they are true.
_FLAGS = ("GATED", "BIASED", "RAISE", "SOFT", "KNOWN", "GRADIENT", "WEIGHTED", "SCORES", "CAPPED")
# Numbers of rows that take each height of tile (see triton_rules.shrink_tile).
ROWS, QUICK_ROWS = (8192, 2048, 512), (8192,)
# Local data share of one workgroup on gfx942, and shared memory of one block on the others: more does not launch.
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}


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

    triton_rules.HIP, triton_rules.SM_100 = TARGETS[target][0] == "hip", target == "sm_100"
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
    write_text(file, json.dumps({**stamp, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
