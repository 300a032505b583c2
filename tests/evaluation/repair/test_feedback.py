"""The text about an error, and what a program is said to define instead."""

from __future__ import annotations

from typing import Any

import pytest

from fulgurite.evaluation.repair.feedback import NO_PROGRAM, error_fields, instead_of, kind_of, outcome_of
from fulgurite.sandbox import Failure, Result, Sandbox

ADD = "def add(a, b):\n    c = a - b\n    return c\n"


def told(program: str, test: str = "assert add(30, 4) == 34", **outcome: Any) -> dict[str, str]:
    found = outcome or outcome_of(Sandbox(quiet=True).run_tests(program, test, "add"))
    return error_fields(found, program, "add")


def test_a_wrong_value() -> None:
    found = told(ADD)
    assert found["error"] == (
        "AssertionError: a test fails\nThe failing test: assert add(30, 4) == 34\nThe program gave: 26\nExpected: 34"
    )
    assert (found["error_type"], found["actual"], found["expected"]) == ("AssertionError", "26", "34")


def test_an_exception_of_the_program() -> None:
    found = told("def add(a, b):\n    return a + undefined\n")
    assert found["error_message"] == "name 'undefined' is not defined"
    assert found["program_line"] == "line 2 of the program: return a + undefined"
    assert "The failing test: assert add(30, 4) == 34" in found["error"]


def test_another_function_and_no_program() -> None:
    found = told("import os\ndef plus(a, b):\n    return a + b\n")
    assert found["error_message"] == "the program defines no add, which is asked for; it defines os, plus"
    assert (
        told("add(", status="failed", type="SyntaxError", message="'(' was never closed", stage="loading")[
            "error_message"
        ]
        == "'(' was never closed"
    )
    assert error_fields(NO_PROGRAM, None, "add")["error"] == "NoProgram: the answer holds no program"
    loading = {"status": "failed", "type": "ImportError", "message": "no module x", "stage": "loading"}
    assert told("import x\n", **loading)["error_message"] == "no module x", "the reason why it does not load"


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("def add(a): ...", None),
        ("add = lambda a: a", None),
        ("try:\n    def add(a): ...\nexcept ValueError:\n    pass", None),
        ("from x import *", None),
        ("def add(", None),
        ("class Adder:\n    def add(self): ...\nvalue: int = 3", ["Adder", "value"]),
        ("print(3)", []),
    ],
)
def test_what_a_program_defines_instead(program: str, found: list[str] | None) -> None:
    assert instead_of(program, "add") == found


def test_long_texts_keep_both_ends() -> None:
    failure = Failure("ValueError", "a" * 1500 + "the end", source="assert add(1) == 2", stage="testing")
    found = error_fields(outcome_of(Result("failed", failure)), ADD, "add")
    assert len(found["error_message"]) < 800 and found["error_message"].endswith("the end")
    assert kind_of({"status": "passed"}) == "solved" and kind_of(outcome_of(Result("crash"))) == "crash"
