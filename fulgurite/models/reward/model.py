"""Reward models: a backbone with a bias-free head on the last real token, r(x, y) = w · h_last, causal or encoder.

Its state dict has the names of UltraRM (arXiv 2310.01377) and Eurus-RM (arXiv 2404.02078): the backbone under ``model.`` and
``regression_head.weight`` (1, H). Sequence-classification checkpoints of causal models compute the same with a layer called
``score``; those of encoders read the first token through a pooler, and stay the transformers models that they are. The last real
token is the last one that the attention mask shows: padding may stand on either side, and any token may pad, the end token too.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fulgurite.models.loading import Backbone, checkpoint_model, load_backbone
from fulgurite.models.reward.layouts import read_layout

__all__ = ["HEADS", "RewardModel", "RewardOutput", "load_reward_model"]

HEADS = ("auto", "last_token", "classifier")


@dataclass
class RewardOutput:
    """What a reward model computes.

    Attributes:
        logits: reward of each row, (B, 1) float32 or wider; None for a packed batch: only its caller knows where the rows end.
        last_hidden_state: the backbone's states, (B, T, H).
    """

    logits: torch.Tensor | None
    last_hidden_state: torch.Tensor


class RewardModel(nn.Module):
    """A backbone with a reward head.

    Args:
        model: a transformers model without a head, whose output has ``last_hidden_state``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        weight = next(model.parameters())
        width = int(self.config.get_text_config().hidden_size)
        self.regression_head = nn.Linear(width, 1, bias=False, device=weight.device, dtype=weight.dtype)
        # Stiennon et al. 2020 (arXiv 2009.01325): rewards of about unit size from the start.
        nn.init.normal_(self.regression_head.weight, std=(width + 1) ** -0.5)

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.model.config

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Whether the backbone can recompute its activations."""
        return bool(getattr(self.model, "supports_gradient_checkpointing", False))

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Have the backbone recompute its activations.

        Args:
            gradient_checkpointing_kwargs: see transformers.
        """
        enable: Any = self.model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.regression_head

    def rewards(self, states: torch.Tensor) -> torch.Tensor:
        """Rewards (...) of states (..., H), in float32 or wider: half precision makes ties of rewards that differ."""
        wide = torch.promote_types(states.dtype, torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            # A call of the module, not of its weight: hooks and adapters on the head take part.
            if self.regression_head.weight.dtype == states.dtype == wide:
                return self.regression_head(states).squeeze(-1)
            return nn.functional.linear(states.to(wide), self.regression_head.weight.to(wide)).squeeze(-1)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: torch.Tensor | bool
    ) -> RewardOutput:
        """Rewards of rows.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 for real tokens; None: all are. The four-dimensional structure of a packed row gives states
                only.
            inputs: further inputs of the backbone.
        """
        if "use_cache" not in inputs and "use_cache" in _parameters(self.model):
            inputs["use_cache"] = False
        if "use_cache" not in _parameters(self.model):
            inputs.pop("use_cache", None)
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        if attention_mask is not None and attention_mask.dim() != 2:
            return RewardOutput(None, states)
        if attention_mask is None:
            last = states[:, -1]
        else:
            # The first place where the running sum is largest: the last 1, wherever padding stands.
            last = states[torch.arange(len(states), device=states.device), attention_mask.cumsum(1).argmax(1)]
        return RewardOutput(self.rewards(last)[:, None], states)


def load_reward_model(
    name: str,
    *,
    head: str = "auto",
    dtype: str = "float32",
    quantize: str | None = None,
    trust_remote_code: bool = False,
    require_head: bool = False,
) -> Backbone:
    """Load a backbone or a reward checkpoint in either layout; ``new_heads`` are all modules that belong to the head.

    Args:
        name: hub id or folder: a language model or encoder; a sequence-classification checkpoint with one label; or
            a checkpoint with ``model.`` and ``regression_head.weight``.
        head: "last_token" for the bias-free head on the last real token, "classifier" for transformers' own head of that
            architecture, "auto" for what the checkpoint has, else last_token.
        dtype: dtype of the weights.
        quantize: of :func:`fulgurite.models.load_backbone`.
        trust_remote_code: run model code from the checkpoint's repository.
        require_head: refuse a checkpoint without a trained head: for whoever scores and does not train.

    Raises:
        ValueError: a missing head, one of another width, more labels than one, a head that the checkpoint does not have.
        FileNotFoundError: no such folder or hub id.
    """
    import transformers

    if head not in HEADS:
        raise ValueError(f"load_reward_model: head={head!r}; allowed are {', '.join(map(repr, HEADS))}.")
    layout = read_layout(name, trust_remote_code)
    if require_head and layout.kind == "none":
        raise ValueError(
            f"load_reward_model: {name} holds no reward head (no regression_head.weight and no sequence-classification head); "
            "give a reward model's folder, or the .ckpt file of its training."
        )
    if layout.kind == "regression_head":
        if quantize is not None:
            raise ValueError(
                f"load_reward_model: {name} is a reward model with a regression_head, which is not quantised while it is loaded; "
                "leave quantize out, or give its base model."
            )
        if head == "classifier":
            raise ValueError(
                f"load_reward_model: {name} has a regression_head on its last token, but head='classifier' was asked for; "
                "leave head at 'auto'."
            )
        model = RewardModel(_bare(transformers.AutoModel.from_config(layout.config)).to(getattr(torch, dtype)))
        layout.load_into(model)
        return Backbone(model, ("regression_head",))
    if layout.kind == "sequence_classification" or head == "classifier":
        if layout.labels != 1 and layout.kind == "sequence_classification":
            raise ValueError(
                f"load_reward_model: {name} has a head of {layout.labels} labels; a reward model has one. Give its base instead."
            )
        loaded = load_backbone(name, "regression", dtype=dtype, quantize=quantize, trust_remote_code=trust_remote_code)
        base = getattr(loaded.model, str(loaded.model.base_model_prefix))
        score = getattr(loaded.model, "score", None)
        if layout.kind == "sequence_classification" and loaded.new_heads:
            raise ValueError(
                f"load_reward_model: {name} says that it classifies, but its weights lack {', '.join(loaded.new_heads)}; the "
                "reward head is lost. Give the base model, or save the reward model again."
            )
        if isinstance(score, nn.Linear) and score.bias is None:
            model = RewardModel(base)
            if not loaded.new_heads:
                with torch.no_grad():
                    model.regression_head.weight.copy_(score.weight)
            return Backbone(model, ("regression_head",))
        if head == "last_token":
            raise ValueError(
                f"load_reward_model: {name} has the classification head of {type(loaded.model).__name__}, but "
                "head='last_token' was asked for; leave head at 'auto', or give the base model."
            )
        own = [
            n
            for n, child in loaded.model.named_children()
            if child is not base and any(True for _ in child.parameters())
        ]
        inside = [n for n in loaded.new_heads if n.split(".")[0] not in own]
        return Backbone(loaded.model, (*own, *inside))
    loaded = checkpoint_model(transformers.AutoModel, name, dtype, quantize, trust_remote_code=trust_remote_code)
    model = RewardModel(_bare(loaded.model))
    return Backbone(model, ("regression_head",))


def _bare(model: nn.Module) -> nn.Module:
    """The model without the pooler of BERT's kin, which the last token's state never meets."""
    if (
        getattr(model, "pooler", None) is not None
        and "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    ):
        model.pooler = None  # type: ignore[assignment]
    return model


def _parameters(model: nn.Module) -> Any:
    return inspect.signature(model.forward).parameters
