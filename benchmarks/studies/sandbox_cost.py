"""Study: what does the sandbox cost? One program beside a bare subprocess of the same Python, and a thousand on all processors.

    python -m benchmarks.studies.sandbox_cost [--layer NAME] [--programs 1000] [--json FILE]

The bare subprocess runs program and test in one interpreter. Both are timed in turn; the cost is the difference of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fulgurite.sandbox import Job, Sandbox, run_many

__all__ = ["alone", "main", "many"]

PROGRAM = """from typing import List


def close(numbers: List[float], threshold: float) -> bool:
    ordered = sorted(numbers)
    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))
"""
TEST = """
def check(candidate):
    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True
    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) == False
    assert candidate([1.0, 2.0, 5.9, 4.0, 5.0], 0.95) == True
    assert candidate([1.1, 2.2, 3.1, 4.1, 5.1], 0.5) == False
"""


def _spread(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=10)
    return {"median": statistics.median(times), "p20": cuts[1], "p80": cuts[7]}


def alone(sandbox: Sandbox, samples: int) -> dict[str, Any]:
    """Times in seconds of one program at a time: in the sandbox, and in a bare subprocess."""
    bare, ours = [], []
    for _ in range(samples):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"{PROGRAM}{TEST}check(close)\n"], check=True, stdin=subprocess.DEVNULL)
        bare.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        result = sandbox.run_tests(PROGRAM, TEST, "close")
        ours.append(time.perf_counter() - begun)
        if not result.passed:
            raise RuntimeError(f"the program did not pass: {result}")
    cost = statistics.median(ours) - statistics.median(bare)
    return {"bare": _spread(bare), "sandbox": _spread(ours), "cost": cost}


def many(sandbox: Sandbox, programs: int, workers: int) -> float:
    """Seconds for many programs side by side."""
    begun = time.perf_counter()
    results = run_many([Job(PROGRAM, TEST, "close")] * programs, workers, sandbox)
    if not all(result.passed for result in results):
        raise RuntimeError("not all programs passed")
    return time.perf_counter() - begun


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layer", default="auto")
    parser.add_argument("--python", help="executable of another Python for the sandbox")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    sandbox = Sandbox(options.layer, python=options.python)
    figures: dict[str, Any] = {
        "layer": sandbox.layer.name,
        "workers": options.workers,
        **alone(sandbox, options.samples),
    }
    for name in ("bare", "sandbox"):
        times = {key: round(1000 * value, 1) for key, value in figures[name].items()}
        print(f"{name:8} median {times['median']} ms, p20 {times['p20']}, p80 {times['p80']}")
    print(f"cost     {1000 * figures['cost']:.1f} ms per program")
    if options.programs:
        figures["programs"], figures["seconds"] = options.programs, many(sandbox, options.programs, options.workers)
        print(f"{options.programs} programs on {options.workers} workers: {figures['seconds']:.1f} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
