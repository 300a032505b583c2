"""Our LM class of lm-evaluation-harness, beside its own `hf` model on the same weights."""

import sys
from typing import Any

import pytest

from fulgurite.evaluation.plugins.lm_harness import as_lm, sampling_of
from fulgurite.generation import SamplingSettings, load_for_generation

PAIRS = [("Question: What is 2 + 3?\nAnswer:", " 5"), ("The film was ", "good"), ("A", " b c d"), ("", "The film")]


def test_settings() -> None:
    assert sampling_of({"until": ["Q:", ""], "max_gen_toks": 9}) == SamplingSettings(9, stop=("Q:",))
    assert sampling_of({"until": "Q:", "do_sample": False, "temperature": 0.7}) == SamplingSettings(256, stop=("Q:",))
    drawn = sampling_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert (drawn.temperature, drawn.top_p) == (0.7, 0.9)
    with pytest.raises(ValueError, match="num_beams; known are"):
        sampling_of({"num_beams": 4})


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'fulgurite\[lm-eval\]'"):
        as_lm(*load_for_generation("playground"))


def test_beside_the_harness_own_model() -> None:
    pytest.importorskip("lm_eval.models.huggingface", reason="pip install 'fulgurite[lm-eval]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_for_generation("playground")
    ours, theirs = as_lm(model, tokenizer, 2), HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)

    def requests(kind: Any, arguments: list[Any]) -> list[Any]:
        return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]

    asked = requests("loglikelihood", PAIRS)
    for mine, other in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True), strict=True):
        assert mine[0] == pytest.approx(other[0], rel=1e-6, abs=1e-5) and mine[1] == bool(other[1])
    rolling = requests("loglikelihood_rolling", [("The film was good. " * 3,)])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-6
    )
