"""`fulgurite synthesize` killed by SIGKILL at random moments and given again: nothing is asked twice, and the rows are the same.

    python -m benchmarks.studies.synthesis.kills --out OUT [--kills 10] [--seed 0]
        [--recipes ultrachat2,ultrainteract,ultrafeedback] [--rows 6] [--wait 0.02] [--concurrency 4]

The recipes are our own, on the playground's rows; in place of their models stands a server that logs every request (`stub`). One
run of each recipe is undisturbed. The other is killed, with all its processes, at a moment drawn evenly over the time that it still
needs, and given again, until all recipes together had so many kills; where one ends before, a further copy is begun. At every kill
the answers that are on the disk are noted: not one of them may be asked for again. What was under way is asked for once more, at
most as many requests as there were at a time. The tables at the end have to be equal, byte for byte. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.harness.machine import stamp
from benchmarks.studies.synthesis.stub import Stub, serving
from fulgurite.synthesis.recipe import OWN_RECIPES
from fulgurite.whole_files import write_text

__all__ = ["Case", "again", "kept_answers", "main", "on_the_stub"]


class Case(NamedTuple):
    """A recipe under test.

    Attributes:
        words: the command, without its folder.
        seconds: that an undisturbed run takes.
        tables: bytes of its files of rows, by name.
        asked: requests of an undisturbed run.
    """

    words: list[str]
    seconds: float
    tables: dict[str, bytes]
    asked: int


def on_the_stub(name: str, stub: Stub, folder: Path, concurrency: int) -> Path:
    """One of our recipes whose models are all the stub's.

    Args:
        name: of the recipe.
        stub: the server.
        folder: where the recipe is written.
        concurrency: requests at a time.
    """
    given = yaml.safe_load((OWN_RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    server = {"server": stub.url, "served_model": "", "concurrency": concurrency}
    given["models"] = {model: {**server, "served_model": model} for model in given["models"]}
    path = folder / f"{name}.yaml"
    write_text(path, yaml.safe_dump(given, sort_keys=False))
    return path


def kept_answers(out: Path) -> set[str]:
    """The requests whose answers are on the disk, as the stub's log has them; a line that was being written is none."""
    found = set()
    for file in (out / "steps").glob("*.jsonl"):
        if file.name.endswith(".verdicts.jsonl"):
            continue
        for line in file.read_bytes().split(b"\n")[1:-1]:
            record = json.loads(line)
            found.add(f"{record['model']} {record['seed'] % 2**31} {record['prompt']}")
    return found


def again(asked: list[str], kept: set[str]) -> list[str]:
    """Requests for answers that are on the disk.

    Args:
        asked: since then, as the stub's log has them.
        kept: what `kept_answers` found.
    """
    return [one for one in asked if one in kept]


