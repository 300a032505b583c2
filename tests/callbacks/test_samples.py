"""SamplePrinter: the first example, with what is trained on told apart."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fulgurite.callbacks import SamplePrinter


class Words:
    """A tokenizer whose tokens are numbered words."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return " ".join(f"w{number}" for number in ids)


LM = {
    "input_ids": torch.tensor([[1, 2, 3, 4, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
    "labels": torch.tensor([[-100, -100, 3, 4, -100, -100]]),
}


def test_supervised_tokens_stand_out_without_colours() -> None:
    text = SamplePrinter().render(LM, Words(), None, colours=False).plain
    assert text.splitlines() == ["w1 w2«w3 w4»", "2 of 4 tokens are trained on"]


def test_supervised_tokens_are_bright_and_the_others_dim() -> None:
    text = SamplePrinter().render(LM, Words(), None, colours=True)
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert "bright" in styles["w3 w4"] and styles["w1 w2"] == "dim"
    assert "«" not in text.plain


@pytest.mark.parametrize(
    ("label", "names", "shown"),
    [
        (torch.tensor([1]), ["no", "yes"], "label: 1 (yes)"),
        (torch.tensor([1]), None, "label: 1"),
        (torch.tensor([2.5]), None, "label: 2.5"),
        (torch.tensor([-100]), ["no", "yes"], "label: none (this row only fills the batch)"),
    ],
)
def test_rows_show_their_label(label: torch.Tensor, names: list[str] | None, shown: str) -> None:
    batch = {"input_ids": LM["input_ids"], "attention_mask": LM["attention_mask"], "labels": label}
    assert SamplePrinter().render(batch, Words(), names, colours=False).plain.splitlines() == ["w1 w2 w3 w4", shown]


def test_long_examples_are_cut() -> None:
    batch = {"input_ids": torch.arange(10)[None]}
    assert SamplePrinter(max_tokens=3).render(batch, Words(), None, colours=False).plain == "w0 w1 w2 … 7 tokens more"
    with pytest.raises(ValueError, match="SamplePrinter: max_tokens is 0"):
        SamplePrinter(max_tokens=0)


def test_the_prompt_of_a_pair_keeps_its_beginning_and_its_end() -> None:
    """Conditions stand before the instruction."""
    batch = {
        "input_ids": torch.tensor([[7, 1, 2, 3, 8, 4], [7, 1, 2, 3, 8, 5]]),
        "attention_mask": torch.ones(2, 6, dtype=torch.int64),
        "pairs": torch.tensor([[0, 1]]),
        "owner": torch.tensor([0, 1]),
        "sources": torch.tensor([4, 10]),
        "targets": torch.tensor([4, 5]),
    }
    text = SamplePrinter(max_tokens=4).render(batch, Words(), None, colours=False).plain
    assert text.splitlines() == ["w7 w1 … w3 w8", "chosen: «w4»", "rejected: «w5»"]
    whole = SamplePrinter(max_tokens=5).render(batch, Words(), None, colours=False).plain
    assert whole.splitlines()[0] == "w7 w1 w2 w3 w8"


def trainer_at(step: int, rank: int = 0) -> Any:
    data = SimpleNamespace(load_tokenizer=Words, label_names=None)
    return SimpleNamespace(global_step=step, is_global_zero=rank == 0, progress_bar_callback=None, datamodule=data)


@pytest.mark.parametrize(("step", "rank", "prints"), [(0, 0, 1), (5, 0, 0), (0, 1, 0)])
def test_prints_once_on_the_first_process_of_a_new_fit(
    capsys: pytest.CaptureFixture[str], step: int, rank: int, prints: int
) -> None:
    printer = SamplePrinter()
    for _ in range(3):
        printer.on_train_batch_start(trainer_at(step, rank), SimpleNamespace(), LM, 0)  # type: ignore[arg-type]
    assert capsys.readouterr().out.count("first training example:") == prints


def test_a_batch_for_several_specialists_shows_what_each_of_them_sees() -> None:
    batch = {
        "input_ids": [torch.tensor([[1, 2, 3], [1, 9, 0]]), torch.tensor([[5, 1, 2, 3], [5, 9, 0, 0]])],
        "attention_mask": [torch.tensor([[1, 1, 1], [1, 1, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])],
        "sources": torch.tensor([[1, 2, 4], [2, 3, 5]]),
        "targets": torch.tensor([3, 4, 8]),
        "row": torch.tensor([0, 0, 1]),
    }
    text = SamplePrinter().render(batch, Words(), None, colours=False).plain
    assert text.splitlines() == [
        "specialist 0:", "w1 w2«w3 w4»", "2 of 4 tokens are trained on",
        "specialist 1:", "w5 w1 w2«w3 w4»", "2 of 5 tokens are trained on",
    ]  # fmt: skip
