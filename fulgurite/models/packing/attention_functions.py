"""Attention of packed rows: causal, and a segment sees no other segment except, in a tree, its ancestors.

    out_i = Σ_j p_ij v_j,   p_i = softmax_j (cap(s · q_i·k_j) − slope_h · distance(i, j)),   over the j that i sees

with the parts that an architecture has: scale s, Gemma 2's cap, a sliding window, BLOOM's slopes (ALiBi). Which token sees which
other, and at what distance, is defined in :mod:`fulgurite.models.packing.segments`. Distances are counted inside the segment or
along the path of a tree, so they are exact no matter how far into the pack a segment lies.

The structure travels as the model's `attention_mask`, a small int32 tensor of four dimensions. It is the one argument that
every architecture hands to its attention (BLOOM and older models drop keywords that they do not know), masks of four
dimensions pass through transformers as they are, so that no T × T mask is built, and activation checkpointing keeps it.
Batches whose mask is anything else get the attention that the model had before.

On the CPU the loop over chains costs Σ tᵢ² of packed rows; trees go without masks where the layer has neither cap, slopes
nor a window that any path exceeds (:mod:`fulgurite.models.packing.tree_attention`). On CUDA flash-attn's varlen kernel (which knows
no trees) or compiled flex attention take over, each only after its first result agreed with the loop's.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.models.packing.segments import Segments, packed_structure
from fulgurite.models.packing.tree_attention import applicable, attend_tree

__all__ = ["PREFIX", "Rule", "attend", "register"]

PREFIX = "fulgurite_"
_BASES = ("sdpa", "eager")
_HALF = (torch.bfloat16, torch.float16)
_log = logging.getLogger(__name__)
_agreed: dict[tuple[Any, ...], bool] = {}


class Rule(NamedTuple):
    """How a layer attends: scale of the scores, window in tokens, cap, dropout probability, slopes (H,) of ALiBi."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    slopes: torch.Tensor | None = None


