"""The refilled batch writes what transformers' own generate writes, whatever the batch; and samples say what they depend on."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fulgurite.adapters import LoRA, SoftPrompt, attach
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.records.conversation import Turn
from fulgurite.generation import (
    GenerationSettings,
    LoadedModel,
    Request,
    Sample,
    SamplingSettings,
    TransformersBackend,
    by_request,
    generate_text,
    load_for_generation,
)
from fulgurite.generation.in_process import backend as backend_file
from fulgurite.generation.in_process import refilling

PROMPTS = [
    "What is 2 + 3?",
    "film",
    "Tell me, in your own words, what the red cat does when it is late and nobody is there to see it.",
    "Write a word, and then another word.",
    "The sum of one and two is",
]
DRAWN = SamplingSettings(max_new_tokens=20, temperature=1.0, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def playground() -> LoadedModel:
    return load_for_generation("playground")


def backend_of(loaded: LoadedModel, size: int) -> TransformersBackend:
    return TransformersBackend(loaded.model, loaded.tokenizer, size)


def whole(samples: list[Sample]) -> list[Any]:
    """Everything of each sample but who wrote it and its log-probabilities, by request and index."""
    return sorted((s.prompt, s.index, s.text, s.token_ids, s.finish, s.stop, s.seed) for s in samples)


def stock(model: Any, tokenizer: Any, ids: list[int], count: int, stops: list[int]) -> list[int]:
    """What transformers' generate writes greedily for one prompt."""
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=stops or None,
            pad_token_id=0,
        )
    new: list[int] = out[0, len(ids) :].tolist()
    return new


def tiny(kind: str, vocabulary: int, **more: Any) -> Any:
    """A small model with random weights that make its answers depend on all that it reads."""
    import transformers

    torch.manual_seed(3)
    common: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=64, **more)
        model: Any = transformers.GPT2LMHeadModel(config)
    elif kind == "bloom":
        model = transformers.BloomForCausalLM(
            transformers.BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4, **more)
        )
    elif kind == "t5":
        config = transformers.T5Config(**common, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, **more)
        config.decoder_start_token_id = 0
        model = transformers.T5ForConditionalGeneration(config)
    else:
        name = {"llama": "Llama", "qwen2": "Qwen2", "mistral": "Mistral"}[kind]
        config = getattr(transformers, f"{name}Config")(**common, **sizes, num_key_value_heads=2, **more)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "qwen2": {},
    "mistral": {"sliding_window": None},
    "bloom": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_transformers_whatever_the_batch(kind: str, word_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(word_tokenizer))
    model = tiny(kind, len(tokenizer), **KINDS[kind])
    prompts = ["good film", "the good and the bad of the red film one two three", "a b", "bad", "red green blue", "the"]
    settings = SamplingSettings(max_new_tokens=12, stop_ids=(7,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1, 3, 8):
            samples = by_request(TransformersBackend(model, tokenizer, size).sample(prompts, 1, settings))
            for prompt, (sample,) in zip(prompts, samples, strict=True):
                ids = encode_prompt(tokenizer, [Turn("prompt", prompt)])
                expected = stock(model, tokenizer, ids, 12, [3, 7])
                assert list(sample.token_ids or ()) == expected
                assert sample.finish == ("stop" if expected[-1] in (3, 7) else "length")
                assert sample.stop == (expected[-1] if expected[-1] in (3, 7) else None)
    assert len({tuple(s.token_ids or ()) for (s,) in samples}) > 3


def test_the_playground_writes_what_transformers_writes(playground: LoadedModel) -> None:
    model, tokenizer = playground
    chats = [[Turn("user", prompt)] for prompt in PROMPTS]
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for size in (1, 4):
        samples = by_request(TransformersBackend(model, tokenizer, size).sample(chats, 1, SamplingSettings(24)))
        texts = generate_text(model, tokenizer, chats, GenerationSettings(24))
        assert [[sample.text for sample in each] for each in samples] == texts
        for chat, (sample,) in zip(chats, samples, strict=True):
            ids = encode_prompt(tokenizer, chat)
            assert list(sample.token_ids or ()) == stock(model, tokenizer, ids, 24, [end, tokenizer.eos_token_id])
            assert (sample.finish, sample.stop) == ("stop", end)
            assert set(sample.log_probs or ()) == {0.0}


@pytest.mark.real_data
def test_a_published_llama_writes_what_transformers_writes(real_data: Path) -> None:
    model, tokenizer = load_for_generation(str(real_data / "models" / "aidreams260K" / "hf_converted"))
    prompts = ["Once upon a time", "The cat", "Tom and Lily went to the park to play with a big red ball. They"]
    for size in (1, 3):
        samples = by_request(TransformersBackend(model, tokenizer, size).sample(prompts, 1, SamplingSettings(40)))
        for prompt, (sample,) in zip(prompts, samples, strict=True):
            ids = encode_prompt(tokenizer, [Turn("prompt", prompt)])
            expected = stock(model, tokenizer, ids, 40, [tokenizer.eos_token_id])
            assert list(sample.token_ids or ()) == expected
            assert prompt + sample.text == tokenizer.decode(ids + expected, skip_special_tokens=True)


@pytest.mark.slow
def test_samples_do_not_depend_on_batch_or_order(playground: LoadedModel) -> None:
    expected = whole(list(backend_of(playground, 1).sample(PROMPTS, 3, DRAWN)))
    assert len({text for _, _, text, *_ in expected}) == 15, "each sample draws with its own numbers"
    for size in (2, 5, 16):
        assert whole(list(backend_of(playground, size).sample(PROMPTS, 3, DRAWN))) == expected
    turned = backend_of(playground, 4).sample(PROMPTS[::-1], 3, DRAWN)
    assert sorted(s.text for s in turned) == sorted(text for _, _, text, *_ in expected)
    some = [Request(PROMPTS[2], samples=(2,)), Request(PROMPTS[0], samples=(1, 0))]
    again = {(s.prompt, s.index): s.text for s in backend_of(playground, 4).sample(some, 1, DRAWN)}
    texts = {(place, index): text for place, index, text, *_ in expected}
    assert again == {(0, 2): texts[2, 2], (1, 0): texts[0, 0], (1, 1): texts[0, 1]}


def test_log_probs_are_those_of_the_distribution_that_was_drawn_from(playground: LoadedModel) -> None:
    from transformers.generation import logits_process as theirs

    model, tokenizer = playground
    settings = SamplingSettings(16, temperature=0.8, top_p=0.9, top_k=20, repetition_penalty=1.3, seed=1)
    for sample in TransformersBackend(model, tokenizer, 4).sample(PROMPTS[:2], 2, settings):
        ids = encode_prompt(tokenizer, [Turn("prompt", PROMPTS[sample.prompt])])
        new = list(sample.token_ids or ())
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + new])).logits[0]
        assert len(sample.log_probs or ()) == len(sample.model_log_probs or ()) == len(new)
        for i, token in enumerate(new):
            scores = logits[len(ids) + i - 1 : len(ids) + i]
            plain = float(scores.log_softmax(-1)[0, token])
            before = torch.tensor([ids + new[:i]])
            scores = theirs.RepetitionPenaltyLogitsProcessor(1.3)(before, scores.clone())
            for warper in (
                theirs.TemperatureLogitsWarper(0.8),
                theirs.TopKLogitsWarper(20),
                theirs.TopPLogitsWarper(0.9),
            ):
                scores = warper(before, scores)
            assert (sample.log_probs or ())[i] == pytest.approx(float(scores.log_softmax(-1)[0, token]), abs=1e-4)
            assert (sample.model_log_probs or ())[i] == pytest.approx(plain, abs=1e-4)


