"""Scorers: the implicit reward from log-probabilities, checkers, what a reward model reads, and rewards that are none."""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
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
from fulgurite.evaluation.selection.checker import CheckerReward
from fulgurite.evaluation.selection.model_rewards import ImplicitReward, ModelReward
from fulgurite.evaluation.selection.scorers import Asked, as_read, rewards_of
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.generation import load_for_generation
from fulgurite.models import load_reward_model

ASKED = [
    Asked((Turn("user", "What is 2 + 3?"),), "5", "row 1"),
    Asked((Turn("user", "Is it red? Say so."),), "yes, it is red", "row 2"),
    Asked((Turn("system", "Be short."), Turn("user", "x")), "no", "row 3"),
]


class Given:
    """A scorer that gives what it was made with."""

    name = "the model"

    def __init__(self, rewards: list[float | None]) -> None:
        self.rewards, self.omitted, self.seen = rewards, Counter[str](), 0
        self.example: str | None = None

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, asked: Sequence[Asked]) -> list[float | None]:
        self.seen += len(asked)
        return self.rewards


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_for_generation("playground")


def test_rewards_that_are_none_are_refused_by_name() -> None:
    assert rewards_of(Given([1.0, None, -2.0]), ASKED) == [1.0, None, -2.0]
    for bad in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match=r"row 2: the model gives the answer 'yes, it is red' the reward (nan|inf)"
        ):
            rewards_of(Given([1.0, bad, 0.0]), ASKED)
    with pytest.raises(ValueError, match="the model: 2 rewards for 3 answers"):
        rewards_of(Given([1.0, 2.0]), ASKED)


def test_empty_answers_are_not_shown_to_a_scorer() -> None:
    scorer = Given([4.0])
    asked = [ASKED[0]._replace(text=" \n"), ASKED[1], ASKED[0]._replace(text="")]
    assert rewards_of(scorer, asked) == [None, 4.0, None]
    assert scorer.seen == 1 and scorer.omitted == {"empty answer": 2}
    nothing = Given([])
    assert rewards_of(nothing, [asked[0]]) == [None] and nothing.seen == 0


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
    assert as_read(ASKED[0].turns, "5", False, "here").turns == (
        Turn("prompt", "What is 2 + 3?"),
        Turn("completion", "5"),
    )


def test_a_tokenizer_that_does_not_know_the_texts_is_refused_by_name(word_tokenizer: Path) -> None:
    stub: Any = SimpleNamespace(tokenizer=load_tokenizer(str(word_tokenizer)), max_length=64, omitted={})
    scorer = ModelReward(stub, False, "words/reward", {})
    with pytest.raises(
        ValueError, match=r"row 1: the tokenizer of words/reward does not know 2 of the 3 .*'a zebra sleeps'"
    ):
        rewards_of(scorer, [ASKED[0]._replace(text="a zebra sleeps")])
    stub.score, stub.reading = lambda given: iter([[SimpleNamespace(reward=1.0)]]), lambda given: None
    assert rewards_of(ModelReward(stub, False, "words/reward", {}), [ASKED[0]._replace(text="a good film")]) == [1.0]


def test_a_checker_says_what_is_right() -> None:
    (task,) = find_tasks(["gsm8k"])
    item = task.item({"question": "2 + 3?", "answer": "It is\n#### 5"}, 1)
    scorer = CheckerReward(task)
    asked = [
        Asked((Turn("user", "2 + 3?"),), text, "row 1", item) for text in ("#### 5", "it is 6", "no number", "5.0")
    ]
    assert rewards_of(scorer, asked) == [1.0, 0.0, 0.0, 1.0]
    assert scorer.identity()["task"] == "gsm8k" and scorer.name == "task:gsm8k"
    with pytest.raises(ValueError, match="row 1: task:gsm8k needs the row's right answer"):
        rewards_of(scorer, [asked[0]._replace(item=None)])
    with pytest.raises(ValueError, match="piqa compares log-likelihoods"):
        CheckerReward(find_tasks(["piqa"])[0])
