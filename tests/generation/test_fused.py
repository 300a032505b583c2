"""Text from a fused network: its prompts are each specialist's own, and a one-hot gate writes as one of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.data.encoding.specialists import specialist_tokenizers
from fulgurite.data.playground import resolve_backbone
from fulgurite.generation import GenerationSettings, generate_fused, generate_text
from fulgurite.models import FusedNetwork
from fulgurite.models.fusion.specialists import load_specialists

NAMES = ["playground-text", "playground-code"]
PROMPTS = [
    "What is 2 + 3?",
    "Write a word.",
    "Tell me, in your own words, what the red cat does when it is late, and why.",
]


@pytest.fixture(scope="module")
def fused() -> tuple[FusedNetwork, list[Any]]:
    """Two adapters of the playground on one base, each with its own template, and a gate that decides by the token."""
    specialists = load_specialists(
        [resolve_backbone(name) for name in NAMES], resolve_backbone("playground"), names=NAMES
    )
    torch.manual_seed(1)
    network = FusedNetwork(specialists, NAMES, 16).eval()
    with torch.no_grad():
        network.gates[0][2].weight.mul_(30)  # type: ignore[index]
    tokenizers = specialist_tokenizers(NAMES, "playground")
    network.chat_templates = [str(tokenizer.chat_template) for tokenizer in tokenizers]
    assert len(set(network.chat_templates)) == 2
    return network, tokenizers


def one_hot(network: FusedNetwork, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(states: Any) -> torch.Tensor:
        found: torch.Tensor = states[0].new_full((len(states[0]), len(states)), -torch.inf)
        found[:, place] = 0
        return found

    monkeypatch.setattr(network, "scores", scores)


@pytest.mark.parametrize("place", [0, 1])
def test_a_one_hot_gate_writes_what_that_specialist_writes(
    place: int, fused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, tokenizers = fused
    one_hot(network, place, monkeypatch)
    settings = GenerationSettings(max_new_tokens=24, repetition_penalty=1.0)
    found = generate_text(network, tokenizers[0], PROMPTS, settings)
    with network.only(place):
        expected = generate_text(network.specialist(place), tokenizers[place], PROMPTS, settings)
    assert found == expected and len({texts[0] for texts in found}) > 1
    assert found == [generate_text(network, tokenizers[0], [prompt], settings)[0] for prompt in PROMPTS]


def test_the_specialists_write_differently(fused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, tokenizers = fused
    written = []
    for place in (0, 1):
        with monkeypatch.context() as patch:
            one_hot(network, place, patch)
            written.append(generate_text(network, tokenizers[0], PROMPTS, GenerationSettings(max_new_tokens=24)))
    assert written[0] != written[1]


def test_every_token_comes_with_its_weights(fused: Any) -> None:
    network, tokenizers = fused
    settings = GenerationSettings(max_new_tokens=16, temperature=0.7, num_samples=2, seed=3)
    found = generate_fused(network, tokenizers[0], PROMPTS, settings)
    texts = generate_text(network, tokenizers[0], PROMPTS, settings)
    assert [[answer.text for answer in answers] for answers in found] == texts
    for answers in found:
        for answer in answers:
            assert "".join(answer.pieces) == answer.text and answer.weights.shape == (len(answer.pieces), 2)
            torch.testing.assert_close(answer.weights.sum(1), torch.ones(len(answer.pieces)))
    assert torch.cat([answer.weights for answers in found for answer in answers]).std(0).min() > 0.01


def test_without_templates_prompts_are_continued_and_come_as_they_are_written(fused: Any) -> None:
    network, tokenizers = fused
    bare = copy.copy(network)
    bare.chat_templates = None
    tokenizer = copy.copy(tokenizers[0])
    tokenizer.chat_template = None
    settings = GenerationSettings(max_new_tokens=8)
    found = generate_fused(bare, tokenizer, ["def f(x):"], settings)[0][0]
    pieces: list[str] = []
    text = generate_text(bare, tokenizer, ["def f(x):"], settings, pieces.append)[0][0]
    assert text == found.text == "".join(found.pieces) and len(found.pieces) > 2
    assert "".join(pieces).rstrip() == text.rstrip() and len(pieces) > 1
    assert bare.generation_config is None and not bare.training
    bare.chat_templates = ["{{ messages }}"]
    with pytest.raises(ValueError, match="1 chat templates for 2 specialists"):
        generate_text(bare, tokenizer, ["the red cat"])


def test_generate_takes_a_checkpoint_of_the_module(
    fused: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch import Trainer

    from fulgurite.cli import main
    from fulgurite.lightning_modules import UltraFuserModule

    network, tokenizers = fused
    module = UltraFuserModule(NAMES, "playground", gate_hidden=16, blend="probs")
    module.configure_model()
    assert module.network is not None
    module.network.gates.load_state_dict(network.gates.state_dict())  # type: ignore[union-attr, operator]
    module.chat_templates = network.chat_templates
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    file = tmp_path / "fused.ckpt"
    trainer.save_checkpoint(file)
    main(["generate", "--model", str(file), "--prompt", PROMPTS[0], "--max_new_tokens", "12", "--device", "cpu"])
    monkeypatch.setattr(network, "blend", "probs")
    expected = generate_text(network, tokenizers[0], PROMPTS[:1], GenerationSettings(max_new_tokens=12))[0][0]
    assert expected.strip() and capsys.readouterr().out.strip() == expected.strip()
