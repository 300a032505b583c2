"""What needs a model's own text: generation, and later the metrics that judge it. No Lightning in here."""

from fulgurite.evaluation.controllability import ControlReport, ask, conditions_to_ask, pareto_front, spearman
from fulgurite.evaluation.generation import GenerationSettings, LoadedModel, generate_text, load_for_generation

__all__ = [
    "ControlReport",
    "GenerationSettings",
    "LoadedModel",
    "ask",
    "conditions_to_ask",
    "generate_text",
    "load_for_generation",
    "pareto_front",
    "spearman",
]
