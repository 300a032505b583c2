"""Evaluation of a model by its own text: rewards of answers, RewardBench, controllability. No Lightning in here.

What writes text stands in fulgurite.generation; its names can be imported from here too.
"""

from fulgurite.evaluation.answers import exact_match, rouge_l, token_f1
from fulgurite.evaluation.controllability import ControlReport, ask, conditions_to_ask, pareto_front, spearman
from fulgurite.evaluation.reward_bench import BenchmarkItem, BenchmarkResult, benchmark_items, score_benchmark
from fulgurite.evaluation.reward_scoring import RewardScorer
from fulgurite.evaluation.selection import answer_log_probs, select_answers
from fulgurite.generation import (
    FusedAnswer,
    GenerationSettings,
    LoadedModel,
    generate_from_ids,
    generate_fused,
    generate_text,
    load_for_generation,
)

__all__ = [
    "BenchmarkItem",
    "BenchmarkResult",
    "ControlReport",
    "FusedAnswer",
    "GenerationSettings",
    "LoadedModel",
    "RewardScorer",
    "answer_log_probs",
    "ask",
    "benchmark_items",
    "conditions_to_ask",
    "exact_match",
    "generate_from_ids",
    "generate_fused",
    "generate_text",
    "load_for_generation",
    "pareto_front",
    "rouge_l",
    "score_benchmark",
    "select_answers",
    "spearman",
    "token_f1",
]
