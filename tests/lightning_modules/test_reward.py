"""Reward training: losses by hand and by TRL, trees against rows, encoders, the direct term's flag, and a head that stays."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything

from fulgurite.adapters import LoRA
from fulgurite.callbacks import RewardReport
from fulgurite.data.playground import builtin_rows
from fulgurite.data.trees.rows import path_to
from fulgurite.datamodules import PreferenceDataModule, UltraFeedbackDataModule, UltraInteractPairDataModule
from fulgurite.lightning_modules import RewardModule
from fulgurite.lightning_modules.metrics.reward import RewardMetrics, reliability
from fulgurite.lightning_modules.objectives.completions import CompletionRewards
from fulgurite.models import load_reward_model, save_reward_model
from tests.lightning_modules.recording import Losses

OPTIONS = {"tokenizer": "playground", "max_length": 256, "batch_size": 2}
COUNTS = {"train": 60, "validation": 15, "test": 10}


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A cache of tokens for all tests, and a folder of few rows for each schema."""
    folder = tmp_path_factory.mktemp("reward")
    for schema in ("ultrafeedback", "ultrafeedback_binarized", "ultrainteract_pair"):
        (folder / schema).mkdir()
        for split, count in COUNTS.items():
            rows = builtin_rows(schema, split, count=count)
            (folder / schema / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def module(**options):
    defaults = {"adapter": LoRA(rank=4, alpha=8), "learning_rate": 1e-2, "lr_schedule": "constant", "warmup_ratio": 0.0}
    return RewardModule(**{"backbone": "playground", **defaults, **options})


def data(shared, kind=PreferenceDataModule, **options):
    path = str(shared / kind.builtin_schema)
    return kind(**{**OPTIONS, "path": path, "cache_dir": str(shared / "cache"), **options})


def plain_rewards(network, batch):
    """Each completion's path by a forward of its own."""
    paths = [path_to(batch, int(end)) for end in batch["ends"]]
    states = [network.model(input_ids=path[None]).last_hidden_state[0, -1] for path in paths]
    return torch.stack([F.linear(state, network.regression_head.weight)[0] for state in states])


def gradients(network, rewards):
    network.zero_grad()
    weights = torch.linspace(-1, 1, len(rewards))
    (rewards * weights.to(rewards)).sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["trees", "rows", "padded"])
@pytest.mark.parametrize("kind", [UltraFeedbackDataModule, UltraInteractPairDataModule])
def test_rewards_and_gradients_of_every_layout_equal_plain_forwards(kind, layout, shared):
    options = {"trees": {}, "rows": {"trees": False}, "padded": {"packing": False}}[layout]
    rows = data(shared, kind, **options)
    rows.setup("fit")
    batch = rows._collator().rows([rows._arranged(rows._rows("train"))[i] for i in range(2)])
    assert (layout == "trees") == ("parents" in batch and bool((batch["parents"] >= 0).any()))
    network = load_reward_model(module().backbone_folder).model.double()
    found = CompletionRewards()(network, batch)
    expected = plain_rewards(network, batch)
    assert len(found) >= 4 and found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    mine, theirs = gradients(network, CompletionRewards()(network, batch)), gradients(network, expected)
    # Llama computes norms and rotary angles in float32 whatever its weights are.
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-6


@pytest.mark.slow
def test_the_loss_is_bradley_terry_with_margins_by_hand(make_trainer, shared):
    seed_everything(0)
    rows = data(shared, UltraFeedbackDataModule, margin_scale="annotation")
    trained, losses = module(use_margin=True, centring=0.01), Losses()
    make_trainer(losses, max_steps=3, limit_val_batches=0).fit(trained, rows)
    batch = next(iter(rows.train_dataloader()))
    assert float(batch["pair_margin"].min()) > 0 and float(batch["pair_margin"].max()) <= 1
    with torch.no_grad():
        rewards = plain_rewards(trained.network, batch)
        step = trained.objective(trained.network, batch)
    chosen, rejected = rewards[batch["pairs"][:, 0]], rewards[batch["pairs"][:, 1]]
    expected = -F.logsigmoid(chosen - rejected - batch["pair_margin"]) + 0.01 * (chosen + rejected) ** 2
    torch.testing.assert_close(step.loss_sum, expected.sum(), rtol=1e-4, atol=1e-4)
    assert int(step.targets) == len(expected) and losses.values[-1] != losses.values[0]


def test_the_direct_term_meets_flagged_pairs_only(shared):
    """UltraInteract's pairs beside UltraFeedback's in one batch: the difference is that of the former alone."""
    rows = data(shared, path=[str(shared / "ultrainteract_pair"), str(shared / "ultrafeedback")], batch_size=8)
    rows.setup("fit")
    batch = next(iter(rows.train_dataloader()))
    direct = batch["pair_direct"]
    assert direct.dtype == torch.bool and direct.any() and not direct.all()
    found = {}
    for weight in (0.0, 1.0):
        seed_everything(0)
        made = module(direct_weight=weight)
        made.configure_model()
        with torch.no_grad():
            found[weight] = made.objective(made.network, batch).loss_sum
            rewards = made.rewards(made.network, batch)
    chosen, rejected = rewards[batch["pairs"][direct, 0]], rewards[batch["pairs"][direct, 1]]
    torch.testing.assert_close(found[1.0] - found[0.0], (-F.logsigmoid(chosen) - F.logsigmoid(-rejected)).sum())


