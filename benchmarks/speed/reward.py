"""``reward_step``: one step of a reward model with LoRA on four answers: as a tree, as padded rows, and as TRL takes it.

One prompt of 200 tokens with four answers of 200 and all six pairs, as in ``preference_step``. The tree holds the prompt
and each answer once; padded rows are ours without packing, two for each pair; TRL's step is ``RewardTrainer.compute_loss``
on its own collator's batch, with transformers' sequence classification and PEFT's LoRA. All train the head too, with AdamW.

Results are compared on the same structure at a twentieth of the lengths: loss, every factor's gradient and the head's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.contenders.low_rank import PLACERS, Placed, why_not
from benchmarks.contenders.models import Base, ModelCase, make_base, on_random_factors, place
from benchmarks.contenders.trl import make_trainer, trl_missing
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.preference import Pairs, as_new, four_answers, model_case, on_device, shapes, tree_batch
from benchmarks.speed.steps import make_optimizer
from fulgurite.lightning_modules.objectives.completions import CompletionRewards
from fulgurite.losses import RewardLoss
from fulgurite.models import RewardModel

__all__ = ["BENCHMARK"]

_SHORT = 20
_UNPACKED, _TRL = "fulgurite, unpacked", "TRL RewardTrainer"
_IDS = ("ids", "input_ids")  # how TRL's columns end, now and before 0.29


def _head(width: int) -> torch.Tensor:
    """The head that all start with, (1, width)."""
    return torch.randn(1, width, generator=torch.Generator().manual_seed(1)) / width**0.5


def _reward_model(base: Base, theirs: bool) -> tuple[nn.Module, nn.Linear]:
    """The base with a head: ours, or transformers' sequence classification; and that head."""
    import transformers

    causal: Any = base.model
    weight = next(causal.parameters())
    if not theirs:
        ours = RewardModel(causal.model)
        head = ours.regression_head
        model: nn.Module = ours
    else:
        config = causal.config
        config.num_labels, config.pad_token_id = 1, 0
        with torch.device("meta"):
            model = transformers.LlamaForSequenceClassification(config)
        model.model = causal.model
        head = model.score = nn.Linear(config.hidden_size, 1, bias=False)
    head.weight = nn.Parameter(_head(head.in_features).to(weight))
    return model.train(), head


def _ours(shared: bool, make: Callable[..., Pairs], case: ModelCase, base: Base) -> Step:
    model, head = _reward_model(base, False)
    placed = place(OURS, case, Base(model, {}), False)
    rewards, loss = CompletionRewards(), RewardLoss()
    batches = {
        short: on_device(tree_batch(make(_SHORT if short else 1), shared, packing=shared), case.device)
        for short in (False, True)
    }

    def loss_of(short: bool) -> torch.Tensor:
        batch = as_new(batches[short])
        parts = loss(rewards(placed.model, batch), batch["pairs"])
        return parts.loss_sum / parts.units

    return _step(OURS, placed, head, loss_of, batches[False]["input_ids"].numel(), make, case)


def _theirs(make: Callable[..., Pairs], case: ModelCase, base: Base) -> Step:
    from trl.trainer.reward_trainer import DataCollatorForPreference

    model, head = _reward_model(base, True)
    placed = place("PEFT LoRA", case, Base(model, {}), False)
    trainer = _trl_trainer(placed.model)
    collate = DataCollatorForPreference(pad_token_id=0)
    batches = {}
    for short in (False, True):
        rows = [
            {f"{side}_{ids}": path[0].tolist() for side, path in zip(("chosen", "rejected"), pair) for ids in _IDS}
            for pair in make(_SHORT if short else 1)
        ]
        batches[short] = {name: tensor.to(case.device) for name, tensor in collate(rows).items()}

    def loss_of(short: bool) -> torch.Tensor:
        found: torch.Tensor = trainer.compute_loss(trainer.model, dict(batches[short]))
        return found

    return _step("PEFT LoRA", placed, head, loss_of, batches[False]["input_ids"].numel(), make, case)


