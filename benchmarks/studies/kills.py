"""Commands killed by SIGKILL at random moments and given again: nothing is lost, and the end is that of an undisturbed one.

    python -m benchmarks.studies.kills [--kills 60] [--seed 0] [--verbs fit,score,generate,export,thresholds] [--other /dev/shm]

Each verb first runs undisturbed. Then it is killed, with all its processes, at a moment drawn evenly over that time, and given
again as its own messages say: `fit` with `--ckpt_path last` where a checkpoint was left, else with `--overwrite`; the others as
they were.
What it leaves must be equal bit for bit (weights and optimizer of a fit, lines, files, scores), and no other file may lie there
but an older checkpoint.
Every second round has its temporary folder on another file system. Commands are forked from one process that has imported
everything, so that a kill meets their work and not Python's start. Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["main"]

_ENDLESS = 600.0
_FIT = (
    "fit --model SoRAModule --model.backbone playground --model.dropout 0.1 --model.threshold 0.02 --data GLUEDataModule "
    "--data.task sst2 --data.path builtin --data.limit_train 64 --data.batch_size 4 --trainer.max_epochs 2 "
    "--trainer.limit_val_batches 2 --trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.logger false "
    "--trainer.callbacks ModelCheckpoint --trainer.callbacks.every_n_train_steps 1 --trainer.callbacks.save_last true"
)
_REWARD = (
    "fit --model RewardModule --model.backbone playground --data UltraFeedbackDataModule --data.path builtin --data.limit_train 8 "
    "--data.batch_size 2 --trainer.max_steps 1 --trainer.limit_val_batches 0 --trainer.accelerator cpu --trainer.logger false "
    "--trainer.enable_progress_bar false"
)
_SWEEP = (
    "thresholds --methods [uniform_scalar] --budgets [64,256] --seeds [0] --epochs 1 --limit_train 16 --limit_eval 8 "
    "--full_tuning false --workers 1"
)


class Case(NamedTuple):
    """A verb under test.

    Attributes:
        words: the command for a folder.
        again: the command after a kill.
        result: what must be equal at the end.
    """

    words: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    result: Callable[[Path], Any]


def _cases(room: Path) -> dict[str, Case]:
    prompts = room / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What is {i} plus {i + 3}?"}) + "\n" for i in range(24)))
    answers = room / "answers.jsonl"
    pairs = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No."} for i in range(200)]
    answers.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def fit(folder: Path) -> list[str]:
        places = ["--trainer.default_root_dir", folder, "--trainer.callbacks.dirpath", folder / "checkpoints"]
        return [*_FIT.split(), *map(str, places)]

    def fit_again(folder: Path) -> list[str]:
        begun = (folder / "checkpoints" / "last.ckpt").is_file()
        return [*fit(folder), *(["--ckpt_path", "last"] if begun else ["--overwrite", "true"])]

    def score(folder: Path) -> list[str]:
        model = room / "reward" / "checkpoints" / "last.ckpt"
        return ["score", "--model", str(model), "--file", str(answers), "--output", str(folder / "out.jsonl")]

    def generate(folder: Path) -> list[str]:
        words = ["generate", "--model", "playground", "--file", str(prompts), "--output", str(folder / "out.jsonl")]
        return [*words, "--max_new_tokens", "24", "--batch_size", "4", "--temperature", "0.8"]

    def export(folder: Path) -> list[str]:
        return ["export", "--ckpt_path", str(room / "fit" / "checkpoints" / "last.ckpt"), "--out", str(folder / "out")]

    def sweep(folder: Path) -> list[str]:
        return [*_SWEEP.split(), "--out", str(folder / "out")]

    return {
        "fit": Case(fit, fit_again, _weights),
        "score": Case(score, score, _files),
        "generate": Case(generate, generate, _files),
        "export": Case(export, export, _files),
        "thresholds": Case(sweep, sweep, _scores),
    }


def _weights(folder: Path) -> dict[str, Any]:
    """Hashes of the trained tensors and of the optimizer's state at the end, and the step."""
    import torch

    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    tensors = {f"state_dict.{name}": value for name, value in saved["state_dict"].items()}
    for place, state in enumerate(saved["optimizer_states"]):
        for key, values in state["state"].items():
            tensors |= {f"{place}.{key}.{n}": v for n, v in values.items() if isinstance(v, torch.Tensor)}
    hashes = {name: hashlib.sha256(v.cpu().contiguous().numpy().tobytes()).hexdigest() for name, v in tensors.items()}
    return {"step": saved["global_step"], **hashes}


