"""What needs a model's own text: generation, and later the metrics that judge it. No Lightning in here."""

from fulgurite.evaluation.fused_generation import FusedAnswer, generate_fused
from fulgurite.evaluation.generation import GenerationSettings, LoadedModel, generate_text, load_for_generation
from fulgurite.evaluation.selection import answer_log_probs, select_answers

__all__ = [
    "FusedAnswer",
    "GenerationSettings",
    "LoadedModel",
    "answer_log_probs",
    "generate_fused",
    "generate_text",
    "load_for_generation",
    "select_answers",
]
