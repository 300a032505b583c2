"""Attempts with rows: each is a row or a file that somebody has, and that could be read as something else than it is.

Rows of evaluation tasks, of counts for `fulgurite scaling`, of rewards, of conversations and preferences, and of a user's tables.
What is shown is what must be said: a refusal that names what was given, a line of the report, or the right reading.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulgurite.commands.score.rows import read_asked
from fulgurite.data.readers.conversations import ConversationReader
from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.sources.locate import file_source
from fulgurite.datamodules import ChoiceTasksDataModule, FilesDataModule
from fulgurite.evaluation.pass_until.reading import read_counts
from fulgurite.evaluation.repair.problems import problem_of
from fulgurite.evaluation.reward_bench import benchmark_items, score_benchmark
from fulgurite.evaluation.runner.plan import plan_of
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.generation.protocol import SamplingSettings
from tests.acceptances.said import csv_file, refusal, rows_file

STEM = {"question": "Which?", "id": "q1", "answerKey": "A"}
FOUR = {"text": ["a", "b", "c", "d"], "label": list("ABCD")}
MBPP = {"task_id": 11, "text": "Add.", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
THEOREM = {"Question": "How many?", "Answer_type": "integer", "Answer": 3, "Picture": None}
FIX = {
    "task_id": "P/0",
    "declaration": "def f(x):\n",
    "test": "def check(c):\n    assert c(1) == 1",
    "entry_point": "f",
}
ENDINGS = {"activity_label": "Film", "ctx_a": "Two see a film", "ctx_b": "", "label": 1, "ind": 4}
RACE = {"article": "Long.", "questions": ["Why?"], "options": [["a", "b", "c", "d"]], "answers": ["E"]}
TRUTH = {"question": "Why?", "mc1_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}
SCIQ = {"question": "Why?", "distractor1": "a", "distractor2": "b", "correct_answer": "c", "support": ""}
CODE_ERROR = {"task_id": "C/0", "buggy_code": "def f(x):\n    return y", "test": "def check(c):\n    assert c(1) == 1",
              "entry_point": "f", "error_message": ""}  # fmt: skip

ROWS_OF_TASKS = [
    pytest.param("gsm8k", {"question": "How many?", "answer": "So.\n#### 5 apples"}, "'5 apples' is no number",
                 id="a word problem whose right answer has a unit, which no number ever equals"),
    pytest.param("gsm_plus", {"question": "How many?", "answer": "1/2 or 3"}, "'1/2 or 3' is no number",
                 id="a word problem with two right answers in one text"),
    pytest.param("svamp", {"ID": "s", "Body": "A.", "Question": "How many?", "Answer": True}, "'Answer' is True",
                 id="a word problem whose right answer is true"),
    pytest.param("asdiv", {"body": "A.", "question": "When?", "answer": "9:30 (time)"}, "'9:30' is no number",
                 id="a word problem whose right answer is a time of day"),
    pytest.param("theoremqa", {**THEOREM, "Answer": "many"}, "'Answer' is 'many'; with 'Answer_type' 'integer'",
                 id="an integer of TheoremQA that is a word, which ended the judging in a traceback"),
    pytest.param("theoremqa", {**THEOREM, "Answer": 2.5}, "'Answer' is 2.5", id="an integer of TheoremQA with a fraction"),
    pytest.param("theoremqa", {**THEOREM, "Answer_type": "list of float", "Answer": 0.5}, "'list of float'",
                 id="a list of TheoremQA that is one number"),
    pytest.param("theoremqa", {**THEOREM, "Answer_type": "bool", "Answer": "maybe"}, "'Answer' is 'maybe'",
                 id="a truth value of TheoremQA that is neither"),
    pytest.param("arc_easy", {**STEM, "choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}}, "3 labels and 2 texts",
                 id="a question with fewer texts than labels"),
    pytest.param("arc_easy", {**STEM, "choices": {**FOUR, "text": ["a", None, "c", "d"]}}, "there is no 'text'",
                 id="a choice that is null, which was read as the word None"),
    pytest.param("openbookqa", {"question_stem": "Which?", "id": "q", "answerKey": "A", "choices": {**FOUR, "label": list("AABC")}},
                 "a label stands there twice", id="two choices with one label"),
    pytest.param("arc_easy_letters", {**STEM, "answerKey": "F", "choices": {"text": list("abcdef"), "label": list("ABCDEF")}},
                 "there are 6 choices; the letters end with E", id="six choices where letters are written"),
    pytest.param("hellaswag", {**ENDINGS, "endings": ["runs.", None, "sits.", "eats."]}, "there is no 'endings'",
                 id="an ending that is null, which was a traceback"),
    pytest.param("truthfulqa_mc1", TRUTH, "calls 2 choices right; it has one",
                 id="two right answers where one counts, of which the second counted as wrong"),
    pytest.param("bigbench_choices", {"input": "Which?", "target_scores": {"a": 0, "b": 0}}, "all choices the same score",
                 id="a question in which no choice is right"),
    pytest.param("bigbench_choices", {"input": "Which?", "target_scores": {"a": 7, "b": 0}}, "no score from 0 to 1",
                 id="a choice that is worth seven points"),
    pytest.param("webquestions", {"question": "Who?", "answers": ["Ann", 1912]}, "an accepted answer is 1912",
                 id="an accepted answer that is a number, which was dropped"),
    pytest.param("race", RACE, "four options and an answer from A to D", id="a right answer E of four options"),
    pytest.param("sciq", SCIQ, "there is no 'distractor3'", id="a question with two wrong answers of three"),
    pytest.param("mbpp", {**MBPP, "test_list": ["f(1) == 2"]}, "no assert, which every program would pass",
                 id="a test of MBPP that asserts nothing, which every program passed"),
    pytest.param("mbpp", {**MBPP, "test_imports": "import math"}, "'test_imports' is 'import math'",
                 id="imports of MBPP as one text, which became a line for each letter"),
    pytest.param("codeerror", CODE_ERROR, "'error_message' is empty", id="a repair without the error message that it quotes"),
    pytest.param("humanevalfix_python", FIX, "there is no 'buggy_solution'", id="a repair without the program to repair"),
    pytest.param("piqa", {"goal": "Open", "sol1": "push", "sol2": "pull", "label": -1}, "'label' is -1; needed is 0 or 1",
                 id="a published test row, whose label is hidden"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "said"), ROWS_OF_TASKS)
def test_rows_of_tasks(name: str, row: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(lambda: items_of(TASKS[name], rows_file(tmp_path / "rows.jsonl", [row])))


def test_ids_of_mbpp_that_are_texts(tmp_path: Path) -> None:
    """Its file of all 974 tasks was taken whole where the ids are texts: training rows were scored."""
    rows = [{**MBPP, "task_id": str(number)} for number in (2, 10, 11, 510, 511)]
    found = items_of(TASKS["mbpp"], rows_file(tmp_path / "mbpp.jsonl", rows)).items
    assert [item.key for item in found] == ["11", "510"]


def test_examples_that_are_asked_too(tmp_path: Path) -> None:
    """The same file for --path and --shots_path: each question's own answer stood in its prompt."""
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(4)]
    asked, other = rows_file(tmp_path / "test.jsonl", rows), rows_file(tmp_path / "train.jsonl", [
        {"question": "What is 9 + 9?", "answer": "#### 18"}])  # fmt: skip
    gsm8k, drawn = TASKS["gsm8k"], SamplingSettings()
    said = refusal(lambda: plan_of(gsm8k, asked, tmp_path, drawn, shots=2, shots_path=asked))
    assert "2 of the questions that are asked stand with their answers among the examples, the first is '1'" in said
    assert plan_of(gsm8k, asked, tmp_path, drawn, shots=1, shots_path=other).examples.endswith("18\n\n")


