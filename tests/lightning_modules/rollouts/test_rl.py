"""RLModule in a Trainer: every method takes its steps, a run resumes, what cannot be is refused, bounds end it."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything

from fulgurite.adapters import SoRA
from fulgurite.lightning_modules import RLModule
from fulgurite.lightning_modules.checks.policy import check_run, check_window
from fulgurite.lightning_modules.rollouts.drawing import seed_of_step
from fulgurite.lightning_modules.rollouts.scoring import on_device
from fulgurite.lightning_modules.rollouts.updating import with_window
from fulgurite.lightning_modules.rollouts.watching import Watch
from fulgurite.optim import ProximalAdamW
from tests.lightning_modules.recording import Losses
from tests.lightning_modules.rollouts.cases import REWARD, batch_of, policy, prompts

METHODS = {
    "ppo": {"advantage": "gae", "beta": 0.05, "inner_epochs": 2, "minibatches": 2},
    "rloo": {"advantage": "rloo", "adapter": SoRA(rank=4, threshold=1e-4, dropout=0.1)},
    "grpo": {"advantage": "group", "adapter": None, "learning_rate": 1e-4, "beta": 0.04, "loss_mean": "answer"},
    "reinforce": {"advantage": "reinforce", "ratio": "sequence", "dual_clip": 3.0, "kl_bound": 50.0},
}


class Figures(Callback):
    """What each training batch logged."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = {
            n.removeprefix("train_"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("train_")
        }
        self.seen.append({**found, "step": trainer.global_step})


def fit(make, module, *callbacks, data=None, **options):
    seed_everything(0)
    figures = Figures()
    trainer = make(
        figures, *callbacks, **{"limit_val_batches": 0, "max_epochs": 1, "limit_train_batches": 2, **options}
    )
    trainer.fit(module, data or prompts())
    return figures.seen, trainer


@pytest.mark.parametrize("name", METHODS)
def test_two_batches_of_every_method(make_trainer, name):
    options = METHODS[name]
    module = policy(**options)
    seen, trainer = fit(make_trainer, module)
    steps = options.get("inner_epochs", 1) * options.get("minibatches", 1)
    assert [figures["step"] for figures in seen] == [steps, 2 * steps]
    first, second = seen
    assert 0 < first["reward"] < 1 and first["reward_std"] > 0 and first["grad_norm"] > 0
    assert all(math.isfinite(value) for figures in seen for value in figures.values())
    assert first["mismatch_max"] < 1e-5, "sampler and trainer are one model"
    assert abs(first["ratio_max"] - 1) < 1e-3 or steps > 1, "nothing has moved before the first step"
    assert first["kl"] == pytest.approx(0, abs=1e-6) and second["kl"] > 1e-6, "the reference stands still"
    assert ("value_loss" in first) == (name == "ppo") == (module.value_head is not None)
    if name == "ppo":
        assert float(module.value_head.weight.abs().sum()) > 0
        rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
        assert rates["value_head"] == pytest.approx(10 * rates["low_rank"])


def brief(groups):
    return [[-float(len(answer.tokens)) for answer in group.answers] for group in groups]


@pytest.mark.slow
def test_the_reward_rises(make_trainer):
    module = policy(rewards=f"{__name__}:brief", learning_rate=5e-3, answers=4)
    seen, _ = fit(make_trainer, module, data=prompts(batch_size=12), limit_train_batches=1, max_epochs=8)
    rewards = [figures["reward"] for figures in seen]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 1


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_same_draws_and_losses(make_trainer, tmp_path):
    options = {
        "advantage": "gae",
        "beta": 0.05,
        "kl_target": 0.01,
        "kl_horizon": 50,
        "inner_epochs": 2,
        "minibatches": 2,
    }
    straight = Losses()
    module = policy(**options)
    seen, _ = fit(make_trainer, module, straight, limit_train_batches=1.0, max_epochs=2)
    assert len(straight.values) == 6 and module.kl.beta != 0.05
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(RuntimeError, match="killed"):
        fit(make_trainer, policy(**options), Losses(crash_at=4), limit_train_batches=1.0, max_epochs=2)
    last = tmp_path / "checkpoints" / "last.ckpt"
    keys = torch.load(last, weights_only=True)["state_dict"]
    assert "value_head.weight" in keys and all(".branches." in k or k.startswith("value_head") for k in keys)
    resumed, again = Losses(), policy(**options)
    figures = Figures()
    trainer = make_trainer(resumed, figures, limit_val_batches=0, max_epochs=2)
    trainer.fit(again, prompts(), ckpt_path=shutil.copy(last, tmp_path / "kept.ckpt"))
    assert resumed.values == straight.values[-len(resumed.values) :] and len(resumed.values) >= 2
    assert figures.seen[-1]["reward"] == seen[-1]["reward"] and again.kl.beta == module.kl.beta