def test_trls_reward_trainer_computes_the_same_loss(shared):
    trainer_module = pytest.importorskip(
        "trl.trainer.reward_trainer", reason="trl is not installed: nothing to compare with"
    )
    rows = data(shared, packing=False, batch_size=4)
    rows.setup("fit")
    batch = next(iter(rows.train_dataloader()))
    network = load_reward_model(module().backbone_folder).model.double()
    made = module(centring=0.3, use_margin=True)
    batch["pair_margin"] = torch.rand(len(batch["pairs"]), dtype=torch.float64)
    step = made.objective(network, batch)
    order = batch["pairs"].T.flatten() if len(batch["ends"]) > 1 else None
    width = batch["input_ids"].shape[1]
    places = batch["ends"][order] // width
    gather = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    metrics = {"train": {name: [] for name in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}}
    fake = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=gather, _metrics=metrics, _total_train_tokens=0, _tp_size=1,
        args=SimpleNamespace(center_rewards_coefficient=0.3),
    )  # fmt: skip
    inputs = {
        "input_ids": batch["input_ids"][places],
        "attention_mask": batch["attention_mask"][places],
        "margin": batch["pair_margin"],
    }
    theirs = trainer_module.RewardTrainer.compute_loss(fake, network, inputs)
    torch.testing.assert_close(step.loss_sum / step.targets, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bradley_terry", "infonca", "nca_kway"])
def test_every_loss_learns_the_order(make_trainer, tmp_path, loss, shared):
    seed_everything(0)
    groups = {} if loss == "bradley_terry" else {"objective_kind": "groups"}
    rows = data(shared, UltraFeedbackDataModule, **groups)
    trainer = make_trainer(RewardReport(str(tmp_path)), max_epochs=4)
    trainer.fit(module(loss=loss, learning_rate=5e-3, temperature=0.5), rows)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["val_rewards/accuracies"] > 0.6
    assert found["val_rewards/accuracies_low"] < found["val_rewards/accuracies"] < found["val_rewards/accuracies_high"]
    difference = found["val_rewards/chosen"] - found["val_rewards/rejected"]
    assert found["val_rewards/margins"] == pytest.approx(difference, abs=1e-4)
    assert -1 <= found["val_rewards/length_correlation"] <= 1 and 0 <= found["val_rewards/calibration_error"] <= 0.5
    assert (tmp_path / "reward_report.png").stat().st_size > 5000


@pytest.mark.parametrize("head", ["last_token", "classifier"])
def test_encoders_train_on_padded_rows(make_trainer, plain_bert, head, shared):
    seed_everything(0)
    rows = data(shared, tokenizer=plain_bert, packing=False, max_length=128, batch_size=4)
    trained, losses = module(backbone=plain_bert, head=head, adapter=None, learning_rate=1e-3), Losses()
    make_trainer(losses, max_steps=4, limit_val_batches=1).fit(trained, rows)
    assert len(losses.values) == 4 and len(set(losses.values)) == 4
    batch = next(iter(rows.train_dataloader()))
    trained.network.eval()
    with torch.no_grad():
        found = trained.rewards(trained.network, batch)
        rows_ = [batch["input_ids"][i][batch["attention_mask"][i].bool()] for i in range(len(batch["input_ids"]))]
        alone = torch.cat([trained.network(input_ids=row[None]).logits[0] for row in rows_])
    torch.testing.assert_close(found, alone[batch["ends"] // batch["input_ids"].shape[1]], rtol=1e-4, atol=1e-5)


def test_encoders_refuse_packs_and_rows_beyond_their_positions(make_trainer, plain_bert, shared):
    with pytest.raises(ValueError, match="set packing to false"):
        rows = data(shared, tokenizer=plain_bert, max_length=128)
        make_trainer(max_steps=1).fit(module(backbone=plain_bert), rows)
    with pytest.raises(ValueError, match="packing to false"):
        rows = data(shared, tokenizer=plain_bert, max_length=128)
        make_trainer(max_steps=1).fit(module(backbone=plain_bert, head="classifier"), rows)
    with pytest.raises(ValueError, match=r"knows 128 positions\. Give --data\.max_length 128"):
        rows = data(shared, tokenizer=plain_bert, max_length=129, packing=False)
        make_trainer(max_steps=1).fit(module(backbone=plain_bert), rows)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LoRA(rank=4, alpha=8), None], ids=["LoRA", "full"])
def test_the_head_is_in_every_checkpoint_and_required(make_trainer, tmp_path, adapter, shared):
    seed_everything(0)
    trained = module(adapter=adapter, learning_rate=1e-3)
    start = trained.backbone_folder
    make_trainer(max_steps=2, limit_val_batches=0).fit(trained, data(shared))
    path = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    weight = trained.network.regression_head.weight
    assert torch.equal(saved["state_dict"]["network.regression_head.weight"], weight)
    assert weight.requires_grad and not torch.equal(weight, load_reward_model(start).model.regression_head.weight)
    again = RewardModule.load_from_checkpoint(path)
    assert torch.equal(again.network.regression_head.weight, weight)
    wide = {**saved["state_dict"], "network.regression_head.weight": torch.zeros(1, 7)}
    torch.save({**saved, "state_dict": wide}, tmp_path / "wide.ckpt")
    with pytest.raises(ValueError, match=r"reward head has shape \(1, 7\), but 'playground' needs \(1, 128\)"):
        RewardModule.load_from_checkpoint(tmp_path / "wide.ckpt")
    del saved["state_dict"]["network.regression_head.weight"]
    torch.save(saved, tmp_path / "lost.ckpt")
    with pytest.raises(ValueError, match="holds no reward head"):
        RewardModule.load_from_checkpoint(tmp_path / "lost.ckpt")


def test_a_head_that_came_with_the_backbone_is_trained_and_saved_too(make_trainer, tmp_path, shared):
    seed_everything(0)
    folder = tmp_path / "reward"
    folder.mkdir()
    first = load_reward_model(module().backbone_folder).model
    save_reward_model(first, folder)
    rows = data(shared)
    trained = module(backbone=str(folder))
    make_trainer(max_steps=1, limit_val_batches=0).fit(trained, rows)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(saved["network.regression_head.weight"], first.regression_head.weight)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(make_trainer, tmp_path, shared):
    def run(crash=None, checkpoint=None):
        losses = Losses(crash)
        trainer = make_trainer(losses, limit_val_batches=1, max_epochs=1)
        rows = data(shared, batch_size=1, token_budget=256, limit_train=50)
        if crash is None:
            trainer.fit(module(), rows, ckpt_path=checkpoint)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module(), rows)
        return losses.values

    seed_everything(1)
    straight = run()
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    seed_everything(1)
    run(crash=4)
    last = tmp_path / "checkpoints" / "last.ckpt"
    done = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    seed_everything(999)
    assert 0 < done < 4 < len(straight) and run(checkpoint=last) == straight[done:]


