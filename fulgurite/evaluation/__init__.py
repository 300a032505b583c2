"""What needs a model's own text: generation, and later the metrics that judge it. No Lightning in here."""

from fulgurite.evaluation.answers import exact_match, rouge_l, token_f1
from fulgurite.evaluation.generation import (
    GenerationSettings,
    LoadedModel,
    generate_from_ids,
    generate_text,
    load_for_generation,
)

__all__ = [
    "GenerationSettings",
    "LoadedModel",
    "exact_match",
    "generate_from_ids",
    "generate_text",
    "load_for_generation",
    "rouge_l",
    "token_f1",
]
