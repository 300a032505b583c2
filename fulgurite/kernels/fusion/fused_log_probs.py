"""Log-probabilities of tokens under several specialists that a gate blends, without ever holding tokens × vocabulary.

With w_t = softmax(gate scores of token t) over the E specialists and l_e their logits, as one output head each makes them:

    logits      log p_t = log softmax(Σ_e w_te l_te)[target_t]              UltraFuser (arXiv 2403.08281)
    probs       log p_t = log Σ_e w_te softmax(l_te)[target_t]              a mixture; no specialist's scale of logits matters
    logprobs    Σ_e w_te log softmax(l_te)[target_t]                        the specialists' losses, weighted

`logprobs` is not normalised over the vocabulary on purpose: normalised, the specialists' own normalisers cancel and it is
`logits` itself. As a loss it is an upper bound of both others'.

Training the gate alone takes no backward product with any head: ∂/∂w_te of `logits` is l_te(y) − E_p[l_te], which comes
with the statistics of the forward; of the others it needs each specialist's log-probability alone. Where the specialists
share one head (adapters over one base), Σ_e w_e (W h_e + b) = W (Σ_e w_e h_e) + b is one product instead of E.

The work is done by :mod:`fulgurite.kernels.fusion.blocks`, by linear_log_probs, or by Triton (see
:mod:`fulgurite.kernels.backend`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fulgurite.kernels.fusion.autograd import FusedLogProbs
from fulgurite.kernels.log_probs.linear import linear_log_probs, prepare
from fulgurite.kernels.output_head import OPTIONS, OutputHead, cut_head, head_from, options_of

__all__ = ["BLENDS", "Given", "fused_log_probs", "prepared"]

BLENDS = ("logits", "probs", "logprobs")

HeadOptions = Mapping[str, Any]


def fused_log_probs(
    hiddens: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | torch.Tensor,
    gate_scores: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int = -100,
    blend: str = "logits",
    *,
    options: Sequence[HeadOptions] | HeadOptions | None = None,
    names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Log-probability of each target under the blend, differentiable in hidden states, heads and gate scores.

    Args:
        hiddens: hidden states of the E specialists, each (…, H_e), any strides; their positions correspond.
        weights: the heads' weights, each (V_e, H_e), or one tensor for all. Vocabularies of unequal size are cut to the rows
            that all have.
        gate_scores: (…, E), before the softmax; −inf shuts a specialist out.
        targets: (…), int64, in the shared vocabulary or ``ignore_index``; nothing is shifted here.
        ignore_index: target of the tokens that are left out.
        blend: "logits", "probs" or "logprobs"; see the module.
        options: what else each head has (bias, without infinities, logit_scale, softcap, lora_a, gate, lora_b, scaling, as
            linear_log_probs takes them); one mapping holds for all.
        names: of the specialists, for error messages.

    Returns:
        (…), in the targets' shape: log-probabilities in nats, exactly 0 where ignored; float32, or float64 for float64 inputs.

    Dtypes: as in linear_log_probs; all specialists have one. The gate's weights and all statistics are float32 at the least.
    Each gradient comes back in its own tensor's dtype, and only where it is required.

    Memory: a tile of logits and, with frozen heads, ∂/∂hiddens where they are wanted. With trained heads the backward computes
    the logits again. On a GPU, one look at the inputs is the one synchronisation of `logits`; the others have one more for
    each specialist. There is no second derivative.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a target outside the shared vocabulary, a specialist with hidden
            states or (on the CPU) logits that are not finite: named.
        RuntimeError: ``use_backend("triton")`` where Triton cannot compute it.
    """
    given = prepared("fused_log_probs", hiddens, weights, gate_scores, targets, ignore_index, blend, options, names)
    if blend != "logits":
        found = _by_specialist(given, ignore_index, blend)
    elif given.shared:
        found = _by_one_head(given, ignore_index)
    else:
        found = _by_logits(given, ignore_index)
    if found.device.type == "cpu" and bool(found.detach().isnan().any()):
        _name_the_broken(given, ignore_index)
    return found


class Given(NamedTuple):
    """The inputs after all checks.

    Attributes:
        hiddens: as given.
        heads: one for each specialist, cut to the shared vocabulary.
        gate_scores: float32 at the least, 0 where ignored.
        targets: as given.
        shared: whether one plain head serves all specialists.
        supervised: indices of the supervised tokens in the flat order; None for all.
        names: of the specialists.
    """

    hiddens: tuple[torch.Tensor, ...]
    heads: tuple[OutputHead, ...]
    gate_scores: torch.Tensor
    targets: torch.Tensor
    shared: bool
    supervised: torch.Tensor | None
    names: tuple[str, ...]


