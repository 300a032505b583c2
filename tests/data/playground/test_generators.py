"""The playground's generators: the same everywhere, right answers accepted, wrong ones refused, nothing executed."""

import builtins
import hashlib
import json
import subprocess
import sys

import pytest

from fulgurite.data.playground import DOMAINS, Task, check, conversation, documents, tasks
from fulgurite.data.playground.content.arithmetic import NotArithmetic, evaluate, final_number
from fulgurite.data.playground.content.interpreter import NotAllowed, Program
from fulgurite.data.playground.draw import Draw, split_of


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def test_first_documents_are_frozen() -> None:
    # The base model was trained on this stream: a changed document is a changed base.
    assert _digest(list(documents(0, 200))) == "9b4732e74c5a3758"


@pytest.mark.parametrize(
    ("domain", "digest"), [("text", "c235dff4002cebc9"), ("code", "c1c7119bab060f6a"), ("maths", "4a21bd2a2f2a1b2a")]
)
def test_first_tasks_are_frozen(domain: str, digest: str) -> None:
    rows = [(task.domain, task.kind, task.prompt, task.answer) for task in tasks(domain, 0, 100)]
    assert _digest(rows) == digest


def test_fewer_documents_are_a_prefix_and_start_skips() -> None:
    rows = list(documents(3, 60))
    assert list(documents(3, 20)) == rows[:20]
    assert list(documents(3, 20, start=40)) == rows[40:]
    assert list(documents(4, 60)) != rows


def test_another_process_with_another_hash_seed_draws_the_same() -> None:
    code = "from fulgurite.data.playground import documents; print(hash('a') and list(documents(1, 30)))"
    out = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert out[0] == out[1]


def test_validation_documents_are_not_train_documents() -> None:
    assert not set(documents(0, 2000)) & set(documents(0, 200, split="validation"))


def test_documents_of_one_domain() -> None:
    assert all("def " in text for text in documents(0, 40, domains=("code",)))


@pytest.mark.parametrize("domain", DOMAINS)
def test_right_answers_are_accepted_and_those_of_other_tasks_refused(domain: str) -> None:
    rows = tasks(domain, 5, 150)
    assert all(check(task, task.answer) for task in rows)
    assert not any(check(task, "") for task in rows)
    assert not any(check(task, "I do not know") for task in rows)
    for kind in {task.kind for task in rows}:
        of_kind = [task for task in rows if task.kind == kind]
        wrong = [check(task, "nothing like it 123456789") for task in of_kind]
        assert not any(wrong), kind


def test_maths_answers_are_judged_by_value() -> None:
    task = Task("maths", "steps", "What is 3 * 4 + 5?", "3 * 4 = 12. 12 + 5 = 17. #### 17")
    assert check(task, "17")
    assert check(task, "The answer is 17.")
    assert check(task, "17.0")
    assert check(task, "34/2")
    assert not check(task, "18")
    assert not check(task, "17 at first, but the answer is 16")
    assert not check(task, "-17")


def test_a_target_needs_the_right_value_from_the_right_numbers() -> None:
    task = Task("maths", "target", "Write an expression that uses 2, 3, 4 once each and equals 14.", "2 + 3 * 4")
    assert check(task, "4*3+2")
    assert not check(task, "14")
    assert not check(task, "(2 + 3) * 4")
    assert not check(task, "2 + 3 * 4 + 0")
    assert not check(task, "2 + 3 * 4 or __import__('os')")


def test_text_answers_ignore_case_articles_and_marks_only() -> None:
    task = Task("text", "reading", "?", "in the garden")
    assert check(task, "In the garden.")
    assert not check(task, "in the kitchen")
    assert not check(task, "not in the garden")


def test_code_answers_are_judged_by_what_they_return() -> None:
    task = Task("code", "function", "Write a function f(x, y) ...", "def f(x, y):\n    return (x + y) * 3\n")
    assert check(task, "def f(a, b):\n    total = 0\n    for i in range(3):\n        total += a + b\n    return total")
    assert check(task, "```python\ndef f(x, y):\n    return 3 * x + 3 * y\n```")
    assert not check(task, "def f(x, y):\n    return x + y * 3\n")
    assert not check(task, "def f(x):\n    return x\n")
    assert not check(task, "def g(x, y):\n    return (x + y) * 3\n")
    assert not check(task, "def f(x, y):\n    (x + y) * 3\n")
    assert not check(task, "return (x + y) * 3")


def test_a_truth_value_is_not_a_number() -> None:
    task = Task("code", "function", "", "def f(x):\n    return x > 2\n")
    assert check(task, "def f(x):\n    if x > 2:\n        return True\n    return False\n")
    assert not check(task, "def f(x):\n    if x > 2:\n        return 1\n    return 0\n")


