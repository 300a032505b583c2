"""Prompts, answers taken from texts, and what counts as right, task by task; rows made up in the published schemas."""

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.judging.numbers import canonical_number, final_number, same_number
from fulgurite.evaluation.tasks import TASKS, Item
from fulgurite.evaluation.tasks.choices.accuracy import accuracy, chosen
from fulgurite.evaluation.tasks.code.programs import fenced, from_continuation
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.evaluation.tasks.text.unnatural import SUBTASKS


def item_of(name: str, row: dict[str, Any]) -> Item:
    return TASKS[name].item(row, 1)


def right(name: str, item: Item, text: str) -> bool:
    found: list[float | None] = []
    task = TASKS[name]
    answer = task.answer(text, item)
    assert task.judge is not None
    if answer is None:
        return False
    from fulgurite.evaluation.judging.verdicts import How

    task.judge.judge([(item, answer)], lambda number, verdict: found.append(verdict.correct), How())
    return found == [1.0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16 - 3 = 13\n#### 18\nQuestion: 2", "18"),
        ("so \\boxed{1,200} eggs, not 7", "1,200"),
        ("The answer is $72.50. It took 3 steps", "$72.50"),
        ("first 3 then 4.", "4"),
        ("minus -5", "-5"),
        ("१ ৪২", "42"),
        ("nothing", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    found = final_number(text)
    assert (found is None) == (number is None)
    assert found is None or canonical_number(found) == canonical_number(str(number))


def test_numbers_are_compared_exactly() -> None:
    assert same_number("1,200.00", "1200") and same_number("$18", "18") and same_number("-0", "0")
    assert same_number("70000", 7e4) and not same_number("0.3", "0.30000000000000004")
    assert not same_number("12", "1.2") and not same_number("inf", "1")


def test_gsm8k() -> None:
    item = item_of("gsm8k", {"question": "Eggs?", "answer": "16 - 3 = <<16-3=13>>13\n#### 1,018"})
    assert (item.prompt, item.target) == ("Question: Eggs?\nAnswer:", "1,018")
    assert right("gsm8k", item, " 1018 eggs") and not right("gsm8k", item, " 1018 or 9 eggs")


def test_the_others_of_the_family() -> None:
    svamp = item_of("svamp", {"Body": "He has 3.", "Question": "How many?", "Answer": 3.0})
    assert svamp.prompt == "Question: He has 3. How many?\nAnswer:" and right("svamp", svamp, "3")
    assert item_of("asdiv", {"body": "A.", "question": "B?", "answer": "9 (apples)"}).target == "9"
    assert item_of("gsm_plus", {"question": "Q?", "answer": "4", "solution": "so 4"}).solution == "so 4"


def test_mgsm_has_no_header(tmp_path: Path) -> None:
    file = tmp_path / "mgsm_de.tsv"
    file.write_text("Wie viele?\t18\nEine Frage ohne Zahl\nUnd?\t1,5\n" * 10)
    found = items_of(TASKS["mgsm_de"], str(file), on_bad_row="skip")
    assert len(found.items) == 20 and found.items[0].target == "18"
    assert "line 2: there is no 'question'" in found.bad[0]


PROMPT = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef root(x: float) -> float:\n    """The root."""\n'


@pytest.mark.parametrize(
    "text",
    [
        "    return math.sqrt(x)\n",
        "Here it is:\n```python\ndef root(x):\n    return math.sqrt(helper(x))\n```\nDone.",
        "```\ndef root(x: float) -> float:\n    return math.sqrt(x)",
        "def root(x):\n    return math.sqrt(x)",
    ],
)
def test_programs_of_continuations_and_chats(text: str) -> None:
    program = from_continuation(text, PROMPT, "root")
    space: dict[str, Any] = {}
    exec(program or "", space)
    assert space["root"](9) == 3.0


def test_blocks() -> None:
    assert from_continuation("  \n", PROMPT, "root") is None
    two = "```python\nprint(1)\n```\ntext\n```python\ndef f():\n    pass\n```"
    assert fenced(two, "f") == "def f():\n    pass\n" and fenced(two) == "print(1)\n"
    assert fenced("none") is None


def test_mbpp_as_published() -> None:
    row = {
        "task_id": 367,
        "text": "Is the tree balanced?",
        "code": "class Node:\r\n  pass",
        "test_list": ["assert f(root)", "assert g(1)", "assert h(2)"],
        "test_setup_code": "root = Node()",
        "challenge_test_list": [],
    }
    item = item_of("mbpp", row)
    assert item.prompt == (
        "You are an expert Python programmer, and here is your task: Is the tree balanced? Your code should pass these tests:\n\n"
        "assert f(root)\nassert g(1)\nassert h(2)\n[BEGIN]\n"
    )
    job = TASKS["mbpp"].judge.job(item, "x")  # type: ignore[union-attr]
    assert job.test == "root = Node()\nassert f(root)\nassert g(1)\nassert h(2)"
    assert TASKS["mbpp"].answer("def f(): pass\n[DONE]\nmore", item) == "def f(): pass\n\n"
    sanitised = item_of("mbpp_sanitized", {**row, "text": None, "prompt": "Sum.", "test_imports": ["import math"]})
    assert "task: Sum. Your" in sanitised.prompt
    assert TASKS["mbpp"].judge.job(sanitised, "x").helpers == "import math"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="converted to HumanEval's form"):
        item_of("mbpp", {"task_id": 1, "prompt": "p", "entry_point": "f", "test": "t"})


def test_the_split_of_mbpp(tmp_path: Path) -> None:
    rows = [{"task_id": i, "text": "t", "code": "c", "test_list": ["assert 1"]} for i in (2, 3, 10, 11, 510, 511)]
    file = tmp_path / "mbpp.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [item.key for item in items_of(TASKS["mbpp"], str(file)).items] == ["11", "510"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert len(items_of(TASKS["mbpp"], str(file)).items) == 2, "a file of examples"


def test_arc_in_both_schemas() -> None:
    published = {
        "id": "a",
        "question": {"stem": "Which?", "choices": [{"text": "one", "label": "A"}, {"text": "two", "label": "B"}]},
        "answerKey": "B",
    }
    hub = {"id": "a", "question": "Which?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"}
    assert item_of("arc_easy", published) == item_of("arc_easy", hub)
    item = item_of("arc_easy", hub)
    assert (item.prompt, item.choices, item.target) == ("Question: Which?\nAnswer:", (" one", " two"), 1)
    assert item_of("openbookqa", {**published}).prompt == "Which?"
    letters = item_of("arc_easy_letters", hub)
    assert letters.prompt == "Question: Which?\nA. one\nB. two\nAnswer:"
    assert right("arc_easy_letters", letters, " B. two") and not right("arc_easy_letters", letters, " A")
    with pytest.raises(ValueError, match="'answerKey' is 'C'; the choices are labelled A, B"):
        item_of("arc_easy", {**hub, "answerKey": "C"})


def test_piqa_with_its_labels(tmp_path: Path) -> None:
    row = {"goal": "Open it", "sol1": "push", "sol2": "pull"}
    rows, labels = tmp_path / "dev.head-2.jsonl", tmp_path / "dev-labels.head-2.lst"
    rows.write_text((json.dumps(row) + "\n") * 2)
    with pytest.raises(FileNotFoundError, match=r"dev-labels.head-2.lst is not there"):
        items_of(TASKS["piqa"], str(rows))
    labels.write_text("1\n0\n")
    assert [item.target for item in items_of(TASKS["piqa"], str(rows)).items] == [1, 0]
    labels.write_text("1\n")
    with pytest.raises(ValueError, match=r"has 2 rows, .* has 1 labels"):
        items_of(TASKS["piqa"], str(rows))
    plain = tmp_path / "dev.jsonl"
    plain.write_text(json.dumps(row) + "\n")
    (tmp_path / "dev-labels.lst").write_text("0\n")
    assert items_of(TASKS["piqa"], str(plain)).items[0].target == 0


def test_race_asks_the_last_question() -> None:
    row = {
        "article": "Text.",
        "questions": ["Who  _  .", "What is it?", "Why?"],
        "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"], ["i", "j", "k", "l"]],
        "answers": ["A", "C", "D"],
    }
    item = item_of("race", row)
    assert item.prompt == "Article: Text.\n\nWho a\nQuestion: What is it?\nAnswer: g\nWhy?"
    assert (item.target, item.choices) == (3, (" i", " j", " k", " l"))


