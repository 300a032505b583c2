"""APETModule on three families: exact budgets, answers scored, gradient selection, resume, compile; APET under other modules."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything

from fulgurite.adapters import APET, attach, fisher_scores
from fulgurite.datamodules import PETTasksDataModule, SFTDataModule, UltraInteractPairDataModule
from fulgurite.lightning_modules import APETModule, PreferenceModule, SFTModule
from fulgurite.lightning_modules.metrics.answering import choose
from fulgurite.lightning_modules.objectives.by_task import make_objective
from tests.lightning_modules.families import write_bloom, write_t5
from tests.lightning_modules.recording import Losses

# Older versions cannot trace what these functions look at (sizes of plans, numbers of targets).
compiles = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13),
    reason="torch.compile is tested from torch 2.13 on",
)


@pytest.fixture(scope="module")
def families(tmp_path_factory, tiny_bert):
    return {
        "bert": (tiny_bert, "classification"),
        "bloom": (write_bloom(tmp_path_factory.mktemp("bloom")), "causal_lm"),
        "t5": (write_t5(tmp_path_factory.mktemp("t5")), "seq2seq"),
    }


def data(task: str = "sst2", task_type: str = "classification", **options: Any) -> PETTasksDataModule:
    defaults = {"limit_train": 60, "limit_eval": 12, "batch_size": 8, "max_length": 48, "max_answer_length": 8}
    return PETTasksDataModule(task, path="builtin", task_type=task_type, **{**defaults, **options})


@pytest.mark.parametrize("family", ["bert", "bloom", "t5"])
def test_every_family_trains_exactly_the_budget_and_is_scored(make_trainer, families, family):
    backbone, task = families[family]
    seed_everything(0)
    module = APETModule(backbone, task=task, budget=500, learning_rate=1e-2)
    module_data = data(task_type=task)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, module_data)
    (scores,) = trainer.test(module, module_data, verbose=False)
    heads = sum(p.numel() for head in module.adapter.heads.values() for p in head.parameters())
    assert module.adapter.trainable_parameters() - heads == 500
    assert bool(heads) == (family == "bert")
    assert 0 <= scores["test_accuracy"] <= 1
    first, *_ = trainer.predict(module, module_data)
    assert first["prediction"].shape == (12,) and set(first["prediction"].tolist()) <= {0, 1}


@pytest.mark.parametrize(("family", "task", "metric"), [("bloom", "nq_open", "token_f1"), ("t5", "samsum", "rouge_l")])
def test_free_answers_are_generated_and_compared(make_trainer, families, family, task, metric, monkeypatch):
    backbone, task_type = families[family]
    seed_everything(0)
    module = APETModule(backbone, task=task_type, budget=500)
    module_data = data(task, task_type)
    trainer = make_trainer(max_epochs=1, limit_train_batches=2)
    trainer.fit(module, module_data)
    (scores,) = trainer.test(module, module_data, verbose=False)
    assert 0 <= scores[f"test_{metric}"] < 1
    texts = [text for batch in trainer.predict(module, module_data) for text in batch["prediction"]]
    assert len(texts) == 12 and all(isinstance(text, str) for text in texts)
    # Whatever is generated is what is scored: with the right answers in its place the score is 1.
    right = iter(module_data._answers["test"])
    monkeypatch.setattr(
        "fulgurite.lightning_modules.metrics.answering.generate_from_ids",
        lambda network, tokenizer, prompts, settings: [[next(right)[-1]] for _ in prompts],
    )
    (scores,) = trainer.test(module, module_data, verbose=False)
    assert scores[f"test_{metric}"] == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["bloom", "t5"])
def test_the_likeliest_label_is_that_of_plain_log_probabilities(families, family):
    from fulgurite.models import load_backbone

    backbone, task = families[family]
    model = load_backbone(backbone, task).model.eval()
    prompts, choices = [[5, 9, 12, 7], [8, 3], [11, 12, 13]], [[21, 22, 2], [31, 2]]
    found = choose(model, make_objective(task), prompts, choices, task == "seq2seq")
    for prompt, chosen in zip(prompts, found.tolist(), strict=True):
        sums = []
        for choice in choices:
            if task == "seq2seq":
                start = [model.config.decoder_start_token_id]
                decoder = torch.tensor([start + choice[:-1]])
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
            else:
                logits = model(input_ids=torch.tensor([prompt + choice])).logits[0, len(prompt) - 1 : -1]
            sums.append(logits.double().log_softmax(-1)[range(len(choice)), choice].sum())
        assert chosen == int(torch.stack(sums).argmax())


def test_gradient_selection_takes_the_largest_fisher_scores_of_the_runs_own_batches(make_trainer, families):
    backbone, task = families["bloom"]
    seed_everything(0)
    module, module_data = (
        APETModule(backbone, task=task, budget=300, selection="gradient", score_batches=2),
        data(task_type=task),
    )
    make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(module, module_data)
    from fulgurite.models import load_backbone

    model = load_backbone(backbone, task).model
    scores = fisher_scores(model, module_data.sample_batches(2), module._mean_loss)
    plain = attach(model, APET(budget=300, selection="gradient"), scores=dict(scores))
    assert plain.positions.keys() == module.adapter.positions.keys()
    for name, places in plain.positions.items():
        assert torch.equal(places, module.adapter.positions[name])


def test_gradient_selection_without_a_datamodule_says_what_to_do(make_trainer, families):
    backbone, task = families["bloom"]
    module = APETModule(backbone, task=task, budget=3, selection="gradient")
    with pytest.raises(ValueError, match="looks at batches of the datamodule, and there is none"):
        make_trainer(max_epochs=1).fit(module, torch.utils.data.DataLoader([0]))


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["uniform_scalar", "gradient", "module_group"])
@pytest.mark.parametrize("crash_at", [3, 11], ids=["first epoch", "second epoch"])
def test_killed_and_resumed_equals_uninterrupted(make_trainer, tiny_bert, tmp_path, selection, crash_at):
    def fit(module: APETModule, crash: int | None = None, ckpt_path: Any = None) -> list[float]:
        losses = Losses(crash)
        trainer = make_trainer(losses, limit_val_batches=1, accumulate_grad_batches=2)
        if crash is None:
            trainer.fit(module, data(), ckpt_path=ckpt_path)
        else:
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module, data(), ckpt_path=ckpt_path)
        return losses.values

    def module() -> APETModule:
        return APETModule(tiny_bert, budget=900, selection=selection, learning_rate=5e-3, num_labels=2)

    seed_everything(1)
    straight_module = module()
    straight = fit(straight_module)
    assert len(straight) == len(set(straight)) == 16
    seed_everything(1)
    fit(module(), crash_at)
    last = tmp_path / "checkpoints" / "last.ckpt"
    done = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    seed_everything(999)
    torch.randn(100)
    resumed_module = module()
    resumed = fit(resumed_module, ckpt_path=last)
    assert 0 < done < crash_at and resumed == straight[done:]
    for (name, a), b in zip(
        straight_module.network.named_parameters(), resumed_module.network.parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_other_positions_is_refused(make_trainer, tiny_bert, tmp_path):
    make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
        APETModule(tiny_bert, budget=50, seed=1), data()
    )
    with pytest.raises(ValueError, match="trained at other positions than this adapter"):
        make_trainer(max_epochs=2, limit_val_batches=0).fit(
            APETModule(tiny_bert, budget=50, seed=2), data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt"
        )


def test_a_gradient_checkpoint_loads_alone(make_trainer, tiny_bert, tmp_path):
    seed_everything(3)
    module = APETModule(tiny_bert, budget=200, selection="gradient", learning_rate=1e-2)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, data())
    loaded = APETModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(loaded.adapter.positions[n], p) for n, p in module.adapter.positions.items())
    (expected,) = trainer.test(module, data(), verbose=False)
    (found,) = trainer.test(loaded, data(), verbose=False)
    assert found == expected


@compiles
@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_compiled_network_trains_to_the_same_losses(make_trainer, plain_bert):
    def run(compiled: bool) -> list[float]:
        seed_everything(0)
        module = APETModule(plain_bert, budget=400, learning_rate=1e-2, num_labels=2)
        module.configure_model()
        if compiled:
            module.network.compile(backend="aot_eager", dynamic=True)
        losses = Losses()
        make_trainer(losses, max_epochs=1, limit_train_batches=3, limit_val_batches=0).fit(module, data())
        return losses.values

    assert run(True) == pytest.approx(run(False), rel=1e-5)


@pytest.mark.slow
def test_sft_and_preference_modules_take_apet(make_trainer, tmp_path):
    seed_everything(0)
    sft = SFTModule("playground", adapter=APET(budget=700), learning_rate=1e-2)
    losses = Losses()
    chats = SFTDataModule(path="builtin", limit_train=24, batch_size=2, max_length=256)
    make_trainer(losses, max_epochs=2, limit_val_batches=0).fit(sft, chats)
    assert sft.adapter.trainable_parameters() == 700 and losses.values[-1] < losses.values[0]
    preference = PreferenceModule("playground", adapter=APET(budget=700), learning_rate=1e-2)
    pairs = UltraInteractPairDataModule(path="builtin", limit_train=24, batch_size=1, max_length=512)
    base = {n: p.detach().clone() for n, p in sft.network.named_parameters() if ".branches." not in n}
    losses = Losses()
    trainer = make_trainer(losses, max_epochs=1, limit_val_batches=0)
    trainer.fit(preference, pairs)
    # The reference is the base without δ: at the first step policy and reference are one model, DPO's loss is log 2.
    assert losses.values[0] == pytest.approx(0.6931, abs=1e-3) and len(set(losses.values)) > 1
    with sft.adapter.disabled():
        moved = sum(int((p != base[n]).sum()) for n, p in sft.network.named_parameters() if n in base)
    assert 600 < moved <= 700, "disabled() takes the trained values out, and nothing else"
