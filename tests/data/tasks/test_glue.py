"""GLUE's TSV layouts, found and read as they are published; labels out of range; the paper's re-split."""

import logging
from pathlib import Path

import pytest
import torch

from fulgurite.data.records.examples import Examples
from fulgurite.data.sampling.splits import held_out_indices
from fulgurite.data.tasks.glue import GLUE_TASKS, task_named
from fulgurite.data.tasks.glue_files import find_split_files, read_glue_file, read_glue_split, task_folder

MINI = "hf_datasets_dummy/glue"


def read(root: Path, task: str, split: str) -> Examples:
    found = read_glue_split(GLUE_TASKS[task], task_folder(GLUE_TASKS[task], root), split)
    assert found is not None
    return found


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "split", "rows", "text", "pair", "label"),
    [
        ("sst2", "train", 5000, "hide new secretions from the parental units ", None, 0),
        ("sst2", "validation", 872, "it 's a charming and often affecting journey . ", None, 1),
        ("stsb", "train", 5749, "A plane is taking off.", "An air plane is taking off.", 5.0),
        ("stsb", "validation", 1500, "A man with a hard hat is dancing.", "A man wearing a hard hat is dancing.", 5.0),
        ("rte", "train", 2127, None, "Weapons of Mass Destruction Found in Iraq.", 1),
        ("rte", "validation", 277, None, "Christopher Reeve had an accident.", 1),
        ("qnli", "validation", 1500, "What came into force after the new constitution was herald?", None, 0),
        ("mnli", "train", 48, None, "Rate cases make price caps sound more attractive.", 0),
        ("mnli", "validation_matched", 48, None, None, 0),
        ("mrpc", "validation", 32, None, None, 1),
        ("qqp", "train", 32, "Can I develope mobile apps with c++?", "How can I develop mobile apps with C++?", 1),
    ],
)
def test_real_files(
    real_data: Path, task: str, split: str, rows: int, text: str | None, pair: str | None, label: float
) -> None:
    examples = read(real_data / "glue", task, split)
    assert len(examples) == examples.labelled() == rows
    assert examples.labels is not None and examples.labels[0] == label
    assert text is None or examples.texts[0] == text
    assert pair is None or (examples.pairs is not None and examples.pairs[0] == pair)


@pytest.mark.real_data
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_real_test_files_have_no_labels(real_data: Path, task: str) -> None:
    examples = read(real_data / "glue", task, "test")
    assert examples.labels is None and len(examples) in (200, 1379)


@pytest.mark.real_data
@pytest.mark.parametrize("task", sorted(set(GLUE_TASKS) - {"ax", "mrpc"}))
def test_hub_miniatures_of_all_tasks(real_data: Path, task: str) -> None:
    variant = "_mismatched" if task == "mnli" else ""
    rows = {"train": 3, "validation" + variant: 2, "test" + variant: 1}
    for split, count in rows.items():
        examples = read(real_data / MINI, task, split)
        assert len(examples) == count
        assert (examples.labels is None) == split.startswith("test")
        assert (examples.pairs is None) == (len(GLUE_TASKS[task].texts) == 1)


@pytest.mark.real_data
def test_diagnostic_set_is_a_test_split_only(real_data: Path) -> None:
    task = GLUE_TASKS["ax"]
    folder = task_folder(task, real_data / MINI)
    found = read_glue_split(task, folder, "test")
    assert found is not None and len(found) == 3 and found.labels is None
    assert read_glue_split(task, folder, "train") is None


