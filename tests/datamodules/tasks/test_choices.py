"""Questions to train on: the very tokens that the evaluation scores, splits by published names, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.tasks.questions.task import QUESTION_TASKS
from fulgurite.datamodules import ChoiceTasksDataModule
from fulgurite.evaluation.likelihood import encode_pair
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import items_of

EIGHT = ("openbookqa", "arc_easy", "arc_challenge", "webquestions", "piqa", "sciq", "race", "hellaswag")


def module(tmp_path: Path, task: str = "arc_easy", **options: Any) -> ChoiceTasksDataModule:
    options = {"path": "builtin", "tokenizer": "playground", "cache_dir": str(tmp_path / "cache"), **options}
    return ChoiceTasksDataModule(task, **options)


def tokens(data: ChoiceTasksDataModule, split: str) -> list[tuple[list[int], list[int]]]:
    """(all ids, those that are trained on) of each row."""
    rows = data._rows(split)
    found = [rows[i] for i in range(len(rows))]
    return [(row["input_ids"].tolist(), row["labels"][row["labels"] != -100].tolist()) for row in found]


def question(number: int, right: str = "A", **change: Any) -> dict[str, Any]:
    choices = [{"label": "A", "text": f"{number} red"}, {"label": "B", "text": "blue"}]
    return {
        "id": f"q{number}",
        "question": {"stem": f"which {number}", "choices": choices},
        "answerKey": right,
        **change,
    }


def write(file: Path, rows: list[Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_the_eight_tasks_are_there() -> None:
    assert set(QUESTION_TASKS) == set(EIGHT)


@pytest.mark.parametrize("task", EIGHT)
def test_rows_hold_the_tokens_that_the_evaluation_scores(tmp_path: Path, task: str) -> None:
    known = QUESTION_TASKS[task]
    made = [known.make(f"what is {i} + 1", [str(i + 1), str(i)], 0, i) for i in range(1, 9)]
    file = write(tmp_path / "rows.jsonl", made)
    asked = items_of(TASKS[task], file).items
    data = module(tmp_path, task, path=file, val_fraction=0.0)
    tokenizer = load_tokenizer("playground")
    expected = []
    for item in asked:
        before, after = encode_pair(
            tokenizer, item.prompt, item.choices[item.target if isinstance(item.target, int) else 0]
        )
        expected.append(([*before, *after], after))
    assert tokens(data, "train") == expected and len(expected) == 8
    spoken = tokenizer.decode(expected[0][1])
    assert spoken == " 2" and data._rows("val") is None and data._rows("test") is None


def test_without_the_blank_as_the_papers_train(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [question(i) for i in range(4)])
    tokenizer = load_tokenizer("playground")
    found = tokens(module(tmp_path, path=file, val_fraction=0.0, blank=False), "train")
    assert tokenizer.decode(found[2][0]).endswith("Answer:2 red") and tokenizer.decode(found[2][1]) == "2 red"
    rows = [{"qId": "a", "qText": "which", "answers": ["blue"]}] * 2
    kept = module(tmp_path, "webquestions", path=write(tmp_path / "web.jsonl", rows), val_fraction=0.0, blank=False)
    assert tokenizer.decode(tokens(kept, "train")[0][1]) == " blue", "there the papers keep it"


def test_published_files_of_a_folder(tmp_path: Path) -> None:
    for part, count in (("Train", 5), ("Dev", 2), ("Test", 3)):
        write(tmp_path / "arc" / f"ARC-Easy-{part}.jsonl", [question(i) for i in range(count)])
        write(tmp_path / "arc" / f"ARC-Challenge-{part}.jsonl", [question(i) for i in range(7)])
    data = module(tmp_path, path=str(tmp_path / "arc"))
    assert [len(data._rows(split)) for split in ("train", "val", "test")] == [5, 2, 3]
    with pytest.raises(ValueError, match=r"holds 2 files of val rows, ARC-Challenge-Dev.jsonl and ARC-Easy-Dev.jsonl"):
        module(tmp_path, "openbookqa", path=str(tmp_path / "arc"))._rows("train")


def test_validation_rows_are_cut_or_given(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [question(i) for i in range(10)])
    other = write(tmp_path / "other.jsonl", [question(i) for i in range(20, 23)])
    cut = module(tmp_path, path=file, val_fraction=0.2)
    train, val = tokens(cut, "train"), tokens(cut, "val")
    assert len(train) == 8 and len(val) == 2 and not [row for row in val if row in train]
    given = module(tmp_path, path=file, val_path=other, test_path=other)
    assert [len(given._rows(split)) for split in ("train", "val", "test")] == [10, 3, 3]


def test_batches_train_on_answers_alone(tmp_path: Path) -> None:
    data = module(tmp_path, batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    trained = batch["labels"] != -100
    assert 0 < int(trained.sum()) < int(batch["attention_mask"].sum()) and int(batch["tokens_in_window"]) == int(
        trained.sum()
    )
    assert torch.equal(batch["labels"][trained], batch["input_ids"][trained])


def test_a_long_question_loses_its_beginning(tmp_path: Path) -> None:
    rows = [question(1, question={"stem": "red " * 50, "choices": question(1)["question"]["choices"]})] * 2
    data = module(tmp_path, path=write(tmp_path / "rows.jsonl", rows), val_fraction=0.0, max_length=20)
    ids, answer = tokens(data, "train")[0]
    assert len(ids) == 20 and load_tokenizer("playground").decode(answer) == " 1 red"
    with pytest.raises(ValueError, match="tokens, and 2 are left for the row"):
        module(tmp_path, path=str(tmp_path / "rows.jsonl"), val_fraction=0.0, max_length=2)._rows("train")


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (
            [question(1), question(2, "E")],
            {},
            r"1 of 2 rows of .* are no questions of arc_easy, the first: .*answerKey",
        ),
        ([question(1), question(2, "E")], {"on_bad_row": "error"}, "correct the row, or leave it out"),
        ([{"text": "no question"}], {"on_bad_row": "skip"}, "1 of 1 rows"),
        ([question(1)], {"val_fraction": 0.1}, "one row cannot be split"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, rows: list[Any], options: dict[str, Any], words: str) -> None:
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=words):
        module(tmp_path, path=file, **{"val_fraction": 0.0, **options})._rows("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "arc_eazy"}, "no task 'arc_eazy'. Did you mean 'arc_easy'?"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"on_bad_row": "some"}, "on_bad_row is 'some'"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        module(tmp_path, **options)


def test_race_is_not_on_the_hub_that_we_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="we know no data set of the hub for race; give a file or folder"):
        module(tmp_path, "race", path=None)._rows("train")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "name", "least"),
    [
        ("arc_easy", "arc", 2200),
        ("arc_challenge", "arc", 1100),
        ("openbookqa", "openbookqa/train.head-1000.jsonl", 900),
        ("webquestions", "webquestions", 2000),
        ("piqa", "piqa/dev.head-1200.jsonl", 1000),
        ("sciq", "sciq/test.llm-adapters.head-600.json", 500),
        ("race", "race/expmrc-race-dev.head-110.json", 90),
    ],
)
def test_published_rows(tmp_path: Path, real_data: Path, task: str, name: str, least: int) -> None:
    data = module(tmp_path, task, path=str(real_data / "qa" / name), max_length=2048)
    train, val = data._read("train"), data._read("val")
    assert len(train) >= least and len(val) >= 10 and all(train.pairs)
