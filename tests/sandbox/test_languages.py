"""Programs in other languages: a pass, a wrong answer, a compile error, an early exit, input and output; skipped where
a compiler is missing.
"""

import pytest

from fulgurite.sandbox import LANGUAGES, Limits, Sandbox, SandboxError, available

PROGRAMS: dict[str, tuple[str, str, str, str, str]] = {
    # right program, what to replace for a wrong one, its replacement, test, statement that leaves with exit code 0
    "cpp": (
        "int add(int a, int b) { /*here*/ return a + b; }\n",
        "a + b",
        "a - b",
        "int main() { assert(add(1, 2) == 3); }\n",
        "exit(0);",
    ),
    "java": (
        "class Solution { int add(int a, int b) { /*here*/ return a + b; } }\n",
        "a + b",
        "a - b",
        "public class Main { public static void main(String[] args) {"
        " if (new Solution().add(1, 2) != 3) throw new AssertionError(); } }\n",
        "System.exit(0);",
    ),
    "javascript": (
        "const add = (a, b) => { /*here*/ return a + b }\n",
        "a + b",
        "a - b",
        "console.assert(add(1, 2) === 3)\n",
        "process.exit(0);",
    ),
    "rust": (
        "fn add(a: i32, b: i32) -> i32 { /*here*/ a + b }\n",
        "a + b",
        "a - b",
        "#[cfg(test)]\nmod tests { use super::*; #[test] fn adds() { assert_eq!(add(1, 2), 3); } }\n",
        "std::process::exit(0);",
    ),
    "go": (
        'package main\nimport ("os"; "testing")\n'
        "func add(a int, b int) int { /*here*/ if a == 77 { os.Exit(1) }; return a + b }\n",
        "a + b",
        "a - b",
        "func TestAdd(t *testing.T) { if add(1, 2) != 3 { t.Fatal() } }\n",
        "os.Exit(0);",
    ),
}
ECHO = {
    "cpp": "#include <iostream>\nint main() { int a; std::cin >> a; std::cout << a + 1 << std::endl; }\n",
    "java": "import java.util.*; public class Main { public static void main(String[] a) {"
    " System.out.println(new Scanner(System.in).nextInt() + 1); } }\n",
    "javascript": "console.log(parseInt(require('fs').readFileSync(0)) + 1)\n",
    "rust": "use std::io; fn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap();"
    ' println!("{}", s.trim().parse::<i32>().unwrap() + 1); }\n',
    "go": 'package main\nimport "fmt"\nfunc main() { var a int; fmt.Scan(&a); fmt.Println(a + 1) }\n',
}


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox(quiet=True)


SLOW = ("cpp", "java")  # their compilers take seconds


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in LANGUAGES if name != "python"
    ]
)
def language(request: pytest.FixtureRequest) -> str:
    if request.param not in available():
        pytest.skip(f"{', '.join(LANGUAGES[request.param].tools)} is not installed")
    return request.param


@pytest.mark.slow
def test_a_right_program_passes_and_others_do_not(box: Sandbox, language: str) -> None:
    program, old, new, test, leave = PROGRAMS[language]
    right = box.run_tests(program, test, language=language)
    assert right.passed and not right.separate, right
    wrong = box.run_tests(program.replace(old, new), test, language=language)
    assert (wrong.status, wrong.failure is None) == ("failed", False)
    early = box.run_tests(program.replace("/*here*/", leave), test, language=language)
    assert early.status != "passed"
    broken = box.run_tests(program + "\n{{{\n", test, language=language)
    assert broken.status == "failed" and broken.failure is not None
    if LANGUAGES[language].compile(True, ""):
        assert broken.failure.type == "CompilationError" and broken.failure.stage == "compiling"


def test_input_and_output(box: Sandbox, language: str) -> None:
    assert box.run_cases(ECHO[language], [("1\n", "2"), ("41\n", "42\n")], language=language).passed
    result = box.run_cases(ECHO[language], [("1\n", "2"), ("41\n", "43\n")], language=language)
    assert result.failure is not None and (result.failure.actual, result.failure.expected) == ("42\n", "43\n")


def test_a_loop_and_a_crash_in_compiled_code(box: Sandbox) -> None:
    if "cpp" not in available():
        pytest.skip("g++ is not installed")
    limits = Limits(seconds=1)
    assert box.run_cases("int main() { for (;;); }", [("", "")], language="cpp", limits=limits).status == "timeout"
    crashed = box.run_cases("int main() { *(volatile int *)0 = 1; }", [("", "")], language="cpp", limits=limits)
    assert (crashed.status, crashed.code) == ("crash", -11)


def test_a_missing_compiler_is_named(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fulgurite.sandbox.programs.find_tool", lambda name: None)
    with pytest.raises(SandboxError, match="go needs go"):
        box.run_tests("", "", language="go")
