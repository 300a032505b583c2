"""Python programs that read input and print. Tests of Python functions run in the judge's process instead."""

from .base import Language

__all__ = ["PYTHON"]

PYTHON = Language(
    name="python",
    tools=("python",),
    program=lambda program: {"main.py": program},
    tested=None,
    compile=lambda tested: [],
    run=lambda tested: ["python", "-s", "-S", "main.py"],
)