@pytest.mark.real_data
def test_mrpc_development_rows_are_taken_out_of_the_training_file(real_data: Path) -> None:
    train, validation = (read(real_data / MINI, "mrpc", split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (10, 8)
    assert not set(train.rows) & set(validation.rows)
    assert read(real_data / MINI, "mrpc", "test").labelled() == 15


@pytest.mark.real_data
def test_headerless_files(real_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    rte = read_glue_file(GLUE_TASKS["rte"], real_data / "glue/RTE/val.tsv")
    assert len(rte) == rte.labelled() == 363 and rte.texts[0].startswith("Herceptin was already")
    with caplog.at_level(logging.WARNING):
        qqp = read_glue_file(GLUE_TASKS["qqp"], real_data / "glue/QQP/new_dev.head-500.tsv")
    # Its first line has lost a tab: the row is left out, and said to be.
    assert len(qqp) == 499 and qqp.rows[0] == 2
    assert "1 of 500 lines left out" in caplog.text


@pytest.mark.real_data
def test_two_candidates_for_a_split_are_refused(real_data: Path) -> None:
    with pytest.raises(ValueError, match="may all be the validation split"):
        find_split_files(real_data / "glue/QQP", "validation")


def test_which_file_is_a_split(tmp_path: Path) -> None:
    names = "dev.tsv val.tsv my_dev.tsv train-00001-of-00002.parquet train-00000-of-00002.parquet test.head-5.tsv"
    for name in [*names.split(), "dev_ids.tsv", "dev_mismatched.tsv", "pretrained.tsv", "train.md"]:
        (tmp_path / name).touch()
    assert [p.name for p in find_split_files(tmp_path, "validation")] == ["dev.tsv"]
    assert [p.name for p in find_split_files(tmp_path, "validation_mismatched")] == ["dev_mismatched.tsv"]
    shards = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert [p.name for p in find_split_files(tmp_path, "train")] == shards
    assert [p.name for p in find_split_files(tmp_path, "test")] == ["test.head-5.tsv"]
    assert find_split_files(tmp_path, "test_matched") == []


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("sst2", "sentence\tlabel\ngood\t1\nbad\t2\n", r"line 3: the label is '2'; allowed are 0 to 1 or 'negative'"),
        ("sst2", "sentence\tlabel\ngood\tfine\n", r"line 2: the label is 'fine'"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\t5.1\n", r"line 2: the label is '5\.1'; allowed is .* from 0 to 5"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\tnan\n", r"line 2: the label is 'nan'"),
        (
            "rte",
            "index\tsentence1\tsentence\tlabel\n0\ta\tb\t0\n",
            r"no column 'sentence2'; .*Did you mean 'sentence'\?",
        ),
        ("sst2", "sentense\tlabel\ngood\t1\n", r"no column 'sentence'; .*Did you mean 'sentense'\?"),
        ("sst2", "just one column\nof text\n", r"expected with a header line that names 'sentence', 'label'"),
        ("sst2", "", r"the file is empty"),
        ("sst2", "sentence\tsentence\tlabel\na\tb\t1\n", r"the header names 'sentence' more than once"),
        ("sst2", "sentence\tlabel\n", r"no row was found"),
        ("sst2", "sentence\tlabel\na\tb\t1\nc\td\t0\ne\t1\n", r"line 2: the line does not have the file's 2 fields"),
    ],
)
def test_bad_tsv(tmp_path: Path, task: str, content: str, message: str) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_glue_file(GLUE_TASKS[task], path)
    assert str(path) in str(caught.value)


def test_label_out_of_range_in_json_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"sentence": "a", "label": 1}\n\n{"sentence": "b", "label": 7}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl, line 3: the label is 7; allowed are 0 to 1"):
        read_glue_file(GLUE_TASKS["cola"], path)
    path.write_text('{"sentence": null, "label": 1}\n')
    with pytest.raises(ValueError, match=r"line 1: column 'sentence' holds None; a text is needed"):
        read_glue_file(GLUE_TASKS["cola"], path)


def test_hidden_labels_are_not_classes(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("sentence,label\na,-1\nb,1\n")
    assert read_glue_file(GLUE_TASKS["cola"], path).labels == [None, 1]


def test_task_names() -> None:
    assert task_named("cola").metrics == ("mcc",)
    with pytest.raises(ValueError, match=r"task 'SST-2'; .*did you mean 'sst2'\?"):
        task_named("SST-2")


def test_paper_split_is_torch_randperm_under_42() -> None:
    first, rest = held_out_indices(1043, 1043 // 2)
    expected = torch.randperm(1043, generator=torch.Generator().manual_seed(42)).tolist()
    assert first == expected[:521] and rest == expected[521:]
    assert sorted(first + rest) == list(range(1043))


def test_published_numbers_of_labels_and_first_metrics() -> None:
    table = {name: (task.num_labels, task.task_type, task.metrics[0]) for name, task in GLUE_TASKS.items()}
    assert table == {
        "cola": (2, "classification", "mcc"),
        "sst2": (2, "classification", "accuracy"),
        "mrpc": (2, "classification", "f1"),
        "qqp": (2, "classification", "accuracy"),
        "stsb": (1, "regression", "pearson"),
        "mnli": (3, "classification", "accuracy"),
        "qnli": (2, "classification", "accuracy"),
        "rte": (2, "classification", "accuracy"),
        "wnli": (2, "classification", "accuracy"),
        "ax": (3, "classification", "mcc"),
    }


@pytest.mark.real_data
def test_label_names_are_the_hubs(real_data: Path) -> None:
    import json

    infos = json.loads((real_data / "hf_datasets_dummy/dataset_infos/glue.dataset_infos.json").read_text())
    for name, task in GLUE_TASKS.items():
        features = infos[name]["features"]
        assert list(task.labels) == features["label"].get("names", [])
        assert set(task.texts) == set(features) - {"label", "idx"}