def register() -> None:
    """Make "fulgurite_sdpa" and "fulgurite_eager" known to transformers, with masks for batches that are not packed."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    functions = {"sdpa": _sdpa, "eager": _eager}
    for base in _BASES:
        ALL_ATTENTION_FUNCTIONS.register(PREFIX + base, functions[base])
    try:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    except ImportError:  # before 4.53 models make their masks themselves
        return
    for base in _BASES:
        ALL_MASK_ATTENTION_FUNCTIONS.register(PREFIX + base, ALL_MASK_ATTENTION_FUNCTIONS[base])


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule) -> torch.Tensor:
    """Attention within segments, or along the paths of a tree.

    Args:
        query: (1, H, T, D).
        key: (1, G, T, D), H a multiple of G.
        value: (1, G, T, D').
        segments: of T tokens together.
        rule: how to attend.

    Returns:
        (1, T, H, D').
    """
    if query.shape[0] != 1 or query.shape[2] != key.shape[2] or query.shape[2] != segments.tokens:
        raise ValueError(
            f"attend: queries {tuple(query.shape)} and keys {tuple(key.shape)} for {segments.tokens} packed tokens; "
            "a packed batch is a single row, goes through the model without a cache, and its boundaries end where it ends"
        )
    if segments.order is None or segments.inverse is None:
        return _in_preorder(query, key, value, segments, rule)
    query, key, value = (tensor.index_select(2, segments.order) for tensor in (query, key, value))
    return _in_preorder(query, key, value, segments, rule).index_select(1, segments.inverse)


def _in_preorder(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule
) -> torch.Tensor:
    query, key, value = map(_autocast, (query, key, value))
    if query.device.type == "cuda":
        fast = _fast_way(query, key, rule, segments)
        if fast is not None and _agrees(fast, query, key, value, segments, rule):
            return fast(query, key, value, segments, rule)
    elif segments.parents is not None and _unmasked(segments, rule) and applicable(query, key, value):
        return attend_tree(query, key, value, segments, rule.scaling)
    return _by_chain(query, key, value, segments, rule)


def _by_chain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule
) -> torch.Tensor:
    # split, not slices: its backward is one concatenation, that of a slice a tensor of zeros as long as the pack.
    queries, keys, values = (tensor.split(segments.lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for start, stop, path in segments.chains:
        seen = [own for a, b in path for own in range(a, b)]
        if rule.window is not None:  # the chain's first token looks farthest back
            reach = segments.depths[start] - rule.window + 1
            seen = [own for own in seen if segments.depths[own] + segments.lengths[own] > reach]
        seen += range(start, stop)
        parts = _joined(queries[start:stop]), _joined([keys[i] for i in seen]), _joined([values[i] for i in seen])
        outputs.append(_one_chain(*parts, rule).transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _unmasked(segments: Segments, rule: Rule) -> bool:
    reach = rule.window is None or rule.window >= segments.longest_path
    return reach and rule.dropout == 0 and rule.slopes is None and rule.softcap is None


def _autocast(tensor: torch.Tensor) -> torch.Tensor:
    """What autocast makes of an argument of scaled_dot_product_attention; rotary embeddings leave q and k in float32."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)


def _one_chain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule) -> torch.Tensor:
    """(1, H, t, D), (1, G, u, D), (1, G, u, D') -> (1, H, t, D'); the last t of the u ≥ t keys are the queries' own."""
    length, seen, groups = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    window = rule.window if rule.window is not None and seen > rule.window else None
    mask = None
    if seen > length or window is not None or rule.slopes is not None or rule.softcap is not None:
        index = torch.arange(seen, device=query.device)
        distance = index[seen - length :, None] - index
        mask = distance >= 0
        if window is not None:
            mask &= distance < window
        if rule.slopes is not None:
            bias = -rule.slopes.to(query.device)[:, None, None] * distance
            mask = bias.masked_fill(~mask, float("-inf")).to(query.dtype)[None]
    if rule.softcap is None:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=rule.dropout,
            is_causal=mask is None,
            scale=rule.scaling,
            enable_gqa=groups > 1,
        )
    assert mask is not None
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = rule.softcap * torch.tanh(query @ key.transpose(2, 3) * rule.scaling / rule.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return F.dropout(weights, rule.dropout) @ value


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    longest, window = max(segments.lengths), rule.window
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = flash_attn_varlen_func(
        q,
        k,
        v,
        segments.boundaries,
        segments.boundaries,
        longest,
        longest,
        dropout_p=rule.dropout,
        softmax_scale=rule.scaling,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=rule.softcap or 0.0,
    )
    return out[None]


def _flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    softcap = rule.softcap

    def cap(score: torch.Tensor, batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    function, make = flex_attention, create_block_mask
    if query.device.type == "cuda":
        function, make = _compiled(flex_attention), _compiled(create_block_mask)
    out = function(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap,
        block_mask=segments.block_mask(rule.window, make),
        scale=rule.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function)


@cache
def _flash_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("flash_attn") is not None


def _fast_way(query: torch.Tensor, key: torch.Tensor, rule: Rule, segments: Segments) -> Any:
    if rule.slopes is not None:
        return None
    if segments.parents is None and query.dtype in _HALF and query.shape[-1] <= 256 and _flash_installed():
        return _flash
    return _flex if rule.dropout == 0 else None  # flex attention has no dropout


def _agrees(
    fast: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule
) -> bool:
    """Whether the fast way gave what the loop gives when it was first used in this setting (relative 0.03; in float32 0.005)."""
    form = (
        query.shape[1],
        key.shape[1],
        query.shape[3],
        value.shape[3],
        rule.window,
        rule.softcap,
        segments.parents is None,
    )
    setting = (fast.__name__, query.device, query.dtype, *form)
    if setting not in _agreed:
        plain = rule._replace(dropout=0.0)
        try:
            with torch.no_grad():
                wanted = _by_chain(query, key, value, segments, plain).float()
                found = fast(query, key, value, segments, plain).float()
            error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
            _agreed[setting] = error <= (0.03 if query.dtype in _HALF else 0.005)
            reason = f"its first result was off by {error:.2g}"
        except Exception as failure:
            _agreed[setting], reason = False, f"{type(failure).__name__}: {failure}"
        if not _agreed[setting]:
            _log.warning("packed attention: %s is not used, a loop over chains is: %s", fast.__name__[1:], reason)
    return _agreed[setting]


def _sdpa(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    segments = packed_structure(attention_mask)
    if segments is not None:
        return _packed(module, query, key, value, segments, options)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)


def _eager(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    segments = packed_structure(attention_mask)
    if segments is not None:
        return _packed(module, query, key, value, segments, options)
    # Each modelling file has its own, which transformers does not register.
    return sys.modules[type(module).__module__].eager_attention_forward(
        module, query, key, value, attention_mask, **options
    )


def _packed(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    options: dict[str, Any],
) -> tuple[torch.Tensor, None]:
    name = type(module).__name__
    # Not the option of that name: GPT-2 turns it off whenever there is a mask.
    if not getattr(module, "is_causal", True):
        raise ValueError(f"packed attention: {name} attends in both directions; set packing to false.")
    for extra in ("s_aux", "position_bias"):
        if options.get(extra) is not None:
            raise ValueError(f"packed attention: {name} uses {extra}, which packed rows do not; set packing to false.")
    scaling, window = options.get("scaling"), options.get("sliding_window") or None
    if segments.windows is not None:
        segments.windows.append(window)
    rule = Rule(
        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window,
        options.get("softcap"),
        float(options.get("dropout", 0.0)),
    )
    return attend(query, key, value, segments, rule), None
