"""What is asked for, without hidden tests; programs in texts; examples; values of tests that a program holds."""

from __future__ import annotations

from typing import Any

import pytest

from fulgurite.evaluation.repair.examples import asserts_in, called, docstring_examples, hard_coded
from fulgurite.evaluation.repair.problems import PROBLEMS, Problem, problem_of
from fulgurite.evaluation.tasks import TASKS
from tests.evaluation.repair.fakes import row

MBPP = {
    "task_id": 11,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n  return a + b",
    "test_list": ["assert set(add(1, 2)) == 3", "assert add(40, 60) == 100", "assert add(5, 6) == 11"],
    "test_setup_code": "",
}
CODEERROR = {
    "task_id": "CodeError/9",
    "original_task_id": "MBPP/11",
    "prompt": "\ndef ad(a, b):",
    "buggy_code": "# Write a function\n# to add.\n\ndef ad(a, b):\n    return a - b",
    "entry_point": "ad",
    "canonical_code": "",
    "test": "def check(ad):\n    assert add(1, 2) == 3\n    assert add(40, 60) == 100\n",
    "error_message": "AssertionError: assert add(40, 60) == 100",
    "error_type": "AssertionError",
}
PACK = {
    "task_id": "Python/0",
    "declaration": "def add(a, b):\n",
    "prompt": 'def add(a, b):\n    """Adds."""\n',
    "buggy_solution": "    return a - b\n",
    "canonical_solution": "    return a + b\n",
    "test": "def check(add):\n    assert add(1, 2) == 3\n    assert add(40, 60) == 100, 'big'\ncheck(add)",
    "example_test": "def check(sum_of):\n    assert sum_of(40, 60) == 100\n    assert sum_of(2, 2) == 4\ncheck(sum_of)\n",
    "entry_point": "add",
    "bug_type": "operator misuse",
}


def problem(task: str, row: dict[str, Any]) -> Problem:
    return problem_of(TASKS[task], TASKS[task].item(row, 1))


def test_mbpp_shows_its_first_assert_alone() -> None:
    found = problem("mbpp", MBPP)
    assert (
        found.task.endswith("The program should pass this test:\nassert set(add(1, 2)) == 3")
        and "100" not in found.task
    )
    assert (found.entry_point, found.examples, found.start) == ("add", ("assert set(add(1, 2)) == 3",), "")
    job = found.check("def add(a, b): ...", ["assert add(1, 1) == 2"])
    assert "40" not in str(job.test) and "assert add(1, 1) == 2" in job.test


def test_codeerror_leaves_out_the_error_message() -> None:
    found = problem("codeerror", CODEERROR)
    assert found.task == "Write a function\nto add.\nThe program should pass this test:\nassert add(1, 2) == 3"
    assert found.given == CODEERROR["buggy_code"] and found.entry_point == "add", "the name that the tests call"
    humaneval = {**CODEERROR, "original_task_id": "HumanEval/3", "prompt": "def ad(a, b):\n    \n"}
    humaneval["buggy_code"] = 'def ad(a, b):\n    """Adds.\n    >>> ad(1, 5)\n    6\n    """\n    return a - b'
    found = problem("codeerror", humaneval)
    assert (
        found.examples == ("assert ad(1, 5) == 6",)
        and found.task.startswith("def ad(a, b):\n")
        and "Adds" in found.task
    )


def test_an_example_that_is_a_hidden_test_is_none() -> None:
    assert problem("humanevalfix_python", PACK).examples == ("assert add(2, 2) == 4",)