def test_draws_depend_on_the_seed_and_the_step_alone():
    batch = batch_of(prompts())
    module = policy()
    module.configure_model()

    def texts(step):
        return [answer.text for group in module.roll_out(batch, step)[0] for answer in group.answers]

    first = texts(0)
    torch.rand(3)
    assert texts(0) == first != texts(1)
    assert seed_of_step(0, 1) != seed_of_step(1, 0) and 0 <= seed_of_step(0, 1) < 2**63


def test_our_module_inside_a_foreign_one(make_trainer):
    class Outer(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = policy()
            self.inner.configure_model()

        def training_step(self, batch, batch_idx):
            _, trees, figures = self.inner.roll_out(batch, self.global_step)
            self.log("rewarded", figures["reward"])
            (whole,) = with_window(self.inner.policy, [trees.batch(range(len(trees)))], beta=0.0)
            step = self.inner.policy(self.inner.network, on_device(self.inner.policy, whole, self.device))
            return step.loss_sum / step.targets

        def configure_optimizers(self):
            return ProximalAdamW(self.inner.adapter.param_groups(lr=1e-2))

    seed_everything(0)
    outer, losses = Outer(), Losses()
    before = outer.inner.adapter.stored_tensors()
    before = {name: tensor.clone() for name, tensor in before.items()}
    make_trainer(losses, limit_val_batches=0, max_epochs=1, gradient_clip_val=1.0).fit(outer, prompts())
    assert len(losses.values) == 3
    assert any(not torch.equal(before[n], t) for n, t in outer.inner.adapter.stored_tensors().items())


def test_a_value_head_that_is_missing_on_resume_is_named(make_trainer, tmp_path):
    module = policy(advantage="gae")
    fit(make_trainer, module, limit_train_batches=1)
    file = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    again = RLModule.load_from_checkpoint(file, weights_only=True)
    assert torch.equal(again.value_head.weight, module.value_head.weight)
    del content["state_dict"]["value_head.weight"]
    with pytest.raises(ValueError, match=r"holds no value head \(value_head.weight is missing\)"):
        policy(advantage="gae").on_load_checkpoint(content)


def test_cut_answers_are_masked_or_punished(make_trainer):
    batch = batch_of(prompts())
    plain, masked, punished = (
        policy(max_new_tokens=6, **o) for o in ({}, {"mask_truncated": True}, {"truncation_penalty": 2.0})
    )
    found = []
    for module in (plain, masked, punished):
        torch.manual_seed(0)
        module.configure_model()
        found.append(module.roll_out(batch, 0))
    (groups, trees, figures), (_, hidden, _), (less, _, told) = found
    cut = [answer.cut for group in groups for answer in group.answers]
    assert 0 < sum(cut) < len(cut) and figures["truncated"] == sum(cut) / len(cut)
    assert bool(trees.get("counted").all())
    expected = torch.tensor(cut).logical_not().repeat_interleave(trees.lengths)
    assert torch.equal(hidden.get("counted"), expected)
    torch.testing.assert_close(hidden.get("advantages"), trees.get("advantages"))
    for before, after in zip(groups, less, strict=True):
        for a, b in zip(before.answers, after.answers, strict=True):
            assert b.reward == pytest.approx(a.reward - 2 * a.cut)
    assert told["reward"] < figures["reward"]


def test_a_step_of_which_every_answer_is_cut_and_masked_changes_nothing(make_trainer):
    module = policy(max_new_tokens=1, mask_truncated=True, learning_rate=0.1)
    module.configure_model()
    before = {name: p.clone() for name, p in module.named_parameters()}
    seen, _ = fit(make_trainer, module, limit_train_batches=1)
    assert seen[0]["truncated"] == 1 and seen[0]["step"] == 0
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_ten_such_steps_in_a_row_end_the_run_and_ten_equal_rewards_are_said_once():
    watch, figures = Watch(), {"truncated": 1.0, "dropped": 0.0, "reward": 0.25, "reward_std": 0.1}
    for _ in range(9):
        watch(False, figures)
    watch(True, figures)
    with pytest.raises(RuntimeError, match=r"no answer of 10 steps in a row could be trained on \(100% were cut"):
        for _ in range(10):
            watch(False, figures)
    with pytest.warns(UserWarning, match="10 steps in a row have the reward 0.25, and nothing is learnt") as said:
        for _ in range(25):
            watch(True, {**figures, "reward_std": 0.0})
    assert len(said) == 1


def test_kl_above_its_bound_ends_the_run_before_another_step(make_trainer):
    module = policy(kl_bound=1e-4, learning_rate=1e-2)
    with pytest.warns(UserWarning, match=r"above kl_bound=0.0001; the run ends here"):
        seen, trainer = fit(make_trainer, module, limit_train_batches=1.0, max_epochs=3)
    assert trainer.global_step == 1 and len(seen) == 2 and seen[1]["kl"] > 1e-4


def test_validation_takes_the_likeliest_answer_and_shows_some(make_trainer):
    module, data = policy(rewards=["gsm8k", REWARD]), prompts()
    trainer = make_trainer(limit_val_batches=1)
    (figures,) = trainer.validate(module, data, verbose=False)
    assert figures.keys() == {"val_reward", "val_reward/gsm8k", f"val_reward/{REWARD}", "val_length", "val_truncated"}
    assert [set(answer) for answer in module.shown] == [{"prompt", "answer", "reward"}] * 3
    assert trainer.validate(module, data, verbose=False) == [figures], "nothing is drawn at random"
    trained = make_trainer(limit_val_batches=0, max_steps=1)
    trained.fit(module, data)
    answers = trained.predict(module, data)
    assert len(answers[0]["prediction"]) == len(answers[0]["reward"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "grpo"}, "advantage='grpo'; allowed are 'gae', 'rloo', 'group', 'reinforce'"),
        ({"gae_lambda": 0.9}, "gae_lambda=0.9 is read by advantage 'gae', not by 'group'"),
        ({"advantage": "rloo", "advantage_scale": "batch"}, "advantage_scale='batch' is read by advantage 'group'"),
        ({"redraw_groups": -1}, "redraw_groups=-1"),
        ({"advantage": "gae", "redraw_groups": 2}, "redraw_groups=2 with advantage 'gae'"),
        ({"answers": 1}, "answers=1 with advantage 'group'"),
        ({"temperature": 0.0}, "temperature=0 draws the likeliest"),
        ({"mask_truncated": True, "truncation_penalty": 1.0}, "left out or punished"),
        ({"beta": 0.1, "kl_in": "loss", "kl_estimate": "k1"}, "beta would be ignored"),
        ({"kl_estimate": "k3"}, "kl_estimate with beta=0"),
        ({"kl_target": 1.0}, "kl_target with beta=0"),
        ({"kl_bound": 0.0}, "kl_bound=0.0"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"correction": "answer"}, "correction='answer'"),
        ({"correction_cap": 0.5}, "correction_cap=0.5"),
        ({"inner_epochs": 0}, "inner_epochs=0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
        ({"rewards": "nothing"}, "no reward 'nothing'"),
        ({"clip": 2.0}, "clip=2.0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        policy(**options)


def test_answers_that_do_not_fit_behind_the_longest_prompt_are_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=40, n_embd=4, n_layer=1, n_head=1))
    check_window(network, "tiny", SimpleNamespace(longest_prompt=30), 10)
    check_window(network, "tiny", None, 10_000)
    message = r"the longest prompt has 30 tokens and an answer up to 11, but 'tiny' knows 40 positions; give --data.max_length 29"
    with pytest.raises(ValueError, match=message):
        check_window(network, "tiny", SimpleNamespace(longest_prompt=30), 11)


def test_scaled_losses_are_refused():
    with pytest.raises(ValueError, match="16-mixed"):
        check_run(SimpleNamespace(world_size=1, precision="16-mixed"), "fit")
    check_run(SimpleNamespace(world_size=1, precision="bf16-mixed"), "fit")
