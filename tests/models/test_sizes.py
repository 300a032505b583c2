"""A tokenizer or a row that a model has no rows for is named before texts are written or scored, as before training."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from fulgurite.cli import main
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.generation.loading import load_for_generation
from tests.lightning_modules.checks.test_sizes import write_gpt2


def reward_model(folder: Path, rows: int, positions: int) -> str:
    tokenizer = load_tokenizer("playground")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(n_embd=32, n_layer=1, n_head=2, n_positions=positions, bos_token_id=0, eos_token_id=0)
    config = GPT2Config(vocab_size=rows, num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_larger_than_the_embedding_writes_no_text(tmp_path: Path) -> None:
    """It was an IndexError in the middle of the first text."""
    folder = write_gpt2(tmp_path, 200)
    with pytest.raises(
        ValueError, match=rf"has {len(load_tokenizer('playground'))} tokens, but .* has 200 rows in its"
    ):
        load_for_generation(folder)


def test_rewards_know_the_models_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = len(load_tokenizer("playground"))
    small, short = reward_model(tmp_path / "small", 200, 256), reward_model(tmp_path / "short", whole, 64)
    rows = [{"prompt": "word " * 90, "completion": "yes"}, {"prompt": "word", "completion": "yes"}]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", "--file", str(source), "--output", str(out), "--device", "cpu", "--model"]
    assert main([*words, small]) == 1
    assert f"has {whole} tokens, but the reward model has 200 rows" in capsys.readouterr().err and not out.exists()
    assert main([*words, short]) == 0
    assert "longer than max_length" in capsys.readouterr().out
    rewards = [json.loads(line)["reward"] for line in out.read_text().splitlines()]
    assert rewards[0] is None and isinstance(rewards[1], float)
