"""Answers' mean log-probabilities against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.evaluation.selection import answer_log_probs
from fulgurite.models import load_backbone


def test_the_score_is_the_mean_log_probability_of_the_answer_and_its_end() -> None:
    model, tokenizer = (
        load_backbone(resolve_backbone("playground"), "causal_lm").model.train(),
        load_tokenizer("playground"),
    )
    prompts, answers = ["What is 2 + 3?", "Is it red? Say so.", "x"], ["5", "yes, it is", ""]
    found = answer_log_probs(model, tokenizer, prompts, answers, batch_size=2)
    for prompt, answer, score in zip(prompts[:2], answers[:2], found.tolist(), strict=False):
        head = f"<bos><|user|>\n{prompt}<|end|>\n<|assistant|>\n"
        ids = tokenizer(head + answer + "<|end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        start = len(tokenizer(head, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            scores = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        assert score == pytest.approx(float(scores.gather(1, ids[0, start:, None]).mean()), abs=1e-4)
    assert found[2] == -torch.inf and model.training
    with pytest.raises(ValueError, match="3 prompts and 1 answers"):
        answer_log_probs(model, tokenizer, prompts, answers[:1])
