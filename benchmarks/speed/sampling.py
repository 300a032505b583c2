"""``sampling``: 16 answers of unequal length to each prompt: ours, and transformers' generate in batches and in a loop.

Ours reads a prompt once for its 16 answers and gives the place of a finished answer to the next one. transformers' batched generate
gets two prompts at a time with ``num_return_sequences``, each batch as long as its longest answer; the loop makes one call for
each answer. All draw at temperature 1 from the same distribution, with random numbers of their own: single answers differ, their
lengths do not on average (the number of tokens that each contender drew stands in the facts). Answers of the playground's model end
with its end tokens or a full stop; those of the Llama with random weights, which draws nearly evenly, with one token in 16.

Results are compared under greedy decoding: the first tokens of every prompt's answer with the likeliest tokens of a forward over
the whole text, without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload
from fulgurite.generation import Sample, SamplingSettings, TransformersBackend, load_for_generation

__all__ = ["BENCHMARK"]

_BATCHED, _LOOP = "transformers, batched", "transformers, loop"
_SAMPLES, _ROWS, _PAD = 16, 32, 0
_COMPARED = 16  # tokens of each greedy answer: without a cache each costs a forward over the whole text
_TEXTS = (
    "Write a word, and then another word.",
    "What is 2 + 3?",
    "Tell me what the red cat does when it is late and nobody is there to see it.",
    "Describe the film in your own words.",
    "The sum of one and two is",
    "She said that the house by the river was",
    "Which animals were there?",
    "Once there was a boy who",
    "Name three colours, and say where they are found.",
    "If x is 7, then x plus 9 is",
    "It was late when",
    "The first of the letters",
)


@dataclass
class Case:
    """A model with prompts and end tokens.

    Attributes:
        model: in evaluation mode.
        tokenizer: what our backend decodes with.
        prompts: token ids.
        ends: token ids that end an answer.
        longest: tokens of an answer at most.
        drawn: tokens of each run so far, by contender.
    """

    model: Any
    tokenizer: Any
    prompts: list[list[int]]
    ends: list[int]
    longest: int
    drawn: dict[str, list[int]] = field(default_factory=dict)


def _playground() -> Case:
    model, tokenizer = load_for_generation("playground")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    ends += [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip() in (".", "?")]
    return Case(model, tokenizer, [tokenizer(text)["input_ids"] for text in _TEXTS], ends, 64)


def _llama() -> Case:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=_PAD,
    )  # fmt: skip
    _, tokenizer = load_for_generation("playground")
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 4096, (length,), generator=generator).tolist() for length in (96, 128, 80, 112)]
    return Case(transformers.LlamaForCausalLM(config).eval(), tokenizer, prompts, list(range(2, 4096, 16)), 64)


def _ours(case: Case) -> Step:
    backend = TransformersBackend(case.model, case.tokenizer, _ROWS)

    def sampled(settings: SamplingSettings, n: int) -> Iterable[Sample]:
        return backend.sample(case.prompts, n, settings)

    def run() -> None:
        settings = SamplingSettings(
            case.longest, temperature=1.0, stop_ids=tuple(case.ends), seed=len(case.drawn.get(OURS, ()))
        )
        _count(case, OURS, [len(sample.token_ids or ()) for sample in sampled(settings, _SAMPLES)])

    def results() -> dict[str, torch.Tensor]:
        found = sampled(SamplingSettings(_COMPARED, stop_ids=tuple(case.ends)), 1)
        return {str(sample.prompt): torch.tensor(sample.token_ids) for sample in found}

    return _step(OURS, case, run, results)


def _theirs(name: str, case: Case) -> Step:
    batch = max(1, _ROWS // _SAMPLES) if name == _BATCHED else 1
    each = _SAMPLES if name == _BATCHED else 1
    order = sorted(range(len(case.prompts)), key=lambda i: len(case.prompts[i]))
    batches = [order[at : at + batch] for at in range(0, len(order), batch)]

    def run() -> None:
        lengths = []
        for places in batches:
            for _ in range(_SAMPLES // each):
                lengths += [len(row) for row in _generated(case, places, each, True)]
        _count(case, name, lengths)

    def results() -> dict[str, torch.Tensor]:
        together = [list(range(len(case.prompts)))] if name == _BATCHED else [[i] for i in range(len(case.prompts))]
        rows = [
            (i, row) for places in together for i, row in zip(places, _generated(case, places, 1, False), strict=True)
        ]
        return {str(i): torch.tensor(row) for i, row in rows}

    return _step(name, case, run, results)


@torch.no_grad()
def _generated(case: Case, places: Sequence[int], each: int, drawn: bool) -> list[list[int]]:
    """Answers of transformers' generate to some prompts, up to and with their end."""
    prompts = [case.prompts[i] for i in places]
    width = max(map(len, prompts))
    ids = torch.tensor([[_PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    how: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": each} if drawn else {}
    out = case.model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=case.longest if drawn else _COMPARED, do_sample=drawn,
        eos_token_id=case.ends, pad_token_id=_PAD, **how,
    )  # fmt: skip
    ends = set(case.ends)
    rows = []
    for row in out[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:end])
    return rows


@torch.no_grad()
def _likeliest(case: Case) -> dict[str, torch.Tensor]:
    """Greedy answers without a cache, without padding and without a batch."""
    found = {}
    for place, prompt in enumerate(case.prompts):
        new: list[int] = []
        while len(new) < _COMPARED and not (new and new[-1] in case.ends):
            new.append(int(case.model(input_ids=torch.tensor([prompt + new])).logits[0, -1].argmax()))
        found[str(place)] = torch.tensor(new)
    return found


def _count(case: Case, name: str, lengths: Sequence[int]) -> None:
    case.drawn.setdefault(name, []).append(sum(lengths))


def _step(name: str, case: Case, run: Callable[[], None], results: Callable[[], Mapping[str, torch.Tensor]]) -> Step:
    def facts() -> dict[str, Any]:
        runs = case.drawn[name]
        return {"tokens_per_run": round(sum(runs) / len(runs), 1)}

    return Step(run, results, partial(_likeliest, case), slack=0.0, facts=facts)


def _different(computed: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The share of prompts whose answers are not the same tokens."""
    wrong = [name for name, tokens in expected.items() if not torch.equal(computed.get(name, tokens[:0]), tokens)]
    return len(wrong) / len(expected)


def _workloads(settings: Settings) -> list[Workload]:
    everyone: dict[str, Any] = {
        _BATCHED: partial(_theirs, _BATCHED),
        _LOOP: partial(_theirs, _LOOP),
        OURS: _ours,
    }
    facts = {"samples_per_prompt": _SAMPLES, "rows": _ROWS}
    llama = everyone if settings.full else {**everyone, _LOOP: "takes half a minute a run; measured with --full"}
    return [
        Workload(f"playground, {len(_TEXTS)} prompts x 16", facts, _playground, everyone, floor=_BATCHED),
        Workload("llama 4x256, 4 prompts x 16", facts, _llama, llama, floor=_BATCHED),
    ]


BENCHMARK = Benchmark("sampling", "16 answers of unequal length to each prompt, in float32.", _workloads, _different)
