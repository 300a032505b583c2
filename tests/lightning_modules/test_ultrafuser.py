"""UltraFuser: the blend against its definition, two stages in one fit, resuming in either, checkpoints, and bad input."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from fulgurite.adapters import LoRA, SoRA, attach
from fulgurite.callbacks import AdapterCheckpoint, RandomState
from fulgurite.commands.shared.checkpoint_files import load_module, read_checkpoint
from fulgurite.lightning_modules import UltraFuserModule
from fulgurite.models import load_backbone
from tests.lightning_modules.fuser_cases import make_data, make_module, make_trainer, write_rows, write_specialist
from tests.lightning_modules.recording import Losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuser")


@pytest.fixture(scope="module")
def three(folder: Path) -> list[str]:
    return [write_specialist(folder / name, seed) for seed, name in enumerate(("text", "code", "maths"))]


@pytest.fixture(scope="module")
def rows(folder: Path) -> str:
    return write_rows(folder / "rows")


@pytest.fixture(scope="module")
def batch(folder: Path, three: list[str], rows: str) -> dict[str, Any]:
    data = make_data(folder, rows, specialists=three)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def built(specialists: list[str], **options: Any) -> UltraFuserModule:
    module = make_module(specialists, **options)
    module.configure_model()
    return module


def step(module: UltraFuserModule, batch: dict[str, Any]) -> Any:
    with torch.no_grad():
        return module.objective(module.network.eval(), batch)


@pytest.mark.parametrize("blend", ["logits", "probs"])
def test_the_loss_is_that_of_the_blended_logits(three: list[str], batch: dict[str, Any], blend: str) -> None:
    module = built(three, blend=blend)
    found = step(module, batch)
    weights = found.details["gate_weights"]
    assert torch.allclose(weights.sum(-1), torch.ones(len(weights))) and weights.std() > 0
    each, scores = [], []
    for place, name in enumerate(three):
        model = load_backbone(name, "causal_lm").model.eval()
        with torch.no_grad():
            out = model(batch["input_ids"][place], batch["attention_mask"][place], output_hidden_states=True)
        each.append(out.logits.flatten(0, 1)[batch["sources"][place]].double())
        scores.append(module.network.scores([out.hidden_states[-1].flatten(0, 1)[batch["sources"][place]]]))
    w = torch.cat(scores, -1).double().softmax(-1)
    assert torch.allclose(w, weights.double(), atol=1e-6)
    if blend == "logits":
        blended = sum(w[:, e : e + 1] * each[e] for e in range(3)).log_softmax(-1)
    else:
        blended = sum(w[:, e : e + 1] * each[e].softmax(-1) for e in range(3)).log()
    expected = -blended.gather(1, batch["targets"][:, None]).squeeze(1)
    assert torch.allclose(found.token_losses.double(), expected, atol=1e-5)
    assert torch.equal(found.correct, blended.argmax(-1) == batch["targets"])
    assert found.groups.tolist() == batch["tag"][batch["row"]].tolist()


def test_equal_specialists_with_one_template_are_the_single_model(folder: Path, three: list[str], rows: str) -> None:
    data = make_data(folder, rows, specialists=[three[0]] * 3, templates=["mistral"] * 3)
    data.setup("fit")
    same = next(iter(data.train_dataloader()))
    found = step(built([three[0]] * 3), same)
    one = {
        key: value[:1] if key in ("input_ids", "attention_mask", "sources") else value for key, value in same.items()
    }
    assert torch.allclose(found.token_losses, step(built([three[0]]), one).token_losses, atol=1e-5)


def test_permuting_specialists_permutes_the_gate_only(three: list[str], batch: dict[str, Any]) -> None:
    order = [2, 0, 1]
    module, other = built(three), built([three[i] for i in order])
    turned = {**batch, **{key: [batch[key][i] for i in order] for key in ("input_ids", "attention_mask")}}
    turned["sources"] = batch["sources"][order]
    one, two = step(module, batch), step(other, turned)
    assert torch.allclose(one.token_losses, two.token_losses, atol=1e-5)
    assert torch.allclose(one.details["gate_weights"][:, order], two.details["gate_weights"], atol=1e-6)


class Watch(Callback):
    """What has gradients, what moved and what the optimizer holds, at every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.before: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        params = dict(pl_module.network.named_parameters())
        self.graded = {name for name, p in params.items() if p.grad is not None}
        self.before = {name: p.detach().clone() for name, p in params.items()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        params = dict(pl_module.network.named_parameters())
        moved = {name for name, p in params.items() if not torch.equal(p, self.before[name])}
        held = sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)
        state = len(trainer.optimizers[0].state)
        rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
        self.steps.append(
            {
                "graded": self.graded,
                "moved": moved,
                "held": held,
                "state": state,
                "rates": rates,
                "rows": len(batch["tag"]),
            }
        )