@pytest.mark.slow
def test_recomputed_activations_change_nothing(make_trainer, shared):
    found = []
    for recompute in (False, True):
        seed_everything(0)
        losses = Losses()
        make_trainer(losses, max_steps=3, limit_val_batches=0).fit(
            module(gradient_checkpointing=recompute), data(shared)
        )
        found.append(losses.values)
    assert found[0] == pytest.approx(found[1], rel=1e-5) and len(set(found[0])) == 3


@pytest.mark.slow
def test_a_constant_reward_is_told_and_refused_in_the_test(make_trainer, shared):
    rows = data(shared)
    trained = module()
    trainer = make_trainer(max_steps=1, limit_val_batches=2)
    trainer.fit(trained, rows)
    with torch.no_grad():
        trained.network.regression_head.weight.zero_()
    with pytest.warns(UserWarning, match="have the same reward"):
        trainer.validate(trained, rows)
    assert float(trainer.callback_metrics["val_rewards/accuracies"]) == 0.5
    assert "val_rewards/length_correlation" not in trainer.callback_metrics
    with pytest.raises(ValueError, match="so it orders nothing"):
        trainer.test(trained, rows)


def test_options_are_refused_with_a_reason(make_trainer, shared):
    for options, message in (
        ({"loss": "dpo"}, "loss='dpo'"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"ranking_weight": 0.0, "direct_weight": 0.0}, "nothing is learnt"),
        ({"centring": -1.0}, "centring is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            module(**options)
    with pytest.raises(ValueError, match="objective_kind groups"):
        make_trainer(max_steps=1).fit(module(loss="infonca"), data(shared, objective_kind="pairs"))


def test_metrics_by_hand():
    metrics = RewardMetrics()
    rewards, lengths = torch.tensor([2.0, 0.0, -1.0, 1.0]), torch.tensor([4, 2, 1, 3])
    pairs = torch.tensor([[0, 1], [2, 3], [1, 1]])
    metrics.update(rewards[:2], lengths[:2], pairs[:1])
    metrics.update(rewards, lengths, pairs[1:])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["rewards/accuracies"] == pytest.approx(0.5), "one right, one wrong, a tie that counts half"
    assert found["rewards/margins"] == pytest.approx(0.0)
    assert found["rewards/chosen_above_zero"] == pytest.approx(1 / 3)
    assert found["rewards/length_correlation_in_pairs"] == pytest.approx(1.0)
    sure = torch.tensor(2.0).sigmoid()
    error = 2 / 3 * abs(float(sure) - 0.5) + 1 / 3 * 0.0
    assert found["rewards/calibration_error"] == pytest.approx(error, abs=1e-6)
    bins = reliability(torch.tensor([0.1, 2.0, -2.0, 8.0]))
    assert bins.pairs.tolist() == [1, 2, 1] and bins.accuracy.tolist() == [1.0, 0.5, 1.0]
    empty = RewardMetrics()
    empty.update(rewards, lengths, pairs[:0])
    assert empty.compute() == {} and not empty.constant()
