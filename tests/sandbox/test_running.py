"""Tests of programs: the statuses, what a failure says, and how values, classes, functions and changed arguments cross
the border.
"""

import pytest

from fulgurite.sandbox import Limits, Result, Sandbox, SandboxError, run_tests

LIMITS = Limits(seconds=3)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox(quiet=True)


def run(box: Sandbox, program: str, test: str, entry: str | None = None, **options: object) -> Result:
    return box.run_tests(program, test, entry, limits=LIMITS, **options)  # type: ignore[arg-type]


# Section 3.5 of the specification of evaluation: a program and the status and type that it must get.
EXPECTED = [
    ("def f(x): return x + 1", "passed", ""),
    ("def f(x): return x", "failed", "AssertionError"),
    ("def f(x) return x", "failed", "SyntaxError"),
    ("def f(x):\n    while True: pass", "timeout", "Timeout"),
    (
        "def f(x):\n    while True:\n        try:\n            import time; time.sleep(9)\n        except: pass",
        "timeout",
        "Timeout",
    ),
    ("def f(x): return [0] * 10**10", "failed", "MemoryError"),
    ("def f(x):\n    while True: print('x' * 9999)", "failed", "OSError"),
    ("import subprocess\nsubprocess.Popen(['sleep', '30'])\ndef f(x): return x + 1", "passed", ""),
    ("import os\ndef f(x): os._exit(0)", "crash", "Exit"),
    ("import sys\ndef f(x): sys.exit(0)", "failed", "SystemExit"),
    ("def f(x): return f(x)", "failed", "RecursionError"),
    ("def f(x): return input()", "failed", "EOFError"),
    ("import ctypes\ndef f(x): ctypes.string_at(0)", "crash", "Signal"),
    ("def g(x): return x + 1", "failed", "NameError"),
    ("class A:\n    def __eq__(self, other): return True\ndef f(x): return A()", "unsupported", "Unsupported"),
]


@pytest.mark.parametrize(("program", "status", "kind"), EXPECTED)
def test_statuses(box: Sandbox, program: str, status: str, kind: str) -> None:
    result = box.run_tests(
        program, "def check(candidate):\n    assert candidate(1) == 2\n", "f", limits=Limits(seconds=1.5)
    )
    assert (result.status, result.failure.type if result.failure else "") == (status, kind)
    assert result.layer in ("bubblewrap", "namespaces", "limits") and result.passed == (status == "passed")
    if kind == "OSError":
        assert "27" in (result.failure.message if result.failure else "")
    if status == "crash":
        assert result.code == (0 if kind == "Exit" else -11)


def test_a_failed_assertion_says_line_values_and_call(box: Sandbox) -> None:
    test = "\n\ndef check(candidate):\n    assert candidate(1) == 1\n    assert candidate(\n        2, key='a'\n    ) == [5]\n"
    failure = run(box, "def f(x, key=''):\n    return x\n", test, "f").failure
    assert failure is not None
    assert (failure.type, failure.line, failure.actual, failure.expected) == ("AssertionError", 5, "2", "[5]")
    assert failure.source == "assert candidate(\n2, key='a'\n) == [5]" and failure.call == "f(2, key='a')"
    assert failure.describe() == f"AssertionError; the test stopped at `{failure.source}`; got 2, expected [5]"


@pytest.mark.parametrize(
    ("statement", "actual", "expected"),
    [
        ("assert abs(f(1) - 5) < 0.5", "4", "< 0.5"),
        ("assert not f(1)", "False", "a true value"),
        ("assert f(0)", "0", "a true value"),
        ("assert f(1) in (2, 3)", "1", "in (2, 3)"),
        ("assert f(1) == 1 and f(2) == 3, 'both'", "False", "a true value"),
        ("for i in range(3): assert f(i) == 0", "1", "0"),
    ],
)
def test_other_forms_of_assert_say_what_they_compared(box: Sandbox, statement: str, actual: str, expected: str) -> None:
    failure = run(box, "def f(x):\n    return x\n", statement).failure
    assert failure is not None and (failure.actual, failure.expected) == (actual, expected)


