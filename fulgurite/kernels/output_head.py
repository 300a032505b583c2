"""An output head as plain tensors: the one form in which heads travel from a model to the kernels.

    logits = cap(logit_scale · (h Wᵀ + bias + scaling · ((h Aᵀ) ⊙ g) Bᵀ)),   cap(z) = softcap · tanh(z / softcap)

A, g and B are a low-rank branch on the head. The public functions take these tensors as arguments of their own and put them
together here. The tiles see :class:`fulgurite.kernels.log_probs.products.Head`, in which the branch is already multiplied out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

__all__ = ["OPTIONS", "HeadBranch", "OutputHead", "cut_head", "head_from", "options_of"]

OPTIONS = ("bias", "logit_scale", "softcap", "lora_a", "gate", "lora_b", "scaling")  # of a head, beside its weight


class HeadBranch(NamedTuple):
    """The active low-rank branch of an adapted head: A (r, H), gate (r,) or None, B (V, r), its scale and dropout."""

    lora_a: torch.Tensor
    gate: torch.Tensor | None
    lora_b: torch.Tensor
    scaling: float
    dropout: float = 0.0


class OutputHead(NamedTuple):
    """What turns hidden states (…, H) into logits (…, V).

    Attributes:
        weight: (V, H).
        bias: (V,) or None; added before scaling.
        logit_scale: factor of the logits.
        softcap: cap of the scaled logits, or None.
        lora: branch beside the weight, or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None
    lora: HeadBranch | None = None


def head_from(
    function: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    lora_a: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    lora_b: torch.Tensor | None = None,
    scaling: float = 1.0,
) -> OutputHead:
    """The head that a public function was given as single arguments; ``function`` names it in the message.

    Raises:
        ValueError: a branch without one of its factors, or a gate without a branch.
    """
    if lora_a is None and lora_b is None and gate is None:
        return OutputHead(weight, bias, float(logit_scale), softcap)
    if lora_a is None or lora_b is None:
        raise ValueError(
            f"{function}: a low-rank branch is lora_a and lora_b together, with or without a gate; one is missing."
        )
    return OutputHead(weight, bias, float(logit_scale), softcap, HeadBranch(lora_a, gate, lora_b, scaling))


def options_of(head: OutputHead) -> dict[str, Any]:
    """The head as keyword arguments of the public functions, without its weight."""
    options: dict[str, Any] = {"bias": head.bias, "logit_scale": head.logit_scale, "softcap": head.softcap}
    if head.lora is not None:
        lora = head.lora
        options |= {"lora_a": lora.lora_a, "gate": lora.gate, "lora_b": lora.lora_b, "scaling": lora.scaling}
    return options


def cut_head(head: OutputHead, vocabulary: int) -> OutputHead:
    """The first ``vocabulary`` rows of a head; the head itself where it has no more."""
    if head.weight.shape[0] <= vocabulary:
        return head
    bias = None if head.bias is None else head.bias[:vocabulary]
    lora = None if head.lora is None else head.lora._replace(lora_b=head.lora.lora_b[:vocabulary])
    return head._replace(weight=head.weight[:vocabulary], bias=bias, lora=lora)
