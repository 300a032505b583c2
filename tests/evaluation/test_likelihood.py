"""Log-likelihoods of choices against the model's own logits, one row at a time, on the playground's model."""

from typing import Any

import pytest
import torch

from fulgurite.adapters import LoRA, attach
from fulgurite.evaluation.likelihood import ModelScorer, encode_pair
from fulgurite.generation import LoadedModel, load_for_generation

ASKED = [
    ("Question: What is 2 + 3?\nAnswer:", (" 5", " 6", " a long answer that goes on")),
    ("The film was ", ("good", "bad")),  # the blank goes to the continuation
    ("Question: Which is larger, 17 or 71?\nAnswer:", (" 71", " 17")),
    ("A", (" b c d e f",)),
]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_for_generation("playground")


@torch.no_grad()
def plainly(loaded: LoadedModel, context: str, text: str) -> tuple[float, bool]:
    """What lm-evaluation-harness's `hf` model does for one pair."""
    before, after = encode_pair(loaded.tokenizer, context, text)
    ids = torch.tensor([[*before, *after]])
    logits = loaded.model(input_ids=ids[:, :-1]).logits[0].float().log_softmax(-1)[-len(after) :]
    target = torch.tensor(after)
    return float(logits.gather(-1, target[:, None]).sum()), bool((logits.argmax(-1) == target).all())


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_as_one_row_at_a_time(loaded: LoadedModel, greedy: bool, batch_size: int) -> None:
    scorer = ModelScorer(loaded.model, loaded.tokenizer, batch_size)
    found = dict(scorer.score(ASKED, greedy))
    assert sorted(found) == [0, 1, 2, 3]
    for place, (context, texts) in enumerate(ASKED):
        expected = [plainly(loaded, context, text) for text in texts]
        assert found[place].sums == pytest.approx([total for total, _ in expected], abs=1e-4, rel=1e-6)
        assert found[place].greedy == ([best for _, best in expected] if greedy else None)
        assert found[place].cut == 0


def test_context_and_continuation_are_encoded_together(loaded: LoadedModel) -> None:
    before, after = encode_pair(loaded.tokenizer, "The film was ", "good")
    assert [*before, *after] == loaded.tokenizer.encode("The film was good")
    assert before == loaded.tokenizer.encode("The film was")


def test_an_adapter_counts(loaded: LoadedModel) -> None:
    scorer = ModelScorer(loaded.model, loaded.tokenizer)
    base = dict(scorer.score(ASKED))
    adapter = attach(loaded.model, LoRA(rank=2))
    try:
        with torch.no_grad():
            for name, parameter in loaded.model.named_parameters():
                if "lora_b" in name:
                    parameter.normal_(std=0.5)
        with_adapter = dict(scorer.score(ASKED))
        assert with_adapter[0].sums == pytest.approx(
            [plainly(loaded, ASKED[0][0], text)[0] for text in ASKED[0][1]], abs=1e-3
        )
        assert with_adapter[0].sums != pytest.approx(base[0].sums, abs=1e-2)
        assert scorer.identity()["adapter"] is not None
    finally:
        adapter.detach()


def test_what_is_longer_than_the_window_loses_its_beginning(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = ModelScorer(loaded.model, loaded.tokenizer)
    monkeypatch.setattr(ModelScorer, "window", 8)
    found = dict(scorer.score([("one two three four five six seven eight nine ten", (" 5", " 6"))]))
    assert found[0].cut == 2
    with pytest.raises(ValueError, match=r"has \d+ tokens and does not fit the model's window of 8"):
        list(scorer.score([("a", (" one two three four five six seven eight nine ten",))]))


def test_what_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match="continuation 1 of item 1 has no token"):
        list(ModelScorer(loaded.model, loaded.tokenizer).score([("a", ("",))]))
    with pytest.raises(ValueError, match="batch_size=0"):
        ModelScorer(loaded.model, loaded.tokenizer, 0)
    other: Any = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no causal language model"):
        ModelScorer(other, loaded.tokenizer)


@pytest.mark.parametrize("greedy", [False, True])
def test_a_float64_model_is_scored_in_float64(greedy: bool) -> None:
    """Its logits were rounded to float32 where the likeliest token is asked for too."""
    loaded = load_for_generation("playground")
    model = loaded.model.double()
    found = dict(ModelScorer(model, loaded.tokenizer).score(ASKED, greedy))
    for place, (context, texts) in enumerate(ASKED):
        for value, text in zip(found[place].sums, texts, strict=True):
            before, after = encode_pair(loaded.tokenizer, context, text)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*before, *after]])[:, :-1]).logits[0].log_softmax(-1)
            assert value == pytest.approx(
                float(logits[-len(after) :].gather(-1, torch.tensor(after)[:, None]).sum()), rel=1e-12
            )
