"""Whether two mathematical expressions are equal: canonical texts first, then math-verify in a process of its own.

math-verify (and sympy below it) may take any amount of time and memory for an expression that a model wrote, and its own
time-outs do not interrupt long C calls. So it runs in child processes with limits on processor time and memory, and is killed
when its time is over. A comparison that hangs or crashes counts as "not equal", and is counted.
"""

from __future__ import annotations

import json
import os
import queue
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from fulgurite.evaluation.judging.numbers import canonical_number
from fulgurite.evaluation.judging.verdicts import How, Verdict

__all__ = ["Comparer", "ExpressionJudge", "canonical_expression", "last_boxed"]

_VERSION = 1
_MEMORY = 2 * 2**30
_START = 60.0  # seconds that the child may take to import sympy on a busy machine
_SECONDS = 5.0

_CHILD = r"""
import json, resource, sys, time
memory, seconds = int(sys.argv[1]), float(sys.argv[2])
out = sys.stdout
sys.stdout = sys.stderr
def least(kind, value):
    soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, hard))
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
least(resource.RLIMIT_AS, memory)
least(resource.RLIMIT_CORE, 0)
how = [LatexExtractionConfig(), ExprExtractionConfig()]
def read(text):
    for form in (f"${text}$", text):
        found = parse(form, extraction_config=how, parsing_timeout=None)
        if found:
            return found
    return []
print("ready", file=out, flush=True)
for line in sys.stdin:
    target, answer = json.loads(line)
    used = resource.getrusage(resource.RUSAGE_SELF)
    least(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)
    try:
        equal = bool(verify(read(target), read(answer), timeout_seconds=None))
        said = {"equal": equal}
    except BaseException as error:
        said = {"equal": False, "error": type(error).__name__}
    print(json.dumps(said), file=out, flush=True)
"""

_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad|~|\s+")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d*)?")


def last_boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{}`` (or ``\\fbox{}``) of a text, its brackets counted; None without one."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    at = text.find("{", start)
    bare = re.match(r"\\boxed\s+([^\s$]+)", text[start:])
    if bare is not None:
        return bare.group(1)
    depth = 0
    for place in range(at, len(text)) if at >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[at + 1 : place].strip() or None
    return None


def canonical_expression(text: str) -> str:
    """One spelling of an expression: without dollar signs, text commands, sizes of brackets, spaces, units of degree and per cent.

    A number becomes its canonical form. Texts that differ here may still be equal.

    Args:
        text: LaTeX or plain.
    """
    plain = text.strip().strip("$").strip()
    plain = plain.replace("{,}", "").replace("\\left", "").replace("\\right", "").replace("\\!", "")
    plain = (
        plain.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("^\\circ", "").replace("^{\\circ}", "")
    )
    plain = plain.replace("\\%", "").replace("\\$", "").replace("%", "")
    plain = _WORDS.sub(r"\1", plain)
    plain = _SPACES.sub("", plain).rstrip(".")
    plain = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", plain)
    return canonical_number(plain) if _NUMBER.fullmatch(plain) else plain


class Comparer:
    """A child process that compares expressions, and is replaced when it hangs or dies. One thread uses it at a time.

    Args:
        seconds: wall-clock and processor time of one comparison.
        memory: bytes of its address space.
    """

    def __init__(self, seconds: float = _SECONDS, memory: int = _MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Comparer:
        """The comparer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the child."""
        self.close()

    def equal(self, target: str, answer: str) -> tuple[bool, str]:
        """Whether two expressions are equal, and "" or what became of a comparison that did not end: "timeout", "crash".

        Args:
            target: the right one.
            answer: the other.
        """
        line = json.dumps([target, answer]).encode() + b"\n"
        try:
            process = self._asked(line)
        except OSError:  # it died between two comparisons, for which this one is not to blame
            self.close()
            process = self._asked(line)
        said = self._line(self.seconds + 0.5)
        if said is None:
            ended = process.poll()
            self.close()
            return False, "timeout" if ended in (None, -24) else "crash"
        found: dict[str, Any] = json.loads(said)
        return bool(found["equal"]), "crash" if found.get("error") in ("MemoryError", "RecursionError") else ""

    def _asked(self, line: bytes) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(line)
        return self._process

    def close(self) -> None:
        """Ends the child; the next comparison starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def _start(self) -> None:
        names = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(self.memory), str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**{name: os.environ[name] for name in names if name in os.environ}, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            bufsize=0,
        )
        if self._line(_START) != b"ready":
            self.close()
            raise RuntimeError(
                "ExpressionJudge: math-verify does not start; pip install 'fulgurite[math]', and see that it can be imported"
            )

    def _line(self, seconds: float) -> bytes | None:
        """The child's next line; None if it ends or its time is over first."""
        assert self._process is not None and self._process.stdout is not None
        stream = self._process.stdout.fileno()
        end, data = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                part = os.read(stream, 65536)
                if not part:
                    self._process.wait()
                    return None
                data += part
        return data.strip()


class ExpressionJudge:
    """Compares an answer with the right expression."""

    metric = "accuracy"

    def identity(self, how: How) -> dict[str, Any]:
        """Name, version, math-verify's version, and the limit on time."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            found: str | None = version("math-verify")
        except PackageNotFoundError:
            found = None
        return {"judge": "expressions", "version": _VERSION, "math-verify": found, "seconds": _seconds(how)}

    def check(self, how: How) -> None:
        """Refuses to work without math-verify."""
        if find_spec("math_verify") is None:
            raise ImportError(
                "evaluate: this task compares expressions, which needs math-verify; pip install 'fulgurite[math]'"
            )

    def judge(self, pairs: Sequence[tuple[Any, str]], done: Callable[[int, Verdict], None], how: How) -> None:
        """As Judge.judge."""
        hard: list[int] = []
        for number, (item, answer) in enumerate(pairs):
            group = canonical_expression(answer)
            if group == canonical_expression(str(item.target)):
                done(number, Verdict(1.0, "right", group=group))
            else:
                hard.append(number)
        if not hard:
            return
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in hard:
            waiting.put(number)
        found: queue.SimpleQueue[tuple[int, bool, str] | BaseException] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            try:
                with Comparer(_seconds(how)) as comparer:
                    while not stop.is_set():
                        try:
                            number = waiting.get_nowait()
                        except queue.Empty:
                            return
                        item, answer = pairs[number]
                        found.put((number, *comparer.equal(str(item.target), answer)))
            except BaseException as error:
                found.put(error)

        count = min(how.workers or len(os.sched_getaffinity(0)), len(hard))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for _ in hard:
                outcome = found.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                number, equal, ended = outcome
                status = f"comparison {ended}" if ended else "right" if equal else "wrong"
                # Equal answers form one group with the target, however they are written.
                group = canonical_expression(str(pairs[number][0].target) if equal else pairs[number][1])
                done(number, Verdict(float(equal), status, group=group))
        finally:
            stop.set()
            for thread in threads:
                thread.join(_seconds(how) + 1)


def _seconds(how: How) -> float:
    return min(_SECONDS, how.seconds)
