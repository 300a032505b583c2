"""Rewards by name: checkers, functions, reward models; what each may not do, and what is counted."""

from __future__ import annotations

import math

import pytest
import torch

from fulgurite.adapters import LoRA
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.conversation import Turn
from fulgurite.datamodules import PreferenceDataModule
from fulgurite.evaluation import RewardScorer
from fulgurite.lightning_modules import RewardModule
from fulgurite.lightning_modules.rollouts.drawing import Answer, Group
from fulgurite.lightning_modules.rollouts.figures import drawn_figures, usable
from fulgurite.lightning_modules.rollouts.rewards import REWARDS, Rewards, register_reward
from fulgurite.models import load_reward_model, save_reward_model
from tests.commands.fit.runs import checkpoint_of, evil_backbone

ROW = {"question": "What is 4 + 5?", "answer": "#### 9"}


def group(*texts, row=ROW):
    answers = [Answer((7, 8), (-0.1, -0.2), text, cut=text == "cut") for text in texts]
    return Group([1, 2], (Turn("user", row.get("question", "?")),), row, answers)


def rewarded(names, *groups, weights=None, penalty=0.0):
    rewards = Rewards(names, weights)
    rewards.prepare(torch.device("cpu"))
    rewards(groups, penalty)
    return [[answer.reward for answer in each.answers] for each in groups]


def lengths(groups):
    return [[float(len(answer.text)) for answer in each.answers] for each in groups]


def doubtful(groups):
    return [[math.nan if answer.text == "?" else 1.0 for answer in each.answers] for each in groups]


def silent(groups):
    return [[math.nan for _ in each.answers] for each in groups]


def short(groups):
    return [[0.0] for _ in groups]


def broken(groups):
    raise KeyError("no such field")


def here(function):
    return f"{__name__}:{function.__name__}"


def test_a_checker_judges_by_the_row_of_the_prompt():
    other = {"question": "What is 2 * 3?", "answer": "2 * 3 = 6. #### 6"}
    found = rewarded(["gsm8k"], group("9", "4 + 5 = 8. #### 8", "", "#### 9"), group("9", "six: 6", row=other))
    assert found == [[1, 0, 0, 1], [0, 1]]


def test_a_row_of_another_task_is_refused_by_name():
    with pytest.raises(RuntimeError, match=r"the reward 'gsm8k' raised ValueError.*none of the task 'gsm8k'"):
        rewarded(["gsm8k"], group("9", row={"question": "?", "answer": "nine"}))


def test_several_rewards_are_weighted_and_kept_apart_and_cut_answers_punished():
    both = group("9", "cut")
    assert rewarded(["gsm8k", here(lengths)], both, weights=[2.0, -0.5], penalty=1.0) == [[1.5, -2.5]]
    assert [answer.rewards for answer in both.answers] == [
        {"gsm8k": 1.0, here(lengths): 1.0},
        {"gsm8k": 0.0, here(lengths): 3.0},
    ]


def test_an_answer_without_a_reward_is_left_out_and_counted_never_read_as_0():
    mixed = group("a", "?", "bb")
    assert math.isnan(rewarded([here(doubtful), here(lengths)], mixed)[0][1])
    figures = drawn_figures([mixed])
    assert figures["dropped"] == pytest.approx(1 / 3) and figures["reward"] == pytest.approx(2.5)
    assert figures["zero_variance"] == 0
    assert [answer.text for answer in usable([mixed, group("?")])[0].answers] == ["a", "bb"]
    rewarded([here(doubtful)], mixed)
    assert drawn_figures([mixed])["zero_variance"] == 1


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (silent, ValueError, "silent' gave no finite number for any of 2 answers"),
        (short, ValueError, r"short' gave \[1\] values for groups of \[2\] answers"),
        (broken, RuntimeError, "broken' raised KeyError: 'no such field'"),
    ],
)
def test_what_a_reward_may_not_do(function, error, message):
    with pytest.raises(error, match=message):
        rewarded([here(function)], group("a", "b"))


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (["gsm9k"], None, "no reward 'gsm9k'. Did you mean 'gsm8k'"),
        (["piqa"], None, "'piqa' is a choice by log-likelihood"),
        ([], None, "at least one reward"),
        (["gsm8k", "gsm8k"], None, "each once"),
        (["gsm8k"], [1.0, 2.0], "one weight for each"),
        (["gsm8k"], [0.0], "a number other than 0"),
    ],
)
def test_names_and_weights_that_mean_nothing_are_refused_at_once(names, weights, message):
    with pytest.raises(ValueError, match=message):
        Rewards(names, weights)


def test_a_function_that_is_not_there_and_a_model_that_is_not_there_are_named():
    with pytest.raises(ValueError, match="nothing' cannot be imported"):
        rewarded([f"{__name__}:nothing"], group("a"))
    with pytest.raises(FileNotFoundError, match=r"no such reward model: none\.ckpt"):
        rewarded(["none.ckpt"], group("a"))


def test_a_registered_reward_is_found_and_no_name_is_taken_twice(monkeypatch):
    monkeypatch.setattr("fulgurite.lightning_modules.rollouts.rewards.REWARDS", REWARDS.copy())
    register_reward("length", lengths)
    assert rewarded(["length"], group("abc")) == [[3]]
    for name in ("length", "gsm8k"):
        with pytest.raises(ValueError, match="the name of another reward"):
            register_reward(name, short)


