"""Go. A test is a ``_test.go`` file of package main that uses the standard library only; modules cannot be fetched in a
sandbox.
"""

import re

from .base import Language

__all__ = ["GO"]

_MODULE = "module sandboxed\n\ngo 1.18\n"


def _tested(program: str, test: str, mark: str) -> dict[str, str]:
    renamed = re.sub(r"\bfunc Test(\w*)\(", rf"func Test_{mark}_\1(", test)
    return {"go.mod": _MODULE, "main_test.go": f"{program}\n{renamed}\n"}


GO = Language(
    name="go",
    tools=("go",),
    program=lambda program: {"go.mod": _MODULE, "main.go": program},
    tested=_tested,
    compile=lambda tested: [["go", *(["test", "-c"] if tested else ["build"]), "-o", "main", "."]],
    run=lambda tested: ["./main", *(["-test.v"] if tested else [])],
    address_space=False,
    processes=64,
    passed=lambda output, mark: f"--- PASS: Test_{mark}_" in output and output.rstrip().endswith("PASS"),
)
