"""inspect_ai's options as ours; what we do not have is refused."""

from typing import Any

import pytest

from fulgurite.evaluation.plugins.inspect_harness.settings import MAX_TOKENS, sampling_of
from fulgurite.generation import SamplingSettings


def test_settings() -> None:
    assert sampling_of({}) == (SamplingSettings(MAX_TOKENS), 1)
    given = {
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "stop_seqs": ["Q:"],
        "seed": 3,
        "num_choices": 2,
    }
    assert sampling_of(given) == (SamplingSettings(9, 0.7, 0.9, 5, stop=("Q:",), seed=3), 2)
    assert sampling_of({"temperature": 0.0, "seed": 0, "top_k": 0}) == (SamplingSettings(MAX_TOKENS), 1)


def test_what_changes_no_answer_may_be_there() -> None:
    others = {
        "max_connections": 3,
        "timeout": 9,
        "cache": True,
        "frequency_penalty": 0.0,
        "batch": False,
        "extra_body": {},
    }
    assert sampling_of({**others, "logprobs": True}) == (SamplingSettings(MAX_TOKENS), 1)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty=0.5; known are max_tokens"),
        ({"logit_bias": {1: 2.0}, "best_of": 2}, "logit_bias={1: 2.0}, best_of=2"),
        ({"response_schema": {"name": "x"}}, "response_schema"),
        ({"top_logprobs": 3}, "top_logprobs=3"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"num_choices": 2}, "the same answer each time"),
        ({"max_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sampling_of(given)


def test_every_option_of_inspect_ai_is_used_refused_or_its_own() -> None:
    """An option that a later version brings is refused until somebody has decided about it."""
    model = pytest.importorskip("inspect_ai.model", reason="pip install 'fulgurite[inspect]'")
    assert len(model.GenerateConfig.model_fields) > 30
    with pytest.raises(ValueError, match="option_of_tomorrow"):
        sampling_of({"option_of_tomorrow": 1})
