"""Models with random weights, their batches, and the parts that the step benchmarks put together on them.

The vocabulary is small (2000), so that the layers decide and not the head. Adapters stand on every linear layer of the repeated
blocks. The frozen model is the floor: the gradient is sent back to the outputs of the first block's first layers, just as
far as an adapter there needs it, and nothing is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks.contenders.low_rank import PLACERS, Factors, Placed, fill

__all__ = [
    "Base",
    "ModelCase",
    "gradients",
    "make_base",
    "on_random_factors",
    "place",
    "random_factors",
    "reference_gradients",
    "short",
]

Found = TypeVar("Found")
VOCABULARY = 2000
_LLAMA = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_DEBERTA = (
    r"deberta\.encoder\.layer\.\d+\.(attention|intermediate|output)\..*(_proj|dense)|.*layer\.\d+\.intermediate\.dense"
)
_FIRST = {"llama": r".*layers\.0\.self_attn\.[qkv]_proj", "deberta": r".*layer\.0\.attention\.self\.\w+_proj"}


@dataclass(frozen=True)
class ModelCase:
    """A model's shape and batch, the rank of its adapters (alpha is twice it) and its dtype."""

    kind: str
    layers: int
    batch: int
    length: int
    rank: int
    dtype: torch.dtype
    device: str = "cpu"
    hidden: int = 768
    vocabulary: int = VOCABULARY
    intermediate: int = 0  # of the Llama's MLP; 0: 8/3 of the width
    kv_heads: int = 0  # of the Llama; 0: as many as heads, of 64 columns each

    @property
    def targets(self) -> str:
        """Regex of the adapted layers' names."""
        return _LLAMA if self.kind == "llama" else _DEBERTA

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.kind} {self.layers}x{self.hidden}, {self.batch}x{self.length} tokens, r{self.rank} {dtype}"


@dataclass(frozen=True)
class Base:
    """A model and its batch (keyword arguments of the model, labels among them)."""

    model: nn.Module
    batch: dict[str, torch.Tensor]


def make_base(case: ModelCase) -> Base:
    """The model with random weights (always the same) and one batch of random tokens."""
    import transformers

    torch.manual_seed(0)
    tokens = torch.randint(5, case.vocabulary, (case.batch, case.length))
    if case.kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=case.intermediate or case.hidden * 8 // 3,
            num_hidden_layers=case.layers, num_attention_heads=case.hidden // 64,
            num_key_value_heads=case.kv_heads or case.hidden // 64, use_cache=False,
        )  # fmt: skip
        kind, labels = transformers.LlamaForCausalLM, tokens
    else:
        config = transformers.DebertaV2Config(
            vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=4 * case.hidden,
            num_hidden_layers=case.layers, num_attention_heads=case.hidden // 64, relative_attention=True,
            pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=256,
            position_biased_input=False, max_relative_positions=-1, type_vocab_size=0,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        kind, labels = transformers.DebertaV2ForSequenceClassification, torch.randint(0, 2, (case.batch,))
    with torch.device(case.device):
        model = kind(config)
    model.requires_grad_(False).train().to(case.device, case.dtype)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
    return Base(model, {name: tensor.to(case.device) for name, tensor in batch.items()})


def place(contender: str, case: ModelCase, base: Base, gated: bool, **options: Any) -> Placed:
    """Put an adapter onto the base's model; nothing for "frozen"."""
    if contender == "frozen":
        _send_gradient_back(case, base.model)
        return Placed(base.model, [])
    return PLACERS[contender](base.model, case.targets, case.rank, 2.0 * case.rank, gated, **options)


def _send_gradient_back(case: ModelCase, model: nn.Module) -> None:
    """Let the first block's first outputs ask for a gradient, which then has to travel through every layer."""
    for name, layer in model.named_modules():
        if re.fullmatch(_FIRST[case.kind], name):
            layer.register_forward_hook(lambda module, args, out: out.requires_grad_())


def short(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two rows of 24 tokens, on which results are checked."""
    return {name: tensor[:2, :24] if tensor.dim() == 2 else tensor[:2] for name, tensor in batch.items()}


def gradients(placed: Placed, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Loss and every adapter's gradient on a short batch; layer number and factor are the names."""
    for p in placed.parameters():
        p.grad = None
    loss = placed.model(**short(batch)).loss
    loss.backward()
    result = {"loss": loss.detach()}
    for index, factors in enumerate(placed.factors):
        for name, p in factors.named().items():
            result[f"{index}.{name}"] = torch.zeros(p.numel()) if p.grad is None else p.grad.flatten().cpu()
            p.grad = None
    return result


def reference_gradients(
    case: ModelCase, placed: Placed, gated: bool, batch: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The same by plain PyTorch layers in another dtype, with the factors that ``placed`` holds now.

    AdaLoRA's regulariser is no part of it: the caller switches it off while checking.
    """
    fresh = make_base(case)
    model = fresh.model.to(dtype)
    if not placed.factors:
        with torch.no_grad():
            return {"loss": model(**short(batch)).loss}
    PLACERS["plain torch"](model, case.targets, case.rank, 1.0, gated)
    modules: list[Any] = [m for m in model.modules() if hasattr(m, "lora_a")]
    if len(modules) != len(placed.factors):
        raise ValueError(f"{len(placed.factors)} layers carry the adapter, want {len(modules)}")
    for module, theirs in zip(modules, placed.factors, strict=True):
        module.scaling = theirs.scaling
        for name, p in theirs.named().items():
            held = p.detach().to(torch.promote_types(dtype, torch.float32)).reshape(getattr(module, name).shape)
            setattr(module, name, nn.Parameter(held.clone()))
    return gradients(Placed(model, [Factors(m.lora_a, m.gate, m.lora_b, m.scaling) for m in modules]), batch)


@contextmanager
def random_factors(placed: Placed) -> Iterator[None]:
    """Random factors for a check; afterwards the old ones are back."""
    before = [(p, p.detach().clone()) for p in placed.parameters()]
    fill(placed, size=0.1)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)


def on_random_factors(placed: Placed, compute: Callable[[], Found]) -> Found:
    """What is computed with random factors.

    Args:
        placed: whose factors.
        compute: called once.
    """
    with random_factors(placed):
        return compute()
