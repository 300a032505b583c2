"""Tokenised rows, their cache, their batches, and the loader's state."""

import logging
from pathlib import Path

import pytest
import torch

from fulgurite.data.encoding.texts import encode_documents, encode_examples
from fulgurite.data.encoding.tokenizers import load_tokenizer, tokenizer_fingerprint
from fulgurite.data.records.examples import Examples
from fulgurite.data.rows.collate import CausalLMCollator, RowCollator
from fulgurite.data.rows.encoded import BatchRows, EncodedRows
from fulgurite.data.rows.store import cache_key, default_cache_dir, load_or_build
from fulgurite.data.sampling.loader import ResumableLoader
from fulgurite.data.sampling.windows import Batch, WindowSampler


def examples(labels: list[int | float | None] | None = None) -> Examples:
    texts = ["a b c d e", "good", "the film of"]
    return Examples(texts, ["red", "bad film", "one two three a b c"], labels, "rows")


def test_pairs_are_cut_to_max_length_and_counted(word_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(word_tokenizer))
    rows = encode_examples(tokenizer, examples([1, None, 0]), max_length=8)
    for index in range(3):
        whole = tokenizer(examples().texts[index], examples().pairs[index], truncation=True, max_length=8)  # type: ignore[index]
        assert rows[index]["input_ids"].tolist() == whole["input_ids"]
        assert rows[index]["token_type_ids"].tolist() == whole["token_type_ids"]
    assert rows.lengths.tolist() == [8, 6, 8]
    assert rows.tensors["full_length"].tolist() == [9, 6, 12]
    assert rows.tensors["labels"].tolist() == [1, -100, 0]
    assert rows.targets().tolist() == [1, 0, 1]


def test_regression_rows_without_a_label_are_nan(word_tokenizer: Path) -> None:
    rows = encode_examples(load_tokenizer(str(word_tokenizer)), examples([0.5, None, 2]), 32, regression=True)
    assert rows.tensors["labels"].isnan().tolist() == [False, True, False]
    assert rows.targets().tolist() == [1, 0, 1]


def test_documents_become_blocks_with_an_end_token_between(word_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(word_tokenizer))
    end = tokenizer.sep_token_id
    stream = [*tokenizer("a b c", add_special_tokens=False)["input_ids"], end]
    stream += [*tokenizer("d e f g", add_special_tokens=False)["input_ids"], end]
    rows = encode_documents(tokenizer, ["a b c", "d e f g"], max_length=4)
    assert [rows[i]["input_ids"].tolist() for i in range(2)] == [stream[:4], stream[4:8]]
    assert len(rows) == 2  # the ninth token, alone, predicts nothing
    assert rows.targets().tolist() == [3, 3]


def test_collation_pads_right_and_silences_rows_that_fill_up(word_tokenizer: Path) -> None:
    rows = encode_examples(load_tokenizer(str(word_tokenizer)), examples([1, 0, 1]), 32)
    batch = RowCollator(0, pad_multiple=8)(BatchRows(rows)[Batch((1, 0), 1, 17)])
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (2, 16)
    assert batch["attention_mask"].sum(1).tolist() == [6, 9]
    assert batch["input_ids"][0, 6:].eq(0).all()
    assert batch["labels"].tolist() == [0, -100]
    assert batch["tokens_in_window"].shape == () and batch["tokens_in_window"].item() == 17
    assert "tokens_in_window" not in RowCollator(0)(BatchRows(rows)[Batch((0,))])


def test_causal_collation_ignores_padding_and_counts_as_the_sampler_does(word_tokenizer: Path) -> None:
    rows = encode_documents(load_tokenizer(str(word_tokenizer)), ["a b c d e f"], max_length=4)
    assert rows.lengths.tolist() == [4, 3]
    batch = CausalLMCollator(0)(BatchRows(rows)[Batch((0, 1))])
    assert batch["labels"][1].tolist() == [*rows[1]["input_ids"].tolist(), -100]
    assert int((batch["labels"][:, 1:] != -100).sum()) == int(rows.targets().sum())