def test_a_problem_whose_first_test_calls_nothing(tmp_path: Path) -> None:
    """The repair loop takes the function's name from it."""
    row = {**MBPP, "test_list": ["assert 1 + 1 == 2", "assert f(1) == 1"]}
    (item,) = items_of(TASKS["mbpp"], rows_file(tmp_path / "rows.jsonl", [row])).items
    assert problem_of(TASKS["mbpp"], item).entry_point in ("", "f")


COUNTS = [
    pytest.param("a.csv", "model,size,instance,n,n,c\nm,1,a,10,20,3\n", {}, "more than once",
                 id="a column of draws twice, of which the last was taken"),
    pytest.param("a.jsonl", '{"model": "m", "size": 1, "instance": "a", "n": 10, "n": 20, "c": 3}\n', {}, "'n'",
                 id="a key of draws twice, of which the last was taken"),
    pytest.param("a.csv", "model,size,instance,n,c\nm,1,a,10,3,7\n", {}, "6 fields were found; the header has 5",
                 id="a row with a field too many, which was dropped"),
    pytest.param("a.csv", "model,size,instance,n,c\nm,1,a,10\n", {}, "4 fields were found; the header has 5", id="a row cut short"),
    pytest.param("a.txt", "model,size,instance,n,c\nm,1,a,10,3\n", {}, "ending '.txt' is not known",
                 id="a text file, which was read as if it were csv"),
    pytest.param("a.csv", "model,size,instance,n,c\nm,1,a,10,3\n", {"columns": {"loss": "Loss"}}, "lacks Loss",
                 id="a column of losses that the file does not have"),
    pytest.param("a.csv", "model,size,instance,n,c\nm,1B,a,10,3\n", {"sizes": {"m": 2e9}}, "m has size 1B, and --sizes gives 2e+09",
                 id="a size in the file and another one typed"),
    pytest.param("a.csv", "model,size,instance,n,c\nm,1,a,10,30\n", {}, "",
                 id="more passes than draws"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "options", "said"), COUNTS)
