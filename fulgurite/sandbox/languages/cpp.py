"""C++ with g++. A test is HumanEval-X's: a ``main`` with asserts that follows the program."""

from .base import Language

__all__ = ["CPP"]

# What HumanEval-X's own harness puts in front of a program.
_HEADERS = "stdlib.h algorithm math.h stdio.h vector string climits cstring iostream cassert map set numeric".split()


def _tested(program: str, test: str, mark: str) -> dict[str, str]:
    end = test.rstrip().rfind("}")
    if end < 0:
        raise ValueError("a C++ test is a main function, and this text holds none")
    test = f'{test[:end]}\n    fflush(stdout); fputs("\\n{mark}\\n", stdout);\n}}\n'
    head = "".join(f"#include <{name}>\n" for name in _HEADERS) + "using namespace std;\n"
    return {"main.cpp": f"{head}#line 1\n{program}\n#undef NDEBUG\n#include <cassert>\n{test}"}


CPP = Language(
    name="cpp",
    tools=("g++",),
    program=lambda program: {"main.cpp": program},
    tested=_tested,
    compile=lambda tested: [["g++", "-std=c++17", *(["-O0"] if tested else ["-O2"]), "main.cpp", "-o", "main"]],
    run=lambda tested: ["./main"],
)
