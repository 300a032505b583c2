"""Adapter folders and exports, read by whom they were made for."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.before_rooms.comparing import IDS, MASK, Values, chdir, first_logits


class Toy(nn.Module):
    """Two repeated blocks of two linears and a head outside of them."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width)}) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block["down"](torch.tanh(block["up"](x)))
        return self.head(x)


class Mixed(nn.Module):
    """A tensor of each kind: embedding tied to the head, LayerNorm, linear, convolution, attention, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.scale = nn.Parameter(torch.zeros(8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.out = nn.Linear(8, 11)
        self.out.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embedding(ids) * self.scale)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return self.out(x + self.down(torch.tanh(self.up(x))))


@torch.no_grad()
def toy_model(kind: str) -> nn.Module:
    """The base that an adapter folder was made for ("toy", "mixed" or "llama"); its weights follow a formula."""
    if kind == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {
            "vocab_size": 31,
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        model: nn.Module = LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, tie_word_embeddings=False, **sizes))
    else:
        model = {"toy": Toy, "mixed": Mixed}[kind]()
    for number, parameter in enumerate(model.parameters()):
        steps = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.copy_((0.4 * torch.sin(0.37 * steps + number)).view(parameter.shape))
    return model.eval()


def toy_input(kind: str = "toy") -> torch.Tensor:
    """What the toy models are asked."""
    if kind == "toy":
        return torch.cos(torch.arange(60, dtype=torch.float64)).view(5, 12).float()
    return (torch.arange(18) * 7 % 11).view(3, 6)


@torch.no_grad()
def adapter(folder: Path, name: str) -> Values:
    """`load_adapter` of adapters/NAME onto its base: the configuration, and outputs with it on and off."""
    from fulgurite.adapters import load_adapter, read_adapter_config

    place = folder / "adapters" / name
    kind = (place / "model.txt").read_text().strip()
    model, inputs = toy_model(kind), toy_input(kind)
    base = _out(model, inputs)
    loaded = load_adapter(model, place)
    with_it = _out(model, inputs)
    assert not torch.equal(base, with_it), f"{name} changes nothing"
    found = {
        "config": {"class": type(loaded.config).__name__, **asdict(loaded.config)},  # type: ignore[call-overload]
        "name": loaded.name,
        "train": list(read_adapter_config(place)["train"]),
        "trained": loaded.trainable_parameters(),
        "sum": round(float(with_it.double().sum()), 5),
        "sum of magnitudes": round(float(with_it.double().abs().sum()), 5),
        "sum of the base": round(float(base.double().sum()), 5),
    }
    with contextlib.suppress(RuntimeError):
        found["ranks"] = [[row.module, row.live, row.nonzero] for row in loaded.rank_table()]
    loaded.detach()
    found["sum with it taken off"] = round(float(_out(model, inputs).double().sum()), 5)
    return found


def _out(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    found = model(inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


@torch.no_grad()
def exported(folder: Path, name: str) -> Values:
    """exports/NAME, read by whom it was made for: stock PEFT, transformers, or fulgurite."""
    place = folder / "exports" / name
    with chdir(folder):
        if name in ("sora_peft", "sora_peft_rank_pattern", "apet_shira"):  # of the toy model
            from peft import PeftModel

            model = PeftModel.from_pretrained(toy_model("toy"), str(place)).eval()
            found = model(toy_input()).double()
            return {"sum": round(float(found.sum()), 5), "sum of magnitudes": round(float(found.abs().sum()), 5)}
        ids, mask = torch.tensor(IDS), torch.tensor(MASK)
        if name.startswith("reward"):
            from fulgurite.models import load_reward_model

            network: Any = load_reward_model(str(place), require_head=True).model.eval()
        elif (place / "adapter_config.json").is_file():
            from peft import PeftModel

            from fulgurite.models import load_backbone

            base = json.loads((place / "adapter_config.json").read_text())["base_model_name_or_path"]
            network = PeftModel.from_pretrained(
                load_backbone(base, "classification", num_labels=2).model, str(place)
            ).eval()
        else:
            from fulgurite.evaluation import load_for_generation

            merged = (place / "config.json").is_file()
            loaded = load_for_generation(str(place)) if merged else load_for_generation("playground", str(place))
            network = loaded.model
            asked = None if loaded.conditions is None else loaded.conditions.to_dict()
            logits = first_logits(network(input_ids=ids, attention_mask=mask).logits)
            return {"logits": logits, "conditions": asked, "chat template": bool(loaded.tokenizer.chat_template)}
        return {"logits": first_logits(network(input_ids=ids, attention_mask=mask).logits)}