def test_hellaswag_is_cleaned() -> None:
    row = {"ind": 4, "activity_label": "Roof", "ctx_a": "A man sits. [header] x", "ctx_b": "he", "label": "1"}
    item = item_of("hellaswag", {**row, "endings": ["is [title] up.", "falls."]})
    assert item.prompt == "Roof: A man sits. x He" and item.choices == (" is. up.", " falls.")


def test_sciq_truthfulqa_webquestions() -> None:
    row = {
        "question": "Q?",
        "distractor1": "a",
        "distractor2": "b",
        "distractor3": "c",
        "correct_answer": "d",
        "support": " S.",
    }
    item = item_of("sciq", row)
    assert (item.prompt, item.target, item.choices[3]) == ("S.\nQuestion: Q?\nAnswer:", 3, " d")
    text = "Please choose the correct answer to the question: Q?\n\nAnswer1: a\nAnswer2: b\n\nAnswer format: answer1/answer2"
    assert item_of("sciq", {"instruction": text, "answer": "answer2"}).target == 1
    asked = {
        "question": "Q?",
        "mc1_targets": {"choices": ["no", "yes"], "labels": [0, 1]},
        "mc2_targets": {"no": 0, "yes": 1},
    }
    assert item_of("truthfulqa_mc1", asked).target == 1
    mass = TASKS["truthfulqa_mc2"].metrics
    assert mass is not None
    assert mass(item_of("truthfulqa_mc2", asked), [-1000.0, -1001.0], None)["acc"] == pytest.approx(0.26894142)
    web = item_of("webquestions", {"qText": "Who?", "answers": ["Ann Lee", "Ann", "Bo"], "qId": "w1"})
    assert web.choices == (" Ann", " Bo")
    given = {"utterance": "Who?", "targetValue": '(list (description "Ann Lee") (description Bo))', "url": ""}
    assert item_of("webquestions", given).choices == (" Ann Lee", " Bo")


