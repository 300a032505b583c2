"""Makes docs/benchmarks.md and its pictures from the committed results alone: ``python -m benchmarks.report``.

For each benchmark and device the newest file of ``benchmarks/results/`` that :mod:`benchmarks.run` wrote is taken (after a run of
some workloads alone, ``--only``, the others come from older files and say so); results of the science studies, which have no
``benchmark`` key, are left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness.registry import Settings
from benchmarks.run import apart
from benchmarks.suite import all_benchmarks
from fulgurite.whole_files import whole_file, write_text

__all__ = ["main", "newest", "page", "waiting"]

ROOT = Path(__file__).resolve().parent.parent
_OURS = "fulgurite"
# What a contender was called when older results were written.
_RENAMED = {"TRL selective_log_softmax": "TRL before 1.14"}
_INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks.report` from the files in `benchmarks/results/`; measure anew with `python -m benchmarks.run --save`
(`--list` names the benchmarks, `--device cuda` takes the GPU).

How to read the tables. Nothing is timed whose result is wrong: outputs and gradients of each contender are first compared with a
float64 computation; *error* is the largest relative error found (whole models: of the norm of all gradients). Contenders are timed
in turn, in a new order each round, at least 20 samples each. *x floor* is the median of the rounds' own ratios to the frozen layer
or model, which trains nothing (in whole_training: to our LoRA; in sparse_gradient: to the weight's whole gradient). *Peak* is the
memory of a step over that of the base (weights and batch), on a CPU each measured in a fresh process. **Tie**: one median lies
within the other's p20 to p80; such a difference is not a win, whoever it favours.

Low-rank layers are used as their packages ship them: PEFT keeps adapters in float32 and copies a bf16 input to it unless
`autocast_adapter_dtype=False` ("bf16 adapters"). *released SoRA* is the composition and the optimizer of the authors' code, *plain
torch* our kernel's twin in ordinary autograd. Ours keeps float32 factors beside a bf16 base.

Sparse adapters all train the same positions, which PEFT's SHiRA and SuperTuning are given after they made their layers.

On a GPU ours is timed once more without Triton (*PyTorch's kernels*), which decides what `use_backend("auto")` takes. In llama_step
of 2026-11-27 *fulgurite* still is Triton's low-rank kernels; they were no faster, and `auto` leaves those layers to PyTorch since.
In sparse_gradient replays of CUDA graphs are timed: what the kernels take, without the latency of launches, which on that virtual
machine was tens of microseconds each. Everything else is timed as Python launches it.

*TRL before 1.14* is its `selective_log_softmax` on whole logits; since then TRL has a fused head, *TRL ChunkedLogProbFunction*. Its
trainers use it by default since 1.15: on a GPU for completion tokens alone, on a CPU for every position.
"""
_WAITING = """These were not measured on a GPU yet (in brackets: contenders that came later).
`python -m benchmarks.gpu` measures them in short pieces in the order of their value: it prints its plan first, keeps what it found
after each piece, and goes on with `--resume`. `--dry-run` only prints the plan; `--pack FOLDER` takes along what a machine without
a network lacks."""


def newest(folder: Path) -> list[dict[str, Any]]:
    """The newest results of each benchmark and device, in the order of their names."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        if "benchmark" not in figures:
            continue
        for workload in figures["workloads"]:
            rows = workload["contenders"]
            workload["contenders"] = {_RENAMED.get(name, name): row for name, row in rows.items()}
        key = (figures["benchmark"], figures["device"])
        if key not in found or figures["date"] >= found[key]["date"]:
            found[key] = _with_older(figures, found.get(key))
    return [found[key] for key in sorted(found)]


def _with_older(figures: dict[str, Any], older: dict[str, Any] | None) -> dict[str, Any]:
    """A run of some workloads alone (--only) leaves the others' older figures standing, with their date."""
    if older is None or not figures.get("only"):
        return figures
    measured = {workload["name"] for workload in figures["workloads"]}
    rest = [
        {"measured": f"{older['date']}, commit {older['commit']}", **workload}
        for workload in older["workloads"]
        if workload["name"] not in measured
    ]
    return {**figures, "workloads": figures["workloads"] + rest}


def waiting(results: list[dict[str, Any]]) -> list[str]:
    """Lines: for each benchmark the workloads of a GPU of which there are no results, and contenders that came later."""
    measured = {
        (figures["benchmark"], workload["name"]): workload["contenders"]
        for figures in results
        if figures["device"] == "cuda"
        for workload in figures["workloads"]
    }
    lines = []
    for name, benchmark in all_benchmarks().items():
        missing = []
        for workload in benchmark.workloads(Settings("cuda")):
            known = measured.get((name, workload.name))
            fresh = [] if known is None else [contender for contender in workload.contenders if contender not in known]
            if known is None:
                missing.append(workload.name)
            elif fresh:
                missing.append(f"{workload.name} ({', '.join(fresh)})")
        if missing:
            lines.append(f"- {name}: {'; '.join(missing)}")
    return lines


def page(results: list[dict[str, Any]], left: list[str] | None = None) -> str:
    """The page's text.

    Args:
        results: of :func:`newest`.
        left: of :func:`waiting`.
    """
    parts = [_INTRODUCTION]
    if left:
        parts += ["## What waits for a GPU", "", _WAITING, "", *left, ""]
    for figures in results:
        name = f"{figures['benchmark']}_{figures['device']}"
        parts += [f"## {figures['benchmark']} ({figures['device']})", "", figures["about"], "", _machine(figures), ""]
        if _drawable(figures):
            parts += [f"![{name}: time over the floor](benchmarks_{name}.png)", ""]
        for workload in figures["workloads"]:
            parts += [f"### {workload['name']}", ""]
            if "measured" in workload:
                parts += [f"Measured {workload['measured']}.", ""]
            parts += [*_table(workload), ""]
    return "\n".join(parts).rstrip() + "\n"


