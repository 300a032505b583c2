"""From what was seen of a run to its result. Whatever is not a clear pass is not a pass."""

import signal
from typing import Any

from .results import Failure, Result
from .sessions import Outcome

__all__ = ["judged"]

_PARTS = ("type", "message", "line", "source", "actual", "expected", "call", "program_line", "program_source", "stage")


def judged(outcome: Outcome, layer: str) -> Result:
    """The result of a run with a judge."""
    verdict = outcome.verdict or {}
    status = verdict.get("status", "")
    base: dict[str, Any] = {
        "seconds": outcome.seconds,
        "output": outcome.output,
        "errors": outcome.errors,
        "layer": layer,
        "calls": verdict.get("calls", 0),
        "names": tuple(verdict.get("names", ())),
        "detail": verdict.get("detail", ""),
    }
    ended = outcome.ended
    if ended is not None:
        base |= {"cpu_seconds": ended["cpu"], "memory": ended["memory"], "code": ended["code"]}
    if outcome.broken:
        return Result("error", **{**base, "detail": outcome.broken})
    if ended is not None and status in ("", "lost"):
        return _ended(ended, base)
    if outcome.late:
        return Result("timeout", Failure("Timeout", f"no verdict after {outcome.seconds:.1f} s"), **base)
    if status == "nonsense":
        return Result("crash", Failure("Protocol", verdict["detail"]), **base)
    if status == "lost":
        return Result("crash", Failure("Disconnected", verdict.get("detail", "")), **base)
    if status == "passed":
        return Result("passed", **base)
    failure = Failure(**{name: verdict[name] for name in _PARTS if name in verdict})
    if status == "failed" and failure.type == "SystemExit" and not failure.message:
        failure = Failure(**{**vars(failure), "message": "the program called exit()"})
    if status in ("failed", "unsupported", "untested", "error"):
        return Result(status, failure, **base)
    return Result("error", **{**base, "detail": f"the judge gave no verdict that is known: {status!r}"})


def _ended(ended: dict[str, Any], base: dict[str, Any]) -> Result:
    """The candidate's process ended before the verdict."""
    code, reason = ended["code"], ended["reason"]
    if reason == "memory":
        return Result("crash", Failure("MemoryLimit", "all processes together held more memory than allowed"), **base)
    if reason == "files":
        return Result("crash", Failure("FilesLimit", "more files than allowed"), **base)
    if code == -signal.SIGXCPU:
        return Result("timeout", Failure("Timeout", "the limit on processor time"), **base)
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Result("crash", Failure("Signal", f"killed by {name}"), **base)
    return Result(
        "crash", Failure("Exit", f"the process ended with exit code {code} before the test was through"), **base
    )
