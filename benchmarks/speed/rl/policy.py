"""``policy_step``: GRPO's loss over the eight answers to one prompt, forward, backward and optimizer step, with LoRA.

The prompt has 512 tokens and each answer 128. Ours computes the prompt once (a tree of 1,536 tokens); *answer by answer* is our
own loss on eight padded rows of 640 tokens, 5,120 in all; TRL's step is ``GRPOTrainer.compute_loss`` on the same rows. All are
given the same advantages and the log-probabilities of the old policy and of the reference: drawing and scoring are part of
``grpo_step``. The head computes the 1,024 tokens of the answers in both of ours, so that the ratio is below that of the tokens.

Loss and gradients of every factor are compared with a float64 computation by plain PyTorch layers, one forward per answer, at a
quarter of the lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.contenders.grpo import grpo_missing, make_grpo, trainer_placed
from benchmarks.contenders.low_rank import PLACERS, Placed
from benchmarks.contenders.models import Base, ModelCase, make_base, on_random_factors, place
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.preference import gradients
from benchmarks.speed.steps import make_optimizer
from fulgurite.lightning_modules.objectives.policy import PolicyObjective
from fulgurite.lightning_modules.rollouts.drawing import Answer, Group
from fulgurite.lightning_modules.rollouts.packs import Trees
from fulgurite.lightning_modules.rollouts.scoring import on_device
from fulgurite.losses.policy import PolicyLoss

__all__ = [
    "BENCHMARK",
    "TRL",
    "UNPACKED",
    "Drawn",
    "draw_up",
    "our_loss",
    "plain_loss_and_gradients",
    "prepare",
    "trl_batch",
]

UNPACKED, TRL = "fulgurite, answer by answer", "TRL GRPOTrainer"
BETA, _CLIP, _SHORT = 0.04, 0.2, 4


@dataclass(frozen=True)
class Drawn:
    """The answers to one prompt with all that the loss reads.

    Attributes:
        prompt: ids.
        answers: ids of each.
        old: log-probabilities of each answer's tokens under the policy that drew them.
        reference: under the reference.
        advantages: of each answer.
    """

    prompt: list[int]
    answers: list[list[int]]
    old: list[torch.Tensor]
    reference: list[torch.Tensor]
    advantages: torch.Tensor


def draw_up(divisor: int, vocabulary: int, prompt: int = 512, answers: int = 8, length: int = 128) -> Drawn:
    """Random tokens, with log-probabilities about those of a random model: some ratios are clipped and some are not.

    Args:
        divisor: of the lengths.
        vocabulary: tokens are drawn from 5 on.
        prompt: its tokens.
        answers: how many.
        length: tokens of each answer.
    """
    generator = torch.Generator().manual_seed(0)
    length //= divisor

    def ids(count: int) -> list[int]:
        found: list[int] = torch.randint(5, vocabulary, (count,), generator=generator).tolist()
        return found

    def log_probs() -> list[torch.Tensor]:
        level = -torch.tensor(float(vocabulary)).log()
        return [level + 0.3 * torch.randn(length, generator=generator) for _ in range(answers)]

    asked = ids(prompt // divisor)
    said = [ids(length) for _ in range(answers)]
    return Drawn(asked, said, log_probs(), log_probs(), torch.randn(answers, generator=generator))


def objective_of(longest: int) -> PolicyObjective:
    """GRPO's: clipped at 0.2, mean of the answers' means, k3 in the loss."""
    return PolicyObjective(PolicyLoss(_CLIP, None, None, "token", "answer", longest), kl="k3")


def our_loss(drawn: Drawn, packing: bool, device: str) -> Callable[[Any], torch.Tensor]:
    """The mean loss of a network on the answers, as RLModule computes it.

    Args:
        drawn: the answers.
        packing: a tree; False for a padded row per answer.
        device: where the network is.
    """
    said = [Answer(tokens=tuple(ids), log_probs=(), text="", cut=False) for ids in drawn.answers]
    trees = Trees([Group(ids=drawn.prompt, turns=(), reference={}, answers=said)], 0, packing)
    figures = {
        "old": torch.cat(drawn.old),
        "reference": torch.cat(drawn.reference),
        "advantages": drawn.advantages.repeat_interleave(trees.lengths),
        "weights": torch.ones(int(trees.lengths.sum())),
        "counted": torch.ones(int(trees.lengths.sum()), dtype=torch.bool),
    }
    for name, values in figures.items():
        trees.put(name, values)
    objective = objective_of(max(map(len, drawn.answers)))

    def loss(network: Any) -> torch.Tensor:
        # The batch as it comes to each step of a training: attention has not prepared its masks yet.
        found = objective(
            network, on_device(objective, {**trees.batch([0]), "beta": torch.tensor(BETA)}, torch.device(device))
        )
        return found.loss_sum / found.targets

    return loss


def trl_batch(drawn: Drawn, device: str) -> dict[str, torch.Tensor]:
    """The answers as GRPOTrainer's loss takes them.

    Args:
        drawn: the answers, all of one length.
        device: where the network is.
    """
    count = len(drawn.answers)
    batch = {
        "prompt_ids": torch.tensor([drawn.prompt] * count),
        "prompt_mask": torch.ones(count, len(drawn.prompt), dtype=torch.int64),
        "completion_ids": torch.tensor(drawn.answers),
        "completion_mask": torch.ones(count, len(drawn.answers[0]), dtype=torch.int64),
        "advantages": drawn.advantages,
        "old_per_token_logps": torch.stack(drawn.old),
        "ref_per_token_logps": torch.stack(drawn.reference),
        "num_items_in_batch": torch.tensor(count * len(drawn.answers[0])),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _trl_loss(trainer: Any, drawn: Drawn, device: str) -> Callable[[], torch.Tensor]:
    trainer.current_gradient_accumulation_steps = 1
    batch = trl_batch(drawn, device)
    return lambda: trainer.compute_loss(trainer.model, dict(batch))


def prepare(contender: str, case: ModelCase, base: Base) -> Step:
    """One contender's step, checked at a quarter of the lengths."""
    # Toys are short already, and their model is that of a trial.
    shrink = 16 if case.hidden < 128 else 1
    long, short = draw_up(shrink, case.vocabulary), draw_up(max(shrink, _SHORT), case.vocabulary)
    loss_of: dict[int, Callable[[], torch.Tensor]] = {}
    if contender == TRL:
        trainer = make_grpo(
            base.model, case.targets, case.rank, ["a"] * 8, lambda completions, **_: [0.0] * len(completions),
            case.vocabulary, case.device == "cpu", beta=BETA, epsilon=_CLIP, loss_type="grpo", num_generations=8,
            per_device_train_batch_size=8, max_completion_length=len(long.answers[0]),
        )  # fmt: skip
        placed = trainer_placed(trainer)
        loss_of = {id(drawn): _trl_loss(trainer, drawn, case.device) for drawn in (long, short)}
    else:
        placed = place(OURS, case, base, False)
        for drawn in (long, short):
            loss_of[id(drawn)] = partial(our_loss(drawn, contender == OURS, case.device), placed.model)
    optimizer = make_optimizer("PEFT LoRA" if contender == TRL else OURS, placed)

    def run() -> None:
        loss_of[id(long)]().backward()
        optimizer.step()
        optimizer.zero_grad()

    tokens = len(long.prompt) + sum(map(len, long.answers))
    if contender != OURS:
        tokens += len(long.prompt) * (len(long.answers) - 1)
    return Step(
        run,
        partial(on_random_factors, placed, lambda: gradients(placed, loss_of[id(short)]())),
        partial(on_random_factors, placed, partial(plain_loss_and_gradients, case, placed, short)),
        slack=1e-5 if case.dtype == torch.float32 else 3e-2,
        facts=lambda: {"tokens": tokens},
    )


