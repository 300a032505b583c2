"""Programs that are run as commands: input and output in any language, and tests that are compiled into the program.

A test that is compiled into the program shares its process. Such a result has ``separate=False``: it withstands
accidents and early exits, not a program that is written to deceive.
"""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .languages import LANGUAGES, Language, Tool, find_tool
from .layers import Layer
from .limits import Limits
from .results import Failure, Result, SandboxError
from .sessions import Outcome, run_commands

__all__ = ["run_cases", "run_with_test"]

_TEXT = 2000
_COMPILERS = {"memory": 4 * 2**30, "file_size": 256 * 2**20, "open_files": 256}


def run_cases(layer: Layer, program: str, cases: Sequence[tuple[str, str]], language: str, limits: Limits) -> Result:
    """Run a program once per (input, expected output). Expected outputs never enter the sandbox; trailing blanks do not
    count.
    """
    chosen = _language(language)
    inputs = [given for given, _ in cases]
    if not inputs:
        raise ValueError("run_cases: no case is given; at least one (input, expected output) is needed")
    outcome = _run(layer, chosen, chosen.program(program), inputs, False, limits)
    early = _early(outcome, chosen, layer.name, separate=True)
    if early is not None:
        return early
    steps = _runs(outcome, chosen, False)
    for number, step in enumerate(steps):
        ended = _ended(step, outcome, layer.name, f"case {number + 1} of {len(cases)}", True)
        if ended is not None:
            return ended
        actual, expected = _text(step["out"]), cases[number][1]
        if _lines(actual) != _lines(expected):
            failure = Failure(
                "WrongAnswer",
                f"case {number + 1} of {len(cases)}",
                actual=actual[:500],
                expected=expected[:500],
                call=inputs[number][:500],
                stage="running",
            )
            return replace(_result("failed", outcome, step, layer.name, failure), calls=number + 1)
    if len(steps) != len(cases):
        return _result("error", outcome, {}, layer.name, detail="not every case was run")
    return replace(_result("passed", outcome, steps[-1], layer.name), calls=len(cases))


def run_with_test(layer: Layer, program: str, test: str, language: str, limits: Limits) -> Result:
    """Compile a test into a program and run both in one process."""
    chosen = _language(language)
    if chosen.tested is None:
        raise ValueError(f"run_with_test: tests of {language} run in the judge's process")
    mark = f"m{secrets.token_hex(12)}"
    outcome = _run(layer, chosen, chosen.tested(program, test, mark), [""], True, limits)
    early = _early(outcome, chosen, layer.name, separate=False)
    if early is not None:
        return early
    step = _runs(outcome, chosen, True)[0]
    ended = _ended(step, outcome, layer.name, "the test", False)
    if ended is not None:
        return ended
    if not chosen.passed(_text(step["out"]), mark):
        failure = Failure("Exit", "the program ended with exit code 0 before the test was through", stage="testing")
        return replace(_result("crash", outcome, step, layer.name, failure), separate=False)
    return replace(_result("passed", outcome, step, layer.name), separate=False, calls=1, output="")


def _language(name: str) -> Language:
    if name not in LANGUAGES:
        raise ValueError(f"sandbox: language is {name!r}; allowed are {', '.join(LANGUAGES)}")
    missing = [tool for tool in LANGUAGES[name].tools if find_tool(tool) is None]
    if missing:
        raise SandboxError(f"sandbox: {name} needs {', '.join(missing)}, which is not installed")
    return LANGUAGES[name]


def _run(
    layer: Layer, language: Language, sources: dict[str, str], inputs: list[str], tested: bool, limits: Limits
) -> Outcome:
    tools = {name: tool for name in language.tools if (tool := find_tool(name)) is not None}
    process = limits.of_process()
    space = {} if language.address_space else {"memory": None}
    threads = (process["processes"] or 0) + language.processes
    compiling = {**process, **_COMPILERS, **space, "cpu": int(limits.compile_seconds) + 1, "processes": threads + 32}
    running = {**process, **space, "processes": threads}
    common = {"output": limits.output}
    steps: list[dict[str, Any]] = [
        {
            **common,
            "command": _real(line, tools, layer),
            "input": "",
            "must": True,
            "limits": compiling,
            "seconds": limits.compile_seconds,
        }
        for line in language.compile(tested)
    ]
    command = _real(language.run(tested), tools, layer)
    for given in inputs:
        steps.append(
            {**common, "command": command, "input": given, "must": True, "limits": running, "seconds": limits.seconds}
        )
    # The commands' own process sets no limit that a step may not lower further.
    outer = {**compiling, "memory": None, "cpu": None, "total_memory": max(limits.memory, 4 * 2**30)}
    role = {"sources": sources, "steps": steps, "limits": outer}
    disk = replace(limits, disk=max(limits.disk, 256 * 2**20)) if language.compile(tested) else limits
    seconds = limits.compile_seconds * len(language.compile(tested)) + limits.seconds * len(inputs) + 5
    binds = [bind for tool in tools.values() for bind in tool.binds]
    return run_commands(layer, disk, role, binds, seconds)


