"""Actions in the sandbox: state from turn to turn, what is shown, what cannot be run; pairs hold when they are run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.synthesis.account import Account, Budget
from fulgurite.synthesis.desk import Answer, Desk
from fulgurite.synthesis.ledger import Ledger, StepCount
from fulgurite.synthesis.problems import own_problem
from fulgurite.synthesis.prompts import templates_of
from fulgurite.synthesis.trees.environment import Trial, judge_identity, try_actions
from fulgurite.synthesis.trees.interpreter import blocks, run_blocks, syntax_error
from tests.sandbox.test_layers import layer_or_skip
from tests.synthesis.fakes import ran, written

MODELS = {name: {"model": "x"} for name in ("actor", "weak", "critic")}
STEP = {"name": "trees", "do": "trees", "actor": "actor", "critic": "critic", "wrong": ["weak"], "turns": 3, "tries": 1,
        "wrong_tries": 1}  # fmt: skip


def code(text: str) -> str:
    return f"Step 1: compute.\n```python\n{text}\n```"


@pytest.mark.slow
def test_what_is_shown() -> None:
    layer_or_skip("namespaces")
    jobs = [
        (["x = 40\nprint('quiet')"], ["x += 2\nprint(x)", "x * 10"]),
        (["def f():\n    return undefined"], ["f()"]),
        ([], ["a = (1,\n"]),
        ([], ["import time\ntime.sleep(30)"]),
        ([], ["import os\nos._exit(3)"]),
        (["import builtins\nraise ValueError('earlier')"], ["print('goes on')"]),
        ([], ["print('x' * 100_000)"]),
    ]
    found: dict[int, Any] = {}
    run_blocks(jobs, How(seconds=3.0), found.__setitem__)
    assert found[0].shown == ("42", "420")
    assert found[1].shown[0].startswith("Traceback") and "Cell In[1]" in found[1].shown[0]
    assert found[1].shown[0].endswith("NameError: name 'undefined' is not defined") and "exec(" not in found[1].shown[0]
    assert "SyntaxError" in found[2].shown[0] and 'File "Cell In[1]", line 1' in found[2].shown[0]
    assert found[3].shown == ("TimeoutError: the code did not end within 3 s",)
    assert found[4].shown == ("the interpreter ended with exit code 3",)
    assert found[5].shown == ("goes on",) and 1900 < len(found[6].shown[0]) < 2100


def test_blocks_and_syntax() -> None:
    text = "a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\n```js\nlet z\n```\n  ```py\nw\n"
    assert blocks(text) == ["x = 1\n", "y = 2\n", "w\n"]
    assert (
        syntax_error("print('\\d')") is None and syntax_error("print(") is not None and syntax_error("\0") is not None
    )


def rule(model: str, row: str, part: str, index: int, text: str) -> str:
    """Right code at turns 1 and 2; that of turn 2 uses what the wrong code of turn 1 has defined."""
    turn = int(part[5])
    if model == "critic":
        return "Do add the boxes."
    if model == "weak":
        return {1: code("boxes = 7\npens"), 2: code("print(boxes * 5)"), 3: "I can't say."}[turn]
    return {1: code("print(6 * 7)"), 2: code("print(boxes * 6)"), 3: code("print(6 * 7)")}[turn]


def test_pairs_hold_when_they_are_run_again(tmp_path: Path) -> None:
    layer_or_skip("namespaces")
    rows = [{"id": "r1", "instruction": "A box holds 6 pens. How many pens are in 7 boxes?", "answer": "42"}]
    recipe = written(tmp_path, {"models": MODELS, "rows": {"kind": "Math_PoT"}, "steps": [STEP]}, rows)
    done, _ = ran(recipe, tmp_path / "out", rule)
    pairs = done.ledger.tables["pair"].rows
    assert [row["id"][-3:] for row in pairs] == ["3_1", "3_2", "3_3"] and {row["task"] for row in pairs} == {"Math_PoT"}
    first, second = pairs[1]["trajectory"][2]["value"], pairs[2]["trajectory"][4]["value"]
    assert (
        first.startswith("Out: Traceback")
        and "NameError: name 'pens' is not defined\nYour answer is wrong.\nDo add" in first
    )
    assert second == "Out: 35\nYour answer is wrong.\nDo add the boxes."
    right = [row["response"] for row in done.ledger.tables["sft"].rows]
    assert right == [code("print(6 * 7)")], "turn 2 needs the code before it, turn 3 says what turn 1 said"
    notes = done.ledger.steps[1].notes
    assert notes["a right action that needs the turns before it: no SFT row"] == 1
    assert_again(pairs, rows, "Math_PoT", tmp_path)


def test_programs_and_their_errors(tmp_path: Path) -> None:
    layer_or_skip("namespaces")
    tests = ["assert double(4) == 8", "assert double(-3) == -6"]
    rows = [
        {
            "id": "r1",
            "instruction": "Write double(x).",
            "tests": tests,
            "solution": "def double(x):\n    return 2 * x\n",
        },
        {
            "id": "r2",
            "instruction": "Write double(x), please.",
            "tests": tests,
            "solution": "def double(x):\n    return x\n",
        },
    ]

    def programs(model: str, row: str, part: str, index: int, text: str) -> str:
        if model == "critic":
            assert "return 2 * x" in text
            return "Multiply."
        if model == "weak":
            return code("def double(x):\n    return x ** 2 // 2")
        assert "return 2 * x" not in text or "This program is right" in text
        return code("def double(x):\n    return x + x") if part.endswith("gold") else "No program."

    recipe = written(tmp_path, {"models": MODELS, "steps": [{**STEP, "turns": 2}]}, rows)
    done, asked = ran(recipe, tmp_path / "out", programs)
    count = done.ledger.steps[1]
    assert dict(count.dropped) == {"the gold solution fails": 1} and {row for _, row, _, _ in asked} == {"r1"}
    assert count.notes["an action left out: no program"] == 2
    assert count.figures["right actions by rung"] == {"gold": 2}
    pairs = done.ledger.tables["pair"].rows
    assert (
        "AssertionError" in pairs[1]["trajectory"][2]["value"]
        and "assert double(-3) == -6" in pairs[1]["trajectory"][2]["value"]
    )
    assert_again(pairs, rows, "Coding", tmp_path)


def assert_again(pairs: list[dict[str, Any]], rows: list[dict[str, Any]], kind: str, folder: Path) -> None:
    """Every chosen action passes and every rejected one fails, each behind its own trajectory."""
    problem = own_problem("r1", rows[0], kind, None)
    desk = Desk(
        "again",
        {},
        templates_of(),
        How(seconds=5.0),
        0,
        folder / "again",
        Account(Budget()),
        Ledger(),
        StepCount("again"),
    )
    trials = []
    for number, row in enumerate(pairs):
        earlier = tuple(turn["value"] for turn in row["trajectory"] if turn["from"] == "assistant")
        for side in ("chosen", "rejected"):
            trials.append(Trial(f"{number} {side}", problem, earlier, Answer(row[side], "stop", {})))
    found = try_actions(trials, desk, judge_identity([problem], desk.how))
    desk.close()
    assert [action is not None and action.correct for action in found] == [True, False] * len(pairs)
