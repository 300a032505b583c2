"""Makes what stands in the playground's base folder: ``python -m fulgurite.data.playground.build tokenizer``.

Verbs: ``tokenizer`` trains the byte-level BPE on playground documents and writes the model's config beside it;
``config`` writes only the config; ``half FOLDER`` takes trained weights (a folder with model.safetensors) over as
float16; ``specialist FOLDER --domain code`` takes an exported adapter over as that domain's specialist, in float16. Every
file is written under a temporary name first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fulgurite.data.playground.generators import DOMAINS, documents
from fulgurite.data.playground.registry import BACKBONES, SPECIALISTS
from fulgurite.whole_files import whole_file

__all__ = [
    "CHAT_TEMPLATE",
    "SPECIAL_TOKENS",
    "main",
    "write_config",
    "write_half",
    "write_specialist",
    "write_tokenizer",
]

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_VOCABULARY = 1024
_LENGTH = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def write_tokenizer(folder: Path, seed: int = 0, count: int = 20_000) -> None:
    """Trains the tokenizer and writes tokenizer.json and tokenizer_config.json.

    One text becomes <bos> text; a pair becomes <bos> first <|end|> second <|end|>.

    Args:
        folder: where to write.
        seed: of the documents.
        count: how many documents to train on.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(seed, count), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <|end|> $B:1 <|end|>:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<|end|>")],
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "additional_special_tokens": list(SPECIAL_TOKENS[3:]),
        "model_max_length": _LENGTH,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }
    _write(folder / "tokenizer.json", tokenizer.to_str(pretty=False).encode())
    _write(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())


def write_config(folder: Path) -> None:
    """Writes config.json: a Llama of four layers, hidden 128, 4 heads on 2 key-value heads, tied embeddings.

    Args:
        folder: where to write.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": _LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": 0.02,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "pad_token_id": SPECIAL_TOKENS.index("<pad>"),
        "bos_token_id": SPECIAL_TOKENS.index("<bos>"),
        "eos_token_id": SPECIAL_TOKENS.index("<eos>"),
        "torch_dtype": "float32",
    }
    _write(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def write_half(source: Path, folder: Path) -> None:
    """Takes trained weights over as float16, without the output layer, which is tied to the embeddings.

    Args:
        source: a folder with model.safetensors of the config written here.
        folder: where to write.
    """
    import torch
    from safetensors.torch import load_file, save

    path = source / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"write_half: {path}; model.safetensors is needed there; save the model first.")
    state = {name: value.to(torch.float16) for name, value in load_file(path).items() if name != "lm_head.weight"}
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"write_half: {broken[0]} of {path} leaves float16; finite values are needed; train it again.")
    _write(folder / "model.safetensors", save(state, metadata={"format": "pt"}))


def write_specialist(source: Path, folder: Path) -> None:
    """Takes an exported adapter over: its weights as float16, its description with the base's name, its chat template.

    Args:
        source: a folder that ``fulgurite export --format adapter`` wrote.
        folder: where to write.
    """
    import torch
    from safetensors.torch import load_file, save
    from transformers import AutoTokenizer

    path = source / "adapter.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"write_specialist: {path}; a folder of `fulgurite export --format adapter` is needed; export the adapter first."
        )
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value for name, value in load_file(path).items()
    }
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"write_specialist: {broken[0]} of {path} leaves float16; train it again with less.")
    description = json.loads((source / "adapter.json").read_text(encoding="utf-8"))
    description["base_model"] = "playground"
    template = AutoTokenizer.from_pretrained(source).chat_template
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "adapter.safetensors", save(state, metadata={"format": "pt"}))
    _write(folder / "adapter.json", (json.dumps(description, indent=2) + "\n").encode())
    _write(folder / "chat_template.jinja", template.encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this file.

    Args:
        arguments: verb and options; None reads the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m fulgurite.data.playground.build", description=main.__doc__)
    parser.add_argument("verb", choices=("tokenizer", "config", "half", "specialist"))
    parser.add_argument(
        "source", nargs="?", type=Path, help="the folder of the trained weights, for half and specialist"
    )
    parser.add_argument("--domain", choices=DOMAINS, help="whose specialist it is")
    parser.add_argument("--folder", type=Path, default=BACKBONES["playground"], help="where to write")
    options = parser.parse_args(arguments)
    if options.verb == "specialist":
        if options.source is None or options.domain is None:
            parser.error("specialist needs the folder of the exported adapter and --domain")
        write_specialist(options.source, SPECIALISTS[f"playground-{options.domain}"])
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.verb == "half":
        if options.source is None:
            parser.error("half needs the folder of the trained weights")
        write_half(options.source, options.folder)
        return
    if options.verb == "tokenizer":
        write_tokenizer(options.folder)
    write_config(options.folder)


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as scratch:
        scratch.write_bytes(content)


if __name__ == "__main__":
    main()