def _real(line: list[str], tools: dict[str, Tool], layer: Layer) -> list[str]:
    tool = tools.get(line[0])
    first = line[0] if tool is None else tool.inside if layer.isolates else tool.outside
    return [first, *line[1:]]


def _early(outcome: Outcome, language: Language, layer: str, separate: bool) -> Result | None:
    """The result if the run ended before the program ran: the sandbox, the clock or the compiler."""
    if outcome.broken:
        return _result("error", outcome, {}, layer, detail=outcome.broken)
    if outcome.verdict is None and outcome.ended is not None:
        reason = {"memory": "MemoryLimit", "files": "FilesLimit"}.get(outcome.ended["reason"], "Exit")
        failure = Failure(
            reason, f"the sandbox ended with {outcome.ended['code']} {outcome.ended['reason']}".strip(), stage="running"
        )
        return replace(_result("crash", outcome, {"code": outcome.ended["code"]}, layer, failure), separate=separate)
    if outcome.verdict is None:
        failure = Failure("Timeout", f"no end after {outcome.seconds:.1f} s", stage="running")
        return replace(_result("timeout", outcome, {}, layer, failure), separate=separate)
    steps = outcome.verdict["steps"]
    for step in steps[: len(language.compile(True))]:
        text = "\n".join((_text(step["err"]) or _text(step["out"])).splitlines()[:20])[:_TEXT]
        if step["timeout"]:
            return replace(
                _result("timeout", outcome, step, layer, Failure("Timeout", "compiler", stage="compiling")),
                separate=separate,
            )
        if step["code"] != 0:
            return replace(
                _result("failed", outcome, step, layer, Failure("CompilationError", text, stage="compiling")),
                separate=separate,
            )
    return None


def _runs(outcome: Outcome, language: Language, tested: bool) -> list[dict[str, Any]]:
    return (outcome.verdict or {"steps": []})["steps"][len(language.compile(tested)) :]


def _ended(step: dict[str, Any], outcome: Outcome, layer: str, what: str, separate: bool) -> Result | None:
    """The result if a run did not end with exit code 0."""
    code, text = step["code"], _text(step["err"])[-_TEXT:]
    if step["timeout"] or code == -24:
        result = _result("timeout", outcome, step, layer, Failure("Timeout", what, stage="running"))
    elif code < 0 and not (not separate and code == -6):  # an assert of C ends with SIGABRT
        result = _result(
            "crash", outcome, step, layer, Failure("Signal", f"{what}: killed by signal {-code}", stage="running")
        )
    elif code != 0:
        result = _result(
            "failed", outcome, step, layer, Failure(_kind(text + _text(step["out"])), text, stage="running")
        )
    else:
        return None
    return replace(result, separate=separate)


def _kind(text: str) -> str:
    """The type of error that an output shows."""
    known = ("AssertionError", "Assertion", "assertion", "panicked", "Exception", "Error")
    found = next((word for word in known if word in text), "ExitCode")
    return {
        "Assertion": "AssertionError",
        "assertion": "AssertionError",
        "panicked": "Panic",
        "Error": "RuntimeError",
    }.get(found, found)


def _text(data: str) -> str:
    return base64.b64decode(data).decode("utf-8", "replace")


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _result(
    status: str, outcome: Outcome, step: dict[str, Any], layer: str, failure: Failure | None = None, detail: str = ""
) -> Result:
    out, err = (_text(step[name]) if name in step else "" for name in ("out", "err"))
    code = step.get("code")
    return Result(
        status,
        failure,
        outcome.seconds,
        code=code,
        output=out,
        errors=err or outcome.errors,
        layer=layer,
        detail=detail,
    )
