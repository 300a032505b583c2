"""``sft_step``: one step of supervised fine-tuning with LoRA on packed rows, as each package takes it.

A pack holds rows of different lengths; of each the last two thirds are supervised. TRL's step is ``SFTTrainer.compute_loss`` with
its default packing ("bfd": rows one behind the other, whose positions begin anew) and its fused head. PEFT's is transformers' own
loss on the same pack. Liger's is that with Liger's kernels in the model. All keep the rows of a pack apart and train with AdamW. On
a GPU the model has the shape of Llama 3.2 1B. The floor is our step on the frozen model.

Results are compared on a pack of a sixteenth of the lengths: loss and every factor's gradient, against rows alone in float64.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.contenders.low_rank import PLACERS, Placed, why_not
from benchmarks.contenders.models import Base, ModelCase, make_base, on_random_factors, place
from benchmarks.contenders.trl import make_trainer, trl_missing
from benchmarks.harness.floors import H200, Model, step_flops
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.preference import as_new, gradients, model_case
from benchmarks.speed.steps import make_optimizer
from fulgurite.lightning_modules.objectives.language import LanguageModelling

__all__ = ["BENCHMARK", "make_pack", "prepare"]

_SHORT = 16
_FROZEN, _PEFT, _TRL, _LIGER, _UNSLOTH = "frozen", "PEFT LoRA", "TRL SFTTrainer", "Liger", "Unsloth"
_IGNORE = -100
Pack = dict[str, torch.Tensor]


def make_pack(lengths: Sequence[int], vocabulary: int) -> Pack:
    """Rows of these lengths, one behind the other: input_ids, labels and position_ids (1, T), cu_seq_lens (S + 1,)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (sum(lengths),), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths])
    prompts = torch.cat([torch.full((length,), length // 3) for length in lengths]).clamp(min=1)
    return {
        "input_ids": ids[None],
        "labels": torch.where(positions < prompts, _IGNORE, ids)[None],
        "position_ids": positions[None],
        "cu_seq_lens": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
    }


def prepare(contender: str, lengths: Sequence[int], case: ModelCase, base: Base) -> Step:
    """One contender's step on a pack of rows of these lengths."""
    adapter = {_FROZEN: "frozen", OURS: OURS}.get(contender, "PEFT LoRA")
    if contender == _LIGER:
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model=base.model)
    placed = place(adapter, case, base, False)
    optimizer = make_optimizer(adapter, placed)
    packs = {
        short: make_pack([n // _SHORT if short else n for n in lengths], case.vocabulary) for short in (False, True)
    }
    loss_of = _LOSSES[contender](placed, packs, case.device)

    def run() -> None:
        loss_of(False).backward()
        optimizer.step()
        optimizer.zero_grad()

    def results() -> Mapping[str, torch.Tensor]:
        return gradients(placed, loss_of(True)) if placed.factors else {"loss": loss_of(True).detach()}

    return Step(
        run,
        partial(on_random_factors, placed, results),
        partial(on_random_factors, placed, lambda: _plain(case, placed, packs[True])),
        slack=2e-5 if case.dtype == torch.float32 else 3e-2,
        facts=lambda: {"tokens": sum(lengths)},
    )


def _on(pack: Pack, device: str) -> Pack:
    return {name: tensor.to(device) for name, tensor in pack.items()}


def _by_ours(placed: Placed, packs: Mapping[bool, Pack], device: str) -> Callable[[bool], torch.Tensor]:
    objective = LanguageModelling()
    # As our modules do before a batch moves.
    batches = {short: _on(objective.on_host(pack), device) for short, pack in packs.items()}

    def loss_of(short: bool) -> torch.Tensor:
        step = objective(placed.model, as_new(batches[short]))
        return step.loss_sum / step.targets

    return loss_of


def _by_transformers(placed: Placed, packs: Mapping[bool, Pack], device: str) -> Callable[[bool], torch.Tensor]:
    inputs = {k: {n: t.to(device) for n, t in pack.items() if n != "cu_seq_lens"} for k, pack in packs.items()}
    return lambda short: placed.model(**inputs[short]).loss


def _by_trl(placed: Placed, packs: Mapping[bool, Pack], device: str) -> Callable[[bool], torch.Tensor]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    row = {"prompt": "a ", "completion": "b"}
    trainer = make_trainer("SFT", placed.model, row, packing=True, max_length=1024)
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batches = {}
    for short, pack in packs.items():
        edges = pack["cu_seq_lens"].tolist()
        rows = {key: pack[key][0].tolist() for key in ("input_ids", "labels")}
        example = {**rows, "seq_lengths": [b - a for a, b in pairwise(edges)]}
        batches[short] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in collate([example]).items()}
    return lambda short: trainer.compute_loss(trainer.model, dict(batches[short]))


_LOSSES: dict[str, Callable[[Placed, Mapping[bool, Pack], str], Callable[[bool], torch.Tensor]]] = {
    _FROZEN: _by_ours,
    _PEFT: _by_transformers,
    _TRL: _by_trl,
    _LIGER: _by_transformers,
    OURS: _by_ours,
}


def _plain(case: ModelCase, placed: Placed, pack: Pack) -> dict[str, torch.Tensor]:
    """Loss and gradients by plain PyTorch layers in float64, each row of the pack alone."""
    model: Any = make_base(case).model.double()
    modules: list[Any] = []
    if placed.factors:
        PLACERS["plain torch"](model, case.targets, case.rank, 1.0, False)
        modules = [m for m in model.modules() if hasattr(m, "lora_a")]
    for module, theirs in zip(modules, placed.factors, strict=True):
        module.scaling = theirs.scaling
        for name, p in theirs.named().items():
            setattr(module, name, nn.Parameter(p.detach().double().reshape(getattr(module, name).shape).clone()))
    losses = []
    for start, stop in pairwise(pack["cu_seq_lens"].tolist()):
        ids, labels = (pack[name][:, start:stop].to(case.device) for name in ("input_ids", "labels"))
        logits = model(input_ids=ids).logits[0, :-1]
        losses.append(F.cross_entropy(logits, labels[0, 1:], ignore_index=_IGNORE, reduction="none"))
    loss = torch.cat(losses).sum() / (pack["labels"] != _IGNORE).sum().to(case.device)
    found = {"loss": loss.detach()}
    if modules:
        loss.backward()
    for index, module in enumerate(modules):
        for name in ("lora_a", "lora_b"):
            found[f"{index}.{name}"] = getattr(module, name).grad.flatten().cpu()
    return found


def _liger_missing(device: str) -> str | None:
    if not device.startswith("cuda"):
        return why_not("Liger", device, torch.float32, False)
    return None if importlib.util.find_spec("liger_kernel") else "the package liger_kernel is not installed"


def _workloads(settings: Settings) -> list[Workload]:
    case = model_case(settings)
    cuda = settings.device.startswith("cuda")
    lengths = [96, 64, 160, 192] if settings.toy else [320, 640, 1024, 2048] * 2 if cuda else [128, 64, 192, 128]
    peft = why_not("PEFT LoRA", case.device, case.dtype, False)
    reasons = {
        _FROZEN: None,
        _PEFT: peft,
        _TRL: trl_missing() or peft,
        _LIGER: _liger_missing(case.device) or peft,
        _UNSLOTH: "asks for torch < 2.15, transformers ≤ 5.17 and trl ≤ 1.15: it needs an environment of its own",
        OURS: None,
    }
    contenders: dict[str, Any] = {
        name: reason or partial(prepare, name, lengths, case) for name, reason in reasons.items()
    }
    supervised = int((make_pack(lengths, case.vocabulary)["labels"] != _IGNORE).sum())
    facts: dict[str, Any] = {
        "layers": case.layers, "hidden": case.hidden, "vocabulary": case.vocabulary, "rank": case.rank,
        "dtype": str(case.dtype).removeprefix("torch."), "lengths": list(lengths), "supervised": supervised,
        "tokens_per_step": sum(lengths), "flops_per_step": step_flops(_sizes(case), lengths, supervised, case.rank),
    }  # fmt: skip
    if cuda:
        facts["peak_flops"] = H200.flops
    name = f"packed, {sum(lengths)} tokens, r{case.rank} {facts['dtype']}"
    return [Workload(name, facts, partial(make_base, case), contenders, floor=_FROZEN)]


def _sizes(case: ModelCase) -> Model:
    return Model(
        layers=case.layers,
        width=case.hidden,
        intermediate=case.intermediate or case.hidden * 8 // 3,
        heads=case.hidden // 64,
        kv_heads=case.kv_heads or case.hidden // 64,
        vocabulary=case.vocabulary,
    )


BENCHMARK = Benchmark(
    "sft_step",
    "One packed step of supervised fine-tuning with LoRA (6-layer, 512-wide Llama; on a GPU the shape of Llama 3.2 1B).",
    _workloads,
    norm_error,
)
