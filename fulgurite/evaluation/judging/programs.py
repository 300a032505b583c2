"""Verdicts of the sandbox on generated programs. What is the sandbox's own fault is no verdict on a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.sandbox import Job, Limits, Result, Sandbox, run_many
from fulgurite.sandbox.running import shared

__all__ = ["ProgramJudge"]

_VERSION = 1


class ProgramJudge:
    """Runs programs against their tests.

    Args:
        job: what is run for an item and a program.
        language: of the programs.
    """

    metric = "pass@1"

    def __init__(self, job: Callable[[Any, str], Job], language: str = "python") -> None:
        self.job, self.language = job, language

    def identity(self, how: How) -> dict[str, Any]:
        """Name, version, the sandbox's layer, and the limit on time."""
        return {"judge": "sandbox", "version": _VERSION, "layer": self._box(how).layer.name, "seconds": how.seconds}

    def check(self, how: How) -> None:
        """Refuses a sandbox that cannot be had here, and a language whose tools are not installed."""
        from fulgurite.sandbox import SandboxError, available

        Limits(seconds=how.seconds)
        self._box(how)
        if self.language not in available():
            raise SandboxError(
                f"sandbox: {self.language} is not installed here; install it, or take tasks in one of {', '.join(available())}"
            )

    def judge(self, pairs: Sequence[tuple[Any, str]], done: Callable[[int, Verdict], None], how: How) -> None:
        """As Judge.judge; programs that ran out of time are run once more, alone."""
        limits = Limits(seconds=how.seconds)
        jobs = [replace(self.job(item, program), limits=limits) for item, program in pairs]
        run_many(jobs, how.workers, self._box(how), lambda number, result: done(number, _verdict(result)))

    def _box(self, how: How) -> Sandbox:
        return shared(how.sandbox)


def _verdict(result: Result) -> Verdict:
    described = result.failure.describe() if result.failure is not None else ""
    if result.status == "error":
        return Verdict(None, "sandbox", result.detail or described or "no reason was given")
    return Verdict(float(result.passed), result.status, (described or result.detail)[:500])