def _start(words: list[str], log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        from fulgurite.cli import main as command

        code = command(words)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _ended(pid: int, seconds: float) -> bool:
    """Whether the command ended well within so many seconds; it is killed, with all its processes, where it did not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit(f"kills: a command ended with {os.waitstatus_to_exitcode(status)}")
            return True
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def _tables(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("*.jsonl"))}


def main(words: list[str] | None = None) -> int:
    """The command at the top of this file; 1 if anything was asked twice or a table differs.

    Args:
        words: None for the command line's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", default="ultrachat2,ultrainteract,ultrafeedback")
    parser.add_argument("--rows", type=int, default=6, help="of the playground")
    parser.add_argument("--wait", type=float, default=0.02, help="seconds until the server answers")
    parser.add_argument("--concurrency", type=int, default=4)
    options = parser.parse_args(words)
    import fulgurite.commands.synthesize.command  # noqa: F401  (a kill is to meet the work and not Python's start)

    options.out.mkdir(parents=True, exist_ok=True)
    draw, names, log = random.Random(options.seed), options.recipes.split(","), options.out / "log"
    kills: list[dict[str, Any]] = []
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as room, serving(Path(room) / "requests", options.wait) as stub:
        cases = {name: _undisturbed(name, stub, Path(room), options, log) for name in names}
        for place, name in enumerate(names):
            wanted = options.kills // len(names) + (place < options.kills % len(names))
            found, wrong = _killed(name, cases[name], stub, Path(room), wanted, options, draw, log)
            kills, faults = kills + found, faults + wrong
    repeated = sum(kill["asked again"] for kill in kills)
    print(
        f"{len(kills)} kills: {repeated} answers on the disk were asked for again; {len(faults)} faults: {faults or 'none'}"
    )
    report = {
        **stamp("cpu"),
        "options": {k: str(v) for k, v in vars(options).items()},
        "undisturbed": {name: {"seconds": round(c.seconds, 2), "requests": c.asked} for name, c in cases.items()},
        "kills": kills,
        "faults": faults,
    }
    write_text(options.out / "kills.json", json.dumps(report, indent=1) + "\n")
    return 1 if faults else 0


def _undisturbed(name: str, stub: Stub, room: Path, options: argparse.Namespace, log: Path) -> Case:
    recipe, before = on_the_stub(name, stub, room, options.concurrency), len(stub.asked())
    words = ["synthesize", str(recipe), "--path", "builtin", "--limit", str(options.rows)]
    began = time.monotonic()
    out = room / f"{name}-whole"
    if not _ended(_start([*words, "--out", str(out)], log), 3600.0):
        raise SystemExit(f"kills: {name} did not end within an hour; {log} says what it did")
    seconds, asked = time.monotonic() - began, stub.asked()[before:]
    if len(asked) != len(set(asked)) or set(asked) != kept_answers(out):
        raise SystemExit(
            f"kills: {name} asked {len(asked)} requests, {len(set(asked))} different ones; records: {len(kept_answers(out))}"
        )
    print(f"{name}: {seconds:.1f} s undisturbed, {len(asked)} requests", flush=True)
    return Case(words, seconds, _tables(out), len(asked))


def _killed(
    name: str,
    case: Case,
    stub: Stub,
    room: Path,
    wanted: int,
    options: argparse.Namespace,
    draw: random.Random,
    log: Path,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Kills one recipe so often; what was found at each, and the faults."""
    kills: list[dict[str, Any]] = []
    faults: list[str] = []
    copies, begun, kept, lost = 0, len(stub.asked()), set[str](), 0
    while len(kills) < wanted or kept:
        out, last = room / f"{name}-{copies}", len(kills) == wanted
        moment = 3600.0 if last else draw.uniform(0, case.seconds * max(0.1, 1 - len(kept) / case.asked))
        before = len(stub.asked())
        ended = _ended(_start([*case.words, "--out", str(out)], log), moment)
        asked = stub.asked()
        twice = again(asked[before:], kept)
        if twice:
            faults.append(f"{name}, copy {copies}: {len(twice)} answers that are on the disk were asked for again")
        if not ended:
            kept = kept_answers(out)
            lost = len(set(asked[begun:]) - kept)
            if lost > options.concurrency:
                faults.append(
                    f"{name}, copy {copies}: {lost} requests were under way, at most {options.concurrency} can be"
                )
            kills.append(
                {
                    "recipe": name,
                    "copy": copies,
                    "seconds": round(moment, 3),
                    "kept": len(kept),
                    "under way": lost,
                    "asked again": len(twice),
                }
            )
            print(
                f"kill {len(kills)} of {name}: after {moment:.2f} s, {len(kept)} answers kept, {lost} under way",
                flush=True,
            )
            continue
        differing = [file for file in {*case.tables, *_tables(out)} if _tables(out).get(file) != case.tables.get(file)]
        faults += [f"{name}, copy {copies}: {file} differs" for file in differing]
        print(f"{name}, copy {copies}: ended, {'different' if differing else 'the same rows'}", flush=True)
        copies, begun, kept, lost = copies + 1, len(asked), set(), 0
    return kills, faults


if __name__ == "__main__":
    sys.exit(main())