def plain_loss_and_gradients(case: ModelCase, placed: Placed, drawn: Drawn) -> Mapping[str, torch.Tensor]:
    """Loss and gradients by plain PyTorch layers in float64, one forward per answer, by the formulas of specs/rl.md.

    Args:
        case: the model.
        placed: whose factors are taken over.
        drawn: the answers.
    """
    model = make_base(case).model.double()
    PLACERS["plain torch"](model, case.targets, case.rank, 1.0, False)
    modules: list[Any] = [m for m in model.modules() if hasattr(m, "lora_a")]
    for module, theirs in zip(modules, placed.factors, strict=True):
        module.scaling = theirs.scaling
        for name, p in theirs.named().items():
            setattr(module, name, torch.nn.Parameter(p.detach().double().reshape(getattr(module, name).shape).clone()))
    losses = []
    for answer, old, reference, advantage in zip(
        drawn.answers, drawn.old, drawn.reference, drawn.advantages.double(), strict=True
    ):
        ids = torch.tensor([drawn.prompt + answer], device=case.device)
        logits = model(input_ids=ids).logits[0, len(drawn.prompt) - 1 : -1].log_softmax(-1)
        found = logits.gather(-1, ids[0, len(drawn.prompt) :, None]).squeeze(-1)
        ratio = (found - old.to(found)).exp()
        kept = torch.minimum(ratio * advantage, ratio.clamp(1 - _CLIP, 1 + _CLIP) * advantage)
        apart = reference.to(found) - found
        losses.append((-kept + BETA * (apart.exp() - 1 - apart)).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    gradient = {
        f"{index}.{name}": getattr(module, name).grad.flatten().cpu()
        for index, module in enumerate(modules)
        for name in ("lora_a", "lora_b")
    }
    return {"loss": loss.detach(), **gradient}


def _workloads(settings: Settings) -> list[Workload]:
    cuda = settings.device.startswith("cuda")
    dtype = torch.bfloat16 if cuda and not settings.toy else torch.float32
    case = ModelCase("llama", 4, 1, 32, 16, dtype, settings.device, hidden=512)
    cases = {"8 answers of 128 behind 512": case}
    if settings.toy:
        cases = {name: replace(case, layers=1, hidden=64, vocabulary=200, rank=4) for name in cases}
    elif cuda:
        big = replace(case, layers=16, hidden=2048, intermediate=8192, kv_heads=8, vocabulary=128256)
        cases = dict.fromkeys(cases, big)
    elif settings.full:  # where the head is as large as all layers together, and no tree spares any of it
        cases["8 answers of 128 behind 512, vocabulary 32000"] = replace(case, vocabulary=32000)
    found = []
    for name, case in cases.items():
        contenders: dict[str, Any] = {
            UNPACKED: partial(prepare, UNPACKED, case),
            TRL: grpo_missing() or partial(prepare, TRL, case),
            OURS: partial(prepare, OURS, case),
        }
        facts = {"layers": case.layers, "hidden": case.hidden, "vocabulary": case.vocabulary, "beta": BETA}
        found.append(Workload(name, facts, partial(make_base, case), contenders, floor=UNPACKED))
    return found


BENCHMARK = Benchmark(
    "policy_step",
    "GRPO's loss over eight answers to one prompt, forward, backward and step: a tree against its answers one by one and TRL.",
    _workloads,
    norm_error,
)