def _trl_trainer(model: Any) -> Any:
    return make_trainer("Reward", model, {"chosen": "a b", "rejected": "a c"})


def _step(
    kind: str,
    placed: Placed,
    head: nn.Linear,
    loss_of: Callable[[bool], torch.Tensor],
    tokens: int,
    make: Callable[..., Pairs],
    case: ModelCase,
) -> Step:
    head.weight.requires_grad_(True)
    optimizer = make_optimizer(kind, placed)
    of_head = torch.optim.AdamW([head.weight], lr=1e-3)

    def run() -> None:
        loss_of(False).backward()
        for each in (optimizer, of_head):
            each.step()
            each.zero_grad()

    return Step(
        run,
        partial(on_random_factors, placed, lambda: _gradients(placed, head, loss_of(True))),
        partial(on_random_factors, placed, lambda: _plain(case, placed, head, make(_SHORT))),
        slack=2e-5 if case.dtype == torch.float32 else 3e-2,
        facts=lambda: {"tokens": tokens},
    )


def _gradients(placed: Placed, head: nn.Linear, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    everything = [(f"{i}.{name}", p) for i, f in enumerate(placed.factors) for name, p in f.named().items()]
    everything.append(("head", head.weight))
    for _, p in everything:
        p.grad = None
    loss.backward()
    found = {"loss": loss.detach()}
    for name, p in everything:
        assert p.grad is not None
        found[name] = p.grad.flatten().cpu()
        p.grad = None
    return found


def _plain(case: ModelCase, placed: Placed, head: nn.Linear, pairs: Pairs) -> dict[str, torch.Tensor]:
    """Loss and gradients by plain PyTorch layers in float64, one forward per completion."""
    model: Any = make_base(case).model.double()
    PLACERS["plain torch"](model, case.targets, case.rank, 1.0, False)
    modules: list[Any] = [m for m in model.modules() if hasattr(m, "lora_a")]
    for module, theirs in zip(modules, placed.factors, strict=True):
        module.scaling = theirs.scaling
        for name, p in theirs.named().items():
            setattr(module, name, nn.Parameter(p.detach().double().reshape(getattr(module, name).shape).clone()))
    weight = head.weight.detach().double().clone().requires_grad_(True)

    def reward(ids: torch.Tensor) -> torch.Tensor:
        return F.linear(model.model(input_ids=ids[None].to(case.device)).last_hidden_state[0, -1], weight)[0]

    loss = torch.stack([-F.logsigmoid(reward(chosen[0]) - reward(rejected[0])) for chosen, rejected in pairs]).mean()
    loss.backward()
    found = {"loss": loss.detach()}
    for index, module in enumerate(modules):
        for name in ("lora_a", "lora_b"):
            found[f"{index}.{name}"] = getattr(module, name).grad.flatten().cpu()
    assert weight.grad is not None
    return found | {"head": weight.grad.flatten().cpu()}


def _workload(case: ModelCase, make: Callable[..., Pairs] = four_answers) -> Workload:
    contenders: dict[str, Any] = {
        _UNPACKED: partial(_ours, False, make, case),
        _TRL: trl_missing() or why_not("PEFT LoRA", case.device, case.dtype, False) or partial(_theirs, make, case),
        OURS: partial(_ours, True, make, case),
    }
    facts = {"layers": case.layers, "hidden": case.hidden, "vocabulary": case.vocabulary, "pairs": len(make(_SHORT))}
    return Workload("4 answers, 6 pairs", facts, partial(make_base, case), contenders, floor=_UNPACKED)


def _workloads(settings: Settings) -> list[Workload]:
    case = model_case(settings)
    return [_workload(case, shapes(settings, case)["4 answers, 6 pairs"])]


BENCHMARK = Benchmark(
    "reward_step",
    "One step of a reward model on four answers to one prompt: a tree against padded rows and TRL.",
    _workloads,
    norm_error,
)
