"""Writing text: transformers in process, an OpenAI-compatible server, fused specialists; n samples of a prompt. No Lightning in here."""

from fulgurite.generation.fused import FusedAnswer, generate_fused
from fulgurite.generation.texts import LoadedModel, generate_from_ids, generate_text, load_for_generation
from fulgurite.generation.writers import GenerationSettings

__all__ = [
    "FusedAnswer",
    "GenerationSettings",
    "LoadedModel",
    "generate_from_ids",
    "generate_fused",
    "generate_text",
    "load_for_generation",
]