def test_cache_is_used_and_a_damaged_entry_built_again(
    tmp_path: Path, word_tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = []

    def build() -> EncodedRows:
        built.append(1)
        return encode_examples(load_tokenizer(str(word_tokenizer)), examples([1, 0, 1]), 32)

    first = load_or_build(tmp_path, "key", build)
    again = load_or_build(tmp_path, "key", build)
    assert len(built) == 1
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    (entry,) = tmp_path.iterdir()  # no temporary file is left
    del again
    entry.write_bytes(entry.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        load_or_build(tmp_path, "key", build)
    assert len(built) == 2 and "is damaged" in caplog.text
    load_or_build(tmp_path, "key", build)
    assert len(built) == 2


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> EncodedRows:
        raise RuntimeError("no rows")

    with pytest.raises(RuntimeError):
        load_or_build(tmp_path / "new", "key", fail)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="set cache_dir or"):
        load_or_build(
            tmp_path / "file",
            "key",
            lambda: EncodedRows(
                {
                    "input_ids": torch.zeros(1, dtype=torch.int32),
                    "offsets": torch.tensor([0, 1]),
                    "full_length": torch.ones(1, dtype=torch.int32),
                }
            ),
        )


def test_cache_key_sees_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (
        len({cache_key(["a", "b"], None), cache_key(["ab"], None), cache_key(["a"], ["b"]), cache_key(["a", "b"])}) == 4
    )
    monkeypatch.setenv("FULGURITE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path


def test_fingerprint_survives_use_and_sees_a_change(word_tokenizer: Path) -> None:
    tokenizer, same = load_tokenizer(str(word_tokenizer)), load_tokenizer(str(word_tokenizer))
    tokenizer(["a b c"], truncation=True, max_length=2, padding="max_length")
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(same)
    same.add_tokens(["purple"])
    assert tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(same)


def test_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load_tokenizer: '.*nothing' has no tokenizer that loads; no such folder"):
        load_tokenizer(str(tmp_path / "nothing"))
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ValueError, match=r"the folder holds \['readme.txt'\]"):
        load_tokenizer(str(tmp_path))


@pytest.mark.real_data
def test_gpt2_is_padded_with_its_end_token(real_data: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    folder = real_data / "tokenizers/gpt2"
    slow = GPT2Tokenizer.from_pretrained(folder)
    slow.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert "no padding token" in caplog.text
    assert encode_documents(tokenizer, ["Hello world."], 16)[0]["input_ids"][-1] == tokenizer.eos_token_id


def loader(position: tuple[int, int], rows: int = 10, seed: int = 42, workers: int = 0) -> ResumableLoader:
    ids = torch.arange(rows, dtype=torch.int32)
    data = EncodedRows(
        {
            "input_ids": ids,
            "offsets": torch.arange(rows + 1),
            "full_length": torch.ones(rows, dtype=torch.int32),
            "labels": ids.long(),
        }
    )
    sampler = WindowSampler(rows, 2, torch.ones(rows), seed=seed)
    return ResumableLoader(BatchRows(data), sampler, RowCollator(0), lambda: position, workers, persistent_workers=True)


def labels(batches: ResumableLoader) -> list[list[int]]:
    return [batch["labels"].tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_goes_on_where_the_state_says(workers: int) -> None:
    state = loader((3, 2)).state_dict()
    whole = labels(loader((3, 0)))
    resumed = loader((3, 0), workers=workers)
    resumed.load_state_dict(state)
    before = torch.get_rng_state()
    assert labels(resumed) == whole[2:]
    assert labels(resumed) == whole  # the workers are the same ones, the stream is whole again
    assert torch.equal(before, torch.get_rng_state())


def test_position_at_the_end_of_an_epoch_is_the_next_ones_beginning() -> None:
    finished = loader((3, 5))
    assert {key: finished.state_dict()[key] for key in ("epoch", "batches")} == {"epoch": 4, "batches": 0}
    assert labels(finished) == labels(loader((4, 0)))


def test_state_of_another_stream_is_refused_in_mid_epoch_only() -> None:
    with pytest.raises(ValueError, match="rows was 10, is 8; seed was 42, is 1"):
        loader((0, 0), rows=8, seed=1).load_state_dict(loader((3, 2)).state_dict())
    other = loader((0, 0), rows=8)
    other.load_state_dict(loader((3, 5)).state_dict())
    assert labels(other) == labels(loader((4, 0), rows=8))


def test_state_inside_an_optimizer_step_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    resumed = loader((0, 0))
    resumed._window_sampler().accumulate = 2
    with caplog.at_level(logging.WARNING):
        resumed.load_state_dict(loader((3, 2)).state_dict())
        assert not caplog.text
        resumed.load_state_dict(loader((3, 3)).state_dict())
    assert "the gradients of 1 batches are lost" in caplog.text
