"""What needs a model's own text or judges it: generation, rewards, RewardBench. No Lightning in here."""

from fulgurite.evaluation.generation import GenerationSettings, LoadedModel, generate_text, load_for_generation
from fulgurite.evaluation.reward_bench import BenchmarkItem, BenchmarkResult, benchmark_items, score_benchmark
from fulgurite.evaluation.reward_scoring import RewardScorer

__all__ = [
    "BenchmarkItem",
    "BenchmarkResult",
    "RewardScorer",
    "benchmark_items",
    "score_benchmark",
    "GenerationSettings",
    "LoadedModel",
    "generate_text",
    "load_for_generation",
]
