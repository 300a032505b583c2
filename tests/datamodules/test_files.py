"""FilesDataModule: columns by name, labels from the training file, regression, language modelling."""

from pathlib import Path
from typing import Any

import pytest

from fulgurite.datamodules import FilesDataModule


@pytest.fixture
def make(tmp_path: Path, word_tokenizer: Path) -> Any:
    def build(**options: Any) -> FilesDataModule:
        defaults = {"train_path": str(tmp_path / "train.csv"), "tokenizer": str(word_tokenizer), "batch_size": 2}
        return FilesDataModule(**{**defaults, "cache_dir": str(tmp_path / "cache"), **options})

    return build


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def labels_of(loader: Any) -> list[float]:
    return [label for batch in loader for label in batch["labels"].tolist()]


def test_string_labels_are_sorted_and_shared_by_all_files(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "review,mood", "a,red", "b,green", "c,blue", "d,red")
    val = write(tmp_path / "val.csv", "review,mood", "a,blue", "b,red")
    data = make(val_path=val, text="review", label="mood")
    data.setup("fit")
    assert data.label_names == ["blue", "green", "red"] and data.num_labels == 3
    assert labels_of(data.val_dataloader()) == [0, 2]
    assert sorted(labels_of(data.train_dataloader())) == [0, 1, 2, 2]


def test_number_labels_sort_as_numbers_whatever_the_file(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "text,label", "a,10", "b,2", "c,2")
    val = write(tmp_path / "val.jsonl", '{"text": "a", "label": 10}', '{"text": "a", "label": 2.0}')
    data = make(val_path=val)
    data.setup("validate")
    assert data.label_names == ["2", "10"]
    assert labels_of(data.val_dataloader()) == [1, 0]


def test_whole_numbers_of_a_column_with_missing_ones_are_the_same_labels(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "text,label", "a,0", "b,1")
    val = write(tmp_path / "val.csv", "text,label", "a,1.0", "b,0.0")
    test = write(tmp_path / "test.csv", "text,label", "a,1.0", "b,", "c,0")
    data = make(val_path=val, test_path=test)
    data.setup("fit")
    data.setup("predict")
    assert data.label_names == ["0", "1"] and labels_of(data.val_dataloader()) == [1, 0]
    assert labels_of(data.predict_dataloader()) == [1, -100, 0]
    given = make(val_path=val, label_names=["0.0", "1.0"])
    given.setup("fit")
    assert labels_of(given.val_dataloader()) == [1, 0]


@pytest.mark.parametrize("label", ["null", "NaN", '""', '" "', '["a"]', '{"a": 1}'])
@pytest.mark.parametrize("task_type", ["classification", "regression"])
def test_what_is_no_label(tmp_path: Path, make: Any, label: str, task_type: str) -> None:
    good = [f'{{"text": "a", "label": {i % 2}}}' for i in range(6)]
    bad = f'{{"text": "a", "label": {label}}}'
    path = write(tmp_path / "train.jsonl", *good, bad)
    with pytest.raises(ValueError, match=r"train\.jsonl, line 7: (the label is |.* is no label)"):
        make(train_path=path, task_type=task_type).setup("fit")
    test = write(tmp_path / "test.jsonl", good[1], bad)
    data = make(train_path=write(tmp_path / "good.jsonl", *good), test_path=test, task_type=task_type)
    if label[0] in "[{":
        with pytest.raises(ValueError, match=r"test\.jsonl, line 2: the label is .*one text or number is needed"):
            data.setup("predict")
    else:
        data.setup("predict")
        assert len(labels_of(data.predict_dataloader())) == 2


@pytest.mark.parametrize("labels", [("--1", "2"), ("²", "1"), ("9" * 5000, "1"), ("1.5", "1")])
def test_labels_that_only_look_like_numbers_are_names(tmp_path: Path, make: Any, labels: tuple[str, str]) -> None:
    write(tmp_path / "train.csv", "text,label", *(f"a,{label}" for label in labels * 3))
    data = make()
    data.setup("fit")
    assert data.label_names == sorted(labels)


def test_half_a_surrogate_pair_is_named(tmp_path: Path, make: Any) -> None:
    path = write(tmp_path / "train.jsonl", *['{"text": "a", "label": 0}'] * 3, r'{"text": "ab\ud83d", "label": 1}')
    with pytest.raises(ValueError, match=r"line 4: column 'text' holds half a surrogate pair at character 2"):
        make(train_path=path).setup("fit")


def test_unseen_label_names_file_row_and_what_is_allowed(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "text,label", "a,red", "b,green")
    val = write(tmp_path / "val.csv", "text,label", "a,red", "b,pink")
    with pytest.raises(ValueError, match=r"val\.csv, line 3: the label is 'pink'; allowed are 'green', 'red'"):
        make(val_path=val).setup("fit")
    with pytest.raises(ValueError, match=r"train\.csv, line 3: the label is 'green'; allowed are 'red', 'blue'"):
        make(label_names=["red", "blue"]).setup("fit")


