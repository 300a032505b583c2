"""Rewards by a model: implicit ones from log-probabilities, a reward model's own, and what it reads."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.reward_scoring import RewardScorer
from fulgurite.evaluation.selection.model_rewards import ImplicitReward, ModelReward
from fulgurite.evaluation.selection.scorers import Asked, rewards_of
from fulgurite.generation import load_for_generation
from fulgurite.models import load_reward_model
from tests.evaluation.selection.test_scorers import ASKED


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_for_generation("playground")


def log_prob(model: nn.Module, tokenizer: Any, asked: Asked) -> tuple[float, int]:
    """The answer's log-probability with its end of turn, straight from the logits."""
    turns = [{"role": turn.role, "content": turn.content} for turn in asked.turns]
    head = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before = tokenizer(head, add_special_tokens=False)["input_ids"]
    ids = tokenizer(head + asked.text + "<|end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        scores = model(ids).logits[0, len(before) - 1 : -1].log_softmax(-1)
    found = scores.gather(1, ids[0, len(before) :, None])
    return float(found.sum()), len(found)


@pytest.mark.parametrize("mean", [False, True])
def test_the_implicit_reward_is_the_difference_of_log_probabilities(mean: bool, policy: Any) -> None:
    model, tokenizer = policy
    reference = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)

    @contextlib.contextmanager
    def frozen() -> Iterator[nn.Module]:
        yield reference

    scorer = ImplicitReward(model, frozen, tokenizer, True, "dpo", {}, beta=0.3, mean=mean, batch_size=2)
    found = rewards_of(scorer, ASKED)
    for asked, reward in zip(ASKED, found, strict=True):
        (ours, tokens), (theirs, _) = log_prob(model, tokenizer, asked), log_prob(reference, tokenizer, asked)
        assert reward == pytest.approx(0.3 * (ours - theirs) / (tokens if mean else 1), abs=1e-3)
    assert scorer.identity() == {"beta": 0.3, "mean": mean}
    free = rewards_of(ImplicitReward(model, None, tokenizer, True, "simpo", {}, beta=1.0, mean=mean), ASKED[:1])[0]
    ours, tokens = log_prob(model, tokenizer, ASKED[0])
    assert free == pytest.approx(ours / (tokens if mean else 1), abs=1e-3)


def test_an_answer_that_is_too_long_has_no_reward_and_is_counted(policy: Any) -> None:
    scorer = ImplicitReward(*_parts(policy), max_length=40)
    found = rewards_of(scorer, [ASKED[0], ASKED[1]._replace(text="red " * 60)])
    assert found[0] is not None and found[1] is None and scorer.omitted == {"longer than max_length": 1}


def _parts(policy: Any) -> tuple[Any, ...]:
    return policy.model, lambda: contextlib.nullcontext(policy.model), policy.tokenizer, True, "dpo", {}


def test_a_reward_model_gives_what_score_gives_in_chats_and_on_plain_texts() -> None:
    torch.manual_seed(1)
    model, tokenizer = load_reward_model(resolve_backbone("playground")).model, load_tokenizer("playground")
    scorer = RewardScorer(model, tokenizer)
    reward = ModelReward(scorer, True, "rm", {})
    chats = rewards_of(reward, ASKED)
    assert reward.example == "<bos><|user|>\nWhat is 2 + 3?<|end|>\n<|assistant|>\n5<|end|>"
    turns = [(*asked.turns, Turn("assistant", asked.text)) for asked in ASKED]
    assert chats == [scored.reward for chunk in RewardScorer(model, tokenizer).score(turns) for scored in chunk]
    # What a base model continued is a user's question to a reward model that reads chats.
    plain = ASKED[0]._replace(turns=(Turn("prompt", "What is 2 + 3?"),))
    assert rewards_of(ModelReward(scorer, True, "rm", {}), [plain])[0] == pytest.approx(chats[0], abs=1e-6)
    joined = rewards_of(ModelReward(scorer, False, "rm", {}), ASKED[:2])
    assert joined[0] != pytest.approx(chats[0], abs=1e-6)
    with pytest.raises(ValueError, match=r"row 3: the prompt is a chat of 2 turns.*trained on plain texts"):
        rewards_of(ModelReward(scorer, False, "rm", {}), ASKED)


def test_a_tokenizer_that_does_not_know_the_texts_is_refused_by_name(word_tokenizer: Path) -> None:
    stub: Any = SimpleNamespace(tokenizer=load_tokenizer(str(word_tokenizer)), max_length=64, omitted={})
    scorer = ModelReward(stub, False, "words/reward", {})
    with pytest.raises(
        ValueError, match=r"row 1: the tokenizer of words/reward does not know 2 of the 3 .*'a zebra sleeps'"
    ):
        rewards_of(scorer, [ASKED[0]._replace(text="a zebra sleeps")])
    stub.score, stub.reading = lambda given: iter([[SimpleNamespace(reward=1.0)]]), lambda given: None
    assert rewards_of(ModelReward(stub, False, "words/reward", {}), [ASKED[0]._replace(text="a good film")]) == [1.0]
