"""Prompts of every schema, what is left out and counted, splits, bare texts, batches."""

from __future__ import annotations

import json

import pytest

from fulgurite.data.playground import builtin_rows
from fulgurite.datamodules import PromptsDataModule


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def module(path, **options):
    return PromptsDataModule(**{"path": path, "tokenizer": "playground", "batch_size": 2, "max_length": 128, **options})


def asked(data, split="train"):
    data.setup("fit")
    rows = data._rows(split)
    return [json.loads(prompt.turns) for prompt in rows.prompts]


def test_builtin_arithmetic_has_three_splits_without_a_question_in_common():
    data = module("builtin")
    data.setup("fit")
    data.setup("test")
    texts = {split: {prompt.turns for prompt in data._rows(split).prompts} for split in ("train", "val", "test")}
    assert not texts["train"] & texts["val"] and not texts["train"] & texts["test"]
    assert data.has_test_split() and data.longest_prompt < 64
    batch = next(iter(data.train_dataloader()))
    tokenizer = data.load_tokenizer()
    (question,) = json.loads(batch["turns"][0])
    assert tokenizer.decode(batch["prompt_ids"][0]) == f"<bos><|user|>\n{question[1]}<|end|>\n<|assistant|>\n"
    assert json.loads(batch["references"][0])["question"] == question[1]
    ids, answer = data.sample_prompts(2)[0]
    assert ids == list(data._rows("val").prompts[0].ids) and "####" in answer
    assert "train: 2,000 prompts of " in data.describe()


@pytest.mark.parametrize(
    ("rows", "turns"),
    [
        ([{"question": "2 + 2?", "answer": "#### 4"}], [["user", "2 + 2?"]]),
        ([{"prompt": "Say hi."}], [["user", "Say hi."]]),
        (
            [
                {
                    "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
                    "answer": "Hello",
                }
            ],
            [["system", "Be kind."], ["user", "Hi"]],
        ),
        (
            [{"messages": [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]}],
            [["user", "a"], ["assistant", "b"], ["user", "c"]],
        ),
        ([builtin_rows("ultrafeedback", "train", count=1)[0]], None),
    ],
    ids=["gsm8k", "prompt", "messages-prompt", "messages", "ultrafeedback"],
)
def test_every_schema_is_found_by_its_columns(tmp_path, rows, turns):
    data = module(write(tmp_path / "rows.jsonl", rows * 3), val_fraction=0)
    expected = [["user", rows[0]["instruction"]]] if turns is None else turns
    if turns is None:
        data.max_length = 512
    assert asked(data) == [expected] * 3
    assert json.loads(data._rows("train").prompts[0].reference) == rows[0]


def test_mbpp_shows_its_asserts(tmp_path):
    row = {"task_id": 3, "text": "Add two numbers.", "test_list": ["assert add(1, 2) == 3"], "code": "..."}
    ((role, text),) = asked(module(write(tmp_path / "mbpp.jsonl", [row]), val_fraction=0))[0]
    assert (
        role == "user" and text.startswith("Add two numbers. Your code should pass") and "assert add(1, 2) == 3" in text
    )


def test_what_cannot_be_asked_is_left_out_and_counted(tmp_path):
    good = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(20)]
    long = {"question": "What is " + "1 + " * 200 + "1?", "answer": "#### 201"}
    data = module(write(tmp_path / "rows.jsonl", [*good, long, {"question": " ", "answer": "#### 1"}]), val_fraction=0)
    assert len(asked(data)) == 20
    assert "1 left out, longer than max_length: " in data.describe() and "1 left out, empty prompt: " in data.describe()
    bad = write(
        tmp_path / "bad.jsonl",
        [*good[:3], *[{"question": "?", "answer": "#### 1"}], {"question": "", "answer": "#### 2"}],
    )
    with pytest.raises(ValueError, match=r"1 of 5 rows of .* would be left out"):
        asked(module(bad, val_fraction=0))
    with pytest.raises(ValueError, match=r"no prompt of .* has at most 4 tokens; raise max_length"):
        asked(module(bad, val_fraction=0, on_bad_row="skip", max_length=4))


def test_a_part_of_the_rows_validates_and_a_limit_takes_random_ones(tmp_path):
    rows = [{"prompt": f"Question {i % 10}"} for i in range(40)]
    data = module(write(tmp_path / "rows.jsonl", rows), val_fraction=0.2, limit_train=5)
    train, val = asked(data), asked(data, "val")
    assert len(train) == 5 and len(val) == 8
    assert not {str(turns) for turns in train} & {str(turns) for turns in val}, "equal questions stay together"


def test_bare_texts(tmp_path):
    data = module(write(tmp_path / "rows.jsonl", [{"prompt": "Once upon a time"}] * 2), val_fraction=0, as_chat=False)
    assert asked(data)[0] == [["prompt", "Once upon a time"]]
    ids = list(data._rows("train").prompts[0].ids)
    assert data.load_tokenizer().decode(ids, skip_special_tokens=True) == "Once upon a time"
    assert data.chat_template == "none"
    with pytest.raises(ValueError, match="as_chat false"):
        module("builtin", as_chat=False, template="ultrachat")
