"""What needs a model's own text: generation, and later the metrics that judge it. No Lightning in here."""

from fulgurite.evaluation.answers import exact_match, rouge_l, token_f1
from fulgurite.evaluation.fused_generation import FusedAnswer, generate_fused
from fulgurite.evaluation.generation import (
    GenerationSettings,
    LoadedModel,
    generate_from_ids,
    generate_text,
    load_for_generation,
)
from fulgurite.evaluation.selection import answer_log_probs, select_answers

__all__ = [
    "FusedAnswer",
    "GenerationSettings",
    "LoadedModel",
    "answer_log_probs",
    "exact_match",
    "generate_from_ids",
    "generate_fused",
    "generate_text",
    "load_for_generation",
    "rouge_l",
    "select_answers",
    "token_f1",
]