def test_acc_and_acc_norm() -> None:
    item = Item("1", "Q", 1, (" abcd", " ab"))
    assert accuracy(item, [-4.0, -3.0], None) == {"acc": 1.0, "acc_norm": 0.0}  # −1 against −1.5 per character
    assert accuracy(item, [-3.0, -3.0], None)["acc"] == 0.0, "ties go to the first"
    assert chosen([float("nan"), -2.0, -1.0]) == 2


def test_bbh() -> None:
    item = item_of("bbh_navigate", {"input": "Do you return?", "target": "No"})
    assert item.prompt.endswith("starting point.\n\nQ: Do you return?\nA:")
    assert right("bbh_navigate", item, " no.\n\nQ") and right("bbh_navigate", item, "Hm. So the answer is No.")
    assert not right("bbh_navigate", item, "Yes")
    dates = item_of("bbh_date_understanding", {"input": "When?\n(A) x\n(B) y", "target": "(B)"})
    assert right("bbh_date_understanding", dates, " (B) 12/14/2026") and right("bbh_date_understanding", dates, " B")
    assert not right("bbh_date_understanding", dates, " (A)")


def test_bigbench() -> None:
    row = {"input": "Which film?", "target_scores": {"Up": 1, "Jaws": 0}}
    item = item_of("bigbench_choices", row)
    metrics = TASKS["bigbench_choices"].metrics
    assert metrics is not None and metrics(item, [-1.0, -2.0], None) == {"multiple_choice_grade": 1.0}
    assert right("bigbench_written", item_of("bigbench_written", row), " up\n")


