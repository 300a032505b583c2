"""What a run of a program says: a status, and for everything but a pass the reason in parts that a repair loop can
quote.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["STATUSES", "Failure", "Result", "SandboxError"]

STATUSES = {
    "passed": "the test ran to its end with nothing to object to",
    "failed": "an assertion or an exception ended the test, or the program does not load or compile",
    "timeout": "time ran out, of the clock or of the processor",
    "crash": "the program's process ended or was killed before the test was through",
    "unsupported": "the test needs a value of the program's that cannot travel between the processes",
    "untested": "the test ended without ever using the program",
    "error": "the sandbox or the test itself is at fault; says nothing about the program",
}


class SandboxError(RuntimeError):
    """No sandbox of the wanted kind can be had here."""


@dataclass(frozen=True)
class Failure:
    """Why a program did not pass.

    Args:
        type: name of the exception class, "CompilationError", "WrongAnswer", or the limit: "MemoryLimit", "FilesLimit",
            "Signal", "Exit".
        message: the exception's text, at most 2,000 characters; the first lines of the compiler's output.
        line: line of the test, from 1, on which it stopped; None if it was not reached.
        source: that statement of the test.
        actual: what the program gave, as text, where a comparison failed.
        expected: what the test wanted, as text; begins with the operator unless that is ``==``.
        call: the last call into the program with its arguments.
        program_line: line of the program on which its exception arose.
        program_source: that line.
        stage: "loading", "compiling", "testing" or "running".
    """

    type: str = ""
    message: str = ""
    line: int | None = None
    source: str = ""
    actual: str = ""
    expected: str = ""
    call: str = ""
    program_line: int | None = None
    program_source: str = ""
    stage: str = ""

    def describe(self) -> str:
        """One paragraph for a person or a model: type, message, the failing statement, actual and expected value."""
        parts = [f"{self.type}: {self.message}" if self.message else self.type]
        if self.source:
            parts.append(f"the test stopped at `{self.source}`")
        if self.actual:
            parts.append(f"got {self.actual}, expected {self.expected}")
        if self.program_line:
            parts.append(f"line {self.program_line} of the program: `{self.program_source}`")
        return "; ".join(parts)


@dataclass(frozen=True)
class Result:
    """The outcome of one program.

    Args:
        status: one of :data:`STATUSES`.
        failure: the reason; None if it passed.
        seconds: wall-clock time of the whole run.
        cpu_seconds: processor time of the program and all its children.
        memory: bytes of its largest process.
        code: exit code of the program's process where it ended by itself, minus the signal's number where a signal
            ended it.
        output: the end of what the program printed.
        errors: the end of its standard error.
        calls: how often the test used the program.
        names: the names of the test that meant the program's things.
        layer: the sandbox layer that was active.
        separate: whether test and program ran in separate processes; False for tests compiled into the program.
        retried: whether this is the second run after a timeout.
        detail: for ``unsupported`` and ``error``, what happened.
    """

    status: str
    failure: Failure | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    code: int | None = None
    output: str = ""
    errors: str = ""
    calls: int = 0
    names: tuple[str, ...] = field(default=())
    layer: str = ""
    separate: bool = True
    retried: bool = False
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program passed its test."""
        return self.status == "passed"

    def record(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        return asdict(self)
