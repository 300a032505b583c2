"""Where a task's rows are found, and what is wrong with a row, by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.tasks import TASKS, find_tasks, register
from fulgurite.evaluation.tasks.rows import examples_of, items_of

GSM8K = TASKS["gsm8k"]
GOOD = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_a_folder_and_the_playground(tmp_path: Path) -> None:
    file = rows_file(tmp_path / "math" / "gsm8k" / "test.jsonl", [GOOD] * 3)
    assert [item.key for item in items_of(GSM8K, file).items] == ["1", "2", "3"]
    assert items_of(GSM8K, str(tmp_path)).source == file
    assert len(items_of(GSM8K, file, limit=2).items) == 2
    made = items_of(GSM8K, "builtin")
    assert len(made.items) == 200 and not made.bad
    assert all(GSM8K.answer(item.solution, item) == item.target for item in made.items)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            None,
            "no rows were named; give --path with a file, or --path hub, which fetches openai/gsm8k, or --path builtin",
        ),
        ("nowhere.jsonl", "gsm8k: no such file: nowhere.jsonl"),
        (".", "holds none of its files (math/gsm8k/test.jsonl"),
    ],
)
def test_no_rows(path: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        items_of(GSM8K, path)
    assert message in str(caught.value)


def test_broken_rows(tmp_path: Path) -> None:
    bad = [{"question": "Why?"}, {"question": "", "answer": "#### 1"}, {"question": "How many?", "answer": "five"}]
    file = rows_file(tmp_path / "few.jsonl", [GOOD] * 30 + bad)
    found = items_of(GSM8K, file)
    assert len(found.items) == 30 and found.rows == 33
    assert found.bad == [
        f"{file}, line 31: there is no 'answer'; found 'question'",
        f"{file}, line 32: 'question' is empty",
        f"{file}, line 33: 'answer' ends with no '#### NUMBER': 'five'",
    ]
    with pytest.raises(ValueError, match=r"line 31: there is no 'answer'.*on_bad_row skip"):
        items_of(GSM8K, file, on_bad_row="error")
    many = rows_file(tmp_path / "many.jsonl", [GOOD] * 3 + bad)
    with pytest.raises(ValueError, match=r"3 of 6 rows of .* would be left out"):
        items_of(GSM8K, many)
    assert len(items_of(GSM8K, many, on_bad_row="skip").items) == 3
    with pytest.raises(ValueError, match=r"none of 3 rows .* is it a file of this task"):
        items_of(GSM8K, rows_file(tmp_path / "none.jsonl", bad), on_bad_row="skip")


def test_an_id_that_stands_there_twice(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "test": "def check(candidate):\n  pass",
        "entry_point": "f",
    }
    found = items_of(TASKS["humaneval"], rows_file(tmp_path / "he.jsonl", [row] * 2), on_bad_row="skip")
    assert len(found.items) == 1 and "its id 'HumanEval/0' stands at" in found.bad[0]


def test_examples(tmp_path: Path) -> None:
    file = rows_file(tmp_path / "train.jsonl", [GOOD, {"question": "And 1?", "answer": "#### 1"}])
    assert examples_of(GSM8K, file, 2) == (
        "Question: What is 2 + 3?\nAnswer: 2 + 3 = 5\n#### 5\n\nQuestion: And 1?\nAnswer: #### 1\n\n"
    )
    assert examples_of(GSM8K, None, 0) == ""
    with pytest.raises(ValueError, match="there are 2 examples; give fewer"):
        examples_of(GSM8K, file, 3)
    with pytest.raises(ValueError, match="give shots_path"):
        examples_of(GSM8K, None, 2)
    with pytest.raises(ValueError, match="takes no examples"):
        examples_of(TASKS["humaneval"], file, 2)


def test_names() -> None:
    assert [task.name for task in find_tasks(["piqa", "gsm8k", "piqa"])] == ["piqa", "gsm8k"]
    with pytest.raises(ValueError, match=r"no task 'gsm8'. Did you mean 'gsm8k'"):
        find_tasks(["gsm8"])
    with pytest.raises(ValueError, match="is there already"):
        register(GSM8K)


def test_every_task_says_what_it_is() -> None:
    for task in TASKS.values():
        assert task.summary and (task.files or task.hub), task.name
        assert task.hub is None or len(task.hub.revision) == 40, f"{task.name}: the revision is pinned"


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["gsm8k", "arc_easy", "piqa", "mbpp", "humaneval", "openbookqa", "sciq", "webquestions"]
)
def test_real_rows(name: str, real_data: Path) -> None:
    found = items_of(TASKS[name], str(real_data), limit=120)
    assert len(found.items) == 120 and not found.bad
    assert len({item.key for item in found.items}) == 120


def test_programs_of_the_playground_are_solved_by_their_solutions() -> None:
    """What their asserts expect comes from the playground's interpreter; Python agrees."""
    items = items_of(TASKS["mbpp"], "builtin").items
    assert len(items) == len({item.data["text"] for item in items}) == 100
    for item in items:
        space: dict[str, Any] = {}
        exec("\n".join([item.solution, *item.data["tests"]]), space)  # our own text
        assert len(item.data["tests"]) >= 3, item.key
    assert items_of(TASKS["mbpp"], "builtin").items == items, "the same rows each time"
