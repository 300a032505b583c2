"""PassUntil killed by SIGKILL at random moments on a real model, and given again: the same passes, the same estimates.

    python -m benchmarks.studies.pass_rates.kills --model FOLDER --rows mbpp.jsonl --out OUT [--task mbpp --key task_id]
        [--among 120 --first 16 --problems 40] [--passes 2 --cap 2000] [--kills 5 --seed 0] [options of `fulgurite evaluate`]

With --first 0 the first `problems` rows are taken. Otherwise they are those of the first `among` rows of which most of `first`
answers of another seed pass, so that r passes of each take hours less than on rows that a small model never solves: the score is
then one of these problems, not of the benchmark. Their pass rates are drawn anew.

One run is undisturbed. The other is killed, with all its processes, at a moment drawn evenly over the time that it still needs, and
given again, until there were so many kills; where it ends before one, a further copy is begun. Equal have to be the score with its
interval, the states, and which draws pass, as far as both made them: how many are drawn beyond those that count depends on the
batches, which a run that was stopped forms anew. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import stamp

__all__ = ["main"]


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "fulgurite", "evaluate", *words]


def _run(words: list[str], log: Path) -> float:
    began = time.monotonic()
    with log.open("a") as stream:
        code = subprocess.run(_command(words), stdout=stream, stderr=stream, check=False).returncode
    if code != 0:
        raise SystemExit(f"kills: {' '.join(words)} ended with {code}; {log} says why:\n{log.read_text()[-1500:]}")
    return time.monotonic() - began


def _killed(words: list[str], log: Path, moment: float) -> bool:
    """Whether the command was killed: it still ran after so many seconds."""
    with log.open("a") as stream:
        process = subprocess.Popen(_command(words), stdout=stream, stderr=stream, start_new_session=True)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    return False


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _choose(options: argparse.Namespace, words: list[str], log: Path) -> tuple[Path, list[int]]:
    """Writes the chosen rows; returns their file and the passes that each had, none where nothing was drawn to choose them."""
    rows = [line for line in options.rows.read_text(encoding="utf-8").splitlines() if line.strip()][: options.among]
    if not options.first:
        among = options.out / "chosen.jsonl"
        among.write_text("\n".join(rows[: options.problems]) + "\n", encoding="utf-8")
        return among, []
    among, first = options.out / "among.jsonl", options.out / "first"
    among.write_text("\n".join(rows) + "\n", encoding="utf-8")
    if not (first / "results.json").is_file():
        picked = [
            "--path",
            str(among),
            "--n",
            str(options.first),
            "--temperature",
            "1",
            "--seed",
            str(options.seed + 1),
        ]
        _run([*words, *picked, "--out", str(first)], log)
    keys = [str(json.loads(row)[options.key]) for row in rows]
    passes = dict.fromkeys(keys, 0)
    for record in _lines(first / options.task / "scores.jsonl"):
        if "item" in record:
            passes[record["item"]] += record["correct"] == 1
    best = sorted(range(len(rows)), key=lambda place: -passes[keys[place]])[: options.problems]
    chosen = options.out / "chosen.jsonl"
    chosen.write_text("".join(rows[place] + "\n" for place in sorted(best)), encoding="utf-8")
    return chosen, [passes[keys[place]] for place in sorted(best)]


def _end(folder: Path, task: str) -> dict[str, Any]:
    """The outcome: states, score with its interval, and of each item the draws that were made and those that passed."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = results["results"][task]
    drawn: dict[str, int] = {}
    passed: dict[str, set[int]] = {}
    for line in _lines(folder / task / "draws.jsonl"):
        if "item" in line:
            drawn[line["item"]] = max(drawn.get(line["item"], 0), line["start"] + line["count"])
            passed.setdefault(line["item"], set()).update(line["passed"])
    return {
        **{name: found[name] for name in ("score", "states", "task_draws", "draws")},
        "drawn": drawn,
        "passed": passed,
    }


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not the same in two outcomes."""
    found = [name for name in ("score", "states", "task_draws") if one[name] != other[name]]
    for item in one["drawn"].keys() & other["drawn"].keys():
        both = min(one["drawn"][item], other["drawn"][item])
        if {i for i in one["passed"][item] if i < both} != {i for i in other["passed"][item] if i < both}:
            found.append(f"passes of {item}")
    return found


def main(words: list[str] | None = None) -> int:
    """The command at the top of this file; 1 if the ends differ.

    Args:
        words: None for the command line's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines of the task")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="mbpp")
    parser.add_argument("--key", default="task_id", help="the field of a row by which the task knows it")
    for name, default in (("among", 120), ("first", 16), ("problems", 40), ("passes", 2), ("cap", 2000), ("kills", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    options, rest = parser.parse_known_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    log, draw = options.out / "log", random.Random(options.seed)
    common = ["--model", options.model, "--tasks", options.task, *rest]
    chosen, before = _choose(options, common, log)
    if before:
        print(
            f"{len(before)} problems were chosen, of which {sum(before)} of {len(before) * options.first} answers passed",
            flush=True,
        )
    until = [
        "--path",
        str(chosen),
        "--seed",
        str(options.seed),
        "--until_passes",
        str(options.passes),
        "--cap",
        str(options.cap),
    ]
    whole = options.out / "whole"
    seconds = _run([*common, *until, "--out", str(whole)], log)
    expected = _end(whole, options.task)
    print(f"undisturbed: {seconds:.0f} s, {expected['draws']} draws, {expected['states']}", flush=True)
    moments: list[dict[str, float | int]] = []
    start, copies, wrong, ended = min(20.0, seconds / 4), 0, set[str](), False  # at first the model is loaded
    while len(moments) < options.kills or not ended:
        broken = options.out / f"broken-{copies}"
        done = sum(line.get("count", 0) for line in _lines(broken / options.task / "draws.jsonl"))
        last = len(moments) == options.kills
        moment = draw.uniform(start, start + (seconds - start) * max(0.1, 1 - done / expected["draws"]))
        if not last and _killed([*common, *until, "--out", str(broken)], log, moment):
            kept = sum(line.get("count", 0) for line in _lines(broken / options.task / "draws.jsonl"))
            moments.append({"seconds": round(moment, 2), "draws": kept, "copy": copies})
            print(f"kill {len(moments)}: after {moment:.1f} s, {kept} draws are kept", flush=True)
            ended = False
            continue
        if last:
            _run([*common, *until, "--out", str(broken)], log)
        found = _end(broken, options.task)
        differing = _differing(expected, found)
        copies, wrong, ended = copies + 1, wrong | set(differing), True
        told = (
            f"different {', '.join(differing)}" if differing else f"the same score and passes ({found['draws']} draws)"
        )
        print(f"after {len(moments)} kills in all it ended: {told}", flush=True)
    report = {
        **stamp("cpu"),
        "options": {k: str(v) for k, v in vars(options).items()},
        "seconds": seconds,
        "kills": moments,
        "different": sorted(wrong),
        **{name: expected[name] for name in ("score", "task_draws", "draws", "states")},
    }
    (options.out / "kills.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
