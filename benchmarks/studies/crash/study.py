"""Study: emulators of a real model by CRaSh and by uniform LayerDrop, trained on real questions, and what the full model gains.

    python -m benchmarks.studies.crash.study --model FOLDER --out runs/crash [--keep 15] [--seeds 0,1,2] [--json FILE]

Zero-shot, full fine-tuning, the emulator before and after training, and the full model with the tuned layers (plug-in), for both
methods with the three kinds of sharing, on ARC-Easy, OpenBookQA and ARC-Challenge. Layers are compared over the first rows of the
training file; the seed draws which of its rows are trained on. The first rows of ARC-Easy's test file and of the validation files
of the two others are scored. Every arm has the same learning rate, the largest of the paper's grid, since the steps are few.

Each arm that is finished is a line of OUT/arms.jsonl: the same command goes on where it was stopped. OUT/models gets the base, the
fully tuned model and CRaSh's plug-in with repeat-all of the first seed, for `fulgurite landscape`. Questions are read from
FULGURITE_REAL_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
import warnings
from dataclasses import asdict
from pathlib import Path

from benchmarks.science import machine, real_data
from benchmarks.studies.crash.arms import TASKS, Bench, Settings, arms_of
from benchmarks.studies.crash.summary import summarise, table
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.whole_files import write_text

__all__ = ["main"]

_FIELDS = ("task", "kind", "seed", "keep", "method", "sharing")


def main(arguments: list[str] | None = None) -> None:
    """Runs the arms that are missing, prints the table, and with --json writes everything.

    Args:
        arguments: words of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.crash.study", description=(__doc__ or "")[:127])
    parser.add_argument("--model", required=True, help="the full model: a folder, hub id, or playground")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows_in", type=Path, help="folder of the questions; default: qa in the real rows")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--keep", default="15", help="layers that stay, several with commas")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path)
    for name, value in list(asdict(Settings("")).items())[1:]:
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings(""))})
    tasks = options.tasks.split(",")
    keeps, seeds = ([int(word) for word in text.split(",")] for text in (options.keep, options.seeds))
    data = options.rows_in or real_data() / "qa"
    files = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for task in tasks for name in TASKS[task]}
    identity = {"settings": asdict(settings), "files": files}
    with RecordFile(options.out / "arms.jsonl", "arms", identity, _FIELDS) as file:
        records = {tuple(record[name] for name in _FIELDS): record for record in file.records}
        bench: Bench | None = None
        for arm in arms_of(tasks, keeps, seeds):
            key = tuple(getattr(arm, name) for name in _FIELDS)
            if key in records:
                continue
            bench = bench or Bench(settings, data, options.out)
            begun = time.perf_counter()
            found = bench.run(arm, keep_models=arm.seed == seeds[0])
            records[key] = {**asdict(arm), **found, "seconds": round(time.perf_counter() - begun, 1)}
            file.add(records[key])
            shown = {k: round(records[key][k]["mean_loss"], 3) for k in ("emulator", "model") if k in found}
            print(*key, shown, records[key]["seconds"], "s", flush=True)
    figures = {"study": "crash", "machine": machine(), **identity, "arms": list(records.values())}
    print("\n".join(table(summarise(list(records.values())))))
    if options.json:
        write_text(options.json, json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