def test_bigbench_by_name_finds_its_file_and_shows_no_choices(tmp_path: Path) -> None:
    row = {"input": "Which day?", "target_scores": {"05/01/2021": 1, "02/23/2021": 0}}
    for name, place in (("date_understanding", "bigbench"), ("emoji_movie", "bigbench/benchmark_tasks/emoji_movie")):
        file = tmp_path / place / ("task.json" if "benchmark" in place else f"{name}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        # As published: the examples are one of several lists.
        file.write_text(json.dumps({"name": name, "keywords": ["dates"], "metrics": ["exact"], "examples": [row]}))
        [item] = items_of(TASKS[f"bigbench_{name}"], str(tmp_path)).items
        assert item.prompt == "Q: Which day?\nA:"
        assert right(f"bigbench_{name}", item, " 05/01/2021\n") and not right(f"bigbench_{name}", item, "02/23/2021")


def test_unnatural_in_context_learning(tmp_path: Path) -> None:
    assert len(SUBTASKS) == 8 and all(TASKS[f"bigbench_unnatural_{name}"].kind == "answers" for name in SUBTASKS)
    file = tmp_path / "bigbench" / "unnatural_in_context_learning" / "dates" / "task.json"
    file.parent.mkdir(parents=True)
    whole = "Input: 2014-06-01\nOutput: !06!01!2014!\nInput: 2001-02-03\nOutput: "
    rows = [{"input": whole, "target": "!02!03!2001!"}, {"input": "2001-02-04", "target": ["!02!04!2001!"]}]
    file.write_text(json.dumps({"name": "dates", "examples": rows}))
    task = TASKS["bigbench_unnatural_dates"]
    first, second = items_of(task, str(file)).items
    assert first.prompt == whole.rstrip() and second.prompt == "Input: 2001-02-04\nOutput:"
    assert task.example is not None and task.example(second) == "Input: 2001-02-04\nOutput: !02!04!2001!"
    assert right(task.name, first, " !02!03!2001!\nInput: x") and not right(task.name, first, " !02!04!2001!")
    word = item_of("bigbench_unnatural_identity", {"inputs": "Input: Ab\nOutput:", "targets": ["Ab"]})
    assert right("bigbench_unnatural_identity", word, " Ab") and not right("bigbench_unnatural_identity", word, " ab")


@pytest.mark.parametrize(
    ("kind", "value", "good", "bad"),
    [
        ("float", 1.42, "The answer is 1.43.", "The answer is 1.5."),
        ("integer", 11760, "so 11,760", "11761"),
        ("bool", True, "The answer is yes.", "False"),
        ("list of integer", [0, 5], "The answer is [0, 5].", "The answer is [5, 0]."),
        ("option", "(b)", "The answer is (b).", "The answer is (a)."),
        ("float", 0.0, "The answer is 0.", "The answer is 1."),
    ],
)
def test_theoremqa(kind: str, value: Any, good: str, bad: str) -> None:
    item = item_of("theoremqa", {"Question": "Q?", "Answer": value, "Answer_type": kind, "Picture": None, "id": "x"})
    assert right("theoremqa", item, good) and not right("theoremqa", item, bad)


def test_repair() -> None:
    row = {
        "task_id": "Python/0",
        "declaration": "def f(x):\n",
        "buggy_solution": "    return x - 1\n",
        "test": "\ndef check(f):\n    assert f(1) == 2\n\ncheck(f)",
        "entry_point": "f",
        "canonical_solution": "    return x + 1\n",
    }
    item = item_of("humanevalfix_python", row)
    assert item.prompt.startswith("def f(x):\n    return x - 1\n") and item.prompt.endswith(
        "Fix bugs in f.\ndef f(x):\n"
    )
    assert TASKS["humanevalfix_python"].answer(item.solution, item) == "def f(x):\n    return x + 1\n\n"
