"""Runs the benchmarks: ``python -m benchmarks.run [NAME ...] [--device cpu|cuda] [--json FILE] [--profile] [--list]``.

Nothing is timed whose result is wrong: each contender is first compared with a float64 computation. Contenders are timed
in turn, at least 20 samples; a table shows median, p20 and p80, the ratio to the frozen floor and the peak memory over the base's
own. Where the difference to ours lies within p20 to p80 it is marked as a tie. Results that are to be committed go to
``benchmarks/results/<name>_<device>_<date>.json`` (--save).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.harness.machine import stamp
from benchmarks.harness.profiling import profile_step
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, workloads
from benchmarks.harness.sampling import MIN_SAMPLES, graph_of, interleave, summary, tied, whole_time
from benchmarks.memory import peak_bytes
from benchmarks.suite import all_benchmarks
from fulgurite.console import say
from fulgurite.whole_files import write_text

__all__ = ["apart", "check", "main", "run_workload"]

_TOY_SAMPLES = 2
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run what is named, or everything; returns 1 if a result was wrong."""
    options = _options(arguments)
    known = all_benchmarks()
    if options.list:
        say(_listing(known))
        return 0
    settings = Settings(options.device, options.full, options.toy)
    wrong = False
    for name in options.names or list(known):
        benchmark = known[name]
        say(f"{name}: {benchmark.about}")
        figures: dict[str, Any] = {"benchmark": name, "about": benchmark.about, **stamp(options.device)}
        figures["only"] = options.only
        if options.toy:
            figures["toy"] = True
        figures["workloads"] = []
        for workload in workloads(benchmark, settings):
            if options.only and not any(text in workload.name for text in options.only):
                continue
            result = run_workload(benchmark, workload, settings, options)
            figures["workloads"].append(result)
            say(table(result))
            wrong |= any(row.get("wrong") for row in result["contenders"].values())
        figures["load_after"] = os.getloadavg()[0]
        for path in _destinations(options, name, figures["date"], settings.device):
            _write(figures, path)
    return int(wrong)


def run_workload(
    benchmark: Benchmark, workload: Workload, settings: Settings, options: argparse.Namespace
) -> dict[str, Any]:
    """Check, time and weigh every contender of one workload; the dict that lands in the results file."""
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, Step] = {}
    for name, prepare in workload.contenders.items():
        if isinstance(prepare, str):
            rows[name] = {"not_run": prepare}
            continue
        torch.manual_seed(0)
        try:
            step = prepare(workload.base())
            rows[name] = check(benchmark, step)
        except Exception as error:
            rows[name] = {"wrong": True, "why": f"{type(error).__name__}: {error}"}
            continue
        if not rows[name]["wrong"]:
            steps[name] = step
    gc.collect()
    running = {name: step.run for name, step in steps.items()}
    if workload.graph and settings.device.startswith("cuda"):
        running = {name: graph_of(step) for name, step in running.items()}
    if workload.whole:
        samples = whole_time(interleave(running, workload.whole, settings.device, warmup=0))
    else:
        count, warmup = (_TOY_SAMPLES, 1) if settings.toy else (options.samples or benchmark.samples, 3)
        samples = interleave(running, count, settings.device, runs_per_sample=workload.runs_per_sample, warmup=warmup)
    floor = samples.get(workload.floor) if workload.floor else None
    for name, taken in samples.items():
        rows[name] |= summary(taken, floor) | dict(steps[name].facts())
        if options.profile:
            rows[name] |= profile_step(steps[name].run, settings.device)
    del steps, running
    gc.collect()
    for name in samples:
        if workload.memory and not options.no_memory:
            rows[name]["peak_bytes"] = peak_bytes(benchmark.name, workload, name, settings)
        if name != OURS and OURS in samples:
            rows[name]["tie"] = tied(rows[name], rows[OURS])
    return {"name": workload.name, **workload.facts, "floor_bytes": workload.floor_bytes, "contenders": rows}


def check(benchmark: Benchmark, step: Step) -> dict[str, Any]:
    """How wrong one step's results are and how wrong they may be: plain PyTorch's own error plus the step's slack."""
    expected = step.expected()
    error = benchmark.error(step.results(), expected)
    allowed = step.slack
    if step.plain is not None:
        allowed += benchmark.error(step.plain(), expected)
    row: dict[str, Any] = {"error": error, "allowed": allowed, "wrong": not error <= allowed}
    if row["wrong"]:
        row["why"] = f"error {error:.1e}, allowed {allowed:.1e}"
    return row


