"""Java. A test is HumanEval-X's: a class ``Main`` that follows the program; a class of ours calls it and then prints
the mark.
"""

from .base import Language

__all__ = ["JAVA"]

_SMALL = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xss16m", "-Xmx512m"]
_COMPILER = [f"-J{option}" for option in _SMALL]


def _tested(program: str, test: str, mark: str) -> dict[str, str]:
    caller = (
        "public class Called { public static void main(String[] args) throws Throwable {"
        f' Main.main(args); System.out.flush(); System.out.println("\\n{mark}"); }} }}\n'
    )
    return {"Main.java": f"{program}\n{test}\n", "Called.java": caller}


JAVA = Language(
    name="java",
    tools=("javac", "java"),
    program=lambda program: {"Main.java": program},
    tested=_tested,
    compile=lambda tested: [["javac", *_COMPILER, "-nowarn", "Main.java", *(["Called.java"] if tested else [])]],
    run=lambda tested: ["java", *_SMALL, "-ea", "-cp", ".", "Called" if tested else "Main"],
    address_space=False,
    processes=48,
)