def picture(figures: dict[str, Any], path: Path) -> None:
    """Bars: each workload's contenders, ratio to the floor with p20 to p80 (or ms where there is no floor)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    workloads = figures["workloads"]
    names = list(dict.fromkeys(n for w in workloads for n, row in w["contenders"].items() if "ratio" in row))
    names = [n for n in names if any(w["contenders"].get(n, {}).get("ratio", 1.0) != 1.0 for w in workloads)]
    names.sort(key=lambda name: name == _OURS)
    height = 0.8 / max(len(names), 1)
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.17 * len(names) * len(workloads)), layout="constrained")
    for index, name in enumerate(names):
        rows = [(i, w["contenders"].get(name, {})) for i, w in enumerate(workloads)]
        rows = [(i, row) for i, row in rows if "ratio" in row]
        values = [row["ratio"] for _, row in rows]
        spread = [
            [max(0.0, row["ratio"] - row["ratio_p20"]) for _, row in rows],
            [max(0.0, row["ratio_p80"] - row["ratio"]) for _, row in rows],
        ]
        places = [i + index * height for i, _ in rows]
        colour = (
            {"color": "#d95f02"} if name == _OURS else {"color": plt.get_cmap("Greys")(0.3 + 0.5 * index / len(names))}
        )
        axes.barh(places, values, height * 0.9, xerr=spread, label=name, error_kw={"lw": 0.8}, **colour)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(workloads))], [w["name"] for w in workloads], fontsize=8)
    ratios = [row["ratio"] for w in workloads for row in w["contenders"].values() if "ratio" in row]
    axes.set_xlim(left=0.8 if min(ratios) >= 0.8 else 0.0)
    axes.set_ylim(len(workloads) - 0.1, -0.2)
    axes.set_xlabel("time, times the floor's (bars: median, lines: p20 to p80)")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=130, format="png")
    plt.close(figure)


def main() -> None:
    """Write the page and its pictures."""
    results = newest(ROOT / "benchmarks" / "results")
    docs = ROOT / "docs"
    for figures in results:
        if _drawable(figures):
            picture(figures, docs / f"benchmarks_{figures['benchmark']}_{figures['device']}.png")
    write_text(docs / "benchmarks.md", page(results, waiting(results)))
    print(f"written: docs/benchmarks.md from {len(results)} results")


def _drawable(figures: dict[str, Any]) -> bool:
    return any("ratio" in row for w in figures["workloads"] for row in w["contenders"].values())


def _machine(figures: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return (
        f"{figures['device_name']}, {figures['threads']} threads on {figures['cores']} cores; "
        f"Python {figures['python']}, {versions}; "
        f"commit {figures['commit']}, {figures['date']}; load of the machine before and after: "
        f"{figures['load_before']:.1f}, {figures['load_after']:.1f} (idle would be 0)."
    )


def _table(workload: dict[str, Any]) -> list[str]:
    rows = workload["contenders"]
    timed = {name: row for name, row in rows.items() if "median_ms" in row}
    profiled = any("operators" in row for row in timed.values())
    extra = [" operators | waits | MB moved |", "---:|---:|---:|"] if profiled else ["", ""]
    lines = [
        "| contender | median ms | p20 – p80 | x floor | peak MiB | error | against ours |" + extra[0],
        "|---|---:|---:|---:|---:|---:|---|" + extra[1],
    ]
    for name, row in timed.items():
        cells = [name, _ms(row["median_ms"]), f"{_ms(row['p20_ms'])} – {_ms(row['p80_ms'])}"]
        cells.append(f"{row['ratio']:.3f}" if "ratio" in row else "")
        cells.append(f"{row['peak_bytes'] / 2**20:.1f}" if "peak_bytes" in row else "")
        cells += [f"{row['error']:.1e}", _verdict(name, row, timed.get(_OURS))]
        if profiled:
            cells += [
                str(row.get("kernels", row["operators"])),
                str(row["synchronisations"]),
                f"{row['bytes'] / 1e6:.2f}",
            ]
        lines.append("| " + " | ".join(f"**{c}**" if name == _OURS and c else c for c in cells) + " |")
    for name, row in rows.items():
        if "ranks_left" in row:
            lines += [
                "",
                f"{name}: {row['ranks_left']} of {row['ranks_at_start']} ranks were left at the end; "
                f"{row['modules_at_zero']} of {row['modules']} modules had none.",
            ]
    parts = [f"{name}: {apart(row)}" for name, row in timed.items() if "parts_ms" in row]
    lines += ["", "Medians of a step's parts. " + ". ".join(parts) + "."] if parts else []
    absent = [
        f"{name} ({row.get('not_run') or 'WRONG: ' + row['why']})" for name, row in rows.items() if name not in timed
    ]
    return [*lines, *(["", "Not measured: " + "; ".join(absent) + "."] if absent else [])]


def _verdict(name: str, row: dict[str, Any], ours: dict[str, Any] | None) -> str:
    if ours is None or name == _OURS:
        return ""
    if row["tie"]:
        return "tie"
    times = row["median_ms"] / ours["median_ms"]
    return f"{times:.1f} times" if times >= 2 else f"{abs(times - 1):.1%} {'slower' if times > 1 else 'faster'}"


def _ms(value: float) -> str:
    return (
        f"{value:.0f}"
        if value >= 1000
        else f"{value:.1f}"
        if value >= 100
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.4f}"
    )


if __name__ == "__main__":
    main()
