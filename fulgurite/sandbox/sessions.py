"""One run: starts candidate and judge, waits for the verdict, the candidate's end or the deadline, and ends both."""

import json
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from .boxes import Box, captured
from .layers import Layer
from .limits import Limits

__all__ = ["Outcome", "run_commands", "run_judged"]

_LAST_WORDS = 1.0  # seconds to learn how a candidate ended that has hung up


@dataclass
class Outcome:
    """What was seen of one run.

    Args:
        verdict: the judge's record, or the steps of a run of commands; None if there is none.
        ended: how the candidate's process ended, if it did by itself.
        late: whether the deadline passed.
        used: processor time and memory of the program, as ``ended`` has them, however it ended.
        broken: why the sandbox itself did not work; the empty text if it did.
        output: the end of the program's standard output.
        errors: the end of its standard error.
        seconds: wall-clock time.
    """

    verdict: dict[str, Any] | None = None
    ended: dict[str, Any] | None = None
    used: dict[str, Any] | None = None
    late: bool = False
    broken: str = ""
    output: str = ""
    errors: str = ""
    seconds: float = 0.0


def run_judged(layer: Layer, limits: Limits, candidate: dict[str, Any], judge: dict[str, Any]) -> Outcome:
    """Run a test against a program, each in a sandbox of its own, joined by one socket."""
    begun = time.monotonic()
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    out, err, judge_err = captured("output"), captured("errors"), captured("judge")
    boxes: list[Box] = []
    outcome = Outcome()
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            boxes.append(Box(layer, limits, {**candidate, "role": "candidate"}, {"channel": ours.fileno()}, out, err))
            fds = {"channel": theirs.fileno(), "verdict": writing}
            boxes.append(Box(layer, limits, {**judge, "role": "judge"}, fds, nothing, judge_err))
        finally:
            os.close(nothing)
            os.close(writing)
            ours.close()
            theirs.close()
        _wait(outcome, boxes, reading, begun + limits.seconds)
    finally:
        _end(outcome, boxes)
        os.close(reading)
        outcome.output, outcome.errors = _end_of(out, limits.output), _end_of(err, limits.output)
        if outcome.broken:
            outcome.broken = " ".join([outcome.broken, outcome.errors, _end_of(judge_err, 2000)]).strip()
        for fd in (out, err, judge_err):
            os.close(fd)
        outcome.seconds = time.monotonic() - begun
    return outcome


def run_commands(
    layer: Layer, limits: Limits, role: dict[str, Any], binds: list[tuple[str, str]], seconds: float
) -> Outcome:
    """Run compile and run steps in one sandbox. ``seconds``: for all of them together."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    out, err = captured("output"), captured("errors")
    boxes: list[Box] = []
    outcome = Outcome()
    try:
        try:
            boxes.append(Box(layer, limits, {**role, "role": "commands"}, {"verdict": writing}, out, err, binds))
        finally:
            os.close(writing)
        _wait(outcome, boxes, reading, begun + seconds)
    finally:
        _end(outcome, boxes)
        os.close(reading)
        outcome.errors = _end_of(err, limits.output)
        if outcome.broken:
            outcome.broken = f"{outcome.broken} {outcome.errors}".strip()
        for fd in (out, err):
            os.close(fd)
        outcome.seconds = time.monotonic() - begun
    return outcome


def _end(outcome: Outcome, boxes: list[Box]) -> None:
    """End all boxes at once, then wait for each."""
    for box in boxes:
        box.hang_up()
    for box in boxes:
        box.end()
    outcome.used = boxes[0].ended if boxes else None


def _wait(outcome: Outcome, boxes: list[Box], reading: int, deadline: float) -> None:
    """Wait for the verdict. The first box is the candidate's: its end without a verdict ends the run."""
    poll = select.poll()
    by_fd = {box.control.fileno(): box for box in boxes}
    for fd in (reading, *by_fd):
        poll.register(fd, select.POLLIN | select.POLLHUP)
    told = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            outcome.late = outcome.verdict is None
            return
        events = [fd for fd, _ in poll.poll(left * 1000)]
        if reading in events:
            part = os.read(reading, 65536)
            told += part
            if told.endswith(b"\n"):
                outcome.verdict = json.loads(told)
                if outcome.verdict is None or outcome.verdict.get("status") != "lost" or outcome.ended:
                    return
                deadline = min(deadline, time.monotonic() + _LAST_WORDS)
            if not part or told.endswith(b"\n"):
                poll.unregister(reading)
            continue
        for fd in events:
            box = by_fd[fd]
            box.hear()
            if box.ended is None:
                continue
            poll.unregister(fd)
            if "broken" in box.ended:
                outcome.broken = box.ended["broken"]
                return
            if box is boxes[0]:
                outcome.ended = box.ended
                if len(boxes) > 1 or outcome.verdict is None:
                    return
            elif outcome.verdict is None and box.ended["reason"] == "memory":
                outcome.ended = {
                    **box.ended,
                    "code": None,
                }  # the values that the program sent filled the judge's memory
                return
            elif outcome.verdict is None:
                outcome.broken = (
                    f"the judge's process ended with {box.ended['code']} and no verdict ({box.ended['reason']})"
                )
                return


def _end_of(fd: int, most: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, min(size, most), max(0, size - most)).decode("utf-8", "replace")
