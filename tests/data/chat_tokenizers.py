"""Small tokenizers of the kinds in use, trained here, and chat templates with the habits of published ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fulgurite.data.playground import documents
from fulgurite.data.records.conversation import Turn

MARKS = ("<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# By habit, not by name: these are the ways in which templates differ.
HABITS = {
    "llama3": "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}",
    "llama2": "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ '<<SYS>>' + m['content'] + '<</SYS>>' }}{% endif %}{% endfor %}",
    # Qwen3: thoughts of earlier turns are taken out, and the last answer gets an empty thought if it has none.
    "rewriting": "{% for m in messages %}{% set text = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% if '</think>' in text %}{% set thought = text.split('</think>')[0] + '</think>' %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% else %}{% set thought = '<think>\n\n</think>' %}{% endif %}"
    "{% if loop.last %}{% set text = thought + '\n\n' + text %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # The generation prompt ends with a space, which most tokenizers join with the answer's first word.
    "straddling": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    "endless": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    # DeepSeek-R1: generation begins with an opened thought, which a finished answer does not show.
    "thinking": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
    "{{ m['content'].split('</think>')[-1] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n<think>\n' }}{% endif %}",
}
# Habits under which every answer of a chat stays as it was generated.
STABLE = ("llama3", "llama2")


def _wrap(tokenizer: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=list(MARKS), clean_up_tokenization_spaces=False, **special
    )


@lru_cache
def _byte_level_backend() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>", *MARKS],
        show_progress=False,
    )
    lines = [*documents(seed=0, count=60), "\n\n\n  \n\n    x\n\n  y: a: b:\n\n", "User: hi\nAssistant: yes\n\n"] * 2
    tokenizer.train_from_iterator(lines, trainer)
    return str(tokenizer.to_str())


@lru_cache
def _sentencepiece_backend() -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *MARKS], show_progress=False)
    lines = [line.replace("\n", "") for text in documents(seed=0, count=60) for line in text.split("\n")]
    pieces = [piece for line in lines for piece in line.split(" ") if piece]
    tokenizer.train_from_iterator(pieces, trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]  # bytes belong to it as ordinary tokens; a trainer knows only special ones
    vocabulary.update({f"<0x{value:02X}>": len(vocabulary) + value for value in range(256)})
    return json.dumps(state)


def byte_level() -> Any:
    """As GPT-2's: bytes, offsets without the leading space, eos for everything, no bos before a text."""
    from tokenizers import Tokenizer

    return _wrap(Tokenizer.from_str(_byte_level_backend()), bos_token="<eos>", eos_token="<eos>", pad_token="<eos>")


def sentencepiece() -> Any:
    """As Llama-2's: a space before a text that begins, bytes for what is unknown, bos before every text."""
    from tokenizers import Tokenizer, processors

    backend = Tokenizer.from_str(_sentencepiece_backend())
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return _wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def playground() -> Any:
    """The playground base's, with its own template."""
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    return load_tokenizer("playground")


def real(folder: Path, name: str) -> Any:
    """A published tokenizer, with the marks and the end token that it may lack."""
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

    if name == "gpt2":
        files = folder / "tokenizers" / "gpt2"
        # Version 5 takes vocab and merges, version 4 files.
        try:
            found: Any = GPT2TokenizerFast(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
        except TypeError:
            found = GPT2TokenizerFast(vocab_file=str(files / "vocab.json"), merges_file=str(files / "merges.txt"))
    elif name == "torchtune":
        file = folder / "tokenizers" / "torchtune-tiny" / "tiny_bpe_tokenizer.json"
        found = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|end_of_text|>")
    elif name == "torchtitan":
        found = AutoTokenizer.from_pretrained(folder / "tokenizers" / "torchtitan")
    else:
        found = AutoTokenizer.from_pretrained(folder / "models" / "aidreams260K" / "hf_converted")
    found.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return found


REAL = ("gpt2", "torchtune", "torchtitan", "aidreams260K")
BUILT = {"byte_level": byte_level, "sentencepiece": sentencepiece, "playground": playground}


def unopened(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """The ids of a generation prompt without the <think> at its end."""
    history = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = tokenizer.apply_chat_template(history, add_generation_prompt=True, tokenize=False)
    return tokenizer(text.removesuffix("<think>\n"), add_special_tokens=False)["input_ids"]
