"""Peak memory of a step over its base's own, each contender in a fresh process on the CPU.

CPU: the peak resident size while two steps run, less the resident size with only the base (layer or model and batch) in
it; what the contender keeps (adapters, optimizer state) counts. tracemalloc does not see tensors. The allocator is told to give
blocks of 128 KiB and more back at once, so that the resident size is what is alive and not what has been. CUDA: the
allocator's own peak of what is alive, which earlier contenders of the process do not change.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.registry import Settings, Workload, workloads
from benchmarks.suite import all_benchmarks

__all__ = ["peak_bytes", "peak_of_step", "peak_so_far", "reset_peak", "return_freed_blocks"]

_M_MMAP_THRESHOLD = -3
_PRELOAD = ["benchmarks.harness.registry", "benchmarks.memory", "transformers", "peft", "torch._dynamo"]


def peak_bytes(benchmark: str, workload: Workload, contender: str, settings: Settings) -> int:
    """Bytes that two steps of one contender need at their peak, over the base's own.

    On the CPU a server without threads is started once and forks for each call: a fresh process without the seconds of its imports.
    """
    if settings.device != "cpu":
        prepare = workload.contenders[contender]
        assert not isinstance(prepare, str)
        return peak_of_step(workload.base, prepare, settings.device)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, benchmark, workload.name, contender, settings))
    child.start()
    theirs.close()
    try:
        answer = mine.recv()
    except EOFError:
        answer = f"exit code {child.exitcode}"
    child.join()
    if not isinstance(answer, int):
        raise RuntimeError(f"memory of {benchmark}, {workload.name}, {contender} could not be measured: {answer}")
    return answer


def _answer(pipe: Any, benchmark: str, workload: str, contender: str, settings: Settings) -> None:
    try:
        return_freed_blocks()
        found = next(w for w in workloads(all_benchmarks()[benchmark], settings) if w.name == workload)
        prepare = found.contenders[contender]
        assert not isinstance(prepare, str)
        pipe.send(peak_of_step(found.base, prepare, settings.device))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def peak_of_step(base: Any, prepare: Any, device: str) -> int:
    """The same in this process; see the module docstring."""
    warm = torch.randn(256, 256, device=device)
    (warm @ warm).relu_().sum()
    held = base()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = reset_peak()
    step = prepare(held)
    gc.collect()
    if device.startswith("cuda"):  # what drawing a mask or copying a factor took is no part of a step
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()
    for _ in range(2):
        step.run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return max(peak_so_far() - before, 0)


def return_freed_blocks() -> None:
    """From here on the allocator gives freed blocks of 128 KiB and more back at once, on Linux."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def reset_peak() -> int:
    """Bytes resident now; the peak is counted from here where the system allows it, else the peak so far is returned."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return peak_so_far()


def peak_so_far() -> int:
    """The largest resident size, in bytes, since :func:`reset_peak` where the system allows that."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