def test_stop_texts_end_the_answer_before_them(playground: LoadedModel) -> None:
    backend = backend_of(playground, 4)
    long = by_request(backend.sample(PROMPTS, 1, SamplingSettings(24)))
    text = long[2][0].text
    stop = text[9:12]
    found = by_request(backend.sample(PROMPTS, 1, SamplingSettings(24, stop=(stop, "never there"))))
    for (before,), (after,) in zip(long, found, strict=True):
        if stop in before.text:
            assert after.text == before.text[: before.text.index(stop)]
            assert (after.finish, after.stop) == ("stop", stop)
            assert len(after.token_ids or ()) < len(before.token_ids or ())
        else:
            assert (after.text, after.finish) == (before.text, before.finish)
    assert any(sample.stop == stop for (sample,) in found)
    end = str(playground.tokenizer.eos_token)
    special = next(iter(backend.sample([PROMPTS[1]], 1, SamplingSettings(200, temperature=1.0, stop=(end,)))))
    assert special.finish == "length" or special.stop == end, "a special token is a stop though the text never shows it"


@pytest.mark.parametrize("ours", [True, False])
def test_adapters_write_and_are_in_the_record(ours: bool, playground: LoadedModel) -> None:
    model, tokenizer = load_for_generation("playground")
    bare = TransformersBackend(model, tokenizer, 3)
    without = by_request(bare.sample(PROMPTS, 1, SamplingSettings(16)))
    assert without[0][0].made_with["adapter"] is None
    if ours:
        adapter = attach(model, LoRA(rank=4, dropout=0.5))
        factors = [branch.lora_b for branch in adapter.branches.values()]
    else:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.5))
        factors = [value for name, value in model.named_parameters() if "lora_B" in name]
    torch.manual_seed(0)
    with torch.no_grad():
        for factor in factors:
            factor.normal_(std=0.3)
    model.train()
    kept = model.generation_config
    backend = TransformersBackend(model, tokenizer, 3)
    found = []
    for sample in backend.sample(PROMPTS, 1, SamplingSettings(16)):
        assert model.training and torch.is_grad_enabled(), "the caller finds the model as it was"
        found.append(sample)
    assert model.generation_config is kept
    model.eval()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for sample in found:
        ids = encode_prompt(tokenizer, [Turn("prompt", PROMPTS[sample.prompt])])
        assert list(sample.token_ids or ()) == stock(model, tokenizer, ids, 16, [tokenizer.eos_token_id, end])
    assert [s.text for s in found] != [each[0].text for each in without]
    first = found[0].made_with["adapter"]
    assert first is not None and backend.identity()["adapter"] == first
    with torch.no_grad():
        factors[0].view(-1)[0] += 1
    assert backend.identity()["adapter"] != first


