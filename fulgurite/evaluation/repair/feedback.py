"""What running a program says: a plain record for the files, and the text that teacher and learner read.

The text names the exception, its message, the failing test, actual and expected value, and the line of the program, as far as each
is known. A program that does not end is said to run on for ever; one that defines another function is told the name that is wanted.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.sandbox import Job, Limits, Result, run_many
from fulgurite.sandbox.running import shared

__all__ = ["NOTHING", "NO_PROGRAM", "error_fields", "instead_of", "kind_of", "outcome_of", "passed", "run_jobs"]

_LONGEST = 1000  # letters of a message; a longer one keeps both ends
_LINES = 20  # of a compiler's output
NO_PROGRAM: dict[str, Any] = {"status": "no program", "type": "NoProgram", "message": "the answer holds no program"}
NOTHING: dict[str, Any] = {
    "status": "no tests",
    "type": "NoTests",
    "message": "there is nothing to run the program against",
}
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_KEPT = ("type", "message", "source", "actual", "expected", "call", "program_line", "program_source", "stage")


def outcome_of(result: Result) -> dict[str, Any]:
    """A result as plain data: its status and what is known of the failure.

    Args:
        result: of the sandbox; its status is not "error", which says nothing about the program.
    """
    found: dict[str, Any] = {"status": result.status}
    if result.passed:
        return found
    if result.failure is not None:
        values = {name: getattr(result.failure, name) for name in _KEPT}
        found |= {name: value for name, value in values.items() if value not in ("", None)}
    found.setdefault("type", result.status)
    if result.detail:
        found["message"] = f"{found.get('message', '')} {result.detail}".strip()
    return found


def passed(outcome: Mapping[str, Any]) -> bool:
    """Whether a program passed its tests."""
    return outcome["status"] == "passed"


def kind_of(outcome: Mapping[str, Any]) -> str:
    """The type of an error in one word, as the tables name it; "solved" for none."""
    return "solved" if passed(outcome) else str(outcome["type"])


def run_jobs(jobs: Sequence[Job], how: How, done: Callable[[int, dict[str, Any] | None, str], None]) -> None:
    """Runs programs against their tests.

    Args:
        jobs: programs with tests.
        how: what the user chose about judging.
        done: called with a job's number and its outcome, as soon as that is final; the outcome is None, with the reason, where the
            sandbox or the test itself is broken.
    """

    def told(number: int, result: Result) -> None:
        if result.status == "error":
            described = "" if result.failure is None else result.failure.describe()
            done(number, None, result.detail or described or "no reason was given")
        else:
            done(number, outcome_of(result), "")

    limits = Limits(seconds=how.seconds)
    run_many([replace(job, limits=limits) for job in jobs], how.workers, shared(how.sandbox), told)


def error_fields(outcome: Mapping[str, Any], program: str | None, entry_point: str) -> dict[str, str]:
    """The fields of a prompt that tell what is wrong with a program.

    Args:
        outcome: of its run.
        program: its source; None where the answer held none.
        entry_point: the function that is wanted; "" for a program that is not Python.

    Returns:
        ``error``, all of it as a paragraph; and its parts ``error_type``, ``error_message``, ``failing_test``, ``actual``,
        ``expected`` and ``program_line``, each "" where it is not known.
    """
    kind, message = str(outcome.get("type", "")), _message(outcome, program, entry_point)
    test, line = _cut(str(outcome.get("source", ""))), _line(outcome)
    actual, expected = (_cut(str(outcome.get(name, ""))) for name in ("actual", "expected"))
    parts = [f"{kind}: {message}" if message else kind]
    if test:
        parts.append(f"The failing test: {test}")
    if outcome.get("call") and "candidate(" in test:  # the test calls the function by another name
        parts.append(f"It called: {_cut(str(outcome['call']))}")
    if actual:
        parts.append(f"The program gave: {actual}\nExpected: {expected}")
    if line:
        parts.append(f"The error arose in {line}")
    return {
        "error": "\n".join(parts),
        "error_type": kind,
        "error_message": message,
        "failing_test": test,
        "actual": actual,
        "expected": expected,
        "program_line": line,
    }


def _message(outcome: Mapping[str, Any], program: str | None, entry_point: str) -> str:
    message = "\n".join(str(outcome.get("message", "")).splitlines()[:_LINES])
    if outcome["status"] == "timeout":
        return f"the program does not end ({message}); it seems to loop for ever, or takes far too long"
    loaded = outcome.get("stage") != "loading"  # else the error of loading is what matters
    others = instead_of(program, entry_point) if loaded and program is not None and entry_point else None
    if others is not None:
        return f"the program defines no {entry_point}, which is asked for; it defines {', '.join(others) or 'nothing'}"
    if outcome.get("type") == "AssertionError" and not message:
        return "a test fails"
    return _cut(message)


def instead_of(program: str, entry_point: str) -> list[str] | None:
    """The names that a program gives to functions, classes and values at its margin, in place of the one that is wanted.

    Args:
        program: its source.
        entry_point: the function that is wanted.

    Returns:
        None if the program defines it, or cannot be read.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError):
        return None
    found: list[str] = []
    for node in tree.body:
        inside = [node] if isinstance(node, _DEFINES) else list(ast.walk(node))  # what a function holds is its own
        for part in inside:
            if isinstance(part, (ast.Import, ast.ImportFrom)):
                found += [alias.asname or alias.name for alias in part.names]
            elif isinstance(part, _DEFINES):
                found.append(part.name)
            elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                found.append(part.id)
    return None if "*" in found or entry_point in found else list(dict.fromkeys(found))


def _line(outcome: Mapping[str, Any]) -> str:
    number = outcome.get("program_line")
    return (
        ""
        if number is None
        else f"line {number} of the program: {_cut(str(outcome.get('program_source', '')).strip())}"
    )


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 4 :]}"