def prepared(
    function: str,
    hiddens: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | torch.Tensor,
    gate_scores: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    blend: str,
    options: Sequence[HeadOptions] | HeadOptions | None,
    names: Sequence[str] | None,
) -> Given:
    """What all functions of this family do first; raises what :func:`fused_log_probs` says."""
    number = len(hiddens)
    one = isinstance(weights, torch.Tensor)
    given = (weights,) * number if isinstance(weights, torch.Tensor) else tuple(weights)
    called = tuple(names) if names is not None else tuple(f"specialist {i}" for i in range(number))
    more: tuple[HeadOptions, ...]
    more = (
        ({},) * number if options is None else (options,) * number if isinstance(options, Mapping) else tuple(options)
    )
    if not number or len(given) != number or len(more) != number or len(called) != number:
        raise ValueError(
            f"{function}: {number} hidden states, {len(given)} weights, {len(more)} options and {len(called)} names; "
            "every specialist needs hidden states, a weight, options and a name, and there must be at least one specialist."
        )
    if blend not in BLENDS:
        raise ValueError(f"{function}: blend={blend!r}; allowed are {', '.join(map(repr, BLENDS))}.")
    for name, each in zip(called, more, strict=True):
        if unknown := [key for key in each if key not in OPTIONS]:
            raise ValueError(
                f"{function}: {name}'s head has the option {unknown[0]!r}; allowed are {', '.join(OPTIONS)}."
            )
    want = (*targets.shape, number)
    if tuple(gate_scores.shape) != want or not gate_scores.dtype.is_floating_point:
        raise ValueError(
            f"{function}: gate_scores are {tuple(gate_scores.shape)} {gate_scores.dtype}; want {want}, floating point: one "
            "score for each specialist at each target."
        )
    elsewhere = [
        f"{name} on {hidden.device}"
        for name, hidden in zip(called, hiddens, strict=True)
        if hidden.device != targets.device
    ]
    if elsewhere or gate_scores.device != targets.device:
        raise ValueError(
            f"{function}: targets are on {targets.device}, gate_scores on {gate_scores.device}"
            f"{''.join(f', {place}' for place in elsewhere)}; move them to one device."
        )
    dtypes = {hidden.dtype for hidden in hiddens}
    if len(dtypes) > 1 and not torch.is_autocast_enabled(targets.device.type):
        raise ValueError(
            f"{function}: hidden states are {', '.join(sorted(map(str, dtypes)))}; want one dtype for all specialists, or "
            "torch.autocast."
        )
    heads = tuple(
        head_from(f"{function}, {name}", weight, **each) for name, weight, each in zip(called, given, more, strict=True)
    )
    vocabulary = min(head.weight.shape[0] for head in heads)
    first = heads[0]
    shared = all(
        head.weight is first.weight
        and head.bias is first.bias
        and head.logit_scale == first.logit_scale
        and head.softcap is None
        and head.lora is None
        for head in heads
    )
    sizes = (
        ""
        if one or len({head.weight.shape[0] for head in heads}) == 1
        else ", the rows that all specialists' heads have"
    )
    index = _supervised(function, hiddens, gate_scores, targets, ignore_index, vocabulary, sizes, called)
    wide = torch.promote_types(hiddens[0].dtype, torch.float32)
    scores = gate_scores.to(wide).masked_fill((targets == ignore_index).unsqueeze(-1), 0)
    cut = tuple(cut_head(head, vocabulary) for head in heads)
    return Given(tuple(hiddens), cut, scores, targets, shared, index, called)


