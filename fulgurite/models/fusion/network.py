"""The network of UltraFuser (arXiv 2403.08281): specialists side by side, and the gate that scores their hidden states.

    s_e = W₂ · relu(W₁ h_e + b₁) + b₂        w = softmax_e(s)

h_e is a specialist's last hidden state (after the final norm), which also goes into its head. One gate scores all specialists,
each from its own state, so that their order means nothing; where hidden sizes differ, each specialist has a gate of its own. The
paper does not say how the gate is initialised; we take torch's default.

A specialist is a whole model, or an adapter on a base that several specialists share and that is held once. Models may lie on
different devices: hidden states and heads are then moved to the device of the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fulgurite.adapters.layers.float32 import Float32Module
from fulgurite.kernels import fused_logits
from fulgurite.models.fusion.decoding import FusedGeneration, decode
from fulgurite.models.fusion.specialists import Specialist
from fulgurite.models.heads import OutputHead, find_decoder, head_options, usable_head

__all__ = ["FusedNetwork", "FusedStates"]


class FusedStates(NamedTuple):
    """Hidden states of each specialist at the chosen positions, (K, H_e), and the gate's scores there, (K, E)."""

    hiddens: list[torch.Tensor]
    scores: torch.Tensor


class _Gates(Float32Module, nn.ModuleList):
    """The gates, which stay float32 when the model is cast."""


def _gate(width: int, hidden: int) -> nn.Module:
    wide = torch.float32
    return nn.Sequential(nn.Linear(width, hidden, dtype=wide), nn.ReLU(), nn.Linear(hidden, 1, dtype=wide))