def test_counts(name: str, text: str, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    from fulgurite.evaluation.pass_until.counts import table_of

    file = Path(csv_file(tmp_path / name, text))
    told = refusal(lambda: table_of(read_counts(file, **options)))
    assert said in told if said else "c from 0 to n" in told


def test_counts_that_are_compressed(tmp_path: Path) -> None:
    file = tmp_path / "counts.csv.gz"
    file.write_bytes(gzip.compress(b"model,size,instance,n,c\nm,1.5M,a,10,3\n"))
    (row,) = read_counts(file)
    assert (row.model, row.size, row.n, row.c) == ("m", 1.5e6, 10, 3)


DIALOGUE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
WORSE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go."}]
SCORED = [
    pytest.param({"prompt": "Hi", "completion": "a", "completions": ["b", "c"]}, "answers of two kinds",
                 id="one answer and several, of which the one was left out"),
    pytest.param({"messages": WORSE, "chosen": DIALOGUE, "rejected": WORSE}, "'messages' and 'chosen' hold answers",
                 id="a chat beside a pair that does not hold it"),
    pytest.param({"prompt": "Hi", "completion": "a", "system": 7}, "'system' holds 7; a text is needed",
                 id="a system's text that is a number"),
    pytest.param({"messages": [{"role": "system", "content": "Be kind."}, *DIALOGUE], "system": "Be rude."}, "two systems",
                 id="two systems that say different things"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), SCORED)
def test_rows_to_score(row: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: read_asked(row, "rows.jsonl", 1, True))


def test_a_pair_whose_better_dialogue_is_repeated_as_messages() -> None:
    """ultrafeedback_binarized: the worse answer got no reward."""
    row = {"prompt": "Hi", "messages": DIALOGUE, "chosen": DIALOGUE, "rejected": WORSE}
    asked = read_asked(row, "rows.jsonl", 1, True)
    assert asked.kind == "pair" and [c.turns[-1].content for c in asked.conversations] == ["Hello.", "Go."]


def bench(**row: Any) -> dict[str, Any]:
    return {"prompt": "Hi", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Focus", "id": "1", **row}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param([bench(chosen=5)], "chosen is 5; a text", id="an answer that is a number, which was a traceback"),
        pytest.param([bench(num_correct="two")], "(num_correct two)", id="a count of right answers that is a word"),
        pytest.param([bench(subset="Ties", id="ref:1", rejected=["b"])] * 2, "the id 'ref:1' of Ties stands at line 1 already",
                     id="two prompts of Ties with one id, of which the last counted"),
    ],
)  # fmt: skip
def test_rows_of_reward_bench(rows: list[dict[str, Any]], said: str) -> None:
    placed = [(row, f"line {number}") for number, row in enumerate(rows, 1)]
    assert said in refusal(lambda: benchmark_items(placed, "rewardbench2"))


def test_a_prompt_of_ties_that_is_too_long_counts_as_wrong() -> None:
    """It was left out, so that fewer answers could make the score better."""
    rows = [bench(subset="Ties", id=f"{kind}:{k}", rejected=["b"]) for k in (0, 1) for kind in ("ref", "tied")]
    items = benchmark_items([(row, f"line {i}") for i, row in enumerate(rows)], "rewardbench2")
    right: list[list[float | None]] = [[9.0, 0.0]] * 4
    whole, partly = (score_benchmark(items, scores, "rewardbench2") for scores in (right, [*right[:3], [None, 0.0]]))
    assert whole.subsets["Ties"] > 0.99
    assert partly.subsets["Ties"] == pytest.approx(0.3 * 0.5 + 0.3 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * 0.0)