def _files(folder: Path) -> dict[str, str]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _scores(folder: Path) -> Any:
    """The sweep's figures without the times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if not any(w in k for w in ("second", "time", "date"))}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return timeless(json.loads((folder / "out" / "thresholds.json").read_text(encoding="utf-8")))


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _start(words: list[str], temporary: Path, log: Path) -> int:
    """Forks a process that runs the command in a group of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        from fulgurite.cli import main as command

        code = command(words)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code, or None if the process still runs after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _run(words: list[str], temporary: Path, log: Path) -> None:
    code = _wait(_start(words, temporary, log), _ENDLESS)
    if code != 0:
        raise SystemExit(f"kills: {' '.join(words)} ended with {code}; {log} says why:\n{log.read_text()[-1500:]}")


def main(words: list[str] | None = None) -> int:
    """The command at the top of this file; 1 if any end differed.

    Args:
        words: None for the command line's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default="fit,score,generate,export,thresholds")
    parser.add_argument("--other", default="/dev/shm", help="folder on another file system than the temporary one")
    options = parser.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import fulgurite.commands.fit.trainer
    import fulgurite.commands.generate.command
    import fulgurite.commands.score.command
    import fulgurite.commands.thresholds.command  # noqa: F401

    verbs, draw, wrong = options.verbs.split(","), random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=options.other) as other:
        room, temporary = Path(name), [Path(name) / "tmp", Path(other)]
        temporary[0].mkdir()
        os.environ["FULGURITE_CACHE"] = str(room / "cache")
        cases, log = _cases(room), room / "log"
        _run([*_REWARD.split(), "--trainer.default_root_dir", str(room / "reward")], temporary[0], log)
        ends: dict[str, tuple[float, Any, set[str]]] = {}
        for verb in dict.fromkeys(["fit", *verbs]):
            folder = room / verb
            folder.mkdir()
            began = time.monotonic()
            _run(cases[verb].words(folder), temporary[0], log)
            ends[verb] = time.monotonic() - began, cases[verb].result(folder), _names(folder)
            print(f"{verb}: {ends[verb][0]:.1f} s undisturbed, {len(ends[verb][2])} files", flush=True)
        done, number, stale = 0, 0, 0
        while done < options.kills:
            verb = verbs[done % len(verbs)]
            seconds, expected, names = ends[verb]
            folder, moment = room / f"{verb}-{number}", draw.uniform(0.02, 1) * seconds
            folder.mkdir()
            number, place = number + 1, temporary[done // len(verbs) % 2]
            began = time.monotonic()
            pid = _start(cases[verb].words(folder), place, log)
            if (
                _wait(pid, moment) is not None
            ):  # it had ended: that is no kill, and the verb is faster than it was thought to be
                ends[verb] = time.monotonic() - began, expected, names
                shutil.rmtree(folder)
                continue
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            left, done = len(_names(folder)), done + 1
            _run(cases[verb].again(folder), place, log)
            extra = sorted(_names(folder) - names)
            older = [file for file in extra if re.fullmatch(r"checkpoints/epoch=\d+-step=\d+\.ckpt", file)]
            faults = [] if cases[verb].result(folder) == expected else ["another end"]
            if rest := sorted(set(extra) - set(older)):
                faults.append(f"files that are not there otherwise: {', '.join(rest)}")
            stale += len(older)
            told = "; ".join(faults) or f"the same end{', and an older checkpoint' if older else ''}"
            moved = "" if place == temporary[0] else f", temporary folder in {options.other}"
            print(f"{done:>3} {verb}: killed after {moment:.2f} s with {left} files{moved}: {told}", flush=True)
            wrong += [done] if faults else []
            shutil.rmtree(folder)
    if stale:
        print(
            f"{stale} older checkpoints stayed: Lightning removes the one before when the next one is whole, and was killed between"
        )
    print(f"{options.kills - len(wrong)} of {options.kills} ended as undisturbed{f'; not {wrong}' if wrong else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
