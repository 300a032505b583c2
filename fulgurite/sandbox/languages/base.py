"""What a language is: its tools, how a program and its test become files, how they are compiled and run."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

__all__ = ["Language", "Tool", "find_tool"]


@dataclass(frozen=True)
class Tool:
    """An installed compiler or interpreter.

    Args:
        outside: its path on this machine.
        inside: its path in a private root.
        binds: folders to show there, as (outside, inside).
    """

    outside: str
    inside: str
    binds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Language:
    """A language.

    Args:
        name: as users write it.
        tools: commands that must be installed; the first path in ``compile`` and ``run`` is one of them by name, or a
            file of the work folder.
        program: files of a program that reads input and prints: source to {name: text}.
        tested: files of a program with its test: (program, test, mark) to {name: text}. At its very end the test prints
            ``mark``, which is new for every run: exiting early does not print it.
        compile: compile commands of a program, or of a program with its test.
        run: the run command, likewise.
        address_space: whether the limit on address space may be set; some run-time systems reserve more than they use.
        processes: threads that its tools need, added to the limit.
        passed: whether the output of a test that exited with 0 shows that it ran to its end: (output, mark) to bool.
    """

    name: str
    tools: tuple[str, ...]
    program: Callable[[str], dict[str, str]]
    tested: Callable[[str, str, str], dict[str, str]] | None
    compile: Callable[[bool], list[list[str]]]
    run: Callable[[bool], list[str]]
    address_space: bool = True
    processes: int = 0
    passed: Callable[[str, str], bool] = lambda output, mark: output.rstrip().endswith(mark)


@cache
def find_tool(name: str) -> Tool | None:
    """An installed tool; what does not lie under /usr is shown under /tools. ``python`` is the sandbox's own."""
    if name == "python":
        return Tool("{python}", "{python}")
    found = shutil.which(name)
    if found is None:
        return None
    if name == "rustc":  # often rustup's switch, which needs a home folder; the compiler itself does not
        asked = subprocess.run([found, "--print", "sysroot"], capture_output=True, text=True)
        if asked.returncode:
            return None
        found = f"{asked.stdout.strip()}/bin/rustc"
    real = os.path.realpath(found)
    if real.startswith("/usr/"):
        return Tool(found, found)
    prefix = os.path.dirname(os.path.dirname(real))
    return Tool(real, f"/tools/{name}/{os.path.relpath(real, prefix)}", ((prefix, f"/tools/{name}"),))
