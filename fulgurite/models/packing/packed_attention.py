"""Packing for transformers' causal language models: which can do it, how they are set up, and the proof.

Architectures of the table were tested: log-probabilities and gradients of a packed row equal those of its segments alone,
and those of a tree's branches equal those of each path alone. All the same each model is proved before it is used, because
a wrong mask gives wrong numbers without an error and versions of transformers differ: a few short segments, without
gradient, and each layer has to show that its sliding window, which short segments cannot reach, arrives at the attention.
The table is trusted only where the model cannot run where it is (on the meta device, or quantised for a GPU). What fails is
refused by name.

Rotary embeddings that stretch with the longest row of a batch ("dynamic", "longrope") are refused by name: the scale of each row
would depend on those that it is packed with.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from fulgurite.models.heads import evaluating, rounding
from fulgurite.models.packing.attention_functions import PREFIX, register
from fulgurite.models.packing.segments import Segments
from fulgurite.models.routing import asks_for_balance

__all__ = [
    "PACKABLE",
    "disable_packing",
    "enable_packing",
    "enable_trees",
    "packed_inputs",
    "prove_packing",
    "structure_of",
]

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
_WAY_OUT = "set packing to false"
_NO_TREES = "set trees to false"
# Lengths and parents of the segments that prove a model, and the paths that are compared.
_Structure = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]
_ROWS: _Structure = ((5, 7), (-1, -1), ((0,), (1,)))
# Two trees; a branch within a branch; the longest path is not first, so that tokens have to be brought in order.
_TREES: _Structure = ((4, 2, 3, 4, 2, 3), (-1, 0, 0, 2, 1, -1), ((0, 2, 3), (0, 1, 4), (5,)))


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
    if scaling := _scaled_by_length(config):
        raise ValueError(
            f"enable_packing: {name} has rotary positions of type {scaling!r}, whose scale depends on the longest row of a batch: "
            f"packed rows would differ from the same rows alone; {_WAY_OUT}."
        )
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
            from fulgurite.models.packing.bloom import swap_bloom

            swap_bloom(model)
    try:
        prove_packing(model)
    except ValueError:
        disable_packing(model)
        raise


def enable_trees(model: nn.Module) -> None:
    """Make a model understand packed batches whose segments have parents. May be repeated.

    Args:
        model: as for :func:`enable_packing`, which is called first; attention "sdpa" or "eager".

    Raises:
        ValueError: the architecture cannot do it; packing without trees still goes on if the model can do that.
    """
    enable_packing(model)
    if _flash(model.config):
        raise ValueError(
            f"enable_trees: {type(model).__name__} runs with flash attention, which knows no trees. Load it with "
            f"attn_implementation='sdpa', or {_NO_TREES}."
        )
    _prove(model, "enable_trees", _TREES, "computes the branches of a tree otherwise than each path alone", _NO_TREES)


def disable_packing(model: nn.Module) -> None:
    """Undo :func:`enable_packing`.

    Args:
        model: with packing or without.
    """
    config: Any = model.config
    if config._attn_implementation.startswith(PREFIX):
        config._attn_implementation = config._attn_implementation.removeprefix(PREFIX)
        if config.model_type == "bloom":
            from fulgurite.models.packing.bloom import unswap_bloom

            unswap_bloom(model)


def packed_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments with which a model, or its decoder, sees a packed batch.

    Args:
        model: after :func:`enable_packing`.
        batch: of `PackedCollator` or `TreeCollator`: input_ids and position_ids (1, T), cu_seq_lens (S + 1,) from 0 to T;
            after :func:`enable_trees` also parents (S,), each before its children, -1 for roots. ``segments`` holds the
            same structure where it was read on the CPU (:func:`structure_of`); else it is read now, for which a GPU is waited for.
    """
    config: Any = model.config
    if not config._attn_implementation.startswith(PREFIX) and not _flash(config):
        raise ValueError(
            f"packed_inputs: {type(model).__name__} was not set up for packed batches; call enable_packing first."
        )
    missing = [key for key in ("input_ids", "position_ids", "cu_seq_lens") if key not in batch]
    if missing:
        raise ValueError(
            f"packed_inputs: the batch has no {', '.join(missing)}; make it with PackedCollator or TreeCollator."
        )
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if asks_for_balance(model):  # its auxiliary loss wants a mask of its own: fulgurite.models.routing
        inputs["output_router_logits"] = False
    if config.model_type != "bloom":  # knows no positions but ALiBi's, and warns
        inputs["position_ids"] = batch["position_ids"]
    segments = structure_of(batch)
    if not _flash(config):
        return inputs | {"attention_mask": segments.carrier()}
    if segments.parents is not None:
        raise ValueError(
            f"packed_inputs: {type(model).__name__} runs with flash attention, which knows no trees; {_NO_TREES}."
        )
    longest = max(segments.lengths)
    return inputs | {
        "attention_mask": None,
        "cu_seq_lens_q": segments.boundaries,
        "cu_seq_lens_k": segments.boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def structure_of(batch: Mapping[str, Any]) -> Segments:
    """The structure of a packed batch: the one that it carries as ``segments``, or read from its tensors.

    Raises:
        ValueError: on the CPU, the boundaries are not those of ``segments``. On a GPU they are not compared, as that would wait.
    """
    known, boundaries = batch.get("segments"), batch["cu_seq_lens"]
    if known is None:
        return Segments(boundaries, batch.get("parents"))
    # Where only the tensors of the batch were moved, the structure follows.
    found: Segments = known.to(boundaries.device)
    if boundaries.device.type == "cpu" and not torch.equal(found.boundaries, boundaries.to(torch.int32)):
        raise ValueError(
            "packed_inputs: cu_seq_lens changed after the batch's structure was read; take the key 'segments' out of the batch"
        )
    return found


def prove_packing(model: nn.Module) -> None:
    """Compare two short segments packed with the same two alone, without gradient; also check that windows arrive.

    The logits may differ by 1e-4 of the largest one, in half precision by eight roundings (bfloat16: 0.06); autocast is
    off. The modules' modes and the random state are left as they were.

    Args:
        model: after :func:`enable_packing`.

    Raises:
        ValueError: they differ, or the model has layers of which two short segments prove nothing.
    """
    _prove(model, "enable_packing", _ROWS, "lets packed rows see one another", _WAY_OUT)


def _prove(model: nn.Module, caller: str, structure: _Structure, wrong: str, way_out: str) -> None:
    name = type(model).__name__
    config: Any = model.config
    windows = _expected_windows(name, config)
    device = next(model.parameters()).device
    if device.type == "meta" and config.model_type in PACKABLE:
        return
    batch, paths = _proof_batch(structure, config.get_text_config().vocab_size, device)
    inputs = packed_inputs(model, batch)
    segments = getattr(inputs["attention_mask"], "_fulgurite_segments", None)
    if segments is not None:
        segments.windows = []
    with torch.no_grad(), evaluating(model):
        try:
            rows = [batch["input_ids"][:, path] for path in paths]
            alone = torch.cat([_shown(model(input_ids=row, use_cache=False)) for row in rows], 1)
        except Exception as error:
            if config.model_type in PACKABLE and type(model).__module__.startswith("transformers."):
                return  # it does not run where it is, packed or not
            raise ValueError(f"{caller}: {name} does not run here, so packing was not proved; {way_out}.") from error
        try:
            packed = _shown(model(**inputs))[:, torch.cat(paths)]
        except Exception as error:
            raise ValueError(
                f"{caller}: {name} cannot take packed rows ({type(error).__name__}: {error}); {way_out}, or try a newer "
                "transformers."
            ) from error
    epsilon = rounding(next(model.parameters()))
    error_size = float((packed - alone).abs().max() / alone.abs().max().clamp(min=1e-30))
    if not error_size <= max(1e-4, 8 * epsilon if epsilon > 1e-6 else 0.0):
        raise ValueError(f"{caller}: {name} {wrong} (its logits change by {error_size:.1g} of the largest); {way_out}.")
    if segments is not None and segments.windows != windows:
        raise ValueError(
            f"{caller}: of {name}'s {len(windows)} layers {len(segments.windows)} reached the packed attention, with "
            f"windows {sorted({window or 0 for window in segments.windows})} instead of "
            f"{sorted({window or 0 for window in windows})} (0: none); {way_out}."
        )


def _shown(output: Any) -> torch.Tensor:
    """What is compared, (1, T, ...) float64: logits by token, or the states of a model whose head sees one token only."""
    logits = getattr(output, "logits", None)
    found: torch.Tensor = logits if logits is not None and logits.dim() == 3 else output.last_hidden_state
    return found.double()


def _proof_batch(
    structure: _Structure, vocabulary: int, device: torch.device
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """A batch of random tokens, and the places of each path's tokens."""
    lengths, parents, paths = structure
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([0, *lengths], device="cpu").cumsum(0)
    places = [torch.arange(start, stop, device=device) for start, stop in pairwise(ends)]
    routes = [torch.cat([places[own] for own in path]) for path in paths]
    positions = torch.zeros(int(ends[-1]), dtype=torch.int64, device=device)
    for route in routes:
        positions[route] = torch.arange(len(route), device=device)
    batch = {
        "input_ids": torch.randint(vocabulary, (1, len(positions)), generator=generator, device="cpu").to(device),
        "position_ids": positions[None],
        "cu_seq_lens": ends.to(device, torch.int32),
    }
    if max(parents) >= 0:
        batch["parents"] = torch.tensor(parents, dtype=torch.int32, device=device)
    return batch, routes


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


def _scaled_by_length(config: Any) -> str | None:
    """The kind of rotary positions, where their scale depends on how long a batch's longest row is; else None."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for options in (getattr(text, "rope_parameters", None), getattr(text, "rope_scaling", None)):
        each = options.values() if options and all(isinstance(value, dict) for value in options.values()) else [options]
        for one in each:
            kind = (one or {}).get("rope_type", (one or {}).get("type"))
            if kind in ("dynamic", "longrope", "su"):
                return str(kind)
    return None


def _both_directions(config: Any) -> bool:
    return not getattr(config, "is_causal", True) or bool(getattr(config, "use_bidirectional_attention", False))


def _flash(config: Any) -> bool:
    return str(config._attn_implementation).startswith("flash_attention")
