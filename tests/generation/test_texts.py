"""Generation: batches equal single prompts, settings are the only settings, and what was trained stands before the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fulgurite.adapters import LoRA, attach
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.records.conversation import Turn
from fulgurite.generation import GenerationSettings, LoadedModel, generate_text, load_for_generation

PROMPTS = [
    "What is 2 + 3?",
    "film",
    "Tell me, in your own words, what the red cat does when it is late and nobody is there to see it.",
    "Write a word, and then another word.",
]
LONG = GenerationSettings(max_new_tokens=24)


@pytest.fixture(scope="module")
def playground() -> LoadedModel:
    return load_for_generation("playground")


@pytest.fixture(scope="module")
def raw() -> LoadedModel:
    """The same without a chat template, so that answers run on to the limit."""
    loaded = load_for_generation("playground")
    loaded.tokenizer.chat_template = None
    return loaded


def likeliest(model: Any, tokenizer: Any, ids: list[int], stops: set[int], count: int) -> list[int]:
    """One token after the other, without a cache and without padding."""
    new: list[int] = []
    while len(new) < count:
        with torch.no_grad():
            best = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
        if best in stops:
            break
        new.append(best)
    return new


def test_chats_stop_at_the_templates_own_end(playground: LoadedModel) -> None:
    model, tokenizer = playground
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end != tokenizer.eos_token_id
    for prompt, answers in zip(PROMPTS, generate_text(model, tokenizer, PROMPTS, LONG), strict=True):
        ids = encode_prompt(tokenizer, [Turn("user", prompt)])
        expected = likeliest(model, tokenizer, ids, {end}, 24)
        assert answers == [tokenizer.decode(expected)]
        assert 0 < len(expected) < 24, "this answer ended by itself"


def test_batches_equal_single_prompts(raw: LoadedModel) -> None:
    together = generate_text(*raw, PROMPTS, LONG)
    for prompt, answers in zip(PROMPTS, together, strict=True):
        assert answers == generate_text(*raw, [prompt], LONG)[0]
        ids = encode_prompt(raw.tokenizer, [Turn("prompt", prompt)])
        new = likeliest(raw.model, raw.tokenizer, ids, {raw.tokenizer.eos_token_id}, 24)
        assert prompt + answers[0] == raw.tokenizer.decode(ids + new, skip_special_tokens=True)
    assert max(len(answers[0]) for answers in together) > 40
    small = GenerationSettings(max_new_tokens=24, batch_size=2)
    assert generate_text(*raw, PROMPTS, small) == together


@pytest.mark.real_data
def test_a_published_model_writes_what_numpy_wrote(real_data: Path) -> None:
    folder = real_data / "models" / "aidreams260K" / "hf_converted"
    golden = json.loads((folder / "golden_greedy.json").read_text(encoding="utf-8"))
    loaded = load_for_generation(str(folder))
    bos = str(loaded.tokenizer.bos_token)
    assert encode_prompt(loaded.tokenizer, [Turn("prompt", bos)])[-1:] == golden["ids"][:1]
    settings = GenerationSettings(max_new_tokens=len(golden["ids"]) - 1)
    written = generate_text(*loaded, [[Turn("prompt", bos)]], settings)[0][0]
    assert written.strip() == golden["text"].strip()


def tiny(kind: str, vocabulary: int) -> Any:
    import transformers

    torch.manual_seed(3)
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
        )
        model: Any = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            eos_token_id=3,
        )
        model = transformers.T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # so that what is read matters to what is written
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_other_architectures(kind: str, word_tokenizer: Path) -> None:
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(word_tokenizer))
    model = tiny(kind, len(tokenizer))
    prompts = ["good film", "the good and the bad of the red film one two three", "a b"]
    settings = GenerationSettings(max_new_tokens=8)
    together = generate_text(model, tokenizer, prompts, settings)
    assert together == [generate_text(model, tokenizer, [prompt], settings)[0] for prompt in prompts]
    assert len({answers[0] for answers in together}) == 3
    if kind == "t5":
        ids = torch.tensor([tokenizer("good film")["input_ids"]])
        with torch.no_grad():
            out = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
        assert together[0] == [tokenizer.decode(out[0], skip_special_tokens=True)]


def test_the_models_own_settings_are_not_mixed_in(raw: LoadedModel) -> None:
    from transformers import GenerationConfig

    expected = generate_text(*raw, PROMPTS[:2], LONG)
    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=4.0,
        no_repeat_ngram_size=1,
        max_length=3,
        eos_token_id=2,
    )
    before, raw.model.generation_config = raw.model.generation_config, own  # type: ignore[assignment]
    try:
        assert generate_text(*raw, PROMPTS[:2], LONG) == expected
        assert raw.model.generation_config is own
        assert own.max_length == 3
    finally:
        raw.model.generation_config = before
    strong = GenerationSettings(max_new_tokens=24, repetition_penalty=4.0)
    assert generate_text(*raw, PROMPTS[:2], strong) != expected


def test_draws_go_by_the_seed_and_leave_the_process_alone(raw: LoadedModel) -> None:
    settings = GenerationSettings(max_new_tokens=12, temperature=1.0, num_samples=3, seed=5)
    torch.manual_seed(0)
    raw.model.train()
    state = torch.random.get_rng_state()
    first = generate_text(*raw, PROMPTS[:2], settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert raw.model.training and all(module.training for module in raw.model.modules())
    raw.model.eval()
    assert [len(answers) for answers in first] == [3, 3] and len(set(first[0])) > 1
    assert generate_text(*raw, PROMPTS[:2], settings) == first
    other = GenerationSettings(max_new_tokens=12, temperature=1.0, num_samples=3, seed=6)
    assert generate_text(*raw, PROMPTS[:2], other) != first
    only_best = GenerationSettings(max_new_tokens=12, temperature=1.0, top_k=1, seed=6)
    assert generate_text(*raw, PROMPTS[:2], only_best) == generate_text(
        *raw, PROMPTS[:2], GenerationSettings(max_new_tokens=12)
    )


def test_what_is_written_as_it_comes_is_the_answer(playground: LoadedModel, raw: LoadedModel) -> None:
    for loaded in (playground, raw):
        pieces: list[str] = []
        found = generate_text(*loaded, PROMPTS[:1], LONG, pieces.append)
        assert "".join(pieces) == found[0][0]
        assert found == generate_text(*loaded, PROMPTS[:1], LONG)
    assert len(pieces) > 1


def test_the_space_that_a_template_puts_before_an_answer_is_taken_off(playground: LoadedModel) -> None:
    from fulgurite.data.encoding.templates import apply_template

    loaded = load_for_generation("playground", template="ultrachat")
    prompt = encode_prompt(loaded.tokenizer, [Turn("user", "Hi")])
    apply_template(loaded.tokenizer, "ultrachat")

    class Says(nn.Module):
        """Writes one sentence, whatever it is asked."""

        generation_config = None
        config = loaded.model.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            assert input_ids[0].tolist() == prompt
            told = loaded.tokenizer(" So it is.<eos>\nUser:", add_special_tokens=False)["input_ids"]
            return torch.cat([input_ids, torch.tensor([told])], 1)

    assert generate_text(Says(), loaded.tokenizer, ["Hi"]) == [["So it is."]]


def test_prompts_that_do_not_fit(playground: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"has \d+ tokens; the model's window holds 512"):
        generate_text(*playground, ["film " * 600])
    ids = len(encode_prompt(playground.tokenizer, [Turn("user", "a " * 240)]))
    assert 200 < ids < 512
    assert generate_text(*playground, ["a " * 240], GenerationSettings(max_new_tokens=600, temperature=1.0, seed=0))
    with pytest.raises(ValueError, match="write was given with 2 prompts"):
        generate_text(*playground, ["a", "b"], write=print)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"num_samples": 2}, "the same answer each time"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GenerationSettings(**options)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[list[str]]]:
    """Folders of an adapter that changes what is written, ours and PEFT's, and what it writes."""
    loaded = load_for_generation("playground")
    adapter = attach(loaded.model, LoRA(rank=4, alpha=8))
    torch.manual_seed(1)
    for branch in adapter.branches.values():
        nn.init.normal_(branch.lora_b, std=0.3)
    loaded.model.eval()
    folder = tmp_path_factory.mktemp("adapted")
    adapter.save(folder / "ours")
    adapter.export_peft(folder / "peft", base_model="playground", task_type="CAUSAL_LM")
    return folder / "ours", folder / "peft", generate_text(*loaded, PROMPTS, LONG)