def test_a_task_without_programs_is_refused() -> None:
    with pytest.raises(ValueError, match="gsm8k has no programs to repair; the tasks are: codeerror, humaneval,"):
        problem_of(TASKS["gsm8k"], TASKS["gsm8k"].item({"question": "What?", "answer": "#### 1"}, 1))
    assert {"humaneval", "mbpp", "mbpp_sanitized", "codeerror", "humanevalfix_python"} <= set(PROBLEMS)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("I cannot help with that. The default is defined elsewhere.", None),
        ("no", None),
        ("", None),
        ("```python\n```", None),
        ("Here:\n```python\ndef shift0(x):\n    return x\n```\nIt is defined so.", "def shift0(x):\n    return x\n"),
        ("    return x + 1\n", "return x + 1"),
        ("    # nothing yet", "# nothing yet"),
        ("    y = [v for v in x if undefined]\n", "undefined"),
        ("def other(x):\n    return x\n", "def other(x)"),
    ],
)
def test_programs_in_texts(text: str, program: str | None) -> None:
    found = problem("humaneval", row(0)).program(text)
    assert found is None if program is None else found is not None and program in found
    assert found is None or "other" not in found or "shift0" not in found, "what is missing is not put in front of it"
    whole = problem("mbpp", MBPP).program(text)
    assert (whole is None) == (program is None or program == "# nothing yet"), "which is the body of a function alone"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (">>> f(2)\n4", "assert f(2) == 4"),
        (">>> round(f([1, 2]), 2) # a comment\n-0.5", "assert round(f([1, 2]), 2) == -0.5"),
        ("f(2) == 4.", "assert f(2) == 4"),
        ("For example, f('a, b') ➞ ['a', 'b']", "assert f('a, b') == ['a', 'b']"),
        ("f(3) ==> true", "assert f(3) == True"),
        ("f((1, 2))  # => 'x'", "assert f((1, 2)) == 'x'"),
        ("f(n) = n / 2", None),
        (">>> f(2)\n...", None),
        (">>> f(a)\n4", None),
        ("the value of f(2) is large", None),
        (">>> g(2)\n4", None),
    ],
)
def test_examples_of_docstrings(text: str, found: str | None) -> None:
    assert docstring_examples(f"Words.\n{text}\n", "f") == (() if found is None else (found,))


def test_asserts_of_a_model() -> None:
    text = "Sure!\n```python\nassert f(1) == 2\nassert f(1) == 2\nassert g(1) == 2\nx = 3\nassert f(x) == 4\n```"
    assert asserts_in(text, "f") == ("assert f(1) == 2",), "x would not be there when the assert runs"
    assert asserts_in("assert sorted(f([x, 1]) for x in range(3)) == [2]", "f"), "names of its own are"
    for harmful in ("f(1) == __import__('os')._exit(0)", "f(1) == exit()", "f(open('x')) == 1", "f(''.__class__) == 1"):
        assert asserts_in(f"assert {harmful}", "f") == (), harmful
    assert asserts_in("prose\nassert f(1) == 2\nassert f(1) ==", "f") == ("assert f(1) == 2",)
    assert asserts_in("nothing", "f") == ()
    assert len(asserts_in("\n".join(f"assert f({i}) == {i}" for i in range(9)), "f")) == 5


def test_the_function_that_an_assert_is_about() -> None:
    assert called("assert set(add(1, 2)) == set([3])") == "add"
    assert called("assert sum([1]) == 1") == "sum" and called("assert 1 == 1") == "" and called("assert (") == ""


@pytest.mark.parametrize(
    ("program", "held"),
    [
        ("def f(x):\n    if x == [3, 9]:\n        return 27\n    return 0", True),
        ("def f(x):\n    return {'a': 1, 27: [3, 9]}", True),
        ('def f(x):\n    """f([3, 9]) is 27"""\n    return x[0] * x[1]', False),
        ("def f(x):\n    return 27", False),
        ("def f(x):  # [3, 9] 27\n    return x[0] * x[1]", False),
        ("def f(x:", False),
    ],
)
def test_values_of_a_test_in_a_program(program: str, held: bool) -> None:
    assert hard_coded(program, ("assert f([3, 9]) == 27",)) == held
    assert not hard_coded("def f(x):\n    return 0 if x == 1 else x", ("assert f(1) == 0",)), (
        "such values are in any program"
    )