def _supervised(  # type: ignore[no-untyped-def]
    function, hiddens, gate_scores, targets, ignore_index, vocabulary, sizes, names
) -> torch.Tensor | None:
    """Indices of the supervised tokens, or None for all; counting and every check of values are one synchronisation."""
    flat = targets.flatten()
    kept = flat != ignore_index
    outside = kept & ((flat < 0) | (flat >= vocabulary))
    counts = [
        kept.sum(),
        outside.sum(),
        (kept & gate_scores.detach().reshape(-1, gate_scores.shape[-1]).isnan().any(-1)).sum(),
    ]
    for hidden in hiddens:
        # A sum is finite where its terms are, and takes no second copy of them.
        total = (
            hidden.detach()
            .reshape(-1, hidden.shape[-1])
            .sum(-1, dtype=torch.promote_types(hidden.dtype, torch.float32))
        )
        counts.append((kept & ~total.isfinite()).sum() if total.shape == kept.shape else kept.new_zeros(()).sum())
    count, wrong, no_score, *broken = torch.stack(counts).tolist()
    if wrong:
        raise ValueError(
            f"{function}: target {int(flat[outside][0])} ({wrong} such in all); allowed are 0 to {vocabulary - 1}{sizes} and "
            f"ignore_index={ignore_index}. Does the tokenizer belong to these heads?"
        )
    for name, number in zip(names, broken, strict=True):
        if number:
            raise ValueError(
                f"{function}: the hidden states of {name} are not finite at {number} of {count} supervised tokens; look at "
                "that model alone, in float32 or bfloat16."
            )
    if no_score:
        raise ValueError(
            f"{function}: gate_scores are NaN at {no_score} of {count} supervised tokens; look at the gate's weights and its "
            "learning rate."
        )
    if count == flat.shape[0]:
        return None
    # Not nonzero: it would synchronise once more.
    return torch.sort((~kept).to(torch.uint8), stable=True).indices[:count]


def _name_the_broken(given: Given, ignore_index: int) -> None:
    """Raises for the first specialist whose own log-probabilities are NaN."""
    with torch.no_grad():
        for hidden, head, name in zip(given.hiddens, given.heads, given.names, strict=True):
            own = _log_probs(hidden, head, given.targets, ignore_index)
            if number := int(own.isnan().sum()):
                raise ValueError(
                    f"fused_log_probs: the logits of {name} are not finite at {number} tokens though its hidden states are; look "
                    "at that model's output head."
                )


def _by_specialist(given: Given, ignore_index: int, blend: str) -> torch.Tensor:
    """`probs` and `logprobs`: of each specialist no more than its own log-probabilities of the targets."""
    each = [
        _log_probs(hidden, head, given.targets, ignore_index)
        for hidden, head in zip(given.hiddens, given.heads, strict=True)
    ]
    own = torch.stack(each, -1)
    if blend == "probs":
        mixed = torch.logsumexp(given.gate_scores.log_softmax(-1) + own, -1)
    else:
        # 0 · −inf is a token that a specialist without a say holds for impossible.
        shares = given.gate_scores.softmax(-1)
        mixed = (shares * own.masked_fill(shares == 0, 0)).sum(-1)
    return mixed.masked_fill(given.targets == ignore_index, 0)


def _by_one_head(given: Given, ignore_index: int) -> torch.Tensor:
    """`logits` under one head: the hidden states are blended, and the gate's gradient is ⟨∂/∂(blended), h_e⟩."""
    ignored = (given.targets == ignore_index).unsqueeze(-1)
    shares = given.gate_scores.softmax(-1)
    with torch.autocast(given.targets.device.type, enabled=False):
        # Padding may hold NaN, which times a zero gradient would be NaN in the gate's.
        parts = (
            shares[..., i : i + 1] * (hidden if given.supervised is None else hidden.masked_fill(ignored, 0))
            for i, hidden in enumerate(given.hiddens)
        )
        blended = sum(parts, start=shares.new_zeros(()))
    return _log_probs(blended.to(given.hiddens[0].dtype), given.heads[0], given.targets, ignore_index)


def _by_logits(given: Given, ignore_index: int) -> torch.Tensor:
    """`logits` under heads of their own."""
    settings, needs = [], []
    tensors: list[torch.Tensor | None] = []
    for name, hidden, head in zip(given.names, given.hiddens, given.heads, strict=True):
        inputs, setting, need = prepare(f"fused_log_probs, {name}", hidden, head, given.targets, ignore_index)
        settings.append(setting)
        needs.append(need)
        tensors += inputs[:5]
    shares, flat = given.gate_scores.softmax(-1).reshape(-1, len(needs)), given.targets.flatten()
    with torch.autocast(flat.device.type, enabled=False):
        found: torch.Tensor = FusedLogProbs.apply(shares, flat, given.supervised, settings, needs, *tensors)
    return found.reshape(given.targets.shape)


def _log_probs(hidden: torch.Tensor, head: OutputHead, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """One head's own log-probabilities of the targets, in their shape."""
    return linear_log_probs(hidden, head.weight, targets, ignore_index=ignore_index, **options_of(head))
