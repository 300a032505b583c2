"""The fused network behind the same protocol: the blend's tokens, its own draws for each sample, whatever the batch."""

import pytest
import torch

from fulgurite.generation import (
    FusedBackend,
    GenerationSettings,
    SamplingSettings,
    TransformersBackend,
    by_request,
    generate_text,
)
from fulgurite.kernels import fused_logits
from tests.generation.test_fused import PROMPTS, fused  # noqa: F401  the fixture

__all__: list[str] = []


def test_greedy_answers_are_those_of_generate_text(fused) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    from fulgurite.data.records.conversation import Turn

    network, tokenizers = fused
    chats = [[Turn("user", prompt)] for prompt in PROMPTS]
    expected = generate_text(network, tokenizers[0], chats, GenerationSettings(16))
    for size in (1, 4):
        found = by_request(FusedBackend(network, tokenizers[0], size).sample(chats, 1, SamplingSettings(16)))
        assert [[sample.text for sample in some] for some in found] == expected
    record = found[0][0].made_with
    assert record["backend"] == "fused" and record["weights"]


def test_samples_do_not_depend_on_the_batch(fused) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    network, tokenizers = fused
    settings = SamplingSettings(12, temperature=1.0, seed=2)

    def drawn(size: int) -> list[tuple[object, ...]]:
        samples = FusedBackend(network, tokenizers[0], size).sample(PROMPTS, 3, settings)
        return sorted((s.prompt, s.index, s.text, s.token_ids) for s in samples)

    first = drawn(1)
    assert len({text for _, _, text, _ in first}) >= 5
    assert drawn(5) == first


def test_log_probs_are_those_of_the_blend_over_the_whole_text(fused) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    network, tokenizers = fused
    prompt = [5, 6, 7]
    settings = SamplingSettings(6, temperature=0.7, seed=2)
    for sample in FusedBackend(network, tokenizers[0], 2).sample([prompt], 2, settings):
        ids = torch.tensor([[*prompt, *sample.token_ids]])
        with torch.no_grad():
            states = network.hidden([ids] * 2, [torch.ones_like(ids)] * 2)
            logits = fused_logits(states, gate_scores=network.scores(states), **network.blended_heads())
        behind = logits[0, len(prompt) - 1 : -1]
        for scale, found in ((0.7, sample.log_probs), (1.0, sample.model_log_probs)):
            expected = (behind / scale).log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
            assert torch.allclose(torch.tensor(found), expected, atol=1e-4)


def test_each_backend_takes_its_own_model(fused) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    with pytest.raises(ValueError, match="FusedBackend takes it"):
        TransformersBackend(fused[0], fused[1][0])
