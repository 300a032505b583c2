"""Translation between HumanEval-X's languages: two files make an item, the target's tests judge, and errors are fed back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.repair.loop import repair
from fulgurite.evaluation.repair.problems import PROBLEMS, judge_of, problem_of
from fulgurite.evaluation.repair.results import RepairResult, summary
from fulgurite.evaluation.repair.training import write_rows
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.code.translation import TRANSLATIONS
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.sandbox import available
from tests.evaluation.repair.fakes import Scripted, made_plan

TO_JS = "humaneval_x_python_to_js"
PYTHON = {
    "task_id": "Python/0",
    "prompt": 'def add(x):\n    """Adds 3."""\n',
    "declaration": "def add(x):\n",
    "canonical_solution": "    return x + 3\n\n",
    "test": "def check(add):\n    assert add(1) == 4\n    assert add(97) == 100\n\ncheck(add)\n",
    "example_test": "def check(add):\n    assert add(1) == 4\ncheck(add)\n",
}
JS = {
    "task_id": "JavaScript/0",
    "prompt": "/* Adds 3. */\nconst add = (x) => {\n",
    "declaration": "\nconst add = (x) => {\n",
    "canonical_solution": "  return x + 3;\n}\n\n",
    "test": "const testAdd = () => {\n  console.assert(add(1) === 4)\n  console.assert(add(97) === 100)\n}\n\ntestAdd()\n",
    "example_test": "const testAdd = () => {\n  console.assert(add(1) === 4)\n}\ntestAdd()\n",
}


def written(folder: Path, **rows: list[dict[str, Any]]) -> str:
    for name, content in rows.items():
        (folder / f"humaneval_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(folder)


def test_every_pair_of_languages_is_a_task() -> None:
    assert len(TRANSLATIONS) == 20 and set(TRANSLATIONS) <= set(PROBLEMS)
    assert (
        judge_of(TASKS[TO_JS]).language == "javascript" and judge_of(TASKS["humaneval_x_js_to_cpp"]).language == "cpp"
    )


def test_an_item_is_made_of_two_rows(tmp_path: Path) -> None:
    task = TASKS[TO_JS]
    folder = written(tmp_path, python=[PYTHON], js=[{**JS, "task_id": "JavaScript/9"}, JS])
    found = items_of(task, folder, on_bad_row="skip")
    assert [item.key for item in found.items] == ["JavaScript/0"] and "there is no 'source'" in found.bad[0]
    (item,) = found.items
    assert (
        item.prompt == "code translation\nPython:\ndef add(x):\n    return x + 3\nJavaScript:\n\nconst add = (x) => {\n"
    )
    assert task.answer(item.solution, item) == item.data["prompt"] + item.solution
    problem = problem_of(task, item)
    assert "Translate this Python program into JavaScript" in problem.task and "97" not in problem.task
    assert (problem.language, problem.fence, problem.examples) == ("JavaScript", "javascript", (JS["example_test"],))
    assert problem.program("I would rather not.") is None and "\n}\n" in problem.ends
    assert "97" not in str(problem.check("x", problem.examples).test)
    same = {**JS, "test": JS["example_test"]}
    assert problem_of(task, task.item({**same, "source": PYTHON}, 1)).examples == (), "its example is its hidden test"


def test_into_python_examples_are_the_asserts(tmp_path: Path) -> None:
    task = TASKS["humaneval_x_js_to_python"]
    (item,) = items_of(task, written(tmp_path, python=[PYTHON], js=[JS])).items
    problem = problem_of(task, item)
    assert problem.examples == ("assert add(1) == 4",) and problem.language == "Python"
    assert problem.program("    return x + 3") == "def add(x):\n    return x + 3\n"
    assert problem.program("No program.") is None


def test_the_source_language_must_lie_beside_the_target(tmp_path: Path) -> None:
    folder = written(tmp_path, js=[JS])
    with pytest.raises(FileNotFoundError, match=r"rows of two languages are needed.*humaneval_python\.jsonl"):
        items_of(TASKS[TO_JS], folder)
    (tmp_path / "mine.jsonl").write_text(json.dumps(JS))
    with pytest.raises(FileNotFoundError, match="give the folder that holds both"):
        items_of(TASKS[TO_JS], str(tmp_path / "mine.jsonl"))


def test_tests_of_a_model_are_asserts_of_python(tmp_path: Path) -> None:
    items = items_of(TASKS[TO_JS], written(tmp_path, python=[PYTHON], js=[JS]))
    rows = [{**JS, "source": PYTHON}]
    assert len(items.items) == 1
    with pytest.raises(
        ValueError, match=r"feedback='selfgen' with humaneval_x_python_to_js; .* these programs are JavaScript"
    ):
        made_plan(tmp_path / "out", rows=rows, task=TASKS[TO_JS], feedback="selfgen")


@pytest.mark.skipif("javascript" not in available(), reason="node is not installed")
@pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])
def test_a_wrong_translation_is_fed_back_and_a_right_one_passes(chat: bool, tmp_path: Path) -> None:
    def writes(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        if step == "explanation":
            return "The program subtracts; the Python one adds."
        body = str(JS["canonical_solution"]) if turn else "  return x - 3;\n}\n"
        return f"Here:\n```javascript\n{JS['declaration']}{body}```" if chat else body

    backend = Scripted(writes)
    rows = [{**JS, "source": PYTHON}]
    plan = made_plan(
        tmp_path, backend, rows=rows, task=TASKS[TO_JS], feedback="visible", turns=1, baselines=False, chat=chat
    )
    done = repair(plan, silent=True)
    result = summary(plan, done)
    assert [number.value for number in result.methods[0].solved] == [0, 1] and not result.methods[0].counts
    prompts = {
        record["step"]: text_of(record["prompt"]) for record in done.book if record.get("turn") and "prompt" in record
    }
    assert "You teach JavaScript." in prompts["explanation"] and "```javascript\n" in prompts["program"]
    assert "return x - 3;" in prompts["program"] and "Translate this Python program" in prompts["program"]
    assert "def add(x):\n    return x + 3" in prompts["program"], "the source stands in the request"
    assert re.search(r"console\.assert|Assertion", prompts["program"]), "what running it says"
    assert not any("97" in text for text in prompts.values()), "no hidden test"
    write_rows(plan, done.book)
    sft = (plan.folder / "sft.jsonl").read_text()
    assert ("```javascript\\n" in sft) and sft.count("\n") == 2


def text_of(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[0]["content"])


def solutions(task: str, folder: Path, limit: int, out: Path) -> RepairResult:
    """The canonical programs, after a first answer that does not compile or fails."""
    found = items_of(TASKS[task], str(folder), limit)
    by_number = {int(item.key.split("/")[1]): item for item in found.items}

    def writes(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        if step == "explanation":
            return "It returns nothing that is asked for."
        return by_number[number].solution if turn or number % 2 else "    return nothing_of_that_name;\n"

    plan = made_plan(out, Scripted(writes), task=TASKS[task], feedback="hidden", turns=1, baselines=False, found=found)
    return summary(plan, repair(plan, silent=True))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("target", ["python", "cpp", "java", "js", "rust"])
def test_canonical_solutions_pass_as_translations(target: str, real_data: Path, tmp_path: Path) -> None:
    source = "cpp" if target == "python" else "python"
    name = f"humaneval_x_{source}_to_{target}"
    if judge_of(TASKS[name]).language not in available():
        pytest.skip(f"{target} is not installed")
    result = solutions(name, real_data, 4, tmp_path)
    assert result.chains == (4, 4) and [number.value for number in result.methods[0].solved] == [0.5, 1]
    assert sum(count for (before, after), count in result.transitions.items() if after == "solved") == 2


@pytest.mark.real_data
def test_real_rows_have_their_partners(real_data: Path) -> None:
    for name, task in TRANSLATIONS.items():
        found = items_of(task, str(real_data))
        assert len(found.items) == 164 and not found.bad, name
        for item in found.items:
            problem = problem_of(task, item)
            hidden = [line.strip() for line in item.data["test"].splitlines() if "assert" in line and len(line) > 30]
            assert not [line for line in hidden if line in problem.task], (name, item.key)