def test_a_reward_model_reads_prompt_and_answer_by_its_own_tokenizer(tmp_path):
    torch.manual_seed(0)
    tokenizer = load_tokenizer("playground")
    model = load_reward_model(resolve_backbone("playground")).model.eval()
    (tmp_path / "rm").mkdir()
    save_reward_model(model, tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    asked = group("9", "4 + 5 = 8. #### 8", "")
    found = rewarded([str(tmp_path / "rm")], asked)[0]
    turns = [(Turn("user", ROW["question"]), Turn("assistant", answer.text)) for answer in asked.answers]
    expected = [scored.reward for chunk in RewardScorer(model, tokenizer).score(turns) for scored in chunk]
    assert found == pytest.approx(expected) and len(set(found)) == 3


@pytest.fixture(scope="module")
def reward_checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    module = RewardModule("playground")
    return checkpoint_of(module, tmp_path_factory.mktemp("reward") / "last.ckpt")


def changed(file, to, **entries):
    content = torch.load(file, weights_only=True)
    for name, value in entries.items():
        place = content if name in content else content["hyper_parameters"]
        place[name] = value
    torch.save(content, to)
    return str(to)


def test_a_reward_model_is_asked_as_it_was_trained(reward_checkpoint, tmp_path):
    module = RewardModule.load_from_checkpoint(reward_checkpoint, map_location="cpu")
    plain = changed(reward_checkpoint, tmp_path / "plain.ckpt", chat_template="none")
    chat = changed(reward_checkpoint, tmp_path / "chat.ckpt", chat_template=load_tokenizer("playground").chat_template)
    tokenizer, network = load_tokenizer("playground"), module._network().eval()
    question, answers = ROW["question"], ("9", "4 + 5 = 9")
    kinds = {
        chat: [(Turn("user", question), Turn("assistant", answer)) for answer in answers],
        plain: [(Turn("prompt", question), Turn("completion", answer)) for answer in answers],
    }
    found = {}
    for file, asked in kinds.items():
        expected = [scored.reward for chunk in RewardScorer(network, tokenizer).score(asked) for scored in chunk]
        found[file] = rewarded([file], group(*answers))[0]
        assert found[file] == pytest.approx(expected)
    assert found[chat] != pytest.approx(found[plain])


def test_a_reward_models_checkpoint_decides_nothing_but_weights(reward_checkpoint, tmp_path):
    for entries, said in (
        ({"_instantiator": "os.system"}, "asks for 'os.system' to be called"),
        ({"_class_path": "somewhere.Module"}, "was written by somewhere.Module"),
    ):
        with pytest.raises(ValueError, match=said):
            rewarded([changed(reward_checkpoint, tmp_path / "bad.ckpt", **entries)], group("a"))
    content = torch.load(reward_checkpoint, weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] = math.nan
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        rewarded([str(tmp_path / "nan.ckpt")], group("a"))


def test_a_reward_models_checkpoint_does_not_permit_remote_code(tmp_path):
    marker = tmp_path / "ran"
    module = RewardModule(str(evil_backbone(tmp_path / "evil", marker)))
    file = checkpoint_of(module, tmp_path / "last.ckpt")
    bad = changed(file, tmp_path / "bad.ckpt", trust_remote_code=True)
    assert torch.load(bad, weights_only=True)["hyper_parameters"]["trust_remote_code"] is True
    assert math.isfinite(rewarded([bad], group("a"))[0][0]) and not marker.exists()


@pytest.mark.slow
def test_a_checkpoint_of_reward_module_rewards(make_trainer, tmp_path):
    data = PreferenceDataModule(
        path="builtin", tokenizer="playground", max_length=256, limit_train=8, cache_dir=str(tmp_path)
    )
    module = RewardModule("playground", adapter=LoRA(rank=2), learning_rate=1e-2)
    make_trainer(limit_val_batches=0, max_steps=1, max_epochs=1).fit(module, data)
    asked = group("9", "4 + 5 = 8. #### 8")
    found = rewarded([str(tmp_path / "checkpoints" / "last.ckpt")], asked)[0]
    turns = [(Turn("user", ROW["question"]), Turn("assistant", answer.text)) for answer in asked.answers]
    scorer = RewardScorer(module.network, load_tokenizer("playground"))
    assert found == pytest.approx([scored.reward for chunk in scorer.score(turns) for scored in chunk])
    assert list(asked.answers[0].rewards) == [tmp_path.name], "named after the run's folder"


def test_a_foreign_reward_model_whose_template_writes_behind_the_turn_is_told(tmp_path):
    tokenizer = load_tokenizer("playground")
    model = load_reward_model(resolve_backbone("playground")).model.eval()
    (tmp_path / "rm").mkdir()
    save_reward_model(model, tmp_path / "rm")
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "rm")
    with pytest.warns(
        UserWarning, match=r"read at the end of the answer's turn, behind which its chat template writes more"
    ):
        rewarded([str(tmp_path / "rm")], group("9"))
