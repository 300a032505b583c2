"""GenerationSamples: what the table shows of a long prompt."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fulgurite.callbacks import GenerationSamples


class Words:
    """A tokenizer whose tokens are numbered words; the first stands for a condition of CPO."""

    pad_token_id, eos_token_id, sep_token_id, chat_template = 0, 1, None, None

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join("<honesty:5>" if number == 7 else f"w{number}" for number in ids)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return ids


def test_a_long_prompt_shows_its_beginning_and_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditions stand before the instruction: a prompt that lost its beginning showed none of them."""
    monkeypatch.setattr("fulgurite.callbacks.generation_samples.end_tokens", lambda tokenizer: [1])
    network = SimpleNamespace(
        device=torch.device("cpu"),
        config=SimpleNamespace(is_encoder_decoder=False),
        generate=lambda input_ids, **_: torch.cat([input_ids, torch.tensor([[5]])], dim=1),
    )
    prompt = [7, *[100] * 300, 9]
    data = SimpleNamespace(load_tokenizer=Words, sample_prompts=lambda count: [(prompt, "w3")])
    trainer: Any = SimpleNamespace(
        datamodule=data, sanity_checking=True, global_step=0, is_global_zero=True, progress_bar_callback=None
    )
    GenerationSamples(1, folder=str(tmp_path)).on_validation_epoch_end(trainer, SimpleNamespace(network=network))  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "<honesty:5>" in shown and "w9" in shown and "…" in shown and shown.count("w100") < 100
    (row,) = map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())
    assert row["prompt"].count("w100") == 300 and row["generated"] == "w5"