def conversations(rows: list[dict[str, Any]], folder: Path, **options: Any) -> tuple[list[Any], str]:
    """The records of a file, and the lines of the report."""
    reader = ConversationReader([file_source(Path(rows_file(folder / "rows.jsonl", rows)))], **options)
    found = list(reader)
    return found, "\n".join(reader.tally.lines())


def test_a_systems_text_in_the_column_and_in_the_turns(tmp_path: Path) -> None:
    """The column's was dropped: one line of the report says so, in every reader of messages."""
    system = {"role": "system", "content": "Be kind."}
    row = {"messages": [system, *DIALOGUE], "system": "Be rude."}
    found, told = conversations([row], tmp_path)
    assert [turn.content for turn in found[0].turns] == ["Be kind.", "Hi", "Hello."]
    assert "a column 'system' beside another system's text" in told
    assert "beside another" not in conversations([{**row, "system": "Be kind."}], tmp_path)[1]
    source = file_source(Path(rows_file(tmp_path / "kto.jsonl", [{**row, "label": True}])))
    reader = PreferenceReader([source])
    assert len(list(reader)) == 1 and "beside another system's text" in "\n".join(reader.tally.lines())


LEFT_OUT = [
    pytest.param({"conversations": [{"from": "human", "value": "a"}, {"from": "bing", "value": "b"}]}, "role 'bing'",
                 id="a chat with Bing"),
    pytest.param({"messages": [DIALOGUE[0], {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}, "not a string",
                 id="an answer in parts, as multimodal chats have it"),
    pytest.param({"instruction": "a", "output": "b", "history": [["q", "a", "more"]]}, "pairs of question and answer",
                 id="a history of triples"),
    pytest.param({"messages": [DIALOGUE[0], {**DIALOGUE[1], "weight": 0.5}]}, "weight 0.5", id="an answer of half a weight"),
    pytest.param({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "both be texts",
                 id="a text whose answer is a message"),
    pytest.param({"instruction": {"text": "a"}, "output": "b"}, "not a string", id="an instruction that is an object"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), LEFT_OUT)
def test_rows_to_train_on_are_left_out_by_name(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(lambda: conversations([row], tmp_path, on_bad_row="error"))


FILES = [
    pytest.param({"text": "a", "text_pair": "a"}, "the column 'a' was given for two of", id="one column as both texts"),
    pytest.param({"text": "a", "label": "a"}, "the column 'a' was given for two of", id="one column as text and label"),
    pytest.param({"label_names": ["1", "1.0"]}, "two of them mean one label", id="two names of one class"),
    pytest.param({"task_type": "causal_lm", "text_pair": "b"}, "text_pair 'b' with task_type 'causal_lm'",
                 id="a second text for language modelling, which was left out"),
    pytest.param({"task_type": "regression", "label_names": ["a", "b"]}, "which has no classes", id="names of classes of a number"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), FILES)
def test_columns_of_ones_own_files(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "rows.csv", "a,b,label\nx,y,1\nz,w,0\n")
    assert said in refusal(lambda: FilesDataModule(train_path=file, tokenizer="playground", **options))


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda file: FilesDataModule(train_path=file, val_path=file, tokenizer="playground"), id="of files"),
        pytest.param(lambda file: ChoiceTasksDataModule("piqa", path=file, val_path=file, tokenizer="playground"), id="of tasks"),
    ],
)  # fmt: skip
def test_validation_rows_that_are_the_training_rows(
    made: Callable[[str], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made(csv_file(tmp_path / "rows.csv", "text,label\nx,1\nz,0\n"))
    assert "the val rows are the training rows" in caplog.text


def test_numbers_of_the_text_are_read_as_they_stand(tmp_path: Path) -> None:
    """Thousands' commas and a currency do not make an answer wrong, and no answer is a number by chance."""
    row = {"question": "How much?", "answer": json.dumps("x")[1:-1] + "\n#### $1,250.00"}
    (item,) = items_of(TASKS["gsm8k"], rows_file(tmp_path / "rows.jsonl", [row])).items
    judge = TASKS["gsm8k"].judge
    assert judge is not None and judge.same("1250", item.target) and not judge.same("125", item.target)