def test_an_exception_of_the_program_says_where_in_the_program(box: Sandbox) -> None:
    failure = run(box, "def f(x):\n    y = x\n    return {}[y]\n", "assert f('k') == 1").failure
    assert failure is not None
    assert (failure.type, failure.message, failure.line, failure.source) == ("KeyError", "'k'", 1, "assert f('k') == 1")
    assert (failure.program_line, failure.program_source, failure.stage) == (3, "return {}[y]", "testing")
    failure = run(box, "import math\nx = math.sqrt(-1)\n", "assert f() == 1").failure
    assert failure is not None and (failure.type, failure.program_line, failure.stage) == ("ValueError", 2, "loading")
    failure = run(box, "def f(:\n    pass\n", "assert f() == 1").failure
    assert failure is not None and (failure.type, failure.program_line, failure.program_source) == (
        "SyntaxError",
        1,
        "def f(:",
    )


def test_exceptions_can_be_caught_by_type_and_message(box: Sandbox) -> None:
    program = (
        "class Odd(ValueError): pass\ndef f(x):\n    if x == 1: raise Odd('one')\n"
        "    if x == 2: raise KeyError('k')\n    raise OSError(2, 'no')\n"
    )
    test = (
        "try:\n    f(1)\nexcept ValueError as e:\n"
        "    assert str(e) == 'one' and type(e).__name__ == 'Odd'\nelse:\n    assert False\n"
        "try:\n    f(2)\nexcept KeyError as e:\n    assert e.args == ('k',)\nelse:\n    assert False\n"
        "try:\n    f(3)\nexcept FileNotFoundError as e:\n    assert e.errno == 2\nelse:\n    assert False\n"
    )
    assert run(box, program, test).passed


def test_changed_arguments_come_back_and_identity_is_kept(box: Sandbox) -> None:
    program = "def f(items, table):\n    items.sort()\n    table['n'] = items\n    return items\n"
    test = "a, t = [3, 1, 2], {}\nr = f(a, t)\nassert a == [1, 2, 3]\nassert r is a\nassert t['n'] is a\n"
    assert run(box, program, test).passed
    result = run(
        box,
        "def f(a):\n    a.clear()\n    raise ValueError\n",
        "a = [1]\ntry:\n    f(a)\nexcept ValueError:\n    pass\nassert a == []\n",
    )
    assert result.passed


def test_classes_of_the_program_can_be_used_through_calls_and_attributes(box: Sandbox) -> None:
    program = (
        "class Node:\n    def __init__(self, v):\n        self.v, self.left = v, None\n    def total(self):\n"
        "        return self.v + (self.left.total() if self.left else 0)\n"
        "def depth(n):\n    return 0 if n is None else 1 + depth(n.left)\n"
    )
    test = "root = Node(1)\nroot.left = Node(2)\nassert root.total() == 3\nassert root.left.v == 2\n"
    test += "assert depth(root) == 2\nassert root.left.left is None"
    result = run(box, program, test)
    assert result.passed and result.names == ("Node", "depth")


def test_iterators_of_the_program_can_be_read(box: Sandbox) -> None:
    program = "def f(n):\n    yield from range(n)\n"
    assert run(box, program, "assert list(f(3)) == [0, 1, 2]\nassert next(f(2)) == 0\nassert sum(f(4)) == 6").passed
    assert run(box, program, "assert f(3) == [0, 1, 2]").status == "unsupported"


def test_functions_of_the_test_can_be_given_to_the_program(box: Sandbox) -> None:
    program = "def f(g, items):\n    return sorted((g(i) for i in items), key=lambda i: -i)\n"
    assert run(
        box,
        program,
        "assert f(lambda i: i * 2, [1, 2]) == [4, 2]\nassert f(abs, [-3]) == [3]\nassert f(int, ['4']) == [4]",
    ).passed
    failure = run(box, program, "def g(i):\n    raise KeyError(i)\nassert f(g, [1]) == []").failure
    assert failure is not None and failure.type == "KeyError"


def test_an_object_of_the_test_cannot_be_given(box: Sandbox) -> None:
    result = run(box, "def f(x): return 1", "class A: pass\ntry:\n    f(A())\nexcept Exception:\n    pass\n")
    assert result.status == "unsupported" and "A of the test" in result.detail


