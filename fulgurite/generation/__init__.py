"""Writing text: transformers in process, an OpenAI-compatible server, fused specialists; n samples of a prompt. No Lightning."""

from fulgurite.generation.fused import FusedAnswer, generate_fused
from fulgurite.generation.in_process.backend import FusedBackend, TransformersBackend
from fulgurite.generation.protocol import Backend, Request, Sample, SamplingSettings, by_request, sample_seed
from fulgurite.generation.server.backend import ServerBackend, ServerError
from fulgurite.generation.texts import LoadedModel, generate_from_ids, generate_text, load_for_generation
from fulgurite.generation.writers import GenerationSettings

__all__ = [
    "Backend",
    "FusedAnswer",
    "FusedBackend",
    "GenerationSettings",
    "LoadedModel",
    "Request",
    "Sample",
    "SamplingSettings",
    "ServerBackend",
    "ServerError",
    "TransformersBackend",
    "by_request",
    "generate_from_ids",
    "generate_fused",
    "generate_text",
    "load_for_generation",
    "sample_seed",
]