class FusedNetwork(nn.Module):
    """Specialists and gate.

    Args:
        specialists: models with or without adapters; a model that several share is held once.
        names: of the specialists, for messages.
        gate_hidden: width of the gate's hidden layer.
        blend: what is blended when it generates: "logits", "probs" or "logprobs".

    Attributes:
        gates: one network H -> gate_hidden -> 1 for all specialists, or one for each where their hidden sizes differ.
        chat_templates: of the specialists, where they are known: what generation lays over each one's prompts.

    Raises:
        ValueError: no specialist, or one without an output head.
    """

    def __init__(
        self,
        specialists: Sequence[Specialist],
        names: Sequence[str],
        gate_hidden: int = 512,
        blend: str = "logits",
    ) -> None:
        super().__init__()
        if not specialists or len(names) != len(specialists):
            raise ValueError(
                f"FusedNetwork: {len(specialists)} specialists and {len(names)} names; give at least one specialist, each with "
                "a name"
            )
        unique = list({id(s.model): s.model for s in specialists}.values())
        self.models = nn.ModuleList(unique)
        self.places = [next(i for i, m in enumerate(unique) if m is s.model) for s in specialists]
        self.adapters = [s.adapter for s in specialists]
        self.names, self.blend = list(names), blend
        self.chat_templates: list[str] | None = None
        self.generation_config: Any = None
        widths = [_width(s.model, name) for s, name in zip(specialists, names, strict=True)]
        gates = widths[:1] if len(set(widths)) == 1 else widths
        self.gates = _Gates(_gate(width, gate_hidden) for width in gates)
        self._proved: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    @property
    def config(self) -> Any:
        """The first specialist's configuration."""
        return self.specialist(0).config

    @property
    def device(self) -> torch.device:
        """Where the gate lies, and hidden states and heads meet."""
        return next(self.gates.parameters()).device

    def specialist(self, place: int) -> nn.Module:
        """The model of one specialist; use it within :meth:`only`."""
        return self.models[self.places[place]]

    def only(self, place: int) -> AbstractContextManager[None]:
        """Within the block that specialist's adapter is the only active one."""
        adapter = self.adapters[place]
        return nullcontext() if adapter is None else adapter.only()

    def forward(
        self, input_ids: Sequence[torch.Tensor], attention_mask: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]
    ) -> FusedStates:
        """Hidden states and gate scores at K positions of each specialist that stand for one another.

        Args:
            input_ids: of each specialist in its own template, (B, T_e).
            attention_mask: (B, T_e).
            sources: where in the flattened (B·T_e) states of each specialist the positions stand, (K,).
        """
        states = self.hidden(input_ids, attention_mask)
        chosen = [
            state.flatten(0, 1)[source.to(state.device)].to(self.device)
            for state, source in zip(states, sources, strict=True)
        ]
        return FusedStates(chosen, self.scores(chosen))

    def hidden(self, ids: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Last hidden states of each specialist, (B, T_e, H_e) on its own device, for token ids and masks (B, T_e)."""
        found = []
        for place, (tokens, mask) in enumerate(zip(ids, masks, strict=True)):
            model = self.specialist(place)
            device = next(model.parameters()).device
            inputs: dict[str, Any] = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
            with self.only(place):
                found.append(find_decoder(model)(**inputs, use_cache=False).last_hidden_state)
        return found

    def heads(self) -> list[OutputHead]:
        """The output head of each specialist as it stands now, on the gate's device.

        Raises:
            ValueError: a head that is not a linear layer of the hidden states.
        """
        found = []
        for place, name in enumerate(self.names):
            with self.only(place):
                head = usable_head(self.specialist(place), self._proved)
            if head is None:
                raise ValueError(
                    f"FusedNetwork: the output head of {name!r} ({type(self.specialist(place)).__name__}) is not a linear layer of "
                    "its last hidden states, so that it cannot be blended with others; take another specialist"
                )
            found.append(_moved(head, self.device))
        return found

    def blended_heads(self) -> dict[str, Any]:
        """The heads and how they are blended, as keyword arguments of :func:`fulgurite.kernels.fused_log_probs` and its kin.

        Raises:
            ValueError: a head that is not a linear layer of the hidden states.
        """
        heads = self.heads()
        options = [head_options(head) for head in heads]
        return {
            "weights": [head.weight for head in heads],
            "blend": self.blend,
            "options": options,
            "names": self.names,
        }

    def scores(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """The gate's scores before the softmax, (…, E) in the gate's dtype, of hidden states (…, H_e) on its device."""
        dtype = next(self.gates.parameters()).dtype
        with torch.autocast(self.device.type, enabled=False):
            each = [self.gates[min(e, len(self.gates) - 1)](state.to(dtype)) for e, state in enumerate(states)]
        return torch.cat(each, -1)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Sequence[torch.Tensor] | torch.Tensor,
        attention_mask: Sequence[torch.Tensor] | torch.Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        streamer: Any = None,
    ) -> torch.Tensor | FusedGeneration:
        """Tokens of the blend, each read by every specialist; see :func:`fulgurite.models.fusion.decoding.decode`."""
        heads = self.blended_heads()

        def blended(states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.scores(states)
            return fused_logits(states, gate_scores=scores, **heads), scores.softmax(-1)

        return decode(
            self, blended, input_ids, attention_mask, generation_config, logits_processor, stopping_criteria, streamer
        )


def _moved(head: OutputHead, device: torch.device) -> OutputHead:
    """The head's tensors on a device; those that lie there are not copied."""
    lora = head.lora
    if lora is not None:
        gate = None if lora.gate is None else lora.gate.to(device)
        lora = lora._replace(lora_a=lora.lora_a.to(device), gate=gate, lora_b=lora.lora_b.to(device))
    bias = None if head.bias is None else head.bias.to(device)
    return head._replace(weight=head.weight.to(device), bias=bias, lora=lora)


def _width(model: nn.Module, name: str) -> int:
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    if embeddings is None or getattr(embeddings, "weight", None) is None:
        raise ValueError(
            f"FusedNetwork: {name!r} ({type(model).__name__}) has no output head; give language models as specialists"
        )
    if getattr(cast(Any, model).config, "is_encoder_decoder", False):
        raise ValueError(f"FusedNetwork: {name!r} is an encoder-decoder; give causal language models as specialists")
    return int(embeddings.weight.shape[1])