def test_a_test_that_swallows_a_refusal_or_a_lost_program_does_not_pass(box: Sandbox) -> None:
    program = "class A:\n    def __eq__(self, o): return True\ndef f(): return A()\n"
    assert run(box, program, "try:\n    assert f() == 1\nexcept Exception:\n    pass\n").status == "unsupported"
    assert (
        run(box, "import os\ndef f(): os._exit(0)\n", "try:\n    f()\nexcept BaseException:\n    pass\n").status
        == "crash"
    )


def test_a_test_that_never_uses_the_program_is_no_pass(box: Sandbox) -> None:
    assert run(box, "def f(): return 1", "assert True").status == "untested"
    assert run(box, "def f(): return 1", "def check(candidate):\n    pass\n", "f").status == "untested"


def test_a_broken_test_is_an_error_not_a_failure(box: Sandbox) -> None:
    assert run(box, "def f(): return 1", "assert f( == 1").status == "error"
    result = run(box, "def f(): return 1", "assert f() == 1", helpers="import no_such_module")
    assert result.status == "error" and "no_such_module" in result.detail


def test_names_of_builtins_of_the_helpers_and_of_modules_are_not_the_programs(box: Sandbox) -> None:
    program = "import math\nclass math:\n    isclose = lambda *a: True\n"
    program += "def abs(x): return 0\ndef poly(x): return 0\ndef f(x): return 9\n"
    assert run(box, program, "assert abs(f(1) - 2) < 1").status == "failed"
    assert run(box, program, "assert poly(f(1)) == 0").passed
    assert run(box, program, "assert poly(f(1)) == 0", helpers="def poly(x): return x").status == "failed"
    assert run(box, program, "assert math.isclose(f(1), 2)").status == "failed"
    assert run(box, "def sum(a, b): return a * b", "assert sum(2, 3) == 6").passed
    assert run(box, "def check(n): return n == 7", "assert check(7) == True").passed


def test_a_program_of_the_name_of_a_helper_without_a_body_is_needed(box: Sandbox) -> None:
    helpers = "def f(x):\n    'return x'\n"
    assert (
        run(
            box, "def g(x): return x", "def check(f):\n    assert f(1) is None\ncheck(f)\n", "f", helpers=helpers
        ).status
        == "failed"
    )


def test_setup_runs_in_the_programs_process_before_it(box: Sandbox) -> None:
    result = run(box, "def f(): return limit", "assert f() == 3", setup="limit = 3")
    assert result.passed


def test_output_is_kept(box: Sandbox) -> None:
    result = run(
        box, "import sys\ndef f():\n    print('out')\n    print('err', file=sys.stderr)\n", "assert f() is None"
    )
    assert (result.output, result.errors) == ("out\n", "err\n")
    assert result.record()["status"] == "passed"


def test_a_main_guard_does_not_run(box: Sandbox) -> None:
    assert run(box, "def f(): return 1\nif __name__ == '__main__':\n    input()\n", "assert f() == 1").passed


def test_input_and_output_are_compared_outside(box: Sandbox) -> None:
    program = "a = input()\nprint(int(a) + 1, '')\nprint()\n"
    assert box.run_cases(program, [("1\n", "2"), ("5", "6\n\n")]).passed
    result = box.run_cases(program, [("1", "2"), ("5", "7")])
    assert result.failure is not None
    assert (result.status, result.failure.type, result.failure.actual, result.failure.expected) == (
        "failed",
        "WrongAnswer",
        "6 \n\n",
        "7",
    )
    assert box.run_cases("print(open('/tmp/x', 'a').name)\nimport os\nos._exit(3)", [("", "/tmp/x")]).status == "failed"
    assert box.run_cases("while True: pass", [("", "")], limits=Limits(seconds=0.7)).status == "timeout"
    with pytest.raises(ValueError, match="no case"):
        box.run_cases(program, [])


def test_the_shared_sandbox_and_wrong_options() -> None:
    assert run_tests("def f(): return 1", ["assert f() == 1", "assert f() > 0"]).passed
    with pytest.raises(SandboxError, match="allowed are auto"):
        Sandbox("docker")
    with pytest.raises(ValueError, match="language is 'perl'"):
        run_tests("", "", language="perl")
    with pytest.raises(ValueError, match="seconds is 0"):
        Limits(seconds=0)
