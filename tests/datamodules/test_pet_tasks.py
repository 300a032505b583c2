"""The eleven tasks: every source gives the same rows, splits, what is supervised, prompts as generation has them, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.data.playground import builtin_rows
from fulgurite.data.tasks.pet import PET_TASKS, input_text
from fulgurite.datamodules import PETTasksDataModule

ELEVEN = ["sst2", "rotten_tomatoes", "imdb", "mnli", "qnli", "rte", "qqp", "mrpc", "nq_open", "samsum", "multi_news"]


@pytest.fixture
def make(tmp_path: Path):
    def build(task: str, **options: Any) -> PETTasksDataModule:
        defaults = {"path": "builtin", "tokenizer": "playground", "batch_size": 4, "cache_dir": str(tmp_path / "cache")}
        return PETTasksDataModule(task, **{**defaults, "limit_train": 20, "limit_eval": 8, **options})

    return build


def crossfit(folder: Path, task: str, parts: dict[str, list[dict[str, Any]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spec = PET_TASKS[task]
    for name, rows in parts.items():
        lines = []
        for row in rows:
            x = input_text(spec, [row[column] for column in spec.texts]).replace("\r\n", " ")
            y = row[spec.target]
            y = spec.labels[y] if spec.labels else y[0] if isinstance(y, list) else y
            lines.append(f"{x}\t{y}")
        (folder / f"{task}_{name}.tsv").write_text("\n".join(lines) + "\n")


def test_there_are_eleven_tasks():
    assert list(PET_TASKS) == ELEVEN


@pytest.mark.parametrize("task", ELEVEN)
@pytest.mark.parametrize("task_type", ["classification", "causal_lm"])
def test_every_task_trains_validates_and_tests_from_builtin_rows(make, task, task_type):
    if task_type == "classification" and not PET_TASKS[task].labels:
        with pytest.raises(ValueError, match="has answers, no classes"):
            make(task, task_type=task_type)
        return
    data = make(task, task_type=task_type)
    data.setup("fit")
    data.setup("test")
    batch = next(iter(data.train_dataloader()))
    assert batch["tokens_in_window"] == (batch["labels"] != -100).sum() > 0
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert sum(len(b["labels"]) for b in loader) == 8
    if task_type == "causal_lm":
        references = data.references("test", next(iter(data.test_dataloader()))["row"].tolist())
        assert len(references) == 8 and all(references)


@pytest.mark.parametrize("task", ["sst2", "mnli", "mrpc", "imdb", "nq_open", "samsum"])
def test_crossfit_files_and_columns_give_the_same_batches(make, tmp_path, task):
    spec = PET_TASKS[task]
    parts = {"train": 12, "dev": 6, "test": 6}
    rows = builtin_rows(spec.schema, "train", count=24)
    rows = [{name: r[name] for name in (*spec.texts, spec.target)} for r in rows]
    if task == "samsum":
        rows = [{**row, "dialogue": row["dialogue"].replace("\r\n", " ")} for row in rows]
    split = {"train": rows[:12], "dev": rows[12:18], "test": rows[18:]}
    crossfit(tmp_path / "a" / task, task, split)
    (tmp_path / "b").mkdir()
    for name, some in split.items():
        (tmp_path / "b" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    forms = ["causal_lm", "classification"] if spec.labels else ["causal_lm"]
    for form in forms:
        found = []
        for folder in ("a", "b"):
            data = make(task, path=str(tmp_path / folder), task_type=form)
            data.setup("fit")
            data.setup("test")
            loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
            found.append([b for loader in loaders for b in loader])
        assert len(found[0]) == len(found[1]) == parts["train"] // 4 + 2
        for one, other in zip(*found, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_only_the_answer_is_supervised_and_the_prompt_is_cut_inside_the_input(make):
    data = make("samsum", task_type="causal_lm", max_length=32)
    data.setup("fit")
    tokenizer = data.load_tokenizer()
    batch = next(iter(data.val_dataloader()))
    references = data.references("val", batch["row"].tolist())
    prompts = data.sample_prompts(8)
    for ids, labels, right, (prompt, text) in zip(
        batch["input_ids"], batch["labels"], references, prompts, strict=True
    ):
        answer = labels[labels != -100]
        assert tokenizer.decode(answer[:-1]).strip() == right[0] == text
        assert answer[-1] == tokenizer.eos_token_id
        start = int((labels != -100).int().argmax())
        assert ids[:start].tolist() == prompt and len(prompt) == 32
        shown = tokenizer.decode(prompt, skip_special_tokens=True)
        assert shown.startswith("Input: ") and shown.endswith(" Output:")


def test_an_encoder_decoder_reads_the_input_and_answers(make):
    data = make("qqp", task_type="seq2seq", verbaliser="digits")
    data.setup("fit")
    tokenizer = data.load_tokenizer()
    batch = next(iter(data.train_dataloader()))
    assert batch["labels"].shape[1] < batch["input_ids"].shape[1]
    answers = {tokenizer.decode(row[row != -100][:-1]) for row in batch["labels"]}
    assert answers <= {"0", "1"} and data.choices() == [
        [*tokenizer("0", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
        [*tokenizer("1", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
    ]


def test_hidden_test_labels_make_the_validation_rows_the_test_rows(make, tmp_path):
    rows = builtin_rows("glue/sst2", "train", count=30)
    for name, some in (("train", rows[:20]), ("dev", rows[20:])):
        text = "sentence\tlabel\n" + "".join(f"{r['sentence']}\t{r['label']}\n" for r in some)
        (tmp_path / f"{name}.tsv").write_text(text)
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\thow good\n")
    data = make("sst2", path=str(tmp_path), limit_train=None, limit_eval=None)
    data.setup("fit")
    data.setup("test")
    test = [label for batch in data.test_dataloader() for label in batch["labels"].tolist()]
    assert test == [row["label"] for row in rows[20:]]
    assert sum(len(b["labels"]) for b in data.train_dataloader()) == 18
    assert sum(len(b["labels"]) for b in data.val_dataloader()) == 2


@pytest.mark.real_data
@pytest.mark.parametrize(("task", "rows"), [("sst2", 872), ("mrpc", 32), ("mnli", 48), ("qnli", 1500), ("rte", 277)])
def test_real_glue_files(make, real_data, task, rows):
    data = make(task, path=str(real_data / "glue"), limit_eval=None)
    data.setup("fit")
    data.setup("test")
    assert sum(len(batch["labels"]) for batch in data.test_dataloader()) == rows


def test_bad_input_is_named(make, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'samsum'"):
        make("samsun")
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        make("sst2", path="/nowhere/at/all").setup("fit")
    with pytest.raises(ValueError, match="limit_eval is 0"):
        make("sst2", limit_eval=0)
    file = tmp_path / "mrpc_train.tsv"
    file.write_text("sentence 1: a b\tequivalent\n")
    with pytest.raises(ValueError, match=r"line 1: the input .* needs one between sentence1 and sentence2"):
        make("mrpc", path=str(file)).setup("fit")
    file.write_text("sentence 1: a b [SEP] sentence 2: c\tmaybe\n")
    with pytest.raises(ValueError, match="line 1: the label is 'maybe'"):
        make("mrpc", path=str(file)).setup("fit")
    file.write_text("sentence 1: a [SEP] sentence 2: c\tequivalent\none field\n")
    with pytest.raises(ValueError, match="line 2: 1 fields were found"):
        make("mrpc", path=str(file)).setup("fit")
    file.write_text("sentence 1: a [SEP] sentence 2: c\tequivalent\n")
    with pytest.raises(ValueError, match=r"mrpc_train\.tsv: one row cannot be split"):
        make("mrpc", path=str(file)).setup("fit")
    rows = tmp_path / "rows.jsonl"
    for broken, row in (
        ("text", r'{"text": "a\ud83d", "label": 1}'),
        ("summary", r'{"dialogue": "a", "summary": "\ud83d"}'),
    ):
        rows.write_text(row)
        with pytest.raises(ValueError, match=f"rows.jsonl, line 1: column '{broken}' holds half a surrogate pair"):
            task, form = ("imdb", "classification") if broken == "text" else ("samsum", "causal_lm")
            make(task, path=str(rows), task_type=form).setup("fit")
    with pytest.raises(ValueError, match="what stands around an input"):
        make("samsum", task_type="causal_lm", max_length=4).setup("fit")