def test_stage_1_trains_the_gate_alone_and_stage_2_the_specialists_too(
    folder: Path, three: list[str], rows: str, tmp_path: Path
) -> None:
    watch = Watch()
    module = make_module(three, stage2_learning_rate=3e-3, gate_learning_rate=2e-3, lr_schedule="constant")
    trainer = make_trainer(tmp_path, [watch, RandomState()])
    trainer.fit(module, make_data(folder, rows))
    gate = {name for name, _ in module.network.named_parameters() if name.startswith("gates.")}
    everything = {name for name, _ in module.network.named_parameters()}
    assert len(watch.steps) == 7 and len(gate) == 4
    for seen in watch.steps[:3]:
        assert seen["graded"] == seen["moved"] == gate and seen["held"] == seen["state"] == 4 and seen["rows"] == 6
    for seen in watch.steps[3:]:
        assert seen["graded"] == everything and len(seen["moved"]) > len(everything) - 2 and seen["rows"] == 3
        assert seen["held"] == seen["state"] == len(everything)
    # The scheduler has set the rate of the coming step by the time a batch ends.
    assert watch.steps[1]["rates"] == {"gate": 1e-2, "gate_no_decay": 1e-2}
    assert watch.steps[3]["rates"] == pytest.approx(
        {"gate": 2e-3, "gate_no_decay": 2e-3, "specialists": 3e-3, "specialists_no_decay": 3e-3}
    )
    values = trainer.callback_metrics
    for domain in ("text", "code", "maths"):
        shares = [float(values[f"val_gate/{domain}/{name}"]) for name in module.specialist_names]
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
        assert f"val_loss/{domain}" in values and f"val_token_accuracy/{domain}" in values
        assert float(values[f"val_perplexity/{domain}"]) == pytest.approx(
            float(values[f"val_loss/{domain}"].exp()), rel=1e-4
        )


def test_learning_rates_follow_each_stage(folder: Path, three: list[str], rows: str, tmp_path: Path) -> None:
    watch = Watch()
    module = make_module(
        three, stage2_learning_rate=2e-3, lr_schedule="linear", stage_steps=[2, 4], adapter=LoRA(rank=2, alpha=4)
    )
    make_trainer(tmp_path, [watch]).fit(module, make_data(folder, rows))
    rates = [seen["rates"] for seen in watch.steps]
    assert [rate["gate"] for rate in rates[:1]] == pytest.approx([5e-3]), "half-way through two steps"
    assert [rate["gate"] for rate in rates[1:5]] == pytest.approx([2e-3, 1.5e-3, 1e-3, 0.5e-3])
    assert [rate["specialists"] for rate in rates[2:5]] == pytest.approx([1.5e-3, 1e-3, 0.5e-3])
    lora = {name for name in watch.steps[-1]["graded"] if "lora" in name}
    assert lora and watch.steps[-1]["graded"] == lora | {
        n for n, _ in module.network.named_parameters() if n.startswith("gates.")
    }


def fit(
    module: Any, folder: Path, rows: str, out: Path, *, crash_at: int | None = None, ckpt: Path | None = None
) -> tuple[Any, list[float]]:
    losses = Losses(crash_at)
    keeper = ModelCheckpoint(dirpath=out / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = make_trainer(out, [losses, RandomState(), AdapterCheckpoint(), keeper], accumulate_grad_batches=2)
    with suppress(RuntimeError):
        trainer.fit(module, make_data(folder, rows), ckpt_path=ckpt)
    return module, losses.values


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(rank=2, alpha=4, dropout=0.1)], ids=["whole", "LoRA"])
def test_resuming_in_either_stage_or_at_the_switch_gives_the_same_losses(
    folder: Path, three: list[str], rows: str, tmp_path: Path, adapter: Any
) -> None:
    options = {"adapter": adapter, "dropout": "model", "stage_steps": [2, 3]}
    whole, losses = fit(make_module(three, **options), folder, rows, tmp_path / "whole")
    assert len(losses) == 10
    for step_done in (1, 2, 4):
        out = tmp_path / f"killed{step_done}"
        _, before = fit(make_module(three, **options), folder, rows, out, crash_at=2 * step_done + 1)
        file = out / "ckpt" / f"step={step_done}.ckpt"
        resumed, after = fit(make_module(three, **options), folder, rows, out, ckpt=file)
        assert before[: 2 * step_done] + after == losses
        for name, p in whole.network.named_parameters():
            assert torch.equal(p, dict(resumed.network.named_parameters())[name]), name