def table(result: dict[str, Any]) -> Table:
    """One workload as a table."""
    rows = result["contenders"]
    profiled = any("operators" in row for row in rows.values())
    drawn = Table(title=result["name"], title_justify="left", title_style="bold")
    titles = ["contender", "median ms", "p20 - p80", "x floor", "p20 - p80", "peak MiB", "error", "against ours"]
    for title in [*titles, *(["operators", "syncs", "MB moved", "x floor bytes"] if profiled else [])]:
        drawn.add_column(title, justify="left" if title in ("contender", "against ours") else "right")
    for name, row in rows.items():
        if "median_ms" not in row:
            continue
        cells = [name, _number(row["median_ms"]), f"{_number(row['p20_ms'])} - {_number(row['p80_ms'])}"]
        cells += (
            [f"{row['ratio']:.3f}", f"{row['ratio_p20']:.2f} - {row['ratio_p80']:.2f}"] if "ratio" in row else ["", ""]
        )
        cells.append(f"{row['peak_bytes'] / 2**20:.1f}" if "peak_bytes" in row else "")
        cells.append(f"{row['error']:.1e}")
        cells.append(_against_ours(name, row, rows.get(OURS, {})))
        if profiled:
            cells += [str(row.get("kernels", row["operators"])), str(row["synchronisations"])]
            cells.append(f"{row['bytes'] / 1e6:.2f}")
            cells.append(f"{row['bytes'] / result['floor_bytes']:.2f}" if result["floor_bytes"] else "")
        drawn.add_row(*cells)
    missing = [
        f"{n}: {row.get('not_run') or 'WRONG, not timed: ' + row['why']}"
        for n, row in rows.items()
        if "median_ms" not in row
    ]
    parts = [f"{name}: {apart(row)}" for name, row in rows.items() if "parts_ms" in row]
    drawn.caption, drawn.caption_justify = "\n".join([*parts, *missing]), "left"
    return drawn


def apart(row: dict[str, Any]) -> str:
    """The parts of a contender's step, where it says them."""
    parts = ", ".join(f"{part} {_number(ms)} ms" for part, ms in row["parts_ms"].items())
    return f"{parts}; {row['drawn_tokens_per_step']:g} tokens drawn" if "drawn_tokens_per_step" in row else parts


def _against_ours(name: str, row: dict[str, Any], ours: dict[str, Any]) -> str:
    if name == OURS or "median_ms" not in ours:
        return ""
    times = row["median_ms"] / ours["median_ms"]
    if row["tie"]:
        return "tie"
    return f"{times:.1f} times" if times >= 2 else f"{abs(times - 1):.1%} {'slower' if times > 1 else 'faster'}"


def _number(ms: float) -> str:
    return f"{ms:.1f}" if ms >= 100 else f"{ms:.2f}" if ms >= 1 else f"{ms:.4f}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default: all (see --list)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there (one benchmark only)")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results/")
    parser.add_argument("--profile", action="store_true", help="operators or kernels, host synchronisations, bytes")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    parser.add_argument("--samples", type=int, metavar="N", help=f"samples per contender, at least {MIN_SAMPLES}")
    parser.add_argument(
        "--only", metavar="TEXT", action="append", help="only workloads whose name contains this; may be repeated"
    )
    parser.add_argument("--full", action="store_true", help="models at their full depth")
    parser.add_argument(
        "--toy", action="store_true", help="shapes and samples of a trial: shows that it runs, its figures say nothing"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory (a process per contender)")
    options = parser.parse_args(arguments)
    known = all_benchmarks()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"{unknown[0]!r} is no benchmark; known are {', '.join(known)}")
    if options.samples is not None and options.samples < MIN_SAMPLES:
        parser.error(f"--samples {options.samples}: at least {MIN_SAMPLES}, or the percentiles say nothing")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that PyTorch can use")
    if options.toy and options.save:
        parser.error("--toy gives no figures that could be saved; keep them with --json if you want to look at them")
    if options.json and len(options.names) != 1:
        parser.error("--json keeps one benchmark: name it; --save keeps each in a file of its own")
    return options


def _listing(known: dict[str, Benchmark]) -> Table:
    listing = Table(title="benchmarks", title_justify="left")
    for title in ("name", "what it times", "samples"):
        listing.add_column(title)
    for name, benchmark in known.items():
        listing.add_row(name, benchmark.about, str(benchmark.samples))
    return listing


def _destinations(options: argparse.Namespace, name: str, date: str, device: str) -> list[Path]:
    kept = [RESULTS / f"{name}_{device}_{date}.json"] if options.save else []
    return kept + ([options.json] if options.json else [])


def _write(figures: dict[str, Any], path: Path) -> None:
    write_text(path, json.dumps(figures, indent=1) + "\n")
    say(f"written: {path} ({datetime.datetime.now():%H:%M})")


if __name__ == "__main__":
    raise SystemExit(main())