def test_validation_rows_are_cut_from_training_rows(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "text,label", *(f"a,{i % 2}" for i in range(20)))
    data = make()
    data.setup("fit")
    assert (len(data._rows("train")), len(data._rows("val"))) == (18, 2)
    whole = make(val_fraction=0.0)
    whole.setup("fit")
    assert len(whole._rows("train")) == 20 and whole.val_dataloader() == []


def test_pairs_and_rows_to_predict_without_labels(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "one,two,label", "a,b,0", "c,d,1", "e,f,1")
    test = write(tmp_path / "test.csv", "one,two", "a,b")
    data = make(text="one", text_pair="two", test_path=test)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]] and batch["labels"].tolist() == [-100]
    with pytest.raises(ValueError, match="all labels of the test split are hidden"):
        data.test_dataloader()


def test_regression(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.csv", "text,label", "a,0.5", "b,-3", "c,1e2")
    data = make(task_type="regression", val_fraction=0.0)
    data.setup("fit")
    assert sorted(labels_of(data.train_dataloader())) == [-3.0, 0.5, 100.0]
    assert (data.num_labels, data.metric_names[0]) == (1, "pearson")
    for bad in ("high", "nan", "inf"):
        write(tmp_path / "train.csv", "text,label", "a,0.5", f"b,{bad}")
        with pytest.raises(ValueError, match=rf"line 3: the label is '{bad}'; allowed is a finite number"):
            make(task_type="regression").setup("fit")


def test_language_modelling_blocks_and_their_targets(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "train.jsonl", *(f'{{"text": "{text}"}}' for text in ("a b c", "d e", "f g h good bad")))
    data = make(
        train_path=str(tmp_path / "train.jsonl"), task_type="causal_lm", max_length=5, val_fraction=0.0, batch_size=3
    )
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["input_ids"].shape == (3, 5)  # 3 + 2 + 5 words and an end token each: 13 tokens
    assert sorted(batch["attention_mask"].sum(1).tolist()) == [3, 5, 5]
    assert batch["tokens_in_window"].item() == int((batch["labels"][:, 1:] != -100).sum()) == 10
    assert (data.num_labels, data.metric_names) == (0, ("perplexity",))
    assert "13 tokens" in data.describe()


def test_builtin_documents(make: Any) -> None:
    data = make(train_path="builtin", task_type="causal_lm", documents=30, max_length=16)
    data.setup("fit")
    assert len(data._rows("train")) > len(data._rows("val")) > 0
    with pytest.raises(ValueError, match="built-in documents serve causal_lm"):
        make(train_path="builtin")


@pytest.mark.parametrize(
    ("options", "lines", "message"),
    [
        ({}, ["text,lable", "a,1", "b,0"], r"no column 'label'; found 'text', 'lable'\. Did you mean 'lable'\?"),
        ({}, ["text", "a"], r"one column, 'text', was found; columns 'text', 'label' are needed"),
        ({}, ["text,label", "a,1", "b,1"], r"column 'label' holds only '1'; at least two different labels"),
        ({"text_pair": "second"}, ["text,label", "a,1", "b,0"], r"no column 'second'"),
        ({"val_fraction": 1.0}, ["text,label"], r"val_fraction is 1\.0"),
        ({"task_type": "ranking"}, ["text,label"], r"task_type is 'ranking'; allowed are classification, "),
        ({"label_names": ["a", "a"]}, ["text,label"], r"at least two different names"),
        ({"task_type": "regression"}, ["text,label", "a,1"], r"one row cannot be split"),
    ],
)
def test_bad_files_and_options(
    tmp_path: Path, make: Any, options: dict[str, Any], lines: list[str], message: str
) -> None:
    write(tmp_path / "train.csv", *lines)
    with pytest.raises(ValueError, match=message):
        make(**options).setup("fit")


def test_missing_text_in_json(tmp_path: Path, make: Any) -> None:
    path = write(tmp_path / "train.jsonl", '{"text": "a", "label": 0}', '{"label": 1}')
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: column 'text' holds None; a text is needed"):
        make(train_path=path).setup("fit")


@pytest.mark.real_data
def test_real_text_becomes_blocks(real_data: Path, make: Any) -> None:
    folder = real_data / "models/aidreams260K/hf_converted"
    path = str(real_data / "text/c4/c4_demo.jsonl")
    data = make(train_path=path, task_type="causal_lm", tokenizer=str(folder), limit_train=20, max_length=64)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["labels"].shape == (2, 64)