@pytest.mark.slow
def test_checkpoints_hold_what_is_trained_and_load_alone(
    folder: Path, three: list[str], rows: str, batch: dict[str, Any], tmp_path: Path
) -> None:
    module, _ = fit(make_module(three, stage_steps=[2, 2]), folder, rows, tmp_path)
    first, last = (read_checkpoint(tmp_path / "ckpt" / f"step={n}.ckpt") for n in (1, 4))
    assert {key for key in first["state_dict"] if key.startswith("network.")} == {
        f"network.gates.0.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    assert {key for key in last["state_dict"] if key.startswith("network.")} == {
        f"network.{k}" for k in module.network.state_dict()
    }
    loaded: Any = load_module(tmp_path / "ckpt" / "step=4.ckpt")
    assert (
        isinstance(loaded, UltraFuserModule)
        and len(loaded.chat_templates) == 3
        and "[INST]" in loaded.chat_templates[1]
    )
    assert torch.equal(step(loaded, batch).token_losses, step(module, batch).token_losses)
    early: Any = load_module(tmp_path / "ckpt" / "step=1.ckpt")
    assert not torch.equal(step(early, batch).token_losses, step(module, batch).token_losses)
    del last["state_dict"]["network.gates.0.0.weight"]
    with pytest.raises(ValueError, match=r"1 tensors are missing in it .* the first is 'network.gates.0.0.weight'"):
        built(three).on_load_checkpoint(last)
    with pytest.raises(ValueError, match="of another module"):
        built(three).on_load_checkpoint({"state_dict": {}})


def test_adapters_share_one_base_that_is_held_once(folder: Path, three: list[str], batch: dict[str, Any]) -> None:
    places = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = load_backbone(three[0], "causal_lm").model
        adapter = attach(model, LoRA(rank=2, alpha=4))
        for branch in adapter.branches.values():
            torch.nn.init.normal_(branch.lora_b, std=0.1)
        adapter.save(folder / f"adapter{seed}")
        places.append((str(folder / f"adapter{seed}"), model.eval()))
    module = built([place for place, _ in places], backbone=three[0])
    assert len(module.network.models) == 1
    with torch.no_grad():
        states = module.network.eval().hidden(batch["input_ids"], batch["attention_mask"])
        for place, (_, model) in enumerate(places):
            alone = model(batch["input_ids"][place], batch["attention_mask"][place], output_hidden_states=True)
            assert torch.allclose(states[place], alone.hidden_states[-1], atol=1e-5)
    assert sum(p.numel() for p in module._specialist_parameters()) == 3 * adapter.trainable_parameters()


def test_hidden_sizes_that_differ_take_a_gate_each(folder: Path, three: list[str], batch: dict[str, Any]) -> None:
    wide = write_specialist(folder / "wide", 5, hidden_size=48)
    module = built([three[0], wide, three[1]])
    assert [gate[0].in_features for gate in module.network.gates] == [32, 48, 32]
    assert step(module, batch).token_losses.isfinite().all()