def test_what_cannot_be_refilled_is_written_whole_and_said_once(word_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(word_tokenizer))
    prompts = ["good film", "the good and the bad of the red film one two three", "a b"]
    for kind, more, why in (
        ("t5", {}, "encoder-decoder"),
        ("mistral", {"sliding_window": 8}, "sliding window holds 8"),
        ("soft", {}, "trial"),
    ):
        model = tiny("llama" if kind == "soft" else kind, len(tokenizer), **more)
        if kind == "soft":
            attach(model, SoftPrompt(length=4))
        backend = TransformersBackend(model, tokenizer, 2)
        with pytest.warns(UserWarning, match=why):
            found = by_request(backend.sample(prompts, 1, SamplingSettings(9)))
        texts = generate_text(model, tokenizer, prompts, GenerationSettings(9))
        assert [[sample.text for sample in each] for each in found] == texts
        strong = by_request(backend.sample(prompts, 1, SamplingSettings(9, repetition_penalty=3.0)))
        texts = generate_text(model, tokenizer, prompts, GenerationSettings(9, repetition_penalty=3.0))
        assert [[sample.text for sample in each] for each in strong] == texts
        settings = SamplingSettings(9, temperature=1.0, seed=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn = whole(list(backend.sample(prompts, 2, settings)))
        other = TransformersBackend(model, tokenizer, 5)
        other._said = True
        assert whole(list(other.sample(prompts, 2, settings))) == drawn


def test_finished_rows_leave_and_others_take_their_place(
    playground: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    read: list[tuple[int, ...]] = []
    tokens, prompts = refilling.Reader.tokens, refilling.Reader.prompts

    def counted(self: Any, new: Any, cache: Any) -> Any:
        widths.append(len(new))
        for layer in cache.cache.layers:
            assert layer.buffers[0].shape[0] == 4 and layer.buffers[0].shape[2] <= cache.columns
        return tokens(self, new, cache)

    def noted(self: Any, some: Any) -> Any:
        read.extend(map(tuple, some))
        return prompts(self, some)

    settings = SamplingSettings(24, temperature=1.0, seed=1)
    chats = [[Turn("user", prompt)] for prompt in PROMPTS]
    backend = backend_of(playground, 4)
    monkeypatch.setattr(backend_file, "why_not_refilled", lambda *_: None)
    monkeypatch.setattr(refilling.Reader, "tokens", counted)
    monkeypatch.setattr(refilling.Reader, "prompts", noted)
    samples = list(backend.sample(chats, 6, settings))
    drawn = sum(len(sample.token_ids or ()) for sample in samples)
    assert sum(widths) == drawn - len(samples), (
        "each token but the first is one row of one step, none is computed for nothing"
    )
    assert len(widths) < 1.3 * drawn / 4, "the batch is full nearly all the time"
    own = [tuple(encode_prompt(playground.tokenizer, chat)) for chat in chats]
    assert sorted(ids for ids in read if ids in own) == sorted(own), "each prompt is read once for its six samples"


def test_records_are_plain_data(playground: LoadedModel) -> None:
    backend = backend_of(playground, 2)
    settings = SamplingSettings(5, temperature=1.0, stop=("x",), seed=9)
    sample = next(iter(backend.sample([[Turn("user", "Hi")]], 1, settings)))
    record = json.loads(json.dumps(sample.to_dict()))
    assert record["made_with"]["settings"] == json.loads(json.dumps(settings.to_dict()))
    assert {"backend", "model", "revision", "weights", "adapter", "template"} <= set(record["made_with"])
    assert record["token_ids"] == list(sample.token_ids or ())


def test_bad_input_is_refused_before_anything_is_written(playground: LoadedModel) -> None:
    model, tokenizer = playground
    backend = TransformersBackend(model, tokenizer, 2)
    for given, settings, words in (
        (["film " * 600], SamplingSettings(4), "window holds"),
        ([[]], SamplingSettings(4), "no token"),
        ("a text", SamplingSettings(4), "a list of prompts"),
    ):
        with pytest.raises(ValueError, match=words):
            backend.sample(given, 1, settings)
    with pytest.raises(ValueError, match="same answer"):
        backend.sample(["a"], 2, SamplingSettings(4))
    with pytest.raises(ValueError, match="at least one row"):
        TransformersBackend(model, tokenizer, 0)
    with pytest.raises(ValueError, match="no generate"):
        TransformersBackend(nn.Linear(2, 2), tokenizer)
    assert list(backend.sample([], 1)) == []


def test_broken_weights_are_an_error_and_not_a_text(word_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(word_tokenizer))
    model = tiny("llama", len(tokenizer))
    backend = TransformersBackend(model, tokenizer, 2)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="not finite"):
        list(backend.sample(["good film"], 1, SamplingSettings(4)))
