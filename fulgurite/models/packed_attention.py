"""Packing for transformers' causal language models: which can do it, how they are set up, and the proof.

Architectures of the table were tested: log-probabilities and gradients of a packed row equal those of its segments alone.
All the same each model is proved before it is used, because a wrong mask gives wrong numbers without an error and versions
of transformers differ: two short segments, without gradient, and each layer has to show that its sliding window, which two
short segments cannot reach, arrives at the attention. The table is trusted only where the model cannot run where it is
(on the meta device, or quantised for a GPU). What fails is refused by name.

Rotary embeddings that stretch with the longest row of a batch ("dynamic", "longrope") look at the longest segment, as they
look at the longest row of a padded batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fulgurite.models.attention_functions import PREFIX, Segments, register
from fulgurite.models.heads import evaluating, rounding

__all__ = ["PACKABLE", "disable_packing", "enable_packing", "packed_inputs", "prove_packing"]

PACKABLE = (
    "bloom",
    "cohere",
    "gemma2",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "phi3",
    "qwen2",
    "qwen3",
)
_PROOF_LENGTHS = (5, 7)
_WAY_OUT = "set packing to false"


def enable_packing(model: nn.Module) -> None:
    """Make a model understand packed batches; ordinary batches, padding and generation go on as before. May be repeated.

    Parameters, keys and saved configurations stay as they are; adapters may be attached before or after.

    Args:
        model: a transformers model with a causal language-modelling head, attention "sdpa" or "eager" (flash attention
            understands packed batches by itself).

    Raises:
        ValueError: the architecture cannot do it; the model is then as it was.
    """
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    if config is None or getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise ValueError(f"enable_packing: {name} has no language-modelling head; {_WAY_OUT}.")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"enable_packing: {name} is an encoder-decoder, whose rows cannot be packed; {_WAY_OUT}.")
    if _both_directions(config):
        raise ValueError(f"enable_packing: {name} attends in both directions; {_WAY_OUT}.")
    attention = config._attn_implementation
    if attention.startswith(PREFIX):
        return
    if not _flash(config) and attention not in ("sdpa", "eager"):
        raise ValueError(
            f"enable_packing: {name} runs with attention {attention!r}; allowed are 'sdpa', 'eager' and flash attention. "
            f"Load it with attn_implementation='sdpa', or {_WAY_OUT}."
        )
    configs = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "get_input_embeddings")
    }
    if len(configs) > 1:
        raise ValueError(
            f"enable_packing: {name} is made of {len(configs)} models; only text models can be packed; {_WAY_OUT}."
        )
    if not _flash(config):
        register()
        # Before 5.0 transformers' sdpa leaves Gemma 2's cap of the scores out without a word.
        capped = getattr(config, "attn_logit_softcapping", None) is not None
        config._attn_implementation = PREFIX + ("eager" if capped else attention)
        if config.model_type == "bloom":
            from fulgurite.models.packed_bloom import swap_bloom

            swap_bloom(model)
    try:
        prove_packing(model)
    except ValueError:
        disable_packing(model)
        raise


def disable_packing(model: nn.Module) -> None:
    """Undo :func:`enable_packing`.

    Args:
        model: with packing or without.
    """
    config: Any = model.config
    if config._attn_implementation.startswith(PREFIX):
        config._attn_implementation = config._attn_implementation.removeprefix(PREFIX)
        if config.model_type == "bloom":
            from fulgurite.models.packed_bloom import unswap_bloom

            unswap_bloom(model)


def packed_inputs(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The keyword arguments with which a model, or its decoder, sees a packed batch.

    Args:
        model: after :func:`enable_packing`.
        batch: of `PackedCollator`: input_ids and position_ids (1, T), cu_seq_lens (S + 1,) from 0 to T.
    """
    config: Any = model.config
    if not config._attn_implementation.startswith(PREFIX) and not _flash(config):
        raise ValueError(
            f"packed_inputs: {type(model).__name__} was not set up for packed batches; call enable_packing first."
        )
    missing = [key for key in ("input_ids", "position_ids", "cu_seq_lens") if key not in batch]
    if missing:
        raise ValueError(f"packed_inputs: the batch has no {', '.join(missing)}; make it with PackedCollator.")
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if config.model_type != "bloom":  # knows no positions but ALiBi's, and warns
        inputs["position_ids"] = batch["position_ids"]
    if not _flash(config):
        return inputs | {"attention_mask": Segments(batch["cu_seq_lens"]).carrier()}
    boundaries = batch["cu_seq_lens"].to(torch.int32)
    longest = int(boundaries.diff().max())
    return inputs | {
        "attention_mask": None,
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def prove_packing(model: nn.Module) -> None:
    """Compare two short segments packed with the same two alone, without gradient; also check that windows arrive.

    The logits may differ by 1e-4 of the largest one, in half precision by eight roundings (bfloat16: 0.06); autocast is
    off. The modules' modes and the random state are left as they were.

    Args:
        model: after :func:`enable_packing`.

    Raises:
        ValueError: they differ, or the model has layers of which two short segments prove nothing.
    """
    name = type(model).__name__
    config: Any = model.config
    windows = _expected_windows(name, config)
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    if device.type == "meta" and config.model_type in PACKABLE:
        return
    vocabulary = config.get_text_config().vocab_size
    rows = [torch.randint(vocabulary, (1, length), generator=generator).to(device) for length in _PROOF_LENGTHS]
    ends = torch.tensor([0, *_PROOF_LENGTHS], device=device).cumsum(0)
    positions = torch.cat([torch.arange(length, device=device) for length in _PROOF_LENGTHS])[None]
    batch = {"input_ids": torch.cat(rows, 1), "position_ids": positions, "cu_seq_lens": ends.int()}
    inputs = packed_inputs(model, batch)
    segments = getattr(inputs["attention_mask"], "_fulgurite_segments", None)
    if segments is not None:
        segments.windows = []
    with torch.no_grad(), evaluating(model):
        try:
            alone = torch.cat([model(input_ids=row, use_cache=False).logits.double() for row in rows], 1)
        except Exception as error:
            if config.model_type in PACKABLE and type(model).__module__.startswith("transformers."):
                return  # it does not run where it is, packed or not
            raise ValueError(
                f"enable_packing: {name} does not run here, so packing was not proved; {_WAY_OUT}."
            ) from error
        try:
            packed = model(**inputs).logits.double()
        except Exception as error:
            raise ValueError(
                f"enable_packing: {name} cannot take packed rows ({type(error).__name__}: {error}); {_WAY_OUT}, or try a newer "
                "transformers."
            ) from error
    epsilon = rounding(next(model.parameters()))
    error_size = float((packed - alone).abs().max() / alone.abs().max().clamp(min=1e-30))
    if not error_size <= max(1e-4, 8 * epsilon if epsilon > 1e-6 else 0.0):
        raise ValueError(
            f"enable_packing: {name} lets packed rows see one another (its logits change by {error_size:.1g} of the largest); "
            f"{_WAY_OUT}."
        )
    if segments is not None and segments.windows != windows:
        raise ValueError(
            f"enable_packing: of {name}'s {len(windows)} layers {len(segments.windows)} reached the packed attention, with "
            f"windows {sorted({window or 0 for window in segments.windows})} instead of "
            f"{sorted({window or 0 for window in windows})} (0: none); {_WAY_OUT}."
        )


def _expected_windows(name: str, config: Any) -> list[int | None]:
    """The sliding window of each layer, as the configuration has it."""
    layers = config.num_hidden_layers
    kinds = list(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None) or None
    strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if strange or getattr(config, "attention_chunk_size", None):
        raise ValueError(
            f"enable_packing: {name} has layers of kind {', '.join(strange) or 'chunked_attention'}, for which packed rows are "
            f"not built; {_WAY_OUT}."
        )
    if kinds:
        return [window if kind == "sliding_attention" else None for kind in kinds[:layers]]
    return [window if getattr(config, "use_sliding_window", True) else None] * layers


def _both_directions(config: Any) -> bool:
    return not getattr(config, "is_causal", True) or bool(getattr(config, "use_bidirectional_attention", False))


def _flash(config: Any) -> bool:
    return str(config._attn_implementation).startswith("flash_attention")