def test_bad_input_is_one_clear_error(
    folder: Path, three: list[str], rows: str, batch: dict[str, Any], tmp_path: Path, word_tokenizer: Path
) -> None:
    broken = built(three)
    with torch.no_grad():
        next(iter(broken.network.models[1].parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="the hidden states of code are not finite"):
        step(broken, batch)

    foreign = write_specialist(folder / "foreign", 7)
    for file in word_tokenizer.iterdir():
        (Path(foreign) / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        ValueError,
        match=r"token 0 is '<pad>' in '.*text' and '\[PAD\]' in '.*foreign'; only specialists of one tokenizer",
    ):
        make_trainer(tmp_path, []).fit(
            make_module([three[0], foreign]), make_data(folder, rows, templates=["ultrachat"] * 2)
        )

    small = write_specialist(folder / "small", 8, vocab_size=40)
    with pytest.raises(
        ValueError, match="the embedding of small has 40 rows, but the specialists' tokenizers share 1024"
    ):
        make_trainer(tmp_path, []).fit(make_module([three[0], small, three[1]]), make_data(folder, rows))

    with pytest.raises(ValueError, match="is no adapter, but a base was given"):
        built([three[0], three[1]], backbone=three[2])
    with pytest.raises(
        ValueError,
        match=r"the run has 8 optimizer steps, but stage_steps=\[3, 4\] add up to 7; set trainer.max_epochs=1",
    ):
        make_trainer(tmp_path, [], max_epochs=2, limit_train_batches=4).fit(make_module(three), make_data(folder, rows))
    with pytest.raises(ValueError, match="one or two stages"):
        make_module(three, stage_steps=[])


@pytest.mark.parametrize("shared", [False, True], ids=["whole models", "one base"])
def test_sora_specialists_are_trained_as_sora(
    folder: Path, three: list[str], rows: str, tmp_path: Path, shared: bool
) -> None:
    """Stage 2 takes the adapter's own groups: gates keep threshold and proximal rule, dead ranks retire, the L1 term counts."""
    config = SoRA(rank=4, alpha=8, threshold=0.5, threshold_scaling="constant", patience=1, look_every=1, l1=0.1)
    options: dict[str, Any] = {"adapter": config}
    names = three
    if shared:
        names = []
        for place in range(3):
            adapter = attach(load_backbone(three[0], "causal_lm").model, config)
            adapter.save(tmp_path / f"{place}")
            names.append(str(tmp_path / f"{place}"))
        options = {"backbone": three[0]}
    module = make_module(names, stage_steps=[2, 3], stage2_learning_rate=1e-2, **options)
    trainer = make_trainer(tmp_path, [])
    trainer.fit(module, make_data(folder, rows))
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    gates = groups["specialists_gates"]
    assert gates["threshold"] == 0.5 and gates["weight_decay"] == 0.0
    assert sum(p.numel() for p in groups["specialists"]["params"]) > 0
    adapters = {id(a): a for a in module.network.adapters}.values()
    assert len(adapters) == 3
    for adapter in adapters:
        rows_of = adapter.rank_table()
        assert sum(row.live for row in rows_of) < sum(row.rank for row in rows_of), "a threshold of 0.5 kills ranks"
    module.stage = 1
    expected = sum(0.1 * torch.cat([*a.gates]).abs().mean() for a in adapters)
    assert float(module._penalty()) == pytest.approx(float(expected)) and float(expected) > 0
    module.stage = 0
    assert module._penalty() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("step_done", [2, 4])
def test_sora_specialists_resume_as_they_were(
    folder: Path, three: list[str], rows: str, tmp_path: Path, step_done: int
) -> None:
    config = SoRA(rank=4, alpha=8, threshold=0.05, patience=1, look_every=1)
    options = {"adapter": config, "stage_steps": [2, 3]}
    whole, losses = fit(make_module(three, **options), folder, rows, tmp_path / "whole")
    out = tmp_path / "killed"
    _, before = fit(make_module(three, **options), folder, rows, out, crash_at=2 * step_done + 1)
    resumed, after = fit(make_module(three, **options), folder, rows, out, ckpt=out / "ckpt" / f"step={step_done}.ckpt")
    assert before[: 2 * step_done] + after == losses
    for name, p in whole.network.named_parameters():
        assert torch.equal(p, dict(resumed.network.named_parameters())[name]), name


@pytest.mark.slow
def test_a_checkpoint_that_trained_gates_without_their_threshold_is_no_resumption(
    folder: Path, three: list[str], rows: str, tmp_path: Path
) -> None:
    """Earlier versions put the gates of SoRA among all vectors; torch takes their options without a word."""
    config = SoRA(rank=4, alpha=8, threshold=0.05, patience=1, look_every=1)
    options: dict[str, Any] = {"stage_steps": [1, 2], "adapter": config}
    out = tmp_path / "run"
    fit(make_module(three, **options), folder, rows, out, crash_at=5)
    file = out / "ckpt" / "step=2.ckpt"
    content = torch.load(file, weights_only=True)
    groups = content["optimizer_states"][0]["param_groups"]
    changed = [group for group in groups if group["name"] == "specialists_gates"]
    assert changed
    for group in changed:
        group["name"] = "specialists_no_decay"
    torch.save(content, file)
    with pytest.raises(
        ValueError, match=r"written by an earlier version.*specialists_no_decay.*specialists_gates.*begin again"
    ):
        fit(make_module(three, **options), folder, rows, out, ckpt=file)
    UltraFuserModule.load_from_checkpoint(file)


def test_specialists_keep_names_that_tell_them_apart() -> None:
    def names(*paths: str) -> list[str]:
        return UltraFuserModule(list(paths)).specialist_names

    assert names("runs/text/adapter", "runs/code/adapter/") == ["text", "code"]
    assert names("a/text/peft/out", "a/code/peft/out", "hub/maths") == ["text", "code", "maths"]
    assert names("same", "same") == ["same-0", "same-1"]
    assert names("runs\\text\\adapter", "runs\\code\\adapter") == ["text", "code"]
