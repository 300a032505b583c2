"""Makes docs/roofline.md, ``python -m benchmarks.roofline``: of every kernel bytes, operations, floor on an H200, and time.

Floors are computed (:mod:`benchmarks.harness.floors`); times are those of the newest committed results of a GPU. Shapes are those
that the suite measures on a GPU, so that a workload that waits for one stands in the table as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.floors import COSTS, H200, Device
from benchmarks.harness.registry import OURS, Settings
from benchmarks.report import newest
from benchmarks.suite import all_benchmarks
from fulgurite.whole_files import write_text

__all__ = ["main", "page", "rows"]

ROOT = Path(__file__).resolve().parent.parent
# Benchmark -> the kernels that it times.
_KERNELS = {
    "linear": "`gated_lora_linear`",
    "log_probs": "`linear_log_probs`, `linear_cross_entropy`",
    "fusion": "`fused_log_probs`",
    "sparse_linear": "`sparse_delta_linear`",
    "sparse_gradient": "`sparse_delta_linear`, the gradient of its scalars alone",
    "gates": "`ProximalAdamW`'s step over the gates (`proximal_adamw_step_`, `soft_threshold_` inside it)",
    "tree_attention": "attention of packed trees (PyTorch's flex attention, our masks)",
}
_INTRODUCTION = """# Rooflines

Made by `python -m benchmarks.roofline`: bytes and operations follow from shapes, times from `benchmarks/results/`.

The floor is the longer of two times, both by the data sheet of one {name}: operations at {flops:.0f} TFLOP/s (dense bf16
and fp16; products that are exact in float32: {slow:.0f}), and compulsory bytes at {bandwidth:.1f} TB/s. Compulsory means that what
a forward or a backward is given is read once, and what it returns is written once; both are counted. *Of the floor* is floor over
measured. Nothing reaches 100 %: PyTorch's largest matrix products reach about 80 % of the sheet (769 to 798 TFLOP/s at 8192³).

*waits for a GPU*: no results of that shape are committed. One command measures all of them: `python -m benchmarks.gpu`.
"""


def rows(benchmark: str, results: Sequence[dict[str, Any]], device: Device = H200) -> list[dict[str, Any]]:
    """One dict for each workload of a benchmark on a GPU: name, bytes, flops, floor_ms, bound, and measured_ms or None.

    Args:
        benchmark: a key of COSTS.
        results: of :func:`benchmarks.report.newest`.
        device: whose floor is computed.
    """
    measured = {
        workload["name"]: workload["contenders"].get(OURS, {}).get("median_ms")
        for figures in results
        if figures["benchmark"] == benchmark and figures["device"] == "cuda"
        for workload in figures["workloads"]
    }
    found = []
    for workload in all_benchmarks()[benchmark].workloads(Settings("cuda")):
        cost = COSTS[benchmark](workload.facts)
        found.append(
            {
                "name": workload.name,
                "bytes": cost.bytes,
                "flops": cost.flops,
                "floor_ms": device.floor_ms(cost),
                "bound": device.bound(cost),
                "measured_ms": measured.get(workload.name),
            }
        )
    return found


def page(results: Sequence[dict[str, Any]], device: Device = H200) -> str:
    """The page's text."""
    parts = [
        _INTRODUCTION.format(
            flops=device.flops / 1e12,
            slow=device.flops_float32 / 1e12,
            bandwidth=device.bandwidth / 1e12,
            name=device.name,
        )
    ]
    for benchmark in COSTS:
        parts += [f"## {benchmark}: {_KERNELS[benchmark]}", ""]
        parts += ["| shape | GB moved | TFLOP | floor, ms | bound by | measured, ms | of the floor |"]
        parts += ["|---|---:|---:|---:|---|---:|---:|"]
        parts += [_line(row) for row in rows(benchmark, results, device)]
        parts.append("")
    return "\n".join(parts)


def _line(row: dict[str, Any]) -> str:
    cells = [
        row["name"],
        _short(row["bytes"] / 1e9),
        _short(row["flops"] / 1e12),
        _short(row["floor_ms"]),
        row["bound"],
    ]
    if row["measured_ms"] is None:
        cells += ["waits for a GPU", ""]
    else:
        cells += [_short(row["measured_ms"]), f"{row['floor_ms'] / row['measured_ms']:.0%}"]
    return "| " + " | ".join(cells) + " |"


def _short(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-3 else f"{value:.1e}"


def main() -> None:
    """Write the page."""
    path = ROOT / "docs" / "roofline.md"
    write_text(path, page(newest(ROOT / "benchmarks" / "results")))
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