_HOSTILE = [
    "def f(x):\n    return __import__('os').system('touch {mark}')\n",
    "def f(x):\n    return open('{mark}', 'w')\n",
    "import os\ndef f(x):\n    return x\n",
    "def f(x, y=open('{mark}', 'w')):\n    return x\n",
    "@print\ndef f(x):\n    return x\n",
    "def f(x):\n    return ().__class__\n",
    "def f(x):\n    return (lambda: x)()\n",
    "def f(x):\n    while True:\n        x += 1\n    return x\n",
    "def f(x):\n    return f(x)\n",
    "def f(x):\n    return 9 ** 9 ** 9\n",
    "def f(x):\n    y = 10\n    for i in range(100):\n        y = y * y\n    return y\n",
    "def f(x):\n    for i in range(10 ** 12):\n        x += 1\n    return x\n",
    "def f(x):\n    return range(10 ** 12)\n",
    "def f(x):\n    break\n",
    "def f(x):\n    return 1 / 0\n",
    "def f(x):\n    return f\n",
    "def f(x):\n    return x.real\n",
    "def f(x):\n    return int(None)\n",
    "def f(x):\n    return " + "(" * 500 + "x" + ")" * 500 + "\n",
    "def f(x):\n    return " + "-" * 3000 + "x\n",
    "def f(x):\n    return x" + " + x" * 900 + "\n",
    "def f(x):\n    return '\ud800'\n",
    "def f(x):\n    return \x00\n",
]


@pytest.mark.parametrize("source", _HOSTILE, ids=range(len(_HOSTILE)))
def test_no_answer_is_executed(source: str, tmp_path, monkeypatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("an answer was executed")

    mark = tmp_path / "mark"
    task = Task("code", "function", "", "def f(x):\n    return x + 1\n")
    answer = source.replace("{mark}", str(mark))
    # compile and __import__ stay: ast.parse calls the one, the standard library the other.
    with monkeypatch.context() as patch:
        for name in ("eval", "exec", "open"):
            patch.setattr(builtins, name, forbidden)
        patch.setattr("os.system", forbidden)
        outcome = check(task, answer)
    assert outcome is False
    assert not mark.exists()


def test_the_interpreter_agrees_with_python() -> None:
    for task in tasks("code", 9, 120):
        if task.kind != "function":
            continue
        names: dict = {}
        exec(task.answer, names)  # our own text, not a model's
        program = Program(task.answer)
        name, node = next(iter(program.functions.items()))
        for first in range(-4, 9):
            values = (first, 3)[: len(node.args.args)]
            assert program.call(name, *values) == names[name](*values), task.answer


def test_the_interpreter_runs_every_allowed_form() -> None:
    source = (
        "def h(x):\n    return max(abs(x), 2)\n"
        "def f(x, y):\n    'doc'\n    total = 0\n    for i in range(x):\n        if i == 2:\n            continue\n"
        "        if not i < 5 or total > 100:\n            break\n        total += h(i) * y\n"
        "    else:\n        total -= 1\n    return total if total != 0 and y >= 0 else -1\n"
    )
    names: dict = {}
    exec(source, names)
    program = Program(source)
    for x in range(9):
        for y in range(-2, 3):
            assert program.call("f", x, y) == names["f"](x, y)


def test_interpreter_errors_name_what_is_allowed() -> None:
    with pytest.raises(NotAllowed, match=r"While; allowed are functions"):
        Program("def f(x):\n    while x:\n        pass\n").call("f", 1)
    with pytest.raises(NotAllowed, match=r"'g' is not defined; allowed are f, abs"):
        Program("def f(x):\n    return g(x)\n").call("f", 1)
    with pytest.raises(NotAllowed, match="steps"):
        Program("def f(x):\n    for i in range(10 ** 9):\n        x += 1\n    return x\n").call("f", 1)


def test_arithmetic() -> None:
    assert evaluate("-(1 + 2) * 3 / 2") == -4.5
    assert final_number("1 + 1 = 2. #### 1,024") == 1024
    assert final_number("007") == 7
    for text in ("2 ** 9", "1 / 0", "x + 1", "True + 1", "9" * 30, "1e999", "1 if 2 else 3", "'a'", ""):
        with pytest.raises(NotArithmetic):
            evaluate(text)
    with pytest.raises(NotArithmetic, match="no number"):
        final_number("none")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"tasks: domain 'music'; allowed are text, code, maths"):
        tasks("music", 0, 1)
    with pytest.raises(ValueError, match=r"documents: split 'test'; allowed are train and validation"):
        list(documents(0, 1, split="test"))
    with pytest.raises(ValueError, match=r"Draw: split 'dev'"):
        Draw(0, "dev")


def test_owned_combinations_belong_to_the_split() -> None:
    words = [str(number) for number in range(100)]
    for split in ("train", "validation", "test"):
        draw = Draw(1, split)
        assert {split_of(*draw.owned(lambda draw=draw: (draw.pick(words), draw.pick(words)))) for _ in range(50)} == {
            split
        }


def test_conversation_is_one_turn_of_each() -> None:
    text = conversation(Task("text", "reading", "Where?", "here"))
    assert text == "<|user|>\nWhere?<|end|>\n<|assistant|>\nhere<|end|>\n"
