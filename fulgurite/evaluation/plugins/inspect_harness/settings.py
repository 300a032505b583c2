"""inspect_ai's GenerateConfig as our sampling settings. What we do not have is refused, never dropped."""

from __future__ import annotations

from typing import Any

from fulgurite.generation.protocol import SamplingSettings

__all__ = ["MAX_TOKENS", "sampling_of"]

MAX_TOKENS = 2048  # what inspect_ai's own model in this process takes where nothing is said
_USED = ("max_tokens", "temperature", "top_p", "top_k", "stop_seqs", "seed", "num_choices", "logprobs")
# What inspect_ai does itself before or around a request, or what has no meaning without tools, reasoning and a server.
_OUTSIDE = (
    "max_retries",
    "timeout",
    "attempt_timeout",
    "stream_idle_timeout",
    "max_connections",
    "adaptive_connections",
    "system_message",
    "max_tool_output",
    "parallel_tool_calls",
    "internal_tools",
    "reasoning_history",
    "cache",
    "cache_prompt",
    "fail_on_refusal",
)


def sampling_of(given: dict[str, Any]) -> tuple[SamplingSettings, int]:
    """Our settings, and how many answers are wanted.

    Args:
        given: the options of a GenerateConfig that are set. `temperature` is 0 where it is not: the likeliest token each time.

    Raises:
        ValueError: an option that we don't have and that would change the answers; a value out of its range.
    """
    set_ = {name: value for name, value in given.items() if value not in (None, False, 0, [], {}) or name in _USED}
    unknown = [name for name in set_ if name not in (*_USED, *_OUTSIDE)]
    if unknown:
        raise ValueError(
            f"fulgurite model: {', '.join(f'{name}={set_[name]!r}' for name in unknown)}; known are "
            f"{', '.join(_USED)}; leave it out"
        )
    known = {name: set_[name] for name in _USED if set_.get(name) is not None}
    choices = int(known.get("num_choices", 1))
    settings = SamplingSettings(
        int(known.get("max_tokens", MAX_TOKENS)),
        float(known.get("temperature", 0.0)),
        float(known.get("top_p", 1.0)),
        int(known.get("top_k", 0)),
        stop=tuple(known.get("stop_seqs", ())),
        seed=int(known.get("seed", 0)),
    )
    if choices > 1 and settings.temperature == 0:
        raise ValueError(
            f"fulgurite model: num_choices={choices} at temperature 0 would give the same answer each time; set temperature "
            "above 0, such as 0.8"
        )
    return settings, choices
