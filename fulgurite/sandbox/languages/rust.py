"""Rust. A test is HumanEval-X's: a module ``tests`` of ``#[test]`` functions; it gets a new name for each run, which
its report shows.
"""

import re

from .base import Language

__all__ = ["RUST"]


def _tested(program: str, test: str, mark: str) -> dict[str, str]:
    renamed, count = re.subn(r"\bmod\s+\w+\s*\{", f"mod {mark} {{", test, count=1)
    if not count:
        raise ValueError("a Rust test is a module of #[test] functions, and this text holds none")
    main = "" if re.search(r"\bfn\s+main\s*\(", program) else "fn main() {}\n"
    return {"main.rs": f"{program}\n{main}{renamed}\n"}


def _passed(output: str, mark: str) -> bool:
    """Every test of the renamed module is reported ok, and the last line counts at least one and none that failed."""
    ran = re.findall(rf"^test {mark}::\S+ \.\.\. ok$", output, re.MULTILINE)
    ended = re.search(r"^test result: ok\. (\d+) passed; 0 failed;[^\n]*\s*\Z", output, re.MULTILINE)
    return bool(ran) and ended is not None and int(ended[1]) == len(ran)


RUST = Language(
    name="rust",
    tools=("rustc",),
    program=lambda program: {"main.rs": program},
    tested=_tested,
    compile=lambda tested: [
        ["rustc", "-A", "warnings", "--edition=2021", *(["--test"] if tested else ["-O"]), "main.rs", "-o", "main"]
    ],
    run=lambda tested: ["./main", *(["--test-threads=1"] if tested else [])],
    processes=32,
    passed=_passed,
)
