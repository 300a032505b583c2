"""Class numbers mean the labels that were trained on: another order is refused, and exports name the classes."""

from __future__ import annotations

import pytest

from fulgurite.datamodules import FilesDataModule
from fulgurite.lightning_modules import ClassificationModule, SFTModule
from fulgurite.lightning_modules.checks.classes import agreed_names


def rows(tmp_path, label_names=None, labels=("pos", "neg")):
    file = tmp_path / f"{'-'.join(labels)}.csv"
    file.write_text("text,label\n" + "".join(f"a film {i},{labels[i % 2]}\n" for i in range(24)))
    return FilesDataModule(
        train_path=str(file), test_path=str(file), val_fraction=0.25, label_names=label_names, max_length=16,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip


@pytest.mark.slow
def test_another_order_of_the_labels_is_refused_and_the_same_one_tested(make_trainer, plain_bert, tmp_path):
    trained = ["pos", "neg"]
    module = ClassificationModule(plain_bert, learning_rate=1e-3)
    make_trainer(max_epochs=1).fit(module, rows(tmp_path, trained))
    assert module.network.config.id2label == {0: "pos", 1: "neg"}
    path = tmp_path / "checkpoints" / "last.ckpt"
    fresh = lambda: ClassificationModule(plain_bert, learning_rate=1e-3)  # noqa: E731
    trainer = make_trainer()
    for data, given in ((rows(tmp_path), "neg, pos"), (rows(tmp_path, labels=("A", "B")), "A, B")):
        words = rf"the data are {given}, in this order; it was trained on pos, neg.*--data.label_names '\[\"pos\", \"neg\"\]'"
        with pytest.raises(ValueError, match=words):
            trainer.test(fresh(), data, ckpt_path=path)
        loaded = ClassificationModule.load_from_checkpoint(path)
        with pytest.raises(ValueError, match=words):
            trainer.test(loaded, data)
    trainer.test(fresh(), rows(tmp_path, trained), ckpt_path=path)
    loaded = ClassificationModule.load_from_checkpoint(path)
    assert loaded.label_names == trained and loaded.network.config.label2id == {"pos": 0, "neg": 1}


def test_numbers_fit_any_names_and_unknown_names_are_taken():
    assert agreed_names("M", ["a", "b"], ["0", "1"]) == ["a", "b"]
    assert agreed_names("M", ["0", "1"], ["a", "b"]) == ["a", "b"]
    assert agreed_names("M", None, ["a"]) == ["a"] and agreed_names("M", ["a"], None) == ["a"]
    assert agreed_names("M", None, None) is None
    with pytest.raises(ValueError, match="other labels"):
        agreed_names("M", ["a", "b"], ["1", "0"])


def test_data_of_another_task_gets_advice_that_can_be_followed(make_trainer, plain_bert, tmp_path):
    with pytest.raises(ValueError, match=r"holds a classification task\. Give other data, or another module"):
        make_trainer().fit(SFTModule("playground"), rows(tmp_path))
    with pytest.raises(ValueError, match=r"Give --model.task classification, or other data"):
        make_trainer().fit(ClassificationModule(plain_bert, task="regression"), rows(tmp_path))
