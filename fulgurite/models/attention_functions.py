"""Attention of packed rows: causal, and no segment sees another.

    out_i = Σ_j p_ij v_j,   p_i = softmax_j (cap(s · q_i·k_j) + slope_h · (j − i)),   j ≤ i, i − j < window, same segment

with the parts that an architecture has: scale s, Gemma 2's cap, a sliding window, BLOOM's slopes (ALiBi). Distances are
taken inside the segment, so they are exact however far into the pack it lies.

The structure travels as the model's `attention_mask`: a (1, 1, 1, S + 1) int32 tensor of the segments' boundaries. It is
the one argument that every architecture hands to its attention (BLOOM and older models drop keywords that they do not
know), masks of four dimensions pass through transformers as they are, so that no T × T mask is built, and activation
checkpointing keeps it. Batches whose mask is anything else get the attention that the model had before.

On the CPU the loop over segments costs Σ tᵢ². On CUDA flash-attn's varlen kernel or compiled flex attention take over, each
only after its first result agreed with the loop's. A tree of segments fits in here: then a segment's keys are those of the
segments on its path before its own, and the mask is aligned to the lower right.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PREFIX", "Rule", "Segments", "attend", "packed_structure", "register"]

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


class Segments:
    """The segments of one packed row.

    Args:
        boundaries: (S + 1,) int32 from 0 to T, ascending.

    Attributes:
        lengths: tokens of each segment; no zeros.
        windows: if a list, every layer notes its sliding window there (for proofs).
    """

    def __init__(self, boundaries: torch.Tensor) -> None:
        self.boundaries = boundaries.to(torch.int32)
        # On a GPU the one synchronisation of a forward.
        self.lengths = [length for length in boundaries.diff().tolist() if length]
        self.windows: list[int | None] | None = None
        self._masks: dict[int | None, Any] = {}

    def carrier(self) -> torch.Tensor:
        """The `attention_mask` that stands for this structure."""
        mask = self.boundaries.view(1, 1, 1, -1)
        # Spares each layer the way back from the tensor; where a wrapper copies the tensor it is read again.
        mask._fulgurite_segments = self  # type: ignore[attr-defined]
        return mask

    def block_mask(self, window: int | None) -> Any:
        """Flex attention's mask, made once per window."""
        if window not in self._masks:
            from torch.nn.attention.flex_attention import create_block_mask

            tokens, device = int(sum(self.lengths)), self.boundaries.device
            index = torch.arange(tokens, device=device, dtype=torch.int32)
            owner = torch.searchsorted(self.boundaries, index, right=True)

            def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
                same = (owner[query] == owner[key]) & (query >= key)
                return same if window is None else same & (query - key < window)

            make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
            self._masks[window] = make(sees, None, None, tokens, tokens, device=device)
        return self._masks[window]


def packed_structure(attention_mask: Any) -> Segments | None:
    """The structure that an attention mask carries, or None if it is an ordinary mask."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dtype != torch.int32:
        return None
    if attention_mask.dim() != 4 or attention_mask.shape[:3] != (1, 1, 1):
        return None
    known = getattr(attention_mask, "_fulgurite_segments", None)
    return known if known is not None else Segments(attention_mask.flatten())


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
    """Attention within segments.

    Args:
        query: (1, H, T, D).
        key: (1, G, T, D), H a multiple of G.
        value: (1, G, T, D').
        segments: of T tokens together.
        rule: how to attend.

    Returns:
        (1, T, H, D').
    """
    if query.shape[0] != 1 or query.shape[2] != key.shape[2] or query.shape[2] != sum(segments.lengths):
        raise ValueError(
            f"attend: queries {tuple(query.shape)} and keys {tuple(key.shape)} for {sum(segments.lengths)} packed tokens; "
            "a packed batch is a single row, goes through the model without a cache, and its boundaries end where it ends"
        )
    if query.device.type == "cuda":
        fast = _fast_way(query, key, rule)
        if fast is not None and _agrees(fast, query, key, value, segments, rule):
            return fast(query, key, value, segments, rule)
    return _by_segment(query, key, value, segments, rule)


def _by_segment(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule
) -> torch.Tensor:
    # split, not slices: its backward is one concatenation, that of a slice a tensor of zeros as long as the pack.
    parts = zip(*(tensor.split(segments.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([_one_segment(q, k, v, rule).transpose(1, 2) for q, k, v in parts], dim=1)


def _one_segment(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule) -> torch.Tensor:
    """(1, H, t, D), (1, G, t, D), (1, G, t, D') -> (1, H, t, D')."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    window = rule.window if rule.window is not None and length > rule.window else None
    mask = None
    if window is not None or rule.slopes is not None or rule.softcap is not None:
        index = torch.arange(length, device=query.device)
        distance = index[:, None] - index
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
    from torch.nn.attention.flex_attention import flex_attention

    softcap = rule.softcap

    def cap(score: torch.Tensor, batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    function = _compiled(flex_attention) if query.device.type == "cuda" else flex_attention
    out = function(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap,
        block_mask=segments.block_mask(rule.window),
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


def _fast_way(query: torch.Tensor, key: torch.Tensor, rule: Rule) -> Any:
    if rule.slopes is not None:
        return None
    if query.dtype in _HALF and query.shape[-1] <= 256 and _flash_installed():
        return _flash
    return _flex if rule.dropout == 0 else None  # flex attention has no dropout


def _agrees(
    fast: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, rule: Rule
) -> bool:
    """Whether the fast way gave what the loop gives when it was first used in this setting (relative 0.03; in float32 0.005)."""
    form = (query.shape[1], key.shape[1], query.shape[3], value.shape[3], rule.window, rule.softcap)
    setting = (fast.__name__, query.device, query.dtype, *form)
    if setting not in _agreed:
        plain = rule._replace(dropout=0.0)
        try:
            with torch.no_grad():
                wanted = _by_segment(query, key, value, segments, plain).float()
                found = fast(query, key, value, segments, plain).float()
            error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
            _agreed[setting] = error <= (0.03 if query.dtype in _HALF else 0.005)
            reason = f"its first result was off by {error:.2g}"
        except Exception as failure:
            _agreed[setting], reason = False, f"{type(failure).__name__}: {failure}"
        if not _agreed[setting]:
            _log.warning("packed attention: %s is not used, a loop over segments is: %s", fast.__name__[1:], reason)
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