def test_adapters_are_loaded(adapted: tuple[Path, Path, list[list[str]]], playground: LoadedModel) -> None:
    ours, peft, expected = adapted
    assert generate_text(*playground, PROMPTS, LONG) != expected
    assert generate_text(*load_for_generation("playground", str(ours)), PROMPTS, LONG) == expected
    pytest.importorskip("peft")
    assert generate_text(*load_for_generation(adapter=str(peft)), PROMPTS, LONG) == expected
    with pytest.raises(ValueError, match="no model was given, and the adapter names none"):
        load_for_generation(adapter=str(ours))


def test_the_template_that_lies_with_the_adapter_is_used(adapted: tuple[Path, Path, list[list[str]]]) -> None:
    from fulgurite.data.encoding.templates import apply_template

    ours = adapted[0]
    file = ours / "chat_template.jinja"
    file.write_text("{% for m in messages %}Q {{ m['content'] }}{% endfor %}", encoding="utf-8")
    try:
        tokenizer = load_for_generation("playground", str(ours)).tokenizer
        assert tokenizer.decode(encode_prompt(tokenizer, [Turn("user", "Hi")])) == "Q Hi"
        given = load_for_generation("playground", str(ours), template="ultrachat").tokenizer
        assert "User:" in str(given.chat_template)
    finally:
        file.unlink()
    whole = load_for_generation("playground").tokenizer
    apply_template(whole, "zephyr").save_pretrained(ours)
    assert "<|user|>" in str(load_for_generation("playground", str(ours)).tokenizer.chat_template)


def test_a_model_without_a_language_models_head_is_refused(tmp_path: Path) -> None:
    from fulgurite.data.playground import resolve_backbone
    from fulgurite.models import load_backbone

    model: Any = load_backbone(resolve_backbone("playground"), "classification", num_labels=2).model
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hold no lm_head"):
        load_for_generation(str(tmp_path))


def test_a_long_prompt_does_not_cut_the_answers_of_its_neighbours(raw: LoadedModel) -> None:
    """The window holds 512 tokens: behind the long prompt is room for few, behind the short one for all 100."""
    settings = GenerationSettings(max_new_tokens=100, batch_size=8)
    tokenizer = raw.tokenizer
    long = "the film " * 235
    assert 440 < len(tokenizer(long)["input_ids"]) < 500
    together = generate_text(*raw, [long, "the", long + "is"], settings)
    assert together == [generate_text(*raw, [prompt], settings)[0] for prompt in (long, "the", long + "is")]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for (text,) in together]
    assert lengths[0] < 50 < lengths[1]  # the short one goes on to its own end
