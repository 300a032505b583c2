"""The processes of `fulgurite thresholds`: runs that are missing, several at a time, each with its share of the machine.

A finished run is a small JSON file, which appears whole or not at all: an interrupted sweep goes on with the runs that are
missing. Each process takes its share of the machine's threads (of its GPUs, one process on each in turn), and ends with the
sweep, however that ends.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fulgurite.commands.thresholds.runs import Run, Settings, run_file, train_and_score
from fulgurite.whole_files import write_text

__all__ = ["cores", "run_all"]


def run_all(
    runs: Sequence[Run],
    settings: Settings,
    folder: Path,
    workers: int,
    work: Callable[[Run, Settings], dict[str, Any]] = train_and_score,
) -> Iterator[dict[str, Any]]:
    """The results of all runs as they come in, those that lie there already first.

    Args:
        runs: what to run.
        settings: shared by them.
        folder: where `runs/` is.
        workers: processes at a time; 1 runs in this one.
        work: what a run does; a function of a module, so that it travels to other processes.

    Raises:
        RuntimeError: runs whose loss was not finite; after all others.
    """
    missing = []
    for run in runs:
        found = _read(run_file(folder, run), run)
        if found is None:
            missing.append(run)
        else:
            yield found
    if not missing:
        return
    diverged: list[tuple[Run, FloatingPointError]] = []
    yield from (
        _here(missing, settings, folder, work, diverged)
        if workers == 1
        else _in_processes(missing, settings, folder, workers, work, diverged)
    )
    if diverged:
        run, error = diverged[0]
        raise RuntimeError(
            f"thresholds: {len(diverged)} of {len(runs)} runs diverged, the first is {run.name}: {error} The others are finished; "
            "take a lower learning rate and another --out, or leave those budgets out."
        )


def _here(
    runs: Sequence[Run], settings: Settings, folder: Path, work: Any, diverged: list[tuple[Run, FloatingPointError]]
) -> Iterator[dict[str, Any]]:
    for run in runs:
        try:
            result = _run_and_write(run, settings, folder, work)
        except FloatingPointError as error:
            diverged.append((run, error))
        else:
            yield result


def _in_processes(
    runs: Sequence[Run],
    settings: Settings,
    folder: Path,
    workers: int,
    work: Any,
    diverged: list[tuple[Run, FloatingPointError]],
) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    threads = max(1, cores() // workers)
    counter = context.Value("i", 0)
    stopped, stop = context.Pipe(duplex=False)
    begin = (threads, counter, stopped)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=begin) as pool:
        waiting = {pool.submit(_run_and_write, run, settings, folder, work): run for run in runs}
        try:
            for done in as_completed(waiting):
                error = done.exception()
                if isinstance(error, FloatingPointError):
                    diverged.append((waiting[done], error))
                else:
                    yield done.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "thresholds: a process of the sweep was killed, perhaps for want of memory; finished runs are kept: give the same "
                "command again, with fewer --workers"
            ) from error
        except BaseException:
            stop.close()  # the processes end at once: what they train has no reader any more
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(threads: int, counter: Any, stopped: Any) -> None:
    """In a new process: its share of the threads, and its GPU, before torch looks for one.

    Args:
        threads: of this process.
        counter: of the processes so far.
        stopped: a pipe that the sweep closes when it is interrupted.
    """
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep too, which ends its processes
    threading.Thread(target=_end_with_parent, args=(stopped,), daemon=True).start()
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    import torch

    count = len(visible) or (torch.cuda.device_count() if torch.backends.cuda.is_built() else 0)
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = (visible or [str(i) for i in range(count)])[index % count]
    torch.set_num_threads(threads)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_and_write(
    run: Run, settings: Settings, folder: Path, work: Callable[[Run, Settings], dict[str, Any]]
) -> dict[str, Any]:
    result = work(run, settings)
    write_text(run_file(folder, run), json.dumps(result) + "\n")
    return result


def _read(file: Path, run: Run) -> dict[str, Any] | None:
    """What a finished run left; None where there is nothing."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        other = [f"{k} {found[k]!r} instead of {v!r}" for k, v in asdict(run).items() if found[k] != v]
        if other:
            raise ValueError(f"it has {', '.join(other)}")
        found["metric"]
        return {**found, "value": float(found["value"]), "tunable": int(found["tunable"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"thresholds: {file} is no finished run ({error}); delete it to have it run again") from error


def _end_with_parent(stopped: Any) -> None:
    """Leave when the sweep is interrupted or killed, which closes no pool: the runs would train on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel, stopped])
    os._exit(1)
