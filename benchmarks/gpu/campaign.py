"""Runs pieces one after the other, each in a process of its own, and keeps what they found after each.

A piece that hangs is killed with all its children at its time-out, one that crashes is noted; the next one runs either way. The
state is one JSON file, replaced whole after each piece, so that a campaign that is broken off can go on: with an earlier state
a piece is skipped if it was done with the same code, command, packages and device.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.code import ROOT, code_hash
from benchmarks.gpu.pieces import Piece
from fulgurite.whole_files import write_text

__all__ = ["DONE", "Machine", "Settings", "fingerprint", "in_process_of_its_own", "load_state", "run_pieces"]

DONE, FAILED, TIMED_OUT, MISSING = "done", "failed", "timed out", "cannot run here"
_KEPT_OUTPUT = 4000  # characters of a piece's output that the state keeps
Launch = Callable[[Sequence[str], Mapping[str, str], float, Path], int | None]


@dataclass(frozen=True)
class Machine:
    """What a result depends on beside the code: device and packages, as :func:`benchmarks.harness.machine.stamp` gives them."""

    stamp: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """What has to be equal for an earlier result to stand."""
        return json.dumps([self.stamp.get("device_name"), self.stamp.get("versions")], sort_keys=True)


@dataclass(frozen=True)
class Settings:
    """How a campaign runs.

    Attributes:
        state_file: where the state is kept.
        toy: sizes for a CPU.
        budget: seconds for all pieces together; None: no limit.
        environment: variables that the pieces get beside this process's own.
    """

    state_file: Path
    toy: bool = False
    budget: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def fingerprint(piece: Piece, machine: Machine, toy: bool) -> str:
    """A hash of everything that a result of this piece depends on."""
    parts = [code_hash(piece.code), json.dumps(piece.toy if toy else piece.command), machine.identity, str(toy)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load_state(path: Path) -> dict[str, Any]:
    """An earlier campaign's state.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"benchmarks.gpu: {path}: no such file; leave --resume out to begin a campaign")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        pieces = state["pieces"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"benchmarks.gpu: {path} holds no campaign ({error}); give the file of an earlier one"
        ) from error
    if not isinstance(pieces, dict):
        raise ValueError(f"benchmarks.gpu: {path} holds no campaign; give the file of an earlier one")
    return state


def run_pieces(
    pieces: Sequence[Piece],
    machine: Machine,
    settings: Settings,
    earlier: Mapping[str, Any] | None = None,
    launch: Launch | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run what is not done yet; the state at the end.

    Args:
        pieces: in their order.
        machine: what the results were measured on.
        settings: of the campaign.
        earlier: state of a campaign that goes on.
        launch: runs one command with environment, time-out and log file; gives its exit status, None if it ran out of time.
        tell: what is called with each line for people.
    """
    launch = launch or in_process_of_its_own
    known = dict((earlier or {}).get("pieces", {}))
    state: dict[str, Any] = {"machine": dict(machine.stamp), "toy": settings.toy, "pieces": known}
    began = time.monotonic()
    for piece in pieces:
        print_of = fingerprint(piece, machine, settings.toy)
        before = known.get(piece.name, {})
        if before.get("status") == DONE and before.get("fingerprint") == print_of:
            tell(f"{piece.name}: done on {before['date']}, skipped")
            continue
        left = None if settings.budget is None else settings.budget - (time.monotonic() - began)
        if left is not None and left < piece.seconds:
            tell(
                f"{piece.name}: left out, its {piece.seconds} s do not fit into the {max(left, 0):.0f} s that are left"
            )
            continue
        tell(f"{piece.name}: {piece.why}")
        found = _run_piece(piece, settings, launch) | {"fingerprint": print_of}
        known[piece.name] = found
        write_text(settings.state_file, json.dumps(state, indent=1) + "\n")
        tell(f"{piece.name}: {found['status']} after {found['seconds']:.0f} s{_because(found)}")
    state["seconds"] = round(time.monotonic() - began, 1)
    write_text(settings.state_file, json.dumps(state, indent=1) + "\n")
    return state


def _because(found: Mapping[str, Any]) -> str:
    return f": {found['why']}" if found.get("why") else ""


def _run_piece(piece: Piece, settings: Settings, launch: Launch) -> dict[str, Any]:
    found: dict[str, Any] = {"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "seconds": 0.0, "why": ""}
    lacking = None if settings.toy else piece.missing()
    if lacking is not None:
        return found | {"status": MISSING, "why": lacking}
    with tempfile.TemporaryDirectory(prefix="fulgurite-gpu-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        places = {"{python}": sys.executable, "{figures}": str(scratch / "figures.json"), "{scratch}": str(scratch)}
        command = [places.get(word, word) for word in (piece.toy if settings.toy else piece.command)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
        environment |= {"FULGURITE_CACHE": str(scratch / "cache"), **settings.environment}
        log, began = scratch / "log", time.monotonic()
        try:
            status = launch(command, environment, piece.seconds, log)
        except OSError as error:
            return found | {"status": FAILED, "why": f"it could not be started: {error}"}
        found["seconds"] = round(time.monotonic() - began, 2)
        found["output"] = log.read_text(encoding="utf-8", errors="replace")[-_KEPT_OUTPUT:] if log.is_file() else ""
        figures = _figures(Path(places["{figures}"]))
    if figures is not None:
        found["figures"] = figures
    return found | _outcome(piece, status, figures)


def _figures(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _outcome(piece: Piece, status: int | None, figures: dict[str, Any] | None) -> dict[str, Any]:
    """A benchmark that found a wrong contender ends with 1 and its figures: that is a result, and it is named."""
    if status is None:
        return {"status": TIMED_OUT, "why": f"it was not done after {piece.seconds} s"}
    wrong = [
        f"{workload['name']}, {name}: {row.get('why')}"
        for workload in (figures or {}).get("workloads", ())
        for name, row in workload["contenders"].items()
        if row.get("wrong")
    ]
    if wrong:
        return {"status": DONE, "why": "WRONG, not timed: " + "; ".join(wrong), "wrong": wrong}
    if status:
        return {"status": FAILED, "why": f"exit status {status}"}
    if piece.figures and figures is None:
        return {"status": FAILED, "why": "it ended well and wrote no figures"}
    return {"status": DONE}


def in_process_of_its_own(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, log: Path
) -> int | None:
    """Run a command from the root of the checkout; at the time-out it is killed with all that it started."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=dict(environment), start_new_session=True
        )
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
